"""What a seller charges for one kind of request, signed: a buyer who has asked once prices the next request itself.

The seller announces it with a challenge, in the extension `pay-ahead`; the buyer sends it back with a payment that
comes with the first request, in `extra["tariff"]`. Until it expires the seller honours it, whatever its price list
says by then, so a buyer who computes with the same functions is never a coin off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from x402.discount import Step, read_steps, steps_json
from x402.errors import MalformedError, RefusedError
from x402.price import ModelPrice, PriceList, PriceUnit, Rate, check_count, exact
from x402.quote import Order, Quote, quote
from x402.signed_token import content_of, seal, split, unseal

EXTENSION = "pay-ahead"
"""Key of the announcement among the extensions of a challenge."""

_CODE = "invalid_tariff"
_PURPOSE = b"x402-engine tariff 1\n"
_FORMAT = 1
_RATES = ("prompt", "completion", "image", "request")
_LIMITS = ("default_output_tokens", "max_output_tokens", "context_length", "image_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """The price of every request of one `route`, such as `"POST /api/v1/chat/completions"`, until `expires_at` (unix
    second): either `flat`, in whole dollars, or by the price list of one model. `variant` tells requests apart that
    have wishes of their own (`chat_order.variant_of`); `discounts` are those of every quote by it."""

    route: str
    variant: str = ""
    expires_at: int
    flat: Decimal | None = None
    prices: PriceList | None = None
    discounts: tuple[Step, ...] = ()

    def quote(self, order: Order) -> Quote:
        """The price of a request of this tariff's model. Raises as `quote.quote`; `MalformedError` when it is flat."""
        if self.prices is None:
            raise MalformedError(_CODE, "a flat tariff quotes no order")
        return replace(quote(order, self.prices), discounts=self.discounts)

    @property
    def model(self) -> ModelPrice | None:
        """The price of the one model that it is for."""
        return None if self.prices is None else self.prices.models[0]


def sign(tariff: Tariff, *, key: bytes) -> str:
    """The tariff as a token. Raises `MisconfiguredError("weak_quote_key")` for a key of fewer than 16 bytes."""
    content: dict[str, Any] = {"v": _FORMAT, "route": tariff.route, "expires": tariff.expires_at}
    if tariff.variant:
        content["variant"] = tariff.variant
    if tariff.discounts:
        content["discounts"] = steps_json(tariff.discounts)
    if tariff.flat is not None:
        content["flat"] = format(tariff.flat, "f")
    if tariff.prices is not None and (model := tariff.model) is not None:
        content |= {
            "model": model.model,
            "list": tariff.prices.version,
            "fee": format(tariff.prices.fee_percent, "f"),
            "factor": format(model.tokenizer_factor, "f"),
            "rates": {name: [str(rate), rate.unit] for name in _RATES if (rate := getattr(model, name)).value},
            "limits": {name: limit for name in _LIMITS if (limit := getattr(model, name)) is not None},
        }
    return seal(content, key=key, purpose=_PURPOSE)


def read(token: str, *, keys: Sequence[bytes], now: int, route: str) -> Tariff:
    """The tariff of a token that one of our keys signed for this route, while it holds.

    Raises `MalformedError("invalid_tariff")` for what none of them signed, `RefusedError("tariff_expired")` from the
    second of expiry on, `RefusedError("tariff_mismatch")` for another route.
    """
    tariff = _of(unseal(token, keys=keys, purpose=_PURPOSE, code=_CODE))
    if now >= tariff.expires_at:
        raise RefusedError("tariff_expired", "the announced price has expired; ask for a new one")
    if tariff.route != route:
        raise RefusedError("tariff_mismatch", "this price was announced for other requests")
    return tariff


def peek(token: str) -> Tariff:
    """The tariff of a token without checking its signature. Raises `MalformedError("invalid_tariff")`."""
    return _of(content_of(split(token, code=_CODE)[0], code=_CODE))


def _of(content: dict[str, Any]) -> Tariff:
    try:
        if content["v"] != _FORMAT:
            raise ValueError("unknown format")
        expires = check_count("expires", content["expires"])
        route, variant = str(content["route"]), str(content.get("variant", ""))
        steps = read_steps(content["discounts"]) if "discounts" in content else ()
        if "flat" in content:
            return Tariff(route=route, expires_at=expires, flat=exact(content["flat"]), discounts=steps)
        return Tariff(route=route, variant=variant, expires_at=expires, prices=_prices(content), discounts=steps)
    except (ValueError, TypeError, KeyError, ArithmeticError, MalformedError) as error:
        raise MalformedError(_CODE, f"the tariff cannot be read: {str(error)[:120]}") from error


def _prices(content: dict[str, Any]) -> PriceList:
    stated = content["rates"].items()
    rates: dict[str, Any] = {name: Rate.of(str(value), PriceUnit(unit)) for name, (value, unit) in stated}
    limits: dict[str, Any] = {name: content["limits"][name] for name in _LIMITS if name in content["limits"]}
    if not set(rates) <= set(_RATES):
        raise ValueError("unknown rates")
    model = ModelPrice(model=content["model"], tokenizer_factor=exact(content["factor"]), **rates, **limits)
    return PriceList(content["list"], (model,), exact(content["fee"]))

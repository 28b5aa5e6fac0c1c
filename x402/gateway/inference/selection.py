"""Which provider is asked first, which next, and which never: decided from prices, health and the request's wishes.

The cheapest healthy providers share the requests, each with a weight of 1/price² (aimo row 69); the others stand in by
price, and those that failed in the last half minute come last. `sort` or `order` in the request turn the sharing off.
Pure: chance is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from x402.errors import MalformedError
from x402.gateway.inference.catalogue import Model, Provider
from x402.gateway.inference.health import Health
from x402.gateway.problem import ApiProblem
from x402.price import ModelPrice, PriceUnit, Rate

Dice = Callable[[int], int]
"""A whole number from 0 up to, and without, its argument; each is as likely."""

REGION = "X-Preferred-Region"
"""The header that names the region whose providers come first."""

SHARING_FACTOR = 3
"""Who costs more than so many times the cheapest only stands in."""

_LIST_LIMIT = 32
_TEXT_LIMIT = 128
_FINE = 10**6
_PRICES = {"prompt": PriceUnit.PER_1M, "completion": PriceUnit.PER_1M, "image": PriceUnit.EACH,
           "request": PriceUnit.EACH}  # fmt: skip


class Sort(StrEnum):
    """By what a request wants its providers sorted."""

    PRICE = "price"
    THROUGHPUT = "throughput"
    LATENCY = "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a request says about its providers. `regions` and `max_price` exclude; `preferred_region` only goes first.

    `max_price` is in dollars per million tokens, per image or per request.
    """

    sort: Sort | None = None
    order: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    regions: tuple[str, ...] = ()
    preferred_region: str = ""
    max_price: Mapping[str, Rate] = field(default_factory=dict)
    cache: bool = True
    """Whether an answer that was given before will do, where the operator keeps any."""


NO_WISHES = Wishes()


def read_wishes(members: Mapping[str, Any], *, preferred_region: str = "") -> Wishes:
    """The wishes in a request: `sort` at the top or inside `provider`, the rest inside it (aimo row 68).

    Raises `ApiProblem` 400 that names the member in the wrong. Unknown members of `provider` are left alone.
    """
    provider = members.get("provider") or {}
    if not isinstance(provider, dict):
        raise _wrong("provider", "an object")
    stated = [value for value in (members.get("sort"), provider.get("sort")) if value is not None]
    if any(value not in list(Sort) for value in stated) or len(set(stated)) > 1:
        raise _wrong("sort", f"one of {', '.join(Sort)}, stated once")
    fallbacks, cache = provider.get("allow_fallbacks", True), provider.get("cache", True)
    if not isinstance(fallbacks, bool) or not isinstance(cache, bool):
        raise _wrong("provider.allow_fallbacks" if isinstance(cache, bool) else "provider.cache", "true or false")
    return Wishes(
        sort=Sort(stated[0]) if stated else None,
        order=_texts(provider, "order"),
        allow_fallbacks=fallbacks,
        regions=tuple(region.lower() for region in _texts(provider, "regions")),
        preferred_region=preferred_region.strip().lower()[:_TEXT_LIMIT],
        max_price=_max_price(provider.get("max_price")),
        cache=cache,
    )


def eligible(model: Model, wishes: Wishes) -> Model:
    """The model with those providers that the wishes allow, priced for them alone.

    Raises `ApiProblem`: 400 for a provider that the model does not have, 404 when nobody is left.
    """
    for slug in wishes.order:
        if not any(provider.is_called(slug) for provider in model.providers):
            known = [provider.id for provider in model.providers]
            raise ApiProblem(
                400,
                "unknown_provider",
                f"provider.order: {slug[:80]!r} does not serve {model.id}; it has {', '.join(known)}",
                kind="invalid_request_error",
                param="provider.order",
                details={"suggestions": known},
            )
    able = [provider for provider in model.providers if _fits(provider, wishes)]
    if wishes.order and not wishes.allow_fallbacks:
        able = [provider for provider in able if any(provider.is_called(slug) for slug in wishes.order)]
    if not able:
        raise ApiProblem(
            404,
            "no_provider_fits",
            f"no provider of {model.id} is in the wanted regions at the wanted price",
            kind="invalid_request_error",
            param="provider",
            details={"providers": [provider.id for provider in model.providers]},
        )
    return model.narrowed(able)


def line_up(providers: Sequence[Provider], wishes: Wishes, health: Health, dice: Dice) -> list[Provider]:
    """The providers in the order in which they are asked; the first alone when the request allows no stand-in."""
    by_price = sorted(providers, key=lambda one: (cost(one.price), one.id))
    well = [one for one in by_price if not health.is_out(one.endpoint)]
    ill = [one for one in by_price if health.is_out(one.endpoint)]
    if wishes.order or wishes.sort:
        line = _sorted(well, wishes.sort, health) + _sorted(ill, wishes.sort, health)
        line = _listed_first(line, wishes.order)
    else:
        line = _shared(well, wishes.preferred_region, dice) + ill
    if wishes.preferred_region and not wishes.order:
        line.sort(key=lambda one: (health.is_out(one.endpoint), wishes.preferred_region not in one.regions))
    return line if wishes.allow_fallbacks or (wishes.order and len(wishes.order) > 1) else line[:1]


def cost(price: ModelPrice) -> Decimal:
    """What a thousand tokens in and out, an image and a request come to: one number to compare prices by."""
    return 1000 * (price.prompt.atomic + price.completion.atomic) + price.image.atomic + price.request.atomic


def _shared(well: Sequence[Provider], region: str, dice: Dice) -> list[Provider]:
    """One provider by lot among the cheapest, weighted with 1/price², and then the others by price."""
    near = [one for one in well if region in one.regions] if region else []
    pool = [one for one in (near or well) if one.weight > 0]
    if not pool:
        return list(well)
    least = cost(pool[0].price)
    sharing = [one for one in pool if cost(one.price) <= SHARING_FACTOR * least]
    # Whole numbers: (least / price)² in millionths, times what the operator says.
    weights = [one.weight * (int(_FINE * (least / cost(one.price)) ** 2) if least else _FINE) for one in sharing]
    first = sharing[_drawn(weights, dice)]
    return [first, *(other for other in well if other is not first)]


def _drawn(weights: Sequence[int], dice: Dice) -> int:
    """A place in the list, each as likely as its weight says."""
    left = dice(sum(weights))
    for place, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return place
    return 0


def _sorted(providers: Sequence[Provider], sort: Sort | None, health: Health) -> list[Provider]:
    """By the wanted measure; who was never measured comes after those who were, by price."""
    if sort is Sort.THROUGHPUT:
        return sorted(providers, key=lambda one: -(health.throughput(one.endpoint) or 0))
    if sort is Sort.LATENCY:
        return sorted(providers, key=lambda one: _or_last(health.latency(one.endpoint)))
    return list(providers)


def _or_last(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds


def _listed_first(line: Sequence[Provider], order: Sequence[str]) -> list[Provider]:
    listed = [one for slug in order for one in line if one.is_called(slug)]
    return list({one.endpoint: one for one in (*listed, *line)}.values())


def _fits(provider: Provider, wishes: Wishes) -> bool:
    if wishes.regions and not set(wishes.regions) & set(provider.regions):
        return False
    return all(getattr(provider.price, name).atomic <= limit.atomic for name, limit in wishes.max_price.items())


def _texts(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = table.get(name) or []
    fits = isinstance(value, list) and len(value) <= _LIST_LIMIT
    if not fits or not all(isinstance(item, str) and 0 < len(item) <= _TEXT_LIMIT for item in value):
        raise _wrong(f"provider.{name}", f"a list of at most {_LIST_LIMIT} texts")
    return tuple(value)


def _max_price(stated: Any) -> Mapping[str, Rate]:
    words = f"an object with {', '.join(_PRICES)}, each a plain decimal number of dollars"
    if stated is None:
        return {}
    if not isinstance(stated, dict) or not stated.keys() <= _PRICES.keys():
        raise _wrong("provider.max_price", words)
    try:
        # A JSON number has been read as a float by now; its shortest decimal text is what was written.
        return {
            name: Rate.of(repr(value) if isinstance(value, float) else value, _PRICES[name])
            for name, value in stated.items()
        }
    except (MalformedError, TypeError):
        raise _wrong("provider.max_price", words) from None


def _wrong(param: str, wanted: str) -> ApiProblem:
    message = f"{param}: {wanted} is required"
    return ApiProblem(400, "invalid_value", message, kind="invalid_request_error", param=param)

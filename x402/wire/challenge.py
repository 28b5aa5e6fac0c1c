"""The payment-challenge parser: HTTP 402 → `Challenge`, whatever dialect it was written in.

Understands the v2 header, the v2 body, the v1 body, AiMo's reduced v1 (no `scheme`, `resource` or `extra`) and
mixtures of them. An offer that cannot be read does not spoil the others: it is kept in `unreadable` with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo

from x402.errors import MalformedError
from x402.money import parse_atomic
from x402.wire import v1
from x402.wire.headers import PAYMENT_REQUIRED, Pairs, decode_header, encode_header, only
from x402.wire.strict import BODY_LIMIT, WireModel, parse_json, parse_object, read_model, require_object

CODE = "invalid_payment_required"
OFFER_LIMIT = 64
MESSAGE_LIMIT = 500

_BALANCE = re.compile(r"balance|credit|quota|escrow|deposit|insufficient[ _-]funds|top[ _-]?up", re.IGNORECASE)
"""What sellers call a prepaid account that has run dry, in the error's code or, when it has none, in its words."""


def _atomic(value: Any, info: ValidationInfo) -> int:
    try:
        return parse_atomic(str(value) if type(value) is int and not info.context else value)
    except MalformedError as error:
        raise MalformedError(error.code, f"{info.field_name}: {error.message}") from error


def _atomic_text(value: str, info: ValidationInfo) -> str:
    return str(_atomic(value, info))


def _absent_is_empty(value: Any) -> Any:
    return {} if value is None else value


Atomic = Annotated[int, BeforeValidator(_atomic), PlainSerializer(str, return_type=str)]
"""An atomic amount: a canonical decimal string on the wire, an int inside."""

JsonObject = Annotated[dict[str, Any], BeforeValidator(_absent_is_empty)]
AtomicText = Annotated[str, AfterValidator(_atomic_text)]
"""The same amount where only its text matters."""

Text = Annotated[str, Field(min_length=1, max_length=512)]
Version = Annotated[int, Field(alias="x402Version", ge=1, le=2)]


class Resource(WireModel):
    """What is sold (x402 v2 spec, ResourceInfo)."""

    url: Annotated[str, Field(max_length=4096)]
    description: str | None = None
    mime_type: str | None = None
    service_name: str | None = None
    tags: list[str] | None = None
    icon_url: str | None = None


class Requirement(WireModel):
    """One offer: pay `amount` atomic units of `asset` to `pay_to` (x402 v2 spec, PaymentRequirements).

    `network` is CAIP-2, `max_timeout_seconds` bounds how long a signature may live, `extra` belongs to the scheme.
    """

    scheme: Text
    network: Text
    amount: Atomic
    asset: Text
    pay_to: Text
    max_timeout_seconds: Annotated[int, Field(gt=0, le=10**12)]
    extra: JsonObject = Field(default_factory=dict)


class Unreadable(WireModel):
    """An offer that could not be read, by its position in the challenge."""

    index: int
    reason: str


class Challenge(WireModel):
    """A 402 that means "pay now" (x402 v2 spec, PaymentRequired). `version` is the dialect it was heard in."""

    version: Version = 2
    error: str | None = None
    resource: Resource | None = None
    accepts: tuple[Requirement, ...] = ()
    extensions: JsonObject = Field(default_factory=dict)
    unreadable: tuple[Unreadable, ...] = Field(default=(), exclude=True)

    def as_json(self) -> dict[str, Any]:
        """The v2 object."""
        body = super().as_json() | {"x402Version": 2}
        if not self.extensions:
            del body["extensions"]
        return body

    def as_header(self) -> str:
        """The value of `PAYMENT-REQUIRED`."""
        return encode_header(self.as_json())

    def as_v1(self) -> dict[str, Any]:
        """The same challenge as a v1 body, without the offers that v1 cannot say: its clients refuse the whole list
        for one network or scheme that they do not know (fault F14)."""
        return v1.challenge_out(self.as_json())


@dataclass(frozen=True, slots=True)
class BalanceEmpty:
    """A 402 that means "your prepaid balance is empty": nothing to sign, something to top up (aimo rows 47, 55)."""

    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


def read_challenge(headers: Pairs, body: bytes = b"", *, prefer: int | None = None) -> Challenge | BalanceEmpty:
    """Read a 402 response by its content, never by its status.

    The `PAYMENT-REQUIRED` header wins, unless `prefer` is 1 and the body says the same in x402 v1; else a body with
    `accepts` is a challenge, and a body without it whose error names a balance is an empty one. Raises
    `MalformedError("invalid_payment_required")` for everything else; what the seller said is then in its details, as
    `sellerCode` and `sellerMessage`.
    """
    header = only(headers, PAYMENT_REQUIRED, code=CODE)
    if header is not None and not (prefer == 1 and _is_v1(body)):
        return parse_challenge(decode_header(header, code=CODE))
    if not body:
        raise MalformedError(CODE, "a 402 without a PAYMENT-REQUIRED header or a body explains nothing")
    value = parse_json(body, limit=BODY_LIMIT, code=CODE)
    if not isinstance(value, dict):
        raise MalformedError(CODE, "the 402 body is not a JSON object")
    if "accepts" in value:
        return parse_challenge(value)
    return _balance_empty(value)


def parse_challenge(value: object) -> Challenge:
    """A challenge from its JSON object, v1 or v2; raises `MalformedError("invalid_payment_required")`."""
    version, offers, common = v1.challenge_in(require_object(value, code=CODE), code=CODE)
    if len(offers) > OFFER_LIMIT:
        raise MalformedError(CODE, f"more than {OFFER_LIMIT} offers")
    accepts: list[Requirement] = []
    unreadable: list[Unreadable] = []
    for index, offer in enumerate(offers):
        try:
            accepts.append(read_model(Requirement, v1.requirement_in(offer), code=CODE))
        except MalformedError as error:
            unreadable.append(Unreadable(index=index, reason=error.message))
    shell = read_model(Challenge, common, code=CODE)
    return shell.model_copy(update={"version": version, "accepts": tuple(accepts), "unreadable": tuple(unreadable)})


def _is_v1(body: bytes) -> bool:
    try:
        value = parse_object(body, limit=BODY_LIMIT, code=CODE)
    except MalformedError:
        return False
    return value.get("x402Version") == 1 and bool(value.get("accepts"))


def _balance_empty(value: Mapping[str, Any]) -> BalanceEmpty:
    error = value.get("error")
    said = error if isinstance(error, dict) else {"message": error}
    code, words = said.get("type") or said.get("code"), said.get("message")
    code = code[:MESSAGE_LIMIT] if isinstance(code, str) else ""
    message = words[:MESSAGE_LIMIT] if isinstance(words, str) else ""
    if _BALANCE.search(code or message) is None:
        # Such a body may refuse the payment that was just presented (aimo row 54): nothing to top up.
        reason = ": ".join(part for part in (code, message) if part) or "it gives no reason"
        raise MalformedError(
            CODE,
            f"a 402 with neither an offer nor an empty balance: {reason}",
            details={"sellerCode": code, "sellerMessage": message},
        )
    details = said.get("details")
    return BalanceEmpty(
        code or "insufficient_balance",
        message or "the prepaid balance is empty",
        details if isinstance(details, dict) else {},
    )

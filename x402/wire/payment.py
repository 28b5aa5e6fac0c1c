"""The payment that a client presents: `PAYMENT-SIGNATURE` (v2) or `X-PAYMENT` (v1) → `Payment`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

from pydantic import Field

from x402.errors import MalformedError
from x402.wire import v1
from x402.wire.challenge import JsonObject, Requirement, Resource, Text, Version
from x402.wire.headers import PAYMENT_SIGNATURE, X_PAYMENT, Pairs, decode_header, encode_header, only
from x402.wire.strict import WireModel, dump_json, dump_model, read_model, require_object

CODE = "invalid_payload"
_NAMED_IN_OFFER = frozenset({"scheme", "network"})
"""What a v2 payment says in the offer that it takes, and nowhere else."""


class Payment(WireModel):
    """A signed payment (x402 v2 spec, PaymentPayload).

    Everything here except the signed bytes inside `payload` is the sender's claim and nothing more (fault B03).
    `accepted` is None for v1, which does not name the offer it takes.
    """

    version: Version = 2
    scheme: Text
    network: Text
    payload: Annotated[dict[str, Any], Field(min_length=1, repr=False)]
    accepted: Requirement | None = None
    resource: Resource | None = None
    extensions: JsonObject = Field(default_factory=dict)

    @classmethod
    def of(cls, accepted: Requirement, payload: dict[str, Any], **members: Any) -> Payment:
        """A v2 payment for one offer."""
        return cls(scheme=accepted.scheme, network=accepted.network, payload=payload, accepted=accepted, **members)

    def as_json(self) -> dict[str, Any]:
        """The object as it travels, in the version that this payment speaks."""
        body = super().as_json()
        if self.version == 1:
            return v1.payment_out(body)
        body = {name: member for name, member in body.items() if name not in _NAMED_IN_OFFER}
        if not self.extensions:
            body.pop("extensions", None)
        return body

    def as_text(self) -> str:
        """The same as compact ASCII JSON."""
        if self.version == 1:
            return dump_json(self.as_json())
        return dump_model(self, without=_NAMED_IN_OFFER if self.extensions else _NAMED_IN_OFFER | {"extensions"})

    def __getstate__(self) -> NoReturn:
        """A signed payment is worth its amount to whoever has its bytes, so none is pickled (fault G09)."""
        raise TypeError("a payment is never pickled")

    @property
    def header_name(self) -> str:
        """The header that carries this payment."""
        return X_PAYMENT if self.version == 1 else PAYMENT_SIGNATURE

    def as_header(self) -> str:
        """The value of `header_name`."""
        return encode_header(self.as_json())


def read_payment(headers: Pairs) -> Payment | None:
    """The payment in a request's headers, or None when there is none.

    Raises `MalformedError` when a payment header is unreadable, repeated, or when both versions were sent: a payment
    is either understood whole or refused, and never treated as absent (x402 v2 spec; fault F06).
    """
    pairs = list(headers)
    new, old = only(pairs, PAYMENT_SIGNATURE), only(pairs, X_PAYMENT)
    if new is not None and old is not None:
        raise MalformedError(CODE, f"send {PAYMENT_SIGNATURE} or {X_PAYMENT}, not both")
    if new is not None:
        return parse_payment(decode_header(new, code=CODE), version=2)
    if old is not None:
        return parse_payment(decode_header(old, code=CODE), version=1)
    return None


def parse_payment(value: object, *, version: int | None = None) -> Payment:
    """A payment from its JSON object. `version` is what its envelope promises; a contradiction is refused (F14)."""
    message = require_object(value, code=CODE)
    stated = v1.version_of(message, code=CODE, default=version or 2)
    if version is not None and stated != version:
        raise MalformedError("invalid_x402_version", f"x402Version {stated} where version {version} is spoken")
    if stated == 1:
        return read_model(Payment, v1.payment_in(message) | {"x402Version": 1}, code=CODE)
    accepted = message.get("accepted")
    if not isinstance(accepted, Mapping):
        raise MalformedError(CODE, "accepted: the offer that is being paid is required")
    try:
        offer = v1.requirement_in(accepted)
    except MalformedError as error:
        raise MalformedError(CODE, f"accepted: {error.message}") from error
    members = {name: message.get(name) for name in ("payload", "resource", "extensions")}
    return read_model(
        Payment,
        members | {"x402Version": 2, "accepted": offer, "scheme": offer.get("scheme"), "network": offer.get("network")},
        code=CODE,
    )

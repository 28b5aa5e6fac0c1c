"""What gateway and facilitator say to each other, and the one interface behind which a facilitator stands."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import Field

from x402 import networks
from x402.errors import MalformedError
from x402.money import parse_atomic
from x402.wire import v1
from x402.wire.challenge import JsonObject, Requirement, Resource, Text, Version
from x402.wire.payment import Payment, parse_payment
from x402.wire.receipt import Receipt
from x402.wire.strict import WireModel, dump_json, dump_model, read_model, require_object

CODE = "invalid_verification"


class Facilitation(WireModel):
    """The body of `/verify` and `/settle`: a payment, and the requirement that the seller computed for it."""

    payment: Payment
    requirement: Requirement

    def as_json(self) -> dict[str, Any]:
        """The object as it travels, in the version of the payment."""
        requirement = self.requirement.as_json()
        if self.payment.version == 1:
            resource = self.payment.resource.as_json() if self.payment.resource else {}
            requirement = v1.requirement_out(requirement, resource)
        return {
            "x402Version": self.payment.version,
            "paymentPayload": self.payment.as_json(),
            "paymentRequirements": requirement,
        }

    def as_text(self) -> str:
        """The same as compact ASCII JSON."""
        if self.payment.version == 1:
            return dump_json(self.as_json())
        payment, requirement = self.payment.as_text(), dump_model(self.requirement)
        return f'{{"x402Version":2,"paymentPayload":{payment},"paymentRequirements":{requirement}}}'


def parse_facilitation(value: object) -> Facilitation:
    """A verify or settle body, v1 or v2. Raises `MalformedError` that names the member in the wrong."""
    body = require_object(value, code="invalid_payload")
    payload = require_object(body.get("paymentPayload"), code="invalid_payload", name="paymentPayload")
    requirements = require_object(
        body.get("paymentRequirements"), code="invalid_payment_requirements", name="paymentRequirements"
    )
    stated = v1.version_of(body, code="invalid_payload", default=v1.version_of(payload, code="invalid_payload"))
    if payload.get("x402Version") is None:
        payload = {**payload, "x402Version": stated}
    payment = parse_payment(payload, version=stated)
    if stated == 1:
        # A v1 payment says nothing about what it buys; the seller's offer beside it does.
        resource = v1.resource_in(requirements)
        payment = payment.model_copy(
            update={"resource": read_model(Resource, resource, code="invalid_payment_requirements")} if resource else {}
        )
    requirement = read_model(Requirement, v1.requirement_in(requirements), code="invalid_payment_requirements")
    return Facilitation(payment=payment, requirement=requirement)


class Verification(WireModel):
    """Whether a payment would settle now (x402 v2 spec, VerifyResponse)."""

    is_valid: bool
    invalid_reason: str | None = None
    invalid_message: str | None = None
    payer: str | None = None
    extra: JsonObject = Field(default_factory=dict)

    @classmethod
    def valid(cls, payer: str, *, balance: int | None = None) -> Verification:
        """It would settle. `balance` is what the payer holds, atomic: the bound of what it may leave open (A08)."""
        extra: JsonObject = {} if balance is None else {"balance": str(balance)}
        return cls(is_valid=True, payer=payer, extra=extra)

    @property
    def balance(self) -> int | None:
        """What the payer holds in atomic units, as far as the facilitator says; junk says nothing."""
        try:
            return parse_atomic(self.extra.get("balance"))
        except MalformedError:
            return None

    @classmethod
    def invalid(cls, reason: str, message: str, payer: str | None = None) -> Verification:
        """It breaks a rule; `reason` is canonical, `message` is for people."""
        return cls(is_valid=False, invalid_reason=reason, invalid_message=message[:500], payer=payer)

    def as_json(self) -> dict[str, Any]:
        """The object as it travels."""
        body = super().as_json()
        if not self.extra:
            body.pop("extra", None)
        return body


def parse_verification(value: object) -> Verification:
    """A verify answer; without a JSON boolean `isValid` it is a `MalformedError("invalid_verification")` (A03).

    A "valid" that comes with a reason for refusal contradicts itself, and doubt refuses.
    """
    verification = read_model(Verification, value, code=CODE)
    if verification.is_valid and verification.invalid_reason:
        return verification.model_copy(update={"is_valid": False})
    return verification


class Kind(WireModel):
    """One thing a facilitator can settle."""

    version: Version = 2
    scheme: Text
    network: Text
    extra: JsonObject = Field(default_factory=dict)


class Supported(WireModel):
    """The answer of `GET /supported`."""

    kinds: tuple[Kind, ...] = ()
    extensions: tuple[str, ...] = ()
    signers: dict[str, list[str]] = Field(default_factory=dict)

    def find(self, scheme: str, network: str) -> Kind | None:
        """The kind for a scheme on a CAIP-2 network, or None; v2 entries come before v1 entries."""
        for kind in sorted(self.kinds, key=lambda kind: -kind.version):
            if kind.scheme == scheme and networks.matches(networks.to_caip2(kind.network), network):
                return kind
        return None

    def as_json(self) -> dict[str, Any]:
        """The object as it travels; kinds without extras leave the member out."""
        body = super().as_json()
        for kind in body["kinds"]:
            if not kind["extra"]:
                del kind["extra"]
        return body


def parse_supported(value: object) -> Supported:
    """A supported answer; v1 facilitators send `kinds` alone. Raises `MalformedError("invalid_supported")`.

    A kind that cannot be read, such as one of a later protocol version, does not spoil the others.
    """
    code = "invalid_supported"
    message = require_object(value, code=code)
    listed = message.get("kinds")
    if not isinstance(listed, list):
        raise MalformedError(code, "kinds: a list is required")
    kinds: list[Kind] = []
    unreadable: list[MalformedError] = []
    for kind in listed:
        try:
            kinds.append(read_model(Kind, _without_nulls(kind), code=code))
        except MalformedError as error:
            unreadable.append(error)
    if unreadable and not kinds:
        raise unreadable[0]
    rest = {name: message[name] for name in ("extensions", "signers") if message.get(name) is not None}
    if isinstance(rest.get("extensions"), list):
        rest["extensions"] = tuple(rest["extensions"])
    return read_model(Supported, rest, code=code).model_copy(update={"kinds": tuple(kinds)})


def _without_nulls(value: Any) -> Any:
    return {name: member for name, member in value.items() if member is not None} if isinstance(value, dict) else value


class Facilitator(Protocol):
    """The third party, in process or remote. All three raise `UnavailableError` when it can't be reached.

    `settle` is idempotent: the same payment gets the same answer as often as it is asked (design D6). It never
    raises once money may have moved: doubt is a `Receipt` whose outcome is pending.
    """

    async def verify(self, payment: Payment, requirement: Requirement) -> Verification: ...

    async def settle(self, payment: Payment, requirement: Requirement) -> Receipt: ...

    async def supported(self) -> Supported: ...

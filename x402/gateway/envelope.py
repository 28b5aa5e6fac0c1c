"""One error, spelled as its reader's profile spells it (aimo rows 44-55).

AiMo's documents show seven shapes of an error, and each of its systems reads one of them. Inside there is one error;
here it gets its shape. The members `mender` and `moneyMoved` go with all of them: no shape forbids more members.

    E1  {"success": false, "error": {"code", "message", "details"}, "meta": {"request_id"}}     legacy
    E2  {"error": {"code", "message"}}                                                          beta, and our own
    E3  a status alone                                                                          every shape has it
    E4  {"error": {"message", "type", "code": <status>, "details"}}                             devnet
    E5  {"x402Version": 1, "error", "accepts"}                                                  a 402 that can be paid
    E6  {"x402Version": 2, "error", "resource", "accepts", "extensions"}                        the same, and its header
    E7  text                                                                                    devnet, if asked for

A 402 is never ambiguous: it has `accepts` when it can be paid, and an error that says `insufficient_balance` (legacy:
`insufficient_credits`) when a prepaid balance is empty; both when both are so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from x402.errors import RefusedError, X402Error
from x402.gateway.problem import EMPTY_BALANCE, ApiProblem, error_body, status_of
from x402.gateway.sale import HeaderPairs
from x402.wire.challenge import Challenge
from x402.wire.headers import PAYMENT_HEADERS, X_PAYMENT


class Dialect(StrEnum):
    """The shapes that one profile reads."""

    OPENAI = "openai"
    """E2 with OpenAI's members; a 402 is E5 in the body and E6 in the header."""
    BETA = "beta"
    """E2; a 402 is E6 in body and header."""
    DEVNET = "devnet"
    """E4; a 402 is E5 with AiMo's type beside it (aimo row 54), and E6 in the header."""
    KEY = "key"
    """E4; a 402 is E4 and E5 in one object, and E6 in the header."""
    LEGACY = "legacy"
    """E1; a 402 is E1 and E5 in one object, and E6 in the header."""
    TEXT = "text"
    """E7: the words alone; a 402 has its offers in the header."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The shape of one answer. `request_id` goes where the shape has a place for it."""

    dialect: Dialect = Dialect.OPENAI
    request_id: str = ""

    def error(self, error: X402Error) -> Mapping[str, Any] | str:
        """The body of an error: a JSON object, or a text."""
        match self.dialect:
            case Dialect.TEXT:
                return f"{error.code}: {error.message}"
            case Dialect.LEGACY:
                return self._wrapped(error)
            case Dialect.DEVNET | Dialect.KEY:
                return {"error": _typed(error)}
            case Dialect.BETA:
                return {"error": error.as_json()}
            case Dialect.OPENAI:
                return error_body(error)

    def challenge(self, challenge: Challenge, refusal: RefusedError | None = None) -> Mapping[str, Any] | str:
        """The body of a 402 that can be paid; after a refusal it also says why in words, who can mend it, and whether
        money moved (design promise 7)."""
        match self.dialect:
            case Dialect.TEXT:
                return str(refusal) if refusal is not None else "payment_required: see the header PAYMENT-REQUIRED"
            case Dialect.BETA:
                return _beside(challenge.as_json(), refusal)
            case Dialect.LEGACY | Dialect.KEY:
                return {**challenge.as_v1(), **_object(self.error(refusal or _asked(challenge)))}
            case Dialect.DEVNET:
                body = _beside(_v1(challenge, refusal), refusal)
                return body if refusal is None else {**body, "type": payment_type(refusal)}
            case Dialect.OPENAI:
                return _beside(_v1(challenge, refusal), refusal)

    def _wrapped(self, error: X402Error) -> dict[str, Any]:
        body = {
            "code": seed_code(error),
            "message": error.message,
            "details": _sentence(error),
            "reason": error.code,
            "mender": str(error.mender),
            "moneyMoved": str(error.moved),
        }
        return {"success": False, "error": body, "meta": {"request_id": self.request_id}}


EnvelopeRule = Callable[[str, HeaderPairs], Envelope]
"""From a request's target and headers to the shape of what it is answered."""


def plain_envelope(target: str, headers: HeaderPairs) -> Envelope:
    """The shape where nobody says otherwise."""
    return Envelope()


def seed_code(error: X402Error) -> str:
    """An error in the code list of the seeds (aimo row 51); `payment_required` is added for a 402 that can be paid."""
    status = status_of(error)
    if status == 402:
        return "insufficient_credits" if error.code in EMPTY_BALANCE else "payment_required"
    if status == 404:
        return "model_not_found" if error.code.startswith("model_") else "invalid_request"
    if status in (401, 403):
        return "authentication_failed"
    if status in (502, 503, 504):
        return "model_unavailable"
    if status == 429:
        return "rate_limit_exceeded"
    return "internal_error" if status >= 500 else "invalid_request"


def payment_type(refusal: RefusedError) -> str:
    """AiMo's type of a payment that was refused (aimo row 54)."""
    if refusal.code in EMPTY_BALANCE:
        return "insufficient_balance"
    if "expired" in refusal.code or "valid_before" in refusal.code:
        return "payment_expired"
    return "insufficient_payment" if "received" in refusal.details else "payment_verification_failed"


def _typed(error: X402Error) -> dict[str, Any]:
    """E4: the machine's word is `type`, and `code` is the status. A refused payment has one of AiMo's types, and our
    own code beside it."""
    body = error.as_json()
    kind = payment_type(error) if isinstance(error, RefusedError) and status_of(error) == 402 else error.code
    body |= {"type": kind, "code": status_of(error), "reason": error.code}
    if isinstance(error, ApiProblem) and error.param:
        body["param"] = error.param
    return body


def _sentence(error: X402Error) -> str:
    """E1 has a text where others have an object."""
    if isinstance(error, ApiProblem) and error.param:
        return f"In the wrong: {error.param}"
    return "; ".join(f"{name}: {value}" for name, value in error.details.items())


def _asked(challenge: Challenge) -> ApiProblem:
    return ApiProblem(402, "payment_required", challenge.error or "payment is required", kind="payment_required")


def _v1(challenge: Challenge, refusal: RefusedError | None) -> dict[str, Any]:
    body = challenge.as_v1()
    if refusal is None and challenge.error is not None:
        body["error"] = challenge.error.replace(PAYMENT_HEADERS[0], X_PAYMENT)
    return body


def _beside(body: dict[str, Any], refusal: RefusedError | None) -> dict[str, Any]:
    told = {} if refusal is None else refusal.as_json()
    return body | {name: value for name, value in told.items() if name not in body}


def _object(body: Mapping[str, Any] | str) -> Mapping[str, Any]:
    return body if isinstance(body, Mapping) else {"error": body}

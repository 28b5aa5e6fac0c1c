"""Everything that can go wrong, as one tree.

    X402Error
    ├── MalformedError       400   what arrived cannot be read; nothing was done with it
    ├── UnidentifiedError    401   nobody knows who asks; nothing was looked at
    ├── DeniedError          403   who asks is known, and may not have this; nothing was looked at
    ├── RefusedError         402   a readable payment that breaks a rule; no money moved
    │   └── LimitedError     429   a budget is used up; the same may pass later
    ├── ConflictError        409   this payment already belongs to another request, or is still at work
    ├── PendingError         503   a transaction may still land; present the very same payment again
    ├── UnavailableError     503   a chain, facilitator, ledger or model is out of reach; nothing was sent
    ├── MisconfiguredError   500   the operator's settings contradict themselves
    ├── DeclinedError              our own policy refused to sign (client side only)
    ├── UnpaidError          402   the seller refused a payment that we presented (client side only)
    └── ApiError                   the seller answered with an error of its own (client side only)

Each error says four things: a machine `code`, words for a person, `mender` (who can fix it), and
`moved` (whether money moved). A timeout is never a refusal: only `RefusedError` may lead to a new
challenge (design promise 1, faults A09).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Moved(StrEnum):
    """Whether money left the payer's wallet, as far as the speaker can know."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class Mender(StrEnum):
    """Who can put it right."""

    CALLER = "caller"
    PAYER = "payer"
    SELLER = "seller"
    FACILITATOR = "facilitator"
    OPERATOR = "operator"
    NOBODY = "nobody: wait and send the same again"


class X402Error(Exception):
    """Root of the tree; never raised itself.

    `code` is stable and machine-readable (x402 reason strings where the protocol has one), `message` is for people,
    `details` holds JSON-able facts. No secret and no payload belongs in any of them. `status_code` is the HTTP status
    that it is answered with, or was heard with (aimo row 53).
    """

    status: int = 500
    moved: Moved = Moved.NO
    mender: Mender = Mender.OPERATOR

    def __init__(
        self,
        code: str,
        message: str,
        *,
        mender: Mender | None = None,
        moved: Moved | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        if type(self) is X402Error:
            raise TypeError("raise a branch of X402Error, not the root")
        super().__init__(message)
        self.code = code
        self.message = message
        self.status_code = self.status
        if mender is not None:
            self.mender = mender
        if moved is not None:
            self.moved = moved
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def as_json(self) -> dict[str, Any]:
        """The error as a JSON object: code, message, mender, moneyMoved, details when there are any."""
        body: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "mender": str(self.mender),
            "moneyMoved": str(self.moved),
        }
        if self.details:
            body["details"] = self.details
        return body


class MalformedError(X402Error):
    """Bytes that are not what they claim to be (faults E04, F05-F14)."""

    status = 400
    mender = Mender.CALLER


class RefusedError(X402Error):
    """A readable payment that does not satisfy the rules; provably nothing was broadcast for it."""

    status = 402
    mender = Mender.PAYER


class LimitedError(RefusedError):
    """Somebody asked for more than there is a budget for: too often, or at too high a cost to the facilitator (faults
    C09, D13, G01). Nothing was signed and nothing was sent. `retry_after_seconds` says when asking makes sense again.
    """

    status = 429
    mender = Mender.CALLER

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retry_after_seconds: int = 1,
        mender: Mender | None = None,
        moved: Moved | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message, mender=mender, moved=moved, details=details)
        self.retry_after_seconds = max(1, retry_after_seconds)


class UnidentifiedError(X402Error):
    """A caller without a key, or with one that nobody was given (fault E06)."""

    status = 401
    mender = Mender.CALLER


class DeniedError(X402Error):
    """A caller who may not ask for this, whoever else may (fault E06)."""

    status = 403
    mender = Mender.CALLER


class ConflictError(X402Error):
    """The payment is claimed by another request, or its first request is still at work (fault A07)."""

    status = 409
    mender = Mender.CALLER


class PendingError(X402Error):
    """A transaction may still land. Sending the identical payment again is safe and finds the answer (fault A09)."""

    status = 503
    moved = Moved.UNKNOWN
    mender = Mender.NOBODY

    def __init__(self, message: str, *, transaction: str = "", retry_after_seconds: int = 2) -> None:
        super().__init__("settlement_pending", message, details={"transaction": transaction} if transaction else None)
        self.transaction = transaction
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(X402Error):
    """Something that we depend on did not answer, and nothing that moves money was handed to it (fault E02)."""

    status = 503
    mender = Mender.NOBODY


class MisconfiguredError(X402Error):
    """Settings that contradict themselves or each other; raised before anything is served (fault F13)."""

    status = 500
    mender = Mender.OPERATOR


class DeclinedError(X402Error):
    """The client's own policy refused to sign: too dear, unknown asset, wrong network, changed payee.

    `details["offers"]` lists every offer with the reason for which it was not taken.
    """

    status = 402
    mender = Mender.CALLER


class UnpaidError(X402Error):
    """The seller refused the payment that we presented; it stays reserved in the budget until it is dead."""

    status = 402
    moved = Moved.UNKNOWN
    mender = Mender.PAYER


class ApiError(X402Error):
    """The seller answered a call with an error, whatever envelope it came in (aimo rows 44-53).

    `status` and `status_code` are its HTTP status. `payment_required` is the seller's challenge, as JSON, when it asks
    to be paid; without one a 402 means that a prepaid balance is empty.
    """

    mender = Mender.CALLER

    def __init__(
        self,
        status_code: int,
        code: str,
        message: str,
        *,
        request_id: str | None = None,
        moved: Moved = Moved.NO,
        details: Mapping[str, Any] | None = None,
        payment_required: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message, moved=moved, details=details)
        self.status = self.status_code = status_code
        self.request_id = request_id
        self.payment_required = payment_required

    @property
    def retryable(self) -> bool:
        """True for statuses that may answer differently when the same call is made again (aimo row 52)."""
        return self.status_code in {408, 409, 429} or self.status_code >= 500

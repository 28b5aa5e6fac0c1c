"""Errors that a gateway answers with beside those of the payment protocol, in the shape of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from x402.errors import LimitedError, Mender, Moved, PendingError, X402Error


class ApiProblem(X402Error):
    """An answer with any HTTP status; `kind` is OpenAI's `type`, `param` the request member that is in the wrong."""

    mender = Mender.CALLER

    def __init__(
        self,
        status_code: int,
        code: str,
        message: str,
        *,
        kind: str = "",
        param: str | None = None,
        moved: Moved | None = None,
        mender: Mender | None = None,
        retry_after_seconds: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message, moved=moved, mender=mender, details=details)
        self.status_code = status_code
        self.kind = kind
        self.param = param
        self.retry_after_seconds = retry_after_seconds


_KINDS = {400: "invalid_request_error", 402: "payment_required", 404: "not_found_error", 409: "conflict_error"}


EMPTY_BALANCE = frozenset({"insufficient_balance", "insufficient_credits"})
"""Codes of a 402 that says: your prepaid balance does not cover this."""


def status_of(error: X402Error) -> int:
    """The HTTP status of an error."""
    return error.status_code if isinstance(error, ApiProblem) else error.status


def retry_after(error: X402Error) -> int | None:
    """After how many seconds the same request may be sent again, when that is of use."""
    if isinstance(error, PendingError | LimitedError | ApiProblem):
        return error.retry_after_seconds
    if error.code == OVER_COMMITTED and int(error.details["amount"]) <= int(error.details["balance"]):
        # What is open will be settled, and this payment alone is covered.
        return 2
    if status_of(error) == 409:
        return 1 if error.code == AT_WORK else None
    return 2 if status_of(error) == 503 else None


def error_body(error: X402Error) -> dict[str, Any]:
    """The JSON body: OpenAI's error object with our members beside its own (aimo rows 45, 47)."""
    status = status_of(error)
    stated = error.kind if isinstance(error, ApiProblem) else ""
    if status == 402 and error.code in EMPTY_BALANCE:
        # Readers tell "pay now" from "top up" by the type, where there is one (aimo row 55).
        stated = error.code
    kind = stated or _KINDS.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    body: dict[str, Any] = {"message": error.message, "type": kind, "code": error.code}
    if isinstance(error, ApiProblem):
        body["param"] = error.param
    return {"error": body | {name: value for name, value in error.as_json().items() if name not in body}}


OVER_COMMITTED = "over_committed"
"""Code of a 402 for a payment that its payer's balance does not cover beside those that are not settled yet."""
AT_WORK = "payment_in_progress"
"""Code of a 409 that passes by itself: the payment's first request is still being served."""

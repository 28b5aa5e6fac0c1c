"""What a request out of a balance is worth, what it is called, and what its caller is told about the charge."""

from __future__ import annotations

import re

from x402.billing import Bill, Metered, PaidBy
from x402.errors import MalformedError, Mender, RefusedError, UnavailableError, X402Error
from x402.gateway.recording import split_notes
from x402.gateway.sale import PaidRequest, Reply, Sale, Whole
from x402.gateway.terms import Flow, Terms
from x402.money import EXACT_CONTEXT, round_up
from x402.ports import Answer
from x402.ports.accounts import Reservation, TooLittle
from x402.wire.challenge import Requirement
from x402.wire.headers import BILL, IDEMPOTENCY_KEY, REQUEST_ID, encode_header, only

EMPTY = "insufficient_credits"
"""Code of a 402 that asks somebody to fill his balance, or to pay this request (aimo row 79)."""

_ASSET = "USDC"
_NAME = re.compile(r"[!-~]{1,128}", re.ASCII)


def bound_of(terms: Terms) -> int:
    """What is set aside for terms, in atomic USDC, rounded up."""
    if terms.quote is not None:
        return terms.quote.bound
    return round_up(terms.usd.scaleb(6, EXACT_CONTEXT))


def name_of(request: PaidRequest) -> str:
    """The caller's own name for a request, or `""`. Raises `MalformedError` for a key of another form."""
    key = only(request.headers, IDEMPOTENCY_KEY, code="invalid_request")
    if key is not None:
        if _NAME.fullmatch(key.strip()) is None:
            raise MalformedError("invalid_request", "Idempotency-Key: 1 to 128 visible ASCII characters")
        return key.strip()
    stated = request.header(REQUEST_ID) or ""
    return stated if _NAME.fullmatch(stated) else ""


def refused(error: TooLittle, account: str) -> RefusedError:
    """The 402 of a balance, or a key's limit, that does not cover what is asked (aimo rows 55, 79)."""
    details = {"account": account, "available": str(error.available), "required": str(error.wanted)}
    if error.scope == "key":
        limited = "this key may not spend that much"
        return RefusedError("spend_limit_reached", limited, mender=Mender.CALLER, details=details)
    empty = "the balance does not cover this request: pay one of the offers, or fill it at session/deposit"
    return RefusedError(EMPTY, empty, mender=Mender.PAYER, details=details)


def metered_of(sale: Sale, bound: int, *, sold: bool, whole: bool) -> Metered:
    """What is debited. A handler that meters nothing sells at its price, to who hung up on it too; what broke off costs
    nothing."""
    if sale.metered is not None:
        return sale.metered.within(bound)
    return Metered(model="", endpoint="", charged=bound if sold else 0, complete=whole)


def sale_of(held: Reservation, flow: Flow, *, seconds: int) -> Sale:
    """What a handler is told. No token moves, so what it sees of an offer is the bound in USDC."""
    network, _, address = held.account.rpartition(":")
    network = network if ":" in network else ""
    requirement = Requirement(
        scheme=str(PaidBy.BALANCE),
        network=network,
        amount=held.units,
        asset=_ASSET,
        pay_to=held.account,
        max_timeout_seconds=seconds,
    )
    return Sale(
        pay_id=held.id,
        payer=address,
        payee="",
        network=network,
        asset=_ASSET,
        amount=held.units,
        flow=flow,
        requirement=requirement,
        account=held.account,
    )


def bill_header(held: Reservation, bill: Bill | None = None) -> tuple[str, str]:
    """The header that tells what an answer is billed; of a stream, which is billed at its end, only under which id."""
    members: dict[str, object] = {"id": held.id, "account": held.account, "quoted": str(held.units)}
    if bill is not None:
        members |= {"charged": str(bill.metered.charged), "fee": str(bill.metered.fee)}
    return BILL, encode_header(members)


def reply_of(answer: Answer, held: Reservation, bill: Bill | None) -> Reply:
    """A whole answer with its bill; an error is not billed."""
    headers, _ = split_notes(answer)
    if answer.status < 400:
        headers = (*headers, bill_header(held, bill))
    return Reply(answer.status, headers, Whole(answer.body))


def not_billed(error: Exception) -> X402Error:
    """Why an answer that could not be billed does not go out."""
    if isinstance(error, X402Error):
        return error
    return UnavailableError("reservation_lost", "the reservation of this request was lost; send it again")

"""The journey without any HTTP library: driven by hand against sellers that follow whims."""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.client.effects import Do, Send, Terms, Wanted
from x402.client.flow import Outcome, journey
from x402.client.journal import Journal
from x402.client.owner import Call
from x402.client.verdict import Reply
from x402.client.wallet import Wallet
from x402.errors import X402Error

from .seller import EVM_KEY, Answer, asks, delivers, offer, pending, receipt

WALLET = Wallet(evm=EVM_KEY)


class Lost(Exception):
    """The transport failed; the seller may have heard us."""


class Crash(Exception):
    """The process died; nothing is cleaned up."""


def terms(clock: Callable[[], int], limits: Limits | None = None, **more: Any) -> Terms:
    return Terms(
        wallet=WALLET, policy=Policy(), limits=limits or Limits(), journal=Journal(":memory:", clock=clock),
        clock=clock, entropy=secrets.token_bytes, svm_rpc={}, **more,
    )  # fmt: skip


def drive(wanted: Wanted, with_terms: Terms, seller: Callable[[Send], Answer]) -> tuple[Outcome, int]:
    """One call as a seat makes it: returns the outcome and the last status, or raises what the call raises.

    A `Crash` leaves without a word: only the disappearance of the call's owner tells the journal.
    """
    call = Call()
    steps = journey(wanted, with_terms, call)
    advance: Callable[[], Any] = lambda: next(steps)  # noqa: E731
    status = 0
    try:
        while True:
            try:
                effect = advance()
            except StopIteration as end:
                with_terms.journal.leave(call)
                return end.value, status
            try:
                if isinstance(effect, Do):
                    result = effect.work()
                else:
                    answer = seller(effect)
                    status = answer.status
                    headers = tuple(answer.headers.items())
                    result = Reply(status, headers, answer.body, effect.url, wanted.method, empty=not answer.body)
            except X402Error as error:
                advance = partial(steps.throw, error)
            else:
                advance = partial(steps.send, result)
    except BaseException as error:
        if not isinstance(error, Crash):
            steps.close()
            with_terms.journal.leave(call)
        raise


class Invented:
    """A seller that follows a list of whims, and remembers which payments it was shown for which request."""

    def __init__(self, whims: list[str]) -> None:
        self.whims = iter(itertools.chain(whims, itertools.repeat("honest")))
        self.shown: Counter[str] = Counter()
        self.new: list[str] = []

    def __call__(self, request: Send) -> Answer:
        payment = request.payment[0][1] if request.payment else ""
        if payment:
            if payment not in self.shown:
                self.new.append(payment)
            self.shown[payment] += 1
        whim = next(self.whims)
        if whim == "lost":
            raise Lost
        if whim == "crash":
            raise Crash
        if whim == "honest":
            return delivers() if payment else asks()
        return WHIMS[whim]


WHIMS: dict[str, Answer] = {
    "free": Answer(200),
    "empty": Answer(200, receipt(), b""),
    "asks": asks(),
    "dearer": asks(offer(amount=999_999)),
    "too dear": asks(offer(amount=1_000_001)),
    "other payee": asks(offer(pay_to="0x" + "99" * 20)),
    "garbage": Answer(402, {"PAYMENT-REQUIRED": "@@@"}, b"{"),
    "empty 402": Answer(402, {}, b""),
    "delivers": delivers(),
    "pending": pending(),
    "pending 402": Answer(402, receipt(False, transaction="0x1", error_reason="settlement_pending"), b"{}"),
    "refused": Answer(402, asks().headers | receipt(False, error_reason="nope"), b"{}"),
    "500": Answer(500),
    "500 paid": Answer(500, receipt()),
    "409": Answer(409, {"Retry-After": "1"}),
    "404": Answer(404),
    "410": Answer(410, receipt()),
    "302": Answer(302, {"Location": "/elsewhere"}),
    "forged": Answer(200, {"PAYMENT-RESPONSE": "e30="}),
    "paid 402": Answer(402, asks().headers | receipt(), b"{}"),
}

"""`X402Auth`: give it to an HTTP client as `auth=`, and the client pays by itself.

It works as it is in `httpx` and `httpx2`, blocking and not, and so in everything that is built on them, such as
`openai.OpenAI(http_client=httpx.Client(auth=X402Auth(wallet)))`. The decisions are made in `flow.journey`; here they
are carried out.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import httpx2

from x402 import networks
from x402.client.ahead import Ahead
from x402.client.answers import RECEIPT_COMMENT, receipt_in
from x402.client.body import Arrival
from x402.client.breaker import Breaker
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.client.effects import Ask, Do, Effect, Send, Terms, Wait, Wanted
from x402.client.flow import EXTENSION, PAYMENT_REQUIRED_STATUS, Outcome, journey, outcome_of, receipt_of
from x402.client.identity import Identity, identity_of
from x402.client.journal import Journal
from x402.client.owner import Call
from x402.client.proof import Proof, by_network
from x402.client.record import Record
from x402.client.sealed import seal
from x402.client.sign_in import SignInAuth
from x402.client.stream import WatchedStream, bound
from x402.client.verdict import Reply, concerns, taken
from x402.client.wallet import Wallet
from x402.errors import MalformedError, UnavailableError, X402Error
from x402.lifecycle import Event
from x402.lifecycle import Outcome as Settlement
from x402.settings import ClientSettings
from x402.telemetry import Telemetry
from x402.wire.headers import PAYMENT_HEADERS
from x402.wire.receipt import Receipt

_NOTED = "x402.receipt"
"""Key of `response.extensions` under which the receipt of a stream is kept, once it was told to everybody."""
PLACEHOLDER = "Bearer x402"
"""What the `openai` package sends when its key is `x402`, because it wants some key; no credential, so it stays."""


class X402Auth(httpx.Auth, httpx2.Auth):
    """Pays for each request that is answered with 402, once, within its limits.

    `wallet` defaults to the environment's; `policy` says which offers are acceptable, `limits` how much may be spent;
    without a cap of either kind a call may cost $1. `journal` is a path, `":memory:"`, or a `Journal`; by default the
    user's own. `svm_rpc` is a Solana node's URL, or one per CAIP-2 network, for offers without a blockhash; it and
    `evm_rpc` are asked as well, instead of the networks' public nodes, before a call is paid for anew whose first
    payment was not answered (`prove`, fault A23). `breaker` says when a host is not paid any more. With
    `pay_ahead` (X402_PAY_AHEAD, on) a payment goes with the first request to a seller that has announced its prices.
    `on_receipt` hears of every receipt. With `sign_in` each request says whose it is before anything is paid, so that a
    balance with the seller is spent first: `True` signs in where the wallet pays, an `Identity` says where; then
    nothing is paid ahead. With `sign_in_when_asked` only a 402 that offers a sign-in is answered by one, and only to a
    host that has answered a payment of this wallet; it is paid when that does not help.

    Calls raise `DeclinedError` (not signed), `UnpaidError` (refused by the seller), `PendingError` (money may still
    move: make the same call again), `MalformedError` (unreadable 402) and `UnavailableError` (no journal, no node).
    """

    requires_request_body = True

    def __init__(
        self,
        wallet: Wallet | None = None,
        *,
        policy: Policy | None = None,
        limits: Limits | None = None,
        journal: Journal | str | Path | None = None,
        svm_rpc: str | Mapping[str, str] | None = None,
        evm_rpc: str | Mapping[str, str] | None = None,
        breaker: Breaker | None = None,
        prove: Callable[[Record], Record] | None = None,
        pay_ahead: bool | None = None,
        on_receipt: Callable[[Receipt], None] | None = None,
        sign_in: Identity | bool = False,
        sign_in_when_asked: bool = False,
        telemetry: Telemetry | None = None,
        settings: ClientSettings | None = None,
        clock: Callable[[], int] = lambda: int(time.time()),
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        found = settings or ClientSettings.read()
        if not isinstance(journal, Journal):
            journal = Journal(journal or found.journal_path, clock=clock)
        nodes, evm_nodes = by_network(svm_rpc, found.svm_rpc_url), by_network(evm_rpc, found.evm_rpc_url)
        proof = Proof(journal, evm_rpc=evm_nodes, svm_rpc=nodes, clock=clock)
        ahead = found.pay_ahead if pay_ahead is None else pay_ahead
        self.terms = Terms(
            wallet=wallet or Wallet.from_env(found),
            policy=_policy(policy or Policy(), found),
            limits=limits or Limits.of(found),
            journal=journal,
            clock=clock,
            entropy=entropy,
            svm_rpc=nodes,
            evm_rpc=evm_nodes,
            confirm=proof.confirm,
            breaker=breaker or Breaker(found.host_failures, found.host_cool_down_seconds),
            ahead=Ahead(clock) if ahead and not (sign_in or sign_in_when_asked) else None,
            sign_in_when_asked=sign_in_when_asked,
            prove=prove or proof,
        )
        if sign_in is True:
            mainnet = self.terms.policy.mainnet is True
            sign_in = identity_of(self.terms.wallet, found.chain_id, mainnet=mainnet)
        self.sign_in = SignInAuth(sign_in, clock=clock, entropy=entropy) if sign_in else None
        self.last_receipt: Receipt | None = None
        self._on_receipt = on_receipt
        self._telemetry = telemetry or Telemetry()

    @property
    def journal(self) -> Journal:
        """What is remembered of the payments."""
        return self.terms.journal

    def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """The blocking seat, under the name by which either library knows a flow without I/O of its own."""
        return self.sync_auth_flow(request)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """The seat in a blocking client."""
        request.read()
        seat = _Seat(self, request)
        try:
            while (effect := seat.effect) is not None:
                if isinstance(effect, Wait):
                    time.sleep(effect.seconds)
                    seat.wake()
                    continue
                if isinstance(effect, Do):
                    seat.perform()
                    continue
                response = yield seat.dress(effect)
                if seat.must_read(response):
                    response.read()
                seat.hear(response)
            seat.finish()
        finally:
            if seat.close():
                seat.leave()

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """The seat in an asynchronous client; what touches the disk or a key happens on a thread."""
        await request.aread()
        seat = _Seat(self, request)
        try:
            while (effect := seat.effect) is not None:
                if isinstance(effect, Wait):
                    await anyio.sleep(effect.seconds)
                    seat.wake()
                    continue
                if isinstance(effect, Do):
                    await anyio.to_thread.run_sync(seat.perform)
                    continue
                response = yield seat.dress(effect)
                if seat.must_read(response):
                    await response.aread()
                seat.hear(response)
            seat.finish()
        finally:
            if seat.close():
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(seat.leave)

    def on(self, network: str) -> X402Auth:
        """The same auth, paying on one network (CAIP-2) alone, where its policy allows that one."""
        allowed = self.terms.policy.networks
        if allowed and not any(networks.matches(pattern, network) for pattern in allowed):
            return self
        other = copy(self)
        other.terms = replace(self.terms, policy=replace(self.terms.policy, networks=(network,)))
        return other

    def receipt(self, response: Any) -> Receipt | None:
        """The receipt that came with a response, or None; one that cannot be read is none."""
        return receipt_of(response)

    def note_receipt(self, response: Any, receipt: Receipt) -> bool:
        """Take a receipt that came late, at the end of a stream. False when it is not about this call's payment.

        Writes to the journal, so call it on a thread where blocking matters.
        """
        outcome = outcome_of(response)
        record = outcome.record if outcome is not None else None
        if record is None or not concerns(receipt, record.entry.subject):
            return False
        if response.extensions.get(_NOTED) == receipt:
            return True
        response.extensions[_NOTED] = receipt
        settled = receipt.outcome is Settlement.SETTLED
        event, stage = None, None
        if settled and receipt.transaction:
            event, stage = Event.SETTLE, taken(receipt, record.entry.subject)
        self.quietly(lambda: self.journal.conclude(record.pay_id, event=event, stage=stage, receipt=receipt))
        self.heard(receipt)
        return True

    def note_comment(self, response: Any, text: str) -> None:
        """`note_receipt` for what a stream had in its comment; one that cannot be read is none."""
        try:
            receipt = receipt_in(RECEIPT_COMMENT + text)
        except MalformedError:
            return
        if receipt is not None:
            self.note_receipt(response, receipt)

    def heard(self, receipt: Receipt) -> None:
        """Tell everybody of a receipt; a listener that fails changes nothing about the payment (fault A19)."""
        self.last_receipt = receipt
        facts = {"outcome": str(receipt.outcome), "network": receipt.network, "transaction": receipt.transaction}
        self._telemetry.emit("client.receipt", **facts)
        if self._on_receipt is None:
            return
        try:
            self._on_receipt(receipt)
        except Exception as error:  # noqa: BLE001 - the caller's listener must not take a paid answer away
            self._telemetry.emit("client.listener_failed", error=type(error).__name__)

    def quietly(self, work: Callable[[], object]) -> None:
        """Do journal work whose failure must not take an answer away that is already here."""
        try:
            work()
        except UnavailableError as error:
            self._telemetry.emit("client.journal_failed", code=error.code)


def _policy(policy: Policy, settings: ClientSettings) -> Policy:
    """With what it leaves to the environment."""
    return policy if policy.approvals is not None else replace(policy, approvals=settings.sign_approvals)


class _Seat:
    """One logical call in an HTTP client: turns effects into requests, and responses into replies."""

    def __init__(self, auth: X402Auth, request: Any) -> None:
        self._auth = auth
        self._request = request
        if request.headers.get("authorization") == PLACEHOLDER:
            del request.headers["authorization"]
        self._plain = request.headers
        self._call = Call()
        self._sent = 0
        self._response: Any = None
        self._handed_over = False
        self._outcome = Outcome()
        paid = any(name in request.headers for name in PAYMENT_HEADERS)
        wanted = Wanted(request.method, str(request.url), request.content, paid)
        self._journey = journey(wanted, auth.terms, self._call)
        self.effect: Effect | None = None
        self._advance(lambda: next(self._journey))

    def perform(self) -> None:
        """Do the work that the journey asks for, and go on with what came of it."""
        if not isinstance(self.effect, Do):
            raise TypeError("there is no work to do")
        try:
            result = self.effect.work()
        except X402Error as failure:
            error = failure  # The name in the clause is gone before the journey hears of it.
            self._advance(lambda: self._journey.throw(error))
        else:
            self._advance(lambda: self._journey.send(result))

    def wake(self) -> None:
        """Go on after the time that the journey wanted to pass."""
        self._advance(lambda: self._journey.send(None))

    def dress(self, effect: Send | Ask) -> Any:
        """The library's request for an effect."""
        if self._response is not None:
            bound(self._response)
        self._sent += 1
        request = self._request
        if isinstance(effect, Ask):
            timeout = {name: value for name, value in request.extensions.items() if name == "timeout"}
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            return type(request)("POST", effect.url, headers=headers, content=effect.body, extensions=timeout)
        request.url = type(request.url)(effect.url)
        credential = effect.payment
        if not credential and self._auth.sign_in is not None:
            credential = self._auth.sign_in.introduction(effect.url, self._plain)
        request.headers = seal(self._plain, credential) if credential else self._plain
        return request

    def must_read(self, response: Any) -> bool:
        """Whether the reply's body matters: a challenge, or a node's answer. It is read up to a limit (fault E04)."""
        if response.status_code != PAYMENT_REQUIRED_STATUS and not isinstance(self.effect, Ask):
            return False
        bound(response)
        return True

    def hear(self, response: Any) -> None:
        """Go on with a response."""
        self._response = response
        hops = response.history[self._sent - 1 :]
        read = response.status_code == PAYMENT_REQUIRED_STATUS or isinstance(self.effect, Ask)
        complete = bool(response.is_stream_consumed)
        reply = Reply(
            status=response.status_code,
            headers=tuple(response.headers.multi_items()),
            body=response.content if read else b"",
            url=str(response.url),
            method=str(response.request.method),
            complete=complete,
            empty=complete and not response.content,
            hops=tuple(tuple(hop.headers.multi_items()) for hop in hops),
        )
        self._advance(lambda: self._journey.send(reply))

    def close(self) -> bool:
        """End the journey; whether the call still has to `leave` what it owned."""
        self._journey.close()
        return self._call.engaged and not self._handed_over

    def leave(self) -> None:
        """Let the next call for the same request have what this one exposed."""
        self._auth.quietly(lambda: self._auth.journal.leave(self._call))

    def _advance(self, step: Callable[[], Effect]) -> None:
        try:
            self.effect = step()
        except StopIteration as end:
            self.effect = None
            self._outcome = end.value

    def finish(self) -> None:
        """Hand the last response to the caller, with the outcome beside it."""
        outcome, response, auth, call = self._outcome, self._response, self._auth, self._call
        response.extensions[EXTENSION] = outcome
        record = outcome.record
        if outcome.unread and record is not None:
            self._handed_over = True
            arrival = Arrival(
                whole=lambda: auth.quietly(lambda: auth.journal.conclude(record.pay_id, answered=True)),
                broken=lambda: auth.quietly(lambda: auth.journal.leave(call)),
                left=lambda: auth.quietly(lambda: auth.journal.walk_away(record.pay_id, call)),
                bodiless=outcome.bodiless,
                late=None if outcome.receipt is not None else partial(auth.note_comment, response),
            )
            response.stream = WatchedStream(response.stream, arrival)
        if outcome.receipt is not None:
            auth.heard(outcome.receipt)


def client(auth: X402Auth, **options: Any) -> httpx.Client:
    """An `httpx.Client` that pays; `options` are those of `httpx.Client`."""
    return httpx.Client(auth=auth, **options)


def async_client(auth: X402Auth, **options: Any) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` that pays; `options` are those of `httpx.AsyncClient`."""
    return httpx.AsyncClient(auth=auth, **options)

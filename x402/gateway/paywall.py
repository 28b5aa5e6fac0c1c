"""`Paywall`: any ASGI app, paid per request.

    app = FastAPI()

    @app.get("/report")
    async def report() -> dict[str, str]: ...

    app.add_middleware(Paywall, routes={"GET /report": "$0.01"}, pay_to={"base": "0x…"}, facilitator="https://…")

Prices hang on the app's own route objects; an app that is not Starlette is guarded by its paths.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from x402.errors import UnavailableError, X402Error
from x402.gateway import asgi
from x402.gateway.accounts.members import members_of
from x402.gateway.answers import LEDGER_FILE, keys_beside
from x402.gateway.asgi import App, Message, Receive, Scope, Send
from x402.gateway.counter import Counter, Free, PriceRule
from x402.gateway.envelope import EnvelopeRule, plain_envelope
from x402.gateway.facilitators import Facilitators
from x402.gateway.flow import Till
from x402.gateway.hash_proof import hash_proofs_of
from x402.gateway.nodes import Nodes
from x402.gateway.offers import Offers
from x402.gateway.paid import FREE_MARK, paid
from x402.gateway.policy import Policy
from x402.gateway.purse import Purse
from x402.gateway.refund import refunds_of
from x402.gateway.register import Register
from x402.gateway.replies import PREFLIGHT, error_reply, is_preflight
from x402.gateway.route_keys import RouteKey
from x402.gateway.routes import attach
from x402.gateway.sale import PaidRequest, Reply, Sale
from x402.gateway.terms import FREE, Flow, Seller, Terms, addresses_of
from x402.ports import Clock, Ledger
from x402.ports.accounts import Accounts
from x402.telemetry import Telemetry
from x402.wire.facilitation import Facilitator

__all__ = ["FREE", "Flow", "PaidRequest", "Paywall", "Sale", "Terms", "paid"]

BODY_LIMIT = 1024 * 1024
RECONCILE_SECONDS = 15.0
DRAIN_SECONDS = 30.0

_log = logging.getLogger("x402.gateway")


def _wall_clock() -> int:
    return int(time.time())


class Companion(Protocol):
    """What works beside a paywall, on its ledger: opened after it, and run as long as the server's lifespan lasts."""

    async def open(self, paywall: Paywall) -> None: ...

    async def run(self) -> None: ...


class Paywall:
    """An ASGI app in front of another: routes with a price are served once they are paid for.

    `routes` maps keys such as `"GET /report"` to a price (`"$0.01"`, a `Decimal`, `Terms`, `FREE`, a `Quote`) or to a
    function of the `PaidRequest` that returns one; FastAPI routes may say `Depends(paid("$0.01"))` instead. `pay_to`
    is an address per network, or one address together with `network`. `facilitator` settles: a URL, or an object,
    or several, the preferred one first (fault E13); a URL gets `facilitator_api_key` with every request, the first URL
    the first of several keys separated by commas.
    `ledger` remembers: a file (default `x402-gateway.sqlite` in the working directory), or an object that is open.
    Fixed prices, and those by a quote, are announced for `pay_ahead_seconds`, so that a buyer's next payment comes with
    its first request; 0 announces none.
    `public_url` is how clients reach the app; it is never taken from a request (fault B19). A delivered answer is kept
    for `answer_retention_seconds` (also in `policy`), for the same payment to be sent again; 0 keeps none. It is sealed
    with the first of `answer_keys`; without any by `quote_keys`. Without those a key file that is made beside the
    ledger's seals answers and signs quotes.

    `schemes` are those in which payments are taken, the preferred one first: `exact`, for the price, and on EVM
    networks `upto`, for what a request has used of it. With `accounts` (in the ledger, or in a book of their own) every
    answer has a bill, what is paid and not used goes to the payer's account, and whoever signs in pays from there.
    `policy` bounds the risks, `nodes` (`gateway.nodes.open_nodes`) let the seller see for itself what a facilitator
    says of the chain, and `purse` holds the keys that pay back what is owed. `envelope` chooses the shape of errors,
    and a `companion` works beside it.

    Contradictions raise `MisconfiguredError`, those about routes when the app starts. Use its lifespan: it opens the
    ledger and reconciles what a crash left open.
    """

    def __init__(
        self,
        app: App,
        *,
        pay_to: str | Mapping[str, str],
        facilitator: str | Facilitator | Sequence[str | Facilitator],
        facilitator_api_key: str = "",
        routes: Mapping[str, PriceRule] | None = None,
        network: str | Sequence[str] | None = None,
        ledger: Ledger | str | Path | None = None,
        flow: Flow | str = Flow.AUTHORIZATION,
        public_url: str = "",
        schemes: Sequence[str] = ("exact",),
        max_timeout_seconds: int = 300,
        pay_ahead_seconds: int = 300,
        body_limit: int = BODY_LIMIT,
        quote_keys: Sequence[bytes] = (),
        answer_keys: Sequence[bytes] = (),
        handler_timeout_seconds: float = 600.0,
        answer_retention_seconds: int | None = None,
        policy: Policy | None = None,
        accounts: bool | Accounts = False,
        nodes: Nodes | None = None,
        purse: Purse | None = None,
        envelope: EnvelopeRule = plain_envelope,
        companion: Companion | None = None,
        reconcile_seconds: float = RECONCILE_SECONDS,
        clock: Clock = _wall_clock,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.app = app
        beside = () if quote_keys else keys_beside(ledger)
        keys: tuple[bytes, ...] = tuple(quote_keys) or beside or (secrets.token_bytes(32),)
        nodes, policy = nodes or Nodes(), _policy(policy, answer_retention_seconds)
        seller = Seller(
            pay_to=addresses_of(pay_to, network), max_timeout_seconds=max_timeout_seconds, schemes=tuple(schemes),
            pay_ahead_seconds=pay_ahead_seconds, quote_keys=keys,
            discounts=() if accounts is False else policy.promotions.discounts,
        )  # fmt: skip
        self._owned: list[Any] = [nodes]
        self._companion = companion
        known = self._facilitators(facilitator, facilitator_api_key, clock, telemetry)
        offers = Offers(known, seller, clock=clock)
        known.on_change = offers.kinds.forget
        register = Register(
            known,
            self._ledger(ledger),
            clock=clock,
            telemetry=telemetry,
            policy=policy,
            witnesses=nodes.witnesses,
            answer_keys=tuple(answer_keys) or tuple(quote_keys) or beside,
            credits=accounts is not False,
        )
        refunds = None if purse is None else refunds_of(register, purse, offers.kinds, nodes.blockhashes)
        self.till = Till(register, handler_timeout_seconds=handler_timeout_seconds, refunds=refunds)
        self.members = members_of(register, seller, accounts, refunds, timeout_seconds=handler_timeout_seconds)
        self.counter = Counter(
            self.till, offers, flow=Flow(flow), any_origin=not public_url, members=self.members, envelope=envelope
        )
        proofs = hash_proofs_of(nodes.transfers, seller, register.policy, clock, credits=register.credits)
        self.counter.proofs = register.facilitators.proofs = register.watch.proofs = proofs
        self._routes = {RouteKey.parse(key): rule for key, rule in (routes or {}).items()}
        for rule in self._routes.values():
            self.counter.check(rule)
        self._public_url, self._body_limit = public_url.rstrip("/"), body_limit
        self._reconcile_seconds = reconcile_seconds
        self._rest()

    def _rest(self) -> None:
        self._starting = asyncio.Lock()
        self._started = self._on_routes = False
        self._loops: list[asyncio.Task[None]] = []
        self.reconciled = asyncio.Event()
        """Set when everything that an earlier process left open was looked at once."""

    def _facilitators(
        self,
        wanted: str | Facilitator | Sequence[str | Facilitator],
        api_keys: str,
        clock: Clock,
        telemetry: Telemetry | None,
    ) -> Facilitators:
        from x402.facilitator.remote import RemoteFacilitator

        keys = iter(api_keys.split(","))
        found: list[Facilitator] = []
        for one in wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]:
            if isinstance(one, str):
                remote = RemoteFacilitator(one, api_key=next(keys, "").strip())
                self._owned.append(remote)
                found.append(remote)
            else:
                found.append(one)
        return Facilitators(found, clock=clock, telemetry=telemetry)

    def _ledger(self, ledger: Ledger | str | Path | None) -> Ledger:
        if ledger is not None and not isinstance(ledger, str | Path):
            return ledger
        from x402.ports.ledger import SqlLedger

        place = str(ledger or LEDGER_FILE)
        opened = SqlLedger(place if "://" in place else f"sqlite:///{place}")
        self._owned.append(opened)
        return opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        await self.start(scope)
        if self._on_routes or (rule := self._rule_for(scope)) is None:
            await self.app(scope, receive, send)
        else:
            await self._guard(self.app, rule, scope, receive, send)

    def _rule_for(self, scope: Scope) -> PriceRule | None:
        """The price of a path in an app whose routes are unknown. Every spelling of a priced path counts, and so does
        a method that no key names: it may run the same handler (faults F01, F02)."""
        raw = asgi.target_of(scope).partition("?")[0]
        covering = [key for key in self._routes if key.covers_path(scope["path"]) or key.covers_path(raw)]
        if not covering:
            return None
        method = scope.get("method", "GET")
        wanted = "GET" if method == "HEAD" else method
        return self._routes[min(covering, key=lambda key: (key.method not in (None, wanted), key.wild, not key.method))]

    async def start(self, scope: Scope) -> None:
        """Open what is owned and put the guards in place; once. Raises `MisconfiguredError` or `UnavailableError`."""
        if self._started:
            return
        async with self._starting:
            if self._started:
                return
            target: Any = scope.get("app") if hasattr(scope.get("app"), "routes") else _innermost(self.app)
            if hasattr(target, "routes") and not self._on_routes:
                for rule in attach(target, self._routes, self._guard):
                    self.counter.check(rule)
                self._on_routes = True
            if hasattr(target, "state"):
                target.state.paywall = self
            try:
                for part in self._owned:
                    if hasattr(part, "start"):
                        await part.start()
                if self._companion is not None:
                    await self._companion.open(self)
            except BaseException:
                await self._close()
                raise
            self._started = True

    async def stop(self) -> None:
        """Finish the sales at work and close what is owned."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        await self.till.drain(DRAIN_SECONDS)
        if self.members is not None:
            await self.members.tab.drain(DRAIN_SECONDS)
        await self._close()
        self._started = False

    async def _close(self) -> None:
        for part in self._owned:
            await (part.aclose() if hasattr(part, "aclose") else part.close())

    async def checks(self) -> dict[str, bool]:
        """Whether a payment could be taken now, part by part: for a readiness probe."""
        ledger = facilitator = True
        try:
            await self.till.register.ledger.ping()
        except UnavailableError:
            ledger = False
        try:
            facilitator = await self.counter.offers.settleable()
        except UnavailableError:
            facilitator = False
        return {"ledger": ledger, "facilitator": facilitator, "reconciled": self.reconciled.is_set()}

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def follow(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self.start(scope)
                self._loops = [asyncio.create_task(self._reconcile())]
                if self._companion is not None:
                    self._loops.append(asyncio.create_task(self._companion.run()))
            elif message["type"] == "lifespan.shutdown.complete":
                await self.stop()
            await send(message)

        await self.app(scope, receive, follow)

    async def _reconcile(self) -> None:
        looked_twice = False
        while True:
            pause = self._reconcile_seconds
            try:
                await self.till.reconcile()
                if self.members is not None:
                    await self.members.reconcile()
                if self.till.reconciler.held_elsewhere and not looked_twice:
                    # A process that died here a moment ago may hold them; its leases end by themselves.
                    looked_twice, pause = True, min(pause, float(self.till.register.policy.lease_seconds))
                else:
                    self.reconciled.set()
            except X402Error:
                pass
            except Exception as error:  # noqa: BLE001 - who ends here settles and pays back nothing any more
                # What an error says may hold what it was about, a key or a payment: where it was raised does not.
                place = traceback.extract_tb(error.__traceback__)[-1]
                _log.error("reconciling failed: %s in %s:%s", type(error).__name__, place.filename, place.lineno)
            await asyncio.sleep(pause)

    async def _guard(self, app: App, rule: PriceRule, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await asgi.close_websocket(receive, send)
            return
        if "x402" in scope:
            await app(scope, receive, send)
            return
        headers = asgi.headers_of(scope)
        if is_preflight(scope["method"], headers):
            await asgi.send_plain(send, PREFLIGHT)
            return
        try:
            body = await asgi.read_body(scope, receive, limit=self._body_limit)
        except asgi.ClientGone:
            return
        except X402Error as error:
            envelope = self.counter.envelope(asgi.target_of(scope), headers)
            await asgi.send_plain(send, error_reply(error, envelope=envelope))
            return
        url, params, peer = self.url_of(scope), scope.get("path_params", {}), asgi.peer_of(scope)
        request = PaidRequest(scope["method"], asgi.target_of(scope), headers, body, params, peer, url)
        try:
            reply = await self.counter.serve(request, rule, url, asgi.as_handler(app, scope, body))
        except Free:
            await app({**scope, FREE_MARK: True}, asgi.again(body, receive), send)
            return
        if isinstance(reply, Reply):
            await asgi.send_reply(send, reply, receive)
        else:
            await asgi.send_plain(send, reply)

    def url_of(self, scope: Scope) -> str:
        """The canonical address of what is asked for: under the public URL, or the server's own socket."""
        path = asgi.target_of(scope).partition("?")[0]
        if self._public_url:
            return self._public_url + path
        host, port = scope.get("server") or ("localhost", None)
        where = f"[{host}]" if ":" in host else host
        return f"{scope.get('scheme', 'http')}://{where}{f':{port}' if port else ''}{path}"


def _policy(policy: Policy | None, answer_retention_seconds: int | None) -> Policy:
    known, kept = policy or Policy(), answer_retention_seconds
    return known if kept is None else replace(known, answer_retention_seconds=kept)


def _innermost(app: Any) -> Any:
    """The app inside its middleware, as far as each names what it wraps."""
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app
    return app

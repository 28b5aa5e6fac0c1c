"""The operator's side of a gateway, put together: keys, limits, webhooks, retention, the dashboard.

Made from settings before the paywall is, and opened by it, because all of its books stand in the paywall's ledger.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from x402 import networks
from x402.errors import UnavailableError
from x402.gateway.accounts import Holder
from x402.gateway.accounts.keys import KeyRing
from x402.gateway.answers import keys_beside
from x402.gateway.api.asked import SignIn
from x402.gateway.api.budgets import add_budgets
from x402.gateway.api.dashboard import add_dashboard
from x402.gateway.api.keys import add_keys
from x402.gateway.api.listings import providers
from x402.gateway.api.profiles import envelope_of
from x402.gateway.api.signed_keys import add_signed_keys
from x402.gateway.api.webhooks import add_webhooks
from x402.gateway.inference.router import Router
from x402.gateway.operations.budgets import Budgets
from x402.gateway.operations.limits import Limits, Pace, Paced, tiers_of
from x402.gateway.operations.peers import networks_of
from x402.gateway.operations.retention import PURGE_SECONDS, Purge, Retention
from x402.gateway.operations.session import Sessions
from x402.gateway.operations.webhooks import Webhooks
from x402.gateway.paywall import Paywall
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest
from x402.gateway.sealed import Seal
from x402.ports import Clock, Ledger
from x402.ports.account_book import SqlAccounts
from x402.ports.budgets import SqlBudgets
from x402.ports.courier import Courier, HttpCourier
from x402.ports.deliveries import SqlDeliveries
from x402.ports.keys import SqlKeys
from x402.ports.ledger import SqlLedger
from x402.ports.overview import Glance, SqlGlance
from x402.ports.retention import SqlForgetful
from x402.settings import GatewaySettings, secret
from x402.telemetry import Telemetry

OPERATORS_WEBHOOK = "operator"
"""The webhook that settings name, by its id."""
MEASURE_SECONDS = 15.0
"""How often the gauges are read."""
KEY_BASES = ("/api/v1", "/v1")


class Operations:
    """A companion of the paywall. `place` is the ledger's address as it was given, `url` the public one.

    Raises `MisconfiguredError` for settings that contradict themselves.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        place: Ledger | str | Path | None,
        receivers: Sequence[str],
        url: str,
        clock: Clock,
        facts: Telemetry,
        courier: Courier | None = None,
    ) -> None:
        self._settings = settings
        self._place = place
        self._clock = clock
        self._facts = facts
        self._url = url.rstrip("/")
        self._courier = courier or HttpCourier()
        self._seal = seal_of(settings, place)
        self._network = _solana(receivers, settings)
        self._proxies = networks_of(settings.trusted_proxies, "X402_TRUSTED_PROXIES")
        pace = Pace(
            tiers=tiers_of(settings.tiers),
            open_quotes=settings.open_quotes,
            quotes_per_hour=settings.quotes_per_hour,
            quote_seconds=settings.max_timeout_seconds,
            exempt=networks_of(settings.rate_exempt, "X402_RATE_EXEMPT"),
        )
        self.limits = Limits(pace, store=settings.rate_store, telemetry=facts)
        keys = settings.quote_keys or settings.answer_keys or keys_beside(place) or (secrets.token_bytes(32),)
        self._sessions = Sessions(
            settings.operators.split(","), key=keys[0], clock=clock, seconds=settings.operator_session_seconds
        )
        self.paywall: Paywall | None = None
        self._glance: SqlGlance | None = None
        self._router: Router | None = None
        self._keys: KeyRing | None = None
        self._hooks: Webhooks | None = None
        self._purge: Purge | None = None
        self._budgets: Budgets | None = None

    @property
    def turnstile(self) -> dict[str, Any]:
        """The options of the gateway's first door."""
        return {
            "limits": self.limits,
            "keys": lambda: self._keys,
            "proxies": self._proxies,
            "envelope": envelope_of,
        }

    def mount(self, app: FastAPI, router: Router) -> None:
        """Put the paths on the gateway's app."""
        sign_in = Paced(SignIn(self._open_paywall), self.limits)
        ring = _Later(self)
        self._router = router
        for base in KEY_BASES:
            add_keys(app, base, self.keys, sign_in, ring)
            add_signed_keys(app, base, self.keys, clock=self._clock)
            add_webhooks(app, base, self.hooks, sign_in, ring)
            add_budgets(app, base, self.budgets, sign_in, ring)
        add_dashboard(
            app, self._sessions, sign_in, self.glance, router, clock=self._clock, secure=self._url.startswith("https")
        )

    async def open(self, paywall: Paywall) -> None:
        """Take up the books of the paywall's ledger. Raises `UnavailableError` or `MisconfiguredError`."""
        self.paywall = paywall
        ledger = paywall.till.register.ledger
        if not isinstance(ledger, SqlLedger):
            return
        self._keys = ring_of(
            self._settings, ledger, place=self._place, clock=self._clock, url=self._url, network=self._network
        )
        if paywall.members is not None:
            before = [Paced(credential, self.limits) for credential in paywall.members.credentials]
            paywall.members.credentials = [*before, self._keys]
        self._glance = SqlGlance(ledger)
        book = SqlDeliveries(ledger)
        self._hooks = Webhooks(book, self._courier, clock=self._clock, seal=self._seal, telemetry=self._facts)
        self._facts.observe(self._hooks.hear)
        await self._name_operator(self._hooks)
        bills = SqlAccounts(ledger)
        self._budgets = Budgets(SqlBudgets(ledger), bills, self._clock, self._hooks, self._facts)
        kept = Retention(
            tag_days=self._settings.tag_retention_days, delivery_days=self._settings.delivery_retention_days
        )
        retention = Retention.zero() if self._settings.zero_retention else kept
        self._purge = Purge(retention, SqlForgetful(ledger), book, self._clock, self._facts)

    async def run(self) -> None:
        """Deliver and purge until cancelled."""
        if self._hooks is None or self._purge is None:
            return
        try:
            await asyncio.gather(self._hooks.run(), self._forget(self._purge), self._measure())
        finally:
            if isinstance(self._courier, HttpCourier):
                await self._courier.aclose()

    def keys(self) -> KeyRing:
        """The ring of keys. Raises `ApiProblem` 404 where the ledger is not one of ours."""
        if self._keys is None:
            raise _off("keys")
        return self._keys

    def hooks(self) -> Webhooks:
        """The webhooks. Raises `ApiProblem` 404 where the ledger is not one of ours."""
        if self._hooks is None:
            raise _off("webhooks")
        return self._hooks

    def budgets(self) -> Budgets:
        """The accounts' budgets. Raises `ApiProblem` 404 where the ledger is not one of ours."""
        if self._budgets is None:
            raise _off("budgets")
        return self._budgets

    def glance(self) -> Glance:
        """What the dashboard asks. Raises `ApiProblem` 404 where the ledger is not one of ours."""
        if self._glance is None:
            raise _off("dashboard")
        return self._glance

    async def _name_operator(self, hooks: Webhooks) -> None:
        """Enter the webhook that settings name, or forget the one that they named before."""
        if not self._settings.webhook_url:
            await hooks.book.remove(OPERATORS_WEBHOOK)
            return
        known = {one.webhook_id for one in await hooks.book.webhooks("")}
        if OPERATORS_WEBHOOK in known and not self._settings.webhook_secret:
            await hooks.book.remove(OPERATORS_WEBHOOK)
        await hooks.register(
            self._settings.webhook_url,
            account="",
            secret=secret(self._settings.webhook_secret),
            inside=True,
            webhook_id=OPERATORS_WEBHOOK,
        )

    async def _forget(self, purge: Purge) -> None:
        while True:
            with suppress(UnavailableError):
                await purge.step()
                await self.budgets().step()
            await asyncio.sleep(PURGE_SECONDS)

    async def _measure(self) -> None:
        while True:
            with suppress(UnavailableError):
                await self.measure()
            await asyncio.sleep(MEASURE_SECONDS)

    async def measure(self) -> None:
        """Tell how many payments, deliveries and providers wait or fail now. Raises `UnavailableError`."""
        pending, _, oldest = await self.glance().pending()
        age = 0 if oldest is None else max(0, self._clock() - oldest)
        self._facts.emit("gateway.pending", value=pending)
        self._facts.emit("gateway.pending_age", value=age)
        self._facts.emit("gateway.deliveries", value=await self.hooks().book.waiting())
        for provider in providers(self._router) if self._router is not None else ():
            for model in provider["models"]:
                up = int(model["health"]["status"] != "outage")
                self._facts.emit("gateway.provider", provider=provider["id"], model=model["id"], up=up)

    def _open_paywall(self) -> Paywall:
        if self.paywall is None:
            raise _off("sign-in")
        return self.paywall


def ring_of(
    settings: GatewaySettings,
    ledger: SqlLedger,
    *,
    place: Ledger | str | Path | None,
    clock: Clock,
    url: str = "",
    network: str = "",
) -> KeyRing:
    """The ring of a gateway's keys, also for the operator's own commands beside it."""
    return KeyRing(
        SqlKeys(ledger),
        clock=clock,
        seal=seal_of(settings, place),
        gateway=url or settings.public_url,
        network=network or _solana((), settings),
        theirs=settings.accept_aimo_keys,
    )


def seal_of(settings: GatewaySettings, place: Ledger | str | Path | None) -> Seal:
    """What seals secrets at rest: the answers' key, else the quotes', else the one in the file beside the ledger."""
    return Seal(settings.answer_keys or settings.quote_keys or keys_beside(place))


class _Later:
    """The ring of keys as a credential, before it is open."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def holder(self, request: PaidRequest) -> Holder | None:
        return await self._operations.keys().holder(request)


def _solana(receivers: Sequence[str], settings: GatewaySettings) -> str:
    """The network on which wallets that issue keys have their accounts."""
    known = [networks.to_caip2(name) for name in receivers]
    return next((name for name in known if name.startswith(networks.SOLANA)), networks.to_caip2(settings.svm_network))


def _off(what: str) -> ApiProblem:
    return ApiProblem(404, "not_offered", f"this gateway has no {what}")

"""Who may sell here besides the operator: taken by signature, tried out, and sold from then on (aimo rows 87, 90).

    document ─▶ PENDING ─▶ its server is examined ─▶ ACTIVE (or CHECKED, until the operator says yes)
                                                 └▶ REFUSED, with what it does wrong

A provider changes its rates by sending another document: when nothing else has changed they hold at once. The newest
document wins, by the second that it states, so an old one that is sent again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from x402 import networks
from x402.errors import MalformedError, Mender, UnavailableError
from x402.gateway.inference.catalogue import Model
from x402.gateway.inference.conformance import Report, examine
from x402.gateway.inference.offer import AGE_LIMIT_SECONDS, CODE, Offer, read_offer, read_signed
from x402.gateway.inference.provider_key import seal, unseal
from x402.gateway.inference.upstream import UpstreamClient
from x402.gateway.problem import ApiProblem
from x402.ports import Clock
from x402.ports.providers import ProviderBook, RegisteredProvider, Standing
from x402.telemetry import Telemetry

_PENDING_LIMIT = 100
"""How many documents may wait for their check: a flood of registrations is turned away."""


class Admission(StrEnum):
    """Who becomes a provider: nobody, whom the operator lets in, or whoever passes the check."""

    OFF = "off"
    REVIEW = "review"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What the operator decided. `domain` is what documents are signed for; `secrets` seal the providers' keys;
    `trusted_hosts` may lie in a private network."""

    domain: str
    admission: Admission
    secrets: Sequence[bytes]
    trusted_hosts: frozenset[str] = frozenset()


class Registrar:
    """The providers of one gateway. `on_change` is called when other offers hold."""

    def __init__(
        self,
        book: ProviderBook,
        client: UpstreamClient,
        house: House,
        *,
        clock: Clock,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.book = book
        self._client = client
        self._house = house
        self._clock = clock
        self._telemetry = telemetry or Telemetry()
        self._offers: tuple[Model, ...] = ()
        self._checks: set[asyncio.Task[None]] = set()
        self.on_change: Callable[[], None] = lambda: None

    def offers(self) -> Sequence[Model]:
        """The models of active providers, as they were read last."""
        return self._offers

    async def refresh(self) -> None:
        """Read the active providers again: another replica may have let one in. Raises `UnavailableError`."""
        known = await self.book.providers([Standing.ACTIVE])
        offers = tuple(model for provider in known for model in self._models(provider))
        if offers != self._offers:
            self._offers = offers
            self.on_change()

    async def submit(self, body: bytes) -> RegisteredProvider:
        """Take a signed document; its server is examined in the background, where that is needed.

        Raises `ApiProblem`: 400 for a document that is wrong, 403 where nobody is let in, 409 for an old one.
        """
        if self._house.admission is Admission.OFF:
            raise ApiProblem(403, "registration_closed", "this gateway takes no registrations")
        try:
            signed = read_signed(body, domain=self._house.domain)
            offer = self._read(signed.document, signed.id)
            if abs(self._clock() - offer.issued_at) > AGE_LIMIT_SECONDS:
                raise MalformedError(CODE, f"issued_at: within {AGE_LIMIT_SECONDS} seconds of now")
        except MalformedError as error:
            raise ApiProblem(400, error.code, error.message, kind="invalid_request_error") from error
        known = await self.book.provider(signed.id)
        wanted = RegisteredProvider(
            id=signed.id,
            account=signed.account,
            offer=offer.public,
            issued_at=offer.issued_at,
            sealed_key=seal(offer.api_key, signed.id, self._house.secrets),
            standing=self._standing(known, offer),
        )
        if wanted.standing is Standing.PENDING:
            await self._check_room()
        if not await self.book.register(wanted):
            words = "a document as new as this is known, or the operator has disabled this provider"
            raise ApiProblem(409, "stale_document", words)
        self._telemetry.emit("provider.registered", provider=signed.id, standing=str(wanted.standing))
        if wanted.standing is Standing.PENDING:
            self._start(self._examine(wanted))
        await self.refresh()
        return wanted

    async def admit(self, document: str, account: str) -> RegisteredProvider:
        """Take a document that its account has not signed, from the operator. Raises `MalformedError`."""
        network, _, address = account.rpartition(":")
        if networks.find(network) is None or not address:
            raise MalformedError(CODE, "account: a network and an address as CAIP-10, such as eip155:8453:0x…")
        offer = self._read(document, address)
        wanted = RegisteredProvider(
            id=address,
            account=account,
            offer=offer.public,
            issued_at=offer.issued_at,
            sealed_key=seal(offer.api_key, address, self._house.secrets),
        )
        if not await self.book.register(wanted):
            raise MalformedError(CODE, "issued_at: a document as new as this is known, or the provider is disabled")
        return wanted

    async def examine(self, provider: RegisteredProvider) -> tuple[Standing, list[Report]]:
        """Try a provider's models out, and write down how it stands now."""
        reports = []
        for model in self._models(provider):
            upstream = model.providers[0].upstream
            if upstream is not None:
                reports.append(await examine(self._client, upstream))
        wrong = [f"{report.model}: {report.failures}" for report in reports if not report.passed]
        passed = Standing.ACTIVE if self._house.admission is Admission.OPEN else Standing.CHECKED
        standing = Standing.REFUSED if wrong or not reports else passed
        reason = "; ".join(wrong)[:1000] or ("" if reports else "its API key cannot be read any more")
        await self.book.mark(provider.id, standing, reason, issued_at=provider.issued_at)
        self._telemetry.emit("provider.examined", provider=provider.id, standing=str(standing))
        return standing, reports

    async def resume(self) -> None:
        """Examine what an earlier process has left pending, and read who is active."""
        for provider in await self.book.providers([Standing.PENDING]):
            self._start(self._examine(provider))
        await self.refresh()

    async def close(self) -> None:
        """Stop examining; what is pending stays so."""
        for task in self._checks:
            task.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)

    async def drain(self) -> None:
        """Wait for the checks that are under way."""
        await asyncio.gather(*self._checks)

    def _start(self, check: Awaitable[None]) -> None:
        task = asyncio.ensure_future(check)
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _examine(self, provider: RegisteredProvider) -> None:
        try:
            await self.examine(provider)
            await self.refresh()
        except UnavailableError as error:
            # It stays pending, and is examined again at the next start.
            self._telemetry.emit("provider.unexamined", provider=provider.id, reason=error.code)

    def _standing(self, known: RegisteredProvider | None, offer: Offer) -> Standing:
        if offer.withdrawn:
            return Standing.DEPRECATED
        if known is not None and known.standing is Standing.ACTIVE:
            try:
                before = self._read(known.offer, known.id, unseal(known.sealed_key, known.id, self._house.secrets))
            except MalformedError:
                return Standing.PENDING
            if before.facts == offer.facts:
                return Standing.ACTIVE
        return Standing.PENDING

    async def _check_room(self) -> None:
        if len(await self.book.providers([Standing.PENDING])) >= _PENDING_LIMIT:
            words = "too many registrations wait to be checked"
            raise ApiProblem(503, "too_many_pending", words, mender=Mender.NOBODY, retry_after_seconds=60)

    def _models(self, provider: RegisteredProvider) -> Sequence[Model]:
        key = unseal(provider.sealed_key, provider.id, self._house.secrets)
        if key is None:
            return ()
        try:
            return self._read(provider.offer, provider.id, key).models
        except MalformedError:
            # It was good under other rules; under today's it is not sold.
            return ()

    def _read(self, document: str, provider: str, api_key: str | None = None) -> Offer:
        return read_offer(
            document,
            provider,
            now=self._clock(),
            api_key=api_key or "",
            trusted_hosts=self._house.trusted_hosts,
        )

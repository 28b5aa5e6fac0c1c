"""The first door of a gateway: who asks from where, how often, and how many of its quotes wait for a payment.

Every answer says how its caller stands (`X-RateLimit-*`, aimo row 56). Who asks too often gets a 429 in the shape of
its profile, before anything is read, priced or verified.
"""

from __future__ import annotations

from collections.abc import Callable

from x402.gateway import asgi
from x402.gateway.accounts.keys import KeyRing
from x402.gateway.envelope import EnvelopeRule, plain_envelope
from x402.gateway.operations.limits import FREE_TIER, Limits, Standing, TooMany
from x402.gateway.operations.peers import Network, client_of, household
from x402.gateway.replies import error_reply
from x402.gateway.sale import HeaderPairs
from x402.wire.headers import PAYMENT_HEADERS, PAYMENT_REQUIRED, values

RATE_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
FREE_PATHS = ("/health", "/ready", "/metrics")
"""What a probe asks is not counted."""


class Turnstile:
    """An ASGI app before another. `proxies` are trusted to tell whom they speak for; `keys` gives the ring, once it is
    open."""

    def __init__(
        self,
        app: asgi.App,
        *,
        limits: Limits,
        keys: Callable[[], KeyRing | None] = lambda: None,
        proxies: tuple[Network, ...] = (),
        envelope: EnvelopeRule = plain_envelope,
    ) -> None:
        self.app = app
        self._limits = limits
        self._keys = keys
        self._proxies = proxies
        self._envelope = envelope

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        peer = client_of(scope, self._proxies)
        scope.setdefault("state", {})["peer"] = peer
        headers = asgi.headers_of(scope)
        pays = any(values(headers, name) for name in PAYMENT_HEADERS)
        try:
            standing = None if scope["path"] in FREE_PATHS else await self._count(peer, headers)
        except TooMany as refusal:
            await self._refuse(scope, send, refusal.beside_a_payment() if pays else refusal)
            return
        await self.app(scope, receive, _Exit(self, scope, send, peer, standing, pays=pays).send)

    async def _count(self, peer: str, headers: HeaderPairs) -> Standing | None:
        """A known key is counted for itself, whatever the address; anything else by the address."""
        authorizations = values(headers, "Authorization")
        keys = self._keys() if authorizations else None
        key = None if keys is None else await keys.known(authorizations)
        if key is not None:
            return await self._limits.hit("key", key.key_id, self._limits.pace.of(key.tier))
        if self._limits.is_exempt(peer):
            return None
        return await self._limits.hit("address", household(peer), self._limits.pace.of(FREE_TIER))

    async def _refuse(
        self, scope: asgi.Scope, send: asgi.Send, refusal: TooMany, standing: Standing | None = None
    ) -> None:
        target, headers = asgi.target_of(scope), asgi.headers_of(scope)
        status, told, body = error_reply(refusal, envelope=self._envelope(target, headers))
        standing = standing or refusal.standing
        own = () if standing is None else standing.headers
        await asgi.send_plain(send, (status, (*told, *own), body))

    async def quote(self, scope: asgi.Scope, send: asgi.Send, peer: str, standing: Standing | None) -> bool:
        """Whether a 402 may go out; when not, the refusal has gone out in its place."""
        try:
            await self._limits.quoted(peer)
        except TooMany as refusal:
            await self._refuse(scope, send, refusal, standing)
            return False
        return True

    async def paid(self, peer: str) -> None:
        """Somebody has paid."""
        await self._limits.paid(peer)

    def counts(self, peer: str) -> bool:
        """Whether the quotes of an address are counted."""
        return not self._limits.is_exempt(peer)


class _Exit:
    """One response on its way out."""

    def __init__(
        self, door: Turnstile, scope: asgi.Scope, send: asgi.Send, peer: str, standing: Standing | None, *, pays: bool
    ) -> None:
        self._door, self._scope, self._send = door, scope, send
        self._peer, self._standing, self._pays = peer, standing, pays
        self._refused = False

    async def send(self, message: asgi.Message) -> None:
        if message["type"] == "http.response.start" and self._door.counts(self._peer):
            offers = any(name.lower() == PAYMENT_REQUIRED.lower().encode() for name, _ in message["headers"])
            if message["status"] == 402 and offers:
                self._refused = not await self._door.quote(self._scope, self._send, self._peer, self._standing)
            elif self._pays and message["status"] < 400:
                await self._door.paid(self._peer)
        if self._refused:
            return
        if message["type"] == "http.response.start" and self._standing is not None:
            own = [(name.lower().encode(), value.encode()) for name, value in self._standing.headers]
            message["headers"] = [*message["headers"], *own]
        await self._send(message)

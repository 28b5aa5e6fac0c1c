"""What the facilitator can settle, remembered for a moment so that a challenge costs no round trip."""

from __future__ import annotations

import asyncio
from typing import Protocol

from x402 import networks
from x402.errors import MalformedError, UnavailableError
from x402.ports import Clock
from x402.wire.facilitation import Kind, Supported

KINDS_TTL_SECONDS = 30


class Supports(Protocol):
    """One facilitator, or several."""

    async def supported(self) -> Supported: ...


class Kinds:
    """The facilitator's `/supported`, cached for `ttl_seconds`; concurrent callers share one question.

    When the facilitator is away, what it said last goes on being offered: a payment that cannot be settled then is
    answered 503 and keeps its value. Without any answer yet there is nothing to offer.
    """

    def __init__(self, facilitator: Supports, *, clock: Clock, ttl_seconds: int = KINDS_TTL_SECONDS) -> None:
        self._facilitator = facilitator
        self._clock = clock
        self._ttl = ttl_seconds
        self._known: Supported | None = None
        self._stale_at = 0
        self._asking = asyncio.Lock()
        self._found: dict[tuple[str, str], Kind | None] = {}

    async def supported(self) -> Supported:
        """What can be settled. Raises `UnavailableError` when the facilitator never answered."""
        if self._known is None or self._clock() >= self._stale_at:
            async with self._asking:
                if self._known is None or self._clock() >= self._stale_at:
                    await self._ask()
        if self._known is None:
            raise UnavailableError("facilitator_unavailable", "the facilitator does not say what it can settle")
        return self._known

    def forget(self) -> None:
        """Ask anew at the next chance."""
        self._stale_at = 0

    async def find(self, scheme: str, network: str) -> Kind | None:
        """The kind for a scheme on a network, or None."""
        supported = await self.supported()
        if (scheme, network) not in self._found:
            self._found[scheme, network] = supported.find(scheme, network)
        return self._found[scheme, network]

    async def fee_payers(self, network: str) -> frozenset[str]:
        """Every address that may pay the fees of a payment that names one, as the facilitator announces them."""
        supported = await self.supported()
        signers = [
            address
            for pattern, addresses in supported.signers.items()
            if networks.matches(pattern, network)
            for address in addresses
        ]
        stated = [
            kind.extra.get("feePayer") or kind.extra.get("facilitatorAddress")
            for kind in supported.kinds
            if networks.matches(networks.to_caip2(kind.network), network)
        ]
        return frozenset([*signers, *(address for address in stated if isinstance(address, str))])

    async def _ask(self) -> None:
        known: Supported | None
        try:
            known = await self._facilitator.supported()
        except (UnavailableError, MalformedError):
            known = self._known and without_hints(self._known)
        self._known, self._found = known, {}
        # An outage is asked about again soon, but not by every request.
        self._stale_at = self._clock() + (self._ttl if known is not None else 1)


def without_hints(supported: Supported) -> Supported:
    """What goes on being offered when it can't be asked for anew: hints would be stale."""
    kinds = tuple(
        kind.model_copy(update={"extra": {name: kind.extra[name] for name in kind.extra if name not in HINTS}})
        for kind in supported.kinds
    )
    return supported.model_copy(update={"kinds": kinds})


HINTS = frozenset({"recentBlockhash", "lastValidBlockHeight"})
"""Members of `extra` that help to build a Solana transaction, and expire within a minute (protocol §4.2)."""

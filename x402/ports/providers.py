"""Providers that have registered themselves, and what they were paid: a book beside the payments.

All amounts are atomic USDC (6 decimals), times unix seconds. Every method may raise `UnavailableError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Standing(StrEnum):
    """How a registered provider stands."""

    PENDING = "pending"
    """Its document was taken, and nobody has looked at its server yet."""
    CHECKED = "checked"
    """Its server does what it should; the operator has to say yes."""
    ACTIVE = "active"
    REFUSED = "refused"
    """Its server does not do what it should: `reason` says what."""
    DEPRECATED = "deprecated"
    """It has withdrawn its offer."""
    DISABLED = "disabled"
    """The operator does not want it; no document of its own changes that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredProvider:
    """One provider as it last described itself. `id` is its address, `account` the CAIP-10 name of the wallet that
    signs for it and is paid, `offer` the document without its API key, and `sealed_key` that key, encrypted.

    `issued_at` is what the document says about itself: an older one never replaces a newer one.
    """

    id: str
    account: str
    offer: str
    issued_at: int
    standing: Standing = Standing.PENDING
    reason: str = ""
    sealed_key: str = ""
    created_at: int = 0
    updated_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Earned:
    """What a provider has earned before `until` and was not credited by `since`, when it was credited last; with it
    what is added as a bonus. Bills that were written late are in it, however old they are."""

    provider: str
    account: str
    since: int
    until: int
    answers: int
    earned: int
    bonus: int = 0

    @property
    def units(self) -> int:
        """What is paid."""
        return self.earned + self.bonus

    @property
    def id(self) -> str:
        """The name of this payout: there is one for a provider and a beginning."""
        return f"earned:{self.provider}:{self.since}"

    @property
    def payout_id(self) -> str:
        """The one name of its withdrawal."""
        return f"payout-{hashlib.sha256(self.id.encode()).hexdigest()[:40]}"

    @property
    def turn(self) -> tuple[int, str]:
        """In which order credits are paid out: batch by batch."""
        return self.until, self.provider

    @property
    def network(self) -> str:
        """The network on which it is paid."""
        return self.account.rpartition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How many of a provider's requests were answered in a span of time, and how many failed."""

    provider: str
    answered: int
    failed: int


class ProviderBook(Protocol):
    """Who has registered, how each did, and what each was paid."""

    async def register(self, provider: RegisteredProvider) -> bool:
        """Write what a provider says about itself; False when what is known is as new, or the operator has disabled
        it. The standing that is written is that of `provider`."""
        ...

    async def mark(self, id: str, standing: Standing, reason: str = "", *, issued_at: int | None = None) -> bool:
        """Write how a provider stands; False when there is none, or its document is another than `issued_at` says."""
        ...

    async def provider(self, id: str) -> RegisteredProvider | None: ...

    async def providers(self, standings: Collection[Standing] = ()) -> Sequence[RegisteredProvider]:
        """All of them, or those that stand so, the oldest first."""
        ...

    async def count(self, day: int, seen: Sequence[Seen]) -> None:
        """Add to what was seen on a day (its number since 1970, UTC)."""
        ...

    async def seen(self, since_day: int, until_day: int) -> Sequence[Seen]:
        """What was seen from a day on and before another, one line for each provider."""
        ...

    async def due(self, until: int) -> Sequence[Earned]:
        """What active and former providers have earned before `until` and were not credited yet, without a bonus."""
        ...

    async def credit(self, earned: Earned) -> bool:
        """Credit it to the provider's account, once; False when this span has been credited already."""
        ...

    async def outstanding(self) -> Sequence[Earned]:
        """What was credited and is not paid out, oldest first: not asked for, under way, or returned."""
        ...

    async def credited(self, provider: str = "", *, limit: int = 100) -> Sequence[Earned]:
        """What was credited, newest first."""
        ...

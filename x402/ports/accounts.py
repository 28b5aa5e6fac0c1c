"""What callers hold at the gateway, and what each answer came to: the books beside the payments.

All amounts are atomic USDC (6 decimals). An account is CAIP-10 (`eip155:8453:0x…`), or `key:<id>`. Both books stand in
the ledger's own database and are written by its thread, so what they say and what the payments say is one transaction.
Every method may raise `UnavailableError`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from x402.billing import Bill, EntryKind, Posting


class TooLittle(Exception):
    """An account, or a key's limit, does not cover what was asked. `scope` is `balance`, `key` or `gift`: what the
    operator gave is not paid out."""

    def __init__(self, scope: str, available: int, wanted: int) -> None:
        super().__init__(f"{wanted} units are wanted, and {available} are there ({scope})")
        self.scope, self.available, self.wanted = scope, available, wanted


class OtherRequest(Exception):
    """The caller has given this name to another request."""


class NotHeld(Exception):
    """This reservation is not open any more, or never was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What one account may spend, what is set aside for answers at work, and how much of both is a gift."""

    account: str
    units: int = 0
    reserved: int = 0
    gift: int = 0

    @property
    def withdrawable(self) -> int:
        """What may be paid out: gifts are spent, never paid out."""
        return max(0, self.units - self.gift)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountEntry:
    """One line of an account's statement; `at` is a unix second."""

    seq: int
    at: int
    account: str
    kind: EntryKind
    units: int
    held: int
    reference: str


class Held(StrEnum):
    """How a reservation stands."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The bound of one answer, set aside. `identifier` is the caller's own name for the request, `fingerprint` the
    digest of that request."""

    id: str
    account: str
    units: int
    key_id: str = ""
    fingerprint: str = ""
    identifier: str = ""
    state: Held = Held.OPEN


class Payout(StrEnum):
    """How a withdrawal stands."""

    ASKED = "asked"
    """Taken from the account; nothing is signed."""
    SENT = "sent"
    """Signed and durable; it may have left."""
    PAID = "paid"
    RETURNED = "returned"
    """Provably never left, and back in the account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """Money on its way from an account to the wallet that it belongs to; `header` is the signed payment. Times are
    unix seconds."""

    id: str
    account: str
    units: int
    state: Payout = Payout.ASKED
    header: str = ""
    pay_id: str = ""
    attempt: int = 0
    transaction: str = ""
    created_at: int = 0
    updated_at: int = 0


class AccountBook(Protocol):
    """Balances, and every movement that made them. No balance is ever below zero."""

    async def balance(self, account: str) -> Balance:
        """How an account stands; an unknown one is empty."""
        ...

    async def statement(self, account: str, *, limit: int = 100, before: int = 0) -> Sequence[AccountEntry]:
        """An account's entries, newest first; `before` is the `seq` of the last one that is known already."""
        ...

    async def post(self, posting: Posting) -> bool:
        """Book one movement; False when it was booked before. Raises `TooLittle`, having written nothing."""
        ...

    async def reserve(
        self, wanted: Reservation, *, lease_seconds: int, key_limit: int | None = None
    ) -> tuple[Reservation, bool]:
        """Set a bound aside: the reservation and True, or the older one of the same `identifier` and False.

        `key_limit` is what the key may spend in all its life. Raises `TooLittle`, or `OtherRequest` when the identifier
        belongs to another request; nothing was written then (fault G07).
        """
        ...

    async def settle(self, reservation: str, bill: Bill) -> Balance:
        """Debit what an answer cost, release the rest, and write its bill: one transaction. What was charged is never
        more than what was set aside. Raises `NotHeld`."""
        ...

    async def release(self, reservation: str) -> bool:
        """Give all of it back; False when it was not open any more."""
        ...

    async def keep(self, reservations: Collection[str], seconds: int) -> None:
        """Renew the leases of reservations whose answers are still being made."""
        ...

    async def release_abandoned(self, limit: int = 64) -> Sequence[str]:
        """Release what a process left behind when it died: reservations whose lease has ended."""
        ...

    async def reserved_as(self, account: str, identifier: str) -> Reservation | None:
        """The reservation with a caller's own name that was not released."""
        ...

    async def use_nonce(self, account: str, nonce: str, expires_at: int) -> bool:
        """Use up a nonce; False when the account has used it before. It is remembered until `expires_at` (G07)."""
        ...

    async def forget(self, before: int) -> None:
        """Delete the kept answers of reservations that ended at unix second `before` or earlier, and nonces that
        expired by now."""
        ...

    async def withdraw(self, wanted: Withdrawal, *, lease_seconds: int) -> tuple[Withdrawal, bool]:
        """Take what is to be paid out from its account: one winner for each id. Raises `TooLittle`."""
        ...

    async def move(self, withdrawal: Withdrawal, *, was: Withdrawal) -> bool:
        """Write how a withdrawal stands now, unless it has moved on from `was`; one that is RETURNED is back in the
        account in the same transaction."""
        ...

    async def withdrawal(self, id: str) -> Withdrawal | None: ...

    async def open_withdrawals(self, *, lease_seconds: int, limit: int = 16) -> Sequence[Withdrawal]:
        """Lease withdrawals that are not decided and that no other process works on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BillFilter:
    """Which bills: those that agree with every member that is not empty, made from unix second `since` on and before
    `until`."""

    account: str = ""
    key_id: str = ""
    provider: str = ""
    model: str = ""
    since: int = 0
    until: int = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class BillSum:
    """What a group of bills comes to. `group` holds the values that its bills have in common."""

    group: tuple[str, ...]
    bills: int
    quoted: int
    charged: int
    fee: int
    credited: int
    earned: int
    prompt_tokens: int
    completion_tokens: int
    images: int


GROUPS = ("account", "key_id", "model", "provider", "endpoint", "paid_by", "network", "outcome", "day")
"""What bills may be summed by; a day is its number since 1970, UTC."""


class BillBook(Protocol):
    """The bills: one row per answer, written with the money."""

    async def bill(self, bill_id: str) -> Bill | None: ...

    async def bills(
        self, wanted: BillFilter, *, limit: int = 100, before: tuple[int, str] | None = None
    ) -> Sequence[Bill]:
        """Bills, newest first; `before` is second and id of the last one that is known already."""
        ...

    async def sums(self, wanted: BillFilter, by: Sequence[str] = ()) -> Sequence[BillSum]:
        """Sums by any of `GROUPS`; without any, one sum of all, or none."""
        ...

    async def add(self, bill: Bill) -> bool:
        """Write a bill that moved no money, such as a free answer's; False when it is there already."""
        ...


class Accounts(AccountBook, BillBook, Protocol):
    """Both books of one gateway."""

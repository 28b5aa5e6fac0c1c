"""The durable memory behind `ports.Ledger`: SQLAlchemy Core on one thread, many writes to one commit.

Each method is one piece of work for `ledger_thread`; what the work is stands in `ledger_rows`, `nonce_book`, `leases`
and `spending`. Every change of state is checked against the law of `lifecycle.py` in the very transaction that writes
it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Connection, literal, update

from x402.billing import Booking
from x402.lifecycle import Entry, Event, Party, Subject
from x402.ports import (
    Answer,
    Arrow,
    Clock,
    Instead,
    NonceBook,
    Room,
    Sign,
    SignAgain,
    SignTogether,
    account_rows,
    kept_answers,
    leases,
    ledger_questions,
    ledger_rows,
    nonce_book,
    spending,
    unsettled,
)
from x402.ports.leases import Lease
from x402.ports.ledger_ahead import Look
from x402.ports.ledger_entry import entry_of
from x402.ports.ledger_thread import LedgerThread
from x402.ports.prepared import Prepared
from x402.ports.schema import SCHEMA_VERSION, versions
from x402.stages import Stage, State

T = TypeVar("T")
_TOUCH = Prepared(update(versions).values(version=literal(SCHEMA_VERSION)))


def _wall_clock() -> int:
    return int(time.time())


class SqlLedger:
    """A ledger on SQLite (`sqlite:///path`, WAL, synchronous=FULL), on PostgreSQL (`postgresql://user@host/database`,
    several replicas to one), or in memory (`sqlite://`). Raises `MisconfiguredError` for any other address.

    Use as an async context manager, or call `start` and `close`. Leases that it takes are its own, not its process's:
    `holder` is a new random name for each.
    """

    def __init__(self, url: str = "sqlite://", *, clock: Clock = _wall_clock) -> None:
        self._thread = LedgerThread(url)
        self._clock = clock
        self.holder = secrets.token_hex(16)

    async def __aenter__(self) -> SqlLedger:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Open the database, creating it when it is new. Raises `MisconfiguredError` or `UnavailableError`."""
        await self._thread.start()

    async def close(self) -> None:
        """Finish what is queued and close the database."""
        await self._thread.close()

    @property
    def commits(self) -> int:
        """How many transactions were committed: fewer than writes, when writes came together."""
        return self._thread.commits

    # A payment's row.

    async def begin(
        self,
        entry: Entry,
        *,
        lease_seconds: int = 0,
        room: Room | None = None,
        identifier: str = "",
        arrows: Sequence[Arrow] = (),
        instead: Instead | None = None,
    ) -> tuple[Entry, bool]:
        lease, subject = self._lease(lease_seconds), entry.subject
        locks = [_row(entry.party, subject.pay_id)]
        if entry.party is Party.GATEWAY:
            locks.append(unsettled.LOCK)
        if identifier:
            locks.append(("identifier", subject.payer, identifier))
        claimed = subject if entry.party is Party.GATEWAY else None
        return await self._do(
            lambda connection: ledger_rows.open_row(connection, entry, lease, room, identifier, arrows, instead),
            *locks,
            look=Look(entry.party, subject.pay_id, to_write=True, subject=claimed, room=room),
        )

    async def intend(
        self, subject: Subject, signer: str, chain_nonce: int, sign: Sign, *, lease_seconds: int = 0
    ) -> tuple[Entry, bool]:
        lease = self._lease(lease_seconds)
        return await self._do(
            lambda connection: ledger_rows.intend(connection, subject, signer, chain_nonce, sign, lease),
            _row(Party.FACILITATOR, subject.pay_id),
            _book(signer),
            look=Look(Party.FACILITATOR, subject.pay_id, to_write=True),
        )

    async def intend_together(
        self, subjects: Sequence[Subject], signer: str, chain_nonce: int, sign: SignTogether
    ) -> Sequence[tuple[Entry, bool]]:
        lease = self._lease(0)
        return await self._do(
            lambda connection: ledger_rows.intend_together(connection, subjects, signer, chain_nonce, sign, lease),
            *(_row(Party.FACILITATOR, subject.pay_id) for subject in subjects),
            _book(signer),
        )

    async def sharing(self, network: str, signer: str, nonce: int, transaction: str) -> Sequence[Entry]:
        return await self._do(lambda connection: ledger_rows.sharing(connection, network, signer, nonce, transaction))

    async def replace_together(
        self, network: str, signer: str, nonce: int, transaction: str, sign: SignAgain, *, among: Collection[str]
    ) -> Sequence[Entry]:
        now = self._clock()
        return await self._do(
            lambda connection: ledger_rows.replace_together(
                connection, network, signer, nonce, transaction, sign, now, among
            ),
            _book(signer),
        )

    async def replace(
        self, pay_id: str, attempt: int, signer: str, chain_nonce: int, sign: Sign, *, keep_nonce: bool = False
    ) -> Entry:
        now = self._clock()
        return await self._do(
            lambda connection: ledger_rows.replace_attempt(
                connection, pay_id, attempt, signer, chain_nonce, sign, now, keep=keep_nonce
            ),
            _row(Party.FACILITATOR, pay_id),
            _book(signer),
            look=Look(Party.FACILITATOR, pay_id, to_write=True),
        )

    async def advance(
        self, party: Party, pay_id: str, event: Event, stage: Stage, *, booking: Booking | None = None
    ) -> Entry:
        return await self.follow(party, pay_id, ((event, stage),), booking=booking)

    async def follow(
        self,
        party: Party,
        pay_id: str,
        arrows: Sequence[Arrow],
        *,
        answer: Answer | None = None,
        forget_answer: bool = False,
        booking: Booking | None = None,
    ) -> Entry:
        now = self._clock()

        def follow(connection: Connection) -> Entry:
            entry = ledger_rows.move(connection, party, pay_id, arrows, now)
            if answer is not None:
                kept_answers.keep(connection, pay_id, answer, now)
            elif forget_answer:
                kept_answers.drop(connection, pay_id)
            if booking is not None:
                account_rows.book(connection, booking, now)
            if party is Party.GATEWAY:
                told = {event for event, _ in arrows}
                if Event.REORGANISE in told:
                    account_rows.reverse(connection, pay_id, now)
                if Event.FINALISE in told:
                    account_rows.restore(connection, pay_id, now)
            return entry

        names = [_row(party, pay_id), *(of_account(account) for account in (booking.accounts if booking else ()))]
        if party is Party.GATEWAY:
            names.append(unsettled.LOCK)
        return await self._do(follow, *names, look=Look(party, pay_id, to_write=True))

    async def lease(self, party: Party, pay_id: str, seconds: int) -> bool:
        lease = self._lease(seconds)
        return await self._do(lambda connection: leases.take(connection, party, pay_id, lease), _row(party, pay_id))

    async def end_lease(self, party: Party, pay_id: str) -> None:
        await self._do(lambda connection: leases.end(connection, party, pay_id, self.holder), _row(party, pay_id))

    async def take_open(
        self, party: Party, seconds: int, limit: int = 64, *, states: Collection[State] = ()
    ) -> Sequence[Entry]:
        lease = self._lease(seconds)

        def take(connection: Connection) -> Sequence[Entry]:
            return [entry_of(row) for row in leases.take_open(connection, party, lease, limit, states)]

        return await self._do(take)

    # Questions.

    async def find(self, party: Party, pay_id: str) -> Entry | None:
        return await self._ask(lambda connection: ledger_rows.find(connection, party, pay_id), look=Look(party, pay_id))

    async def held_elsewhere(self, party: Party) -> int:
        now = self._clock()
        return await self._ask(lambda connection: leases.held_elsewhere(connection, party, self.holder, now))

    async def unresolved(self, party: Party) -> Sequence[Entry]:
        return await self._ask(lambda connection: ledger_questions.unresolved(connection, party))

    async def totals(self, party: Party, state: State) -> dict[tuple[str, str], int]:
        return await self._ask(lambda connection: ledger_questions.totals(connection, party, state))

    async def failures_of(self, party: Party, payer: str, since: int) -> int:
        return await self._ask(lambda connection: ledger_questions.failures_of(connection, party, payer, since))

    # Answers.

    async def keep_answer(self, pay_id: str, answer: Answer) -> None:
        now = self._clock()
        await self._do(lambda connection: kept_answers.keep(connection, pay_id, answer, now))

    async def answer(self, pay_id: str) -> Answer | None:
        return await self._ask(lambda connection: kept_answers.read(connection, pay_id))

    async def forget_answers(self, before: int) -> int:
        return await self._do(lambda connection: kept_answers.forget(connection, before))

    # Nonces and fees.

    async def nonces(self, network: str, signer: str) -> NonceBook:
        return await self._ask(lambda connection: nonce_book.read(connection, network, signer))

    async def return_nonce(self, network: str, signer: str, nonce: int) -> None:
        await self._do(lambda connection: nonce_book.give_back(connection, network, signer, nonce), _book(signer))

    async def withdraw_nonce(self, network: str, signer: str, nonce: int) -> bool:
        return await self._do(lambda connection: nonce_book.withdraw(connection, network, signer, nonce), _book(signer))

    async def spend(self, day: int, accounts: Mapping[str, int], units: int) -> str | None:
        return await self._do(
            lambda connection: spending.spend(connection, day, accounts, units),
            *(("spending", account) for account in accounts),
        )

    async def spent(self, day: int, account: str) -> int:
        return await self._ask(lambda connection: spending.spent(connection, day, account))

    async def burden(self, payer: str, since: int, day: int, accounts: Sequence[str]) -> tuple[int, Sequence[int]]:
        def look(connection: Connection) -> tuple[int, Sequence[int]]:
            failed = ledger_questions.failures_of(connection, Party.FACILITATOR, payer, since)
            return failed, [spending.spent(connection, day, account) for account in accounts]

        return await self._ask(look)

    async def ping(self) -> None:
        await self._do(_TOUCH.do)

    # For the books that stand beside the payments.

    @property
    def clock(self) -> Clock:
        """What this ledger takes for the time."""
        return self._clock

    def lease_for(self, seconds: int) -> Lease:
        """The right of this ledger's owner to work on a row, from now on."""
        return self._lease(seconds)

    async def run(self, work: Callable[[Connection], T], *locks: tuple[str, ...]) -> T:
        """Run a piece of another book's work as `LedgerThread.do` does."""
        return await self._do(work, *locks)

    def _lease(self, seconds: int) -> Lease:
        now = self._clock()
        return Lease(self.holder, now, now + seconds)

    async def _ask(self, work: Callable[[Connection], T], look: Look | None = None) -> T:
        return await self._do(work, look=look, writes=False)

    async def _do(
        self, work: Callable[[Connection], T], *locks: tuple[str, ...], look: Look | None = None, writes: bool = True
    ) -> T:
        return await self._thread.do(work, *locks, look=look, writes=writes)


def of_account(account: str) -> tuple[str, ...]:
    """The name under which one account is had by one transaction alone."""
    return ("account", account)


def _row(party: Party, pay_id: str) -> tuple[str, ...]:
    return ("row", str(party), pay_id)


def _book(signer: str) -> tuple[str, ...]:
    # One key signs on all networks, and a replacement is asked for without one.
    return ("nonces", signer)

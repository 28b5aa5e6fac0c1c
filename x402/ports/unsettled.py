"""What payers have promised a gateway and not paid yet, summed up as it changes (fault A08).

A claim is compared with what is open already, by its payer and in all. Those sums stand in rows of their own, written
in the transaction that moves a payment into or out of the states below, so that a claim costs the same however much is
open. A ledger that is opened counts them anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property

from sqlalchemy import Connection, delete, select

from x402.lifecycle import Entry, Party, Subject
from x402.ports import NoRoom, Room
from x402.ports.known import Known, Sum, known
from x402.ports.prepared import Insert, Prepared, value
from x402.ports.schema import payments, unsettled
from x402.stages import State

UNSETTLED = frozenset({State.CLAIMED, State.SERVED, State.SETTLING})
"""States in which a payer's money is promised and has not moved."""
LOCK = ("unsettled",)
"""Whoever writes to the sums has this name to itself."""

_FAILED_STATES = frozenset({State.REFUSED, State.REVERSED, State.LOST})
_PAID = (State.SETTLED, State.DELIVERED, State.OWED, State.CREDITED, State.RESTORED, State.FINAL)
has_paid = (payments.c.party == str(Party.GATEWAY)) & payments.c.state.in_([str(state) for state in _PAID])
"""Whether a payment has moved its money."""
has_failed = (
    payments.c.party.in_([str(Party.GATEWAY), str(Party.FACILITATOR)])
    & payments.c.state.in_([str(state) for state in sorted(_FAILED_STATES)])
    # What a facilitator refused without a transaction never left it, and cost nobody anything.
    & ((payments.c.party == str(Party.GATEWAY)) | payments.c.stage.not_like('%,"transaction":""}'))
)
"""Whether a payment failed that could have been settled."""

EVERYBODY = ""
"""The payer of a sum that is of all payers."""

_of_asset = (unsettled.c.network == value("network")) & (unsettled.c.asset == value("asset"))
_READ = Prepared(
    select(unsettled.c.payer, unsettled.c.units).where(_of_asset, unsettled.c.payer.in_([EVERYBODY, value("payer")]))
)
_DROP = Prepared(delete(unsettled).where(_of_asset, unsettled.c.payer == value("payer")))


def _newest(insert: Insert) -> object:
    row = insert(unsettled)
    return row.on_conflict_do_update(index_elements=["network", "asset", "payer"], set_={"units": row.excluded.units})


_WRITE = Prepared(_newest, ("network", "asset", "payer", "units"))
_LATELY = Prepared(
    select(payments.c.amount, payments.c.updated_at).where(
        has_paid,
        payments.c.payer == value("payer"),
        payments.c.updated_at >= value("since"),
        payments.c.network == value("network"),
        payments.c.asset == value("asset"),
    )
)
_FAILED = Prepared(
    select(payments.c.pay_id)
    .where(payments.c.payer == value("payer"), payments.c.updated_at >= value("since"))
    .where(has_failed)
    .limit(1)
)
_OPEN = Prepared(
    select(payments.c.network, payments.c.asset, payments.c.payer, payments.c.amount).where(
        payments.c.party == str(Party.GATEWAY), payments.c.state.in_([str(state) for state in sorted(UNSETTLED)])
    )
)
_SUMS = Prepared(select(unsettled.c.network, unsettled.c.asset, unsettled.c.payer, unsettled.c.units))


class Sums:
    """What is unsettled on a subject's network and asset now: asked when it is made, read when it is used."""

    def __init__(self, connection: Connection, subject: Subject, room: Room | None = None) -> None:
        self._subject, self._room = subject, room or Room()
        here, everybody, mine = known(connection) or Known(), *_keys(subject)
        self._here = here
        since, failures_since = self._room.since, self._room.failures_since
        if failures_since is not None:
            self._failed = _failed(connection, here, subject.payer, failures_since)
        if since is not None:
            self._lately = _paid(connection, here, mine, since)
        if everybody in here.unsettled and mine in here.unsettled:
            self.units = {key[2]: here.unsettled[key] for key in (everybody, mine)}
        else:
            self._asked = _READ.ask(connection, **_of_payer(mine))

    @cached_property
    def units(self) -> Mapping[str, int]:
        """By payer, and of everybody."""
        told = {row.payer: int(row.units) for row in self._asked.rows()}
        if self._here.remembers:
            self._here.unsettled |= {key: told.get(key[2], 0) for key in _keys(self._subject)}
        return told

    def check(self) -> None:
        """Raise `NoRoom` when a payment that is not written yet would leave more unsettled than may be."""
        subject, room = self._subject, self._room
        if room.failures_since is not None and self._failed():
            raise NoRoom("failures", 0, 0)
        lately = self._lately() if room.since is not None else 0
        scopes = (
            ("payer", room.payer, self.units.get(subject.payer, 0) + lately),
            ("total", room.total, self.units.get(EVERYBODY, 0)),
        )
        for scope, limit, units in scopes:
            if limit is not None and units + subject.amount > limit:
                doubtful = scope == "payer" and units - lately + subject.amount <= limit
                raise NoRoom(scope, units, limit, doubtful=doubtful)


def _failed(connection: Connection, here: Known, payer: str, since: int) -> Callable[[], bool]:
    """Ask whether a payment of his failed since."""
    known_since, last = here.failed.get(payer, (None, None))
    if known_since is not None and known_since <= since:
        return lambda: last is not None and last >= since
    asked = _FAILED.ask(connection, payer=payer, since=since)

    def read() -> bool:
        failed = asked.scalar() is not None
        if here.remembers and not failed:
            here.failed[payer] = since, None
        return failed

    return read


def _paid(connection: Connection, here: Known, mine: Sum, since: int) -> Callable[[], int]:
    """Ask how much he paid since."""
    known_since, told = here.paid.get(mine, (None, []))
    if known_since is not None and known_since <= since:
        units = sum(amount for at, amount in told if at >= since)
        return lambda: units
    asked = _LATELY.ask(connection, **_of_payer(mine), since=since)

    def read() -> int:
        paid = [(row.updated_at, int(row.amount)) for row in asked.rows()]
        if here.remembers:
            here.paid[mine] = since, paid
        return sum(amount for _, amount in paid)

    return read


def _keys(subject: Subject) -> tuple[Sum, Sum]:
    """The sum of everybody, and the payer's own."""
    return (subject.network, subject.asset, EVERYBODY), (subject.network, subject.asset, subject.payer)


def _of_payer(key: Sum) -> Mapping[str, str]:
    return dict(zip(("network", "asset", "payer"), key, strict=True))


def book(connection: Connection, before: State | None, after: Entry, sums: Sums | None = None) -> None:
    """Note what a payment's move, or its first memory, changes in the sums; `sums` are those that were asked before."""
    here = known(connection)
    if here is not None and after.state in _FAILED_STATES:
        here.failed.pop(after.subject.payer, None)
    if after.party is not Party.GATEWAY:
        return
    if here is not None and (after.state in _PAID) is not (before in _PAID):
        _note_paid(here, after)
    change = (after.state in UNSETTLED) - (before in UNSETTLED)
    if change:
        subject = after.subject
        units = (sums or Sums(connection, subject)).units
        for key in _keys(subject):
            _set(connection, key, units.get(key[2], 0) + change * subject.amount)


def _note_paid(here: Known, after: Entry) -> None:
    mine = _keys(after.subject)[1]
    if after.state in _PAID:
        here.note_paid(mine, after.updated_at, after.subject.amount)
    else:
        here.paid.pop(mine, None)


def recount(connection: Connection) -> None:
    """Sum up anew what the rows say, whoever wrote them."""
    counted: Counter[Sum] = Counter()
    for row in _OPEN.rows(connection):
        # What is no number was written by nobody here, and an audit tells it.
        units = int(row.amount) if str(row.amount).isdecimal() else 0
        for payer in (EVERYBODY, row.payer):
            counted[row.network, row.asset, payer] += units
    known = {(row.network, row.asset, row.payer): int(row.units) for row in _SUMS.rows(connection)}
    for key in known.keys() | counted.keys():
        if known.get(key, 0) != counted[key]:
            _set(connection, key, counted[key])


def _set(connection: Connection, key: Sum, units: int) -> None:
    here = known(connection)
    if here is not None:
        here.unsettled[key] = max(0, units)
    if units > 0:
        _WRITE.gather(connection, ("unsettled", *key), **_of_payer(key), units=str(units))
    else:
        # Whoever owes nothing has no row, so there are as many as there are payers at work.
        _DROP.gather(connection, ("unsettled", *key), **_of_payer(key))

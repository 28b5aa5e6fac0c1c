"""What payers have promised a gateway and not paid yet, summed up as it changes (fault A08).

A claim is compared with what is open already, by its payer and in all. Those sums stand in rows of their own, written
in the transaction that moves a payment into or out of the states below, so that a claim costs the same however much is
open. A ledger that is opened counts them anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

from sqlalchemy import Connection, delete, select

from x402.lifecycle import Entry, Party, Subject
from x402.ports import NoRoom, Room
from x402.ports.prepared import Insert, Prepared, value
from x402.ports.schema import payments, unsettled
from x402.stages import State

UNSETTLED = frozenset({State.CLAIMED, State.SERVED, State.SETTLING})
"""States in which a payer's money is promised and has not moved."""
LOCK = ("unsettled",)
"""Whoever writes to the sums has this name to itself."""

_PAID = (State.SETTLED, State.DELIVERED, State.OWED, State.CREDITED, State.RESTORED, State.FINAL)
_EVERYBODY = ""
_Key = tuple[str, str, str]

_of_asset = (unsettled.c.network == value("network")) & (unsettled.c.asset == value("asset"))
_READ = Prepared(
    select(unsettled.c.payer, unsettled.c.units).where(_of_asset, unsettled.c.payer.in_([_EVERYBODY, value("payer")]))
)
_DROP = Prepared(delete(unsettled).where(_of_asset, unsettled.c.payer == value("payer")))


def _newest(insert: Insert) -> object:
    row = insert(unsettled)
    return row.on_conflict_do_update(index_elements=["network", "asset", "payer"], set_={"units": row.excluded.units})


_WRITE = Prepared(_newest, ("network", "asset", "payer", "units"))
_LATELY = Prepared(
    select(payments.c.amount).where(
        payments.c.party == str(Party.GATEWAY),
        payments.c.payer == value("payer"),
        payments.c.state.in_([str(state) for state in _PAID]),
        payments.c.updated_at >= value("since"),
        payments.c.network == value("network"),
        payments.c.asset == value("asset"),
    )
)
_FAILED = Prepared(
    select(payments.c.pay_id)
    .where(payments.c.payer == value("payer"), payments.c.updated_at >= value("since"))
    .where(payments.c.party.in_([str(Party.GATEWAY), str(Party.FACILITATOR)]))
    .where(payments.c.state.in_([str(State.REFUSED), str(State.REVERSED), str(State.LOST)]))
    # What a facilitator refused without a transaction never left it, and cost nobody anything.
    .where((payments.c.party == str(Party.GATEWAY)) | payments.c.stage.not_like('%,"transaction":""}'))
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
        of_payer = {"network": subject.network, "asset": subject.asset, "payer": subject.payer}
        since, failures_since = self._room.since, self._room.failures_since
        self._failed = failures_since is not None and _FAILED.ask(connection, payer=subject.payer, since=failures_since)
        self._lately = since is not None and _LATELY.ask(connection, **of_payer, since=since)
        self._asked = _READ.ask(connection, **of_payer)

    @cached_property
    def units(self) -> Mapping[str, int]:
        """By payer, and of everybody."""
        return {row.payer: int(row.units) for row in self._asked.rows()}

    def check(self) -> None:
        """Raise `NoRoom` when a payment that is not written yet would leave more unsettled than may be."""
        subject, room = self._subject, self._room
        if self._failed and self._failed.scalar() is not None:
            raise NoRoom("failures", 0, 0)
        lately = sum(int(row.amount) for row in self._lately.rows()) if self._lately else 0
        scopes = (
            ("payer", room.payer, self.units.get(subject.payer, 0) + lately),
            ("total", room.total, self.units.get(_EVERYBODY, 0)),
        )
        for scope, limit, units in scopes:
            if limit is not None and units + subject.amount > limit:
                raise NoRoom(scope, units, limit)


def book(connection: Connection, before: State | None, after: Entry, sums: Sums | None = None) -> None:
    """Note what a payment's move, or its first memory, changes in the sums; `sums` are those that were asked before."""
    if after.party is not Party.GATEWAY:
        return
    change = (after.state in UNSETTLED) - (before in UNSETTLED)
    if change:
        subject = after.subject
        units = (sums or Sums(connection, subject)).units
        for payer in (_EVERYBODY, subject.payer):
            _set(connection, (subject.network, subject.asset, payer), units.get(payer, 0) + change * subject.amount)


def recount(connection: Connection) -> None:
    """Sum up anew what the rows say, whoever wrote them."""
    counted: Counter[_Key] = Counter()
    for row in _OPEN.rows(connection):
        # What is no number was written by nobody here, and an audit tells it.
        units = int(row.amount) if str(row.amount).isdecimal() else 0
        for payer in (_EVERYBODY, row.payer):
            counted[row.network, row.asset, payer] += units
    known = {(row.network, row.asset, row.payer): int(row.units) for row in _SUMS.rows(connection)}
    for key in known.keys() | counted.keys():
        if known.get(key, 0) != counted[key]:
            _set(connection, key, counted[key])


def _set(connection: Connection, key: _Key, units: int) -> None:
    network, asset, payer = key
    if units > 0:
        _WRITE.do(connection, network=network, asset=asset, payer=payer, units=str(units))
    else:
        # Whoever owes nothing has no row, so there are as many as there are payers at work.
        _DROP.do(connection, network=network, asset=asset, payer=payer)

"""What many pieces of work ask of the ledger, asked once for all of them, before the first of them begins.

A look that goes to PostgreSQL and back costs as much as everything that a claim writes. So what is known beforehand of
a piece of work - which payment it is about, and whose - is read for a whole transaction with a statement of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Connection, Select, String, bindparam, func, select, true

from x402.errors import UnavailableError
from x402.lifecycle import Party, Subject
from x402.ports import Room
from x402.ports.known import Known, Sum, remember
from x402.ports.ledger_entry import entry_of
from x402.ports.prepared import Answers, Prepared, value
from x402.ports.schema import payments, unsettled, whole_payments
from x402.ports.unsettled import EVERYBODY, has_failed, has_paid


@dataclass(frozen=True, slots=True)
class Look:
    """The payment that a piece of work is about, whether it has its name to itself, and what it claims."""

    party: Party
    pay_id: str
    to_write: bool = False
    subject: Subject | None = None
    room: Room | None = None


def _each(name: str, found: Select[Any], mine: ColumnElement[Any]) -> Select[Any]:
    """A search for each of the values that are given for `name`, where a column of the search is `mine`.

    A search with an offset is one that PostgreSQL makes by itself, value by value, by an index. Of `mine = ANY(...)`
    it may believe that reading the whole table is cheaper.
    """
    values = func.unnest(bindparam(name, type_=ARRAY(String), required=False))
    wanted = values.table_valued("value").render_derived(name="wanted")
    search = found.where(mine == wanted.c.value).correlate(wanted).offset(0).lateral("found")
    return select(search).select_from(wanted.join(search, true()))


_of_asset = (unsettled.c.network == value("network")) & (unsettled.c.asset == value("asset"))
_of_party = whole_payments.where(payments.c.party == value("party"))
_FIND = Prepared(_each("pay_ids", _of_party, payments.c.pay_id))
_FIND_TO_WRITE = Prepared(_each("pay_ids", _of_party.with_for_update(of=payments), payments.c.pay_id))
_SUMS = Prepared(_each("payers", select(unsettled.c.payer, unsettled.c.units).where(_of_asset), unsettled.c.payer))
_conduct = select(
    payments.c.network, payments.c.asset, payments.c.payer, payments.c.updated_at, payments.c.amount
).where(payments.c.updated_at >= value("since"))
_FAILED = Prepared(
    _each(
        "payers",
        _conduct.where(has_failed).order_by(payments.c.updated_at.desc()).limit(1),
        payments.c.payer,
    )
)
_PAID = Prepared(_each("payers", _conduct.where(has_paid), payments.c.payer))


def read_ahead(connection: Connection, looks: Sequence[Look]) -> None:
    """Read what is looked for, and remember it for the rest of the transaction, which has the names it needs."""
    here = Known()
    asked = _ask_rows(connection, looks)
    _read_conduct(connection, here, [look for look in looks if look.subject is not None and look.room is not None])
    for (party, pay_id), row in _rows(asked):
        with suppress(UnavailableError):
            # A row that can't be read is the loss of those who ask for it, one by one.
            here.entries[str(party), pay_id] = None if row is None else entry_of(row)
    _read_sums(connection, here, looks)
    remember(connection, here)


_Names = tuple[Party, Sequence[str]]


def _ask_rows(connection: Connection, looks: Sequence[Look]) -> Sequence[tuple[_Names, Answers]]:
    to_write = {(look.party, look.pay_id) for look in looks if look.to_write}
    to_read = {(look.party, look.pay_id) for look in looks} - to_write
    asked = []
    for statement, names in ((_FIND_TO_WRITE, to_write), (_FIND, to_read)):
        for party in sorted({party for party, _ in names}):
            pay_ids = sorted(pay_id for whose, pay_id in names if whose is party)
            asked.append(((party, pay_ids), statement.ask(connection, party=str(party), pay_ids=pay_ids)))
    return asked


def _rows(asked: Sequence[tuple[_Names, Answers]]) -> Iterator[tuple[tuple[Party, str], Any | None]]:
    for (party, pay_ids), answers in asked:
        found = {row.pay_id: row for row in answers.rows()}
        for pay_id in pay_ids:
            yield (party, pay_id), found.get(pay_id)


def _read_conduct(connection: Connection, here: Known, claims: Sequence[Look]) -> None:
    """Who failed, and who paid how much, as far back as any of the claims asks."""
    rooms = [(look.subject, look.room) for look in claims if look.subject and look.room]
    failing = {subject.payer for subject, room in rooms if room.failures_since is not None}
    paying = {_mine(subject) for subject, room in rooms if room.since is not None}
    failed, paid = None, None
    failed_since = min((room.failures_since for _, room in rooms if room.failures_since is not None), default=0)
    paid_since = min((room.since for _, room in rooms if room.since is not None), default=0)
    if failing:
        failed = _FAILED.ask(connection, payers=sorted(failing), since=failed_since)
    if paying:
        paid = _PAID.ask(connection, payers=sorted({payer for _, _, payer in paying}), since=paid_since)
    if failed is not None:
        last = {row.payer: row.updated_at for row in failed.rows()}
        here.failed = {payer: (failed_since, last.get(payer)) for payer in failing}
    if paid is not None:
        here.paid = {key: (paid_since, []) for key in paying}
        for row in paid.rows():
            key = (row.network, row.asset, row.payer)
            here.paid.setdefault(key, (paid_since, []))[1].append((row.updated_at, int(row.amount)))


def _read_sums(connection: Connection, here: Known, looks: Sequence[Look]) -> None:
    """What is unsettled now, of everybody and of each payer who is claimed from or whose payment may move."""
    moving = [here.entries.get((str(look.party), look.pay_id)) for look in looks if look.to_write]
    subjects = [look.subject for look in looks if look.subject is not None]
    subjects += [entry.subject for entry in moving if entry is not None and entry.party is Party.GATEWAY]
    payers: dict[tuple[str, str], set[str]] = {}
    for network, asset, payer in map(_mine, subjects):
        payers.setdefault((network, asset), {EVERYBODY}).add(payer)
    asked = {
        (network, asset): _SUMS.ask(connection, network=network, asset=asset, payers=sorted(names))
        for (network, asset), names in payers.items()
    }
    for (network, asset), answers in asked.items():
        here.unsettled |= {(network, asset, payer): 0 for payer in payers[network, asset]}
        here.unsettled |= {(network, asset, row.payer): int(row.units) for row in answers.rows()}


def _mine(subject: Subject) -> Sum:
    return (subject.network, subject.asset, subject.payer)

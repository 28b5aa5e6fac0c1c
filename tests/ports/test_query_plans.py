"""No statement on a payment's way looks at more rows than it needs: every one of them searches by an index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from x402.lifecycle import Party, open_states
from x402.ports import kept_answers, leases, ledger_questions, ledger_rows, nonce_book, spending, unsettled
from x402.ports.prepared import Prepared
from x402.ports.schema import metadata

MODULES: tuple[ModuleType, ...] = (
    kept_answers, leases, ledger_questions, ledger_rows, nonce_book, spending, unsettled,
)  # fmt: skip
WHOLE = {"_SUMS"}
"""Read from end to end, and only when a ledger is opened."""


def statements() -> Iterator[tuple[str, Prepared]]:
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, Prepared):
                yield f"{module.__name__.rpartition('.')[2]}.{name}", value
    for party in (Party.GATEWAY, Party.FACILITATOR):
        for index, made in enumerate(leases._open_rows(party, frozenset())):
            yield f"leases._open_rows({party})[{index}]", made
        yield f"leases._open_rows({party}, one)", leases._open_rows(party, frozenset([min(open_states(party))]))[0]
        yield f"ledger_questions._unresolved({party})", ledger_questions._unresolved(party)


def plan(connection: Connection, statement: Prepared) -> list[str]:
    compiled = statement._for(connection.dialect)
    values = {**dict.fromkeys(re.findall(r":(\w+)", compiled.text)), **compiled.constants}
    rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + compiled.text, values)
    return [row[3] for row in rows]


@pytest.fixture(scope="module")
def empty() -> Iterator[Connection]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.mark.parametrize(("name", "statement"), [pytest.param(*one, id=one[0]) for one in statements()])
def test_it_searches(empty: Connection, name: str, statement: Prepared) -> None:
    steps = plan(empty, statement)
    if name.rpartition(".")[2] in WHOLE:
        assert steps == ["SCAN unsettled"]
    else:
        assert not [step for step in steps if step.startswith("SCAN")], steps


@pytest.mark.parametrize("party", [Party.GATEWAY, Party.FACILITATOR])
def test_open_rows_come_in_their_order_from_an_index(empty: Connection, party: Party) -> None:
    """However many there are, those that are taken next are found at once."""
    for statement in leases._open_rows(party, frozenset()):
        steps = plan(empty, statement)
        assert steps[0] == "SEARCH payments USING INDEX payments_by_turn (party=?)"
        assert not [step for step in steps if "ORDER BY" in step]


def test_the_control_finds_a_scan(empty: Connection) -> None:
    from sqlalchemy import select

    from x402.ports.prepared import value
    from x402.ports.schema import payments

    everything = Prepared(select(payments.c.pay_id).where(payments.c.payee == value("payee")))
    assert plan(empty, everything)[0].startswith("SCAN")

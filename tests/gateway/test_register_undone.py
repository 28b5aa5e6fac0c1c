"""What a register does about a payment that a fork has undone, before its answer went out or after it (fault A16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.gateway.chain_view import View, nodes_of
from tests.gateway.desk import EVM, Desk
from x402.errors import PendingError, RefusedError
from x402.gateway.job import Job
from x402.gateway.register import ME, Register
from x402.gateway.sale import Refusal
from x402.lifecycle import Event, Subject
from x402.ports.ledger import SqlLedger
from x402.stages import Delivered, Final, Lost, Restored, Reversed
from x402.wire.receipt import Receipt

PAID = "0x" + "ab" * 32


@pytest.fixture
def desk(shop: Any, town: Any) -> Desk:
    return Desk(shop, town)


class Landing(View):
    """What a chain says about a transfer that it has lost, and under which id it was asked for."""

    def __init__(self, bank: Any) -> None:
        super().__init__(bank, EVM)
        self.ids: list[Sequence[str]] = []

    async def judge(self, subject: Subject, transactions: Sequence[str] = (), **how: Any) -> Any:
        self.ids.append(transactions)
        return await super().judge(subject, transactions, **how)


@pytest.fixture
async def gone(desk: Desk, ledger: SqlLedger) -> Any:
    """A register and a job that a fork has undone, before its answer or after it."""
    view = Landing(desk.shop.bank)

    async def undo(*, served: bool) -> tuple[Register, Job, Landing]:
        register = await desk.open(flow="upfront", nodes=nodes_of(view))
        job = await desk.claim(register)
        await register.settle(job)
        register.watch._watched.clear()
        arrows = [(Event.DELIVER, Delivered(PAID))] if served else []
        lost = Lost(PAID) if served else Reversed(PAID)
        job.entry = await ledger.follow(ME, job.pay_id, [*arrows, (Event.REORGANISE, lost)])
        del desk.shop.bank.moved[job.pay_id]
        view.ids.clear()
        desk.shop.bank.asked.clear()
        desk.told()
        return register, job, view

    return undo


@pytest.mark.parametrize("served", [True, False])
async def test_A16_what_a_fork_undid_is_looked_for_under_its_own_name(desk: Desk, gone: Any, served: bool) -> None:
    register, job, view = await gone(served=served)
    desk.shop.bank.script = [lambda _, truth: Receipt.pending("", truth.network, truth.payer)]
    with pytest.raises(Refusal) as told:
        await register.restore(job)
    assert isinstance(told.value.error, PendingError)
    assert view.ids == [(PAID,)]
    # Only what brought no answer is worth sending again: its facilitator does that.
    assert desk.shop.bank.asked.count("settle") == (0 if served else 1)
    # A node that is away proves nothing, and nobody is handed anything meanwhile.
    view.away = True
    with pytest.raises(Refusal) as told:
        await register.restore(job)
    assert isinstance(told.value.error, PendingError)
    assert desk.shop.bank.asked.count("settle") == (0 if served else 1)
    # It landed again, for good.
    view.away, view.final = False, True
    desk.shop.bank.moved[job.pay_id] = "0x" + "cd" * 32
    desk.told()
    assert await register.restore(job) == "0x" + "cd" * 32
    assert desk.told() == ["sale.restored"]
    assert job.entry.stage == (Final if served else Restored)("0x" + "cd" * 32, 7)


async def test_A16_the_answer_to_what_was_undone_for_good_stays_lost(desk: Desk, gone: Any) -> None:
    register, job, view = await gone(served=True)
    view.dead.add(job.pay_id)
    with pytest.raises(Refusal) as told:
        await register.restore(job)
    assert isinstance(told.value.error, RefusedError)
    assert (told.value.error.code, job.entry.stage, desk.told()) == ("payment_reversed", Lost(PAID), [])


async def test_A16_what_another_replica_regained_first_is_regained(desk: Desk, gone: Any, ledger: SqlLedger) -> None:
    register, job, view = await gone(served=True)
    view.final = True
    desk.shop.bank.moved[job.pay_id] = PAID
    await ledger.advance(ME, job.pay_id, Event.FINALISE, Final(PAID, 9))
    assert await register.restore(job) == PAID
    assert job.entry.stage == Final(PAID, 9)

"""Receipts are compared with the real chains, afterwards: a forged one is marked, and no call waits for it (B13)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.facilitator.world import EvmShop, Meddled, SvmShop, hours_later, submit, transfer_call, unreachable
from x402.client.journal import Journal
from x402.client.receipts import Checked, check, unchecked
from x402.client.record import Finding
from x402.lifecycle import Event
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports import Chains
from x402.stages import Settled, State
from x402.wire.receipt import Receipt

from .test_resolve import expose, land, past

FOREIGN = "0x" + "ab" * 32


def settle(journal: Journal, payment: Any, offer: Any, transaction: str) -> str:
    """A payment that was answered, with a receipt that names this transaction."""
    pay_id = expose(journal, payment, offer)
    receipt = Receipt.settled(transaction, offer.network, None)
    journal.conclude(pay_id, event=Event.SETTLE, stage=Settled(transaction), receipt=receipt, answered=True)
    return pay_id


async def look(journal: Journal, **chains: Any) -> list[Checked]:
    """What is found about every receipt that nobody has looked at."""
    known = Chains(
        evm={BASE_SEPOLIA: chains["evm"]} if "evm" in chains else {},
        svm={SOLANA_DEVNET: chains["svm"]} if "svm" in chains else {},
    )
    return await check(journal, unchecked(journal.records()), lambda _: known, lambda: 77)


class TestEvm:
    async def test_B13_a_true_receipt_is_confirmed_once(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        payment = world.pay()
        transaction = await submit(world, transfer_call(payment))
        settle(journal, payment, world.offer, transaction.upper().replace("0X", "0x"))
        [found] = await look(journal, evm=world.chain)
        assert found.record.check is not None
        assert (found.record.check.finding, found.record.check.at) == (Finding.CONFIRMED, 77)
        assert journal.records()[0] == found.record
        assert await look(journal, evm=world.chain) == []

    async def test_B13_the_transaction_of_another_payment_is_disputed(self, evm_devnet: EvmWorld) -> None:
        """Same payer, payee and amount; only the nonce tells them apart. Another one may make it while it lives."""
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        other = await submit(world, transfer_call(world.pay()))
        mine = world.pay()
        settle(journal, mine, world.offer, other)
        [early] = await look(journal, evm=world.chain)
        assert early.record.check is None
        assert "ask again later" in early.words
        [dead] = await look(journal, evm=Meddled(world.chain, time_of=hours_later(world)))
        assert dead.record.check is not None
        assert dead.record.check.finding is Finding.DISPUTED
        assert "nor did any other" in dead.words
        assert dead.record.state is State.SETTLED

        really = await submit(world, transfer_call(mine))
        late = Journal(":memory:", clock=past(0))
        settle(late, mine, world.offer, other)
        [found] = await look(late, evm=world.chain)
        assert found.record.check is not None
        assert found.record.check.finding is Finding.DISPUTED
        assert really in found.words

    @pytest.mark.parametrize("named", [FOREIGN, "0xnonsense"])
    async def test_B13_what_no_chain_knows_is_disputed_once_the_payment_is_dead(
        self, evm_devnet: EvmWorld, named: str
    ) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        settle(journal, world.pay(), world.offer, named)
        [young] = await look(journal, evm=world.chain)
        assert young.record.check is None
        assert "ask again later" in young.words

        old = Journal(":memory:", clock=past(700))
        authorization = world.payer.authorize(world.offer)
        authorization = replace(authorization, valid_before=int(time.time()) - 60)
        settle(old, world.payer.sign(world.offer, authorization), world.offer, named)
        await evm_devnet.request("evm_mine")
        [found] = await look(old, evm=world.chain)
        assert found.record.check is not None
        assert found.record.check.finding is Finding.DISPUTED

    async def test_E01_a_node_that_is_away_disputes_nothing(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        settle(journal, world.pay(), world.offer, FOREIGN)
        for away in ({}, {"evm": Meddled(world.chain, receipt=unreachable)}):
            [found] = await look(journal, **away)
            assert found.error is not None
            assert found.record.check is None


class TestSvm:
    async def test_B13_a_true_receipt_and_a_strangers(self, svm_devnet: SvmWorld) -> None:
        world = await SvmShop.open(svm_devnet)
        mine, other = await world.pay(), await SvmShop.open(svm_devnet)
        # Somebody else pays the same seller as much.
        rival = other.payer.pay(world.offer, (await world.chain.blockhash()).hash)
        theirs, ours = await land(world, rival), await land(world, mine)
        true, forged = Journal(":memory:", clock=past(0)), Journal(":memory:", clock=past(0))
        settle(true, mine, world.offer, ours)
        settle(forged, mine, world.offer, theirs)
        [confirmed] = await look(true, svm=world.chain)
        [disputed] = await look(forged, svm=world.chain)
        assert confirmed.record.check is not None
        assert disputed.record.check is not None
        assert confirmed.record.check.finding is Finding.CONFIRMED
        assert disputed.record.check.finding is Finding.DISPUTED
        assert ours in disputed.words


async def test_only_receipts_that_claim_a_transfer_are_looked_at(evm_devnet: EvmWorld) -> None:
    world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
    expose(journal, world.pay(), world.offer)
    journal.conclude(expose(journal, world.pay(), world.offer), event=Event.SETTLE, stage=Settled(FOREIGN))
    assert unchecked(journal.records()) == []

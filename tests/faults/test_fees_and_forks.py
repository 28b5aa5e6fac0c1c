"""Blocks that don't take us, blocks that are taken back, and two processes with one key: A16, D03, E11.

The chain is a real EVM: it leaves cheap transactions in its pool, replaces those that are outbid, and goes back to a
block of the past when it is told to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.facilitator.world import BRIEF, EvmShop, Meddled, facilitator, ledger_at
from x402.chain import EvmFees
from x402.facilitator import reconcile
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.evm_sender import Gas
from x402.facilitator.service import unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.lifecycle import Entry, Outcome, Party
from x402.networks import BASE_SEPOLIA
from x402.ports.ledger import SqlLedger
from x402.stages import Final, Intended, Reversed, Settled
from x402.telemetry import Fact, Telemetry
from x402.wire.payment import Payment

ME = Party.FACILITATOR
CHEAP = EvmFees(max_fee=400_000, priority_fee=400_000)
"""Below what any block of the devnet takes."""


class Spike:
    """A facilitator that bids while gas is cheap, before it becomes dear, with a clock that can be moved on."""

    def __init__(self, shop: EvmShop, ledger: SqlLedger) -> None:
        self.shop, self.ledger, self.later, self.cheap = shop, ledger, 0, True
        self.sent: list[bytes] = []
        chain = Meddled(shop.chain, fees=self.fees, send=self.send)
        rail = EvmRail(BASE_SEPOLIA, chain, [shop.signer], lambda: unix_now() + self.later)
        self.party = facilitator([rail], ledger, BRIEF)

    async def fees(self) -> EvmFees:
        return CHEAP if self.cheap else await self.shop.chain.fees()

    async def send(self, raw: bytes, transaction: str) -> None:
        self.sent.append(raw)
        await self.shop.chain.send(raw, transaction)

    async def stuck(self, payment: Payment) -> Intended:
        """Settle while it is cheap; the attempt that no block takes."""
        pending = await self.party.settle(payment, self.shop.offer)
        assert (pending.outcome, bool(pending.transaction)) == (Outcome.PENDING, True)
        self.cheap = False
        return await self.intended()

    async def intended(self) -> Intended:
        (entry,) = await self.ledger.unresolved(ME)
        assert isinstance(entry.stage, Intended)
        return entry.stage


async def test_D03_nothing_more_is_bid_for_what_is_about_to_expire(evm: EvmShop, ledger: SqlLedger) -> None:
    spike, payment = Spike(evm, ledger), evm.pay(lifetime=60)
    first = await spike.stuck(payment)
    spike.later = 60 - 9
    assert (await spike.party.settle(payment, evm.offer)).outcome is Outcome.PENDING
    assert await spike.intended() == first
    assert len(set(spike.sent)) == 1


async def test_D03_the_bytes_that_were_outbid_may_land_and_count(evm: EvmShop, ledger: SqlLedger) -> None:
    """A block may take the cheaper bytes after all: it is the same payment, settled by another of its ids."""
    later, sent = [0], []

    async def only_once(raw: bytes, transaction: str) -> None:
        sent.append(transaction)
        if len(sent) == 1:
            await evm.chain.send(raw, transaction)

    rail = EvmRail(BASE_SEPOLIA, Meddled(evm.chain, send=only_once), [evm.signer], lambda: unix_now() + later[0])
    party, payment = facilitator([rail], ledger, BRIEF), evm.pay()
    await evm.world.request("evm_setAutomine", False)
    try:
        for later[0] in (0, 21):
            assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
    finally:
        await evm.world.request("evm_setAutomine", True)
    assert len(set(sent)) == 2
    settled = await party.settle(payment, evm.offer)
    assert (settled.success, settled.transaction) == (True, sent[0])
    assert (await evm.received(), await evm.sent()) == (1000, 1)


@asynccontextmanager
async def undone(shop: EvmShop) -> AsyncIterator[None]:
    """A fork: what happens inside is taken back."""
    before = await shop.world.request("evm_snapshot")
    yield
    assert await shop.world.request("evm_revert", before)


def slow_to_finish(shop: EvmShop) -> Any:
    """The shop's node, with a block final only below 64 others; by itself the devnet calls every block final."""

    async def finalized() -> int:
        return max(0, await shop.chain.block_number() - 64)

    return Meddled(shop.chain, finalized=finalized)


def watched(shop: EvmShop, ledger: SqlLedger) -> tuple[LocalFacilitator, list[Fact]]:
    facts: list[Fact] = []
    telemetry = Telemetry([facts.append])
    party = LocalFacilitator(
        [shop.rail(ledger, slow_to_finish(shop))], ledger, telemetry=telemetry, settle_timeout_seconds=5
    )
    return party, facts


async def only(ledger: SqlLedger, payment: Payment, shop: EvmShop) -> Entry:
    entry = await ledger.find(ME, shop.rail(ledger).read(payment, shop.offer).subject.pay_id)
    assert entry is not None
    return entry


@pytest.mark.parametrize("depth", [1, 2, 12])
async def test_A16_a_payment_that_a_fork_takes_back_is_reversed_in_the_open(
    evm: EvmShop, ledger: SqlLedger, depth: int
) -> None:
    party, facts = watched(evm, ledger)
    payment = evm.pay()
    async with undone(evm):
        assert (await party.settle(payment, evm.offer)).success
        if depth > 1:
            await evm.world.request("anvil_mine", hex(depth - 1))
    # The other branch is as long: absence proves something only to a node that is as far.
    await evm.world.request("anvil_mine", hex(depth))
    await party.reread(await only(ledger, payment, evm))
    entry = await only(ledger, payment, evm)
    assert isinstance(entry.stage, Reversed)
    assert [fact.name for fact in facts].count("settle.reversed") == 1
    assert await ledger.failures_of(ME, evm.payer.address, 0) == 1
    # Nobody is told of a success, nor of a refusal that would let the payer sign again.
    assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
    # The control: the authorization is as good as ever, and once it has landed again the books say so.
    await ledger.end_lease(ME, entry.subject.pay_id)
    await reconcile.run(party, timeout_seconds=BRIEF)
    await evm.world.request("anvil_mine", hex(80))
    await party.reread(await only(ledger, payment, evm))
    assert isinstance((await only(ledger, payment, evm)).stage, Final)
    assert (await evm.received(), await evm.sent()) == (1000, 1)


async def test_A16_a_node_that_is_behind_reverses_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    party, _ = watched(evm, ledger)
    payment = evm.pay()
    async with undone(evm):
        assert (await party.settle(payment, evm.offer)).success
    # The node is now one block short of the transfer, as one that lags would be.
    await party.reread(await only(ledger, payment, evm))
    assert isinstance((await only(ledger, payment, evm)).stage, Settled)


async def test_E11_two_processes_with_one_key_never_share_a_nonce(evm: EvmShop, tmp_path: Path) -> None:
    async with ledger_at(tmp_path) as one, ledger_at(tmp_path) as two:
        # Each payment in a transaction of its own, so that sixteen nonces are fought for.
        alone = Gas(bundle=0)
        parties = [facilitator([evm.rail(book, gas=alone)], book) for book in (one, two)]
        payments = [evm.pay() for _ in range(16)]
        settling = [parties[at % 2].settle(payment, evm.offer) for at, payment in enumerate(payments)]
        receipts = await asyncio.gather(*settling)
        assert [receipt.outcome for receipt in receipts] == [Outcome.SETTLED] * 16
        assert len({receipt.transaction for receipt in receipts}) == 16
        assert (await evm.received(), await evm.sent()) == (16_000, 16)
        assert (await one.nonces(BASE_SEPOLIA, evm.signer.address)).next == 16


async def test_E11_who_wakes_up_after_another_has_taken_over_moves_nothing(evm: EvmShop, tmp_path: Path) -> None:
    """One replica writes its intent down and is frozen before the send; another takes over,
    and the first one wakes up and goes on as if nothing had happened."""
    asleep, awake = asyncio.Event(), asyncio.Event()
    sent: list[bytes] = []

    async def send(raw: bytes, transaction: str) -> None:
        asleep.set()
        await awake.wait()
        sent.append(raw)
        await evm.chain.send(raw, transaction)

    clock = [unix_now()]
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    async with SqlLedger(url, clock=lambda: clock[0]) as one, SqlLedger(url, clock=lambda: clock[0]) as two:
        frozen = facilitator([evm.rail(one, Meddled(evm.chain, send=send))], one)
        payment = evm.pay()
        settling = asyncio.create_task(frozen.settle(payment, evm.offer))
        await asyncio.wait_for(asleep.wait(), 10)
        heir = facilitator([evm.rail(two)], two, BRIEF)
        clock[0] += 3600
        for _ in range(3):
            await reconcile.run(heir, timeout_seconds=BRIEF)
        settled = await heir.settle(payment, evm.offer)
        assert settled.success
        assert sent == []
        awake.set()
        late = await settling
        assert (late.outcome, late.transaction) == (Outcome.SETTLED, settled.transaction)
        assert (await evm.received(), await evm.sent()) == (1000, 1)
        # The control: neither replica is stuck.
        for party in (heir, facilitator([evm.rail(one)], one)):
            assert (await party.settle(evm.pay(), evm.offer)).success


async def test_control_a_payment_settles(evm: EvmShop, ledger: SqlLedger) -> None:
    receipt = await facilitator([evm.rail(ledger)], ledger).settle(evm.pay(), evm.offer)
    assert (receipt.success, await evm.received(), await evm.sent()) == (True, 1000, 1)

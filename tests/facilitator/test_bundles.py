"""Many payments in one transaction (design D8): each is written down, judged and refused alone, and none is paid twice.

Faults A06, A11, A13, A22, D01, D02, D03, D05, D11, E10.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tests.facilitator.world import (
    BRIEF,
    EvmShop,
    Meddled,
    facilitator,
    hours_later,
    ledger_at,
    submit,
    transfer_call,
    unreachable,
)
from tests.payments import EvmPayer, evm_requirement
from x402.chain import CallResult
from x402.errors import UnavailableError
from x402.facilitator import reconcile
from x402.facilitator.allowance import Allowance, Caps
from x402.facilitator.evm_sender import Gas
from x402.facilitator.service import unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.lifecycle import Entry, Outcome, Party
from x402.networks import BASE_SEPOLIA, MULTICALL3
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.stages import Intended, State
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

ME = Party.FACILITATOR
BURN_ALL = "0xfe"
"""Code that takes all the gas that it is given."""
SIGNS_ALL = "0x631626ba7e60e01b5f5260205ff3"
"""A wallet that calls every signature good: it returns 0x1626ba7e as one word."""


async def settled(party: LocalFacilitator, evm: EvmShop, payments: Sequence[Payment]) -> Sequence[Receipt]:
    """What becomes of payments that arrive together."""
    return await asyncio.gather(*(party.settle(payment, evm.offer) for payment in payments))


def arriving(evm: EvmShop, count: int, **instead: Any) -> Meddled:
    """The chain, which lets the first so many payments pass their checks in one moment."""
    everybody, answers = asyncio.Event(), 0

    async def at_once(answer: Any) -> Any:
        """Two questions are asked about each payment, and the last answer brings all of them."""
        nonlocal answers
        answers += 1
        if answers == 2 * count:
            everybody.set()
        await everybody.wait()
        return answer

    async def code(address: str) -> bytes:
        return cast(bytes, await at_once(await evm.chain.code(address)))

    async def call(to: str, data: bytes, **how: Any) -> CallResult:
        said = await evm.chain.call(to, data, **how)
        return cast(CallResult, await at_once(said)) if to == MULTICALL3 else said

    return Meddled(evm.chain, code=code, call=call, **instead)


async def waiting(ledger: SqlLedger) -> Sequence[Entry]:
    """The payments that the chain has not decided."""
    return [entry for entry in await ledger.unresolved(ME) if entry.state is State.INTENDED]


async def written(ledger: SqlLedger, count: int) -> None:
    """Until so many payments are waited for."""
    for _ in range(1000):
        if len(await waiting(ledger)) >= count:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{count} payments were never written down")


def attempts(entries: Sequence[Entry]) -> set[tuple[str, int | None, int, int]]:
    """The transactions that payments wait for: id, nonce, number of the attempt, and how many share it."""
    stages = [entry.stage for entry in entries if isinstance(entry.stage, Intended)]
    return {(one.transaction, one.nonce, one.attempt, one.shares) for one in stages}


async def gas_of(evm: EvmShop, transaction: str) -> int:
    """The gas that a transaction took."""
    return int((await evm.world.request("eth_getTransactionReceipt", transaction))["gasUsed"], 16)


async def test_a_hundred_at_once_are_few_transactions_and_cost_three_quarters(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger)], ledger)
    first = (await party.settle(evm.pay(), evm.offer)).transaction
    alone = (await party.settle(evm.pay(), evm.offer)).transaction
    receipts = await settled(party, evm, [evm.pay() for _ in range(100)])
    assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
    transactions = {receipt.transaction for receipt in receipts}
    assert len(transactions) == await evm.sent() - 2
    assert len(transactions) <= 5
    spent = sum([await gas_of(evm, transaction) for transaction in transactions])
    # The first payment of all opens the seller's account, which costs more; it is not what is compared with.
    assert await gas_of(evm, first) > await gas_of(evm, alone)
    assert spent <= 0.75 * 100 * await gas_of(evm, alone)
    assert await evm.received() == 102_000


async def test_light_load_waits_for_nobody(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger)], ledger)
    receipts = [await party.settle(evm.pay(), evm.offer) for _ in range(4)]
    assert len({receipt.transaction for receipt in receipts}) == await evm.sent() == 4


async def test_what_comes_while_one_is_in_the_air_leaves_together(evm: EvmShop, ledger: SqlLedger) -> None:
    gate = asyncio.Event()

    async def receipt(transaction: str, *, timeout: float) -> Any:
        await gate.wait()
        return await evm.chain.receipt(transaction, timeout=timeout)

    party = facilitator([evm.rail(ledger, Meddled(evm.chain, receipt=receipt))], ledger)
    first = asyncio.create_task(party.settle(evm.pay(), evm.offer))
    await written(ledger, 1)
    others = [asyncio.create_task(party.settle(evm.pay(), evm.offer)) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert len(await waiting(ledger)) == 1
    gate.set()
    receipts = await asyncio.gather(first, *others)
    assert len({receipt.transaction for receipt in receipts}) == await evm.sent() == 2
    assert await evm.received() == 4000


async def test_four_times_as_many_wait_for_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    never = asyncio.Event()

    async def receipt(transaction: str, *, timeout: float) -> Any:
        await never.wait()

    party = facilitator([evm.rail(ledger, Meddled(evm.chain, receipt=receipt))], ledger)
    calls: list[asyncio.Task[Receipt]] = []
    for count in (1, 4, 16):
        calls += [asyncio.create_task(party.settle(evm.pay(), evm.offer)) for _ in range(count)]
        await written(ledger, len(calls))
    assert {shares for _, _, _, shares in attempts(await waiting(ledger))} == {1, 4, 16}
    for call in calls:
        call.cancel()


async def test_a_payment_that_fails_among_others_fails_alone(evm: EvmShop, ledger: SqlLedger) -> None:
    """Three payments of one payer who has the money for two; each of them would settle by itself."""
    payer = EvmPayer()
    await evm.world.fund(payer.address, 2000)
    payments = [evm.pay(), *(payer.pay(evm.offer) for _ in range(3)), evm.pay()]
    party = facilitator([evm.rail(ledger, arriving(evm, 5))], ledger)
    receipts = await settled(party, evm, payments)
    assert [receipt.success for receipt in receipts] == [True, True, True, False, True]
    assert receipts[3].outcome is Outcome.PENDING, "anybody may submit it while it lives"
    assert (await evm.received(), await evm.sent()) == (4000, 1)
    later = facilitator([evm.rail(ledger, Meddled(evm.chain, time_of=hours_later(evm)))], ledger)
    refused = await later.settle(payments[3], evm.offer)
    assert refused.error_reason == "invalid_exact_evm_transfer_event_mismatch"
    # It is dead for good, although the payer has money again: nothing that was refused is ever paid.
    await evm.world.fund(payer.address, 1000)
    assert (await party.settle(payments[3], evm.offer)).outcome is Outcome.REFUSED
    assert await evm.received() == 4000


async def test_A11_a_stranger_who_settles_one_of_many_changes_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    payments, foreign = [evm.pay() for _ in range(4)], list[str]()

    async def overtaken(raw: bytes, transaction: str) -> None:
        foreign.append(await submit(evm, transfer_call(payments[2])))
        await evm.chain.send(raw, transaction)

    party = facilitator([evm.rail(ledger, arriving(evm, 4, send=overtaken))], ledger)
    receipts = await settled(party, evm, payments)
    assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
    assert [receipt.transaction == foreign[0] for receipt in receipts] == [False, False, True, False]
    assert (await evm.received(), await evm.sent()) == (4000, 1)


async def test_A06_A22_killed_before_the_send_each_is_settled_once(evm: EvmShop, tmp_path: Path) -> None:
    payments = [evm.pay() for _ in range(5)]

    async def cut(*_: Any) -> None:
        await asyncio.Event().wait()

    async with ledger_at(tmp_path) as ledger:
        party = facilitator([evm.rail(ledger, arriving(evm, 5, send=cut))], ledger)
        calls = [asyncio.create_task(party.settle(payment, evm.offer)) for payment in payments]
        await written(ledger, 5)
        for call in calls:
            call.cancel()
        assert len(attempts(await waiting(ledger))) == 1
        assert await evm.received() == 0
    async with ledger_at(tmp_path) as ledger:
        party = facilitator([evm.rail(ledger)], ledger)
        for _ in range(2):
            await reconcile.run(party)
        receipts = await settled(party, evm, payments)
        assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
        assert len({receipt.transaction for receipt in receipts}) == 1
    assert (await evm.received(), await evm.sent()) == (5000, 1)


async def test_A22_killed_before_the_receipts_each_is_found(evm: EvmShop, tmp_path: Path) -> None:
    payments = [evm.pay() for _ in range(5)]
    async with ledger_at(tmp_path) as ledger:
        blind = arriving(evm, 5, receipt=unreachable)
        receipts = await settled(facilitator([evm.rail(ledger, blind)], ledger, BRIEF), evm, payments)
        assert {receipt.outcome for receipt in receipts} == {Outcome.PENDING}
    async with ledger_at(tmp_path) as ledger:
        party = facilitator([evm.rail(ledger)], ledger)
        assert await reconcile.run(party) == 0
        again = await settled(party, evm, payments)
        assert [receipt.transaction for receipt in again] == [receipt.transaction for receipt in receipts]
        assert {receipt.outcome for receipt in again} == {Outcome.SETTLED}
    assert (await evm.received(), await evm.sent()) == (5000, 1)


async def test_D03_all_that_share_a_stuck_transaction_are_outbid_at_once(evm: EvmShop, ledger: SqlLedger) -> None:
    payments, sent = [evm.pay() for _ in range(6)], list[str]()

    async def stuck(raw: bytes, transaction: str) -> None:
        sent.append(transaction)

    party = facilitator([evm.rail(ledger, arriving(evm, 6, send=stuck), gas=Gas(patience=0))], ledger, BRIEF)
    await settled(party, evm, payments)
    ((transaction, nonce, attempt, shares),) = attempts(await waiting(ledger))
    # However many ask, the next bid is one more transaction with the same nonce.
    assert (nonce, attempt, shares) == (0, 2, 6)
    assert set(sent) == {sent[0], transaction}
    well = facilitator([evm.rail(ledger, gas=Gas(patience=0))], ledger)
    await reconcile.run(well)
    receipts = await settled(well, evm, payments)
    assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
    assert len({receipt.transaction for receipt in receipts}) == 1
    assert (await evm.received(), await evm.sent()) == (6000, 1)


async def test_D03_who_cannot_afford_a_higher_bid_is_left_out_of_it(evm: EvmShop, ledger: SqlLedger) -> None:
    poor, sent = EvmPayer(), list[str]()
    await evm.world.fund(poor.address, 10_000)
    payments = [evm.pay(), evm.pay(), poor.pay(evm.offer)]

    async def stuck(raw: bytes, transaction: str) -> None:
        sent.append(transaction)

    async def afford(subject: Any, fee: int) -> bool:
        return bool(subject.payer != poor.address)

    chain = arriving(evm, 3, send=stuck)
    party = facilitator([evm.rail(ledger, chain, gas=Gas(patience=0), afford=afford)], ledger, BRIEF)
    await settled(party, evm, payments)
    assert {(attempt, shares) for _, _, attempt, shares in attempts(await waiting(ledger))} == {(1, 3), (2, 2)}
    del chain.instead["send"]
    party = facilitator([evm.rail(ledger, chain, gas=Gas(patience=0), afford=afford)], ledger, 2)
    for _ in range(3):
        await reconcile.run(party)
    receipts = await settled(party, evm, payments)
    assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
    assert await evm.received() == 3000


async def test_D01_D02_a_refused_transaction_of_many_refuses_none_of_them(evm: EvmShop, ledger: SqlLedger) -> None:
    refused = list[str]()

    async def send(raw: bytes, transaction: str) -> None:
        if not refused or transaction in refused:
            refused.append(transaction)
            raise NotSent("execution reverted")
        await evm.chain.send(raw, transaction)

    party = facilitator([evm.rail(ledger, arriving(evm, 4, send=send))], ledger, 3)
    payments = [evm.pay() for _ in range(4)]
    receipts = await settled(party, evm, payments)
    assert Outcome.REFUSED not in {receipt.outcome for receipt in receipts}
    well = facilitator([evm.rail(ledger)], ledger)
    for _ in range(3):
        await reconcile.run(well)
    assert {receipt.outcome for receipt in await settled(well, evm, payments)} == {Outcome.SETTLED}
    assert (await well.settle(evm.pay(), evm.offer)).success
    book = await ledger.nonces(BASE_SEPOLIA, evm.signer.address)
    assert (await evm.received(), await evm.sent()) == (5000, book.next)


async def test_D05_code_that_burns_the_gas_of_all_delays_the_others_once(evm: EvmShop, ledger: SqlLedger) -> None:
    """The payer's account gets its code after it was checked, in the second before the block."""
    hostile, honest = EvmPayer(), [EvmPayer() for _ in range(3)]
    for payer in (hostile, *honest):
        await evm.world.fund(payer.address, 2000)
    armed = False

    async def send(raw: bytes, transaction: str) -> None:
        nonlocal armed
        if not armed:
            armed = True
            await evm.world.request("anvil_setCode", hostile.address, BURN_ALL)
        await evm.chain.send(raw, transaction)

    party = facilitator([evm.rail(ledger, arriving(evm, 4, send=send))], ledger)
    payments = [hostile.pay(evm.offer), *(payer.pay(evm.offer) for payer in honest)]
    receipts = await settled(party, evm, payments)
    assert [receipt.success for receipt in receipts] == [False, True, True, True]
    assert receipts[0].outcome is Outcome.PENDING
    assert await evm.received() == 3000
    # From now on the code is seen, and a payment that it would stop is refused before it travels.
    sent = await evm.sent()
    receipts = await settled(party, evm, [honest[0].pay(evm.offer), hostile.pay(evm.offer), honest[1].pay(evm.offer)])
    assert [receipt.success for receipt in receipts] == [True, False, True]
    assert sent < await evm.sent() <= sent + 2


async def test_D05_a_wallet_settles_alone(evm: EvmShop, ledger: SqlLedger) -> None:
    party, wallet = facilitator([evm.rail(ledger, arriving(evm, 3))], ledger), EvmPayer()
    await evm.world.fund(wallet.address, 1000)
    await evm.world.request("anvil_setCode", wallet.address, SIGNS_ALL)
    receipts = await settled(party, evm, [evm.pay(), wallet.pay(evm.offer), evm.pay()])
    assert all(receipt.success for receipt in receipts)
    assert receipts[0].transaction == receipts[2].transaction != receipts[1].transaction


async def test_what_would_be_too_old_waits_for_nobody(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger, arriving(evm, 3))], ledger)
    receipts = await settled(party, evm, [evm.pay(), evm.pay(lifetime=20), evm.pay()])
    assert all(receipt.success for receipt in receipts)
    assert receipts[0].transaction == receipts[2].transaction != receipts[1].transaction


async def test_whoever_wants_none_gets_none(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger, arriving(evm, 5), gas=Gas(bundle=0))], ledger)
    receipts = await settled(party, evm, [evm.pay() for _ in range(5)])
    assert all(receipt.success for receipt in receipts)
    assert len({receipt.transaction for receipt in receipts}) == await evm.sent() == 5


async def test_D11_each_payer_is_charged_its_share(evm: EvmShop, ledger: SqlLedger) -> None:
    budget = Allowance(ledger, {BASE_SEPOLIA: Caps(total=10**18, payer=10**17)}, unix_now)
    party = LocalFacilitator([evm.rail(ledger, afford=budget.afford)], ledger, allowance=budget)
    rail, payers = party.rails[BASE_SEPOLIA], [EvmPayer() for _ in range(3)]
    for payer in payers:
        await evm.world.fund(payer.address, 2000)
    before = await evm.world.wei(evm.signer.address)
    receipts = await settled(party, evm, [payer.pay(evm.offer) for payer in payers for _ in range(2)])
    assert len({receipt.transaction for receipt in receipts}) < 6
    await budget.drain()
    lost, day = before - await evm.world.wei(evm.signer.address), unix_now() // 86_400
    shares = [await ledger.spent(day, f"{BASE_SEPOLIA} payer {payer.address}") for payer in payers]
    assert min(shares) > 0
    assert 0 <= sum(shares) - lost < 6
    whole = await rail.cost(receipts[0].transaction)
    assert whole is not None
    assert await rail.cost(receipts[0].transaction, 7) == -(-whole // 7)


async def test_A13_two_texts_of_one_payment_in_one_batch_are_one(evm: EvmShop, ledger: SqlLedger) -> None:
    """The payer signs twice with one nonce, for two prices, and both arrive at once."""
    nonce, dear = secrets.token_bytes(32), evm_requirement(evm.offer.pay_to, 2000)
    cheap, expensive = evm.pay(nonce=nonce), evm.payer.pay(dear, nonce=nonce)
    party = facilitator([evm.rail(ledger, arriving(evm, 3))], ledger)
    receipts = await asyncio.gather(
        party.settle(cheap, evm.offer), party.settle(expensive, dear), party.settle(evm.pay(), evm.offer)
    )
    lost = receipts[0] if receipts[1].success else receipts[1]
    assert sorted(receipt.success for receipt in receipts) == [False, True, True]
    assert (receipts[2].success, lost.error_reason) == (True, "duplicate_settlement")
    assert await evm.received() == (3000 if receipts[1].success else 2000)


async def test_E10_a_ledger_that_writes_nothing_sends_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    meddled = Meddled(ledger, intend_together=unreachable)
    party = facilitator([evm.rail(meddled, arriving(evm, 3))], meddled)
    payments = [evm.pay() for _ in range(3)]
    refusals = await asyncio.gather(*(party.settle(one, evm.offer) for one in payments), return_exceptions=True)
    assert all(isinstance(one, UnavailableError) for one in refusals)
    assert await evm.sent() == 0
    meddled.instead.clear()
    assert all(receipt.success for receipt in await settled(party, evm, payments))
    assert await evm.received() == 3000


@pytest.mark.parametrize("keys", [2, 3])
async def test_several_keys_share_the_load(evm: EvmShop, ledger: SqlLedger, keys: int) -> None:
    spare = [await evm.spare_key() for _ in range(keys - 1)]
    party = facilitator([evm.rail(ledger, signers=[evm.signer, *spare])], ledger)
    rounds = [await settled(party, evm, [evm.pay() for _ in range(5)]) for _ in range(keys)]
    assert all(receipt.success for receipts in rounds for receipt in receipts)
    assert 0 < await evm.sent() < await evm.sent(*spare) < 5 * keys
    assert await evm.received() == 5000 * keys

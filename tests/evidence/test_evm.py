"""What an EVM network proves about a payment, with nobody's word for it. Faults A10, A11, A23, E01, E14."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.chains import EvmWorld
from tests.facilitator.world import EvmShop, Meddled, absent, cancel_call, submit, transfer_call, unreachable
from x402.chain import CallResult, EvmReceipt
from x402.errors import UnavailableError
from x402.evidence import Standing
from x402.evidence.evm import EvmWitness
from x402.facilitator.service import unix_now
from x402.lifecycle import Subject
from x402.networks import BASE_SEPOLIA
from x402.ports.ledger import SqlLedger
from x402.stages import Refused, Settled
from x402.wire.payment import Payment

SPENT = "invalid_exact_evm_nonce_already_used"
EXPIRED = "invalid_exact_evm_payload_authorization_valid_before"


@pytest.fixture
async def evm(evm_devnet: EvmWorld) -> AsyncIterator[EvmShop]:
    shop = await EvmShop.open(evm_devnet)
    yield shop
    await shop.chain.aclose()


def witness(evm: EvmShop, **instead: Any) -> EvmWitness:
    """A witness whose node misbehaves in these methods."""
    return EvmWitness(BASE_SEPOLIA, Meddled(evm.chain, **instead))


def subject_of(evm: EvmShop, payment: Payment) -> Subject:
    return evm.rail(SqlLedger()).read(payment, evm.offer).subject


async def later(evm: EvmShop, seconds: int) -> dict[str, Any]:
    """A node whose newest block is so much younger."""
    await evm.world.request("evm_mine")
    head = await evm.chain.block_number()

    async def time_of(block: int) -> int:
        return await evm.chain.time_of(block) + (seconds if block >= head else 0)

    return {"time_of": time_of}


async def test_a_transfer_is_found_without_its_id(evm: EvmShop) -> None:
    payment = evm.pay()
    subject = subject_of(evm, payment)
    assert await witness(evm).judge(subject) is None
    assert await witness(evm).spent_by(subject) is None
    transaction = await submit(evm, transfer_call(payment))
    height = await evm.chain.block_number()
    for found in (
        await witness(evm).judge(subject),
        await witness(evm).judge(subject, ["0x" + "12" * 32, transaction]),
        await witness(evm).spent_by(subject),
    ):
        assert found == Settled(transaction, height)
    assert await witness(evm).standing(subject, Settled(transaction, height)) == Standing(1, final=True)
    assert await witness(evm).balance(evm.offer.pay_to, evm.offer.asset) == 1000


async def test_A23_dead_is_what_the_chains_own_clock_says(evm: EvmShop) -> None:
    payment = evm.pay(lifetime=60)
    subject = subject_of(evm, payment)
    for seconds in (0, 60, 85):
        assert await witness(evm, **await later(evm, seconds)).judge(subject) is None
    dead = await witness(evm, **await later(evm, 100)).judge(subject)
    assert isinstance(dead, Refused)
    assert dead.reason == EXPIRED
    await submit(evm, transfer_call(payment))
    assert isinstance(await witness(evm, **await later(evm, 100)).judge(subject), Settled)


async def test_E01_a_node_that_lacks_the_block_cannot_call_it_dead(evm: EvmShop) -> None:
    subject, late = subject_of(evm, evm.pay(lifetime=60)), await later(evm, 1000)

    async def behind(to: str, data: bytes, *, block: int | None = None, **_: Any) -> CallResult:
        """The node that answers this one does not have the block that the other one named."""
        if block is not None:
            raise UnavailableError("rpc_unavailable", "header not found")
        return CallResult(True, bytes(32))

    lagging = witness(evm, call=behind, **late)
    assert await lagging.judge(subject) is None
    with pytest.raises(UnavailableError):
        await lagging.spent_by(subject)
    for silent in ("block_number", "time_of"):
        with pytest.raises(UnavailableError):
            await witness(evm, **late | {silent: unreachable}).judge(subject)
    assert isinstance(await witness(evm, **late).judge(subject), Refused)


async def test_E14_a_pruned_event_proves_nothing_and_a_cancelled_one_does(evm: EvmShop) -> None:
    payment, taken_back = evm.pay(), evm.pay()
    await submit(evm, transfer_call(payment))
    await submit(evm, cancel_call(evm.payer, taken_back))

    async def pruned(*_: Any) -> Sequence[Any]:
        return []

    forgetful = witness(evm, logs=pruned)
    assert await forgetful.judge(subject_of(evm, payment)) is None
    with pytest.raises(UnavailableError):
        await forgetful.spent_by(subject_of(evm, payment))
    for verdict in (
        await witness(evm).judge(subject_of(evm, taken_back)),
        await witness(evm).spent_by(subject_of(evm, taken_back)),
    ):
        assert isinstance(verdict, Refused)
        assert verdict.reason == SPENT


async def test_A16_what_a_fork_may_take_back_proves_no_end(evm: EvmShop) -> None:
    """A cancellation in a young block: a fork may put the transfer in its place."""
    taken_back = evm.pay(lifetime=60)
    await submit(evm, cancel_call(evm.payer, taken_back))
    subject, height = subject_of(evm, taken_back), await evm.chain.block_number()

    async def young() -> int:
        return height - 1

    for finalized in (young, unreachable):
        shallow = witness(evm, finalized=finalized)
        assert await shallow.judge(subject) is None
        with pytest.raises(UnavailableError):
            await shallow.spent_by(subject)
        # It says at once that a transfer which was there is gone.
        assert await shallow.standing(subject, Settled("0x" + "ab" * 32, height)) == Standing(0)
        # The payment's own end proves as much as a final block.
        assert isinstance(await witness(evm, finalized=finalized, **await later(evm, 1000)).judge(subject), Refused)
    assert isinstance(await witness(evm).judge(subject), Refused)


async def test_the_search_goes_backwards_window_by_window(evm: EvmShop) -> None:
    payment, asked = evm.pay(), []
    transaction = await submit(evm, transfer_call(payment))
    found = await evm.chain.logs(evm.offer.asset, ["0x" + "00" * 32], 0)
    assert found == []
    height = 10_000

    async def logs(asset: str, topics: Sequence[str], first: int, last: int) -> Sequence[Any]:
        asked.append((first, last))
        return await evm.chain.logs(asset, topics, 0) if first <= 3_000 <= last else []

    async def call(*_: Any, **__: Any) -> CallResult:
        return CallResult(True, (1).to_bytes(32, "big"))

    async def number() -> int:
        return height

    async def time_of(block: int) -> int:
        return unix_now() - 2 * (height - block)

    far = witness(evm, logs=logs, call=call, block_number=number, time_of=time_of)
    settled = await far.spent_by(subject_of(evm, payment))
    assert isinstance(settled, Settled)
    assert settled.transaction == transaction
    windows = sorted(set(asked), reverse=True)
    # No block is left out, none is asked for twice, and the search ends where the event is found.
    assert all(later_first == last + 1 for (later_first, _), (_, last) in itertools.pairwise(windows))
    assert windows[-1][0] <= 3_000 <= windows[-1][1]


async def test_A16_gone_is_proven_and_not_guessed(evm: EvmShop) -> None:
    payment, before = evm.pay(), await evm.world.request("evm_snapshot")
    subject = subject_of(evm, payment)
    transaction = await submit(evm, transfer_call(payment))
    settled = Settled(transaction, await evm.chain.block_number())
    await evm.world.request("evm_revert", before)
    # The chain is shorter than where the transfer was: it may still come.
    assert await witness(evm).standing(subject, settled) is None
    while await evm.chain.block_number() < settled.block:
        await evm.world.request("evm_mine")
    assert (await witness(evm).standing(subject, settled)) == Standing(0)
    again = await submit(evm, transfer_call(payment))
    standing = await witness(evm, receipt=_only(evm, again)).standing(subject, settled)
    assert standing is not None
    assert not standing.gone
    with pytest.raises(UnavailableError):
        await witness(evm, receipt=unreachable).standing(subject, settled)


async def test_A16_a_failure_speaks_for_its_own_bytes_alone(evm: EvmShop) -> None:
    """Other bytes that were signed for the same payment may still land, however final the failure is."""
    subject, first, second = subject_of(evm, evm.pay(lifetime=60)), "0x" + "01" * 32, "0x" + "02" * 32

    async def failed(transaction: str, *, timeout: float) -> EvmReceipt | None:
        return EvmReceipt(first, False, await evm.chain.block_number(), ()) if transaction == first else None

    for names in ([first], [second, first]):
        assert await witness(evm, receipt=failed).judge(subject, names) is None
        proof = await witness(evm, receipt=failed, **await later(evm, 100)).judge(subject, names)
        assert isinstance(proof, Refused)
        assert proof.transaction == first


async def test_a_network_without_final_blocks_has_depths_all_the_same(evm: EvmShop) -> None:
    payment = evm.pay()
    transaction = await submit(evm, transfer_call(payment))
    settled = Settled(transaction, await evm.chain.block_number())
    for _ in range(4):
        await evm.world.request("evm_mine")
    bare = witness(evm, finalized=unreachable)
    assert await bare.standing(subject_of(evm, payment), settled) == Standing(5)
    with pytest.raises(UnavailableError):
        await witness(evm, call=_says_nothing).balance(evm.offer.pay_to, evm.offer.asset)


async def _says_nothing(*_: Any, **__: Any) -> CallResult:
    return CallResult(True, b"")


def _only(evm: EvmShop, transaction: str) -> Any:
    """A node that knows this transaction and has forgotten the one that was undone."""

    async def receipt(name: str, *, timeout: float) -> Any:
        return await evm.chain.receipt(name, timeout=timeout) if name == transaction else await absent()

    return receipt

"""A fork between two answers of one node: no depth and no end is put together from both sides of it (fault A16).

The node takes its time to tell a height, and tells that of the fork which has won meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.evidence.evm_case import HERS, LANDED, NEW, OLD, Case
from tests.nodes import EvmNode
from x402.chain import EvmCall, EvmReceipt, Log
from x402.errors import PendingError
from x402.evidence import Standing
from x402.evidence.transfers import EvmTransfers
from x402.networks import BASE_SEPOLIA, get
from x402.schemes.eip712 import address_word, keccak, uint256
from x402.schemes.evm_payment import TRANSFER_TOPIC, topic_of
from x402.stages import Refused, Settled

HEIGHTS = pytest.mark.parametrize("which", ["block_number", "finalized"])


@dataclass
class Forking(EvmNode):
    """Another fork wins while a height is on its way for the n-th time."""

    which: str = ""
    at: int = 0
    fork: Callable[[], None] = field(default=lambda: None)

    async def block_number(self) -> int:
        await self._turn("block_number")
        return await super().block_number()

    async def finalized(self) -> int:
        await self._turn("finalized")
        return await super().finalized()

    async def _turn(self, name: str) -> None:
        # Whatever was asked together with the height is answered before it.
        await asyncio.sleep(0.001)
        if len(self.heard(name)) + 1 == self.at and name == self.which:
            self.fork()


class Forked(Case):
    """A payment on such a node."""

    def __init__(self, which: str, at: int, scheme: str = "exact") -> None:
        super().__init__(scheme)
        facts = {name: getattr(self.node, name) for name in ("second", "receipts", "calls", "events", "says")}
        self.node = self.forking = Forking(which=which, at=at, **facts)
        self.witness._chain = self.node
        self.node.height = LANDED

    def moves_on(self, *, by: int = 40) -> None:
        """The other fork is longer, and what was final is far above."""
        self.node.receipts.clear()
        self.node.events.clear()
        self.node.height += by
        self.node.second += 2 * by
        self.node.final = self.node.height - 1


@HEIGHTS
@pytest.mark.parametrize("scheme", ["exact", "upto"])
async def test_A16_a_transfer_that_a_fork_takes_back_is_not_buried_by_the_other_fork(which: str, scheme: str) -> None:
    case = Forked(which, 1, scheme)
    case.land(OLD, LANDED)
    case.forking.fork = case.moves_on
    assert await case.standing() == Standing(0)


async def test_A16_control_a_height_that_comes_late_without_a_fork_counts() -> None:
    case = Forked("block_number", 1)
    case.land(OLD, LANDED)
    case.spend()
    case.node.height, case.node.final = LANDED + 3, LANDED - 1
    assert await case.standing() == Standing(4)
    case.node.final = LANDED
    assert await case.standing() == Standing(4, final=True)


@pytest.mark.parametrize("scheme", ["exact", "upto"])
async def test_A16_a_receipt_of_a_node_that_was_left_on_a_lost_fork_has_no_depth(scheme: str) -> None:
    """Two nodes behind one address: one tells the height of the fork that has won, where nothing was spent."""
    case = Case(scheme)
    case.land(OLD, LANDED)
    for height in (LANDED, LANDED + 9):
        case.node.height, case.node.final = height, height
        assert await case.standing() is None
    # What landed after the height was told is one block deep, whatever the state was at that height.
    case.node.height = LANDED - 1
    assert await case.standing() == Standing(1, final=True)
    case.node.height = LANDED + 9
    case.say_spent(b"")
    assert await case.standing() is None
    case.spend()
    assert await case.standing() == Standing(10, final=True)


@HEIGHTS
@pytest.mark.parametrize("at", [1, 2, 3])
async def test_A16_what_failed_before_a_fork_and_paid_after_it_is_never_refused(which: str, at: int) -> None:
    """The same bytes, in the block that is final by the time at which the height comes."""
    case = Forked(which, at)
    case.land(OLD, LANDED, succeeded=False)
    case.node.final = LANDED - 1

    def fork() -> None:
        case.moves_on()
        case.land(OLD, LANDED)
        case.spend()

    case.forking.fork = fork
    assert not isinstance(await case.judge(OLD), Refused)
    case.forking.at = 0
    if case.node.receipts[OLD].succeeded:
        assert await case.judge(OLD) == Settled(OLD, LANDED)


@HEIGHTS
@pytest.mark.parametrize("at", [1, 2])
async def test_A16_what_was_taken_back_before_a_fork_and_paid_after_it_is_never_refused(which: str, at: int) -> None:
    case = Forked(which, at)
    case.spend()
    case.cancel(NEW, LANDED)
    case.node.final = LANDED - 1

    def fork() -> None:
        case.moves_on()
        case.land(HERS, LANDED)

    case.forking.fork = fork
    assert not isinstance(await case.judge(), Refused)


async def test_A16_a_failure_for_good_is_what_the_final_fork_shows() -> None:
    """The receipt that began it may be of another fork by the time at which its block is final."""
    case = Forked("finalized", 2)
    case.land(OLD, LANDED, succeeded=False)
    case.node.final = LANDED - 1

    def fork() -> None:
        case.node.final = LANDED
        case.land(OLD, LANDED)

    case.forking.fork = fork
    assert not isinstance(await case.judge(OLD), Refused)


@HEIGHTS
async def test_A16_a_transfer_by_its_hash_is_not_buried_by_another_fork(which: str) -> None:
    case = Forked(which, 1)
    asset = get(BASE_SEPOLIA).assets[0]
    payee, amount = case.signed.payee, uint256(1000)
    moved = Log(asset.address, (TRANSFER_TOPIC, topic_of(case.signed.payer), topic_of(payee)), "0x" + amount.hex())
    case.node.receipts[HERS] = EvmReceipt(HERS, True, LANDED, (moved,))
    call = keccak(b"transfer(address,uint256)")[:4] + address_word(payee) + amount
    case.node.calls[HERS] = EvmCall(asset.address, call)

    async def proven() -> None: ...

    transfers = EvmTransfers(case.node, proven)
    case.forking.at = 0
    case.node.height = LANDED + 2
    assert (await transfers.find(HERS, payee, asset)).standing == Standing(3)
    case.node.asked.clear()
    case.forking.at, case.forking.fork = 1, case.moves_on
    with pytest.raises(PendingError):
        await transfers.find(HERS, payee, asset)

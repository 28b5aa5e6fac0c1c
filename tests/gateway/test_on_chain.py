"""The seller's own look at real chains: a facilitator that lies, and refunds that arrive (A09-A11, E12, G10).

The chains, the ledger, our facilitator and the witnesses are the real ones; only the facilitator's tongue is forked.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from solders.keypair import Keypair

from tests.chains import EvmWorld, SvmWorld
from tests.facilitator.world import EvmShop, SvmShop, facilitator, submit, transfer_call
from tests.payments import EvmPayer
from x402.facilitator.settle import LocalFacilitator
from x402.gateway.flow import Till
from x402.gateway.kinds import Kinds
from x402.gateway.nodes import Nodes, open_nodes
from x402.gateway.policy import Policy
from x402.gateway.purse import Purse
from x402.gateway.refund import refunds_of
from x402.gateway.register import Register
from x402.gateway.sale import Refusal, Reply, Sale, Sink
from x402.ports.ledger import SqlLedger
from x402.stages import Owed, Refunded, Settling
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Supported, Verification
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt


@dataclass
class Forked:
    """A facilitator elsewhere: what `tells` says, after our own has done its work, or without it."""

    real: LocalFacilitator
    tells: list[Receipt] = field(default_factory=list)
    works: bool = True

    async def verify(self, payment: Payment, requirement: Requirement) -> Verification:
        return await self.real.verify(payment, requirement)

    async def supported(self) -> Supported:
        return await self.real.supported()

    async def settle(self, payment: Payment, requirement: Requirement) -> Receipt:
        if self.works:
            truth = await self.real.settle(payment, requirement)
        return self.tells.pop(0) if self.tells else truth


@pytest.fixture
async def ledger() -> AsyncIterator[SqlLedger]:
    async with SqlLedger() as memory:
        yield memory


@pytest.fixture
async def evm(evm_devnet: EvmWorld) -> AsyncIterator[EvmShop]:
    shop = await EvmShop.open(evm_devnet)
    yield shop
    await shop.chain.aclose()


@pytest.fixture
async def svm(svm_devnet: SvmWorld) -> AsyncIterator[SvmShop]:
    shop = await SvmShop.open(svm_devnet)
    yield shop
    await shop.chain.aclose()


@pytest.fixture
async def nodes(evm_devnet: EvmWorld, svm_devnet: SvmWorld) -> AsyncIterator[Nodes]:
    opened = open_nodes({"base-sepolia": evm_devnet.url, "solana-devnet": svm_devnet.url})
    yield opened
    await opened.aclose()


def clock() -> int:
    return int(time.time())


async def buy(till: Till, payment: Payment, offer: Requirement, *, works: bool = True) -> Reply:
    async def requirement() -> Requirement:
        return offer

    async def handler(sale: Sale, sink: Sink) -> None:
        await sink.start(200 if works else 502, ())
        await sink.write(b"the answer")

    return await till.take(payment, "f" * 64, requirement, handler)


FAILED = Receipt.refused("unexpected_settle_error", "an exception after the broadcast", "eip155:84532")


@pytest.mark.parametrize("family", ["evm", "svm"])
async def test_A09_A10_a_failure_that_the_chain_disproves_is_served(
    evm: EvmShop, svm: SvmShop, ledger: SqlLedger, nodes: Nodes, family: str
) -> None:
    shop: Any = evm if family == "evm" else svm
    party = Forked(facilitator([evm.rail(ledger), svm.rail()], ledger), [FAILED])
    till = Till(Register(party, ledger, clock=clock, witnesses=nodes.witnesses))
    payment = evm.pay() if family == "evm" else await svm.pay()
    reply = await buy(till, payment, shop.offer)
    assert reply.status == 200
    assert reply.receipt is not None
    assert reply.receipt.transaction
    assert await shop.received() == shop.offer.amount


async def test_A11_a_stranger_that_settled_first_costs_the_payer_nothing(
    evm: EvmShop, ledger: SqlLedger, nodes: Nodes
) -> None:
    party = Forked(facilitator([evm.rail(ledger)], ledger), [FAILED], works=False)
    till = Till(Register(party, ledger, clock=clock, witnesses=nodes.witnesses))
    payment = evm.pay()
    with pytest.raises(Refusal, match="settlement_pending"):
        await buy(till, payment, evm.offer)
    transaction = await submit(evm, transfer_call(payment))
    reply = await buy(till, payment, evm.offer)
    assert reply.receipt is not None
    assert reply.receipt.transaction == transaction


async def test_E12_a_success_without_a_transfer_is_withheld(evm: EvmShop, ledger: SqlLedger, nodes: Nodes) -> None:
    payment = evm.pay()
    lie = Receipt.settled("0x" + secrets.token_hex(32), "eip155:84532", evm.payer.address)
    party = Forked(facilitator([evm.rail(ledger)], ledger), [lie, lie], works=False)
    policy = Policy(check_percent=100)
    till = Till(Register(party, ledger, clock=clock, witnesses=nodes.witnesses, policy=policy))
    with pytest.raises(Refusal, match="settlement_pending"):
        await buy(till, payment, evm.offer)
    (entry,) = await ledger.unresolved(till.register.party)
    assert entry.stage == Settling()
    # Control: as soon as it is true, it is served.
    party.works, party.tells = True, []
    assert (await buy(till, payment, evm.offer)).status == 200


@pytest.mark.parametrize("family", ["evm", "svm"])
async def test_G10_a_refund_arrives_on_a_real_chain_once(
    evm: EvmShop, svm: SvmShop, ledger: SqlLedger, nodes: Nodes, family: str
) -> None:
    shop: Any = evm if family == "evm" else svm
    keypair, key = Keypair(), EvmPayer()
    purse = Purse(evm=key.key.to_hex(), svm=str(keypair))
    await shop.world.fund(purse.address(shop.offer.network), 5000)
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    policy = Policy(refund_after_seconds=0)
    register = Register(party, ledger, clock=clock, policy=policy, witnesses=nodes.witnesses)
    till = Till(register, refunds=refunds_of(register, purse, Kinds(party, clock=clock), nodes.blockhashes))
    offer = shop.offer.model_copy(update={"extra": {**shop.offer.extra, "paymentFlow": "upfront"}})
    payment = Payment.of(offer, (evm.pay() if family == "evm" else await svm.pay()).payload)
    before = await shop.world.usdc(shop.payer.address)
    reply = await buy(till, payment, offer, works=False)
    assert reply.status == 502
    (entry,) = await ledger.unresolved(register.party)
    assert isinstance(entry.stage, Owed)
    assert await shop.world.usdc(shop.payer.address) == before - offer.amount
    for _ in range(2):
        assert await till.reconcile() == 0
    assert await shop.world.usdc(shop.payer.address) == before
    assert await shop.world.usdc(purse.address(offer.network)) == 5000 - offer.amount
    found = await ledger.find(register.party, entry.subject.pay_id)
    assert found is not None
    assert isinstance(found.stage, Refunded)

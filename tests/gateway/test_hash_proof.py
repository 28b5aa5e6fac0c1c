"""Transfers that were made before they are presented, on both real chains (aimo §2.2, dialect 2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from solders.keypair import Keypair

from tests.chains import EvmWorld, SvmWorld
from tests.facilitator.world import EvmShop, SvmShop, facilitator, submit, transfer_call
from tests.gateway.transfers import POLICY, PRICE, EvmBuyer, Stall, SvmBuyer, digest
from tests.payments import EvmPayer, address
from x402 import networks
from x402.confirmation import parse_confirmations
from x402.errors import MalformedError, MisconfiguredError, PendingError
from x402.evidence import Standing
from x402.evidence.transfers import Transfer, Transfers
from x402.gateway.nodes import Nodes, open_nodes
from x402.gateway.outfit import till_options
from x402.gateway.policy import Policy
from x402.lifecycle import Party
from x402.money import Asset
from x402.networks import BASE_SEPOLIA
from x402.ports.audit import audit
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.schemes.memory import recall
from x402.settings import GatewaySettings
from x402.stages import Delivered, Lost, Settling
from x402.wire.hash_proof import read_hash_proof


@pytest.fixture
async def stall(evm_devnet: EvmWorld, svm_devnet: SvmWorld) -> AsyncIterator[Stall]:
    evm, svm = await EvmShop.open(evm_devnet), await SvmShop.open(svm_devnet)
    nodes = open_nodes({"base-sepolia": evm_devnet.url, "solana-devnet": svm_devnet.url})
    async with SqlLedger() as ledger:
        options: dict[str, Any] = {
            "routes": {"GET /report": "$0.01"},
            "pay_to": {"base-sepolia": evm.offer.pay_to, "solana-devnet": svm.offer.pay_to},
            "facilitator": facilitator([evm.rail(ledger), svm.rail()], ledger), "ledger": ledger, "nodes": nodes,
            "policy": POLICY, "accounts": True, "answer_keys": [b"a key for answers"],
        }  # fmt: skip
        buyers = EvmBuyer(evm), SvmBuyer(svm)
        await buyers[0].open()
        await buyers[1].open()
        made = Stall(ledger, *buyers, options)
        options["clock"] = lambda: int(time.time()) + made.later
        made.reopen()
        yield made
        await made.paywall.till.drain(5)
    await nodes.aclose()
    await evm.chain.aclose()
    await svm.chain.aclose()


FAMILIES = pytest.mark.parametrize("family", ["evm", "svm"])


def refusal(response: httpx.Response) -> str:
    """The code of a refusal, which comes with a new challenge."""
    assert response.status_code == 402, response.text
    return str(response.json()["error"])


@FAMILIES
async def test_a_transfer_buys_one_answer_and_the_same_one_again(stall: Stall, family: str) -> None:
    buyer = stall.buyer(family)
    headers = buyer.headers(await buyer.transfer())
    first = await stall.client.get("/report", headers=headers)
    assert first.status_code == 200, first.text
    again = await stall.client.get("/report", headers=headers)
    assert again.json() == first.json() == {"report": "secret 1"}
    assert stall.runs == [""]
    assert stall.paywall.till.register.watch._watched
    pay_id = next(iter(stall.paywall.till.register.watch._watched))
    entry = await stall.ledger.find(Party.GATEWAY, pay_id)
    assert entry is not None
    assert isinstance(entry.stage, Delivered)
    assert entry.amount == PRICE
    assert await stall.balance(family, entry.subject.payer) == 0
    await stall.paywall.till.reconcile()
    await stall.paywall.till.reconcile()
    # After a restart as well, and when it has grown too old for a new one.
    stall.later = 1000
    assert (await stall.reopen().get("/report", headers=headers)).json() == first.json()


async def test_a_memo_that_names_the_request_binds_a_transfer_too(stall: Stall) -> None:
    bound = await stall.svm.transfer(memo=digest()[:32])
    headers = {"X-Payment": f"solana-devnet:{bound}"}
    other = await stall.client.get("/report?q=other", headers=headers)
    assert refusal(other) == "unbound_transfer"
    assert (await stall.client.get("/report", headers=headers)).status_code == 200


@FAMILIES
async def test_A04_a_transfer_buys_nothing_twice(stall: Stall, family: str) -> None:
    buyer = stall.buyer(family)
    transaction = await buyer.transfer()
    assert (await stall.client.get("/report", headers=buyer.headers(transaction))).status_code == 200
    spelled = transaction.upper().replace("0X", "0x") if family == "evm" else transaction
    second = buyer.headers(transaction, "/report?q=2") | {"X-Payment": f"{buyer.name}:{spelled}"}
    reused = await stall.client.get("/report?q=2", headers=second)
    assert reused.status_code == 409
    assert stall.runs == [""]


@FAMILIES
async def test_B02_a_transfer_that_its_payer_has_not_bound_is_worth_nothing(stall: Stall, family: str) -> None:
    buyer = stall.buyer(family)
    transaction = await buyer.transfer()
    thief = EvmPayer() if family == "evm" else Keypair()
    for headers in (
        {"X-Payment": f"{buyer.name}:{transaction}"},
        buyer.headers(transaction, signer=thief),
        buyer.headers(transaction, "/report?q=another"),
    ):
        assert refusal(await stall.client.get("/report", headers=headers)) == "unbound_transfer"
    assert stall.runs == []
    # Control: its payer may.
    assert (await stall.client.get("/report", headers=buyer.headers(transaction))).status_code == 200
    # What was answered goes to nobody else.
    stolen = await stall.client.get("/report", headers={"X-Payment": f"{buyer.name}:{transaction}"})
    assert refusal(stolen) == "unbound_transfer"


@FAMILIES
async def test_B03_too_low_and_too_much(stall: Stall, family: str) -> None:
    buyer = stall.buyer(family)
    low = await stall.client.get("/report", headers=buyer.headers(await buyer.transfer(PRICE - 1)))
    assert refusal(low) == "invalid_payment_amount"
    much = await buyer.transfer(PRICE + 500)
    assert (await stall.client.get("/report", headers=buyer.headers(much))).status_code == 200
    payer = buyer.payer.address if family == "evm" else str(buyer.keypair.pubkey())
    assert await stall.balance(family, payer) == 500


@pytest.mark.parametrize(("used", "credited"), [(400, PRICE - 400 + 50), (10**9, 50)])
async def test_B17_what_was_not_used_is_credited_and_never_less_than_was_paid_too_much(
    stall: Stall, used: int, credited: int
) -> None:
    target = f"/report?q={used}"
    headers = stall.evm.headers(await stall.evm.transfer(PRICE + 50), target)
    assert (await stall.client.get(target, headers=headers)).status_code == 200
    assert await stall.balance("evm", stall.evm.payer.address) == credited


async def test_the_books_of_transfers_pass_an_audit(stall: Stall, tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    async with SqlLedger(f"sqlite:///{file}") as ledger:
        stall.reopen(ledger=ledger)
        for family in ("evm", "svm"):
            buyer = stall.buyer(family)
            headers = buyer.headers(await buyer.transfer(PRICE + 7))
            assert (await stall.client.get("/report", headers=headers)).status_code == 200
        await stall.paywall.till.drain(5)
    with read_ledger(str(file)) as snapshot:
        found = audit(snapshot.histories(), now=int(time.time()))
    assert (found.payments, found.violations) == (2, [])


async def test_A07_one_of_many_requests_at_once_gets_what_a_transfer_pays(stall: Stall) -> None:
    transaction = await stall.evm.transfer()
    targets = [f"/report?q=a{number}" for number in range(8)]
    replies = await asyncio.gather(
        *(stall.client.get(target, headers=stall.evm.headers(transaction, target)) for target in targets)
    )
    assert sorted(reply.status_code for reply in replies) == [200] + [409] * 7
    assert len(stall.runs) == 1


@FAMILIES
async def test_B03_another_payee_or_asset_or_a_failure(stall: Stall, family: str) -> None:
    buyer = stall.buyer(family)
    if family == "evm":
        others = [await buyer.transfer(to=address()), await buyer.transfer(0, token=address()), await buyer.failed()]
        codes = ["not_a_transfer", "not_a_transfer", "transaction_failed"]
    else:
        stranger = str(Keypair().pubkey())
        await stall.svm.shop.world.open_usdc_account(stranger)
        others = [await buyer.transfer(to=stranger), await buyer.transfer(PRICE, times=2)]
        codes = ["not_a_transfer"] * 2
    for transaction, code in zip(others, codes, strict=True):
        assert refusal(await stall.client.get("/report", headers=buyer.headers(transaction))) == code
    assert stall.runs == []


async def test_A07_what_another_scheme_settled_is_no_transfer(stall: Stall) -> None:
    evm, svm = stall.evm, stall.svm
    settled = await submit(evm.shop, transfer_call(evm.shop.pay()))
    mine = evm.headers(settled, signer=evm.shop.payer)
    assert refusal(await stall.client.get("/report", headers=mine)) == "not_a_transfer"
    # On Solana, whose memo the payer of an `exact` payment chooses, the fee payer tells the two apart.
    sponsor = Keypair()
    await svm.shop.world.fund(str(sponsor.pubkey()), 0, 10**9)
    sponsored = await svm.transfer(memo=digest()[:32], fee_payer=sponsor)
    presented = {"X-Payment": f"solana-devnet:{sponsored}"}
    assert refusal(await stall.client.get("/report", headers=presented)) == "not_a_transfer"


@FAMILIES
async def test_A09_what_the_chain_does_not_show_yet_is_pending(stall: Stall, family: str) -> None:
    buyer = stall.buyer(family)
    response = await stall.client.get("/report", headers=buyer.headers(await buyer.unknown()))
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert "settlement_pending" in response.text


@dataclass
class Shifting:
    """A real node behind which blocks come, go and hide, as a devnet's do not: all of its blocks are final at once."""

    node: Transfers
    depth: int = 0
    hides: list[bool] = field(default_factory=list)

    async def find(self, transaction: str, payee: str, asset: Asset) -> Transfer:
        if self.hides and self.hides.pop(0):
            raise PendingError("the node does not show it", transaction=transaction)
        found = await self.node.find(transaction, payee, asset)
        return replace(found, standing=Standing(self.depth)) if self.depth else found

    async def finalized(self) -> int:
        return 10**9


def shifting(stall: Stall, **changed: Any) -> Shifting:
    """The stall again, over a node of its own for the EVM."""
    nodes: Nodes = stall.options["nodes"]
    node = Shifting(nodes.transfers[BASE_SEPOLIA], **changed)
    deep = replace(POLICY, confirmations={"eip155": parse_confirmations("0=3")})
    stall.reopen(policy=deep, nodes=replace(nodes, transfers={**nodes.transfers, BASE_SEPOLIA: node}))
    return node


async def test_A16_a_transfer_counts_when_it_lies_deep_enough(stall: Stall) -> None:
    node = shifting(stall, depth=2)
    headers = stall.evm.headers(await stall.evm.transfer())
    assert (await stall.client.get("/report", headers=headers)).status_code == 503
    assert stall.runs == []
    node.depth = 3
    assert (await stall.client.get("/report", headers=headers)).status_code == 200


async def test_A16_a_transfer_that_a_reorganisation_undid_is_written_down(stall: Stall) -> None:
    node = shifting(stall, depth=3)
    assert (await stall.client.get("/report", headers=stall.evm.headers(await stall.evm.transfer()))).status_code == 200
    (pay_id,) = stall.paywall.till.register.watch._watched
    # The first look finds the block, the second finds the transfer where it was, the third finds nothing.
    for _ in range(2):
        await stall.paywall.till.reconcile()
        entry = await stall.ledger.find(Party.GATEWAY, pay_id)
        assert entry is not None
        assert isinstance(entry.stage, Delivered)
    node.hides = [True]
    await stall.paywall.till.reconcile()
    entry = await stall.ledger.find(Party.GATEWAY, pay_id)
    assert entry is not None
    assert isinstance(entry.stage, Lost)


async def test_A09_a_transfer_that_hides_while_it_is_settled_is_pending_and_then_served(stall: Stall) -> None:
    shifting(stall, depth=3, hides=[False, True])
    headers = stall.evm.headers(await stall.evm.transfer())
    assert (await stall.client.get("/report", headers=headers)).status_code == 503
    (entry,) = await stall.ledger.unresolved(Party.GATEWAY)
    assert isinstance(entry.stage, Settling)
    assert stall.runs == []
    # After a restart the ledger alone knows of it.
    response = await stall.reopen().get("/report", headers=headers)
    assert (response.status_code, stall.runs) == (200, [""])


async def test_A22_a_payer_that_never_comes_back_is_credited(stall: Stall) -> None:
    shifting(stall, depth=3, hides=[False, True])
    headers = stall.evm.headers(await stall.evm.transfer())
    assert (await stall.client.get("/report", headers=headers)).status_code == 503
    for _ in range(2):
        await stall.paywall.till.reconcile()
    assert await stall.balance("evm", stall.evm.payer.address) == PRICE
    assert (await stall.client.get("/report", headers=headers)).status_code == 410
    assert stall.runs == []


async def test_a_transfer_grows_too_old(stall: Stall) -> None:
    headers = stall.evm.headers(await stall.evm.transfer())
    stall.later = 400
    assert refusal(await stall.client.get("/report", headers=headers)) == "transfer_too_old"
    stall.later = 0
    assert (await stall.client.get("/report", headers=headers)).status_code == 200


async def test_A22_a_transfer_without_an_answer_is_credited(stall: Stall) -> None:
    headers = stall.evm.headers(await stall.evm.transfer(), "/report?q=fail")
    assert (await stall.client.get("/report?q=fail", headers=headers)).status_code == 500
    assert await stall.paywall.till.reconcile() == 0
    assert await stall.balance("evm", stall.evm.payer.address) == PRICE


async def test_unless_it_is_wanted_nothing_is_taken_by_its_id(stall: Stall) -> None:
    headers = stall.evm.headers(await stall.evm.transfer())
    off = await stall.reopen(policy=Policy()).get("/report", headers=headers)
    assert (off.status_code, off.json()["error"]["code"]) == (400, "invalid_payload")
    assert stall.runs == []


async def test_B03_nobody_forges_what_the_chain_says(stall: Stall) -> None:
    transaction = await stall.evm.transfer()
    paid = await stall.client.get("/report", headers=stall.evm.headers(transaction))
    assert paid.status_code == 200
    pay_id = next(iter(stall.paywall.till.register.watch._watched))
    entry = await stall.ledger.find(Party.GATEWAY, pay_id)
    assert entry is not None
    forged = recall(entry.subject).payment
    response = await stall.client.get("/report", headers={forged.header_name: forged.as_header()})
    assert response.status_code == 400
    assert "secret" not in response.text


def test_a_gateway_takes_them_when_its_settings_say_so() -> None:
    wanted = GatewaySettings.model_construct(hash_proof=True, hash_proof_seconds=60)
    assert till_options(wanted, {})["policy"].hash_proof_seconds == 60
    assert till_options(GatewaySettings.model_construct(), {})["policy"].hash_proof_seconds == 0


async def test_without_nodes_or_accounts_it_is_not_offered(stall: Stall) -> None:
    with pytest.raises(MisconfiguredError, match="X402_HASH_PROOF"):
        stall.reopen(nodes=Nodes())
    with pytest.raises(MisconfiguredError, match="X402_ACCOUNTS"):
        stall.reopen(accounts=False)


@pytest.mark.parametrize(
    "value",
    ["moon:0x" + "1" * 64, "base:0x12", "solana:0OIl", "base-sepolia:", "solana:" + "1" * 100, ":" + "0x" + "1" * 64],
)
def test_an_id_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(MalformedError):
        read_hash_proof([("X-Payment", value)])


def test_other_payments_are_no_hash_proof() -> None:
    assert read_hash_proof([("X-Payment", "eyJ4NDAyVmVyc2lvbiI6MX0=")]) is None
    found = read_hash_proof([("x-payment", "base:0x" + "AB" * 32)])
    assert found is not None
    assert (found.network, found.transaction) == (networks.BASE, "0x" + "ab" * 32)
    with pytest.raises(MalformedError):
        read_hash_proof([("X-Payment", "base:0x" + "ab" * 32), ("PAYMENT-SIGNATURE", "x")])

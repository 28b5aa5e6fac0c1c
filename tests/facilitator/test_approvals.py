"""Approvals of Permit2 that are sent for a payer, with gas of ours, on the real devnet (protocol page §2.6; faults D15,
C06-C09): what it gives is bounded, whatever the payer does, and whenever we die."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.chains import EvmWorld
from tests.facilitator.world import CHAIN_ID, EvmShop, Meddled, absent, facilitator, unreachable
from tests.payments import EvmPayer, evm_asset
from x402.errors import MisconfiguredError
from x402.facilitator import reconcile
from x402.facilitator.allowance import Allowance, Caps
from x402.facilitator.approval_relay import ApprovalLimits, ApprovalRelay
from x402.facilitator.outfit import build_relay
from x402.facilitator.service import unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Outcome
from x402.networks import BASE_SEPOLIA
from x402.ports.grant_book import SqlGrants
from x402.ports.grants import GrantState
from x402.ports.ledger import SqlLedger
from x402.schemes import approval_sponsoring, eip712, upto_evm
from x402.schemes.eip1559 import EvmTransaction
from x402.settings import FacilitatorLimits
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

PURSE = 10**15
STRANGER = eip712.checksum("0x" + "57" * 20)


class Killed(Exception):
    """Our process, at this point."""


@dataclass
class Sponsor:
    """A shop whose facilitator gives gas for approvals, and a payer who holds USDC and nothing else."""

    shop: EvmShop
    ledger: SqlLedger
    purse: EvmSigner = field(default_factory=lambda: EvmSigner(secrets.token_hex(32)))
    limits: ApprovalLimits = field(default_factory=ApprovalLimits)

    @property
    def book(self) -> SqlGrants:
        return SqlGrants(self.ledger)

    def party(self, seconds: float = 10, allowance: Allowance | None = None, **instead: Any) -> LocalFacilitator:
        """A facilitator, on a chain that may be meddled with."""
        chain = Meddled(self.shop.chain, **instead)
        relay = ApprovalRelay(BASE_SEPOLIA, chain, self.book, self.purse, unix_now, limits=self.limits)
        rail = self.shop.rail(self.ledger, chain, relay=relay)
        return LocalFacilitator([rail], self.ledger, settle_timeout_seconds=seconds, allowance=allowance)

    async def call(self, payer: EvmPayer | None = None, **changed: Any) -> EvmTransaction:
        """The approval that the client would sign."""
        chain, payer = self.shop.chain, payer or self.shop.payer
        fees, nonce = await chain.fees(), await chain.transaction_count(payer.address)
        asset = evm_asset()
        call = approval_sponsoring.unsigned_approval(asset, CHAIN_ID, nonce, fees.max_fee, fees.priority_fee)
        return replace(call, **changed)

    async def pay(self, offer: Requirement, payer: EvmPayer | None = None, **changed: Any) -> Payment:
        """A payment with its approval."""
        return (payer or self.shop.payer).pay_approved(offer, await self.call(payer), **changed)

    async def given(self) -> int:
        """How many transactions the purse has in blocks."""
        count = await self.shop.world.request("eth_getTransactionCount", self.purse.address, "latest")
        return int(count, 16)

    async def states(self, payer: EvmPayer | None = None) -> list[GrantState]:
        grants = await self.book.of_payer(BASE_SEPOLIA, (payer or self.shop.payer).address)
        return [grant.state for grant in grants]

    async def allowance(self) -> int:
        said = await self.shop.chain.call(self.shop.offer.asset, upto_evm.allowance_call(self.shop.payer.address))
        return int.from_bytes(said.data, "big")


@pytest.fixture
async def sponsor(evm_devnet: EvmWorld, ledger: SqlLedger) -> AsyncIterator[Sponsor]:
    sponsor = Sponsor(await EvmShop.open(evm_devnet), ledger)
    await evm_devnet.fund(sponsor.purse.address, 0, PURSE)
    yield sponsor
    await sponsor.shop.chain.aclose()


async def test_a_payer_without_gas_and_allowance_pays_what_it_used(sponsor: Sponsor) -> None:
    party, offer = sponsor.party(), sponsor.shop.upto()
    payment = await sponsor.pay(offer)
    verified = await party.verify(payment, offer)
    assert (verified.is_valid, verified.balance) == (True, offer.amount), verified
    used = offer.model_copy(update={"amount": 377})
    receipt = await party.settle(payment, used)
    assert receipt.success, receipt
    assert (receipt.amount, await sponsor.shop.received()) == ("377", 377)
    assert await sponsor.allowance() == 2**256 - 1 - 377
    assert (await sponsor.given(), await sponsor.shop.sent(), await sponsor.states()) == (1, 1, [GrantState.USED])
    assert await party.settle(payment, used) == receipt
    # The next one needs neither approval nor gas.
    assert (await party.settle(sponsor.shop.payer.pay_up_to(offer), used)).success
    assert (await sponsor.given(), await sponsor.shop.sent()) == (1, 2)


async def test_who_has_gas_is_given_none(sponsor: Sponsor) -> None:
    await sponsor.shop.world.fund(sponsor.shop.payer.address, 0, 10**16)
    party, offer = sponsor.party(), sponsor.shop.upto()
    assert (await party.settle(await sponsor.pay(offer), offer)).success
    assert (await sponsor.given(), await sponsor.states()) == (0, [GrantState.USED])


async def test_what_is_missing_is_given_and_no_more(sponsor: Sponsor) -> None:
    call = await sponsor.call()
    await sponsor.shop.world.fund(sponsor.shop.payer.address, 0, call.gas * call.max_fee - 5)
    party, offer = sponsor.party(), sponsor.shop.upto()
    assert (await party.settle(sponsor.shop.payer.pay_approved(offer, call), offer)).success
    (grant,) = await sponsor.book.of_payer(BASE_SEPOLIA, sponsor.shop.payer.address)
    assert grant.wei == 5


async def test_D15_nothing_is_sent_where_it_is_not_turned_on(sponsor: Sponsor, ledger: SqlLedger) -> None:
    party, offer = facilitator([sponsor.shop.rail(ledger)], ledger), sponsor.shop.upto()
    payment = await sponsor.pay(offer)
    assert (await party.verify(payment, offer)).invalid_reason == "permit2_allowance_required"
    assert (await party.settle(payment, offer)).error_reason == "permit2_allowance_required"
    assert (await party.supported()).extensions == ("eip2612GasSponsoring",)
    assert (await sponsor.given(), await sponsor.shop.sent(), await sponsor.allowance()) == (0, 0, 0)
    assert "erc20ApprovalGasSponsoring" in (await sponsor.party().supported()).extensions


async def test_it_is_not_offered_without_gas_to_give(sponsor: Sponsor) -> None:
    sponsor.purse = EvmSigner(secrets.token_hex(32))
    party, offer = sponsor.party(), sponsor.shop.upto()
    assert approval_sponsoring.EXTENSION not in (await party.supported()).extensions
    verified = await party.verify(await sponsor.pay(offer), offer)
    assert verified.invalid_reason == "erc20_approval_insufficient_eth_for_gas"


BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"to": STRANGER}, "erc20_approval_tx_wrong_target"),
    ({"nonce": 1}, "erc20_approval_tx_wrong_nonce"),
    ({"gas": 121_000}, "erc20_approval_tx_wrong_fees"),
    ({"max_fee": 10**12}, "erc20_approval_tx_wrong_fees"),
    ({"max_fee": 1, "priority_fee": 1}, "erc20_approval_tx_wrong_fees"),
    ({"gas": 22_000}, "erc20_approval_tx_failed"),
]


@pytest.mark.parametrize(("changed", "reason"), BAD_CALLS)
async def test_D15_only_this_one_call_is_sent(sponsor: Sponsor, changed: dict[str, Any], reason: str) -> None:
    party, offer = sponsor.party(), sponsor.shop.upto()
    payment = sponsor.shop.payer.pay_approved(offer, await sponsor.call(**changed))
    assert (await party.verify(payment, offer)).invalid_reason == reason
    receipt = await party.settle(payment, offer)
    assert (receipt.outcome, receipt.error_reason) == (Outcome.REFUSED, reason)
    assert (await sponsor.given(), await sponsor.shop.sent(), await sponsor.states()) == (0, 0, [])


async def test_D15_a_payer_without_the_money_is_given_no_gas(sponsor: Sponsor) -> None:
    party, offer, poor = sponsor.party(), sponsor.shop.upto(), EvmPayer()
    receipt = await party.settle(await sponsor.pay(offer, poor), offer)
    assert (receipt.outcome, receipt.error_reason) == (Outcome.REFUSED, "permit2_insufficient_balance")
    assert await sponsor.given() == 0


@pytest.mark.parametrize("way", ["another transaction", "gas gone"])
async def test_D15_who_takes_the_gas_gets_it_once(sponsor: Sponsor, way: str) -> None:
    """The theft that nothing prevents: it costs the gas of one approval, once in a payer's life, and no settlement."""
    shop, offer = sponsor.shop, sponsor.shop.upto()

    async def send(raw: bytes, transaction: str) -> None:
        if raw == approval:
            value = await shop.world.wei(shop.payer.address) - 21_000 * call.max_fee if way == "gas gone" else 0
            theft = replace(call, to=STRANGER, data=b"", gas=21_000, max_fee=call.max_fee, value=value)
            name, stolen = theft.sign(shop.payer.key)
            await shop.chain.send(stolen, name)
        await shop.chain.send(raw, transaction)

    call = await sponsor.call()
    _, approval = call.sign_with(lambda digest: eip712.sign(shop.payer.key, digest))
    payment = shop.payer.pay_approved(offer, call)
    receipt = await sponsor.party(send=send).settle(payment, offer)
    assert (receipt.outcome, receipt.error_reason) == (Outcome.REFUSED, "erc20_approval_tx_failed")
    assert (await sponsor.given(), await shop.sent(), await sponsor.states()) == (1, 0, [GrantState.LOST])
    (grant,) = await sponsor.book.of_payer(BASE_SEPOLIA, shop.payer.address)
    assert grant.wei <= sponsor.limits.wei
    again = await sponsor.party().settle(payment, offer)
    assert again.error_reason == "erc20_approval_tx_failed"
    anew = await sponsor.party().settle(await sponsor.pay(offer), offer)
    assert anew.error_reason == "erc20_approval_not_sponsored"
    assert await sponsor.given() == 1


async def test_D15_gas_is_given_a_few_times_in_a_life(sponsor: Sponsor) -> None:
    """A payer that takes its approval back, and empties its account, to be given more."""
    shop, offer, party = sponsor.shop, sponsor.shop.upto(), sponsor.party()
    outcomes = []
    for _ in range(sponsor.limits.times + 1):
        receipt = await party.settle(await sponsor.pay(offer), offer)
        outcomes.append(receipt.error_reason)
        await shop.world.fund(shop.payer.address, 0, 10**16)
        await shop.call_as_payer(offer.asset, upto_evm.approve_call(0))
        fees, held = await shop.chain.fees(), await shop.world.wei(shop.payer.address)
        nonce = await shop.chain.transaction_count(shop.payer.address)
        value = held - 21_000 * fees.max_fee
        empty = EvmTransaction(CHAIN_ID, nonce, STRANGER, 21_000, fees.max_fee, fees.priority_fee, value=value)
        name, raw = empty.sign(shop.payer.key)
        await shop.chain.send(raw, name)
    assert outcomes == [None, None, "erc20_approval_not_sponsored"]
    assert await sponsor.given() == sponsor.limits.times


async def test_two_payments_with_one_approval_cost_its_gas_once(sponsor: Sponsor) -> None:
    party, offer, call = sponsor.party(), sponsor.shop.upto(), await sponsor.call()
    payments = [sponsor.shop.payer.pay_approved(offer, call) for _ in range(3)]
    receipts = await asyncio.gather(*(party.settle(payment, offer) for payment in payments))
    assert all(receipt.success for receipt in receipts), receipts
    assert (await sponsor.given(), await sponsor.shop.received()) == (1, 3 * offer.amount)


async def test_several_payers_at_once_each_get_their_own(sponsor: Sponsor) -> None:
    party, offer, payers = sponsor.party(), sponsor.shop.upto(), [EvmPayer() for _ in range(3)]
    for payer in payers:
        await sponsor.shop.world.fund(payer.address, 10_000)
    payments = [await sponsor.pay(offer, payer) for payer in payers]
    receipts = await asyncio.gather(*(party.settle(payment, offer) for payment in payments))
    assert all(receipt.success for receipt in receipts), receipts
    assert await sponsor.given() == 3
    assert [await sponsor.states(payer) for payer in payers] == [[GrantState.USED]] * 3


@pytest.mark.parametrize("step", range(4))
async def test_D15_a_crash_at_any_step_gives_gas_once_and_ends_whole(sponsor: Sponsor, step: int) -> None:
    """Killed before or after each of both sends: whoever comes next goes on, and gives nothing twice."""
    shop, offer = sponsor.shop, sponsor.shop.upto()
    sent: list[bytes] = []

    async def send(raw: bytes, transaction: str) -> None:
        assert await sponsor.book.open_ones(BASE_SEPOLIA), "it was sent before it was written down"
        if len(sent) == step / 2:
            raise Killed
        sent.append(raw)
        await shop.chain.send(raw, transaction)
        if len(sent) == (step + 1) / 2:
            raise Killed

    payment = await sponsor.pay(offer)
    with pytest.raises(Killed):
        await sponsor.party(send=send).settle(payment, offer)
    after = sponsor.party()
    await reconcile.run(after)
    assert await sponsor.states() == [GrantState.USED]
    receipt = await after.settle(payment, offer)
    assert receipt.success, receipt
    assert (await sponsor.given(), await shop.sent(), await shop.received()) == (1, 1, offer.amount)


async def test_D15_a_node_that_is_away_leaves_it_open_and_not_refused(sponsor: Sponsor) -> None:
    offer = sponsor.shop.upto()
    payment = await sponsor.pay(offer)
    receipt = await sponsor.party(0.2, send=unreachable).settle(payment, offer)
    assert receipt.outcome is Outcome.PENDING
    assert await sponsor.states() == [GrantState.OPEN]
    assert (await sponsor.party().settle(payment, offer)).success
    assert await sponsor.given() == 1


async def test_D15_what_nobody_takes_is_given_up_in_the_end(sponsor: Sponsor) -> None:
    sponsor.limits = ApprovalLimits(patience=0)
    offer = sponsor.shop.upto()

    async def lost(raw: bytes, transaction: str) -> None:
        """A node that says yes and forgets."""

    receipt = await sponsor.party(0.1, send=lost, receipt=absent).settle(await sponsor.pay(offer), offer)
    assert (receipt.outcome, receipt.error_reason) == (Outcome.REFUSED, "erc20_approval_tx_failed")
    assert await sponsor.states() == [GrantState.VOID]


async def test_C06_C09_gas_that_is_given_counts_in_every_budget(sponsor: Sponsor) -> None:
    offer = sponsor.shop.upto()
    payment = await sponsor.pay(offer)
    little = 2 * 10**8
    for caps in (Caps(total=little), Caps(caller=little), Caps(payer=little)):
        poor = Allowance(sponsor.ledger, {BASE_SEPOLIA: caps}, unix_now)
        receipt = await sponsor.party(allowance=poor).settle(payment, offer)
        assert receipt.outcome is Outcome.REFUSED
        assert str(receipt.error_reason).endswith("fee_budget_spent")
    assert (await sponsor.given(), await sponsor.states()) == (0, [])
    rich = Allowance(sponsor.ledger, {BASE_SEPOLIA: Caps(total=10**18)}, unix_now)
    assert (await sponsor.party(allowance=rich).settle(payment, offer)).success
    await rich.drain()
    (grant,) = await sponsor.book.of_payer(BASE_SEPOLIA, sponsor.shop.payer.address)
    assert await sponsor.ledger.spent(unix_now() // 86_400, f"{BASE_SEPOLIA} total") > grant.wei


async def test_an_account_with_code_is_given_nothing(sponsor: Sponsor) -> None:
    offer = sponsor.shop.upto()

    async def code(_: str) -> bytes:
        """What EIP-7702 leaves at an account; py-evm's fork does not know it."""
        return bytes.fromhex("ef0100") + b"\x57" * 20

    verified = await sponsor.party(code=code).verify(await sponsor.pay(offer), offer)
    assert verified.invalid_reason == "erc20_approval_not_sponsored"


def test_the_key_that_gives_gas_has_no_other_use(ledger: SqlLedger) -> None:
    signer, book = EvmSigner("0x" + "11" * 32), SqlGrants(ledger)
    limits = FacilitatorLimits.read(approval_gas_key="11" * 32)
    with pytest.raises(MisconfiguredError, match="key of their own") as refused:
        build_relay(limits, BASE_SEPOLIA, None, [signer], book, unix_now)  # type: ignore[arg-type]
    assert refused.value.code == "approval_gas_key_in_use"
    other = EvmSigner("0x" + "22" * 32)
    relay = build_relay(limits, BASE_SEPOLIA, None, [other], book, unix_now)  # type: ignore[arg-type]
    assert relay is not None
    assert (relay.limits.wei, relay.limits.times) == (10**14, 2)
    assert build_relay(FacilitatorLimits.read(), BASE_SEPOLIA, None, [other], book, unix_now) is None  # type: ignore[arg-type]

"""The scheme upto on the real devnet: settled for what was used, once, by nobody else (faults B16, A08, D15)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.chains import EvmWorld
from tests.facilitator.world import EvmShop, Meddled, absent, facilitator
from tests.payments import EvmPayer, evm_asset, with_payload
from x402.errors import UnavailableError
from x402.evidence.evm import EvmWitness
from x402.facilitator import reconcile
from x402.facilitator.settle import ME, LocalFacilitator
from x402.lifecycle import Outcome
from x402.networks import BASE_SEPOLIA, PERMIT2, UPTO_PERMIT2_PROXY
from x402.ports.audit import audit
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.schemes import eip712, gas_sponsoring
from x402.schemes.subject import subject_of
from x402.stages import Final, Refused, Settled, State
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

MAXIMUM = 1000
STRANGER = eip712.checksum("0x" + "57" * 20)


def taking(offer: Requirement, units: int) -> Requirement:
    """The offer as it is settled: its amount is what was used."""
    return offer.model_copy(update={"amount": units})


@pytest.fixture
async def shop(evm_devnet: EvmWorld) -> AsyncIterator[EvmShop]:
    shop = await EvmShop.open(evm_devnet)
    await shop.approve()
    yield shop
    await shop.chain.aclose()


@pytest.fixture
def party(shop: EvmShop, ledger: SqlLedger) -> LocalFacilitator:
    return facilitator([shop.rail(ledger)], ledger)


def pay_id_of(payment: Payment, offer: Requirement) -> str:
    return subject_of(payment, offer).pay_id


@pytest.mark.parametrize("units", [1, 377, MAXIMUM])
async def test_B16_what_was_used_is_taken_and_no_more(shop: EvmShop, party: LocalFacilitator, units: int) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    verified = await party.verify(payment, offer)
    assert verified.is_valid, verified
    assert verified.payer == shop.payer.address
    receipt = await party.settle(payment, taking(offer, units))
    assert receipt.success, receipt
    assert (receipt.amount, receipt.payer) == (str(units), shop.payer.address)
    assert await shop.received() == units
    assert await party.settle(payment, taking(offer, units)) == receipt
    assert await shop.sent() == 1
    entry = await party.ledger.find(ME, pay_id_of(payment, offer))
    assert entry is not None
    assert entry.amount == units


async def test_B16_nothing_used_costs_no_transaction_and_closes_the_payment(
    shop: EvmShop, party: LocalFacilitator
) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    receipt = await party.settle(payment, taking(offer, 0))
    assert (receipt.success, receipt.transaction, receipt.amount) == (True, "", "0")
    assert receipt.outcome is Outcome.SETTLED
    assert await party.settle(payment, taking(offer, 0)) == receipt
    later = await party.settle(payment, taking(offer, 5))
    assert (later.success, later.error_reason) == (False, "duplicate_settlement")
    assert (await shop.sent(), await shop.received()) == (0, 0)


async def test_B16_more_than_was_signed_is_refused(shop: EvmShop, party: LocalFacilitator) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    receipt = await party.settle(payment, taking(offer, MAXIMUM + 1))
    assert receipt.outcome is Outcome.REFUSED
    assert receipt.error_reason == "invalid_upto_evm_payload_settlement_exceeds_amount"
    assert await shop.sent() == 0
    control = await party.settle(payment, taking(offer, MAXIMUM))
    assert control.success


async def test_B16_a_second_amount_is_refused_and_the_first_repeated(shop: EvmShop, party: LocalFacilitator) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    first = await party.settle(payment, taking(offer, 400))
    for units in (0, 399, 401, MAXIMUM):
        second = await party.settle(payment, taking(offer, units))
        assert (second.success, second.error_reason) == (False, "duplicate_settlement")
    assert await party.settle(payment, taking(offer, 400)) == first
    assert (await shop.received(), await shop.sent()) == (400, 1)


async def test_B16_a_payment_is_verified_for_exactly_its_maximum(shop: EvmShop, party: LocalFacilitator) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    for units in (MAXIMUM - 1, MAXIMUM + 1):
        verified = await party.verify(payment, taking(offer, units))
        assert (verified.is_valid, verified.invalid_reason) == (False, "permit2_amount_mismatch")
    assert (await party.verify(payment, offer)).is_valid


async def test_D05_only_the_named_facilitator_settles(shop: EvmShop, ledger: SqlLedger) -> None:
    """Nobody can run ahead of a settlement: the proxy asks who calls (fault A11)."""
    offer, other = shop.upto(), await shop.spare_key()
    payment = shop.payer.pay_up_to(offer)
    stranger = facilitator([shop.rail(ledger, signers=[other])], ledger)
    verified = await stranger.verify(payment, offer)
    assert verified.invalid_reason == "upto_facilitator_mismatch"
    assert (await stranger.settle(payment, offer)).error_reason == "upto_facilitator_mismatch"
    both = facilitator([shop.rail(ledger, signers=[other, shop.signer])], ledger)
    receipt = await both.settle(payment, taking(offer, 7))
    assert receipt.success, receipt
    sent = await shop.world.request("eth_getTransactionByHash", receipt.transaction)
    assert eip712.checksum(sent["from"]) == shop.signer.address
    assert eip712.checksum(sent["to"]) == UPTO_PERMIT2_PROXY


async def test_verify_names_allowance_balance_and_nonce(shop: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([shop.rail(ledger)], ledger)
    poor, offer = EvmPayer(), shop.upto()
    unapproved = await party.verify(poor.pay_up_to(offer), offer)
    assert unapproved.invalid_reason == "permit2_allowance_required"
    dear = shop.upto(10**9)
    assert (await party.verify(shop.payer.pay_up_to(dear), dear)).invalid_reason == "permit2_insufficient_balance"
    used = shop.payer.pay_up_to(offer, nonce=b"\x07" * 32)
    assert (await party.settle(used, taking(offer, 1))).success
    again = shop.payer.pay_up_to(taking(offer, 999), nonce=b"\x07" * 32)
    assert (await party.verify(again, taking(offer, 999))).invalid_reason == "permit2_invalid_nonce"


async def test_A08_what_may_be_open_is_bounded_by_the_allowance(shop: EvmShop, party: LocalFacilitator) -> None:
    await shop.approve(1500)
    offer = shop.upto(MAXIMUM)
    assert (await party.verify(shop.payer.pay_up_to(offer), offer)).balance == 1500
    await shop.approve()
    assert (await party.verify(shop.payer.pay_up_to(offer), offer)).balance == 1_000_000


async def test_a_permit_with_the_payment_needs_no_gas_of_the_payer(shop: EvmShop, party: LocalFacilitator) -> None:
    await shop.approve(0)
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_sponsored(offer)
    verified = await party.verify(payment, offer)
    assert verified.is_valid, verified
    assert verified.balance == MAXIMUM
    receipt = await party.settle(payment, taking(offer, 600))
    assert receipt.success, receipt
    assert (receipt.amount, await shop.received()) == ("600", 600)
    # A permit that was presented by somebody else already changes nothing, so long as the allowance is there.
    await shop.approve()
    replayed = shop.payer.pay_sponsored(offer, permit_nonce=0)
    assert (await party.settle(replayed, taking(offer, 5))).success


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("from", STRANGER, "eip2612_from_mismatch"),
        ("asset", STRANGER, "eip2612_asset_mismatch"),
        ("spender", UPTO_PERMIT2_PROXY, "eip2612_spender_not_permit2"),
        ("amount", "1001", "permit2_2612_amount_mismatch"),
        ("deadline", "1", "eip2612_deadline_expired"),
        ("deadline", "soon", "invalid_eip2612_extension_format"),
        ("nonce", -1, "invalid_eip2612_extension_format"),
        ("version", "2", "invalid_eip2612_extension_format"),
        ("signature", "0x00", "invalid_eip2612_extension_format"),
    ],
)
async def test_D15_a_sponsor_signs_nothing_that_the_payer_writes(
    shop: EvmShop, party: LocalFacilitator, member: str, value: Any, reason: str
) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_sponsored(offer, **{member: value})
    assert (await party.verify(payment, offer)).invalid_reason == reason
    assert (await party.settle(payment, offer)).error_reason == reason
    assert await shop.sent() == 0


async def test_D15_a_forged_permit_gives_no_allowance(shop: EvmShop, party: LocalFacilitator) -> None:
    await shop.approve(0)
    offer = shop.upto(MAXIMUM)
    forged = shop.payer.pay_sponsored(offer, signature="0x" + "11" * 64 + "1b")
    assert not (await party.verify(forged, offer)).is_valid
    assert await shop.sent() == 0


async def test_A22_a_crash_after_the_intent_is_decided_by_the_chain(shop: EvmShop, ledger: SqlLedger) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    hiding = Meddled(shop.chain, receipt=absent)
    dying = facilitator([shop.rail(ledger, hiding)], ledger, 0.1)
    assert (await dying.settle(payment, taking(offer, 250))).outcome is Outcome.PENDING
    reborn = facilitator([shop.rail(ledger)], ledger)
    assert await reconcile.run(reborn) == 0
    receipt = await reborn.settle(payment, taking(offer, 250))
    assert (receipt.success, receipt.amount) == (True, "250")
    assert await shop.sent() == 1


async def test_A22_a_crash_while_nothing_is_due_leaves_it_closed(shop: EvmShop, ledger: SqlLedger) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    subject = subject_of(payment, offer)
    party = facilitator([shop.rail(ledger)], ledger)
    checked = party.rails[BASE_SEPOLIA].read(payment, taking(offer, 0))
    await party._close(checked.subject)
    assert await reconcile.run(facilitator([shop.rail(ledger)], ledger)) == 0
    entry = await ledger.find(ME, subject.pay_id)
    assert entry is not None
    assert isinstance(entry.stage, Refused)
    assert (await party.settle(payment, taking(offer, 0))).success


async def test_A10_a_lost_ledger_finds_what_it_has_settled(shop: EvmShop, ledger: SqlLedger) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    first = await facilitator([shop.rail(ledger)], ledger).settle(payment, taking(offer, 123))
    async with SqlLedger("sqlite://") as empty:
        party = facilitator([shop.rail(empty)], empty)
        found = await party.settle(payment, taking(offer, 123))
        assert (found.transaction, found.amount) == (first.transaction, "123")
    async with SqlLedger("sqlite://") as empty:
        other = await facilitator([shop.rail(empty)], empty).settle(payment, taking(offer, 124))
        assert (other.success, other.error_reason) == (False, "duplicate_settlement")
    assert await shop.sent() == 1


async def test_A12_a_permit_that_was_given_up_pays_nothing(shop: EvmShop, ledger: SqlLedger) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer, nonce=bytes(31) + b"\x05")
    invalidate = eip712.keccak(b"invalidateUnorderedNonces(uint256,uint256)")[:4]
    await shop.call_as_payer(PERMIT2, invalidate + eip712.uint256(0) + eip712.uint256(1 << 5))
    receipt = await facilitator([shop.rail(ledger)], ledger).settle(payment, taking(offer, 10))
    assert (receipt.outcome, receipt.error_reason) == (Outcome.REFUSED, "permit2_invalid_nonce")
    witness = EvmWitness(BASE_SEPOLIA, shop.chain)
    verdict = await witness.spent_by(subject_of(payment, offer))
    assert isinstance(verdict, Refused)
    control = shop.payer.pay_up_to(offer, nonce=bytes(31) + b"\x06")
    assert await witness.spent_by(subject_of(control, offer)) is None


async def test_A15_a_witness_sees_how_much_was_taken(shop: EvmShop, party: LocalFacilitator) -> None:
    offer = shop.upto(MAXIMUM)
    payment, other = shop.payer.pay_up_to(offer), shop.payer.pay_up_to(offer)
    receipt = await party.settle(payment, taking(offer, 321))
    witness = EvmWitness(BASE_SEPOLIA, shop.chain)
    for known in ((), (receipt.transaction,)):
        verdict = await witness.judge(subject_of(payment, offer), known)
        assert isinstance(verdict, Settled)
        assert (verdict.transaction, verdict.amount) == (receipt.transaction, 321)
    # The same payer, payee, token and block: another payment's settlement is no evidence for this one.
    assert await witness.spent_by(subject_of(other, offer)) is None
    wrong = await witness.judge(subject_of(other, offer), (receipt.transaction,))
    assert not isinstance(wrong, Settled)


async def test_A15_a_node_that_hides_the_call_proves_nothing(shop: EvmShop, party: LocalFacilitator) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    await party.settle(payment, taking(offer, 5))
    witness = EvmWitness(BASE_SEPOLIA, Meddled(shop.chain, transaction=absent))
    with pytest.raises(UnavailableError):
        await witness.spent_by(subject_of(payment, offer))


async def test_finality_keeps_what_moved(shop: EvmShop, ledger: SqlLedger) -> None:
    offer = shop.upto(MAXIMUM)
    payment = shop.payer.pay_up_to(offer)
    party = facilitator([shop.rail(ledger)], ledger)
    await party.settle(payment, taking(offer, 42))
    await shop.world.request("anvil_mine", hex(100))
    await reconcile.run(party)
    entry = await ledger.find(ME, pay_id_of(payment, offer))
    assert entry is not None
    if isinstance(entry.stage, Final):
        assert entry.amount == 42
    assert (await party.settle(payment, taking(offer, 42))).amount == "42"


async def test_D06_a_wallet_with_code_is_asked_by_permit2(shop: EvmShop, party: LocalFacilitator) -> None:
    offer = shop.upto(MAXIMUM)
    short = with_payload(shop.payer.pay_up_to(offer), signature="0x" + "22" * 64)
    assert (await party.verify(short, offer)).invalid_reason == "invalid_permit2_signature"
    stranger = with_payload(shop.payer.pay_up_to(offer), signature=EvmPayer().pay_up_to(offer).payload["signature"])
    assert (await party.verify(stranger, offer)).invalid_reason == "invalid_permit2_signature"


async def test_the_ledger_of_upto_payments_passes_its_audit(shop: EvmShop, tmp_path: Any) -> None:
    place = tmp_path / "ledger.sqlite"
    async with SqlLedger(f"sqlite:///{place}") as ledger:
        party, offer = facilitator([shop.rail(ledger)], ledger), shop.upto(MAXIMUM)
        for units in (0, 1, 77):
            assert (await party.settle(shop.payer.pay_up_to(offer), taking(offer, units))).success
        totals = await ledger.totals(ME, State.SETTLED)
        assert totals[BASE_SEPOLIA, evm_asset().address] == 78
    with read_ledger(str(place)) as snapshot:
        assert audit(snapshot.histories(), now=2**33, overdue_seconds=2**34).violations == []


def test_the_extension_is_as_the_vectors_say() -> None:
    assert gas_sponsoring.is_offered({gas_sponsoring.EXTENSION: gas_sponsoring.declaration()})
    assert not gas_sponsoring.is_offered({})

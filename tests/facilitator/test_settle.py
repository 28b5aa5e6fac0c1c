"""One payment, one transaction, one answer: settling on real chains. Faults A04-A06, A12, A13, A24, D01, E10."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from tests.facilitator.world import EvmShop, Meddled, SvmShop, facilitator, ledger_at, unreachable
from tests.payments import EvmPayer, as_version_1, evm_requirement, with_payload
from x402.errors import UnavailableError
from x402.lifecycle import Event, Outcome, Party
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports.ledger import SqlLedger
from x402.stages import Intended, Reversed, Settled, State
from x402.wire.payment import Payment

ME = Party.FACILITATOR


async def test_a_whole_payment_on_the_evm(evm: EvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([evm.rail(ledger)], ledger), evm.pay()
    verification = await party.verify(payment, evm.offer)
    assert (verification.is_valid, verification.payer) == (True, evm.payer.address)
    assert await evm.received() == 0
    receipt = await party.settle(payment, evm.offer)
    assert (receipt.outcome, receipt.network, receipt.payer) == (Outcome.SETTLED, BASE_SEPOLIA, evm.payer.address)
    assert await evm.received() == 1000
    found = await evm.chain.receipt(receipt.transaction, timeout=1)
    assert found is not None
    assert found.succeeded
    assert await party.settle(payment, evm.offer) == receipt
    again = await party.verify(payment, evm.offer)
    assert again.invalid_reason == "invalid_exact_evm_nonce_already_used"
    assert await ledger.totals(ME, State.SETTLED) == {(BASE_SEPOLIA, evm.offer.asset): 1000}
    assert await evm.sent() == 1


async def test_a_whole_payment_on_solana(svm: SvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([svm.rail()], ledger), await svm.pay()
    verification = await party.verify(payment, svm.offer)
    assert (verification.is_valid, verification.payer) == (True, svm.payer.address)
    receipt = await party.settle(payment, svm.offer)
    assert (receipt.outcome, receipt.network, receipt.payer) == (Outcome.SETTLED, SOLANA_DEVNET, svm.payer.address)
    assert await svm.received() == 1000
    assert await svm.chain.transaction(receipt.transaction) is not None
    assert await party.settle(payment, svm.offer) == receipt
    again = await party.verify(payment, svm.offer)
    assert again.invalid_reason == "duplicate_settlement"
    assert await svm.received() == 1000


async def test_verifying_moves_and_remembers_nothing(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    payments = (evm.pay(), evm.offer), (await svm.pay(), svm.offer)
    for payment, offer in payments * 3:
        assert (await party.verify(payment, offer)).is_valid
    assert await ledger.unresolved(ME) == []
    assert (await evm.received(), await svm.received(), await evm.sent()) == (0, 0, 0)


async def test_A04_twenty_at_once_are_one_transaction(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    for payment, offer in ((evm.pay(), evm.offer), (await svm.pay(), svm.offer)):
        receipts = await asyncio.gather(*(party.settle(payment, offer) for _ in range(20)))
        assert len({receipt.transaction for receipt in receipts}) == 1
        assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
    assert (await evm.received(), await svm.received()) == (1000, 1000)
    assert await evm.sent() == 1


async def test_A04_replicas_on_one_ledger_are_one_transaction(evm: EvmShop, tmp_path: Path) -> None:
    spare = await evm.spare_key()
    async with ledger_at(tmp_path) as first, ledger_at(tmp_path) as second:
        rails = evm.rail(first), evm.rail(second, signers=[spare])
        parties = [facilitator([rail], ledger) for rail, ledger in zip(rails, (first, second), strict=True)]
        payment = evm.pay()
        receipts = await asyncio.gather(*(party.settle(payment, evm.offer) for party in parties * 5))
        assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
        assert len({receipt.transaction for receipt in receipts}) == 1
        # The loser gave its nonce back: the next payment takes it, and nothing waits behind a gap.
        for party in parties:
            assert (await party.settle(evm.pay(), evm.offer)).success
        assert (await evm.received(), await evm.sent(spare)) == (3000, 3)


async def test_A05_every_spelling_is_the_same_payment_on_the_evm(evm: EvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([evm.rail(ledger)], ledger), evm.pay()
    signature, said = payment.payload["signature"], payment.payload["authorization"]
    low_v = signature[:-2] + f"{int(signature[-2:], 16) - 27:02x}"
    shouted = {name: "0x" + text[2:].upper() if text.startswith("0x") else text for name, text in said.items()}
    whispered = {name: text.lower() for name, text in said.items()}
    spellings = [
        payment,
        with_payload(payment, signature=low_v),
        with_payload(payment, signature="0x" + signature[2:].upper()),
        with_payload(payment, authorization=shouted),
        with_payload(payment, authorization=whispered, signature=low_v, unknown="member"),
        payment.model_copy(update={"extensions": {"x": {}}}),
    ]
    spellings += [as_version_1(one) for one in spellings]
    receipts = await asyncio.gather(*(party.settle(one, evm.offer) for one in spellings * 2))
    assert {receipt.transaction for receipt in receipts} == {receipts[0].transaction}
    assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
    late = await party.settle(spellings[3], evm.offer.model_copy(update={"pay_to": evm.offer.pay_to.lower()}))
    assert late == receipts[0]
    assert (await evm.received(), await evm.sent()) == (1000, 1)


async def test_A05_every_spelling_is_the_same_payment_on_solana(svm: SvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([svm.rail()], ledger), await svm.pay()
    raw = base64.b64decode(payment.payload["transaction"])
    assert raw[0] == 2
    # The fee payer's slot is overwritten before sending: whatever stands in it names no other payment (F#2482).
    junk = [raw[:1] + bytes([number]) * 64 + raw[65:] for number in (1, 7, 255)]
    spellings = [payment, *(with_payload(payment, transaction=base64.b64encode(one).decode()) for one in junk)]
    spellings += [as_version_1(one) for one in spellings]
    receipts = await asyncio.gather(*(party.settle(one, svm.offer) for one in spellings))
    assert {receipt.transaction for receipt in receipts} == {receipts[0].transaction}
    assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
    assert await svm.received() == 1000


async def test_A12_a_stranger_who_settles_first_changes_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([evm.rail(ledger)], ledger), evm.pay()
    stranger = await party.settle(payment, evm.offer)
    seller = await party.settle(payment, evm.offer)
    assert stranger == seller
    assert seller.success


async def test_A13_garbage_that_comes_first_answers_only_for_itself(evm: EvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([evm.rail(ledger)], ledger), evm.pay()
    garbage = [with_payload(payment, signature="0x" + f"{number:02x}" * 64 + "1b") for number in range(1, 9)]
    answers = await asyncio.gather(*(party.settle(one, evm.offer) for one in [*garbage, payment, *garbage]))
    assert {answer.error_reason for answer in answers[:8]} == {"invalid_exact_evm_signature"}
    assert answers[8].outcome is Outcome.SETTLED
    assert (await evm.received(), await evm.sent()) == (1000, 1)


async def test_A13_a_refusal_by_the_simulation_is_not_remembered(evm: EvmShop, ledger: SqlLedger) -> None:
    poor = EvmPayer()
    party, payment = facilitator([evm.rail(ledger)], ledger), poor.pay(evm.offer)
    refused = await party.settle(payment, evm.offer)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "invalid_exact_evm_insufficient_balance")
    await evm.world.fund(poor.address, 1000)
    assert (await party.settle(payment, evm.offer)).success


async def test_A24_other_terms_under_a_known_identity_are_refused(evm: EvmShop, ledger: SqlLedger) -> None:
    party, nonce = facilitator([evm.rail(ledger)], ledger), b"\x24" * 32
    payment = evm.pay(nonce=nonce)
    dearer = evm.offer.model_copy(update={"amount": 2000})
    elsewhere = evm_requirement(amount=1000)
    # Properly signed, all three, over one nonce: whichever comes first is the payment, the others are not.
    rivals: list[tuple[Payment, Any]] = [(payment, evm.offer)] * 5
    rivals += [(evm.payer.pay(dearer, nonce=nonce), dearer), (evm.payer.pay(elsewhere, nonce=nonce), elsewhere)] * 5
    receipts = await asyncio.gather(*(party.settle(one, offer) for one, offer in rivals))
    by_offer = {offer.pay_to + str(offer.amount): receipt for (_, offer), receipt in zip(rivals, receipts, strict=True)}
    assert len({receipt.transaction for receipt in receipts if receipt.success}) == 1
    assert [receipt.success for receipt in by_offer.values()].count(True) == 1
    assert {receipt.error_reason for receipt in receipts if not receipt.success} == {"duplicate_settlement"}
    assert await evm.sent() == 1
    later = [await party.settle(one, offer) for one, offer in rivals[-3:]]
    assert later == receipts[-3:]


async def test_A24_other_terms_lose_against_another_replica_too(evm: EvmShop, tmp_path: Path) -> None:
    nonce, dearer = b"\x25" * 32, evm.offer.model_copy(update={"amount": 2000})
    spare = await evm.spare_key()
    async with ledger_at(tmp_path) as first, ledger_at(tmp_path) as second:
        one = facilitator([evm.rail(first)], first)
        two = facilitator([evm.rail(second, signers=[spare])], second)
        answers = await asyncio.gather(
            one.settle(evm.pay(nonce=nonce), evm.offer), two.settle(evm.payer.pay(dearer, nonce=nonce), dearer)
        )
        assert sorted(answer.success for answer in answers) == [False, True]
        assert [answer.error_reason for answer in answers if not answer.success] == ["duplicate_settlement"]


async def test_E10_what_cannot_be_written_is_not_sent(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    sends: list[str] = []

    async def send(_: bytes, transaction: str) -> None:
        sends.append(transaction)

    full = Meddled(ledger, begin=unreachable, intend=unreachable)
    chains = Meddled(evm.chain, send=send), Meddled(svm.chain, send=send)
    party = facilitator([evm.rail(ledger, chains[0]), svm.rail(chains[1])], full)
    payments = (evm.pay(), evm.offer), (await svm.pay(), svm.offer)
    for payment, offer in payments:
        with pytest.raises(UnavailableError):
            await party.settle(payment, offer)
    assert sends == []
    # The nonce came back: once there is room again, everything settles, and nothing waits behind a gap.
    for healed in (full, *chains):
        healed.instead.clear()
    for payment, offer in payments:
        assert (await party.settle(payment, offer)).success
    assert await evm.sent() == 1


async def test_E10_the_bytes_are_durable_before_they_leave(evm: EvmShop, svm: SvmShop, tmp_path: Path) -> None:
    seen: list[tuple[str, bytes]] = []
    async with ledger_at(tmp_path) as ledger, ledger_at(tmp_path) as reader:

        async def send(raw: bytes, transaction: str) -> None:
            stages = [entry.stage for entry in await reader.unresolved(ME)]
            seen.extend((one.transaction, one.raw) for one in stages if isinstance(one, Intended))
            assert seen[-1] == (transaction, raw)
            await real(raw, transaction)

        for rail, payment, offer, chain in (
            (evm.rail(ledger, Meddled(evm.chain, send=send)), evm.pay(), evm.offer, evm.chain),
            (svm.rail(Meddled(svm.chain, send=send)), await svm.pay(), svm.offer, svm.chain),
        ):
            real = chain.send
            assert (await facilitator([rail], ledger).settle(payment, offer)).success
        assert len(seen) == 2


async def test_E10_a_ledger_that_fails_after_the_send_leaves_doubt(evm: EvmShop, ledger: SqlLedger) -> None:
    payment = evm.pay()
    party = facilitator([evm.rail(ledger)], Meddled(ledger, advance=unreachable))
    receipt = await party.settle(payment, evm.offer)
    assert receipt.outcome is Outcome.PENDING
    assert receipt.transaction
    assert await evm.received() == 1000
    healed = await facilitator([evm.rail(ledger)], ledger).settle(payment, evm.offer)
    assert (healed.outcome, healed.transaction) == (Outcome.SETTLED, receipt.transaction)
    assert await evm.sent() == 1


async def test_E02_a_ledger_that_cannot_be_read_refuses_nobody(evm: EvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([evm.rail(ledger)], ledger), evm.pay()
    settled = await party.settle(payment, evm.offer)
    blind = facilitator([evm.rail(ledger)], Meddled(ledger, find=unreachable))
    assert (await blind.settle(payment, evm.offer)).outcome is Outcome.PENDING
    assert await party.settle(payment, evm.offer) == settled


async def test_E02_a_node_that_is_away_refuses_nobody(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator(
        [evm.rail(ledger, Meddled(evm.chain, call=unreachable)), svm.rail(Meddled(svm.chain, simulate=unreachable))],
        ledger,
    )
    for payment, offer in ((evm.pay(), evm.offer), (await svm.pay(), svm.offer)):
        for work in (party.verify, party.settle):
            with pytest.raises(UnavailableError):
                await work(payment, offer)
    assert await ledger.unresolved(ME) == []


async def test_D01_fifty_at_once_leave_no_gap_among_nonces(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger)], ledger, seconds=25)
    payments = [evm.pay() for _ in range(50)]
    receipts = await asyncio.gather(*(party.settle(payment, evm.offer) for payment in payments))
    assert {receipt.outcome for receipt in receipts} == {Outcome.SETTLED}
    book = await ledger.nonces(BASE_SEPOLIA, evm.signer.address)
    assert len({receipt.transaction for receipt in receipts}) == await evm.sent() == book.next
    assert await evm.received() == 50_000


async def test_a_caller_who_hangs_up_stops_nothing(evm: EvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([evm.rail(ledger)], ledger), evm.pay()
    caller = asyncio.create_task(party.settle(payment, evm.offer))
    await asyncio.sleep(0.005)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert (await party.settle(payment, evm.offer)).success
    assert (await evm.received(), await evm.sent()) == (1000, 1)


async def test_networks_that_are_not_served(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger)], ledger)
    elsewhere = evm_requirement(network="eip155:8453")
    assert (await party.verify(evm.pay(), elsewhere)).invalid_reason == "invalid_network"
    refused = await party.settle(evm.pay(), elsewhere)
    assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "invalid_network")


async def test_E08_no_gas_no_kind(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    kinds = (await party.supported()).kinds
    assert [(kind.version, kind.network) for kind in kinds] == [
        (2, BASE_SEPOLIA),
        (2, BASE_SEPOLIA),
        (1, "base-sepolia"),
        (2, SOLANA_DEVNET),
        (1, "solana-devnet"),
    ]
    assert kinds[3].extra == {"feePayer": svm.signer.address}
    await evm.world.request("anvil_setBalance", evm.signer.address, hex(10**12))
    assert [kind.network for kind in (await party.supported()).kinds] == [SOLANA_DEVNET, "solana-devnet"]

    async def drained(addresses: list[str]) -> list[None]:
        return [None for _ in addresses]

    dry = facilitator([svm.rail(Meddled(svm.chain, accounts=drained))], ledger)
    assert (await dry.supported()).kinds == ()
    away = facilitator([evm.rail(ledger, Meddled(evm.chain, balance=unreachable))], ledger)
    assert (await away.supported()).kinds == ()


async def test_the_law_binds_the_facilitator(evm: EvmShop, ledger: SqlLedger) -> None:
    party, payment = facilitator([evm.rail(ledger)], ledger), evm.pay()
    receipt = await party.settle(payment, evm.offer)
    entry = await ledger.find(ME, evm.rail(ledger).read(payment, evm.offer).subject.pay_id)
    assert entry is not None
    assert isinstance(entry.stage, Settled)
    assert entry.stage.block > 0
    assert await party.reconcile(entry.subject.pay_id, timeout=1) == receipt
    assert await party.reconcile("nothing", timeout=1) is None
    final = await ledger.advance(ME, entry.subject.pay_id, Event.REORGANISE, Reversed(receipt.transaction))
    assert final.state is State.REVERSED
    # It may land again: neither settled nor refused is true.
    again = await party.settle(payment, evm.offer)
    assert (again.outcome, again.transaction) == (Outcome.PENDING, receipt.transaction)
    assert "reorganisation" in (again.error_message or "")

"""What became of a payment, as the chain tells it: real chains, and nodes that lag, forget and lie. A23, B11, E01."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.facilitator.world import EvmShop, Meddled, SvmShop, cancel_call, submit, unreachable
from tests.payments import evm_asset
from x402.chain import CallResult, SvmListed
from x402.client.auth import X402Auth
from x402.client.budget import DAY_SECONDS, Limits
from x402.client.journal import Journal
from x402.client.owner import Call
from x402.client.resolve import Finding, resolve
from x402.client.wallet import Wallet
from x402.lifecycle import Event
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports import Chains
from x402.schemes import exact_evm, exact_svm
from x402.schemes.subject import subject_of
from x402.stages import Refused, Released, Settled, State
from x402.wire.challenge import Challenge, Requirement, Resource
from x402.wire.payment import Payment, read_payment

from .seller import Answer, Seller, delivers, timeout

CENT = Decimal("0.01")
URL = "https://seller.test/report"


def past(seconds: int) -> Callable[[], int]:
    """A clock that is behind."""
    return lambda: int(time.time()) - seconds


def expose(journal: Journal, payment: Payment, offer: Requirement) -> str:
    """A payment that was presented and of which nothing was heard again."""
    subject, call = subject_of(payment, offer, fingerprint="f"), Call()
    journal.hold(subject, host="seller.test", usd=CENT, limits=Limits(), call=call)
    journal.expose(subject.pay_id, payment.header_name, payment.as_header())
    journal.leave(call)
    return subject.pay_id


async def ask(journal: Journal, *, evm: Any = None, svm: Any = None) -> Finding:
    """What is found about the only open payment."""
    chains = Chains(evm={BASE_SEPOLIA: evm} if evm else {}, svm={SOLANA_DEVNET: svm} if svm else {})
    [finding] = await resolve(journal, lambda _: chains)
    return finding


def stays(journal: Journal, finding: Finding, state: State = State.EXPOSED) -> bool:
    """Whether nothing was decided, and the amount is still reserved."""
    counted = journal.spent(DAY_SECONDS) == CENT
    return finding.proof is None and finding.record.state is state and len(journal.unresolved()) == 1 and counted


class Bought:
    """A real call of the client that broke off after the payment had left."""

    def __init__(self, wallet: Wallet, offer: Requirement) -> None:
        challenge = Challenge(resource=Resource(url=URL), accepts=(offer,))
        asked = Answer(402, {"PAYMENT-REQUIRED": challenge.as_header()}, b"{}")
        self.auth = X402Auth(wallet, journal=":memory:", clock=past(0))
        self.seller = Seller(asked, timeout(), delivers())
        with pytest.raises(httpx.ReadTimeout):
            self.call()

    @property
    def payment(self) -> Payment:
        payment = read_payment([("PAYMENT-SIGNATURE", self.seller.payments[-1] or "")])
        assert payment is not None
        return payment

    def call(self) -> httpx.Response:
        with httpx.Client(transport=httpx.MockTransport(self.seller), auth=self.auth) as client:
            return client.get(URL)


class TestEvm:
    async def test_A23_settled_behind_the_clients_back(self, evm_devnet: EvmWorld) -> None:
        world = await EvmShop.open(evm_devnet)
        key = "0x" + world.payer.key.to_hex()
        bought = Bought(Wallet(evm=key), world.offer)
        journal = bought.auth.journal
        alive = await ask(journal, evm=world.chain)
        assert alive.proof is None
        assert "may still take it" in alive.words
        assert [one.state for one in journal.history()] == [State.EXPOSED]

        transaction = await submit(world, exact_evm.read_payload(bought.payment.payload, evm_asset()).calldata())
        found = await ask(journal, evm=world.chain)
        assert isinstance(found.proof, Settled)
        assert found.proof.transaction == transaction
        assert found.record.state is State.SETTLED
        assert journal.spent(DAY_SECONDS) == Decimal("0.001")
        assert list(await resolve(journal, lambda _: Chains())) == []
        # The answer was paid for, and the same call still fetches it with the same payment.
        assert bought.call().status_code == 200
        assert len(bought.seller.signatures) == 1

    @pytest.mark.parametrize(("expired", "dead"), [(-5, False), (1, False), (20, False), (40, True)])
    async def test_A23_dead_only_well_after_its_last_second(
        self, evm_devnet: EvmWorld, expired: int, dead: bool
    ) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(700))
        authorization = replace(world.payer.authorize(world.offer), valid_before=int(time.time()) - expired)
        expose(journal, world.payer.sign(world.offer, authorization), world.offer)
        await evm_devnet.request("evm_mine")
        found = await ask(journal, evm=world.chain)
        if not dead:
            assert stays(journal, found)
            return
        assert found.proof == Released("expired unused")
        assert found.record.state is State.RELEASED
        assert not found.record.open
        assert journal.spent(DAY_SECONDS) == 0

    async def test_the_chains_clock_decides_and_not_ours(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(-7200))
        expose(journal, world.pay(), world.offer)
        assert stays(journal, await ask(journal, evm=world.chain))

    async def test_B11_a_refusal_that_was_a_lie_is_found_out(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        payment = world.pay()
        pay_id = expose(journal, payment, world.offer)
        journal.conclude(pay_id, event=Event.REFUSE, stage=Refused("no", "no"))
        assert stays(journal, await ask(journal, evm=world.chain), State.REFUSED)
        await submit(world, exact_evm.read_payload(payment.payload, evm_asset()).calldata())
        assert (await ask(journal, evm=world.chain)).record.state is State.SETTLED

    async def test_E01_a_used_nonce_without_its_transaction_is_no_verdict(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        payment = world.pay()
        expose(journal, payment, world.offer)
        await submit(world, exact_evm.read_payload(payment.payload, evm_asset()).calldata())
        for meddled in (
            Meddled(world.chain, logs=answers([])),
            Meddled(world.chain, receipt=answers(None)),
            Meddled(world.chain, call=answers(CallResult(True, b""))),
            Meddled(world.chain, call=answers(CallResult(False, revert="paused"))),
            Meddled(world.chain, call=unreachable),
        ):
            assert stays(journal, await ask(journal, evm=meddled))

    async def test_what_its_payer_cancelled_is_given_back(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        payment = world.pay()
        expose(journal, payment, world.offer)
        await submit(world, cancel_call(world.payer, payment))
        assert (await ask(journal, evm=world.chain)).proof == Released("cancelled")

    async def test_an_old_payment_is_found_in_its_own_blocks(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        payment = world.pay()
        expose(journal, payment, world.offer)
        await submit(world, exact_evm.read_payload(payment.payload, evm_asset()).calldata())
        now, asked = int(time.time()), []

        async def time_of(block: int) -> int:
            return now + 2 * (block - 500_000)

        async def logs(address: str, topics: Any, first: int, last: int) -> Any:
            asked.append((first, last))
            return await world.chain.logs(address, topics, 0) if first <= 500_000 <= last else []

        async def call(to: str, data: bytes, **_: Any) -> Any:
            return await world.chain.call(to, data)

        late = Meddled(world.chain, block_number=answers(1_000_000), time_of=time_of, logs=logs, call=call)
        assert isinstance((await ask(journal, evm=late)).proof, Settled)
        [(first, last)] = set(asked)
        assert abs(last - 500_300) < 10
        assert last - first < 2_000

    @pytest.mark.parametrize("method", ["time_of", "block_number", "check_chain_id"])
    async def test_E01_a_node_that_does_not_answer_decides_nothing(self, evm_devnet: EvmWorld, method: str) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        expose(journal, world.pay(), world.offer)
        found = await ask(journal, evm=Meddled(world.chain, **{method: unreachable}))
        assert stays(journal, found)
        assert found.error is not None
        assert found.error.code == "rpc_unavailable"

    async def test_D14_another_chain_decides_nothing(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(4000))
        authorization = replace(world.payer.authorize(world.offer), valid_before=int(time.time()) - 3000)
        expose(journal, world.payer.sign(world.offer, authorization), world.offer)
        world.chain.chain_id = 8453
        found = await ask(journal, evm=world.chain)
        assert stays(journal, found)
        assert found.error is not None
        assert found.error.code == "wrong_chain"


class TestSvm:
    async def test_A23_settled_behind_the_clients_back(self, svm_devnet: SvmWorld) -> None:
        world = await SvmShop.open(svm_devnet)
        hint = exact_svm.offer_extra(world.signer.address, blockhash=await world.chain.blockhash())
        offer = world.offer.model_copy(update={"extra": hint})
        bought = Bought(Wallet(svm=str(world.payer.keypair)), offer)
        journal = bought.auth.journal
        assert (await ask(journal, svm=world.chain)).proof is None
        transaction = await land(world, bought.payment)
        found = await ask(journal, svm=world.chain)
        assert isinstance(found.proof, Settled)
        assert found.proof.transaction == transaction
        assert found.record.state is State.SETTLED
        assert journal.spent(DAY_SECONDS) == Decimal("0.001")

    async def test_A23_dead_when_the_blockhash_and_five_minutes_are_gone(self, svm_devnet: SvmWorld) -> None:
        world = await SvmShop.open(svm_devnet)
        young, old = (Journal(":memory:", clock=past(seconds)) for seconds in (0, 400))
        payment = await world.pay()
        for journal in (young, old):
            expose(journal, payment, world.offer)
        # A second payment of the same account lands, and is not taken for the first.
        await land(world, await world.pay())
        assert stays(old, await ask(old, svm=world.chain)), "the blockhash is alive"
        await svm_devnet.advance(200)
        assert stays(young, await ask(young, svm=world.chain)), "a node that lags does not know a young blockhash"
        found = await ask(old, svm=world.chain)
        assert found.proof == Released("expired unused")
        assert old.spent(DAY_SECONDS) == 0

    async def test_another_payment_of_the_same_words_is_not_this_one(self, svm_devnet: SvmWorld) -> None:
        world, journal = await SvmShop.open(svm_devnet), Journal(":memory:", clock=past(400))
        offer = world.offer.model_copy(update={"extra": world.offer.extra | {"memo": "invoice7"}})
        lost = world.payer.pay(offer, (await world.chain.blockhash()).hash)
        await svm_devnet.advance(1)
        expose(journal, lost, offer)
        await land(world, world.payer.pay(offer, (await world.chain.blockhash()).hash))
        await svm_devnet.advance(200)
        assert (await ask(journal, svm=world.chain)).proof == Released("expired unused")

    async def test_E01_absence_is_no_verdict_without_history(self, svm_devnet: SvmWorld) -> None:
        world, journal = await SvmShop.open(svm_devnet), Journal(":memory:", clock=past(7 * 3600))
        expose(journal, await world.pay(), world.offer)
        await svm_devnet.advance(200)
        found = await ask(journal, svm=world.chain)
        assert stays(journal, found)

        async def older(address: str, **_: Any) -> Any:
            return [SvmListed("5" * 88, int(time.time()) - 8 * 3600)]

        assert (await ask(journal, svm=Meddled(world.chain, signatures_of=older))).proof == Released("expired unused")

    async def test_E01_what_is_listed_and_not_shown_decides_nothing(self, svm_devnet: SvmWorld) -> None:
        world, journal = await SvmShop.open(svm_devnet), Journal(":memory:", clock=past(400))
        payment = await world.pay()
        expose(journal, payment, world.offer)
        await land(world, payment)
        await svm_devnet.advance(200)
        for meddled in (
            Meddled(world.chain, transaction=answers(None)),
            Meddled(world.chain, accounts=answers([None])),
            Meddled(world.chain, signatures_of=unreachable),
            Meddled(world.chain, is_blockhash_valid=unreachable),
            Meddled(world.chain, check_cluster=unreachable),
        ):
            found = await ask(journal, svm=meddled)
            assert stays(journal, found)
            assert found.error is not None
        assert isinstance((await ask(journal, svm=world.chain)).proof, Settled)

    async def test_what_landed_in_vain_is_given_back(self, svm_devnet: SvmWorld) -> None:
        world, journal = await SvmShop.open(svm_devnet), Journal(":memory:", clock=past(0))
        payment = await world.pay()
        expose(journal, payment, world.offer)
        await land(world, payment)

        async def failed(signature: str) -> Any:
            landed = await world.chain.transaction(signature)
            assert landed is not None
            return replace(landed, error='{"InstructionError":[2,{"Custom":1}]}', balances=())

        assert (await ask(journal, svm=Meddled(world.chain, transaction=failed))).proof == Released("failed on chain")


class TestRows:
    async def test_what_never_left_is_released_once_its_call_is_dead(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        call = Call()
        subject = subject_of(world.pay(), world.offer)
        journal.hold(subject, host="seller.test", usd=CENT, limits=Limits(), call=call)
        assert stays(journal, await ask(journal, evm=world.chain), State.HELD)
        del call
        assert (await ask(journal)).proof == Released("never exposed")
        assert journal.spent(DAY_SECONDS) == 0

    async def test_without_a_node_nothing_is_decided(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        expose(journal, world.pay(), world.offer)
        found = await ask(journal)
        assert stays(journal, found)
        assert found.error is not None
        assert found.error.code == "no_node"

    @pytest.mark.parametrize("header", ["junk", ""])
    async def test_a_row_that_cannot_be_read_harms_no_other(self, evm_devnet: EvmWorld, header: str) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(700))
        payment, call = world.pay(), Call()
        journal.hold(subject_of(payment, world.offer), host="seller.test", usd=CENT, limits=Limits(), call=call)
        journal.expose(subject_of(payment, world.offer).pay_id, payment.header_name, header)
        dead = replace(world.payer.authorize(world.offer), valid_before=int(time.time()) - 200)
        expose(journal, world.payer.sign(world.offer, dead), world.offer)
        await evm_devnet.request("evm_mine")
        broken, released = await resolve(journal, lambda _: Chains(evm={BASE_SEPOLIA: world.chain}))
        assert broken.error is not None
        assert broken.proof is None
        assert released.record.state is State.RELEASED

    async def test_another_payments_header_proves_nothing(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(0))
        subject, other, call = subject_of(world.pay(), world.offer), world.pay(), Call()
        journal.hold(subject, host="seller.test", usd=CENT, limits=Limits(), call=call)
        journal.expose(subject.pay_id, other.header_name, other.as_header())
        await submit(world, exact_evm.read_payload(other.payload, evm_asset()).calldata())
        assert stays(journal, await ask(journal, evm=world.chain))

    async def test_what_another_process_wrote_meanwhile_stays(self, evm_devnet: EvmWorld) -> None:
        world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(700))
        dead = replace(world.payer.authorize(world.offer), valid_before=int(time.time()) - 200)
        pay_id = expose(journal, world.payer.sign(world.offer, dead), world.offer)
        await evm_devnet.request("evm_mine")

        async def time_of(block: int) -> int:
            journal.conclude(pay_id, event=Event.SETTLE, stage=Settled("0xother"))
            return await world.chain.time_of(block)

        found = await ask(journal, evm=Meddled(world.chain, time_of=time_of))
        assert found.record.state is State.SETTLED
        assert found.record.open


def answers(value: Any) -> Callable[..., Any]:
    """A method that always says the same."""

    async def answer(*_: Any, **__: Any) -> Any:
        return value

    return answer


async def land(world: SvmShop, payment: Payment) -> str:
    """The payment co-signed and confirmed; the transaction's id."""
    assert payment.accepted is not None
    signed = exact_svm.check(payment, payment.accepted, managed=frozenset({world.signer.address}))
    transaction, raw = exact_svm.cosign(signed, world.signer.sign_message(exact_svm.message_to_sign(signed)))
    await world.chain.send(raw, transaction)
    assert await world.chain.status(transaction, timeout=10) is not None
    return transaction

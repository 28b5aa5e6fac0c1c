"""What was paid ahead and not taken is signed over with the same nonce: the chain lets one of both pay, whichever."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal

import httpx
import pytest

from tests.chains import EvmWorld
from tests.facilitator.world import EvmShop, submit, transfer_call
from tests.payments import EvmPayer, as_version_1, evm_requirement
from x402 import tariff
from x402.client.auth import X402Auth
from x402.client.budget import DAY_SECONDS, Limits
from x402.client.journal import Journal
from x402.client.owner import Call
from x402.client.presented import all_presented
from x402.client.wallet import Wallet
from x402.lifecycle import Event, UnlawfulEvent
from x402.schemes.subject import subject_of
from x402.stages import Refused, Released, Settled, State
from x402.tariff import EXTENSION, Tariff
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

from .seller import EVM_KEY, URL, Seller, asks, delivers, offer, read_payment
from .test_resolve import ask, expose, past

DEARER = 2500


class Pair:
    """Two payments with one nonce, both of which have left; the second is dearer."""

    def __init__(self, world: EvmShop, *, lifetime: int = 600) -> None:
        self.journal = Journal(":memory:", clock=past(0))
        nonce = bytes([7] * 32)
        self.offers = [world.offer, world.offer.model_copy(update={"amount": DEARER})]
        self.payments = [world.payer.pay(offer, nonce=nonce, lifetime=lifetime) for offer in self.offers]
        self.pay_id = expose(self.journal, self.payments[0], self.offers[0])
        self.journal.hold_more(self.pay_id, host="seller.test", usd=Decimal("0.025"), limits=Limits())
        self.replace(1)

    def replace(self, which: int) -> None:
        payment, offer = self.payments[which], self.offers[which]
        subject = subject_of(payment, offer, fingerprint="f")
        assert subject.pay_id == self.pay_id
        self.journal.replace(subject, payment.header_name, payment.as_header())


@pytest.mark.parametrize("taken", [0, 1])
async def test_A23_whichever_was_taken_is_found(evm_devnet: EvmWorld, taken: int) -> None:
    world = await EvmShop.open(evm_devnet)
    pair = Pair(world)
    assert (await ask(pair.journal, evm=world.chain)).proof is None
    transaction = await submit(world, transfer_call(pair.payments[taken]))
    found = await ask(pair.journal, evm=world.chain)
    assert isinstance(found.proof, Settled)
    assert (found.proof.transaction, found.record.state) == (transaction, State.SETTLED)
    assert pair.journal.spent(DAY_SECONDS) == Decimal("0.025")


@pytest.mark.parametrize("taken", [0, 1])
async def test_A23_whichever_was_taken_is_found_also_after_the_other_was_refused(
    evm_devnet: EvmWorld, taken: int
) -> None:
    """A refusal is the word of a seller, who may settle what came before it all the same."""
    world = await EvmShop.open(evm_devnet)
    pair = Pair(world)
    pair.journal.conclude(pair.pay_id, event=Event.REFUSE, stage=Refused("nope", "nope"))
    transaction = await submit(world, transfer_call(pair.payments[taken]))
    found = await ask(pair.journal, evm=world.chain)
    assert isinstance(found.proof, Settled)
    assert (found.proof.transaction, found.record.state) == (transaction, State.SETTLED)
    assert pair.journal.spent(DAY_SECONDS) == Decimal("0.025")


def test_A23_payments_of_both_versions_share_a_nonce() -> None:
    payer, offer, nonce = EvmPayer(), evm_requirement(), bytes([7] * 32)
    journal = Journal(":memory:", clock=past(0))
    payments = [payer.pay(offer, nonce=nonce, lifetime=lifetime) for lifetime in (600, 300)]
    for first, second in ((payments[0], as_version_1(payments[1])), (as_version_1(payments[0]), payments[1])):
        pay_id = expose(journal, first, offer)
        journal.replace(subject_of(second, offer, fingerprint="f"), second.header_name, second.as_header())
        record = journal.find(pay_id)
        assert record is not None
        proofs = [subject_of(one, offer).record["proof"] for one in (second, first)]
        assert [subject.record["proof"] for subject in all_presented(record)] == proofs
        assert first.as_header() not in repr(record)
        journal = Journal(":memory:", clock=past(0))


def test_A23_what_an_older_version_noted_is_known_after_one_more_signature() -> None:
    """It wrote the earlier headers into the stage alone."""
    payer, offer, nonce = EvmPayer(), evm_requirement(), bytes([7] * 32)
    journal = Journal(":memory:", clock=past(0))
    payments = [payer.pay(offer, nonce=nonce, lifetime=lifetime) for lifetime in (600, 500, 400)]
    pay_id = expose(journal, payments[0], offer)
    for payment in payments[1:]:
        record = journal.replace(subject_of(payment, offer, fingerprint="f"), payment.header_name, payment.as_header())
        if payment is payments[1]:
            with journal._transaction() as db:
                db.execute("UPDATE payments SET record = '{}' WHERE pay_id = ?", (pay_id,))
    proofs = [subject_of(payment, offer).record["proof"] for payment in reversed(payments)]
    assert [subject.record["proof"] for subject in all_presented(record)] == proofs


async def test_A23_the_chain_takes_one_of_both(evm_devnet: EvmWorld) -> None:
    world = await EvmShop.open(evm_devnet)
    pair, before = Pair(world), await world.received()
    await submit(world, transfer_call(pair.payments[1]))
    with pytest.raises(AssertionError):
        # The transaction is mined, and fails.
        await submit(world, transfer_call(pair.payments[0]))
    assert await world.received() - before == DEARER


async def test_A23_only_when_both_are_dead_is_the_amount_given_back(evm_devnet: EvmWorld) -> None:
    world = await EvmShop.open(evm_devnet)
    pair = Pair(world, lifetime=-120)
    found = await ask(pair.journal, evm=world.chain)
    assert isinstance(found.proof, Released)
    assert pair.journal.spent(DAY_SECONDS) == 0


async def test_what_is_decided_is_not_signed_over(evm_devnet: EvmWorld) -> None:
    world = await EvmShop.open(evm_devnet)
    pair = Pair(world)
    pair.journal.release(pair.pay_id, "dead")
    with pytest.raises(UnlawfulEvent):
        pair.replace(0)


def test_it_is_kept_across_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    payer, nonce = EvmPayer(), bytes([9] * 32)
    offers: list[Requirement] = [evm_requirement(amount=amount) for amount in (1000, 2000, 3000)]
    offers = [offer.model_copy(update={"pay_to": offers[0].pay_to}) for offer in offers]
    payments: list[Payment] = [payer.pay(offer, nonce=nonce) for offer in offers]
    journal = Journal(file, clock=past(0))
    pay_id = expose(journal, payments[0], offers[0])
    for payment, terms in zip(payments[1:], offers[1:], strict=True):
        journal.replace(subject_of(payment, terms, fingerprint="f"), payment.header_name, payment.as_header())
    record = Journal(file, clock=past(0)).recall("f", Call())
    assert record is not None
    assert (record.pay_id, record.header, record.entry.subject.amount) == (pay_id, payments[2].as_header(), 3000)
    assert record.entry.stage.earlier == tuple(payment.as_header() for payment in payments[:2])  # type: ignore[union-attr]


@pytest.mark.parametrize("spell", [str, str.lower, lambda address: "0x" + address[2:].upper()])
def test_a_token_is_signed_over_however_the_seller_spells_it(spell: Callable[[str], str]) -> None:
    terms = offer(asset=spell(offer().asset))
    price = Tariff(route="POST /api/v1/chat/completions", expires_at=int(time.time()) + 9000, flat=Decimal("0.01"))
    announced = {EXTENSION: {"info": {"tariff": tariff.sign(price, key=b"a key for quotes")}}}
    dearer = terms.model_copy(update={"amount": 20_000})
    other_terms = asks(dearer, error="invalid_tariff", extensions=announced)
    seller = Seller(asks(terms, extensions=announced), delivers(), other_terms, delivers())
    auth = X402Auth(Wallet(evm=EVM_KEY), journal=":memory:")
    with httpx.Client(transport=httpx.MockTransport(seller), auth=auth) as client:
        assert client.post(URL, content=b"a").status_code == 200
        assert client.post(URL, content=b"b").status_code == 200
    ahead, over = (read_payment(shown)["payload"]["authorization"] for shown in seller.payments[2:])
    assert ahead["nonce"] == over["nonce"]
    assert (ahead["value"], over["value"]) == ("10000", "20000")

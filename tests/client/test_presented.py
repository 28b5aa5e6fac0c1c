"""A payment is read back from the very bytes that were presented, and from no others (faults A23, B13, D14)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.payments import EvmPayer, SvmPayer, address, evm_requirement, svm_requirement, upto_requirement
from x402 import networks
from x402.client.journal import Journal
from x402.client.presented import all_presented, presented, witness_of
from x402.client.record import Record
from x402.errors import DeclinedError, MalformedError, MisconfiguredError, UnavailableError
from x402.evidence.evm import EvmWitness
from x402.evidence.svm import SvmWitness
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports import Chains
from x402.schemes import eip712, exact_evm
from x402.schemes.subject import subject_of
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

from .test_resolve import expose, past

BLOCKHASH = "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"
CELO = "eip155:42220"


def exact() -> tuple[Payment, Requirement]:
    offer = evm_requirement()
    return EvmPayer().pay(offer), offer


def second_dollar() -> tuple[Payment, Requirement]:
    """In the second token of a network, whose domain is another than the first one's."""
    asset, payer = networks.get(CELO).assets[1], EvmPayer()
    extra = {"name": asset.eip712_name, "version": asset.eip712_version}
    offer = evm_requirement(network=CELO, asset=asset.address, extra=extra)
    payload = exact_evm.payload(payer.authorize(offer), asset, lambda digest: eip712.sign(payer.key, digest))
    return Payment.of(offer, payload), offer


def maximum() -> tuple[Payment, Requirement]:
    offer = upto_requirement(address())
    return EvmPayer().pay_up_to(offer), offer


def on_solana() -> tuple[Payment, Requirement]:
    offer = svm_requirement(SvmPayer().address, SvmPayer().address)
    return SvmPayer().pay(offer, BLOCKHASH), offer


def first_version() -> tuple[Payment, Requirement]:
    payment, offer = exact()
    return Payment(version=1, scheme="exact", network=offer.network, payload=payment.payload), offer


def row(payment: Payment, offer: Requirement) -> Record:
    journal = Journal(":memory:", clock=past(0))
    record = journal.find(expose(journal, payment, offer))
    assert record is not None
    return record


@pytest.mark.parametrize("made", [exact, second_dollar, maximum, on_solana, first_version])
def test_A23_what_was_presented_is_read_back(made: Any) -> None:
    payment, offer = made()
    expected, record = subject_of(payment, offer), row(payment, offer)
    for found in (presented(record), *all_presented(record)):
        assert (found.pay_id, found.payer, found.payee) == (expected.pay_id, expected.payer, expected.payee)
        assert (found.amount, found.asset, found.network) == (offer.amount, offer.asset, offer.network)
    assert len(all_presented(record)) == 1


@pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
def test_the_bytes_of_another_payment_are_not_this_ones(network: str) -> None:
    if network == BASE_SEPOLIA:
        offer = evm_requirement()
        first, second = (row(EvmPayer().pay(offer), offer) for _ in range(2))
    else:
        offer = svm_requirement(SvmPayer().address, SvmPayer().address)
        first, second = (row(SvmPayer().pay(offer, BLOCKHASH), offer) for _ in range(2))
    for record, header in ((first, second.header), (second, first.header)):
        with pytest.raises(MalformedError) as caught:
            presented(replace(record, header=header))
        assert caught.value.code == "invalid_payload"
        assert "another payment" in caught.value.message


def test_a_row_without_a_payment_says_so() -> None:
    with pytest.raises(MalformedError, match="holds no payment in this row") as caught:
        presented(replace(row(*exact()), header_name="X-Other"))
    assert caught.value.code == "invalid_payload"


def test_a_token_that_is_not_known_any_more_is_declined() -> None:
    record = row(*exact())
    strange = replace(record.entry.subject, asset="0x" + "66" * 20)
    with pytest.raises(DeclinedError, match="is not a known asset") as caught:
        presented(replace(record, entry=replace(record.entry, subject=strange)))
    assert caught.value.code == "unknown_asset"


def test_A23_all_that_share_a_nonce_are_read_back_the_latest_first() -> None:
    journal, payer, nonce = Journal(":memory:", clock=past(0)), EvmPayer(), bytes([7] * 32)
    offers = [evm_requirement(address(), amount) for amount in (1000, 2000, 3000)]
    payments = [payer.pay(offer, nonce=nonce) for offer in offers]
    pay_id = expose(journal, payments[0], offers[0])
    for payment, offer in list(zip(payments, offers, strict=True))[1:]:
        journal.replace(subject_of(payment, offer, fingerprint="f"), payment.header_name, payment.as_header())
    record = journal.find(pay_id)
    assert record is not None
    found = all_presented(record)
    assert [(one.amount, one.payee) for one in found] == [(offer.amount, offer.pay_to) for offer in reversed(offers)]
    assert {one.pay_id for one in found} == {pay_id}
    assert presented(record) == found[0]


class Node:
    """A node that is asked which chain it serves, and serves another one if it is told to."""

    def __init__(self, *, wrong: bool = False) -> None:
        self.wrong, self.asked = wrong, 0

    async def check_chain_id(self) -> None:
        self.asked += 1
        if self.wrong:
            raise MisconfiguredError("wrong_chain", "this node serves another chain")

    async def check_cluster(self, network: str) -> None:
        assert network == SOLANA_DEVNET
        await self.check_chain_id()


@pytest.mark.parametrize(("network", "kind"), [(BASE_SEPOLIA, EvmWitness), (SOLANA_DEVNET, SvmWitness)])
async def test_D14_who_is_asked_has_proven_which_chain_it_serves(network: str, kind: type) -> None:
    def chains(node: Any) -> Chains:
        return Chains(evm={network: node}) if kind is EvmWitness else Chains(svm={network: node})

    node, other = Node(), Node(wrong=True)
    assert isinstance(await witness_of(networks.to_v1(network), chains(node)), kind)
    assert node.asked == 1
    with pytest.raises(MisconfiguredError) as caught:
        await witness_of(network, chains(other))
    assert caught.value.code == "wrong_chain"


@pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
async def test_without_a_node_nobody_can_tell(network: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        await witness_of(network, Chains(evm={}, svm={}))
    assert caught.value.code == "no_node"
    assert networks.get(network).title in caught.value.message

"""The bytes that leave a seller's wallet: which nonce and memo they carry, when others follow them (fault G10).

Played through whole in `test_refunds.py` and `accounts/test_withdrawals.py`; here each rule is asked by itself.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from solders.keypair import Keypair

from tests.gateway.chain_view import View, nodes_of
from x402.errors import UnavailableError
from x402.gateway.belief import dead_at
from x402.gateway.disbursement import AGAIN_AFTER_SECONDS, Debt, Disbursements, Signed
from x402.gateway.offers import identity_of
from x402.gateway.purse import Purse
from x402.lifecycle import Entry, Party
from x402.money import Asset
from x402.networks import get
from x402.schemes.eip712 import keccak
from x402.schemes.subject import subject_of
from x402.stages import Refused, Settling
from x402.wire.payment import Payment

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
BLOCKHASH = "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"
DEAD = Refused("payment_expired", "the authorization expired")
"""What our own facilitator says in this process, or the chain itself, is proof."""


def usd(network: str) -> Asset:
    return get(network).usd


@pytest.fixture
def open_wallet(shop: Any) -> Callable[..., Disbursements]:
    """Opens the disbursements of a shop's refunds; options are the paywall's."""

    def opened(**options: Any) -> Disbursements:
        purse = Purse(evm="0x" + "77" * 32, svm=str(Keypair.from_seed(bytes([8] * 32))))
        nodes = nodes_of(View(shop.bank, EVM), View(shop.bank, SVM), blockhash=BLOCKHASH)
        shop.open({"GET /report": "$0.01"}, **({"purse": purse, "nodes": nodes} | options))
        payments: Disbursements = shop.paywall.till.reconciler.refunds.payments
        return payments

    return opened


def debt(shop: Any, network: str = EVM, name: str = "a debt") -> Debt:
    to = shop.payer.address if network == EVM else str(shop.payer.keypair.pubkey())
    return Debt(name=name, network=network, asset=usd(network).address, to=to, units=10_000)


def nonce_of(payment: Payment) -> str:
    return str(payment.payload["authorization"]["nonce"])


def carries(payment: Payment | None, name: str) -> bool:
    """Whether the memo of a Solana payment is made of this name, and of nothing else."""
    assert payment is not None
    memo = keccak(name.encode())[:16].hex().encode().hex().encode()
    return bytes([len(memo)]) + memo in base64.b64decode(payment.payload["transaction"])


def signed(payment: Payment, shop: Any, attempt: int = 1) -> Signed:
    return Signed(header=payment.as_header(), pay_id=identity_of(payment), attempt=attempt, since=shop.now)


async def test_G10_every_attempt_at_a_debt_has_a_nonce_of_its_own_and_keeps_it(shop: Any, open_wallet: Any) -> None:
    wallet, owed = open_wallet(), debt(shop)
    assert nonce_of(await wallet.sign(owed)) == nonce_of(await wallet.sign(owed, attempt=1)) == _named("a debt")
    assert nonce_of(await wallet.sign(owed, attempt=2)) == _named("a debt 2")
    assert nonce_of(await wallet.sign(owed, attempt=3)) == _named("a debt 3")
    assert nonce_of(await wallet.sign(debt(shop, name="another"))) == _named("another")
    first = await wallet.sign(owed)
    assert int(first.payload["authorization"]["validBefore"]) == shop.now + 300
    assert nonce_of(await wallet.sign(owed, attempt=7, like=identity_of(first))) == nonce_of(first)


def _named(name: str) -> str:
    return "0x" + keccak(name.encode()).hex()


async def test_G10_on_solana_the_memo_tells_the_attempts_apart(shop: Any, open_wallet: Any) -> None:
    wallet, owed = open_wallet(), debt(shop, SVM)
    for attempt, name in ((1, "a debt"), (2, "a debt 2"), (3, "a debt 3")):
        assert carries(await wallet.sign(owed, attempt=attempt), name)
        assert not carries(await wallet.sign(owed, attempt=attempt + 1), name)


async def test_G10_nothing_is_signed_again_before_the_first_has_rested_and_is_dead(shop: Any, open_wallet: Any) -> None:
    """On an EVM network: not for a minute, not while the bytes live, and then once, under the next name."""
    wallet, owed = open_wallet(), debt(shop)
    first = await wallet.sign(owed)
    told = signed(first, shop)
    begun, ends = shop.now, _dead_at(first, shop)
    assert ends > begun + AGAIN_AFTER_SECONDS
    for moment in (begun, begun + AGAIN_AFTER_SECONDS - 1, begun + AGAIN_AFTER_SECONDS, ends - 1):
        shop.now = moment
        assert await wallet.again(owed, told, DEAD) is None
    shop.now = ends
    other = await wallet.again(owed, told, DEAD)
    assert nonce_of(other) == _named("a debt 2")
    assert nonce_of(await wallet.again(owed, replace(told, attempt=4), DEAD)) == _named("a debt 5")
    # Nobody has proved anything: whichever of them lands, the other can't.
    assert nonce_of(await wallet.again(owed, told, None)) == nonce_of(first)


def _dead_at(payment: Payment, shop: Any) -> int:
    assert payment.accepted is not None
    entry = Entry(Party.GATEWAY, subject_of(payment, payment.accepted), Settling(), shop.now, shop.now)
    return dead_at(entry)


async def test_G10_on_solana_a_dead_attempt_rests_exactly_a_minute(shop: Any, open_wallet: Any) -> None:
    wallet, owed = open_wallet(), debt(shop, SVM)
    told = signed(await wallet.sign(owed), shop)
    shop.now += 59
    assert await wallet.again(owed, told, DEAD) is None
    shop.now += 1
    assert carries(await wallet.again(owed, told, DEAD), "a debt 2")
    assert carries(await wallet.again(owed, replace(told, attempt=2), DEAD), "a debt 3")
    assert await wallet.again(owed, told, None) is None


async def test_G10_a_network_is_covered_with_a_key_and_where_needed_a_node(shop: Any, open_wallet: Any) -> None:
    whole = open_wallet()
    assert (whole.covers(EVM), whole.covers(SVM)) == (True, True)
    blind = replace(whole, blockhashes={})
    assert (blind.covers(EVM), blind.covers(SVM)) == (True, False)
    solana_only = replace(whole, purse=Purse(svm=str(Keypair.from_seed(bytes([8] * 32)))))
    assert (solana_only.covers(EVM), solana_only.covers(SVM)) == (False, True)


async def test_G10_what_cannot_be_signed_is_unavailable_and_never_sent(shop: Any, open_wallet: Any) -> None:
    wallet = open_wallet()
    with pytest.raises(UnavailableError, match="no refund can be signed") as impossible:
        await wallet.sign(replace(debt(shop), to="nobody"))
    assert impossible.value.code == "refund_impossible"
    with pytest.raises(UnavailableError, match="does not settle") as nobody:
        await replace(wallet, kinds=Unsupporting()).sign(debt(shop, SVM))
    assert nobody.value.code == "nothing_supported"
    with pytest.raises(UnavailableError, match="blockhash") as blind:
        await replace(wallet, blockhashes={}).sign(debt(shop, SVM))
    assert blind.value.code == "no_node"
    assert shop.bank.moved == {}


class Unsupporting:
    """In place of a facilitator's kinds: none of them is on offer now."""

    async def find(self, scheme: str, network: str) -> None:
        return None

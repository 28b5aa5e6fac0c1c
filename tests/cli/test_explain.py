"""Every x402 message in words: what it says, and what is wrong with it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.hash import Hash
from solders.keypair import Keypair

from tests.payments import EvmPayer, upto_requirement
from x402 import networks
from x402.cli.explain import explain
from x402.cli.explanation import Explanation, span
from x402.client.wallet import Wallet
from x402.errors import MalformedError
from x402.price import ModelPrice, PriceList, PriceUnit, Rate
from x402.quote import Order, quote, request_digest
from x402.schemes import exact_evm, exact_svm
from x402.signed_quote import sign
from x402.wire.challenge import Challenge, Requirement, Resource
from x402.wire.facilitation import Facilitation
from x402.wire.headers import encode_header
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

NOW = 1_790_000_000
BUYER = Wallet.new(testnet_only=True)
SELLER = Wallet.new(testnet_only=True)
SPONSOR = Keypair()
EVM_USDC = networks.get(networks.BASE_SEPOLIA).usd
SVM_USDC = networks.get(networks.SOLANA_DEVNET).usd

_PRICES = PriceList(
    "list-1",
    (ModelPrice(model="m", prompt=Rate.of(3, PriceUnit.PER_1M), completion=Rate.of(15, PriceUnit.PER_1M)),),
)
QUOTE = quote(Order("m", 100, 40), _PRICES)
TOKEN = sign(QUOTE, key=b"k" * 32, request_digest=request_digest("POST", "/chat", b"{}"), issued_at=NOW, ttl_seconds=60)


def evm_offer(**changes: Any) -> Requirement:
    members: dict[str, Any] = {
        "scheme": "exact", "network": networks.BASE_SEPOLIA, "amount": QUOTE.bound, "asset": EVM_USDC.address,
        "pay_to": SELLER.evm_address, "max_timeout_seconds": 300,
        "extra": {"name": "USDC", "version": "2", "quote": TOKEN},
    }  # fmt: skip
    return Requirement(**members | changes)


def svm_offer(**changes: Any) -> Requirement:
    members: dict[str, Any] = {
        "scheme": "exact", "network": networks.SOLANA_DEVNET, "amount": 777, "asset": SVM_USDC.address,
        "pay_to": SELLER.svm_address, "max_timeout_seconds": 300, "extra": {"feePayer": str(SPONSOR.pubkey())},
    }  # fmt: skip
    return Requirement(**members | changes)


def challenge(*offers: Requirement) -> Challenge:
    return Challenge(resource=Resource(url="https://api.example/chat"), accepts=offers)


def evm_payment(**changes: Any) -> dict[str, Any]:
    offer = evm_offer()
    auth = exact_evm.build(offer, BUYER.evm_address, now=NOW, nonce=b"n" * 32, lifetime_seconds=300)
    payload = exact_evm.payload(auth, EVM_USDC, BUYER.sign_digest)
    return Payment.of(offer, {**payload, **changes}).as_json()


def svm_payment() -> Payment:
    offer = svm_offer()
    raw = exact_svm.build(offer, BUYER.svm_address, str(Hash.new_unique()), b"m" * exact_svm.MEMO_NONCE_BYTES)
    return Payment.of(offer, exact_svm.payload(exact_svm.sign(raw, BUYER.sign_message)))


def told(explanation: Explanation) -> str:
    return json.dumps(explanation.as_json(), ensure_ascii=False)


def problems(*offers: Requirement) -> str:
    return " ".join(explain(challenge(*offers).as_header(), now=NOW).all_problems)


def test_a_challenge_says_who_gets_how_much_where_and_why() -> None:
    words = told(explain(challenge(evm_offer(), svm_offer()).as_header(), now=NOW))
    for part in (
        "0.0009 USDC (900 atomic)", "Base Sepolia", "play money", SELLER.evm_address, "5 min at most",
        "≤ 100 prompt tokens $3 per 1M tokens = $0.0003", "≤ 40 answer tokens", "1 min from now",
        "Solana devnet", str(SPONSOR.pubkey()), "https://api.example/chat",
    ):  # fmt: skip
        assert part in words
    assert problems(evm_offer(), svm_offer()) == ""


def test_both_versions_of_a_challenge_are_understood() -> None:
    explanation = explain(json.dumps(challenge(evm_offer()).as_v1()), now=NOW)
    assert explanation.kind == "challenge"
    assert "x402 v1" in told(explanation)
    assert "0.0009 USDC" in explanation.summary


@pytest.mark.parametrize(
    ("offer", "problem"),
    [
        (evm_offer(asset="0x" + "11" * 20), "is not a known asset"),
        (evm_offer(network="eip155:999999"), "is not known"),
        (evm_offer(scheme="escrow"), "'escrow' is not paid by this client"),
        (evm_offer(extra={"name": "USD Coin", "version": "2"}), "the offer names the token"),
        (evm_offer(extra={"paymentFlow": "someday"}), "is not known"),
        (evm_offer(amount=0, extra={}), "is no amount"),
        (evm_offer(amount=901), "the quote says $0.0009, the offer asks for 901"),
        (evm_offer(extra={"quote": "junk"}), "the quote is not one that can be read here"),
        (evm_offer(max_timeout_seconds=90_000), "can be taken long after the answer"),
        (svm_offer(extra={}), "feePayer"),
        (svm_offer(pay_to="nobody"), "payTo"),
    ],
)
def test_what_is_wrong_with_an_offer_is_said(offer: Requirement, problem: str) -> None:
    assert problem in problems(offer)


def test_real_money_is_called_by_its_name() -> None:
    base = evm_offer(
        network=networks.BASE, asset=networks.get("base").usd.address, extra={"name": "USD Coin", "version": "2"}
    )
    assert "REAL MONEY" in told(explain(challenge(base).as_header(), now=NOW))
    assert "side by side" in problems(base, svm_offer())


def test_an_expired_quote_is_called_expired() -> None:
    explanation = explain(TOKEN, now=NOW + 61)
    assert explanation.kind == "quote"
    assert "expired" in " ".join(explanation.all_problems)
    assert "expired" not in " ".join(explain(TOKEN, now=NOW + 59).all_problems)


def test_a_payment_says_who_pays_whom_until_when() -> None:
    explanation = explain(encode_header(evm_payment()), now=NOW)
    words = told(explanation)
    assert explanation.kind == "payment"
    for part in (BUYER.evm_address, SELLER.evm_address, "0.0009 USDC", "5 min from now", "the payer's own"):
        assert part in words
    assert explanation.sections[1].problems == ()
    assert "expired" in " ".join(explain(encode_header(evm_payment()), now=NOW + 301).all_problems)


@pytest.mark.parametrize("first", range(8))
def test_a_forged_signature_is_found_out(first: int) -> None:
    # About half of these are the signature of another key, the other half of no key at all.
    genuine = evm_payment()["payload"]["signature"]
    forged = f"0x{int(genuine[2:4], 16) ^ (1 << first):02x}{genuine[4:]}"
    assert "not the payer's" in " ".join(explain(encode_header(evm_payment(signature=forged)), now=NOW).all_problems)
    assert "not the payer's" not in " ".join(explain(encode_header(evm_payment()), now=NOW).all_problems)


def test_a_solana_payment_is_read_from_its_transaction() -> None:
    payment = svm_payment()
    for message in (payment.as_json(), payment.model_copy(update={"version": 1}).as_json()):
        words = told(explain(encode_header(message), now=NOW))
        for part in (BUYER.svm_address, "0.000777 USDC", str(SPONSOR.pubkey()), "the payer's own"):
            assert part in words


def test_facilitators_are_understood() -> None:
    payment = svm_payment()
    fits = Facilitation(payment=payment, requirement=svm_offer()).as_json()
    differs = Facilitation(payment=payment, requirement=svm_offer(amount=778)).as_json()
    assert explain(json.dumps(fits), now=NOW).sections[2].problems == ()
    assert "does not meet" in " ".join(explain(json.dumps(differs), now=NOW).all_problems)
    assert explain('{"isValid": false, "invalidReason": "invalid_network"}', now=NOW).kind == "verification"
    kinds = {"kinds": [{"x402Version": 1, "scheme": "exact", "network": "base-sepolia"}]}
    assert "Base Sepolia" in told(explain(json.dumps(kinds), now=NOW))


@pytest.mark.parametrize(
    ("receipt", "words"),
    [
        (Receipt.settled("0x" + "ab" * 32, networks.BASE_SEPOLIA, None), "https://sepolia.basescan.org/tx/0xabab"),
        (Receipt.refused("insufficient_funds", "no money", networks.BASE_SEPOLIA), "no money moved"),
        (Receipt.pending("0x" + "cd" * 32, networks.BASE_SEPOLIA, None), "may still land"),
    ],
)
def test_a_receipt_says_its_outcome(receipt: Receipt, words: str) -> None:
    for text in (receipt.as_header()[1], f": x402-receipt {receipt.as_header()[1]}", json.dumps(receipt.as_json())):
        explanation = explain(text, now=NOW)
        assert explanation.kind == "receipt"
        assert words in told(explanation)


def test_a_whole_header_line_may_be_pasted() -> None:
    header = challenge(evm_offer()).as_header()
    assert explain(f"payment-required: {header}\r\n", now=NOW).kind == "challenge"


@pytest.mark.parametrize("text", ["", "hello", "{}", '{"a": 1}', "e30=", "[1]", "a.b", "x" * 200_000])
def test_what_is_no_message_is_called_so(text: str) -> None:
    with pytest.raises(MalformedError):
        explain(text, now=NOW)


_MEMBERS = st.dictionaries(
    st.sampled_from(
        ["accepts", "payload", "paymentPayload", "paymentRequirements", "success", "isValid", "kinds", "network",
         "payTo", "x402Version", "scheme", "amount", "accepted", "transaction", "extra"]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(_MEMBERS | st.text(max_size=80))
def test_junk_raises_nothing_but_malformed(junk: dict[str, Any] | str) -> None:
    texts = [junk] if isinstance(junk, str) else [json.dumps(junk), encode_header(junk)]
    for text in texts:
        try:
            explanation = explain(text, now=NOW)
        except MalformedError:
            continue
        assert explanation.summary


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_broken_payments_raise_nothing_but_malformed(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from([evm_payment(), svm_payment().as_json()]))
    raw = list(json.dumps(message))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from('0aZ"{}:,/=+'))
    try:
        assert explain("".join(raw), now=NOW).summary
    except MalformedError:
        return


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3661, "1 h 1 min")])
def test_spans(seconds: int, words: str) -> None:
    assert span(seconds) == words


def test_a_maximum_is_explained_as_one() -> None:
    payer, offer = EvmPayer(), upto_requirement("0x" + "fa" * 20)
    shown = str(explain(payer.pay_up_to(offer).as_header(), now=int(time.time())))
    assert "pays at most 0.001 USDC" in shown
    assert "settled by" in shown
    asked = str(explain(Challenge(accepts=(offer,)).as_header(), now=NOW))
    assert "at most 0.001 USDC" in asked
    assert "would not pay" not in asked

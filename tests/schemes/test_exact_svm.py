"""The client's side of `exact` on Solana: the transaction that it builds, signs and presents."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from x402 import networks
from x402.chain import Blockhash
from x402.errors import MalformedError, Mender, MisconfiguredError, RefusedError
from x402.schemes import exact_svm, exact_svm_reasons
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment, read_payment

VECTOR = json.loads((Path(__file__).parents[2] / "fixtures" / "svm_exact.json").read_text())["vectors"][0]
GIVEN, EXPECTED = VECTOR["input"], VECTOR["expected"]
PAYER, SPONSOR, SELLER = (Keypair.from_seed(bytes([seed]) * 32) for seed in range(1, 4))
NONCE = bytes(range(16))


def offer(**changes: Any) -> Requirement:
    members: dict[str, Any] = {
        "scheme": "exact",
        "network": networks.SOLANA_DEVNET,
        "amount": int(GIVEN["amount"]),
        "asset": GIVEN["mint"],
        "pay_to": GIVEN["payTo"],
        "max_timeout_seconds": 60,
        "extra": exact_svm.offer_extra(GIVEN["feePayer"], memo=GIVEN["memo"]),
    }
    return Requirement(**(members | changes))


def open_offer(**changes: Any) -> Requirement:
    """An offer that leaves the memo to the payer."""
    return offer(extra=exact_svm.offer_extra(GIVEN["feePayer"]), **changes)


def built(requirement: Requirement, memo: bytes = NONCE) -> bytes:
    return exact_svm.build(requirement, GIVEN["payer"], GIVEN["recentBlockhash"], memo)


def by_payer(message: bytes) -> bytes:
    return bytes(PAYER.sign_message(message))


def test_vector_of_the_official_sdk_byte_for_byte() -> None:
    raw = exact_svm.sign(built(offer()), by_payer)
    assert exact_svm.payload(raw) == {"transaction": EXPECTED["transactionBase64"]}
    parsed = VersionedTransaction.from_bytes(raw)
    assert [str(key) for key in parsed.message.account_keys] == EXPECTED["accountKeys"]
    assert str(parsed.signatures[1]) == EXPECTED["payerSignatureBase58"]
    assert parsed.signatures[0] == Signature.default()


def test_vector_is_understood() -> None:
    payment = Payment.of(offer(), {"transaction": EXPECTED["transactionBase64"]})
    result = exact_svm.check(payment, offer(), managed=frozenset({GIVEN["feePayer"]}))
    assert exact_svm.message_to_sign(result).hex() == EXPECTED["signedMessageHex"]
    assert result.transfer.source == EXPECTED["sourceAta"]
    assert result.transfer.destination == EXPECTED["destinationAta"] == exact_svm.destination_of(offer())
    assert (result.transfer.compute_limit, result.transfer.compute_price) == (20_000, 1)
    digest = exact_svm.pay_id(result.transfer, payment.network).rpartition(":")[2]
    assert bytes.fromhex(digest) == base64.b64decode(EXPECTED["sha256OfVersionPrefixedMessageBase64"])


def test_unsigned_transaction_is_as_the_protocol_says() -> None:
    parsed = VersionedTransaction.from_bytes(built(open_offer()))
    message = parsed.message
    assert isinstance(message, MessageV0)
    assert not message.address_table_lookups
    assert parsed.signatures == [Signature.default()] * 2
    limit, price, transfer, memo = message.instructions
    assert limit.data == b"\x02" + struct.pack("<I", 20_000)
    assert price.data == b"\x03" + struct.pack("<Q", 1)
    assert transfer.data == b"\x0c" + struct.pack("<QB", 1_000, 6)
    keys = [str(message.account_keys[index]) for index in transfer.accounts]
    assert keys == [EXPECTED["sourceAta"], GIVEN["mint"], EXPECTED["destinationAta"], GIVEN["payer"]]
    assert (memo.data, memo.accounts) == (NONCE.hex().encode(), b"")
    payer_index = message.account_keys.index(PAYER.pubkey())
    assert message.is_signer(payer_index)
    assert not message.is_maybe_writable(payer_index)


def test_C10_equal_payments_stay_distinct() -> None:
    first, second = (
        exact_svm.identify(exact_svm.payload(built(open_offer(), bytes([n]) * 16)), "solana-devnet") for n in (1, 2)
    )
    assert first != second
    with pytest.raises(ValueError, match="16 random bytes"):
        built(open_offer(), b"short")


def test_offer_prescribes_the_memo() -> None:
    assert built(offer(), b"a" * 16) == built(offer(), b"b" * 16)
    assert built(offer(extra={"feePayer": GIVEN["feePayer"], "memo": ""})) == built(open_offer())
    longest = offer(extra=exact_svm.offer_extra(GIVEN["feePayer"], memo="m" * 256))
    assert b"m" * 256 in built(longest)


@pytest.mark.parametrize(
    ("changes", "code", "mender"),
    [
        ({"scheme": "upto"}, "invalid_exact_svm_unsupported_scheme", Mender.PAYER),
        ({"network": "eip155:8453"}, "invalid_payment_requirements", Mender.SELLER),
        ({"asset": GIVEN["payTo"]}, "invalid_payment_requirements", Mender.SELLER),
        ({"pay_to": "0x" + "00" * 20}, "invalid_payment_requirements", Mender.SELLER),
        ({"pay_to": "1" * 45}, "invalid_payment_requirements", Mender.SELLER),
        ({"pay_to": GIVEN["payer"]}, "invalid_exact_svm_payload_self_transfer", Mender.PAYER),
        ({"amount": 2**64}, "invalid_payment_requirements", Mender.SELLER),
        ({"extra": {}}, "invalid_exact_svm_payload_missing_fee_payer", Mender.SELLER),
        ({"extra": {"feePayer": "me"}}, "invalid_payment_requirements", Mender.SELLER),
        ({"extra": {"feePayer": 5}}, "invalid_payment_requirements", Mender.SELLER),
        (
            {"extra": {"feePayer": GIVEN["payer"]}},
            "invalid_exact_svm_payload_transaction_fee_payer_transferring_funds",
            Mender.PAYER,
        ),
        ({"extra": {"feePayer": GIVEN["feePayer"], "memo": "m" * 257}}, "invalid_payment_requirements", Mender.SELLER),
        ({"extra": {"feePayer": GIVEN["feePayer"], "splits": [{}]}}, "invalid_payment_requirements", Mender.SELLER),
    ],
)
def test_offers_that_are_not_paid(changes: dict[str, Any], code: str, mender: Mender) -> None:
    with pytest.raises(RefusedError) as caught:
        built(offer(**changes))
    assert (caught.value.code, caught.value.mender) == (code, mender)


def test_our_own_keys_must_be_keys() -> None:
    with pytest.raises(MalformedError, match="payer"):
        exact_svm.build(offer(), "nobody", GIVEN["recentBlockhash"], NONCE)
    with pytest.raises(MalformedError, match="blockhash"):
        exact_svm.build(offer(), GIVEN["payer"], "", NONCE)


def test_amounts_up_to_64_bits() -> None:
    for amount in (0, 1, 2**64 - 1):
        message = VersionedTransaction.from_bytes(built(open_offer(amount=amount))).message
        assert message.instructions[2].data == struct.pack("<BQB", 12, amount, 6)


def test_token_2022_asset_is_built_with_its_own_program() -> None:
    pyusd = next(one for one in networks.get(networks.SOLANA_DEVNET).assets if one.symbol == "PYUSD")
    message = VersionedTransaction.from_bytes(built(open_offer(asset=pyusd.address))).message
    program = message.account_keys[message.instructions[2].program_id_index]
    assert str(program) == networks.TOKEN_2022_PROGRAM


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16), st.text(min_size=1, max_size=60))
def test_what_the_client_builds_the_facilitator_accepts(amount: int, nonce: bytes, memo: str) -> None:
    for requirement in (
        open_offer(amount=amount),
        offer(amount=amount, extra=exact_svm.offer_extra(GIVEN["feePayer"], memo=memo)),
    ):
        raw = exact_svm.sign(built(requirement, nonce), by_payer)
        payment = Payment.of(requirement, exact_svm.payload(raw))
        again = read_payment([(payment.header_name, payment.as_header())])
        assert again is not None
        result = exact_svm.check(again, requirement, managed=frozenset({GIVEN["feePayer"]}))
        assert (result.transfer.payer, result.transfer.amount) == (GIVEN["payer"], amount)
        assert exact_svm.identify(again.payload, again.network) == exact_svm.pay_id(result.transfer, again.network)


def test_a_wallet_that_signs_for_another_key_is_noticed() -> None:
    with pytest.raises(MisconfiguredError):
        exact_svm.sign(built(offer()), lambda message: bytes(SELLER.sign_message(message)))
    with pytest.raises(MisconfiguredError):
        exact_svm.sign(built(offer()), lambda message: b"short")
    with pytest.raises(RefusedError):
        exact_svm.sign(b"no transaction", by_payer)


def test_offer_extra_and_its_hints() -> None:
    hash_ = str(Pubkey(bytes([7]) * 32))
    extra = exact_svm.offer_extra(GIVEN["feePayer"], blockhash=Blockhash(hash_, 345))
    assert extra == {"feePayer": GIVEN["feePayer"], "recentBlockhash": hash_, "lastValidBlockHeight": "345"}
    assert set(extra) - exact_svm.DYNAMIC_EXTRA == {"feePayer"}
    assert exact_svm.hinted_blockhash(offer(extra=extra)) == hash_
    for hint in (None, 5, "", "short", "0" * 44):
        assert exact_svm.hinted_blockhash(offer(extra={"recentBlockhash": hint})) is None


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        ("unsupported_scheme", "invalid_exact_svm_unsupported_scheme"),
        ("network_mismatch", "invalid_exact_svm_network_mismatch"),
        ("fee_payer_not_managed_by_facilitator", "invalid_exact_svm_fee_payer_not_managed_by_facilitator"),
        ("transaction_simulation_failed", "invalid_exact_svm_transaction_simulation_failed"),
        ("transaction_failed", "invalid_exact_svm_transaction_failed"),
        ("invalid_exact_svm_payload_amount_insufficient", "invalid_exact_svm_payload_amount_mismatch"),
        ("invalid_exact_solana_payload_mint_mismatch", "invalid_exact_svm_payload_mint_mismatch"),
        ("invalid_exact_svm_transaction_simulation_failed: {..}", "invalid_exact_svm_transaction_simulation_failed"),
        ("invalid_exact_svm_payload_memo_count", "invalid_exact_svm_payload_memo_count"),
    ],
)
def test_reasons_of_other_sdks(foreign: str, ours: str) -> None:
    assert exact_svm.canonical(foreign) == ours
    assert ours in exact_svm.REASONS


def test_reasons_are_complete_and_unknown_ones_pass_through() -> None:
    codes = {
        code
        for name, value in vars(exact_svm_reasons).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str | tuple)
        for code in ([value] if isinstance(value, str) else value)
    }
    assert codes == set(exact_svm.REASONS)
    assert set(exact_svm.REASONS) > exact_svm_reasons.OURS
    assert exact_svm.canonical("something_new") == "something_new"

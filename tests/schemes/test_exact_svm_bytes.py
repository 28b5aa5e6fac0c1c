"""Signatures and encodings of a Solana payment (C15, A05), and the promise that junk is only ever refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.message import Message, MessageV0, to_bytes_versioned

from tests.schemes.exact_svm_forge import (
    AMOUNT,
    BLOCKHASH,
    FIXTURE,
    MANAGED,
    MEMO_AT,
    PAYER,
    SELLER,
    SPONSOR,
    STRANGER,
    TOKEN,
    TRANSFER,
    accepted,
    account,
    compiled,
    guard,
    memo,
    offer,
    paying,
    refused,
    signed,
    steps,
    swapped,
    transaction,
    transfer,
)
from x402 import networks
from x402.errors import RefusedError
from x402.schemes import exact_svm_reasons as why
from x402.schemes.exact_svm_layout import identify, pay_id, signed_bytes
from x402.schemes.exact_svm_rules import check
from x402.wire.payment import Payment


def test_C15_signer_counts() -> None:
    three = swapped(MEMO_AT, memo(b"0123456789abcdef", STRANGER.pubkey()))
    assert refused(transaction(three, PAYER, STRANGER)) == "invalid_exact_svm_payload_excessive_signers"
    unsigned = transfer()
    accounts = [*unsigned.accounts[:3], AccountMeta(PAYER.pubkey(), False, False)]
    lone = swapped(TRANSFER, Instruction(TOKEN, unsigned.data, accounts))
    assert refused(lone) == why.AUTHORITY
    bystander = swapped(TRANSFER, Instruction(TOKEN, unsigned.data, accounts))
    bystander[MEMO_AT] = memo(b"0123456789abcdef", STRANGER.pubkey())
    assert refused(transaction(bystander, STRANGER)) == why.AUTHORITY


def test_C15_payer_signature() -> None:
    assert refused(signed(compiled(steps()))) == "invalid_exact_svm_payload_signature_invalid"
    raw = bytearray(transaction(steps()))
    raw[1 + 64 + 10] ^= 1
    assert refused(bytes(raw)) == "invalid_exact_svm_payload_signature_invalid"
    changed = bytearray(transaction(steps()))
    changed[-5] ^= 1
    assert refused(bytes(changed)) == why.SIGNATURE


def test_C15_what_was_read_once_answers_for_nothing_else() -> None:
    """The reading of a payment is kept, and so is what was found of its signature: for these very bytes alone."""
    raw = transaction(steps())
    good = accepted(raw)
    assert accepted(raw) == good
    other = transaction(swapped(MEMO_AT, memo(b"fedcba9876543210")))
    borrowed = other[:65] + raw[65:129] + other[129:]
    for _ in range(2):
        assert accepted(raw) == good
        assert refused(borrowed) == why.SIGNATURE
        assert refused(raw + b"\x00") == why.NOT_DECODED
        assert accepted(other).transfer.message == other[129:] != good.transfer.message
    # Who asks for something else than was paid is told so, however well the payment is known.
    text = base64.b64encode(raw).decode()
    with pytest.raises(RefusedError) as caught:
        check(Payment.of(offer(amount=AMOUNT + 1), {"transaction": text}), offer(amount=AMOUNT + 1), managed=MANAGED)
    assert caught.value.code == why.AMOUNT


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80))
def test_the_bytes_that_are_signed_are_the_library_s(blockhash: bytes, text: bytes) -> None:
    instructions = swapped(MEMO_AT, memo(text))
    for message in (
        Message.new_with_blockhash(instructions, SPONSOR.pubkey(), Hash(blockhash)),
        MessageV0.try_compile(SPONSOR.pubkey(), instructions, [], Hash(blockhash)),
    ):
        assert signed_bytes(message) == bytes(to_bytes_versioned(message))


def test_C15_legacy_and_later_versions() -> None:
    legacy = Message.new_with_blockhash(steps(), SPONSOR.pubkey(), BLOCKHASH)
    assert accepted(signed(legacy, PAYER)).transfer.amount == AMOUNT
    with pytest.raises(RefusedError, match="version 0"):
        identify({"transaction": FIXTURE["version1"]["transaction"]}, networks.SOLANA_DEVNET)
    later = bytearray(transaction(steps()))
    assert later[129] == 0x80
    later[129] = 0x81
    assert refused(bytes(later)) == why.NOT_DECODED


def test_C15_strict_encoding() -> None:
    raw = transaction(steps())
    overlong = b"\x82\x00" + raw[1:]
    doubled = bytearray(raw)
    doubled[134 + 32 : 134 + 64] = doubled[134 : 134 + 32]
    for broken in (raw + b"\x00", raw[:-1], b"", b"\x00", raw + bytes(1300), overlong, bytes(doubled), bytes(1232)):
        assert refused(broken) == "invalid_exact_svm_payload_transaction_could_not_be_decoded"


def test_C15_size_of_a_packet() -> None:
    def sized(total: int) -> bytes:
        guards = [guard(size=100 + i) for i in range(5)]
        spare = total - len(transaction([*steps(), *guards, guard(size=130)])) + 130
        return transaction([*steps(), *guards, guard(size=spare)])

    assert len(sized(1232)) == 1232
    assert accepted(sized(1232)).transfer.amount == AMOUNT
    assert refused(sized(1233)) == why.NOT_DECODED


@pytest.mark.parametrize("junk", [None, 5, [], {}, "", "%%%", "AA==A", "a\nb", "é", "A" * 100_000, "-_-_"])
def test_C15_payload_that_is_no_base64(junk: Any) -> None:
    payment = Payment.of(offer(), {"transaction": junk})
    with pytest.raises(RefusedError) as caught:
        check(payment, offer(), managed=MANAGED)
    assert caught.value.code == why.NOT_DECODED
    with pytest.raises(RefusedError):
        check(Payment.of(offer(), {"other": junk}), offer(), managed=MANAGED)


def test_A05_one_identity_for_every_encoding() -> None:
    raw = transaction(steps())
    first = accepted(raw)
    identity = pay_id(first.transfer, networks.SOLANA_DEVNET)
    assert identity.startswith(networks.SOLANA_DEVNET + ":")
    for filler in range(1, 100):
        noisy = raw[:1] + bytes([filler]) * 64 + raw[65:]
        assert pay_id(accepted(noisy).transfer, networks.SOLANA_DEVNET) == identity
    assert pay_id(first.transfer, "solana-devnet") == identity, "v1 and v2 share the identity"
    assert identify(paying(raw).payload, networks.SOLANA_DEVNET) == identity
    assert identify(paying(transaction(swapped(MEMO_AT, memo(b"x" * 16)))).payload, "solana-devnet") != identity


def test_A05_encodings_of_the_same_bytes_are_refused() -> None:
    text = base64.b64encode(transaction(steps())).decode()
    for other in (text + "\n", " " + text, text + "====", text.replace("A", "A\n", 1), text + "AA"):
        with pytest.raises(RefusedError):
            identify({"transaction": other}, networks.SOLANA_DEVNET)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1400))
def test_junk_bytes_only_refuse(data: bytes) -> None:
    assert refused(data) == why.NOT_DECODED


VALID = transaction([*steps(), guard()])


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("set", "insert", "delete")), st.integers(0, len(VALID) - 1), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_mutated_transactions_only_refuse(edits: list[tuple[str, int, int]], resign: bool) -> None:
    """Whatever is done to a good transaction, and even when the payer signs it again, it never crashes and never
    names another amount, payee or sponsor."""
    data = bytearray(VALID)
    for kind, position, value in edits:
        at = min(position, len(data) - 1)
        if kind == "set":
            data[at] = value
        elif kind == "insert":
            data.insert(at, value)
        else:
            del data[at]
    if resign and len(data) > 130:
        data[65:129] = bytes(PAYER.sign_message(bytes(data[129:])))
    try:
        result = accepted(bytes(data))
    except RefusedError:
        return
    assert result.transfer.amount == AMOUNT
    assert result.transfer.destination == str(account(SELLER))
    assert result.transfer.fee_payer == str(SPONSOR.pubkey())
    assert result.transfer.payer not in MANAGED


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.binary(max_size=8).map(str),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
        max_leaves=6,
    )
)
def test_junk_payloads_only_refuse(value: Any) -> None:
    payment = Payment.of(offer(), {"transaction": value})
    with pytest.raises(RefusedError):
        check(payment, offer(), managed=MANAGED)

"""What must be equal is refused on either side of equal: smaller and greater, earlier and later in the alphabet.

A guard that compares in one direction only passes every test that is wrong in the other.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from tests.payments import EvmPayer, evm_requirement, with_payload
from tests.schemes import exact_svm_forge as forge
from x402 import networks
from x402.chain import SvmAccount, SvmTransaction, TokenBalance
from x402.errors import MisconfiguredError, RefusedError
from x402.networks import BASE
from x402.schemes import exact_evm, exact_evm_rules, exact_svm, exact_svm_settlement
from x402.schemes import exact_svm_reasons as why
from x402.schemes.exact_svm_layout import SignedTransfer
from x402.schemes.exact_svm_rules import check
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

NOW = 1_800_000_000
OFFER = evm_requirement()
PAYER = EvmPayer()
PAYMENT = PAYER.sign(OFFER, exact_evm.build(OFFER, PAYER.address, now=NOW, nonce=b"n" * 32, lifetime_seconds=300))
SCHEMES = ("aggr_deferred", "upto")
LOW, HIGH = Pubkey(b"\x00" * 31 + b"\x07"), Pubkey(b"\xff" * 31 + b"\x07")
"""Keys whose base58 is before and after every other's in the alphabet."""


def evm_reason(payment: Payment, offer: Requirement = OFFER) -> str:
    try:
        exact_evm_rules.check(payment, offer, now=NOW)
    except RefusedError as refused:
        return refused.code
    return ""


def svm_reason(payment: Payment, offer: Requirement) -> str:
    try:
        check(payment, offer, managed=forge.MANAGED)
    except RefusedError as refused:
        return refused.code
    return ""


def sorts(wrong: list[str], right: str) -> bool:
    return min(wrong) < right < max(wrong)


def test_control_what_is_equal_passes() -> None:
    assert evm_reason(PAYMENT) == ""
    assert svm_reason(forge.paying(forge.transaction(forge.steps())), forge.offer()) == ""
    assert sorts(list(SCHEMES), "exact")
    assert sorts([str(LOW), str(HIGH)], forge.MINT)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes(scheme: str) -> None:
    svm = forge.paying(forge.transaction(forge.steps()))
    other = {"scheme": scheme}
    assert evm_reason(PAYMENT.model_copy(update=other)) == "invalid_exact_evm_scheme"
    assert evm_reason(PAYMENT, OFFER.model_copy(update=other)) == "invalid_exact_evm_scheme"
    assert svm_reason(svm.model_copy(update=other), forge.offer()) == why.UNSUPPORTED_SCHEME
    assert svm_reason(svm, forge.offer(**other)) == why.UNSUPPORTED_SCHEME


@pytest.mark.parametrize("network", ["eip155:1", BASE, "eip155:9999999", networks.SOLANA_MAINNET])
def test_networks(network: str) -> None:
    mismatch = "invalid_exact_evm_network_mismatch"
    assert evm_reason(PAYMENT.model_copy(update={"network": network})) == mismatch
    assert PAYMENT.accepted is not None
    stated = PAYMENT.accepted.model_copy(update={"network": network})
    assert evm_reason(PAYMENT.model_copy(update={"accepted": stated})) == mismatch
    svm = forge.paying(forge.transaction(forge.steps()))
    for other in (network, "solana:ZZZ"):
        assert svm_reason(svm.model_copy(update={"network": other}), forge.offer()) == why.NETWORK_MISMATCH


@pytest.mark.parametrize("extra", [{"name": 5, "version": "2"}, {"name": "USDC", "version": 2}])
def test_D08_each_half_of_the_domain_must_be_a_text(extra: dict[str, Any]) -> None:
    assert evm_reason(PAYMENT, OFFER.model_copy(update={"extra": extra})) == "invalid_exact_evm_missing_eip712_domain"


def test_D04_the_mark_of_a_counterfactual_wallet_is_thirty_two_bytes() -> None:
    signature = PAYMENT.payload["signature"]
    assert evm_reason(with_payload(PAYMENT, signature="0x" + "aa" * 67 + "6492" * 15)) == ""
    assert evm_reason(with_payload(PAYMENT, signature=signature + "6492" * 16)) == "eip6492_factory_not_allowed"


def test_the_payers_own_signature_is_kept() -> None:
    kept = forge.accepted(forge.steps())
    assert kept.payer_signature == bytes(forge.PAYER.sign_message(kept.transfer.message))


def test_C15_the_fee_payer_may_neither_sort_before_nor_after() -> None:
    for sponsor in (Keypair.from_seed(bytes([seed]) * 32) for seed in range(20, 40)):
        raw = forge.signed(forge.compiled(forge.steps(), sponsor), forge.PAYER)
        assert forge.refused(raw) == why.FEE_PAYER_MISMATCH


def test_C15_the_authority_alone_signs_beside_the_fee_payer() -> None:
    """The transfer's authority is one key and the second signature another's, whichever sorts first."""
    sorted_before = set()
    for seed in range(40, 60):
        other = Keypair.from_seed(bytes([seed]) * 32)
        sorted_before.add(str(other.pubkey()) < str(forge.PAYER.pubkey()))
        move = forge.transfer()
        metas = [*move.accounts[:3], AccountMeta(forge.PAYER.pubkey(), False, False)]
        unsigned = Instruction(move.program_id, move.data, metas)
        steps = forge.swapped(forge.TRANSFER, unsigned)
        steps[forge.MEMO_AT] = forge.memo(b"0123456789abcdef", other.pubkey())
        assert forge.refused(forge.transaction(steps, other)) == why.AUTHORITY
    assert sorted_before == {True, False}


@pytest.mark.parametrize("data", [struct.pack("<I", code) for code in (0, 1, 2, 3, 5, 6, 12)] + [b"\x04", b""])
@pytest.mark.parametrize("program", [forge.SYSTEM, LOW, HIGH, forge.MEMO])
def test_C08_only_the_nonces_own_instruction_is_one(data: bytes, program: Pubkey) -> None:
    steps = [*forge.steps()[:3], Instruction(program, data, [])]
    if program == forge.MEMO:
        accepted = bool(data)
        assert (forge.accepted(steps) is not None) if accepted else forge.refused(steps) == why.MEMO_LENGTH
    else:
        assert forge.refused(steps) != why.DURABLE_NONCE


def test_C08_a_nonce_is_advanced_with_or_without_more_bytes() -> None:
    for tail in (b"", b"\x00", bytes(32)):
        advance = Instruction(forge.SYSTEM, struct.pack("<I", 4) + tail, [])
        assert forge.refused([advance, *forge.steps()]) == why.DURABLE_NONCE
    # The same bytes are nobody's nonce in a program that is not the system's, before or after it in the alphabet.
    for program in (LOW, HIGH):
        assert forge.refused([*forge.steps()[:3], Instruction(program, b"\x04\0\0\0", [])]) != why.DURABLE_NONCE


@pytest.mark.parametrize("mint", [LOW, HIGH])
def test_C12_mints(mint: Pubkey) -> None:
    assert forge.refused(forge.swapped(forge.TRANSFER, forge.transfer(mint=str(mint)))) == why.MINT


@pytest.mark.parametrize("decimals", [0, 5, 7, 255])
def test_C12_decimals(decimals: int) -> None:
    assert forge.refused(forge.swapped(forge.TRANSFER, forge.transfer(decimals=decimals))) == why.DECIMALS


@pytest.mark.parametrize("source", [LOW, HIGH])
def test_a_source_is_any_account_but_the_destination(source: Pubkey) -> None:
    assert forge.accepted(forge.swapped(forge.TRANSFER, forge.transfer(source=source))).transfer.source == str(source)
    assert forge.refused(forge.swapped(forge.TRANSFER, forge.transfer(destination=source))) == why.RECIPIENT
    own = forge.swapped(forge.TRANSFER, forge.transfer(source=forge.account(forge.SELLER)))
    assert forge.refused(own) == why.SELF_TRANSFER


def test_C11_the_shortest_and_the_longest_memo() -> None:
    for size in (1, 2, 255, 256):
        assert forge.accepted(forge.swapped(forge.MEMO_AT, forge.memo(b"m" * size))).transfer.memos == (b"m" * size,)
    for other in (b"order 6", b"order 8"):
        wrong = forge.swapped(forge.MEMO_AT, forge.memo(other))
        assert forge.refused(wrong, forge.with_extra(memo="order 7")) == why.MEMO_MISMATCH


def paid(balance: TokenBalance, signed: SignedTransfer) -> bool:
    return exact_svm_settlement.moved(SvmTransaction("s", 1, None, (balance,)), signed.transfer)


def test_C05_balances_of_other_accounts_and_mints() -> None:
    signed = forge.accepted(forge.steps())
    transfer = signed.transfer
    good = TokenBalance(transfer.destination, transfer.pay_to, transfer.mint, 5, 5 + transfer.amount)
    assert paid(good, signed)
    assert paid(replace(good, owner="", after=good.after + 1), signed)
    for key in (str(LOW), str(HIGH)):
        assert not paid(replace(good, account=key), signed)
        assert not paid(replace(good, mint=key), signed)
        assert not paid(replace(good, owner=key), signed)


def token_account_of(mint: Pubkey, owner: Pubkey, state: int, size: int = 165, tail: bytes = b"") -> bytes:
    return (bytes(mint) + bytes(owner) + bytes(44) + bytes([state]) + bytes(200))[:size] + tail


def test_C13_a_destination_is_wrong_either_way() -> None:
    wanted, mint = forge.offer(), Pubkey.from_string(forge.MINT)
    seller = forge.SELLER.pubkey()
    program = networks.TOKEN_PROGRAM

    def code(data: bytes, owner: str = program) -> str:
        found = exact_svm_settlement.destination_problem(SvmAccount(owner, 1, data), wanted)
        return found.code if found else ""

    assert code(token_account_of(mint, seller, 1)) == ""
    assert code(token_account_of(mint, seller, 2)) == why.DESTINATION_FROZEN
    for state in (0, 3, 255):
        assert code(token_account_of(mint, seller, state)) == why.DESTINATION_INVALID
    for size in (1, 82, 109, 164, 166, 200):
        assert code(token_account_of(mint, seller, 1, size)) == why.DESTINATION_INVALID
    for kind in (0, 1, 3, 255):
        assert code(token_account_of(mint, seller, 1, tail=bytes([kind]))) == why.DESTINATION_INVALID
    for key in (LOW, HIGH):
        assert code(token_account_of(key, seller, 1)) == why.DESTINATION_INVALID
        assert code(token_account_of(mint, key, 1)) == why.DESTINATION_OWNER
    for owner in ("1", "zzz"):
        assert code(token_account_of(mint, seller, 1), owner) == why.DESTINATION_INVALID


@pytest.mark.parametrize("size", [0, 63, 65, 128])
def test_a_co_signature_has_sixty_four_bytes(size: int) -> None:
    signed = forge.accepted(forge.steps())
    good = bytes(forge.SPONSOR.sign_message(exact_svm.message_to_sign(signed)))
    assert exact_svm.cosign(signed, good)[1][1:65] == good
    with pytest.raises(MisconfiguredError):
        exact_svm.cosign(signed, (good + good)[:size])


def test_A11_a_transfer_lands_under_its_fee_payers_signature_and_no_other_name() -> None:
    signed = forge.accepted(forge.steps())
    message = exact_svm.message_to_sign(signed)
    assert exact_svm_settlement.is_id_of(str(forge.SPONSOR.sign_message(message)), signed)
    others = (forge.PAYER.sign_message(message), forge.SPONSOR.sign_message(message + b"\0"))
    for name in ("", "0OIl", *map(str, others)):
        assert not exact_svm_settlement.is_id_of(name, signed)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"InstructionError": [2, {"Custom": 5999}]}, "instruction 3 failed with error 5999"),
        ({"InstructionError": [2, {"Custom": 6000}]}, "instruction 3, a guard that the wallet added, stopped"),
        ({"InstructionError": [0, {"Custom": 6999}]}, "instruction 1, a guard that the wallet added, stopped"),
        ({"InstructionError": [2, {"Custom": 7000}]}, "instruction 3 failed with error 7000"),
        ({"InstructionError": [2, {"Custom": 2}]}, "instruction 3 failed with error 2"),
        ({"InstructionError": [2, {"Custom": 3}]}, "the token account belongs to another mint"),
        ({"InstructionError": [2, {"Custom": 4}]}, "neither owns"),
        ({"InstructionError": [2, {"Custom": 8}]}, "failed with error 8"),
        ({"InstructionError": [2, {"Custom": 9}]}, "is not initialized"),
        ({"InstructionError": [2, {"Custom": 10}]}, "failed with error 10"),
        ({"InstructionError": [2, {"AAA": 3}]}, "instruction 3 failed with AAA"),
        ({"InstructionError": [2, {"ZZZ": 3}]}, "instruction 3 failed with ZZZ"),
        ({"InstructionError": []}, "an error that is not understood"),
        ({"InstructionError": [2]}, "an error that is not understood"),
        ({"InstructionError": [2, {"Custom": 8}, 8]}, "an error that is not understood"),
        ({"AAA": {"account_index": 0}}, "the network answered AAA"),
        ({"ZZZ": {"account_index": 0}}, "the network answered ZZZ"),
        ({"InsufficientFundsForRent": {"account_index": 1}}, "InsufficientFundsForRent"),
        ({"InsufficientFundsForRent": {"account_index": -1}}, "InsufficientFundsForRent"),
        ({"InsufficientFundsForRent": {}}, "InsufficientFundsForRent"),
    ],
)
def test_a_nodes_error_is_taken_for_what_it_is(error: dict[str, Any], words: str) -> None:
    reason, text = exact_svm_settlement.explain(json.dumps(error))
    assert words in text
    assert reason == why.SIMULATION

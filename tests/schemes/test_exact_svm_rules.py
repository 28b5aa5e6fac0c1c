"""The facilitator's offline rules, fault by fault (C01-C14, F12); each refusal beside what is accepted."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey

from tests.schemes.exact_svm_forge import (
    AMOUNT,
    BLOCKHASH,
    BUDGET,
    LIMIT,
    MANAGED,
    MEMO,
    MEMO_AT,
    MINT,
    OTHER_SPONSOR,
    PAYER,
    PRICE,
    SELLER,
    SPONSOR,
    STRANGER,
    SYSTEM,
    TOKEN,
    TOKEN_2022,
    TRANSFER,
    accepted,
    account,
    compiled,
    compute_limit,
    compute_price,
    memo,
    offer,
    paying,
    refused,
    signed,
    steps,
    swapped,
    transaction,
    transfer,
    with_extra,
)
from x402 import networks
from x402.errors import RefusedError
from x402.schemes import exact_svm_reasons as why
from x402.schemes.exact_svm_layout import token_account
from x402.schemes.exact_svm_rules import SvmLimits, check


def test_positive_control() -> None:
    result = accepted(steps())
    assert (result.transfer.payer, result.transfer.amount) == (str(PAYER.pubkey()), AMOUNT)
    assert result.transfer.destination == str(account(SELLER))
    assert result.transfer.memos == (b"0123456789abcdef",)
    assert (result.transfer.compute_limit, result.transfer.compute_price) == (20_000, 1)
    assert (result.transfer.priority_fee, result.transfer.fee) == (1, 10_001)
    assert result.transfer.blockhash == str(BLOCKHASH)


# Steps 1-4: the offer


def test_scheme_and_network_must_agree() -> None:
    assert refused(steps(), offer(scheme="upto")) == "invalid_exact_svm_unsupported_scheme"
    good = paying(transaction(steps()))
    for payment, wanted, code in (
        (good, offer(scheme="upto"), "invalid_exact_svm_unsupported_scheme"),
        (good.model_copy(update={"scheme": "upto"}), offer(), "invalid_exact_svm_unsupported_scheme"),
        (good.model_copy(update={"network": networks.SOLANA_MAINNET}), offer(), "invalid_exact_svm_network_mismatch"),
    ):
        with pytest.raises(RefusedError) as caught:
            check(payment, wanted, managed=MANAGED)
        assert caught.value.code == code


@pytest.mark.parametrize("fee_payer", [None, "", 7, ["x"]])
def test_fee_payer_must_be_named(fee_payer: Any) -> None:
    assert refused(steps(), offer(extra={"feePayer": fee_payer})) == "invalid_exact_svm_payload_missing_fee_payer"


def test_fee_payer_must_be_ours() -> None:
    foreign = offer(extra={"feePayer": str(STRANGER.pubkey())})
    assert refused(steps(), foreign) == "invalid_exact_svm_fee_payer_not_managed_by_facilitator"


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "eip155:8453"},
        {"network": networks.BASE, "asset": networks.get(networks.BASE).usd.address},
        {"network": "solana:unknown"},
        {"asset": "So11111111111111111111111111111111111111112"},
        {"pay_to": "not-a-key"},
        {"pay_to": "1" * 31},
        {"extra": {"feePayer": str(SPONSOR.pubkey()), "splits": [{"payTo": "x"}]}},
        {"extra": {"feePayer": str(SPONSOR.pubkey()), "memo": 5}},
        {"extra": {"feePayer": str(SPONSOR.pubkey()), "memo": "m" * 257}},
        {"extra": {"feePayer": str(SPONSOR.pubkey()), "memo": "\ud800"}},
    ],
)
def test_F12_offers_that_cannot_be_paid(changes: dict[str, Any]) -> None:
    assert refused(steps(), offer(**changes)) == "invalid_payment_requirements"


def test_F12_seller_may_be_the_sponsor_but_not_the_payer() -> None:
    own = offer(pay_to=str(SPONSOR.pubkey()))
    assert accepted(swapped(TRANSFER, transfer(destination=account(SPONSOR))), own).transfer.pay_to == own.pay_to
    circle = offer(pay_to=str(PAYER.pubkey()))
    assert refused(swapped(TRANSFER, transfer(destination=account(PAYER))), circle) == why.SELF_TRANSFER


# Solana faults


def test_C01_fee_payer_as_authority() -> None:
    drain = swapped(TRANSFER, transfer(source=account(SPONSOR), authority=SPONSOR.pubkey()))
    assert refused(drain) == "invalid_exact_svm_payload_transaction_fee_payer_transferring_funds"
    delegate = swapped(TRANSFER, transfer(source=account(SPONSOR)))
    assert refused(delegate) == "invalid_exact_svm_payload_transaction_fee_payer_transferring_funds"
    for source in (account(OTHER_SPONSOR), account(STRANGER)):
        other = swapped(TRANSFER, transfer(source=source, authority=OTHER_SPONSOR.pubkey()))
        assert refused(transaction(other, OTHER_SPONSOR)) == why.FEE_PAYER_TRANSFERS
    assert refused(swapped(TRANSFER, transfer(source=SPONSOR.pubkey()))) == why.FEE_PAYER_TRANSFERS
    assert accepted(swapped(TRANSFER, transfer(source=account(STRANGER)))).transfer.source == str(account(STRANGER))


@pytest.mark.parametrize("sponsor", [SPONSOR, OTHER_SPONSOR])
@pytest.mark.parametrize("position", [LIMIT, PRICE, MEMO_AT])
def test_C02_fee_payer_in_any_other_instruction(position: int, sponsor: Keypair) -> None:
    touched = steps()
    one = touched[position]
    touched[position] = Instruction(one.program_id, one.data, [AccountMeta(sponsor.pubkey(), False, False)])
    assert refused(touched) == why.NOT_ISOLATED
    touched[position] = Instruction(one.program_id, one.data, [AccountMeta(PAYER.pubkey(), True, False)])
    assert accepted(touched).transfer.amount == AMOUNT


def test_C02_fee_payer_as_program() -> None:
    assert refused([*steps()[:3], Instruction(SPONSOR.pubkey(), b"", [])]) == why.NOT_DECODED
    assert refused([*steps()[:3], Instruction(OTHER_SPONSOR.pubkey(), b"", [])]) == why.UNKNOWN_INSTRUCTION[0]


def _drains() -> list[Instruction]:
    sponsor = AccountMeta(SPONSOR.pubkey(), True, True)
    thief = AccountMeta(STRANGER.pubkey(), False, True)
    token = AccountMeta(account(SPONSOR), False, True)
    return [
        Instruction(SYSTEM, struct.pack("<IQ", 2, 10**9), [sponsor, thief]),
        Instruction(TOKEN, struct.pack("<BQ", 4, 10**9), [token, thief, sponsor]),
        Instruction(TOKEN, b"\x09", [token, thief, sponsor]),
        Instruction(TOKEN, b"\x06\x02\x01" + bytes(STRANGER.pubkey()), [token, sponsor]),
        transfer(source=account(SPONSOR), authority=SPONSOR.pubkey(), destination=account(STRANGER)),
    ]


@pytest.mark.parametrize("shape", range(5))
@pytest.mark.parametrize("position", range(5))
def test_C03_drain_at_every_position(shape: int, position: int) -> None:
    hostile = steps()
    hostile.insert(position, _drains()[shape])
    expected = [
        {why.COMPUTE_LIMIT},
        {why.COMPUTE_PRICE},
        {why.NO_TRANSFER, why.FEE_PAYER_TRANSFERS},
        {why.UNKNOWN_INSTRUCTION[0]},
        {why.UNKNOWN_INSTRUCTION[1]},
    ][position]
    assert refused(hostile) in expected


def test_C03_unknown_instructions_by_position() -> None:
    for nth in range(4):
        rest = [memo(bytes([65 + i]) * 16) for i in range(nth)]
        hostile = [*steps()[:3], *rest, Instruction(STRANGER.pubkey(), b"", [])]
        assert refused(hostile) == why.UNKNOWN_INSTRUCTION[nth]
    assert refused([*steps()[:3], *[memo(bytes([i]) * 16) for i in range(5)]]) == why.INSTRUCTION_COUNT
    assert refused(steps()[:2]) == why.INSTRUCTION_COUNT


def test_C03_sponsor_must_be_the_first_account() -> None:
    elsewhere = signed(compiled(steps(), STRANGER), PAYER)
    assert refused(elsewhere) == "invalid_exact_svm_fee_payer_mismatch"


@pytest.mark.parametrize("hidden", [str(SPONSOR.pubkey()), MINT, str(account(SELLER))])
def test_C04_address_lookup_table(hidden: str) -> None:
    table = AddressLookupTableAccount(STRANGER.pubkey(), [Pubkey.from_string(hidden)])
    extra = Instruction(MEMO, b"0123456789abcdef", [AccountMeta(Pubkey.from_string(hidden), False, False)])
    message = MessageV0.try_compile(SPONSOR.pubkey(), swapped(MEMO_AT, extra), [table], BLOCKHASH)
    if hidden == str(SPONSOR.pubkey()):
        assert not message.address_table_lookups
        assert refused(signed(message, PAYER)) == why.NOT_ISOLATED
    else:
        assert refused(signed(message, PAYER)) == why.LOOKUP_TABLES


def test_C06_compute_limit_at_and_above_the_cap() -> None:
    limits = SvmLimits(compute_limit=100_000)
    assert accepted(swapped(LIMIT, compute_limit(100_000)), limits=limits).transfer.compute_limit == 100_000
    assert refused(swapped(LIMIT, compute_limit(100_001)), limits=limits) == why.COMPUTE_LIMIT_TOO_HIGH
    assert accepted(swapped(LIMIT, compute_limit(200_000)))
    assert refused(swapped(LIMIT, compute_limit(200_001))) == why.COMPUTE_LIMIT_TOO_HIGH


def test_C06_compute_price_at_and_above_the_cap() -> None:
    limits = SvmLimits(priority_fee=10**9)
    assert accepted(swapped(PRICE, compute_price(5_000_000)), limits=limits).transfer.priority_fee == 100_000
    assert refused(swapped(PRICE, compute_price(5_000_001)), limits=limits) == why.COMPUTE_PRICE_TOO_HIGH
    assert refused(swapped(PRICE, compute_price(2**64 - 1)), limits=limits) == why.COMPUTE_PRICE_TOO_HIGH


def test_C06_product_at_and_above_the_cap() -> None:
    at_cap = [compute_limit(100_000), compute_price(500_000), transfer(), memo()]
    assert accepted(at_cap).transfer.priority_fee == 50_000
    above = [compute_limit(100_000), compute_price(500_001), transfer(), memo()]
    assert refused(above) == why.PRIORITY_FEE
    just = [compute_limit(100_001), compute_price(500_000), transfer(), memo()]
    assert refused(just) == why.PRIORITY_FEE


@pytest.mark.parametrize(
    ("instructions", "code"),
    [
        (steps()[1:], why.COMPUTE_LIMIT),
        ([steps()[0], *steps()[2:]], why.COMPUTE_PRICE),
        ([compute_price(1), compute_limit(20_000), *steps()[2:]], why.COMPUTE_LIMIT),
        ([compute_limit(1), compute_limit(1), *steps()[2:]], why.COMPUTE_PRICE),
        ([*steps()[:2], compute_price(9), *steps()[2:]], why.NO_TRANSFER),
        ([*steps(), compute_price(9)], why.UNKNOWN_INSTRUCTION[1]),
        (swapped(LIMIT, Instruction(BUDGET, b"\x02\x20\x4e\x00", [])), why.COMPUTE_LIMIT),
        (swapped(LIMIT, Instruction(BUDGET, b"\x02\x20\x4e\x00\x00\x00", [])), why.COMPUTE_LIMIT),
        (swapped(LIMIT, Instruction(BUDGET, b"", [])), why.COMPUTE_LIMIT),
        (swapped(LIMIT, Instruction(BUDGET, b"\x01" + bytes(4), [])), why.COMPUTE_LIMIT),
        (swapped(PRICE, Instruction(BUDGET, b"\x03\x01", [])), why.COMPUTE_PRICE),
        (swapped(PRICE, Instruction(BUDGET, b"\x04" + bytes(8), [])), why.COMPUTE_PRICE),
        (swapped(PRICE, Instruction(STRANGER.pubkey(), b"\x03" + bytes(8), [])), why.COMPUTE_PRICE),
    ],
)
def test_C06_missing_doubled_or_misshapen_budget(instructions: list[Instruction], code: str) -> None:
    assert refused(instructions) == code


def test_C07_associated_account_creation() -> None:
    create = Instruction(
        Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"),
        b"\x01",
        [AccountMeta(SPONSOR.pubkey(), True, True), AccountMeta(account(SELLER), False, True)],
    )
    assert refused([*steps()[:2], create, *steps()[2:]]) == why.NO_TRANSFER
    assert refused([*steps()[:3], create, memo()]) == why.UNKNOWN_INSTRUCTION[0]


@pytest.mark.parametrize("position", range(5))
def test_C08_durable_nonce(position: int) -> None:
    advance = Instruction(SYSTEM, struct.pack("<I", 4), [AccountMeta(STRANGER.pubkey(), False, True)])
    hostile = steps()
    hostile.insert(position, advance)
    assert refused(hostile) == why.DURABLE_NONCE


def test_C10_payment_without_memo() -> None:
    assert refused(steps()[:3]) == "invalid_exact_svm_payload_memo_count"
    assert accepted(steps()[:3], limits=SvmLimits(memo_required=False)).transfer.memos == ()
    prescribed = with_extra(memo="order 7")
    assert refused(steps()[:3], prescribed, SvmLimits(memo_required=False)) == why.MEMO_COUNT


def test_C11_memo_bytes() -> None:
    assert accepted(swapped(MEMO_AT, memo(b"\xff\xfe\x00"))).transfer.memos == (b"\xff\xfe\x00",)
    assert refused(swapped(MEMO_AT, memo(b"\xff\xfe\x00")), with_extra(memo="order 7")) == why.MEMO_MISMATCH
    assert accepted(swapped(MEMO_AT, memo("Zahlung 7 ✓".encode())), with_extra(memo="Zahlung 7 ✓"))
    assert refused(swapped(MEMO_AT, memo(b"order 8")), with_extra(memo="order 7")) == why.MEMO_MISMATCH
    assert refused(swapped(MEMO_AT, memo(b""))) == why.MEMO_LENGTH
    assert accepted(swapped(MEMO_AT, memo(b"m" * 256)))
    assert refused(swapped(MEMO_AT, memo(b"m" * 257))) == why.MEMO_LENGTH
    assert refused([*steps(), memo(b"another memo....")]) == why.MEMO_COUNT
    assert accepted(steps(), with_extra(memo="")), "an empty memo prescribes nothing"


def test_C12_token_program_and_mint_are_pinned() -> None:
    assert refused(swapped(TRANSFER, transfer(program=TOKEN_2022))) == why.NO_TRANSFER
    other = networks.get(networks.SOLANA_MAINNET).usd.address
    assert refused(swapped(TRANSFER, transfer(mint=other))) == "invalid_exact_svm_payload_mint_mismatch"
    assert refused(swapped(TRANSFER, transfer(decimals=9))) == why.DECIMALS
    assert refused(swapped(TRANSFER, transfer(tail=b"\x00"))) == why.NO_TRANSFER
    signer = AccountMeta(STRANGER.pubkey(), False, False)
    assert refused(swapped(TRANSFER, transfer(more=(signer,)))) == why.NO_TRANSFER
    plain = transfer()
    short = Instruction(TOKEN, plain.data, plain.accounts[:3])
    assert refused(swapped(TRANSFER, short)) == why.NO_TRANSFER
    unchecked = Instruction(TOKEN, struct.pack("<BQ", 3, AMOUNT) + b"\x06", plain.accounts)
    assert refused(swapped(TRANSFER, unchecked)) == why.NO_TRANSFER


def test_C12_token_2022_asset_takes_its_own_program_only() -> None:
    pyusd = next(one for one in networks.get(networks.SOLANA_DEVNET).assets if one.symbol == "PYUSD")
    wanted = offer(asset=pyusd.address)

    def move(program: Pubkey) -> Instruction:
        source, target = (
            Pubkey.from_string(token_account(str(who.pubkey()), pyusd.address, str(program))) for who in (PAYER, SELLER)
        )
        return transfer(mint=pyusd.address, program=program, source=source, destination=target)

    assert accepted(swapped(TRANSFER, move(TOKEN_2022)), wanted).transfer.mint == pyusd.address
    assert refused(swapped(TRANSFER, move(TOKEN)), wanted) == why.NO_TRANSFER


def test_recipient_and_amount() -> None:
    astray = swapped(TRANSFER, transfer(destination=account(STRANGER)))
    assert refused(astray) == "invalid_exact_svm_payload_recipient_mismatch"
    wallet = swapped(TRANSFER, transfer(destination=SELLER.pubkey()))
    assert refused(wallet) == "invalid_exact_svm_payload_recipient_mismatch"
    for amount in (AMOUNT - 1, AMOUNT + 1, 0, 2**64 - 1):
        assert refused(swapped(TRANSFER, transfer(amount=amount))) == "invalid_exact_svm_payload_amount_mismatch"
    assert accepted(swapped(TRANSFER, transfer(amount=2**64 - 1)), offer(amount=2**64 - 1))
    assert refused(steps(), offer(amount=2**64 + AMOUNT)) == why.AMOUNT

"""The facilitator's offline rules, fault by fault (C01-C15, A05, F12); each refusal beside what is accepted."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from x402 import networks
from x402.errors import RefusedError
from x402.schemes import exact_svm_reasons as why
from x402.schemes.exact_svm_layout import SignedTransfer, identify, pay_id, token_account
from x402.schemes.exact_svm_rules import ASSERTIONS, DEFAULT_LIMITS, SvmLimits, check
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

FIXTURE = json.loads((Path(__file__).parents[2] / "fixtures" / "svm_exact.json").read_text())
LAYOUTS = FIXTURE["layouts"]

PAYER, SPONSOR, SELLER, OTHER_SPONSOR, STRANGER = (Keypair.from_seed(bytes([seed]) * 32) for seed in range(1, 6))
MANAGED = frozenset({str(SPONSOR.pubkey()), str(OTHER_SPONSOR.pubkey())})
MINT = networks.get(networks.SOLANA_DEVNET).usd.address
AMOUNT = 1_000
BLOCKHASH = Hash(bytes([9]) * 32)

LIMIT, PRICE, TRANSFER, MEMO_AT = 0, 1, 2, 3
BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
GUARD = Pubkey.from_string("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")
SYSTEM = Pubkey.from_string("11111111111111111111111111111111")
TOKEN = Pubkey.from_string(networks.TOKEN_PROGRAM)
TOKEN_2022 = Pubkey.from_string(networks.TOKEN_2022_PROGRAM)


def offer(**changes: Any) -> Requirement:
    members: dict[str, Any] = {
        "scheme": "exact",
        "network": networks.SOLANA_DEVNET,
        "amount": AMOUNT,
        "asset": MINT,
        "pay_to": str(SELLER.pubkey()),
        "max_timeout_seconds": 60,
        "extra": {"feePayer": str(SPONSOR.pubkey())},
    }
    return Requirement(**(members | changes))


def with_extra(**extra: Any) -> Requirement:
    return offer(extra={"feePayer": str(SPONSOR.pubkey())} | extra)


def account(owner: Keypair, program: Pubkey = TOKEN) -> Pubkey:
    return Pubkey.from_string(token_account(str(owner.pubkey()), MINT, str(program)))


def compute_limit(units: int) -> Instruction:
    return Instruction(BUDGET, b"\x02" + struct.pack("<I", units), [])


def compute_price(micro_lamports: int) -> Instruction:
    return Instruction(BUDGET, b"\x03" + struct.pack("<Q", micro_lamports), [])


def transfer(
    *,
    source: Pubkey | None = None,
    mint: str = MINT,
    destination: Pubkey | None = None,
    authority: Pubkey | None = None,
    amount: int = AMOUNT,
    decimals: int = 6,
    program: Pubkey = TOKEN,
    tail: bytes = b"",
    more: tuple[AccountMeta, ...] = (),
) -> Instruction:
    accounts = [
        AccountMeta(source or account(PAYER, program), False, True),
        AccountMeta(Pubkey.from_string(mint), False, False),
        AccountMeta(destination or account(SELLER, program), False, True),
        AccountMeta(authority or PAYER.pubkey(), True, False),
        *more,
    ]
    return Instruction(program, struct.pack("<BQB", 12, amount, decimals) + tail, accounts)


def memo(text: bytes = b"0123456789abcdef", *signers: Pubkey) -> Instruction:
    return Instruction(MEMO, text, [AccountMeta(key, True, False) for key in signers])


def guard(opcode: int = 5, size: int = 17, target: Pubkey | None = None) -> Instruction:
    """A Lighthouse instruction; wallets aim them at the fee payer's lamports."""
    metas = [AccountMeta(target or SPONSOR.pubkey(), False, False)]
    return Instruction(GUARD, (bytes([opcode, 4]) + bytes(size))[:size], metas)


def steps() -> list[Instruction]:
    return [compute_limit(20_000), compute_price(1), transfer(), memo()]


def swapped(position: int, instruction: Instruction) -> list[Instruction]:
    changed = steps()
    changed[position] = instruction
    return changed


def signed(message: Message | MessageV0, *signers: Keypair) -> bytes:
    """The transaction with the given signatures, and zeros where the signer is not given (the sponsor's slot)."""
    keys = message.account_keys[: message.header.num_required_signatures]
    content = bytes(to_bytes_versioned(message))
    by_key = {signer.pubkey(): signer.sign_message(content) for signer in signers}
    return bytes(VersionedTransaction.populate(message, [by_key.get(key, Signature.default()) for key in keys]))


def compiled(instructions: list[Instruction], sponsor: Keypair = SPONSOR) -> MessageV0:
    return MessageV0.try_compile(sponsor.pubkey(), instructions, [], BLOCKHASH)


def transaction(instructions: list[Instruction], *signers: Keypair) -> bytes:
    return signed(compiled(instructions), *(signers or (PAYER,)))


def paying(raw: bytes, requirement: Requirement | None = None) -> Payment:
    return Payment.of(requirement or offer(), {"transaction": base64.b64encode(raw).decode()})


def accepted(
    raw: bytes | list[Instruction], requirement: Requirement | None = None, limits: SvmLimits = DEFAULT_LIMITS
) -> SignedTransfer:
    data = raw if isinstance(raw, bytes) else transaction(raw)
    requirement = requirement or offer()
    return check(paying(data, requirement), requirement, managed=MANAGED, limits=limits)


def refused(
    raw: bytes | list[Instruction], requirement: Requirement | None = None, limits: SvmLimits = DEFAULT_LIMITS
) -> str:
    with pytest.raises(RefusedError) as caught:
        accepted(raw, requirement, limits)
    assert caught.value.code in why.REASONS
    assert caught.value.message
    return caught.value.code


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


@pytest.mark.parametrize("opcode", [0, 1, 16, 18, 255])
def test_C02_lighthouse_opcodes_that_are_no_plain_assertion(opcode: int) -> None:
    writes = Instruction(
        GUARD,
        bytes([opcode, 0, 255, 0, 0]),
        [
            AccountMeta(GUARD, False, False),
            AccountMeta(SYSTEM, False, False),
            AccountMeta(SPONSOR.pubkey(), True, True),
            AccountMeta(STRANGER.pubkey(), False, True),
        ],
    )
    for position in range(5):
        hostile = steps()
        hostile.insert(position, writes)
        assert refused(hostile) == why.GUARD


def test_C02_empty_lighthouse_instruction() -> None:
    assert refused([*steps(), Instruction(GUARD, b"", [])]) == why.GUARD


@pytest.mark.parametrize("opcode", sorted(ASSERTIONS))
def test_C02_assertions_on_the_fee_payer_are_accepted(opcode: int) -> None:
    assert accepted([*steps(), guard(opcode)]).transfer.amount == AMOUNT


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


def _laid_out(layout: dict[str, Any], hostile: Instruction | None = None) -> list[Instruction]:
    known = {"limit": steps()[LIMIT], "price": steps()[PRICE], "transfer": transfer(), "memo": memo()}
    built = []
    for name in layout["instructions"]:
        kind, _, size = name.partition(":")
        built.append(known[kind] if kind in known else hostile or guard(5, int(size)))
    return built


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout["name"])
def test_C14_wallet_layouts(layout: dict[str, Any]) -> None:
    assert accepted(_laid_out(layout)).transfer.amount == AMOUNT
    if any(name.startswith("guard") for name in layout["instructions"]):
        assert refused(_laid_out(layout, guard(0))) == why.GUARD
        assert refused(_laid_out(layout, Instruction(STRANGER.pubkey(), b"\x05", []))) != why.GUARD


def test_C14_guards_are_bounded() -> None:
    assert accepted([*steps(), *[guard(size=17 + i) for i in range(6)]])
    assert refused([*steps(), *[guard(size=17 + i) for i in range(7)]]) == why.GUARD_COUNT


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


def test_limits_are_data() -> None:
    strict = replace(DEFAULT_LIMITS, guards=0)
    assert refused([*steps(), guard()], limits=strict) == why.GUARD_COUNT

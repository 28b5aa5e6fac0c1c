"""Settling on a real Solana VM: the built payment lands, and its failures are explained in words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.account import Account
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey
from solders.token.state import Mint, TokenAccount, TokenAccountState
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata

from x402 import networks
from x402.chain import SvmAccount, SvmTransaction, TokenBalance
from x402.errors import Mender, MisconfiguredError
from x402.schemes import exact_svm
from x402.schemes.exact_svm_layout import SignedTransfer, token_account
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

USDC = networks.get(networks.SOLANA_DEVNET).usd
TOKEN = Pubkey.from_string(networks.TOKEN_PROGRAM)
PAYER, SPONSOR, SELLER, THIEF = (Keypair.from_seed(bytes([seed]) * 32) for seed in range(1, 5))
AMOUNT = 2_500
RICH = 10_000


def address_of(owner: Keypair) -> Pubkey:
    return Pubkey.from_string(token_account(str(owner.pubkey()), USDC.address, USDC.token_program))


class Town:
    """A VM with USDC, a payer who has some, a seller who has none yet, and a sponsor with SOL."""

    def __init__(self, *, decimals: int = 6) -> None:
        self.svm = LiteSVM()
        self.svm.airdrop(SPONSOR.pubkey(), 10**9)
        mint = Mint(THIEF.pubkey(), RICH, decimals, True, THIEF.pubkey())
        self.put(Pubkey.from_string(USDC.address), bytes(mint))
        self.give(PAYER, RICH)
        self.give(SELLER, 0)

    def put(self, address: Pubkey, data: bytes, owner: Pubkey = TOKEN) -> None:
        self.svm.set_account(address, Account(10**9, data, owner))

    def give(
        self,
        holder: Keypair,
        amount: int,
        *,
        owner: Keypair | None = None,
        mint: str = USDC.address,
        state: TokenAccountState = TokenAccountState.Initialized,
    ) -> None:
        data = TokenAccount(Pubkey.from_string(mint), (owner or holder).pubkey(), amount, None, state, None, 0, None)
        self.put(address_of(holder), bytes(data))

    def units(self, holder: Keypair) -> int:
        account = self.svm.get_account(address_of(holder))
        assert account is not None
        return TokenAccount.from_bytes(account.data).amount

    def account(self, holder: Keypair) -> SvmAccount | None:
        account = self.svm.get_account(address_of(holder))
        return None if account is None else SvmAccount(str(account.owner), account.lamports, bytes(account.data))

    def error(self, raw: bytes, *, send: bool = False) -> str | None:
        """The node's error in compact JSON, as `ports` report it."""
        transaction = VersionedTransaction.from_bytes(raw)
        result = self.svm.send_transaction(transaction) if send else self.svm.simulate_transaction(transaction)
        if isinstance(result, FailedTransactionMetadata):
            return json.dumps(json.loads(result.to_json())["err"], separators=(",", ":"))
        return None

    def landed(self, raw: bytes) -> SvmTransaction:
        before = {holder: self.units(holder) for holder in (PAYER, SELLER)}
        error = self.error(raw, send=True)
        balances = tuple(
            TokenBalance(
                str(address_of(holder)), str(holder.pubkey()), USDC.address, before[holder], self.units(holder)
            )
            for holder in (PAYER, SELLER)
        )
        return SvmTransaction(str(VersionedTransaction.from_bytes(raw).signatures[0]), 1, error, balances)


@pytest.fixture
def town() -> Town:
    return Town()


def offer(**changes: Any) -> Requirement:
    members: dict[str, Any] = {
        "scheme": "exact",
        "network": networks.SOLANA_DEVNET,
        "amount": AMOUNT,
        "asset": USDC.address,
        "pay_to": str(SELLER.pubkey()),
        "max_timeout_seconds": 60,
        "extra": exact_svm.offer_extra(str(SPONSOR.pubkey())),
    }
    return Requirement(**(members | changes))


def checked(
    town: Town, requirement: Requirement | None = None, edit: tuple[bytes, bytes] = (b"", b"")
) -> SignedTransfer:
    """The client's payment as the facilitator accepts it; `edit` changes bytes before the payer signs."""
    requirement = requirement or offer()
    blockhash = str(town.svm.latest_blockhash())
    raw = exact_svm.build(requirement, str(PAYER.pubkey()), blockhash, bytes(range(16)))
    if edit[0]:
        assert raw.count(edit[0]) == 1
        raw = raw.replace(*edit)
    raw = exact_svm.sign(raw, lambda message: bytes(PAYER.sign_message(message)))
    payment = Payment.of(requirement, exact_svm.payload(raw))
    return exact_svm.check(payment, requirement, managed=frozenset({str(SPONSOR.pubkey())}))


def cosigned(signed: SignedTransfer) -> tuple[str, bytes]:
    return exact_svm.cosign(signed, bytes(SPONSOR.sign_message(exact_svm.message_to_sign(signed))))


def test_whole_payment_lands(town: Town) -> None:
    requirement = offer()
    assert exact_svm.destination_problem(town.account(SELLER), requirement) is None
    signed = checked(town, requirement)
    transaction, raw = cosigned(signed)
    assert VersionedTransaction.from_bytes(raw).verify_with_results() == [True, True]
    assert town.error(raw) is None
    lamports = town.svm.get_balance(SPONSOR.pubkey())
    landed = town.landed(raw)
    assert landed.signature == transaction
    assert exact_svm.moved(landed, signed.transfer)
    assert (town.units(PAYER), town.units(SELLER)) == (RICH - AMOUNT, AMOUNT)
    assert lamports is not None
    assert town.svm.get_balance(SPONSOR.pubkey()) == lamports - signed.transfer.fee


def test_A04_the_same_transaction_is_a_duplicate_not_a_failure(town: Town) -> None:
    _, raw = cosigned(checked(town))
    assert town.error(raw, send=True) is None
    for send in (False, True):
        error = town.error(raw, send=send)
        assert error is not None
        assert exact_svm.explain(error)[0] == "duplicate_settlement"
    assert town.units(SELLER) == AMOUNT


def explained(town: Town, signed: SignedTransfer) -> tuple[str, str]:
    error = town.error(cosigned(signed)[1])
    assert error is not None
    landed = exact_svm.explain(error, landed=True)
    simulated = exact_svm.explain(error)
    assert landed[1] == simulated[1]
    assert landed[0] == simulated[0].replace("transaction_simulation_failed", "transaction_failed")
    return simulated


def test_explains_too_little_money(town: Town) -> None:
    town.give(PAYER, AMOUNT - 1)
    assert explained(town, checked(town))[0] == "insufficient_funds"


def test_explains_missing_accounts() -> None:
    for missing in (PAYER, SELLER):
        town = Town()
        town.svm.set_account(address_of(missing), Account(0, b"", Pubkey.default()))
        reason, words = explained(town, checked(town))
        assert reason == "invalid_exact_svm_transaction_simulation_failed"
        assert "token account" in words


def test_explains_frozen_accounts(town: Town) -> None:
    town.give(SELLER, 0, state=TokenAccountState.Frozen)
    assert "frozen" in explained(town, checked(town))[1]


def test_explains_a_foreign_source(town: Town) -> None:
    town.give(PAYER, RICH, owner=THIEF)
    assert "neither owns" in explained(town, checked(town))[1]


def test_explains_decimals() -> None:
    town = Town(decimals=9)
    assert "decimals" in explained(town, checked(town))[1]


def test_explains_too_low_a_compute_limit(town: Town) -> None:
    signed = checked(town, edit=(b"\x02\x20\x4e\x00\x00", b"\x02\x0a\x00\x00\x00"))
    assert signed.transfer.compute_limit == 10
    assert "compute unit limit" in explained(town, signed)[1]


def test_C08_explains_a_dead_blockhash(town: Town) -> None:
    signed = checked(town)
    town.svm.expire_blockhash()
    assert "blockhash" in explained(town, signed)[1]


def test_explains_a_sponsor_without_sol(town: Town) -> None:
    town.svm.set_account(SPONSOR.pubkey(), Account(0, b"", Pubkey.default()))
    reason, _ = explained(town, checked(town))
    assert reason == "invalid_exact_svm_fee_payer_insufficient_balance"
    assert exact_svm.REASONS[reason].mender is Mender.FACILITATOR


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ('{"InstructionError":[2,{"Custom":6001}]}', "guard"),
        ('{"InstructionError":[3,{"Custom":77}]}', "instruction 4 failed with error 77"),
        ('{"InstructionError":[0,"InvalidInstructionData"]}', "instruction 1 failed with InvalidInstructionData"),
        ('{"InstructionError":[0,{"BorshIoError":"x"}]}', "BorshIoError"),
        ('"BlockhashNotFound"', "blockhash"),
        ("BlockhashNotFound", "blockhash"),
        ('{"InsufficientFundsForRent":{"account_index":3}}', "InsufficientFundsForRent"),
        ('"WouldExceedMaxBlockCostLimit"', "WouldExceedMaxBlockCostLimit"),
        ('{"DuplicateInstruction":3}', "the network answered DuplicateInstruction"),
        ("{'Rust': Debug}", "the network answered an error that is not understood"),
        ("x" * 10_000, "the network answered an error that is not understood"),
        ('{"InstructionError":5}', "the network answered an error that is not understood"),
        ('{"InstructionError":["2",{"Custom":1}]}', "the network answered an error that is not understood"),
        ('{"InstructionError":[2,{"Custom":1},0]}', "the network answered an error that is not understood"),
        ('{"InstructionError":[2,{"Custom":1,"b":2}]}', "instruction 3 failed with an error that is not understood"),
        ('{"InstructionError":[2,["x"]]}', "instruction 3 failed with an error that is not understood"),
        ('{"InstructionError":[2,{"Custom":"1"}]}', "instruction 3 failed with Custom"),
        ('{"Other":[2,{"Custom":1}]}', "the network answered Other"),
    ],
)
def test_explains_what_else_a_node_says(error: str, words: str) -> None:
    reason, text = exact_svm.explain(error)
    assert reason == "invalid_exact_svm_transaction_simulation_failed"
    assert words in text


def test_explains_the_sponsors_other_troubles() -> None:
    for error in ('"InsufficientFundsForFee"', '{"InsufficientFundsForRent":{"account_index":0}}', '"AccountNotFound"'):
        assert exact_svm.explain(error)[0] == "invalid_exact_svm_fee_payer_insufficient_balance"


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=12) | st.sampled_from(["InstructionError", "Custom"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["InstructionError", "Custom", "account_index"]), inner, max_size=2)
        ),
    ).map(json.dumps)
    | st.integers(2, 100_000).map("[".__mul__)
)
def test_whatever_a_node_says_there_is_an_explanation(error: str) -> None:
    reason, text = exact_svm.explain(error)
    assert reason in exact_svm.REASONS
    assert text


def test_C13_destination_states(town: Town) -> None:
    wanted = offer()

    def problem() -> tuple[str, Mender, str]:
        found = exact_svm.destination_problem(town.account(SELLER), wanted)
        assert found is not None
        assert found.code in exact_svm.REASONS
        return found.code.removeprefix("invalid_exact_svm_destination_account_"), found.mender, found.message

    missing = exact_svm.destination_problem(None, wanted)
    assert missing is not None
    assert "create-account" in missing.message
    assert str(SELLER.pubkey()) in missing.message
    town.put(address_of(SELLER), b"", Pubkey.default())
    assert problem()[0] == "missing"
    town.give(SELLER, 0, state=TokenAccountState.Frozen)
    assert problem()[:2] == ("frozen", Mender.SELLER)
    town.give(SELLER, 0, owner=THIEF)
    code, mender, words = problem()
    assert (code, mender) == ("owner", Mender.SELLER)
    assert str(THIEF.pubkey()) in words
    town.give(SELLER, 0, mint=str(THIEF.pubkey()))
    assert problem()[0] == "invalid"
    town.give(SELLER, 0, state=TokenAccountState.Uninitialized)
    assert problem()[0] == "invalid"
    for data, owner in ((bytes(164), TOKEN), (bytes(200), TOKEN), (bytes(165), Pubkey.default())):
        town.put(address_of(SELLER), data, owner)
        assert problem()[0] == "invalid"
    town.give(SELLER, 7)
    assert exact_svm.destination_problem(town.account(SELLER), wanted) is None


def test_C13_token_2022_account_with_extensions() -> None:
    pyusd = next(one for one in networks.get(networks.SOLANA_DEVNET).assets if one.symbol == "PYUSD")
    plain = bytes(
        TokenAccount(
            Pubkey.from_string(pyusd.address), SELLER.pubkey(), 0, None, TokenAccountState.Initialized, None, 0, None
        )
    )
    wanted = offer(asset=pyusd.address)
    for tail, fit in ((b"", True), (b"\x02\x07\x00\x00\x00", True), (b"\x01\x07\x00\x00\x00", False)):
        account = SvmAccount(networks.TOKEN_2022_PROGRAM, 1, plain + tail)
        assert (exact_svm.destination_problem(account, wanted) is None) is fit
        foreign = replace(account, owner=networks.TOKEN_PROGRAM)
        assert exact_svm.destination_problem(foreign, wanted) is not None


def test_A14_confirmed_is_not_paid(town: Town) -> None:
    signed = checked(town)
    good = town.landed(cosigned(signed)[1])
    assert exact_svm.moved(good, signed.transfer)
    assert not exact_svm.moved(replace(good, error='{"InstructionError":[2,{"Custom":1}]}'), signed.transfer)


def test_C05_only_the_very_transfer_counts(town: Town) -> None:
    signed = checked(town)
    good = town.landed(cosigned(signed)[1])
    received = good.balances[1]
    assert not exact_svm.moved(replace(good, balances=()), signed.transfer)
    for wrong in (
        replace(received, after=received.after - 1),
        replace(received, before=received.before + 1),
        replace(received, account=str(address_of(THIEF))),
        replace(received, mint=str(THIEF.pubkey())),
        replace(received, owner=str(THIEF.pubkey())),
        replace(received, before=received.after, after=received.before),
    ):
        assert not exact_svm.moved(replace(good, balances=(wrong,)), signed.transfer)
    assert exact_svm.moved(replace(good, balances=(replace(received, owner=""),)), signed.transfer)


def test_cosign_refuses_a_signature_that_would_never_land(town: Town) -> None:
    signed = checked(town)
    message = exact_svm.message_to_sign(signed)
    for wrong in (bytes(64), b"", bytes(THIEF.sign_message(message)), bytes(SPONSOR.sign_message(message + b"x"))):
        with pytest.raises(MisconfiguredError):
            exact_svm.cosign(signed, wrong)

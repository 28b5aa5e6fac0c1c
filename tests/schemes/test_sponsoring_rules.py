"""Both extensions that bring Permit2 its allowance: every rule at its bounds, and wrong on either side (fault D15)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data

from tests.payments import EvmPayer, evm_asset
from x402.errors import RefusedError
from x402.networks import PERMIT2
from x402.schemes import approval_sponsoring, eip712, gas_sponsoring, upto_evm
from x402.schemes.approval_sponsoring import SignedApproval
from x402.schemes.eip1559 import EvmTransaction
from x402.schemes.gas_sponsoring import Sponsorship

GAS, APPROVAL = gas_sponsoring.EXTENSION, approval_sponsoring.EXTENSION
GAS_FORMAT, APPROVAL_FORMAT = "invalid_eip2612_extension_format", "invalid_erc20_approval_extension_format"
CHAIN_ID, MAXIMUM, NONCE, DEADLINE = 84532, 1000, 7, 1_800_000_300
PAYER, ASSET = EvmPayer(), evm_asset()
LOW, HIGH = eip712.checksum("0x" + "00" * 19 + "07"), eip712.checksum("0x" + "ff" * 20)
"""Addresses before and after every other's in the alphabet."""
EITHER_SIDE = pytest.mark.parametrize("other", [LOW, HIGH])


def by_key(digest: bytes) -> bytes:
    return eip712.sign(PAYER.key, digest)


def permit(value: int = MAXIMUM, **members: Any) -> dict[str, Any]:
    """A permit for Permit2; members of the extension are put in afterwards."""
    made = gas_sponsoring.sign(PAYER.address, value, NONCE, DEADLINE, ASSET, by_key)
    made[GAS]["info"].update(members)
    return made


def read_permit(extensions: Mapping[str, Any]) -> Sponsorship | None:
    return gas_sponsoring.read(extensions, ASSET, PAYER.address, MAXIMUM)


def call(**changed: Any) -> EvmTransaction:
    return replace(approval_sponsoring.unsigned_approval(ASSET, CHAIN_ID, NONCE, 10**9, 10**8), **changed)


def approval(unsigned: EvmTransaction, payer: EvmPayer = PAYER, **members: Any) -> dict[str, Any]:
    """An approval of Permit2; members of the extension are put in afterwards."""
    made = approval_sponsoring.sign(PAYER.address, ASSET, unsigned, lambda digest: eip712.sign(payer.key, digest))
    made[APPROVAL]["info"].update(members)
    return made


def read_approval(extensions: Mapping[str, Any]) -> SignedApproval | None:
    return approval_sponsoring.read(extensions, ASSET, PAYER.address, MAXIMUM, chain_id=CHAIN_ID)


def refusal(extensions: Mapping[str, Any], words: str = "") -> str:
    """The code with which whichever extension there is, is refused; its message holds the words."""
    with pytest.raises(RefusedError, match=words or None) as refused:
        read_permit(extensions) if GAS in extensions else read_approval(extensions)
    return refused.value.code


def test_a_permit_is_signed_as_everybody_else_signs_it() -> None:
    names = ("owner", "spender", "value", "nonce", "deadline")
    typed = encode_typed_data(
        {"name": "USDC", "version": "2", "chainId": CHAIN_ID, "verifyingContract": ASSET.address},
        {"Permit": [{"name": n, "type": "address" if n in names[:2] else "uint256"} for n in names]},
        dict(zip(names, (PAYER.address, PERMIT2, MAXIMUM, NONCE, DEADLINE), strict=True)),
    )
    made = permit()
    assert Account.recover_message(typed, signature=made[GAS]["info"]["signature"]) == PAYER.address
    found = read_permit(made)
    assert found is not None
    assert found == Sponsorship(PAYER.address, MAXIMUM, NONCE, DEADLINE, found.signature)
    assert eip712.recover(found.digest(ASSET), found.signature) == PAYER.address
    assert made == {
        GAS: {
            "info": {
                "from": PAYER.address, "asset": ASSET.address, "spender": PERMIT2, "amount": "1000", "nonce": "7",
                "deadline": "1800000300", "signature": "0x" + found.signature.hex(), "version": "1",
            }
        }
    }  # fmt: skip


@pytest.mark.parametrize(("v", "word"), [(0, 27), (1, 28), (26, 53), (27, 27), (28, 28), (29, 29)])
def test_D07_the_words_of_a_permit_hold_its_v_from_twenty_seven_on(v: int, word: int) -> None:
    r, s = bytes(range(1, 33)), bytes(range(101, 133))
    words = Sponsorship(PAYER.address, MAXIMUM, NONCE, DEADLINE, r + s + bytes([v])).words()
    kinds = ["uint256", "uint256", "bytes32", "bytes32", "uint8"]
    assert words == encode(kinds, [MAXIMUM, DEADLINE, r, s, word])
    assert len(words) == 32 * Sponsorship.WORDS


def test_the_token_is_asked_for_the_owners_nonce() -> None:
    selector = eip712.keccak(b"nonces(address)")[:4]
    assert gas_sponsoring.nonce_call(PAYER.address) == selector + encode(["address"], [PAYER.address])


def test_what_is_signed_has_the_shape_that_was_advertised() -> None:
    for signed, name, declared in (
        (permit(), GAS, gas_sponsoring.declaration()),
        (approval(call()), APPROVAL, approval_sponsoring.declaration()),
    ):
        for member, shape in declared["schema"]["properties"].items():
            assert re.search(shape["pattern"], signed[name]["info"][member]), member
        assert set(declared["schema"]["required"]) == set(signed[name]["info"])
        assert declared["info"]["version"] == signed[name]["info"]["version"] == "1"
        assert json.loads(json.dumps(declared)) == declared


@pytest.mark.parametrize(("module", "name"), [(gas_sponsoring, GAS), (approval_sponsoring, APPROVAL)])
def test_an_extension_is_offered_in_the_version_that_is_known(module: Any, name: str) -> None:
    assert module.is_offered({name: module.declaration()})
    assert module.is_offered({name: {"info": {"version": "1"}}})
    others: tuple[Any, ...] = (None, [], "text", {}, {"info": None}, {"info": []}, {"info": {}})
    for other in others:
        assert module.is_offered({name: other}) is False
        assert module.is_signed({name: other}) is False
    for version in ("0", "2", "1.0", "", None, 1):
        assert module.is_offered({name: {"info": {"version": version}}}) is False
    assert module.is_offered({}) is False
    assert module.is_signed({}) is False
    assert module.is_signed({name: module.declaration()}) is False


def test_a_payment_brings_what_its_payer_has_signed() -> None:
    assert gas_sponsoring.is_signed(permit()) is True
    assert approval_sponsoring.is_signed(approval(call())) is True
    # One is not the other.
    assert gas_sponsoring.is_signed(approval(call())) is False
    assert approval_sponsoring.is_signed(permit()) is False
    assert read_permit(approval(call())) is None
    assert read_approval(permit()) is None


def test_the_sellers_words_alone_are_no_permit_and_no_approval() -> None:
    assert read_permit({}) is None
    assert read_permit({GAS: None}) is None
    assert read_permit({GAS: gas_sponsoring.declaration()}) is None
    assert read_permit({GAS: {"info": {}}}) is None
    junk: tuple[Any, ...] = ([], "text", {}, {"info": None}, {"info": []})
    for entry in junk:
        assert refusal({GAS: entry}, r"eip2612GasSponsoring\.info: an object is required") == GAS_FORMAT
        assert read_approval({APPROVAL: entry}) is None
    assert read_approval({}) is None
    assert read_approval({APPROVAL: approval_sponsoring.declaration()}) is None


@pytest.mark.parametrize("version", ["0", "2", "", None, 1])
def test_D15_another_version_is_refused(version: Any) -> None:
    assert refusal(permit(version=version), "version 1 with a signature of 65 bytes is required") == GAS_FORMAT
    words = "version 1 with a signed transaction in hex is required"
    assert refusal(approval(call(), version=version), words) == APPROVAL_FORMAT


@pytest.mark.parametrize(
    "text", [None, 7, [], "", "0x", "00" * 65, "0x" + "0" * 129, "0x" + "0" * 131, "0x" + "g" * 130]
)
def test_D15_a_permit_has_a_signature_of_sixty_five_bytes(text: Any) -> None:
    assert refusal(permit(signature=text), "a signature of 65 bytes") == GAS_FORMAT
    found = read_permit(permit(signature="0x" + "aB" * 65))
    assert found is not None
    assert found.signature == b"\xab" * 65


@pytest.mark.parametrize("text", [None, 7, [], "", "0x", "00" * 65, "0x0", "0x" + "gg", "0x" + "02" * 1025])
def test_D15_an_approval_is_a_transaction_in_hex(text: Any) -> None:
    assert refusal(approval(call(), signedTransaction=text), "a signed transaction in hex") == APPROVAL_FORMAT
    # What is just inside the limit is looked at.
    longest = approval(call(), signedTransaction="0x" + "02" * 1024)
    assert refusal(longest, "no signed transaction") == "erc20_approval_tx_parse_failed"


@pytest.mark.parametrize("member", ["from", "asset", "spender", "amount", "nonce", "deadline"])
@pytest.mark.parametrize("junk", [None, 7, "", "-1", "0x01", "1.5"])
def test_D15_a_member_that_can_not_be_read_is_refused(member: str, junk: Any) -> None:
    assert refusal(permit(**{member: junk}), "eip2612GasSponsoring: an") == GAS_FORMAT
    if member not in ("nonce", "deadline"):
        assert refusal(approval(call(), **{member: junk}), "erc20ApprovalGasSponsoring: an") == APPROVAL_FORMAT


@EITHER_SIDE
def test_D15_nobody_elses_permit_or_for_something_else(other: str) -> None:
    sender: dict[str, Any] = {"from": other}
    assert refusal(permit(**sender), f"the permit is {other}'s") == "eip2612_from_mismatch"
    assert refusal(permit(asset=other), f"the permit is for {other}") == "eip2612_asset_mismatch"
    assert refusal(permit(spender=other), f"lets {other} spend") == "eip2612_spender_not_permit2"
    assert refusal(permit(asset=other, **sender)) == "eip2612_from_mismatch"
    assert refusal(permit(asset=other, spender=other)) == "eip2612_asset_mismatch"
    assert refusal(permit(spender=other, amount="1")) == "eip2612_spender_not_permit2"


@pytest.mark.parametrize("value", [0, 999, 1001, 2**256 - 1])
def test_D15_a_permit_is_for_exactly_what_is_paid_at_most(value: int) -> None:
    assert refusal(permit(value), f"the permit is for {value} atomic units, not 1000") == "permit2_2612_amount_mismatch"
    assert read_permit(permit(MAXIMUM)) is not None


@EITHER_SIDE
def test_D15_nobody_elses_approval_or_for_something_else(other: str) -> None:
    sender: dict[str, Any] = {"from": other}
    assert refusal(approval(call(), **sender), f"{other}'s") == "erc20_approval_from_mismatch"
    assert refusal(approval(call(), asset=other), f"is for {other}") == "erc20_approval_asset_mismatch"
    assert refusal(approval(call(), spender=other), f"lets {other}") == "erc20_approval_spender_not_permit2"
    assert refusal(approval(call(to=other)), f"calls {other}, not") == "erc20_approval_tx_wrong_target"
    # The first rule that is broken is told.
    assert refusal(approval(call(), asset=other, **sender)) == "erc20_approval_from_mismatch"
    assert refusal(approval(call(), asset=other, spender=other)) == "erc20_approval_asset_mismatch"
    junk = approval(call(), spender=other, signedTransaction="0x02")
    assert refusal(junk) == "erc20_approval_spender_not_permit2"
    assert refusal(approval(call(), signedTransaction="0x02"), "no signed") == "erc20_approval_tx_parse_failed"


WANTED = upto_evm.approve_call(approval_sponsoring.UNLIMITED)
CALLDATA, SELECTOR, SPENDER = (
    f"erc20_approval_tx_{name}" for name in ("invalid_calldata", "wrong_selector", "wrong_spender")
)


def with_byte(at: int, change: int) -> bytes:
    """The wanted call with one byte that is so much greater."""
    return WANTED[:at] + bytes([WANTED[at] + change]) + WANTED[at + 1 :]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", SELECTOR),
        (WANTED[:3], SELECTOR),
        *((with_byte(at, change), SELECTOR) for at in (0, 1, 2, 3) for change in (-1, 1)),
        (WANTED[:4], SPENDER),
        (WANTED[:35], SPENDER),
        (with_byte(4, 1), SPENDER),
        (with_byte(15, 1), SPENDER),
        *((with_byte(at, change), SPENDER) for at in (21, 35) for change in (-1, 1)),
        (WANTED[:36], CALLDATA),
        (WANTED[:67], CALLDATA),
        (WANTED + b"\0", CALLDATA),
        (WANTED + WANTED, CALLDATA),
        (with_byte(36, -1), CALLDATA),
        (with_byte(67, -1), CALLDATA),
    ],
)
def test_D15_every_byte_of_the_call_is_what_it_must_be(data: bytes, code: str) -> None:
    words = {
        SELECTOR: "calls something else than approve", SPENDER: "lets somebody else spend",
        CALLDATA: r"approve\(Permit2, \d+\) and nothing else is required, for 1000 atomic units",
    }  # fmt: skip
    assert refusal(approval(call(data=data)), words[code]) == code


@pytest.mark.parametrize(
    ("units", "taken"), [(0, False), (999, False), (1000, True), (1001, True), (2**256 - 2, True), (2**256 - 1, True)]
)
def test_D15_an_approval_covers_what_is_paid_at_most(units: int, taken: bool) -> None:
    said = approval(call(data=upto_evm.approve_call(units)), amount=str(units))
    if not taken:
        assert refusal(said, "for 1000 atomic units") == CALLDATA
        return
    found = read_approval(said)
    assert found is not None
    assert (found.units, found.payer, found.asset) == (units, PAYER.address, ASSET)
    # What the extension says and what the transaction does are one.
    for other in {max(units - 1, 1), min(units + 1, 2**256 - 1)} - {units}:
        assert refusal(approval(call(data=upto_evm.approve_call(units)), amount=str(other))) == CALLDATA


@pytest.mark.parametrize(
    "changed", [{"chain_id": 84531}, {"chain_id": 84533}, {"chain_id": 1}, {"value": 1}, {"value": 1, "chain_id": 1}]
)
def test_D15_an_approval_is_of_this_chain_and_moves_no_coin(changed: dict[str, int]) -> None:
    words = "a transaction on chain 84532 that moves no coin is required"
    assert refusal(approval(call(**changed)), words) == "erc20_approval_tx_wrong_terms"


def test_D15_only_the_payers_own_signature_counts_whichever_sorts_first() -> None:
    sorted_before: set[bool] = set()
    while len(sorted_before) < 2:
        stranger = EvmPayer()
        sorted_before.add(stranger.address < PAYER.address)
        words = f"{stranger.address} signed the transaction, and {PAYER.address} pays"
        assert refusal(approval(call(), stranger), words) == "erc20_approval_tx_signer_mismatch"
    _, raw = call().sign_with(lambda _: b"\0" * 31 + b"\5" + b"\xff" * 32 + b"\0")
    none = approval(call(), signedTransaction="0x" + raw.hex())
    assert refusal(none, "the transaction's signature is none") == "erc20_approval_tx_invalid_signature"


def test_an_approval_says_what_its_gas_costs_at_most_and_how_it_is_called() -> None:
    found = read_approval(approval(call()))
    assert found is not None
    assert (found.transaction, found.name) == (call(), found.signed.name)
    assert found.name == "0x" + eip712.keccak(found.signed.raw).hex()
    assert found.cost == 70_000 * 10**9
    assert (
        int("f" * 64, 16), 70_000, 120_000,
    ) == (approval_sponsoring.UNLIMITED, approval_sponsoring.GAS, approval_sponsoring.GAS_MAX)  # fmt: skip
    other = read_approval(approval(call(gas=3, max_fee=11)))
    assert other is not None
    assert other.cost == 33


@pytest.mark.parametrize(("highest", "tip", "offered"), [(10, 9, 9), (10, 10, 10), (10, 11, 10), (0, 5, 0)])
def test_a_tip_is_never_above_what_is_offered_in_all(highest: int, tip: int, offered: int) -> None:
    made = approval_sponsoring.unsigned_approval(ASSET, CHAIN_ID, NONCE, highest, tip)
    assert made == EvmTransaction(CHAIN_ID, NONCE, ASSET.address, 70_000, highest, offered, WANTED)

"""The transaction that a payer signs to approve Permit2: read in one spelling, and nothing but this one call (D15)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from tests.payments import EvmPayer, evm_asset
from x402.errors import MalformedError, RefusedError
from x402.networks import PERMIT2
from x402.schemes import approval_sponsoring, eip712, upto_evm
from x402.schemes.approval_sponsoring import EXTENSION, SignedApproval
from x402.schemes.eip1559 import EvmTransaction, read_transaction

CHAIN_ID, MAXIMUM = 84532, 1000
PAYER = EvmPayer()
STRANGER = eip712.checksum("0x" + "57" * 20)
APPROVE, TRANSFER = (eip712.keccak(f"{name}(address,uint256)".encode())[:4] for name in ("approve", "transfer"))


def call(**changed: Any) -> EvmTransaction:
    return replace(approval_sponsoring.unsigned_approval(evm_asset(), CHAIN_ID, 0, 10**9, 10**8), **changed)


def signed(unsigned: EvmTransaction, payer: EvmPayer = PAYER, **members: Any) -> dict[str, Any]:
    made = approval_sponsoring.sign(PAYER.address, evm_asset(), unsigned, lambda digest: eip712.sign(payer.key, digest))
    made[EXTENSION]["info"].update(members)
    return made


def read(extensions: dict[str, Any]) -> SignedApproval | None:
    return approval_sponsoring.read(extensions, evm_asset(), PAYER.address, MAXIMUM, chain_id=CHAIN_ID)


def reason(extensions: dict[str, Any]) -> str:
    with pytest.raises(RefusedError) as refused:
        read(extensions)
    return refused.value.code


def test_control_what_the_client_signs_is_read() -> None:
    found = read(signed(call()))
    assert found is not None
    assert (found.payer, found.units, found.cost) == (PAYER.address, 2**256 - 1, 70_000 * 10**9)
    assert found.transaction == call()
    assert Account.recover_transaction(found.signed.raw) == PAYER.address
    assert read(signed(call(data=upto_evm.approve_call(MAXIMUM)), amount=str(MAXIMUM))) is not None


def test_the_sellers_words_alone_are_no_approval() -> None:
    declared = {EXTENSION: approval_sponsoring.declaration()}
    assert approval_sponsoring.is_offered(declared)
    assert not approval_sponsoring.is_signed(declared)
    assert read(declared) is None
    assert read({}) is None
    junk: dict[str, Any]
    for junk in ({EXTENSION: None}, {EXTENSION: []}, {EXTENSION: {"info": 7}}, {EXTENSION: {"info": {"version": "2"}}}):
        assert not approval_sponsoring.is_offered(junk)
        assert read(junk) is None


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"to": STRANGER}, "erc20_approval_tx_wrong_target"),
        ({"data": TRANSFER + upto_evm.approve_call(1)[4:]}, "erc20_approval_tx_wrong_selector"),
        ({"data": b""}, "erc20_approval_tx_wrong_selector"),
        ({"data": APPROVE + eip712.address_word(STRANGER) + b"\xff" * 32}, "erc20_approval_tx_wrong_spender"),
        ({"data": APPROVE + b"\1" * 12 + bytes.fromhex(PERMIT2[2:]) + b"\xff" * 32}, "erc20_approval_tx_wrong_spender"),
        ({"data": upto_evm.approve_call(2**256 - 1) + b"\0"}, "erc20_approval_tx_invalid_calldata"),
        ({"data": upto_evm.approve_call(7)}, "erc20_approval_tx_invalid_calldata"),
        ({"value": 1}, "erc20_approval_tx_wrong_terms"),
        ({"chain_id": 1}, "erc20_approval_tx_wrong_terms"),
    ],
)
def test_D15_another_call_is_refused(changed: dict[str, Any], code: str) -> None:
    assert reason(signed(call(**changed))) == code


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"from": STRANGER}, "erc20_approval_from_mismatch"),
        ({"asset": STRANGER}, "erc20_approval_asset_mismatch"),
        ({"spender": STRANGER}, "erc20_approval_spender_not_permit2"),
        ({"spender": None}, "invalid_erc20_approval_extension_format"),
        ({"amount": "1.5"}, "invalid_erc20_approval_extension_format"),
        ({"amount": str(MAXIMUM)}, "erc20_approval_tx_invalid_calldata"),
        ({"version": "2"}, "invalid_erc20_approval_extension_format"),
        ({"signedTransaction": 7}, "invalid_erc20_approval_extension_format"),
        ({"signedTransaction": "0x"}, "invalid_erc20_approval_extension_format"),
        ({"signedTransaction": "0x" + "00" * 64}, "erc20_approval_tx_parse_failed"),
        ({"signedTransaction": "0x02c0"}, "erc20_approval_tx_parse_failed"),
    ],
)
def test_D15_the_extension_says_what_the_transaction_says(members: dict[str, Any], code: str) -> None:
    assert reason(signed(call(), **members)) == code


def test_D15_somebody_elses_signature_is_refused() -> None:
    assert reason(signed(call(), EvmPayer())) == "erc20_approval_tx_signer_mismatch"


def test_D07_a_signature_with_a_high_s_is_refused() -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    own = eip712.sign(PAYER.key, call().digest())
    high = own[:32] + (order - int.from_bytes(own[32:64], "big")).to_bytes(32, "big") + bytes([55 - own[64]])
    _, raw = call().sign_with(lambda _: high)
    assert reason(signed(call(), signedTransaction="0x" + raw.hex())) == "erc20_approval_tx_invalid_signature"


@given(
    st.builds(
        EvmTransaction,
        chain_id=st.integers(1, 2**32), nonce=st.integers(0, 2**64 - 1), to=st.just(STRANGER),
        gas=st.integers(0, 2**64 - 1), max_fee=st.integers(0, 2**128), priority_fee=st.integers(0, 2**128),
        data=st.binary(max_size=300), value=st.integers(0, 2**200),
    )
)  # fmt: skip
def test_what_is_written_is_read(unsigned: EvmTransaction) -> None:
    name, raw = unsigned.sign(PAYER.key)
    found = read_transaction(raw)
    assert (found.transaction, found.name, found.raw) == (unsigned, name, raw)
    assert eip712.recover(found.transaction.digest(), found.signature) == PAYER.address


@given(st.data())
def test_D15_no_second_spelling_is_read(data: st.DataObject) -> None:
    """Whatever byte changes, it is another transaction or none: the name is the hash of these very bytes."""
    _, raw = call().sign(PAYER.key)
    at = data.draw(st.integers(0, len(raw) - 1))
    kind = data.draw(st.sampled_from(("change", "cut", "add")))
    byte = bytes([data.draw(st.integers(0, 255))])
    other = {"change": raw[:at] + byte + raw[at + 1 :], "cut": raw[:at], "add": raw[:at] + byte + raw[at:]}[kind]
    try:
        found = read_transaction(other)
    except MalformedError:
        return
    assert (found.raw, found.name) == (other, "0x" + eip712.keccak(other).hex())
    assert other == raw or found.transaction != call() or found.signature != read_transaction(raw).signature


@given(st.binary(max_size=200))
def test_junk_is_no_transaction(junk: bytes) -> None:
    for raw in (junk, b"\x02" + junk):
        with pytest.raises(MalformedError):
            read_transaction(raw)

"""Our own EIP-1559 transactions, byte for byte those of eth-account."""

from __future__ import annotations

import coincurve
import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from x402.schemes.eip1559 import EvmTransaction

wei = st.integers(0, 2**80)


@given(
    st.integers(1, 2**32),
    st.one_of(st.integers(0, 300), st.integers(0, 2**63)),
    st.binary(min_size=20, max_size=20),
    st.integers(21_000, 2**40),
    wei,
    wei,
    st.one_of(st.binary(max_size=70), st.binary(min_size=250, max_size=300), st.just(b"\x05" * 70_000)),
    st.one_of(st.just(0), wei),
    st.integers(1, 2**250),
)
def test_signed_bytes_are_those_of_eth_account(
    chain_id: int, nonce: int, to: bytes, gas: int, fee: int, tip: int, data: bytes, value: int, secret: int
) -> None:
    key, address = secret.to_bytes(32, "big"), "0x" + to.hex()
    ours = EvmTransaction(chain_id, nonce, address, gas, max(fee, tip), tip, data, value)
    fields = {
        "type": 2, "chainId": chain_id, "nonce": nonce, "to": to, "gas": gas, "maxFeePerGas": max(fee, tip),
        "maxPriorityFeePerGas": tip, "data": data, "value": value,
    }  # fmt: skip
    theirs = Account.sign_transaction(fields, key)
    name, raw = ours.sign(coincurve.PrivateKey(key))
    assert (name, raw) == ("0x" + theirs.hash.hex().removeprefix("0x"), bytes(theirs.raw_transaction))


def test_negative_numbers_are_no_transaction() -> None:
    with pytest.raises(ValueError):
        EvmTransaction(1, -1, "0x" + "00" * 20, 21_000, 1, 1).sign(coincurve.PrivateKey(b"\x01" * 32))

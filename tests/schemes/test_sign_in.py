"""A sign-in's signature on both families, against what wallets make of it (aimo row 16)."""

from __future__ import annotations

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st
from solders.keypair import Keypair

from x402.errors import MalformedError
from x402.schemes import eip712
from x402.schemes.sign_in import evm_digest, evm_signature, svm_signature


@given(st.text(max_size=40))
def test_row_016_the_digest_is_that_of_personal_sign(message: str) -> None:
    account = Account.from_key("0x" + "11" * 32)
    signature = account.sign_message(encode_defunct(text=message)).signature
    assert eip712.recover(evm_digest(message), bytes(signature)) == account.address


def test_row_016_hex_is_read_with_and_without_its_prefix() -> None:
    assert evm_signature("0xAb01") == evm_signature("ab01") == b"\xab\x01"
    for wrong in ("", "0x", "0xabc", "xy", "ab 01", "0x0xab", "٠١"):
        with pytest.raises(MalformedError):
            evm_signature(wrong)


def test_row_016_base58_of_a_solana_signature_is_read() -> None:
    made = Keypair().sign_message(b"hello")
    assert svm_signature(str(made)) == bytes(made)
    for wrong in ("", "0OIl", "abc", "1" * 200):
        with pytest.raises(MalformedError):
            svm_signature(wrong)

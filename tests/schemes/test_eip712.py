"""EIP-712 and secp256k1 against eth-account, which was written by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coincurve
import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from x402.errors import MalformedError
from x402.schemes import eip712

VECTORS = {
    vector["name"]: vector
    for vector in json.loads((Path(__file__).parents[2] / "fixtures" / "evm_exact.json").read_text())["vectors"]
}
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEYS = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
WORDS = st.binary(min_size=32, max_size=32)
ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda raw: to_checksum_address(raw))
UINTS = st.integers(0, 2**256 - 1)
CHECKSUMMED = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


def test_type_hashes() -> None:
    vector = VECTORS["type hashes"]
    hashes = ["0x" + eip712.keccak(text.encode()).hex() for text in vector["input"]["strings"]]
    assert hashes == vector["expected"]["keccak256"]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=10), st.integers(0, 2**64), ADDRESSES, st.text(max_size=30))
def test_digest_equals_eth_account(name: str, version: str, chain_id: int, contract: str, said: str) -> None:
    message = encode_typed_data(
        domain_data={"name": name, "version": version, "chainId": chain_id, "verifyingContract": contract},
        message_types={"Note": [{"name": "said", "type": "string"}]},
        message_data={"said": said},
    )
    separator = eip712.domain_separator(name, version, chain_id, contract)
    struct = eip712.keccak(eip712.keccak(b"Note(string said)") + eip712.keccak(said.encode()))
    assert separator == message.header
    assert eip712.digest(separator, struct) == eip712.keccak(b"\x19\x01" + message.header + message.body)


@settings(max_examples=60, deadline=None)
@given(KEYS, WORDS)
def test_signature_equals_eth_account_and_recovers(key: bytes, digest: bytes) -> None:
    signature = eip712.sign(coincurve.PrivateKey(key), digest)
    theirs: Any = Account.unsafe_sign_hash(digest, key)
    assert signature == bytes(theirs.signature)
    assert int.from_bytes(signature[32:64], "big") <= ORDER // 2
    assert signature[64] in (27, 28)
    signer = Account.from_key(key).address
    assert eip712.recover(digest, signature) == signer == eip712.address_of(coincurve.PrivateKey(key).public_key)


@settings(max_examples=40, deadline=None)
@given(KEYS, WORDS)
def test_D07_both_spellings_of_v_and_no_other(key: bytes, digest: bytes) -> None:
    signature = eip712.sign(coincurve.PrivateKey(key), digest)
    signer = eip712.address_of(coincurve.PrivateKey(key).public_key)
    assert eip712.recover(digest, signature[:64] + bytes([signature[64] - 27])) == signer
    for v in (2, 3, 26, 29, 30, 35, 36, 255):
        assert eip712.recover(digest, signature[:64] + bytes([v])) is None
    high_s = (ORDER - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
    for v in (27, 28):
        # The same mathematical signature; accepting it would give every payment a second name (fault D07).
        assert eip712.recover(digest, signature[:32] + high_s + bytes([v])) is None


@settings(max_examples=200, deadline=None)
@given(WORDS, st.binary(max_size=80))
def test_recover_never_raises(digest: bytes, junk: bytes) -> None:
    found = eip712.recover(digest, junk)
    assert found is None or found == to_checksum_address(found)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 66, 130])
def test_D07_other_lengths_recover_nobody(size: int) -> None:
    assert eip712.recover(bytes(32), b"\x1b" * size) is None


@pytest.mark.parametrize("r", [0, ORDER, 2**256 - 1])
def test_D07_r_out_of_range_recovers_nobody(r: int) -> None:
    signature = r.to_bytes(32, "big") + (1).to_bytes(32, "big") + b"\x1b"
    assert eip712.recover(b"\x11" * 32, signature) is None
    assert eip712.recover(b"\x11" * 32, (1).to_bytes(32, "big") + bytes(32) + b"\x1b") is None


@given(ADDRESSES)
def test_F12_checksum_equals_eth_utils(spelled: str) -> None:
    for text in (spelled, spelled.lower(), "0x" + spelled[2:].upper()):
        assert eip712.parse_address(text) == spelled


@pytest.mark.parametrize(
    "text",
    [
        CHECKSUMMED.swapcase().replace("0X", "0x"),
        CHECKSUMMED[:-1] + "D",
        CHECKSUMMED[:-1],
        CHECKSUMMED + "0",
        CHECKSUMMED[2:],
        "0X" + CHECKSUMMED[2:],
        CHECKSUMMED + "\n",
        " " + CHECKSUMMED,
        CHECKSUMMED.replace("5a", "\u0435a", 1),
        "XE7338O073KYGTWWZN0F2WZ0R8PX5ZPPZS",
        "",
        None,
        7,
        b"0x" + b"1" * 40,
        ["0x" + "1" * 40],
    ],
)
def test_F12_other_forms_are_refused(text: object) -> None:
    with pytest.raises(MalformedError) as refused:
        eip712.parse_address(text, code="invalid_here")
    assert refused.value.code == "invalid_here"


@given(UINTS)
def test_words(number: int) -> None:
    assert eip712.uint256(number) == number.to_bytes(32, "big")
    with pytest.raises(OverflowError):
        eip712.uint256(number + 2**256)

"""EIP-3009 payments: the bytes against eth-account and eth-abi, and what counts as proof that money moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coincurve
import pytest
from eth_abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak, to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.payments import EvmPayer, address, evm_asset, evm_requirement
from x402 import networks
from x402.chain import EvmReceipt, Log
from x402.errors import DeclinedError, MalformedError, RefusedError
from x402.schemes import eip712, exact_evm
from x402.schemes.evm_payment import TRANSFER_TOPIC, balance_call
from x402.schemes.exact_evm import Authorization, SignedAuthorization

VECTORS = {
    vector["name"]: vector
    for vector in json.loads((Path(__file__).parents[2] / "fixtures" / "evm_exact.json").read_text())["vectors"]
}
UINTS = st.integers(0, 2**256 - 1)
ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda raw: to_checksum_address(raw))
AUTHORIZATIONS = st.builds(
    Authorization, ADDRESSES, ADDRESSES, UINTS, UINTS, UINTS, st.binary(min_size=32, max_size=32)
)
SIGNATURE_65 = st.binary(min_size=64, max_size=64).flatmap(
    lambda rs: st.sampled_from([0, 1, 27, 28]).map(lambda v: rs + bytes([v]))
)
SIX = ["address", "address", "uint256", "uint256", "uint256", "bytes32"]


def six(auth: Authorization) -> list[Any]:
    """The arguments that both overloads begin with."""
    return [auth.payer, auth.payee, auth.value, auth.valid_after, auth.valid_before, auth.nonce]


def test_golden_vector() -> None:
    vector = VECTORS["exact EVM EIP-3009 digest+signature (Base Sepolia USDC)"]
    said, expected = vector["input"]["authorization"], vector["expected"]
    asset, key = evm_asset(), coincurve.PrivateKey.from_hex(vector["input"]["privateKey"][2:])
    auth = Authorization(
        said["from"],
        said["to"],
        int(said["value"]),
        int(said["validAfter"]),
        int(said["validBefore"]),
        bytes.fromhex(said["nonce"][2:]),
    )
    separator = eip712.domain_separator(asset.eip712_name, asset.eip712_version, 84532, asset.address)
    assert "0x" + separator.hex() == expected["domainSeparator"]
    assert "0x" + auth.digest(asset).hex() == expected["digest"]
    payload = exact_evm.payload(auth, asset, lambda digest: eip712.sign(key, digest))
    assert payload == {"signature": expected["signature"], "authorization": said}
    assert exact_evm.read_payload(payload, asset).recovered == expected["signer"]


@settings(max_examples=60, deadline=None)
@given(AUTHORIZATIONS, st.sampled_from(["base", "base-sepolia", "polygon", "avalanche", "celo"]))
def test_digest_and_signature_equal_eth_account(auth: Authorization, network: str) -> None:
    asset = networks.get(network).usd
    message = encode_typed_data(
        domain_data={
            "name": asset.eip712_name,
            "version": asset.eip712_version,
            "chainId": networks.get(network).chain_id,
            "verifyingContract": asset.address,
        },
        message_types={
            "TransferWithAuthorization": [
                {"name": name, "type": kind}
                for name, kind in zip(("from", "to", "value", "validAfter", "validBefore", "nonce"), SIX, strict=True)
            ]
        },
        message_data=auth.as_json()
        | dict(zip(("from", "to", "value"), six(auth), strict=False))
        | {
            "validAfter": auth.valid_after,
            "validBefore": auth.valid_before,
            "nonce": auth.nonce,
        },
    )
    key = eip712.keccak(auth.nonce)
    digest = auth.digest(asset)
    assert digest == keccak(b"\x19\x01" + message.header + message.body)
    signed = Account.sign_message(message, key)
    assert bytes(signed.signature) == eip712.sign(coincurve.PrivateKey(key), digest)


@settings(max_examples=80, deadline=None)
@given(AUTHORIZATIONS, SIGNATURE_65)
def test_calldata_of_65_bytes_is_the_vrs_overload(auth: Authorization, signature: bytes) -> None:
    selector = keccak(f"transferWithAuthorization({','.join(SIX)},uint8,bytes32,bytes32)".encode())[:4]
    v = signature[64] + (27 if signature[64] < 27 else 0)
    wanted = encode([*SIX, "uint8", "bytes32", "bytes32"], [*six(auth), v, signature[:32], signature[32:64]])
    assert SignedAuthorization(auth, signature, evm_asset()).calldata() == selector + wanted


@settings(max_examples=80, deadline=None)
@given(AUTHORIZATIONS, st.binary(min_size=1, max_size=400).filter(lambda raw: len(raw) != 65))
def test_calldata_of_other_lengths_is_the_bytes_overload(auth: Authorization, signature: bytes) -> None:
    selector = keccak(f"transferWithAuthorization({','.join(SIX)},bytes)".encode())[:4]
    wanted = encode([*SIX, "bytes"], [*six(auth), signature])
    assert SignedAuthorization(auth, signature, evm_asset()).calldata() == selector + wanted


@given(AUTHORIZATIONS)
def test_small_calls(auth: Authorization) -> None:
    assert balance_call(auth.payer) == keccak(b"balanceOf(address)")[:4] + encode(["address"], [auth.payer])
    wanted = keccak(b"authorizationState(address,bytes32)")[:4] + encode(
        ["address", "bytes32"], [auth.payer, auth.nonce]
    )
    assert exact_evm.authorization_state_call(auth) == wanted


@given(AUTHORIZATIONS, SIGNATURE_65)
def test_payload_reads_back(auth: Authorization, signature: bytes) -> None:
    payload = exact_evm.payload(auth, evm_asset(), lambda _: signature)
    assert exact_evm.read_payload(payload, evm_asset()) == SignedAuthorization(auth, signature, evm_asset())


def test_A05_spellings_of_one_authorization_have_one_identity() -> None:
    payer, requirement = EvmPayer(), evm_requirement()
    payload = payer.pay(requirement).payload
    said, names = payload["authorization"], set()
    for change in (str, str.lower, lambda text: "0x" + text[2:].upper()):
        respelled = said | {name: change(said[name]) for name in ("from", "to", "nonce")}
        names.add(exact_evm.read_payload(payload | {"authorization": respelled}, evm_asset()).pay_id)
    assert len(names) == 1
    other = said | {"nonce": "0x" + "00" * 32}
    assert exact_evm.read_payload(payload | {"authorization": other}, evm_asset()).pay_id not in names


@pytest.mark.parametrize(
    ("member", "other"),
    [
        ("from", "0x" + "11" * 20), ("to", "0x" + "12" * 20), ("value", "9"), ("validAfter", "9"), ("validBefore", "9"),
        ("nonce", "0x" + "13" * 32), ("signature", "0x" + "14" * 65),
    ],
)  # fmt: skip
def test_A05_a_payload_that_was_read_is_not_taken_for_another(member: str, other: str) -> None:
    """What was read once is remembered, by all that it says and the asset that it spends."""
    offer = evm_requirement()
    payload = EvmPayer().pay(offer).payload
    part = {member: other}
    changed = payload | (part if member == "signature" else {"authorization": payload["authorization"] | part})
    first = exact_evm.read_payload(payload, evm_asset())
    assert exact_evm.read_payload(payload, evm_asset()) == first
    assert exact_evm.read_payload(changed, evm_asset()) != first
    elsewhere = networks.get(networks.BASE).usd
    assert exact_evm.read_payload(payload, elsewhere).asset == elsewhere
    payload["authorization"]["value"] = "8"
    assert exact_evm.read_payload(payload, evm_asset()).amount == 8


def test_build_pays_exactly_and_dies_soon() -> None:
    payer, requirement = EvmPayer(), evm_requirement(amount=777, max_timeout_seconds=10**9)
    auth = exact_evm.build(requirement, payer.address.lower(), now=1000, nonce=b"n" * 32, lifetime_seconds=300)
    assert (auth.payer, auth.payee, auth.value) == (payer.address, requirement.pay_to, 777)
    assert (auth.valid_after, auth.valid_before) == (0, 1300)
    brief = evm_requirement(max_timeout_seconds=60)
    assert exact_evm.build(brief, payer.address, now=1000, nonce=b"n" * 32, lifetime_seconds=300).valid_before == 1060
    with pytest.raises(ValueError, match="32 bytes"):
        exact_evm.build(requirement, payer.address, now=0, nonce=b"short", lifetime_seconds=300)
    with pytest.raises(MalformedError):
        exact_evm.build(evm_requirement(pay_to="0x1"), payer.address, now=0, nonce=b"n" * 32, lifetime_seconds=300)


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"asset": "0x" + "11" * 20}, "unknown_asset"),
        ({"network": "eip155:31337"}, "unknown_asset"),
        ({"network": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"}, "unknown_asset"),
        ({"extra": {"name": "USD Coin", "version": "2"}}, "eip712_domain_mismatch"),
        ({"extra": {"name": "USDC", "version": "1"}}, "eip712_domain_mismatch"),
        ({"extra": {"name": "USDC", "version": "2", "assetTransferMethod": "permit2"}}, "unsupported_transfer_method"),
    ],
)
def test_D08_D09_only_pinned_assets_are_paid_in(members: dict[str, Any], code: str) -> None:
    with pytest.raises(DeclinedError) as declined:
        exact_evm.payable_asset(evm_requirement(**members))
    assert declined.value.code == code


def test_base_has_its_own_domain_name() -> None:
    base = networks.get("base").usd
    offer = evm_requirement(network="eip155:8453", asset=base.address, extra={"name": "USD Coin", "version": "2"})
    assert exact_evm.payable_asset(offer).eip712_name == "USD Coin"


# What proves that money moved (fault A15).

AUTH = Authorization(address(), address(), 1000, 0, 2**40, b"\x07" * 32)
SIGNED = SignedAuthorization(AUTH, bytes(65), evm_asset())


def word(text: str) -> str:
    """An address as an event topic."""
    return "0x" + eip712.address_word(text).hex()


def used(auth: Authorization = AUTH, contract: str = "") -> Log:
    """The token's `AuthorizationUsed`."""
    topics = SignedAuthorization(auth, b"", evm_asset()).used_topics()
    return Log(contract or evm_asset().address, topics, "0x")


def transfer(payer: str = "", payee: str = "", value: int = 1000, contract: str = "") -> Log:
    """The token's `Transfer`."""
    topics = (TRANSFER_TOPIC, word(payer or AUTH.payer), word(payee or AUTH.payee))
    return Log(contract or evm_asset().address, topics, "0x" + eip712.uint256(value).hex())


def receipt(*logs: Log, succeeded: bool = True) -> EvmReceipt:
    """A mined transaction that emitted `logs`."""
    return EvmReceipt("0x" + "ab" * 32, succeeded, 7, logs)


def test_A15_control_the_two_events_prove_it() -> None:
    assert exact_evm.moved(receipt(used(), transfer()), SIGNED)
    shouted = Log(transfer().address.upper().replace("0X", "0x"), transfer().topics, transfer().data.upper())
    assert not exact_evm.moved(receipt(used(), Log(shouted.address, shouted.topics, "junk")), SIGNED)
    loud = Log(evm_asset().address.lower(), tuple("0x" + topic[2:].upper() for topic in used().topics), "0x")
    upper = Log(transfer().address, transfer().topics, "0x" + transfer().data[2:].upper())
    assert exact_evm.moved(receipt(loud, upper), SIGNED)


@pytest.mark.parametrize(
    "logs",
    [
        (),
        (used(),),
        (transfer(),),
        (transfer(), used()),
        (used(), transfer(payee=address())),
        (used(), transfer(payer=address())),
        (used(), transfer(value=999)),
        (used(), transfer(value=1001)),
        (used(), transfer(contract=address())),
        (used(contract=address()), transfer()),
        (used(contract=address()), transfer(contract=address())),
        (used(Authorization(AUTH.payer, AUTH.payee, 1000, 0, 2**40, b"\x08" * 32)), transfer()),
        (used(Authorization(address(), AUTH.payee, 1000, 0, 2**40, AUTH.nonce)), transfer()),
        (used(), transfer(value=1), transfer()),
        (used(), Log(evm_asset().address, (*transfer().topics, "0x" + "00" * 32), transfer().data)),
        (used(), Log(evm_asset().address, transfer().topics, transfer().data + "00" * 32)),
        (used(), Log(evm_asset().address, (), "0x"), transfer()),
    ],
)
def test_A15_anything_less_proves_nothing(logs: tuple[Log, ...]) -> None:
    assert not exact_evm.moved(receipt(*logs), SIGNED)


def test_A15_a_failed_transaction_moved_nothing() -> None:
    assert not exact_evm.moved(receipt(used(), transfer(), succeeded=False), SIGNED)


def test_A15_other_contracts_between_the_two_events_do_not_matter() -> None:
    noise = Log(address(), transfer().topics, transfer().data)
    assert exact_evm.moved(receipt(noise, used(), noise, transfer(), noise), SIGNED)


def test_A15_each_payment_of_a_batch_needs_its_own_transfer() -> None:
    twin = Authorization(AUTH.payer, AUTH.payee, 1000, 0, 2**40, b"\x09" * 32)
    both = receipt(used(), transfer(), used(twin), transfer())
    one = receipt(used(), transfer(), used(twin))
    for auth, batch, expected in ((AUTH, both, True), (twin, both, True), (AUTH, one, True), (twin, one, False)):
        assert exact_evm.moved(batch, SignedAuthorization(auth, bytes(65), evm_asset())) is expected


@pytest.mark.parametrize("missing", ["from", "to", "value", "validAfter", "validBefore", "nonce"])
def test_every_member_is_required(missing: str) -> None:
    payload = EvmPayer().pay(evm_requirement()).payload
    fields = {name: value for name, value in payload["authorization"].items() if name != missing}
    for broken in (fields, fields | {missing: None}, fields | {missing: 5}, fields | {missing: ""}):
        with pytest.raises(RefusedError) as refused:
            exact_evm.read_payload(payload | {"authorization": broken}, evm_asset())
        assert refused.value.code == "invalid_payload"

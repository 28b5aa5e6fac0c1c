"""Scheme upto on EVM networks: what is signed, read and called, against eth-account, eth-abi and the vectors."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import coincurve
import pytest
from eth_abi.abi import encode
from eth_account.messages import _hash_eip191_message, encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from tests.payments import EvmPayer, address, evm_asset, upto_requirement, with_payload
from x402.chain import CallResult, EvmCall, EvmReceipt, Log
from x402.errors import DeclinedError, RefusedError
from x402.networks import BASE, PERMIT2, SOLANA_DEVNET, UPTO_PERMIT2_PROXY
from x402.schemes import eip712, gas_sponsoring, upto_evm, upto_evm_rules
from x402.schemes.evm_payment import TRANSFER_TOPIC, Funds, topic_of
from x402.schemes.subject import subject_of
from x402.schemes.upto_evm import Permit, SignedPermit

NOW = 1_800_000_000
VECTOR = json.loads((Path(__file__).parents[2] / "fixtures" / "evm_upto.json").read_text())["vectors"][0]
PAYER, FACILITATOR = EvmPayer(), address()
OFFER = upto_requirement(FACILITATOR, amount=1000)
PERMIT = upto_evm.build(OFFER, PAYER.address, now=NOW, nonce=b"n" * 32, lifetime_seconds=300)
PAYMENT = PAYER.sign_permit(OFFER, PERMIT)
SETTLE = "settle(((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)"
WITH_PERMIT = SETTLE.replace("settle(", "settleWithPermit((uint256,uint256,bytes32,bytes32,uint8),")

numbers = st.integers(0, 2**256 - 1)
addresses = st.binary(min_size=20, max_size=20).map(lambda raw: eip712.checksum("0x" + raw.hex()))
PERMITS = st.builds(Permit, addresses, addresses, numbers, addresses, addresses, numbers, numbers, numbers)


def typed(permit: Permit) -> dict[str, Any]:
    """The same permit as everybody else writes it."""
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "PermitWitnessTransferFrom": [
                {"name": "permitted", "type": "TokenPermissions"},
                {"name": "spender", "type": "address"},
                {"name": "nonce", "type": "uint256"},
                {"name": "deadline", "type": "uint256"},
                {"name": "witness", "type": "Witness"},
            ],
            "TokenPermissions": [{"name": "token", "type": "address"}, {"name": "amount", "type": "uint256"}],
            "Witness": [
                {"name": "to", "type": "address"},
                {"name": "facilitator", "type": "address"},
                {"name": "validAfter", "type": "uint256"},
            ],
        },
        "primaryType": "PermitWitnessTransferFrom",
        "domain": {"name": "Permit2", "chainId": 84532, "verifyingContract": PERMIT2},
        "message": {
            "permitted": {"token": permit.token, "amount": permit.maximum},
            "spender": permit.spender,
            "nonce": permit.nonce,
            "deadline": permit.deadline,
            "witness": {"to": permit.payee, "facilitator": permit.facilitator, "validAfter": permit.valid_after},
        },
    }


@given(PERMITS)
def test_the_digest_is_everybody_elses(permit: Permit) -> None:
    assert permit.digest(84532) == _hash_eip191_message(encode_typed_data(full_message=typed(permit)))


@given(PERMITS, st.integers(0, 2**256 - 1), st.binary(min_size=1, max_size=200))
def test_the_call_is_the_abi_s(permit: Permit, units: int, signature: bytes) -> None:
    signed = SignedPermit(permit, signature, evm_asset(), units)
    kinds = ["((address,uint256),uint256,uint256)", "uint256", "address", "(address,address,uint256)", "bytes"]
    made = signature
    if len(signature) == 65 and signature[64] < 27:
        made = signature[:64] + bytes([signature[64] + 27])
    values = [
        ((permit.token, permit.maximum), permit.nonce, permit.deadline),
        units,
        permit.payer,
        (permit.payee, permit.facilitator, permit.valid_after),
        made,
    ]
    assert signed.calldata() == eip712.keccak(SETTLE.encode())[:4] + encode(kinds, values)
    sponsor = gas_sponsoring.Sponsorship(
        permit.payer, permit.maximum, 3, permit.deadline, b"r" * 32 + b"s" * 32 + b"\1"
    )
    kinds.insert(0, "(uint256,uint256,bytes32,bytes32,uint8)")
    values.insert(0, (permit.maximum, permit.deadline, b"r" * 32, b"s" * 32, 28))
    call = eip712.keccak(WITH_PERMIT.encode())[:4] + encode(kinds, values)
    assert replace(signed, sponsorship=sponsor).calldata() == call


@given(PERMITS)
def test_what_travels_is_read_back(permit: Permit) -> None:
    payload = upto_evm.payload(permit, evm_asset(), lambda digest: eip712.sign(PAYER.key, digest))
    signed = upto_evm.read_payload(payload, evm_asset())
    assert signed.permit == permit
    assert signed.amount == permit.maximum
    assert signed.recovered == PAYER.address
    assert signed.pay_id == f"{evm_asset().network}:{PERMIT2}:{permit.payer}:0x{permit.nonce:064x}".lower()


@given(st.one_of(st.none(), st.integers(), st.text(), st.dictionaries(st.text(), st.text())), st.sampled_from(
    ["signature", "permit2Authorization", "from", "permitted", "spender", "nonce", "deadline", "witness"]
))  # fmt: skip
def test_A13_junk_is_refused_with_a_reason(junk: Any, member: str) -> None:
    payload: dict[str, Any] = json.loads(json.dumps(PAYMENT.payload))
    inside = payload if member in payload else payload["permit2Authorization"]
    inside[member] = junk
    with suppress(RefusedError):
        upto_evm.read_payload(payload, evm_asset())


def test_vector_the_permit_is_signed_as_the_sdks_sign_it() -> None:
    asked, expected = VECTOR["input"], VECTOR["expected"]
    message, key = asked["message"], coincurve.PrivateKey.from_hex(asked["privateKey"][2:])
    made = gas_sponsoring.sign(
        message["owner"], message["value"], message["nonce"], message["deadline"], evm_asset(),
        lambda digest: eip712.sign(key, digest),
    )  # fmt: skip
    info = made[gas_sponsoring.EXTENSION]["info"]
    assert info["signature"] == expected["signature"]
    read = gas_sponsoring.read(made, evm_asset(), message["owner"], message["value"])
    assert read is not None
    assert "0x" + read.digest(evm_asset()).hex() == expected["digest"]


def reason(payment: Any, offer: Any = OFFER, now: int = NOW, *, settling: bool = False) -> str:
    """The code with which a payment is refused, `""` when it passes."""
    try:
        upto_evm_rules.check(payment, offer, now=now, settling=settling)
    except RefusedError as refused:
        return refused.code
    return ""


def changed(inside: str = "", **members: Any) -> Any:
    """The payment with other members in its permit, under the old signature."""
    authorization = json.loads(json.dumps(PAYMENT.payload["permit2Authorization"]))
    (authorization[inside] if inside else authorization).update(members)
    return with_payload(PAYMENT, permit2Authorization=authorization)


@pytest.mark.parametrize(
    ("payment", "code"),
    [
        (PAYMENT, ""),
        (PAYMENT.model_copy(update={"scheme": "exact"}), "invalid_upto_evm_scheme"),
        (PAYMENT.model_copy(update={"network": BASE}), "invalid_upto_evm_network_mismatch"),
        (changed(spender=PERMIT2), "invalid_permit2_spender"),
        (changed("witness", to=address()), "invalid_permit2_recipient_mismatch"),
        (changed("witness", facilitator="me"), "invalid_permit2_payload_format"),
        (changed(nonce="0x01"), "invalid_permit2_payload_format"),
        (changed(deadline=str(NOW + 5)), "permit2_deadline_expired"),
        (changed("witness", validAfter=str(NOW + 1)), "permit2_not_yet_valid"),
        (changed("permitted", amount="999"), "permit2_amount_mismatch"),
        (changed("permitted", amount="1001"), "permit2_amount_mismatch"),
        (changed("permitted", token=address()), "permit2_token_mismatch"),
        (with_payload(PAYMENT, signature="0x" + "6492" * 16), "eip6492_factory_not_allowed"),
        (with_payload(PAYMENT, permit2Authorization={"witness": {}}), "unsupported_payload_type"),
        (changed(**{"from": OFFER.pay_to}), "invalid_upto_evm_payload_self_transfer"),
    ],
)
def test_every_rule_has_its_reason(payment: Any, code: str) -> None:
    assert reason(payment) == code


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"network": SOLANA_DEVNET}, "invalid_upto_evm_network_mismatch"),
        ({"asset": address()}, "asset_not_deployed_contract"),
        ({"extra": {}}, "invalid_payment_requirements"),
        ({"extra": OFFER.extra | {"name": "Fake"}}, "invalid_payment_requirements"),
        ({"pay_to": "nobody"}, "invalid_payment_requirements"),
    ],
)
def test_an_offer_that_is_none_is_the_sellers_fault(members: dict[str, Any], code: str) -> None:
    assert reason(PAYMENT, OFFER.model_copy(update=members)) == code


def test_B16_what_is_settled_is_at_most_what_was_signed() -> None:
    for units in (0, 1, 999, 1000):
        offer = OFFER.model_copy(update={"amount": units})
        assert upto_evm_rules.check(PAYMENT, offer, now=NOW, settling=True).amount == units
        assert reason(PAYMENT, offer) == ("" if units == 1000 else "permit2_amount_mismatch")
    more = OFFER.model_copy(update={"amount": 1001})
    assert reason(PAYMENT, more, settling=True) == "invalid_upto_evm_payload_settlement_exceeds_amount"
    # What was signed is the maximum, whatever is taken of it.
    assert subject_of(PAYMENT, OFFER).amount == 1000


@pytest.mark.parametrize(
    ("revert", "funds", "code"),
    [
        ("execution reverted 0x756688fe", Funds(), "permit2_invalid_nonce"),
        ("execution reverted: custom error InvalidSigner()", Funds(), "invalid_permit2_signature"),
        ("TRANSFER_FROM_FAILED", Funds(1000, 999), "permit2_allowance_required"),
        ("TRANSFER_FROM_FAILED", Funds(999, 1000), "permit2_insufficient_balance"),
        ("TRANSFER_FROM_FAILED", Funds(1000, 1000), "invalid_upto_evm_transaction_failed"),
        ("", Funds(), "invalid_upto_evm_transaction_failed"),
    ],
)
def test_a_simulation_that_fails_names_its_reason(revert: str, funds: Funds, code: str) -> None:
    signed = upto_evm_rules.check(PAYMENT, OFFER, now=NOW)
    with pytest.raises(RefusedError) as refused:
        upto_evm_rules.judge_simulation(signed, CallResult(False, revert=revert), funds)
    assert refused.value.code == code
    upto_evm_rules.judge_simulation(signed, CallResult(True), funds)


def receipt(units: int, **members: Any) -> EvmReceipt:
    log = Log(evm_asset().address, (TRANSFER_TOPIC, topic_of(PERMIT.payer), topic_of(PERMIT.payee)), f"0x{units:064x}")
    shape: dict[str, Any] = {"transaction": "0x1", "succeeded": True, "block": 1, "logs": (log,)}
    return EvmReceipt(**(shape | members))


def test_A15_a_transfer_counts_only_with_the_call_that_names_this_payment() -> None:
    signed = upto_evm_rules.read(PAYMENT, OFFER.model_copy(update={"amount": 40}))
    call = EvmCall(UPTO_PERMIT2_PROXY.lower(), signed.calldata())
    assert signed.moved(receipt(40), call) == 40
    other = SignedPermit(replace(PERMIT, nonce=PERMIT.nonce + 1), signed.signature, evm_asset(), 40)
    for wrong, what in (
        (receipt(41), call),
        (receipt(40, succeeded=False), call),
        (receipt(40, logs=()), call),
        (receipt(40), None),
        (receipt(40), EvmCall(address(), signed.calldata())),
        (receipt(40), EvmCall(UPTO_PERMIT2_PROXY, other.calldata())),
        (receipt(40), EvmCall(UPTO_PERMIT2_PROXY, b"")),
        (receipt(40), EvmCall(UPTO_PERMIT2_PROXY, signed.calldata()[:100])),
    ):
        assert signed.moved(wrong, what) is None


@given(st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1))
def test_a_nonce_is_a_bit_of_a_word(nonce: int, word: int) -> None:
    signed = SignedPermit(replace(PERMIT, nonce=nonce), b"", evm_asset(), 1)
    assert signed.is_spent(word) == bool(word & (1 << nonce % 256))
    contract, call = signed.spent_call()
    assert contract == PERMIT2
    assert call[-32:] == (nonce // 256).to_bytes(32, "big")
    assert signed.gives_up(Log(PERMIT2, (), f"0x{nonce // 256:064x}{1 << nonce % 256:064x}"))
    assert not signed.gives_up(Log(PERMIT2, (), f"0x{nonce // 256:064x}{0:064x}"))


def test_an_offer_without_a_facilitator_is_not_signed() -> None:
    with pytest.raises(DeclinedError):
        upto_evm.build(
            OFFER.model_copy(update={"extra": OFFER.extra | {"facilitatorAddress": ""}}),
            PAYER.address, now=NOW, nonce=b"n" * 32, lifetime_seconds=1,
        )  # fmt: skip
    with pytest.raises(ValueError, match="32 bytes"):
        upto_evm.build(OFFER, PAYER.address, now=NOW, nonce=b"n", lifetime_seconds=1)

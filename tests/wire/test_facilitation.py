"""What gateway and facilitator say to each other (faults A03, F14, F18)."""

from __future__ import annotations

from typing import Any

import pytest

from x402.errors import MalformedError
from x402.wire.challenge import Requirement, Resource
from x402.wire.facilitation import (
    Facilitation,
    Kind,
    Supported,
    Verification,
    parse_facilitation,
    parse_supported,
    parse_verification,
)
from x402.wire.payment import Payment

OFFER: dict[str, Any] = {
    "scheme": "exact",
    "network": "eip155:84532",
    "amount": "10000",
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}
OLD_OFFER = {
    "scheme": "exact",
    "network": "base-sepolia",
    "maxAmountRequired": "10000",
    "resource": "https://api.example.com/report",
    "description": "the report",
    "mimeType": "",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "maxTimeoutSeconds": 60,
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "extra": {"name": "USDC", "version": "2"},
}
INNER = {"signature": "0x2d6a"}
NEW: dict[str, Any] = {
    "x402Version": 2,
    "paymentPayload": {"x402Version": 2, "accepted": OFFER, "payload": INNER},
    "paymentRequirements": OFFER,
}
OLD: dict[str, Any] = {
    "x402Version": 1,
    "paymentPayload": {"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": INNER},
    "paymentRequirements": OLD_OFFER,
}
REQUIREMENT = Requirement.model_validate(OFFER | {"amount": 10_000})


def without(message: dict[str, Any], *path: str) -> dict[str, Any]:
    head, *tail = path
    if tail:
        return {**message, head: without(message[head], *tail)}
    return {name: member for name, member in message.items() if name != head}


@pytest.mark.parametrize(
    ("message", "version"),
    [
        (NEW, 2),
        (OLD, 1),
        (without(NEW, "x402Version"), 2),
        (without(OLD, "x402Version"), 1),
        (without(NEW, "paymentPayload", "x402Version"), 2),
        (without(OLD, "paymentPayload", "x402Version"), 1),
        (without(without(NEW, "x402Version"), "paymentPayload", "x402Version"), 2),
        ({**NEW, "paymentRequirements": OLD_OFFER}, 2),
        ({**OLD, "paymentRequirements": OFFER}, 1),
    ],
)
def test_F14_both_versions_and_mixtures_are_one_shape_inside(message: dict[str, Any], version: int) -> None:
    facilitation = parse_facilitation(message)
    assert facilitation.payment.version == version
    assert facilitation.payment.payload == INNER
    assert facilitation.payment.network == "eip155:84532"
    assert facilitation.requirement == REQUIREMENT


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({**NEW, "x402Version": 1}, "invalid_x402_version"),
        ({**OLD, "x402Version": 2}, "invalid_x402_version"),
        ({**NEW, "x402Version": 3}, "invalid_x402_version"),
        ({**NEW, "x402Version": "2"}, "invalid_x402_version"),
        (without(NEW, "paymentPayload"), "invalid_payload"),
        ({**NEW, "paymentPayload": []}, "invalid_payload"),
        ({**NEW, "paymentPayload": {}}, "invalid_payload"),
        ({**NEW, "paymentPayload": "e30="}, "invalid_payload"),
        (without(NEW, "paymentRequirements"), "invalid_payment_requirements"),
        ({**NEW, "paymentRequirements": None}, "invalid_payment_requirements"),
        ({**NEW, "paymentRequirements": {}}, "invalid_payment_requirements"),
        ({**NEW, "paymentRequirements": {**OFFER, "amount": 10_000}}, "invalid_payment_requirements"),
        ({**NEW, "paymentRequirements": {**OFFER, "maxAmountRequired": "1"}}, "invalid_payment_requirements"),
        ({**NEW, "paymentRequirements": {**OFFER, "extra": "["}}, "invalid_payment_requirements"),
        ({**OLD, "paymentRequirements": {**OLD_OFFER, "resource": "u" * 5_000}}, "invalid_payment_requirements"),
        ({}, "invalid_payload"),
        ([], "invalid_payload"),
        (None, "invalid_payload"),
        ("text", "invalid_payload"),
    ],
)
def test_a_malformed_body_gets_a_typed_refusal(message: object, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_facilitation(message)
    assert caught.value.code == code
    assert caught.value.status == 400


def test_each_version_goes_out_as_it_came_in() -> None:
    assert parse_facilitation(NEW).as_json() == NEW
    assert parse_facilitation(OLD).as_json() == OLD


def test_a_v1_facilitator_hears_of_the_resource_in_the_offer() -> None:
    payment = Payment(
        version=1, scheme="exact", network="eip155:84532", payload=INNER, resource=Resource(url="https://a")
    )
    sent = Facilitation(payment=payment, requirement=REQUIREMENT).as_json()
    assert sent["paymentRequirements"]["resource"] == "https://a"
    assert "resource" not in sent["paymentPayload"]
    assert parse_facilitation(sent).payment.resource == Resource(url="https://a")


@pytest.mark.parametrize(
    "message",
    [
        {}, {"isValid": "true"}, {"isValid": 1}, {"isValid": None}, {"is_valid": True}, {"isValid": [True]},
        {"isValid": True, "payer": 5}, {"isValid": False, "invalidReason": {}}, [], [{"isValid": True}], "true", None,
    ],
    ids=str,
)  # fmt: skip
def test_A03_only_a_json_boolean_is_a_verdict(message: object) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_verification(message)
    assert caught.value.code == "invalid_verification"


def test_A03_valid_with_a_reason_for_refusal_is_not_valid() -> None:
    verification = parse_verification({"isValid": True, "invalidReason": "insufficient_funds", "payer": "0x857b"})
    assert not verification.is_valid
    assert verification.invalid_reason == "insufficient_funds"


@pytest.mark.parametrize(
    "message",
    [
        {"isValid": True},
        {"isValid": True, "payer": "0x857b", "invalidReason": None, "invalidMessage": None, "extra": None},
        {"isValid": True, "payer": "0x857b", "invalidReason": "", "unknown": [1]},
    ],
)
def test_A03_control_a_plain_verdict_is_believed(message: dict[str, Any]) -> None:
    assert parse_verification(message).is_valid


def test_verdicts_go_out_without_nulls() -> None:
    assert Verification.valid("0x857b").as_json() == {"isValid": True, "payer": "0x857b"}
    invalid = Verification.invalid("insufficient_funds", "m" * 900)
    assert invalid.as_json() == {
        "isValid": False, "invalidReason": "insufficient_funds", "invalidMessage": "m" * 500
    }  # fmt: skip
    assert parse_verification(invalid.as_json()) == invalid


SUPPORTED: dict[str, Any] = {
    "kinds": [
        {"x402Version": 1, "scheme": "exact", "network": "base-sepolia"},
        {"x402Version": 2, "scheme": "exact", "network": "eip155:*"},
        {
            "x402Version": 2,
            "scheme": "exact",
            "network": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
            "extra": {"feePayer": "9h"},
        },
    ],
    "extensions": ["bazaar"],
    "signers": {"eip155:*": ["0xaa"]},
}


def test_supported_is_read_and_written() -> None:
    supported = parse_supported(SUPPORTED)
    assert supported.as_json() == SUPPORTED
    assert parse_supported({"kinds": []}) == Supported()
    nulls = {
        "kinds": [{"x402Version": None, "scheme": "exact", "network": "base", "extra": None}],
        "extensions": None,
        "signers": None,
    }
    assert parse_supported(nulls).kinds == (Kind(scheme="exact", network="base"),)


def test_find_prefers_v2_and_knows_wildcards_and_v1_names() -> None:
    supported = parse_supported(SUPPORTED)
    assert supported.find("exact", "eip155:84532") == supported.kinds[1]
    assert supported.find("exact", "eip155:1") == supported.kinds[1]
    fee_payer = supported.find("exact", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1")
    assert fee_payer is not None
    assert fee_payer.extra == {"feePayer": "9h"}
    assert supported.find("upto", "eip155:84532") is None
    assert supported.find("exact", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp") is None
    old = parse_supported({"kinds": SUPPORTED["kinds"][:1]})
    assert old.find("exact", "eip155:84532") == old.kinds[0]


def test_a_kind_of_a_later_version_does_not_spoil_the_others() -> None:
    later = {"x402Version": 3, "scheme": "exact", "network": "eip155:84532"}
    odd = [later, {"scheme": "exact"}, None, 5, {"scheme": "", "network": "base"}]
    supported = parse_supported({**SUPPORTED, "kinds": odd + SUPPORTED["kinds"]})
    assert supported == parse_supported(SUPPORTED)


@pytest.mark.parametrize(
    "message",
    [
        {}, {"kinds": None}, {"kinds": {}}, {"kinds": [5]}, {"kinds": [{"scheme": "exact"}]}, {"kinds": "all"},
        {"kinds": [], "extensions": "bazaar"}, {"kinds": [], "extensions": [5]}, {"kinds": [], "signers": []},
        {"kinds": [], "signers": {"a": "b"}}, {"kinds": [], "signers": {"a": [1]}}, [], "x", None, 5,
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_supported_answer_is_refused(message: object) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_supported(message)
    assert caught.value.code == "invalid_supported"


def test_E04_a_refusal_never_repeats_a_long_name_of_the_sender() -> None:
    with pytest.raises(MalformedError) as caught:
        parse_supported({"kinds": [], "signers": {"s" * 5_000: 5}})
    assert len(str(caught.value)) < 300
    assert len(str(caught.value.details)) < 300

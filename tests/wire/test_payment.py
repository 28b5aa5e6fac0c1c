"""Payment headers of both versions (faults E04, F07, F08, F13, F14)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from x402.errors import MalformedError
from x402.wire.challenge import Requirement, Resource
from x402.wire.headers import PAYMENT_SIGNATURE, X_PAYMENT, encode_header
from x402.wire.payment import Payment, parse_payment, read_payment

OFFER: dict[str, Any] = {
    "scheme": "exact",
    "network": "eip155:84532",
    "amount": "10000",
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}
INNER = {"signature": "0x2d6a", "authorization": {"from": "0x857b", "value": "10000"}}
NEW: dict[str, Any] = {"x402Version": 2, "accepted": OFFER, "payload": INNER}
OLD: dict[str, Any] = {"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": INNER}


def sent(name: str, message: object) -> Payment:
    value = base64.b64encode(json.dumps(message).encode()).decode()
    payment = read_payment([(name, value)])
    assert payment is not None
    return payment


def refusal(name: str, message: object) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        sent(name, message)
    assert caught.value.status == 400
    return caught.value


def test_a_v2_payment() -> None:
    payment = sent(
        PAYMENT_SIGNATURE, NEW | {"resource": {"url": "https://a.example"}, "extensions": {"k": {"info": {}}}}
    )
    assert (payment.version, payment.scheme, payment.network) == (2, "exact", "eip155:84532")
    assert payment.payload == INNER
    assert payment.accepted == Requirement.model_validate(OFFER | {"amount": 10_000})
    assert payment.resource == Resource(url="https://a.example")
    assert payment.extensions == {"k": {"info": {}}}
    assert payment.header_name == PAYMENT_SIGNATURE


def test_a_v1_payment() -> None:
    payment = sent(X_PAYMENT, OLD)
    assert (payment.version, payment.scheme, payment.network) == (1, "exact", "eip155:84532")
    assert payment.payload == INNER
    assert payment.accepted is None
    assert payment.header_name == X_PAYMENT
    assert payment.as_json() == OLD


def test_a_payment_of_an_offer_goes_out_without_nulls() -> None:
    requirement = Requirement.model_validate(OFFER | {"amount": 10_000})
    payment = Payment.of(requirement, INNER, resource=Resource(url="u"))
    assert payment.as_json() == {**NEW, "resource": {"url": "u"}}
    assert sent(payment.header_name, payment.as_json()) == payment


@pytest.mark.parametrize(
    ("name", "message", "reads"),
    [
        (PAYMENT_SIGNATURE, NEW, 2),
        (X_PAYMENT, OLD, 1),
        (PAYMENT_SIGNATURE, {**NEW, "x402Version": None}, 2),
        (X_PAYMENT, {name: value for name, value in OLD.items() if name != "x402Version"}, 1),
        (PAYMENT_SIGNATURE, {**NEW, "scheme": "upto", "network": "solana"}, 2),
        (X_PAYMENT, {**OLD, "accepted": {**OFFER, "amount": "1"}, "payTo": "0xevil"}, 1),
    ],
)
def test_F14_control_each_version_in_its_own_header(name: str, message: object, reads: int) -> None:
    payment = sent(name, message)
    assert payment.version == reads
    assert (payment.scheme, payment.network) == ("exact", "eip155:84532")
    assert (payment.accepted is None) == (reads == 1)


@pytest.mark.parametrize(
    ("name", "message", "code"),
    [
        (PAYMENT_SIGNATURE, OLD, "invalid_x402_version"),
        (X_PAYMENT, NEW, "invalid_x402_version"),
        (PAYMENT_SIGNATURE, {**OLD, "x402Version": 2}, "invalid_payload"),
        (X_PAYMENT, {**NEW, "x402Version": 1}, "invalid_payload"),
        (PAYMENT_SIGNATURE, {**NEW, "x402Version": 3}, "invalid_x402_version"),
        (PAYMENT_SIGNATURE, {**NEW, "x402Version": "2"}, "invalid_x402_version"),
        (PAYMENT_SIGNATURE, {**NEW, "x402Version": True}, "invalid_x402_version"),
        (PAYMENT_SIGNATURE, {**NEW, "x402Version": 2.0}, "invalid_x402_version"),
    ],
)
def test_F14_a_version_in_the_wrong_place_is_refused(name: str, message: object, code: str) -> None:
    assert refusal(name, message).code == code


def test_F14_one_payment_over_v1_and_v2_holds_the_same_signed_bytes() -> None:
    new, old = sent(PAYMENT_SIGNATURE, NEW), sent(X_PAYMENT, OLD)
    assert (new.scheme, new.network, new.payload) == (old.scheme, old.network, old.payload)


@pytest.mark.parametrize(
    ("member", "value", "says"),
    [
        ("accepted", None, "accepted"), ("accepted", [], "accepted"), ("accepted", "exact", "accepted"),
        ("accepted", {}, "amount"), ("accepted", {**OFFER, "amount": "-1"}, "amount"),
        ("accepted", {**OFFER, "amount": "1", "maxAmountRequired": "2"}, "contradict"),
        ("accepted", {**OFFER, "extra": "{"}, "accepted"), ("accepted", {**OFFER, "network": None}, "network"),
        ("accepted", {**OFFER, "payTo": 1}, "accepted.payTo"), ("payload", None, "payload"), ("payload", {}, "payload"),
        ("payload", [], "payload"), ("payload", "0x", "payload"), ("resource", "https://a", "resource"),
        ("resource", {"description": "no url"}, "resource.url"), ("extensions", [], "extensions"),
        ("extensions", "x", "extensions"),
    ],
)  # fmt: skip
def test_a_wrong_member_of_v2_is_named(member: str, value: object, says: str) -> None:
    error = refusal(PAYMENT_SIGNATURE, {**NEW, member: value})
    assert error.code == "invalid_payload"
    assert says in error.message


@pytest.mark.parametrize(
    ("member", "value"),
    [("scheme", None), ("scheme", ""), ("scheme", 1), ("network", None), ("network", []), ("payload", None),
     ("payload", {}), ("payload", "0x")],
)  # fmt: skip
def test_a_wrong_member_of_v1_is_named(member: str, value: object) -> None:
    error = refusal(X_PAYMENT, {**OLD, member: value})
    assert error.code == "invalid_payload"
    assert member in error.message


@pytest.mark.parametrize("message", [[], [NEW], "text", 5, None, True])
@pytest.mark.parametrize("name", [PAYMENT_SIGNATURE, X_PAYMENT])
def test_what_is_no_object_is_refused(name: str, message: object) -> None:
    refusal(name, message)
    with pytest.raises(MalformedError):
        parse_payment(message)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "e30=\n",
        "%%%",
        "solana:5VERv8NMvzbJMEkV8xnrLkEaWRtSz9CosKDYjCJjBRnb",
        "bnVsbA==",
        "eyJhIjoxLCJhIjoxfQ==",
    ],
)
@pytest.mark.parametrize("name", [PAYMENT_SIGNATURE, X_PAYMENT])
def test_F07_F08_an_unreadable_payment_is_an_error_never_absent(name: str, value: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read_payment([(name, value)])
    assert caught.value.code == "invalid_payload"


def test_F07_another_spelling_of_the_base64_is_the_same_payment_or_none() -> None:
    value = encode_header(NEW | {"resource": {"url": "https://a.example/~~~???"}})
    assert value.endswith("=")
    assert read_payment([(PAYMENT_SIGNATURE, value.rstrip("="))]) == read_payment([(PAYMENT_SIGNATURE, value)])
    for other in (value + "=", value[:9] + "\n" + value[9:], value.replace("+", "-").replace("/", "_") + "!"):
        with pytest.raises(MalformedError):
            read_payment([(PAYMENT_SIGNATURE, other)])


def test_F13_a_v1_name_means_its_caip2_network_in_both_directions() -> None:
    for name, caip2 in (("base", "eip155:8453"), ("solana", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp")):
        payment = sent(X_PAYMENT, {**OLD, "network": name})
        assert payment.network == caip2
        assert payment.as_json()["network"] == name
    assert sent(X_PAYMENT, {**OLD, "network": "eip155:84532"}).network == "eip155:84532"


def test_E04_a_payment_nested_too_deeply_is_refused() -> None:
    deep: Any = "end"
    for _ in range(25):
        deep = {"a": deep}
    assert "nested too deeply" in refusal(PAYMENT_SIGNATURE, {**NEW, "extensions": deep}).message

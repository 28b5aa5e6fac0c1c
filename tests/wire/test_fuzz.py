"""Twenty thousand damaged messages: every decoder answers or raises `MalformedError`, nothing else (faults E04, F08).

A case is a short tape of bytes that Hypothesis draws; the tape decides which valid message is damaged, where and how.
Tapes cost far less than Hypothesis' own recursive strategies and still shrink to the few bytes that matter.
"""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from x402.errors import MalformedError
from x402.wire.challenge import BalanceEmpty, Challenge, parse_challenge, read_challenge
from x402.wire.extensions import altered, payment_identifier
from x402.wire.facilitation import parse_facilitation, parse_supported, parse_verification
from x402.wire.headers import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    X_PAYMENT,
    X_PAYMENT_RESPONSE,
    decode_header,
)
from x402.wire.payment import parse_payment, read_payment
from x402.wire.receipt import parse_receipt, read_receipt
from x402.wire.strict import decode_base64, parse_json, parse_object

OBJECT_CASES = 1_600
TEXT_CASES = 900
RAW_CASES = 600

OFFER: dict[str, Any] = {
    "scheme": "exact",
    "network": "eip155:84532",
    "amount": "10000",
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2", "decimals": [6, {"a": None}]},
}
OLD_OFFER: dict[str, Any] = {
    "scheme": "exact",
    "network": "base-sepolia",
    "maxAmountRequired": "10000",
    "resource": "https://api.example.com/report",
    "description": "the report",
    "mimeType": "application/json",
    "outputSchema": None,
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "maxTimeoutSeconds": 60,
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "extra": '{"name":"USDC","version":"2"}',
}
RESOURCE = {"url": "https://api.example.com/report", "description": "d", "mimeType": "m", "tags": ["a", "b"]}
EXTENSIONS = {
    "payment-identifier": {"info": {"required": True, "id": "pay_0123456789abcdef"}},
    "k": {"info": {"a": [1]}},
}
PAYLOAD = {"signature": "0x2d6a", "authorization": {"from": "0x857b", "value": "10000", "nonce": "0xf374"}}

CHALLENGES: list[dict[str, Any]] = [
    {"x402Version": 2, "error": "pay", "resource": RESOURCE, "accepts": [OFFER, OFFER], "extensions": EXTENSIONS},
    {"x402Version": 1, "error": "pay", "accepts": [OLD_OFFER, OLD_OFFER]},
    {"accepts": [{"network": "base", "maxAmountRequired": "1", "payTo": "p", "maxTimeoutSeconds": 1, "asset": "a"}]},
    {"error": {"message": "Insufficient balance", "type": "insufficient_balance", "code": 402, "details": {"a": "1"}}},
]
PAYMENTS: list[dict[str, Any]] = [
    {"x402Version": 2, "accepted": OFFER, "payload": PAYLOAD, "resource": RESOURCE, "extensions": EXTENSIONS},
    {"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": PAYLOAD},
]
RECEIPTS: list[dict[str, Any]] = [
    {"success": True, "transaction": "0x" + "12" * 32, "network": "eip155:84532", "payer": "0x857b", "amount": "5"},
    {"success": False, "errorReason": "insufficient_funds", "errorMessage": "m", "transaction": "", "network": "base"},
]
FACILITATIONS: list[dict[str, Any]] = [
    {"x402Version": 2, "paymentPayload": PAYMENTS[0], "paymentRequirements": OFFER},
    {"x402Version": 1, "paymentPayload": PAYMENTS[1], "paymentRequirements": OLD_OFFER},
]
VERIFICATIONS: list[dict[str, Any]] = [
    {"isValid": True, "payer": "0x857b", "extra": {"a": 1}},
    {"isValid": False, "invalidReason": "insufficient_funds", "invalidMessage": "m", "payer": "0x857b"},
]
SUPPORTED: list[dict[str, Any]] = [
    {
        "kinds": [
            {"x402Version": 2, "scheme": "exact", "network": "solana:*", "extra": {"feePayer": "9h"}},
            {"x402Version": 1, "scheme": "exact", "network": "base"},
        ],
        "extensions": ["bazaar"],
        "signers": {"eip155:*": ["0xaa"]},
    }
]

DEEP: Any = "end"
for _ in range(40):
    DEEP = [DEEP]
JUNK: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, 60, 1.5, 1e308, -0.0, 2**63, 2**256, -(10**77), "", " ", "0", "1", "-1", "01",
    "1e3", "٣", "exact", "base", "solana", "eip155:8453", "eip155:*", "lightning", "null", "{}", "[", '{"a":1,"a":2}',
    "\x00", "é😀", "n" * 600, "u" * 5_000, [], {}, [[]], {"": ""}, {"a": None}, [None], ["a"], {"info": {"id": "x"}},
    {"url": "u"}, {"x402Version": 1}, {"message": "m"}, DEEP, OFFER, OLD_OFFER,
]  # fmt: skip
NAMES = [
    "x402Version", "scheme", "network", "amount", "maxAmountRequired", "asset", "payTo", "pay_to",
    "maxTimeoutSeconds", "extra", "resource", "url", "description", "mimeType", "accepts", "accepted", "payload",
    "extensions", "error", "success", "transaction", "payer", "errorReason", "isValid", "invalidReason", "kinds",
    "signers", "paymentPayload", "paymentRequirements", "version", "unreadable", "details", "type", "message",
    "info", "id",
]  # fmt: skip
FRAGMENTS = [
    '"', "{", "}", "[", "]", ":", ",", "null", "NaN", "-Infinity", "1e999", "\\", "\\ud800", "\\u0000", "\x00",
    "\ufeff", "[" * 40, '{"a":' * 25, "9" * 90, "0" * 90, '"amount":"1",', '"x402Version":1,', '"x402Version":2,', "é",
    "😀", " ", "\n", "//", "'", "0x1", "1_0", "true", "=", "==", "%", "-", "_",
]  # fmt: skip


class Tape:
    """Choices read from bytes; an exhausted tape always chooses the first."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def below(self, limit: int) -> int:
        return (next(self._bytes, 0) * 256 + next(self._bytes, 0)) % limit if limit > 1 else 0

    def choose(self, options: Any) -> Any:
        return options[self.below(len(options))]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a message, outermost first."""
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        found += places(value[key])
    return found


def damage(message: dict[str, Any], tape: Tape) -> Any:
    """The message after one to three wounds."""
    wounded: Any = copy.deepcopy(message)
    for _ in range(1 + tape.below(3)):
        options = places(wounded)
        if not options:
            return tape.choose(JUNK)
        container, key = tape.choose(options)
        junk = copy.deepcopy(tape.choose(JUNK))
        match tape.below(8):
            case 0 | 1 | 2:
                container[key] = junk
            case 3:
                del container[key]
            case 4 if isinstance(container, dict):
                container[tape.choose(NAMES)] = container.pop(key)
            case 5:
                container[key] = [container[key]] if tape.below(2) else {tape.choose(NAMES): container[key]}
            case 6 if isinstance(container, list):
                container.append(junk)
            case 7:
                other, name = tape.choose(options)
                try:
                    container[key] = copy.deepcopy(other[name])
                except (KeyError, IndexError):
                    container[key] = junk
            case _ if isinstance(container, dict):
                container[tape.choose(NAMES)] = junk
            case _:
                return junk
    return wounded


def tear(text: str, tape: Tape) -> str:
    """The text after one to three cuts, doublings and insertions."""
    for _ in range(1 + tape.below(3)):
        start = tape.below(len(text) + 1)
        end = min(len(text), start + tape.below(30))
        match tape.below(4):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:end] + text[start:end] + text[end:]
            case 2:
                text = text[:start] + tape.choose(FRAGMENTS) + text[start:]
            case _:
                text = text[:start] + tape.choose(FRAGMENTS) + text[end:]
    return text


def again_challenge(value: Any) -> None:
    challenge = parse_challenge(value)
    read = parse_challenge(challenge.as_json())
    assert read == challenge.model_copy(update={"version": 2, "unreadable": ()})
    challenge.as_v1()


def again_payment(value: Any) -> None:
    payment = parse_payment(value)
    assert parse_payment(payment.as_json(), version=payment.version) == payment
    altered(payment.extensions, {"k": payment.payload})
    payment_identifier(payment.extensions)


def again_receipt(value: Any) -> None:
    receipt = parse_receipt(value)
    assert parse_receipt(receipt.as_json()) == receipt
    assert parse_receipt(receipt.as_v1()).outcome is receipt.outcome or receipt.amount == "0"


def again_facilitation(value: Any) -> None:
    facilitation = parse_facilitation(value)
    assert parse_facilitation(facilitation.as_json()) == facilitation


def again_verification(value: Any) -> None:
    verification = parse_verification(value)
    assert parse_verification(verification.as_json()) == verification


def again_supported(value: Any) -> None:
    supported = parse_supported(value)
    assert parse_supported(supported.as_json()) == supported
    supported.find("exact", "eip155:8453")


DECODERS: dict[str, tuple[Callable[[Any], None], list[dict[str, Any]]]] = {
    "challenge": (again_challenge, CHALLENGES),
    "payment": (again_payment, PAYMENTS),
    "receipt": (again_receipt, RECEIPTS),
    "facilitation": (again_facilitation, FACILITATIONS),
    "verification": (again_verification, VERIFICATIONS),
    "supported": (again_supported, SUPPORTED),
}


def header(text: str) -> str:
    return base64.b64encode(text.encode(errors="surrogatepass")).decode()


READERS: dict[str, tuple[Callable[[str], object], list[dict[str, Any]]]] = {
    "challenge header": (lambda text: read_challenge([(PAYMENT_REQUIRED, header(text))]), CHALLENGES[:3]),
    "challenge body": (lambda text: read_challenge([], text.encode(errors="surrogatepass")), CHALLENGES),
    "payment header": (lambda text: read_payment([(PAYMENT_SIGNATURE, header(text))]), PAYMENTS[:1]),
    "v1 payment header": (lambda text: read_payment([(X_PAYMENT, header(text))]), PAYMENTS[1:]),
    "receipt header": (lambda text: read_receipt([(PAYMENT_RESPONSE, header(text))]), RECEIPTS),
    "v1 receipt header": (lambda text: read_receipt([(X_PAYMENT_RESPONSE, header(text))]), RECEIPTS),
    "facilitation body": (lambda text: parse_facilitation(parse_object(text)), FACILITATIONS),
    "verification body": (lambda text: parse_verification(parse_json(text)), VERIFICATIONS),
    "supported body": (lambda text: parse_supported(parse_json(text)), SUPPORTED),
}


def survives(call: Callable[[], object]) -> bool:
    """True when the decoder read the input, False when it refused it; any other exception is the test's failure."""
    try:
        call()
    except MalformedError as caught:
        error = caught
    else:
        return True
    assert error.code
    assert len(error.message) < 1_200
    return False


tapes = st.binary(min_size=8, max_size=48)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", DECODERS)
@settings(relaxed, max_examples=OBJECT_CASES)
@given(data=tapes)
def test_a_damaged_object_is_read_or_refused(name: str, data: bytes) -> None:
    decode, seeds = DECODERS[name]
    tape = Tape(data)
    wounded = damage(tape.choose(seeds), tape)
    survives(lambda: decode(wounded))


@pytest.mark.parametrize("name", READERS)
@settings(relaxed, max_examples=TEXT_CASES)
@given(data=tapes)
def test_a_damaged_text_is_read_or_refused(name: str, data: bytes) -> None:
    read, seeds = READERS[name]
    tape = Tape(data)
    seed = tape.choose(seeds)
    text = json.dumps(damage(seed, tape) if tape.below(2) else seed, ensure_ascii=bool(tape.below(2)))
    torn = tear(text, tape)
    survives(lambda: read(torn))


@settings(relaxed, max_examples=TEXT_CASES)
@given(data=tapes)
def test_a_damaged_header_value_is_read_or_refused(data: bytes) -> None:
    tape = Tape(data)
    torn = tear(header(json.dumps(tape.choose(CHALLENGES[:3] + PAYMENTS + RECEIPTS))), tape)
    for name, read in (
        (PAYMENT_SIGNATURE, read_payment),
        (X_PAYMENT, read_payment),
        (PAYMENT_RESPONSE, read_receipt),
        (PAYMENT_REQUIRED, read_challenge),
    ):
        survives(lambda name=name, read=read: read([(name, torn)]))  # type: ignore[misc]


@settings(relaxed, max_examples=RAW_CASES)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    survives(lambda: parse_json(text))
    survives(lambda: decode_base64(text))
    survives(lambda: decode_header(text))
    survives(lambda: read_payment([(PAYMENT_SIGNATURE, text)]))
    survives(lambda: read_receipt([(text, text), (PAYMENT_RESPONSE, text)]))


@settings(relaxed, max_examples=RAW_CASES)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    survives(lambda: parse_json(data))
    survives(lambda: read_challenge([], data))
    survives(lambda: read_payment([(X_PAYMENT, base64.b64encode(data).decode())]))


@settings(relaxed, max_examples=RAW_CASES)
@given(data=tapes)
def test_any_json_value_is_read_or_refused(data: bytes) -> None:
    tape = Tape(data)
    value = damage({name: copy.deepcopy(tape.choose(JUNK)) for name in NAMES[: tape.below(6)]}, tape)
    for decode, _ in DECODERS.values():
        survives(lambda decode=decode: decode(value))  # type: ignore[misc]


def test_the_cases_sum_to_twenty_thousand() -> None:
    assert OBJECT_CASES * len(DECODERS) + TEXT_CASES * (len(READERS) + 1) + RAW_CASES * 3 >= 20_000


@pytest.mark.parametrize("name", [*DECODERS, *READERS])
def test_control_the_damage_is_neither_fatal_nor_harmless(name: str) -> None:
    pick = random.Random(402)
    decode, seeds = (DECODERS | READERS)[name]
    outcomes = []
    for _ in range(400):
        tape = Tape(pick.randbytes(48))
        message = damage(tape.choose(seeds), tape)
        given_input: Any = message if name in DECODERS else tear(json.dumps(message), tape)
        outcomes.append(survives(lambda given_input=given_input: decode(given_input)))  # type: ignore[misc]
    assert 0.02 < sum(outcomes) / len(outcomes) < 0.98


def test_control_undamaged_messages_are_read() -> None:
    for decode, seeds in DECODERS.values():
        for seed in seeds:
            if "accepts" in seed or "error" not in seed:
                assert survives(lambda decode=decode, seed=seed: decode(seed))  # type: ignore[misc]
    for read, seeds in READERS.values():
        for seed in seeds:
            assert survives(lambda read=read, seed=seed: read(json.dumps(seed)))  # type: ignore[misc]
    empty = read_challenge([], json.dumps(CHALLENGES[3]).encode())
    assert isinstance(empty, BalanceEmpty)
    assert isinstance(read_challenge([], json.dumps(CHALLENGES[2]).encode()), Challenge)

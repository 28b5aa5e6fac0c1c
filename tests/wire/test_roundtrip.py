"""Decoding what was encoded gives the same thing back, in both versions, for every message there is."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from x402.wire.challenge import Challenge, Requirement, Resource, parse_challenge, read_challenge
from x402.wire.facilitation import (
    Facilitation,
    Kind,
    Supported,
    Verification,
    parse_facilitation,
    parse_supported,
    parse_verification,
)
from x402.wire.headers import PAYMENT_REQUIRED, decode_header, encode_header
from x402.wire.payment import Payment, parse_payment, read_payment
from x402.wire.receipt import PENDING, Receipt, parse_receipt, read_receipt
from x402.wire.strict import dump_json, parse_json, parse_object

EXAMPLES = 150
NAMED = (
    "eip155:8453",
    "eip155:84532",
    "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
    "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
)

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
numbers = st.integers(-(10**77), 10**77) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=4,
)
objects = st.dictionaries(words, values, max_size=3)
named = st.sampled_from(NAMED)
anywhere = named | st.sampled_from(["eip155:42161", "cosmos:hub-4", "lightning"])
simple_resources = st.builds(Resource, url=words, description=st.none() | words, mime_type=st.none() | words)
resources = st.builds(
    Resource,
    url=words,
    description=st.none() | st.text(max_size=5),
    mime_type=st.none() | words,
    service_name=st.none() | words,
    tags=st.none() | st.lists(words, max_size=3),
    icon_url=st.none() | words,
)


def requirements(networks: st.SearchStrategy[str], schemes: st.SearchStrategy[str]) -> st.SearchStrategy[Requirement]:
    return st.builds(
        Requirement,
        scheme=schemes,
        network=networks,
        amount=st.integers(0, 2**256 - 1),
        asset=words,
        pay_to=words,
        max_timeout_seconds=st.integers(1, 10**12),
        extra=objects,
    )


offers = requirements(anywhere, words)
old_offers = requirements(named, st.just("exact"))
payloads = st.dictionaries(words, values, min_size=1, max_size=3)
payments = st.builds(
    lambda accepted, payload, resource, extensions: Payment.of(
        accepted, payload, resource=resource, extensions=extensions
    ),
    offers,
    payloads,
    st.none() | resources,
    objects,
)
old_payments = st.builds(
    Payment, version=st.just(1), scheme=words, network=anywhere, payload=payloads, resource=st.none() | simple_resources
)
receipts = st.builds(
    Receipt,
    success=st.just(True),
    transaction=st.from_regex(r"[0-9A-Za-z]{32,88}", fullmatch=True),
    network=anywhere,
    payer=st.none() | words,
    amount=st.none() | st.integers(0, 2**256 - 1).map(str),
    extensions=objects,
    extra=objects,
) | st.builds(
    Receipt,
    success=st.just(False),
    transaction=st.just("") | st.from_regex(r"[0-9A-Za-z]{32,88}", fullmatch=True),
    network=st.just("") | anywhere,
    payer=st.none() | words,
    error_reason=st.none() | words | st.just(PENDING),
    error_message=st.none() | words,
)


def lossless(message: dict[str, Any]) -> dict[str, Any]:
    """The message after the strict codec, which must not change it either."""
    read = parse_object(dump_json(message))
    assert read == message
    return read


@settings(max_examples=EXAMPLES, deadline=None)
@given(values)
def test_json(value: Any) -> None:
    assert parse_json(dump_json(value)) == value
    assert decode_header(encode_header({"a": value})) == {"a": value}


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.none() | words, st.none() | resources, st.lists(offers, max_size=4), objects)
def test_challenge_v2(
    error: str | None, resource: Resource | None, accepts: list[Requirement], extensions: Any
) -> None:
    challenge = Challenge(error=error, resource=resource, accepts=tuple(accepts), extensions=extensions)
    assert parse_challenge(lossless(challenge.as_json())) == challenge
    assert read_challenge([(PAYMENT_REQUIRED, challenge.as_header())]) == challenge
    assert read_challenge([], dump_json(challenge.as_json()).encode()) == challenge


@settings(max_examples=EXAMPLES, deadline=None)
@given(words, st.none() | simple_resources, st.lists(old_offers, min_size=1, max_size=4))
def test_challenge_v1(error: str, resource: Resource | None, accepts: list[Requirement]) -> None:
    challenge = Challenge(version=1, error=error, resource=resource, accepts=tuple(accepts))
    assert parse_challenge(lossless(challenge.as_v1())) == challenge
    assert read_challenge([], dump_json(challenge.as_v1()).encode()) == challenge


@settings(max_examples=EXAMPLES, deadline=None)
@given(payments)
def test_payment_v2(payment: Payment) -> None:
    assert parse_payment(lossless(payment.as_json()), version=2) == payment
    assert read_payment([(payment.header_name, payment.as_header())]) == payment


@settings(max_examples=EXAMPLES, deadline=None)
@given(old_payments)
def test_payment_v1(payment: Payment) -> None:
    bare = payment.model_copy(update={"resource": None})
    assert parse_payment(lossless(payment.as_json()), version=1) == bare
    assert read_payment([(payment.header_name, payment.as_header())]) == bare


@settings(max_examples=EXAMPLES, deadline=None)
@given(receipts)
def test_receipt_v2(receipt: Receipt) -> None:
    read = parse_receipt(lossless(receipt.as_json()))
    assert read == receipt
    assert read.outcome is receipt.outcome
    assert read_receipt([receipt.as_header()]) == receipt


@settings(max_examples=EXAMPLES, deadline=None)
@given(receipts)
def test_receipt_v1(receipt: Receipt) -> None:
    bare = receipt.model_copy(update={"extensions": {}, "extra": {}, "amount": None})
    assert parse_receipt(lossless(receipt.as_v1())) == bare
    assert read_receipt([receipt.as_header(1)]) == bare


@settings(max_examples=EXAMPLES, deadline=None)
@given(payments, offers)
def test_facilitation_v2(payment: Payment, requirement: Requirement) -> None:
    facilitation = Facilitation(payment=payment, requirement=requirement)
    assert parse_facilitation(lossless(facilitation.as_json())) == facilitation


@settings(max_examples=EXAMPLES, deadline=None)
@given(old_payments, offers)
def test_facilitation_v1(payment: Payment, requirement: Requirement) -> None:
    facilitation = Facilitation(payment=payment, requirement=requirement)
    assert parse_facilitation(lossless(facilitation.as_json())) == facilitation


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.none() | words, st.none() | words, objects, st.none() | words)
def test_verification(message: str | None, payer: str | None, extra: Any, reason: str | None) -> None:
    verification = Verification(
        is_valid=reason is None, invalid_reason=reason, invalid_message=message, payer=payer, extra=extra
    )
    assert parse_verification(lossless(verification.as_json())) == verification


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(st.builds(Kind, version=st.sampled_from([1, 2]), scheme=words, network=words, extra=objects), max_size=4),
    st.lists(words, max_size=3),
    st.dictionaries(words, st.lists(words, max_size=3), max_size=3),
)
def test_supported(kinds: list[Kind], extensions: list[str], signers: dict[str, list[str]]) -> None:
    supported = Supported(kinds=tuple(kinds), extensions=tuple(extensions), signers=signers)
    assert parse_supported(lossless(supported.as_json())) == supported


@given(payments | old_payments, requirements(named, st.just("exact")))
@settings(max_examples=EXAMPLES)
def test_F18_what_is_written_as_text_is_the_object_that_travels(payment: Payment, requirement: Requirement) -> None:
    message = Facilitation(payment=payment, requirement=requirement)
    for said, text in ((message.as_json(), message.as_text()), (payment.as_json(), payment.as_text())):
        assert parse_json(text) == parse_json(dump_json(said)) == said
        assert text.isascii()
        assert list(parse_json(text)) == list(said)

"""Settlement results: one of three outcomes, and never a success that is not one (faults A03, F09, F18)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from x402.errors import MalformedError
from x402.lifecycle import Outcome
from x402.wire.headers import PAYMENT_RESPONSE, X_PAYMENT_RESPONSE, decode_header, encode_header
from x402.wire.receipt import PENDING, Receipt, parse_receipt, read_receipt
from x402.wire.strict import parse_json

HASH = "0x1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef"
GOOD: dict[str, Any] = {"success": True, "transaction": HASH, "network": "eip155:84532", "payer": "0x857b"}


@pytest.mark.parametrize("message", [GOOD, {**GOOD, "network": "base-sepolia"}, {**GOOD, "errorReason": None}])
def test_A03_control_a_well_formed_success_is_settled(message: dict[str, Any]) -> None:
    receipt = parse_receipt(message)
    assert receipt.outcome is Outcome.SETTLED
    assert receipt.network == "eip155:84532"
    assert receipt.transaction == HASH


def test_A03_control_nothing_metered_needs_no_transaction() -> None:
    assert parse_receipt({**GOOD, "transaction": "", "amount": "0"}).outcome is Outcome.SETTLED


@pytest.mark.parametrize(
    "message",
    [
        {}, {"success": "true", "transaction": HASH}, {"success": 1, "transaction": HASH}, {"success": None},
        {"success": "false"}, {"success": [True]}, {**GOOD, "success": {}}, {**GOOD, "transaction": 5},
        {**GOOD, "transaction": [HASH]}, {**GOOD, "network": 84532}, {**GOOD, "network": ["eip155:84532"]},
        {**GOOD, "payer": {"a": 1}}, {**GOOD, "amount": 5}, {**GOOD, "amount": "-5"}, {**GOOD, "amount": "1.5"},
        {**GOOD, "amount": "01"}, {**GOOD, "errorReason": False}, {**GOOD, "extensions": []}, [], [GOOD], "true", True,
        None, 5,
    ],
    ids=str,
)  # fmt: skip
def test_A03_a_malformed_answer_is_no_receipt(message: object) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_receipt(message)
    assert caught.value.code == "invalid_settlement"


@pytest.mark.parametrize(
    "message",
    [
        {**GOOD, "transaction": ""}, {**GOOD, "transaction": None}, {**GOOD, "transaction": "  "},
        {**GOOD, "transaction": "0x"}, {"success": True}, {**GOOD, "transaction": "", "amount": "1"},
        {**GOOD, "errorReason": "insufficient_funds"}, {**GOOD, "errorReason": PENDING},
    ],
    ids=str,
)  # fmt: skip
def test_A03_a_doubtful_success_is_pending_never_settled_nor_refused(message: dict[str, Any]) -> None:
    receipt = parse_receipt(message)
    assert not receipt.success
    assert receipt.outcome is Outcome.PENDING
    assert receipt.error_message


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ({"success": False}, Outcome.REFUSED),
        ({"success": False, "errorReason": "insufficient_funds", "transaction": "", "network": ""}, Outcome.REFUSED),
        ({"success": False, "errorReason": "insufficient_funds", "transaction": "0x"}, Outcome.REFUSED),
        ({"success": False, "errorReason": "transaction_failed", "transaction": HASH}, Outcome.PENDING),
        ({"success": False, "errorReason": PENDING, "transaction": HASH}, Outcome.PENDING),
        ({"success": False, "errorReason": PENDING}, Outcome.PENDING),
        ({"success": False, "transaction": HASH}, Outcome.PENDING),
    ],
)
def test_A03_a_failure_is_refused_only_when_it_names_no_transaction(message: object, outcome: Outcome) -> None:
    assert parse_receipt(message).outcome is outcome


@pytest.mark.parametrize("body", [b"<html>", b"", b'{"success":true,"transaction":"0x', b"\xff", b"null"])
def test_A03_an_answer_that_is_no_json_object_is_no_receipt(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_receipt(parse_json(body))


def test_the_three_outcomes_survive_their_journey() -> None:
    receipts = [
        (Receipt.settled(HASH, "eip155:84532", "0x857b"), Outcome.SETTLED),
        (Receipt.refused("insufficient_funds", "the wallet holds 0", "eip155:84532", "0x857b"), Outcome.REFUSED),
        (Receipt.refused("unexpected_settle_error", "", "eip155:84532"), Outcome.REFUSED),
        (Receipt.pending(HASH, "eip155:84532", "0x857b"), Outcome.PENDING),
        (Receipt.pending("", "eip155:84532", None, "the node does not answer"), Outcome.PENDING),
    ]
    for receipt, outcome in receipts:
        assert receipt.outcome is outcome
        for version, name in ((2, PAYMENT_RESPONSE), (1, X_PAYMENT_RESPONSE)):
            header = receipt.as_header(version)
            assert header[0] == name
            assert read_receipt([header]) == receipt


def test_v1_has_its_own_network_names_and_none_of_the_later_members() -> None:
    receipt = parse_receipt({**GOOD, "amount": "5", "extensions": {"k": {}}, "extra": {"a": 1}})
    assert receipt.as_v1() == {**GOOD, "network": "base-sepolia"}
    assert decode_header(receipt.as_header(1)[1]) == receipt.as_v1()
    assert decode_header(receipt.as_header()[1]) == {
        **GOOD, "amount": "5", "extensions": {"k": {}}, "extra": {"a": 1}
    }  # fmt: skip


def test_F18_a_receipt_has_no_nulls_and_always_a_transaction_and_a_network() -> None:
    text = json.dumps(Receipt.refused("x", "y", "").as_json())
    assert "null" not in text
    assert json.loads(text) == {
        "success": False, "transaction": "", "network": "", "errorReason": "x", "errorMessage": "y"
    }  # fmt: skip


def test_nulls_and_unknown_members_are_tolerated() -> None:
    message = {
        **GOOD,
        "errorReason": None,
        "errorMessage": None,
        "amount": None,
        "extensions": None,
        "extra": None,
        "z": 1,
    }
    assert parse_receipt(message) == parse_receipt(GOOD)


def test_the_v2_header_wins_over_the_v1_header() -> None:
    new, old = encode_header(GOOD), encode_header({**GOOD, "network": "base"})
    receipt = read_receipt([("x-payment-response", old), ("payment-response", new)])
    assert receipt is not None
    assert receipt.network == "eip155:84532"
    only_old = read_receipt([("X-Payment-Response", old)])
    assert only_old is not None
    assert only_old.network == "eip155:8453"
    assert read_receipt([("PAYMENT-SIGNATURE", new)]) is None


def test_an_unreadable_receipt_header_is_an_error() -> None:
    for value in ("", "%", "e30=", encode_header({"success": "yes"})):
        with pytest.raises(MalformedError) as caught:
            read_receipt([(PAYMENT_RESPONSE, value)])
        assert caught.value.code == "invalid_settlement"


def test_words_for_people_are_cut() -> None:
    receipt = Receipt.refused("reason", "w" * 5_000, "eip155:84532")
    assert receipt.error_message is not None
    assert len(receipt.error_message) == 500

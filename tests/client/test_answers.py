"""Answers and errors in every envelope that was found in the wild (aimo rows 34-60)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x402.client.answers import (
    RECEIPT_COMMENT,
    Fields,
    joined,
    read_chunk,
    read_completion,
    read_models,
    read_quotation,
    receipt_in,
)
from x402.client.envelope import errors_of
from x402.errors import ApiError, MalformedError, Moved, X402Error
from x402.networks import BASE_SEPOLIA
from x402.wire.headers import BILL, encode_header
from x402.wire.receipt import Receipt

from .seller import TRANSACTION, asks, challenge, offer

PLAIN = {"id": "c", "choices": [{"message": {"role": "assistant", "content": "Hi"}}], "usage": {"total_tokens": 2}}


def test_a_completion_by_item_and_by_attribute() -> None:
    answer = read_completion([("x-request-id", "r1")], json.dumps(PLAIN).encode(), None)
    assert answer.text == answer.choices[0].message.content == answer["choices"][0]["message"]["content"] == "Hi"
    assert (answer.request_id, answer.receipt, answer.id) == ("r1", None, "c")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 2
    assert answer.as_json() == PLAIN
    assert dict(answer.choices[0].message) == {"role": "assistant", "content": "Hi"}
    assert not hasattr(answer, "nothing")
    assert len(answer) == 3


def test_the_bill_of_a_balance_comes_with_the_answer() -> None:
    bill = {"id": "b1", "account": "eip155:84532:0x1", "quoted": "20", "charged": "7"}
    answer = read_completion([(BILL, encode_header(bill))], json.dumps(PLAIN).encode(), None)
    assert answer.bill is not None
    assert (answer.bill.charged, answer.receipt) == ("7", None)
    for headers in ([], [(BILL, "%")]):
        assert read_completion(headers, json.dumps(PLAIN).encode(), None).bill is None


def test_a_wrapped_answer_is_unwrapped_only_when_it_is_one() -> None:
    wrapped = {"success": True, "data": PLAIN, "meta": {"request_id": "req_1"}}
    answer = read_completion([], json.dumps(wrapped).encode(), None)
    assert (answer.text, answer.request_id) == ("Hi", "req_1")
    listing = {"data": [{"id": "m"}], "object": "list"}
    assert [model.id for model in read_models(json.dumps(listing).encode())] == ["m"]


@pytest.mark.parametrize("body", [b"", b"[]", b"hello", b"\xff", b"[" * 100_000])
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(MalformedError):
        read_completion([], body, None)
    if body != b"[]":
        with pytest.raises(MalformedError):
            read_models(body)


@pytest.mark.parametrize(
    "body",
    [
        [{"id": "a/b", "object": "model"}],
        {"data": [{"id": "a/b"}]},
        {"object": "list", "data": [{"name": "a/b", "providers": []}]},
        {"success": True, "data": [{"id": "a/b"}], "meta": {}},
        {"success": True, "data": {"object": "list", "data": [{"id": "a/b"}]}, "meta": {}},
    ],
    ids=str,
)
def test_row_008_every_shape_of_a_model_list_is_read(body: Any) -> None:
    assert [model.id for model in read_models(json.dumps(body).encode())] == ["a/b"]


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": None}]}])
def test_an_answer_without_text_has_none(body: dict[str, Any]) -> None:
    assert read_completion([], json.dumps(body).encode(), None).text == ""


ENVELOPES: list[tuple[int, Any, str, str]] = [
    (404, {"success": False, "error": {"code": "model_not_found", "message": "no"}}, "model_not_found", "no"),
    (400, {"error": {"code": "invalid_request", "message": "bad"}}, "invalid_request", "bad"),
    (402, {"error": {"message": "m", "type": "insufficient_balance", "code": 402}}, "insufficient_balance", "m"),
    (429, {"error": {"message": "slow", "type": "rate_limit", "param": None, "code": None}}, "rate_limit", "slow"),
    (401, {}, "authentication_failed", "HTTP 401"),
    (402, {"x402Version": 1, "error": "expired", "accepts": []}, "payment_required", "expired"),
    (402, {"x402Version": 2, "accepts": [{}], "resource": {}}, "payment_required", "HTTP 402"),
    (422, {"detail": "model: missing"}, "invalid_request", "model: missing"),
    (503, {"code": "ledger_unavailable", "message": "later", "moneyMoved": "unknown"}, "ledger_unavailable", "later"),
    (500, "provider failure", "internal_error", "provider failure"),
    (418, b"", "request_failed", "HTTP 418"),
]


@pytest.mark.parametrize(("status", "body", "code", "message"), ENVELOPES)
def test_row_044_045_046_047_048_049_050_seven_envelopes_become_one_error(
    status: int, body: Any, code: str, message: str
) -> None:
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = errors_of(status, [("X-Request-ID", "r1"), ("Retry-After", "3")], raw)
    assert (error.status_code, error.code, error.message, error.request_id) == (status, code, message, "r1")
    assert error.details["retry_after_seconds"] == 3


def test_row_055_a_402_asks_to_be_paid_only_when_it_has_an_offer() -> None:
    """In the header or in the body; the status says nothing (aimo §1.6)."""
    asked = asks(offer())
    for headers, body in (
        (list(asked.headers.items()), b"{}"),
        ([], json.dumps(challenge(offer()).as_v1()).encode()),
        ([("PAYMENT-REQUIRED", "%")], json.dumps(challenge(offer()).as_json()).encode()),
    ):
        error = errors_of(402, headers, body)
        assert error.code == "payment_required"
        assert error.payment_required is not None
        assert len(error.payment_required["accepts"]) == 1
    empty = errors_of(402, [], b'{"error":{"message":"m","type":"insufficient_balance","code":402}}')
    assert (empty.code, empty.payment_required) == ("insufficient_balance", None)
    elsewhere = errors_of(400, list(asked.headers.items()), b"")
    assert (elsewhere.status, elsewhere.payment_required is not None) == (400, True)


@pytest.mark.parametrize(
    ("status", "again"), [(400, False), (401, False), (402, False), (404, False), (429, True), (500, True), (503, True)]
)
def test_row_052_an_error_says_whether_to_try_again(status: int, again: bool) -> None:
    assert errors_of(status, [], b"").retryable is again


def test_row_051_codes_are_read_whatever_they_are_called() -> None:
    for code in ("invalid_request", "rate_limit_exceeded", "insufficient_credits", "model_unavailable"):
        body = {"success": False, "error": {"code": code, "message": "m", "details": "d"}, "meta": {"request_id": "r"}}
        error = errors_of(400, [], json.dumps(body).encode())
        assert (error.code, error.details, error.request_id) == (code, {"details": "d"}, "r")


def test_whether_money_moved_is_the_callers_knowledge_unless_the_seller_says_more() -> None:
    assert errors_of(500, [], b"").moved is Moved.NO
    assert errors_of(500, [], b"", moved=Moved.YES).moved is Moved.YES
    assert errors_of(500, [], b'{"error":{"moneyMoved":"yes"}}', moved=Moved.UNKNOWN).moved is Moved.YES
    assert errors_of(500, [], b'{"error":{"moneyMoved":["yes"]}}').moved is Moved.NO


@settings(deadline=None)
@given(st.integers(100, 599), st.binary(max_size=100))
def test_any_body_is_some_error(status: int, body: bytes) -> None:
    error = errors_of(status, [], body)
    assert error.status_code == status
    assert error.message


def test_chunks() -> None:
    chunk = read_chunk('{"choices":[{"delta":{"content":"Hi"}}]}')
    assert chunk.text == chunk.choices[0].delta.content == "Hi"
    with pytest.raises(ApiError, match="upstream died"):
        read_chunk('{"error":{"message":"upstream died"}}')
    with pytest.raises(MalformedError):
        read_chunk("half a js")


class TestReceiptComment:
    def test_a_receipt_in_a_comment(self) -> None:
        paid = Receipt.settled(TRANSACTION, BASE_SEPOLIA, None)
        assert receipt_in(RECEIPT_COMMENT + paid.as_header()[1]) == paid

    @pytest.mark.parametrize("comment", ["", "keep-alive", "x402-receipts e30=", "OPENROUTER PROCESSING"])
    def test_other_comments(self, comment: str) -> None:
        assert receipt_in(comment) is None

    @pytest.mark.parametrize("value", ["", "%", "e30=", "e30"])
    def test_an_unreadable_receipt(self, value: str) -> None:
        with pytest.raises(MalformedError):
            receipt_in(RECEIPT_COMMENT + value)


class TestQuotation:
    def test_the_offers_of_a_402(self) -> None:
        asked = asks(offer(), offer(amount=9_000), offer(asset="0x" + "66" * 20, amount=1))
        found = read_quotation(402, asked.headers.items(), b"{}")
        assert found.challenge == challenge(*found.offers)
        assert found.usd == Decimal("0.009")
        assert (found.quote, found.free) == (None, False)

    def test_the_sellers_quote_is_read_without_its_key(self) -> None:
        from x402.quote import Quote
        from x402.signed_quote import sign

        quote = Quote("demo", (), 0, 10, 1, "v1")
        token = sign(quote, key=b"k" * 32, request_digest="0" * 64, issued_at=1, ttl_seconds=60)
        asked = asks(offer(extra={"name": "USDC", "version": "2", "quote": token}))
        assert read_quotation(402, asked.headers.items(), b"{}").quote == quote
        asked = asks(offer(extra={"name": "USDC", "version": "2", "quote": "junk"}))
        assert read_quotation(402, asked.headers.items(), b"{}").quote is None

    def test_free_and_failed(self) -> None:
        found = read_quotation(200, [], b"{}")
        assert (found.usd, found.offers) == (Decimal(0), ())
        for status, body in ((404, b""), (402, b'{"error":{"code":"insufficient_credits","message":"m"}}')):
            with pytest.raises(ApiError):
                read_quotation(status, [], body)
        with pytest.raises(MalformedError):
            read_quotation(402, [], b"junk")


def test_fields_of_anything() -> None:
    assert Fields({"a": [{"b": 1}, [2], None]}).a[0].b == 1
    assert "a" in Fields({"a": None})
    assert issubclass(MalformedError, X402Error)


def test_a_character_that_came_in_two_halves_is_one_again() -> None:
    said = ({"choices": [{"delta": {"content": words}}]} for words in ("a\ud83d", "\ude00ü"))
    halves = [read_chunk(json.dumps(chunk)).text for chunk in said]
    assert joined(halves) == "a\U0001f600ü"
    assert joined(halves[:1]) == "a\N{REPLACEMENT CHARACTER}"
    assert joined(["plain", " text"]) == "plain text"

"""Header names, vectors of the official specs, sizes and repetitions (faults E04, F05, F06)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from x402.errors import MalformedError
from x402.wire.challenge import parse_challenge, read_challenge
from x402.wire.headers import (
    EXPOSED_HEADERS,
    EXTENSION_RESPONSES,
    PAYMENT_HEADERS,
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    X_PAYMENT,
    X_PAYMENT_RESPONSE,
    decode_header,
    encode_header,
    only,
    values,
)
from x402.wire.payment import parse_payment, read_payment
from x402.wire.receipt import parse_receipt, read_receipt
from x402.wire.strict import HEADER_LIMIT

FIXTURE = Path(__file__).parents[2] / "fixtures" / "headers.json"
VECTORS = {vector["name"]: vector for vector in json.loads(FIXTURE.read_text())["vectors"]}


def reencoded(header: str, message: dict[str, Any]) -> dict[str, Any]:
    """The message after a journey through our models and back to JSON."""
    match header:
        case "PAYMENT-REQUIRED":
            return parse_challenge(message).as_json()
        case "PAYMENT-SIGNATURE":
            return parse_payment(message, version=2).as_json()
        case "X-PAYMENT":
            return parse_payment(message, version=1).as_json()
        case "PAYMENT-RESPONSE":
            return parse_receipt(message).as_json()
        case "X-PAYMENT-RESPONSE":
            return parse_receipt(message).as_v1()
        case _:
            return message


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_vector_is_decoded_and_encoded(vector: dict[str, Any]) -> None:
    header, value, expected = vector["input"]["header"], vector["input"]["value"], vector["expected"]["decodedJson"]
    assert decode_header(value) == expected
    assert decode_header(encode_header(expected)) == expected
    ours = reencoded(header, expected)
    for offer in ours.get("accepts", []):
        assert offer in expected["accepts"]
    assert ours == expected


def test_vectors_use_the_names_that_we_use() -> None:
    used = {vector["input"]["header"] for vector in VECTORS.values()}
    ours = {PAYMENT_REQUIRED, PAYMENT_SIGNATURE, PAYMENT_RESPONSE, X_PAYMENT, X_PAYMENT_RESPONSE, EXTENSION_RESPONSES}
    assert used == ours
    assert set(PAYMENT_HEADERS) == {PAYMENT_SIGNATURE, X_PAYMENT}
    assert {PAYMENT_REQUIRED, PAYMENT_RESPONSE, X_PAYMENT_RESPONSE} < set(EXPOSED_HEADERS)


def test_a_header_is_padded_standard_base64_of_compact_ascii_json() -> None:
    value = encode_header({"error": "ünïcödé ~~~???>>>", "a": [1, 2]})
    assert len(value) % 4 == 0
    assert base64.b64decode(value, validate=True) == (
        b'{"error":"\\u00fcn\\u00efc\\u00f6d\\u00e9 ~~~???>>>","a":[1,2]}'
    )


def sized(characters: int) -> str:
    """A header value of exactly so many characters (a multiple of 4)."""
    message = {"p": "x" * (characters * 3 // 4 - 8)}
    value = encode_header(message)
    assert len(value) == characters
    return value


@pytest.mark.parametrize("kib", [3.9, 7.9, 8.1, 15.9])
def test_F05_headers_up_to_16_kib_are_read_whole(kib: float) -> None:
    size = int(kib * 1024) // 4 * 4
    assert len(decode_header(sized(size))["p"]) == size * 3 // 4 - 8


@pytest.mark.parametrize("kib", [16.1, 65, 10_240])
def test_F05_larger_headers_are_refused_never_half_parsed(kib: float) -> None:
    with pytest.raises(MalformedError, match="longer than 16384 characters") as caught:
        decode_header(sized(int(kib * 1024) // 4 * 4))
    assert caught.value.details == {"limit": HEADER_LIMIT}


def test_F05_the_limit_itself() -> None:
    assert decode_header(sized(HEADER_LIMIT))
    with pytest.raises(MalformedError):
        decode_header(sized(HEADER_LIMIT + 4))


def test_F05_a_proxy_that_drops_the_header_leaves_the_body() -> None:
    message = VECTORS["v2 header PAYMENT-REQUIRED #1"]["expected"]["decodedJson"]
    by_header = read_challenge([(PAYMENT_REQUIRED, encode_header(message))], b"{}")
    by_body = read_challenge([], json.dumps(message).encode())
    assert by_header == by_body


PAYMENT = VECTORS["v2 header PAYMENT-SIGNATURE #1"]["input"]["value"]
OLD_PAYMENT = VECTORS["v1 header X-PAYMENT #1"]["input"]["value"]


@pytest.mark.parametrize(
    "headers",
    [
        [("PAYMENT-SIGNATURE", PAYMENT), ("PAYMENT-SIGNATURE", PAYMENT)],
        [("PAYMENT-SIGNATURE", PAYMENT), ("payment-signature", PAYMENT)],
        [("X-PAYMENT", OLD_PAYMENT), ("x-payment", OLD_PAYMENT)],
        [("PAYMENT-SIGNATURE", PAYMENT), ("X-PAYMENT", OLD_PAYMENT)],
        [("PAYMENT-SIGNATURE", PAYMENT), ("X-PAYMENT", "")],
        [("PAYMENT-SIGNATURE", ""), ("X-PAYMENT", OLD_PAYMENT)],
        [("PAYMENT-SIGNATURE", f"{PAYMENT}, {PAYMENT}")],
        [("PAYMENT-SIGNATURE", f"{PAYMENT},{PAYMENT}")],
        [("PAYMENT-SIGNATURE", f"{PAYMENT}\r\n {PAYMENT}")],
        [("PAYMENT-SIGNATURE", f"{PAYMENT[:40]}\r\n {PAYMENT[40:]}")],
        [("PAYMENT-SIGNATURE", f"{PAYMENT[:40]} {PAYMENT[40:]}")],
        [("PAYMENT-SIGNATURE", "")],
        [("X-PAYMENT", " ")],
    ],
)
def test_F06_anything_but_exactly_one_payment_header_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(MalformedError) as caught:
        read_payment(headers)
    assert caught.value.status == 400


def test_F06_control_one_header_in_any_case_is_a_payment_and_none_is_none() -> None:
    for name in ("PAYMENT-SIGNATURE", "payment-signature", "Payment-Signature"):
        payment = read_payment([("Accept", "*/*"), (name, f" {PAYMENT}\t"), ("X-PAYMENT-RESPONSE", "?")])
        assert payment is not None
        assert payment.version == 2
    old = read_payment([("x-payment", OLD_PAYMENT)])
    assert old is not None
    assert old.version == 1
    assert read_payment([("X-PAYMENT-RESPONSE", PAYMENT), ("payment_signature", PAYMENT)]) is None


def test_F06_responses_with_repeated_headers_are_refused() -> None:
    challenge = VECTORS["v2 header PAYMENT-REQUIRED #1"]["input"]["value"]
    receipt = VECTORS["v2 header PAYMENT-RESPONSE #1"]["input"]["value"]
    with pytest.raises(MalformedError, match="sent 2 times"):
        read_challenge([(PAYMENT_REQUIRED, challenge), (PAYMENT_REQUIRED, challenge)])
    with pytest.raises(MalformedError, match="sent 2 times"):
        read_receipt([(PAYMENT_RESPONSE, receipt), (PAYMENT_RESPONSE, receipt)])


def test_values_keep_their_order_and_only_wants_one() -> None:
    pairs = [("A", "1"), ("b", "2"), ("a", "3")]
    assert values(pairs, "a") == ["1", "3"]
    assert only(pairs, "B") == "2"
    assert only(pairs, "c") is None
    with pytest.raises(MalformedError):
        only(pairs, "A")

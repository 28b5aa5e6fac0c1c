"""The codecs below every message: one reading or a refusal, quickly (faults E04, F07, F08, F18)."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from x402.errors import MalformedError
from x402.wire.challenge import Requirement
from x402.wire.headers import decode_header
from x402.wire.strict import (
    BODY_LIMIT,
    DEPTH_LIMIT,
    DIGIT_LIMIT,
    HEADER_LIMIT,
    decode_base64,
    dump_json,
    parse_json,
    parse_object,
    read_model,
    require_object,
)

ROOT = Path(__file__).parents[2]
MESSAGE = b'{"x402Version":2,"payload":{"signature":"0x2d6a7588d6acca505cbf0d9a4a227e0c52c6c3"}}!'

BOMBS: dict[str, bytes | str] = {
    "ten megabytes of spaces": b" " * 10_000_000,
    "ten megabytes of text": "é" * 10_000_000,
    "a hundred thousand arrays": b"[" * 100_000,
    "closed arrays": b"[" * 30_000 + b"]" * 30_000,
    "nested objects": b'{"a":' * 12_000,
    "one level too deep": b"[" * (DEPTH_LIMIT + 1) + b"]" * (DEPTH_LIMIT + 1),
    "one digit too many": b"1" * (DIGIT_LIMIT + 1),
    "one digit too many below zero": b"-" + b"1" * (DIGIT_LIMIT + 1),
    "four thousand digits, which Python would read": b"1" * 4_000,
    "five thousand digits": b"1" * 5_000,
    "five thousand decimals": b"0." + b"3" * 5_000,
    "a minus and 5 000 digits": b"-" + b"7" * 5_000,
    "an exponent beyond all numbers": b"1e999999999",
    "digits inside": b'{"x402Version":' + b"9" * 5_000 + b"}",
}


def quickest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of five runs, so that a busy machine does not fail a test."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        with pytest.raises(MalformedError):
            call()
        best = min(best, time.perf_counter() - began)
    return best


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_E04_json_bomb_is_refused_quickly(bomb: bytes | str) -> None:
    assert quickest(lambda: parse_json(bomb)) < 0.02


def test_E04_F12_a_limit_that_another_library_raised_lets_nothing_overflow_the_stack() -> None:
    """As in the process of a seller that imports eth_account: Python's own limit would not stop the decoder in time."""
    program = """
import sys
from x402.errors import MalformedError
from x402.wire.nesting import read_json
from x402.wire.strict import parse_json
sys.setrecursionlimit(100_000)
for bomb in (b"[" * 99_000, b"[" * 1_000_000, b'{"a":' * 99_000):
    try:
        parse_json(bomb, limit=10_000_000)
    except MalformedError as error:
        print(error.message)
flat = parse_json(b"[" + b"[]," * 20_000 + b"1]", limit=10_000_000)
print(len(flat), sys.getrecursionlimit())
for told in (b"[" * 99_000, "[" * 1_000_000):
    try:
        read_json(told)
    except ValueError as error:
        print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    refused = ["not acceptable JSON: nested too deeply"] * 3
    assert ran.stdout.splitlines() == [*refused, "20001 100000", *["nested too deeply"] * 2], ran


@pytest.mark.parametrize("bomb", [bomb for bomb in BOMBS.values() if isinstance(bomb, bytes)])
def test_E04_header_bomb_is_refused_quickly(bomb: bytes) -> None:
    value = base64.b64encode(bomb).decode()
    assert quickest(lambda: decode_header(value)) < 0.02


def test_E04_refusing_ten_megabytes_takes_no_memory() -> None:
    bombs: list[bytes | str] = [b" " * 10_000_000, "é" * 10_000_000]
    header = "A" * 10_000_000
    tracemalloc.start()
    for bomb in bombs:
        with pytest.raises(MalformedError):
            parse_json(bomb)
    with pytest.raises(MalformedError):
        decode_header(header)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_E04_control_what_is_just_inside_the_limits_is_read() -> None:
    assert parse_json(b"[" * DEPTH_LIMIT + b"]" * DEPTH_LIMIT) is not None
    assert parse_json("9" * DIGIT_LIMIT) == 10**DIGIT_LIMIT - 1
    assert parse_json("-" + "9" * DIGIT_LIMIT) == 1 - 10**DIGIT_LIMIT
    assert parse_json(b"1" + b" " * (BODY_LIMIT - 1)) == 1
    assert parse_json('"' + "é" * ((BODY_LIMIT - 2) // 2) + '"')
    payload = dump_json({"a": "b" * (HEADER_LIMIT * 3 // 4 - 9)})
    assert decode_header(base64.b64encode(payload.encode()).decode())


def test_E04_the_limit_counts_bytes_not_characters() -> None:
    with pytest.raises(MalformedError, match="larger than"):
        parse_json('"' + "é" * (BODY_LIMIT // 2) + '"')


def test_E04_a_refusal_never_repeats_a_large_input() -> None:
    name = "k" * 5_000
    with pytest.raises(MalformedError) as caught:
        read_model(Requirement, {name: 1, "scheme": name}, code="x")
    assert len(str(caught.value)) < 300
    with pytest.raises(MalformedError) as caught:
        parse_json('{"' + name + '":}')
    assert len(str(caught.value)) < 300


AMBIGUOUS = {
    "duplicate member": b'{"amount":"1","amount":"2"}',
    "duplicate member behind an escape": b'{"amount":"1","\\u0061mount":"2"}',
    "duplicate deep inside": b'{"a":[{"b":1,"b":1}]}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b"[-Infinity]",
    "number beyond floats": b"[1e400]",
    "byte order mark": b'\xef\xbb\xbf{"a":1}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone surrogate in a name": b'{"\\udfff":1}',
    "surrogates in the wrong order": b'["\\udc00\\ud800"]',
    "broken UTF-8": b'{"a":"\xff"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "raw control character": b'{"a":"\x01"}',
    "two values": b"{} {}",
    "trailing comma": b'{"a":1,}',
    "single quotes": b"{'a':1}",
    "comment": b'{"a":1} // one',
    "leading zero": b'{"a":01}',
    "plus sign": b'{"a":+1}',
    "hexadecimal": b'{"a":0x1}',
    "underscore": b'{"a":1_000}',
    "bare point": b'{"a":1.}',
    "non-ASCII digits": '{"a":٣}'.encode(),
    "nothing": b"",
    "spaces": b"  ",
}


@pytest.mark.parametrize("text", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_F08_json_with_more_than_one_reading_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_json(text, code="invalid_payload")
    assert caught.value.code == "invalid_payload"
    assert caught.value.status == 400


def test_F08_a_lone_surrogate_in_decoded_text_is_refused() -> None:
    with pytest.raises(MalformedError, match="UTF-8"):
        parse_json('"\ud800"')


def test_F08_control_plain_json_is_read() -> None:
    text = '{"a":[1,-1,0.5,1e3,true,null,"\\u00e9\\ud83d\\ude00"],"b":{"a":1}}'
    expected = {"a": [1, -1, 0.5, 1000.0, True, None, "é😀"], "b": {"a": 1}}
    assert parse_json(text) == parse_json(text.encode()) == expected


@pytest.mark.parametrize("text", ["[]", "1", '"text"', "null", "true"])
def test_an_object_is_required(text: str) -> None:
    with pytest.raises(MalformedError, match="not an object"):
        parse_object(text)
    with pytest.raises(MalformedError, match="thing: an object is required"):
        require_object(json.loads(text), code="x", name="thing")


def aliases(data: bytes, seed: int) -> str:
    """A text that lenient decoders take for the canonical base64 of `data`, and that is not it."""
    pick = random.Random(seed)
    text = base64.b64encode(data).decode()
    for _ in range(pick.randint(1, 3)):
        at = pick.randrange(len(text.rstrip("=")))
        match pick.randrange(6):
            case 0:
                text = text[:at] + pick.choice(" \n\r\t\x00.-_*!é") + text[at:]
            case 1:
                text += pick.choice(["=", "==", "\n", " ", "=A", "====", "A" * 3 + "="])
            case 2:
                bare = text.rstrip("=")
                alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
                if bare[-1] in alphabet and len(bare) % 4 > 1:
                    text = bare[:-1] + alphabet[alphabet.index(bare[-1]) | 1] + "=" * (-len(bare) % 4)
            case 3:
                text = text.replace("+", "-").replace("/", "_")
            case 4:
                text = "\n".join(text[start : start + 64] for start in range(0, len(text), 64)) + "\n"
            case _:
                text = text[:at] + "=" * pick.randint(1, 3) + text[at:]
    return text


def test_F07_a_thousand_other_spellings_of_one_message_are_all_refused() -> None:
    canonical = base64.b64encode(MESSAGE).decode()
    assert canonical.endswith("=")
    unpadded = canonical.rstrip("=")
    spellings: set[str] = set()
    seed = 0
    while len(spellings) < 1_000:
        spellings.add(aliases(MESSAGE, seed))
        seed += 1
    spellings -= {canonical, unpadded}

    def lenient(text: str) -> bool:
        try:
            return base64.b64decode(text.encode(errors="replace") + b"==") == MESSAGE
        except ValueError:
            return False

    assert sum(map(lenient, spellings)) > 300, "the corpus must hold what lenient decoders accept"
    accepted = []
    for text in spellings:
        try:
            accepted.append((text, decode_base64(text)))
        except MalformedError:
            continue
    assert accepted == []
    assert decode_base64(canonical) == decode_base64(unpadded) == MESSAGE


def test_F07_accept_set_is_the_canonical_set() -> None:
    pick = random.Random(7)
    for size in range(200):
        data = pick.randbytes(size)
        canonical = base64.b64encode(data).decode()
        assert decode_base64(canonical) == data
        assert decode_base64(canonical.rstrip("=")) == data
    alphabet = "ABab01+/=-_ \n"
    for _ in range(10_000):
        text = "".join(pick.choices(alphabet, k=pick.randint(0, 9)))
        try:
            data = decode_base64(text)
        except MalformedError:
            continue
        assert text in (base64.b64encode(data).decode(), base64.b64encode(data).decode().rstrip("="))


@pytest.mark.parametrize(
    "text", ["eyJhIjoxfR==", "YR==", "YWJ=", "Y", "YQ=", "=", "==", "====", "YQ==YQ==", "YQ\u200b==", "ＹＱ=="]
)
def test_F07_known_traps_are_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        decode_base64(text)


def test_F18_only_the_names_of_the_wire_are_read() -> None:
    offer = {
        "scheme": "exact",
        "network": "eip155:8453",
        "amount": "1",
        "asset": "0xa",
        "payTo": "0xb",
        "maxTimeoutSeconds": 60,
    }
    assert read_model(Requirement, offer | {"pay_to": "0xevil"}, code="x").pay_to == "0xb"
    del offer["payTo"]
    with pytest.raises(MalformedError, match="payTo"):
        read_model(Requirement, offer | {"pay_to": "0xevil"}, code="x")


def test_F18_nothing_absent_is_written_as_null() -> None:
    requirement = Requirement(
        scheme="exact", network="eip155:8453", amount=1, asset="0xa", pay_to="0xb", max_timeout_seconds=60
    )
    assert "null" not in dump_json(requirement.as_json())

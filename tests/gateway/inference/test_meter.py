"""Usage from answers, and streams relayed in their own bytes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.gateway.inference.meter import StreamMeter, is_empty, receipt_comment, usage_of
from x402.gateway.inference.upstream import UpstreamFailed
from x402.quote import Usage
from x402.wire.receipt import Receipt


def event(choices: list[Any], **members: Any) -> bytes:
    return f"data: {json.dumps({'choices': choices, **members})}\n\n".encode()


def delta(text: str, finish: str | None = None) -> list[Any]:
    return [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
STREAM = [event(delta("a")), event(delta("ü")), b": keep-alive\n\n", event(delta("", "stop"))]
LAST = event([], usage=USAGE)
DONE = b"data: [DONE]\n\n"


@given(st.lists(st.integers(1, 40), max_size=60))
def test_a_stream_comes_out_as_it_went_in_however_it_was_cut(cuts: list[int]) -> None:
    raw = b"".join([*STREAM, LAST, DONE])
    meter = StreamMeter(include_usage=True)
    out = b""
    for cut in cuts:
        out += meter.feed(raw[:cut])
        raw = raw[cut:]
    out += meter.feed(raw)
    assert out + meter.finish() == b"".join([*STREAM, LAST, DONE])
    assert meter.usage == Usage(3, 2)


def test_usage_is_for_those_who_asked() -> None:
    meter = StreamMeter(include_usage=False)
    out = meter.feed(b"".join([*STREAM, LAST, DONE]))
    assert out == b"".join(STREAM)
    assert meter.usage == Usage(3, 2)
    assert meter.finish("note") == b": note\n\n" + DONE


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_all_line_ends_are_understood(newline: bytes) -> None:
    meter = StreamMeter(include_usage=False)
    raw = b"".join([*STREAM, LAST, DONE]).replace(b"\n", newline)
    assert meter.feed(raw) == b"".join(STREAM).replace(b"\n", newline)
    assert meter.done


def test_a_finished_stream_may_lack_its_mark() -> None:
    meter = StreamMeter(include_usage=False)
    meter.feed(b"".join(STREAM))
    assert meter.finish() == DONE


@pytest.mark.parametrize(
    "events", [[], STREAM[:2], [*STREAM[:2], b'data: {"error": {"message": "died"}}\n\n', DONE], [STREAM[0][:-1]]]
)
def test_a_stream_that_breaks_off_has_no_end(events: list[bytes]) -> None:
    meter = StreamMeter(include_usage=False)
    meter.feed(b"".join(events))
    with pytest.raises(UpstreamFailed):
        meter.finish()


def test_an_event_without_an_end_is_not_waited_for() -> None:
    meter = StreamMeter(include_usage=False)
    for _ in range(20):
        assert meter.feed(b"x" * 50_000) == b""
    with pytest.raises(UpstreamFailed):
        meter.feed(b"x" * 50_000)


def test_events_that_nobody_understands_pass() -> None:
    meter = StreamMeter(include_usage=False)
    odd = b"event: ping\ndata: {not json\n\ndata: [1, 2]\n\ndata: 7\n\nid: 4\n\n"
    assert meter.feed(odd) == odd


@pytest.mark.parametrize(
    "stated",
    [
        None,
        [],
        {},
        {"prompt_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
    ],
)
def test_usage_without_sense_is_none(stated: Any) -> None:
    assert usage_of({"usage": stated}) is None


def test_the_comment_carries_the_receipt() -> None:
    receipt = Receipt.settled("0xabc", "eip155:84532", "0xpayer")
    marker, encoded = receipt_comment(receipt, {"quoted": "1"}).split(" ")
    assert marker == "x402-receipt"
    assert json.loads(base64.b64decode(encoded)) == receipt.as_json() | {"extra": {"charge": {"quoted": "1"}}}


@pytest.mark.parametrize(
    ("message", "empty"),
    [
        ({"role": "assistant", "content": ""}, True),
        ({"role": "assistant", "content": None}, True),
        ({"role": "assistant", "content": "x"}, False),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, False),
        ({"role": "assistant", "refusal": "no"}, False),
    ],
)
def test_empty_completions_are_told(message: dict[str, Any], empty: bool) -> None:
    assert is_empty({"choices": [{"message": message}]}) is empty
    assert is_empty({"choices": []})
    assert is_empty({"choices": [{"message": {"content": "x"}, "finish_reason": "error"}]})


def test_row_035_chunks_carry_the_name_that_was_asked_for() -> None:
    meter = StreamMeter(include_usage=False, model="vendor/story")
    out = meter.feed(event(delta("ü"), model="upstream-7") + event(delta("b", "stop"), model="vendor/story") + DONE)
    first, second = (json.loads(frame.removeprefix(b"data: ")) for frame in out.strip().split(b"\n\n"))
    assert (first["model"], second["model"]) == ("vendor/story", "vendor/story")
    assert first["choices"] == delta("ü")
    assert out.endswith(event(delta("b", "stop"), model="vendor/story"))


def test_half_an_emoji_goes_out_as_it_came_in_beside_the_name_that_was_asked_for() -> None:
    """A model may end one chunk in the midst of a character, which is an escape that no UTF-8 can carry."""
    meter = StreamMeter(include_usage=False, model="asked")
    halves = [event(delta("\ud83d"), model="theirs"), event(delta("\ude00 ü"), model="theirs")]
    told = [json.loads(part[len(b"data: ") :]) for part in meter.feed(b"".join(halves)).split(b"\n\n") if part]
    assert [chunk["model"] for chunk in told] == ["asked", "asked"]
    said = "".join(chunk["choices"][0]["delta"]["content"] for chunk in told)
    assert said.encode("utf-16", "surrogatepass").decode("utf-16") == "\U0001f600 ü"


def test_E04_what_nests_too_deeply_to_be_written_again_passes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(*_: Any, **__: Any) -> str:
        raise RecursionError

    chunk = event(delta("a"), model="theirs")
    monkeypatch.setattr(json, "dumps", too_deep)
    assert StreamMeter(include_usage=False, model="asked").feed(chunk) == chunk


@pytest.mark.parametrize("choices", [7, "x", {"a": 1}, [7], [{"delta": 7}], [{"delta": {"content": 7}}]])
def test_chunks_of_no_known_shape_pass_and_say_nothing(choices: Any) -> None:
    meter = StreamMeter(include_usage=False)
    assert meter.feed(event(choices)) == event(choices)
    assert meter.said == 0


def test_what_passes_is_counted() -> None:
    call = {"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": "{}"}}]}
    for said, shown in (
        ({"content": "a"}, 1),
        ({"content": "abcde"}, 2),
        ({"content": "ü" * 4}, 2),
        ({"reasoning_content": "hm"}, 1),
        (call, 2),
        ({"role": "assistant", "content": ""}, 0),
    ):
        meter = StreamMeter(include_usage=False)
        meter.feed(event([{"index": 0, "delta": said}]))
        assert meter.said == shown, said

"""Row 87: what a model server must do to be sold, and what is said about one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from tests.gateway.inference.anthropic import KEY, vendor
from tests.gateway.inference.providers import Answer, Providers, chunk, events, usage_event
from x402.devnet.model import STORY
from x402.devnet.model import create_app as create_model
from x402.gateway.inference.catalogue import Upstream
from x402.gateway.inference.conformance import Report, examine
from x402.gateway.inference.upstream import UpstreamClient

Change = Callable[[dict[str, Any]], Response | None]


def good(asked: dict[str, Any]) -> Response:
    """A server that does everything right."""
    if not asked["messages"]:
        return JSONResponse({"error": {"message": "messages: at least one"}}, 400)
    tokens = min(asked["max_tokens"], 40)
    reason = "length" if asked["max_tokens"] <= 40 else "stop"
    if asked.get("tools"):
        made = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Bern"}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [made]}
        return JSONResponse({"choices": [{"message": message}], "usage": {"prompt_tokens": 9, "completion_tokens": 5}})
    if asked.get("stream"):
        return events(chunk("one two"), chunk(reason=reason), usage_event(9, tokens))
    message = {"role": "assistant", "content": "one two"}
    usage = {"prompt_tokens": 9, "completion_tokens": tokens}
    return JSONResponse({"choices": [{"message": message, "finish_reason": reason}], "usage": usage})


async def report(change: Change = lambda asked: None) -> Report:
    answer: Answer = lambda asked: change(asked) or good(asked)  # noqa: E731 - one expression, named for its type
    return await examine(UpstreamClient(Providers({"p": answer}).client()), Upstream("m", "http://p.test/v1"))


def failed(found: Report) -> set[str]:
    return {finding.name for finding in found.findings if not finding.passed}


async def test_row_087_a_good_server_passes() -> None:
    found = await report()
    assert (found.passed, failed(found), found.failures) == (True, set(), "")
    assert json.dumps(found.as_json())


async def test_row_087_our_own_demo_and_an_anthropic_server_pass() -> None:
    demo = httpx.AsyncClient(transport=httpx.ASGITransport(create_model()))
    found = await examine(UpstreamClient(demo), Upstream(STORY, "http://demo.test/v1"))
    assert found.passed, found.failures
    async with vendor() as house:
        client = UpstreamClient()
        found = await examine(client, Upstream("claude", house.url, KEY, "anthropic"))
        await client.close()
    # It counts nine tokens whatever it says: the very thing that is looked for.
    assert failed(found) == {"limit", "streamed limit"}


def plain(body: Any, status: int = 200) -> Change:
    return lambda asked: None if asked.get("stream") or not asked["messages"] else JSONResponse(body, status)


def streaming(*said: bytes) -> Change:
    return lambda asked: events(*said) if asked.get("stream") and asked["messages"] else None


SILENT = {"choices": [{"message": {"role": "assistant", "content": "hi"}}]}


@pytest.mark.parametrize(
    ("change", "failures", "words"),
    [
        (plain(SILENT), {"answer", "limit"}, "no usage in the answer"),
        (plain({"choices": [{"message": {"content": ""}}]}), {"answer", "limit"}, "says nothing"),
        (plain({"hello": 1}), {"answer", "limit", "tools"}, "has no choices"),
        (plain("gone", 503), {"answer", "limit", "tools"}, "no answer: HTTP 503"),
        (plain({"error": {"message": "no such model"}}, 400), {"answer", "limit", "tools"}, "no such model"),
        (streaming(chunk("hi"), chunk(reason="length"), b"data: [DONE]\n\n"), {"stream", "streamed limit"}, "no usage"),
        (streaming(chunk("hi"), chunk(reason="length")), {"stream", "streamed limit"}, "[DONE]"),
        (streaming(b'data: {"error": {}}\n\n'), {"stream", "streamed limit"}, "is an error"),
        (streaming(chunk("hi"), chunk(reason="stop"), usage_event(9, 8)), {"streamed limit"}, "finish_reason length"),
        (streaming(chunk("hi"), chunk(reason="length"), usage_event(9, 999)), {"streamed limit"}, "999 came"),
        (streaming(b"x" * 2_000_000), {"stream", "streamed limit"}, "no answer"),
        (streaming(chunk("x" * 900) * 400), {"stream", "streamed limit"}, "does not end"),
        (lambda asked: None if asked["messages"] else JSONResponse(SILENT), {"errors"}, "was answered"),
        (lambda asked: None if asked["messages"] else JSONResponse({}, 500), {"errors"}, "should be HTTP 400"),
    ],
)
async def test_row_087_it_says_what_fails(change: Change, failures: set[str], words: str) -> None:
    found = await report(change)
    assert not found.passed
    assert failed(found) - {"tools"} == failures - {"tools"}
    assert words in found.failures


async def test_row_087_tools_are_told_and_not_needed() -> None:
    found = await report(lambda asked: JSONResponse(SILENT) if asked.get("tools") else None)
    assert (failed(found), found.passed) == ({"tools"}, True)

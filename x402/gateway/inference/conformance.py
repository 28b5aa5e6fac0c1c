"""Whether a model server does what a gateway needs of it: asked with real requests, told in words (aimo row 87).

A stream without its usage earns nothing and a server that ignores `max_tokens` costs more than was quoted, so both keep
a provider out. Tools are a gift: without them it sells all the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from x402.gateway.inference.catalogue import Upstream
from x402.gateway.inference.events import data_of, next_event
from x402.gateway.inference.meter import StreamMeter, is_empty, usage_of
from x402.gateway.inference.upstream import UpstreamAnswer, UpstreamClient, UpstreamFailed
from x402.gateway.problem import ApiProblem
from x402.quote import Usage
from x402.wire.nesting import read_json

_HELLO = [{"role": "user", "content": "Count from one to fifty in words."}]
_LIMIT = 8
_STREAM_LIMIT = 256 * 1024
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}},
            "required": ["place"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. `words` say what is wrong, or what was seen; without `needed` it may fail."""

    name: str
    passed: bool
    words: str
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """What was found of one model at one server."""

    model: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether the server may sell."""
        return all(finding.passed for finding in self.findings if finding.needed)

    @property
    def failures(self) -> str:
        """What keeps it out, in one line."""
        return "; ".join(f"{one.name}: {one.words}" for one in self.findings if one.needed and not one.passed)

    def as_json(self) -> dict[str, Any]:
        """All of it for programs."""
        findings = [
            {"name": one.name, "passed": one.passed, "needed": one.needed, "words": one.words} for one in self.findings
        ]
        return {"model": self.model, "passed": self.passed, "findings": findings}


class _Wrong(Exception):
    """What is wrong, in words."""


async def examine(client: UpstreamClient, upstream: Upstream) -> Report:
    """Try everything that matters, at a server's expense: six short answers."""
    trials: tuple[tuple[str, Callable[[UpstreamClient, Upstream], Awaitable[str]], bool], ...] = (
        ("answer", _answer, True),
        ("stream", _stream, True),
        ("limit", _limit, True),
        ("streamed limit", _streamed_limit, True),
        ("errors", _errors, True),
        ("tools", _tools, False),
    )
    findings = []
    for name, trial, needed in trials:
        try:
            findings.append(Finding(name, True, await trial(client, upstream), needed))
        except _Wrong as wrong:
            findings.append(Finding(name, False, str(wrong), needed))
        except UpstreamFailed as failure:
            findings.append(Finding(name, False, f"no answer: {failure}", needed))
        except ApiProblem as problem:
            findings.append(Finding(name, False, f"it refused the request: {problem.message[:200]}", needed))
    return Report(upstream.model, tuple(findings))


async def _answer(client: UpstreamClient, upstream: Upstream) -> str:
    said = await _whole(client, upstream, _request(upstream, 64))
    if is_empty(said):
        raise _Wrong("the answer says nothing")
    usage = _usage(said)
    return f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out"


async def _limit(client: UpstreamClient, upstream: Upstream) -> str:
    said = await _whole(client, upstream, _request(upstream, _LIMIT))
    reasons = [choice.get("finish_reason") for choice in said.get("choices", []) if isinstance(choice, dict)]
    _within(_usage(said), reasons)
    return "max_tokens is kept, and told as length"


async def _stream(client: UpstreamClient, upstream: Upstream) -> str:
    usage, _ = await _streamed(client, upstream, 64)
    return f"ends with [DONE], usage in its last chunk ({usage.completion_tokens} tokens)"


async def _streamed_limit(client: UpstreamClient, upstream: Upstream) -> str:
    usage, reasons = await _streamed(client, upstream, _LIMIT)
    _within(usage, reasons)
    return "max_tokens is kept in a stream"


async def _errors(client: UpstreamClient, upstream: Upstream) -> str:
    wrong = _request(upstream, 8) | {"messages": []}
    try:
        answer = await client.open(upstream, wrong)
    except ApiProblem as problem:
        return f"a request without messages is HTTP {problem.status_code}"
    except UpstreamFailed as failure:
        if 400 <= failure.status < 500:
            return f"a request without messages is HTTP {failure.status}"
        raise _Wrong(f"a request without messages should be HTTP 400: {failure}") from None
    await answer.close()
    raise _Wrong("a request without messages should be HTTP 400, and was answered")


async def _tools(client: UpstreamClient, upstream: Upstream) -> str:
    choice = {"type": "function", "function": {"name": "weather"}}
    asked = _request(upstream, 128) | {"tools": [_TOOL], "tool_choice": choice}
    asked["messages"] = [{"role": "user", "content": "What is the weather in Bern?"}]
    said = await _whole(client, upstream, asked)
    for entry in said.get("choices", []):
        for call in (entry.get("message") or {}).get("tool_calls") or []:
            try:
                arguments = read_json(call["function"]["arguments"])
            except (ValueError, KeyError, TypeError, AttributeError):
                raise _Wrong("the arguments of a call are no JSON") from None
            if isinstance(arguments, dict):
                return "a forced call is made"
    raise _Wrong("a forced call was not made")


def _request(upstream: Upstream, limit: int) -> dict[str, Any]:
    return {"model": upstream.model, "messages": _HELLO, "max_tokens": limit}


async def _whole(client: UpstreamClient, upstream: Upstream, asked: dict[str, Any]) -> dict[str, Any]:
    answer = await client.open(upstream, asked)
    try:
        body = await answer.read()
    finally:
        await answer.close()
    try:
        said = read_json(body)
    except ValueError:
        raise _Wrong("the answer is no JSON") from None
    if not isinstance(said, dict) or not isinstance(said.get("choices"), list):
        raise _Wrong("the answer has no choices")
    return said


async def _streamed(client: UpstreamClient, upstream: Upstream, limit: int) -> tuple[Usage, list[Any]]:
    asked = _request(upstream, limit) | {"stream": True, "stream_options": {"include_usage": True}}
    answer = await client.open(upstream, asked)
    try:
        return await _followed(answer)
    finally:
        await answer.close()


async def _followed(answer: UpstreamAnswer) -> tuple[Usage, list[Any]]:
    if "text/event-stream" not in answer.content_type:
        raise _Wrong("a streamed answer is no text/event-stream")
    meter, passed = StreamMeter(include_usage=True), b""
    async for chunk in answer.chunks():
        passed += meter.feed(chunk)
        if len(passed) > _STREAM_LIMIT:
            raise _Wrong("a short answer does not end")
    if meter.failed:
        raise _Wrong("the stream is an error")
    if not meter.done:
        raise _Wrong("the stream does not end with data: [DONE]")
    if meter.usage is None:
        raise _Wrong("no usage in the stream: its last chunk before [DONE] must carry it, or nothing is earned")
    return meter.usage, list(_reasons(passed))


def _reasons(events: bytes) -> Iterator[Any]:
    event, rest = next_event(events)
    while event is not None:
        said = data_of(event)
        try:
            chunk = read_json(said or b"null")
        except ValueError:
            raise _Wrong("an event of the stream is no JSON") from None
        for choice in (chunk.get("choices") or []) if isinstance(chunk, dict) else []:
            yield choice.get("finish_reason") if isinstance(choice, dict) else None
        event, rest = next_event(rest)


def _usage(said: dict[str, Any]) -> Usage:
    usage = usage_of(said)
    if usage is None:
        raise _Wrong("no usage in the answer: prompt_tokens and completion_tokens are missing")
    if usage.prompt_tokens < 1:
        raise _Wrong("the usage says that the prompt had no tokens")
    return usage


def _within(usage: Usage, reasons: list[Any]) -> None:
    if usage.completion_tokens > _LIMIT:
        raise _Wrong(f"max_tokens was {_LIMIT}, and {usage.completion_tokens} came: a quote would not hold")
    if "length" not in reasons:
        raise _Wrong("an answer that was cut should say finish_reason length")

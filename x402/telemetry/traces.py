"""Facts as OpenTelemetry spans; the API and SDK belong to the `otel` extra.

A request is one span. Each step in it (the 402, verify, settle, the upstream) is a child, and the bill of the answer
joins what it used, by the semantic conventions for generative AI, with what was paid for it:

    gen_ai.operation.name, gen_ai.provider.name, gen_ai.request.model, gen_ai.usage.input_tokens, …output_tokens
    x402.network, x402.transaction, x402.paid_by, x402.charged_units, x402.quoted_units, x402.request_id

No prompt, payload, address of a payer or key is in any of them (faults E03, G06): facts hold none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from x402.errors import MisconfiguredError
from x402.telemetry import Fact, Observer

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

_OPERATIONS = {"chat.completions": "chat", "embeddings": "embeddings", "images": "generate_content"}
_GEN_AI = {
    "model": "gen_ai.request.model",
    "provider": "gen_ai.provider.name",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
}
_QUIET = ("gateway.", "signer.balance")
"""What is told again and again, and belongs in the metrics alone."""


def trace_facts(provider: TracerProvider | None = None, *, now_ns: Callable[[], int]) -> Observer:
    """An observer that makes a span of every fact with a duration, and an event of any other, within the request's
    span. `now_ns` is the wall clock; without a `provider` the process's own is used."""
    from opentelemetry import trace

    tracer = trace.get_tracer("x402", tracer_provider=provider)

    def observe(fact: Fact) -> None:
        if fact.name.startswith(_QUIET):
            return
        told = attributes_of(fact)
        if "duration_us" not in fact.attributes:
            current = trace.get_current_span()
            if fact.name == "answer.sold":
                current.set_attributes(told)
            current.add_event(fact.name, told)
            return
        end = now_ns()
        span = tracer.start_span(
            fact.name, start_time=end - int(fact.attributes["duration_us"]) * 1000, attributes=told
        )
        if "error" in fact.attributes:
            span.set_status(trace.StatusCode.ERROR, str(fact.attributes["error"]))
        span.end(end)

    return observe


def attributes_of(fact: Fact) -> dict[str, str | int]:
    """A fact's attributes by their public names."""
    told: dict[str, str | int] = {}
    for name, value in fact.attributes.items():
        if name == "endpoint":
            told["gen_ai.operation.name"] = _OPERATIONS.get(str(value), str(value))
        elif name == "error":
            told["error.type"] = value
        elif name != "duration_us":
            told[_GEN_AI.get(name, f"x402.{name}")] = value
    return told


class TracedRequests:
    """An ASGI app before another, which gives every HTTP request a span; a caller's `traceparent` is its parent."""

    def __init__(self, app: Any, *, provider: TracerProvider | None = None) -> None:
        from opentelemetry import trace

        self.app = app
        self._tracer: Tracer = trace.get_tracer("x402", tracer_provider=provider)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        carried: Mapping[str, str] = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        # The query may hold anything that a client has written, so the path alone is told.
        told = {"http.request.method": scope["method"], "url.path": scope["path"]}
        with self._tracer.start_as_current_span(
            f"{scope['method']} {scope['path']}", context=extract(carried), kind=SpanKind.SERVER, attributes=told
        ) as span:

            async def answer(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self.app(scope, receive, answer)


def export_traces() -> TracerProvider:
    """A provider that sends spans to where the variables OTEL_* say, and becomes the process's own.

    Raises `MisconfiguredError("extra_missing")` where the extra is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MisconfiguredError(
            "extra_missing", "traces need the extra otel: pip install 'x402-engine[otel]'"
        ) from error

    provider = TracerProvider(resource=Resource.create({"service.name": "x402-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider

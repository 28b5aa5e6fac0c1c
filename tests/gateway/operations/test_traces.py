"""Metrics and traces of a sale: what was used beside what was paid, and nothing of what was said. Row 97; E03, G06."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.gateway.operations.test_gateway_operations import CHAT, filled, sign_in
from x402.devnet.model import ECHO, demo_catalogue
from x402.devnet.model import create_app as create_model
from x402.errors import MisconfiguredError
from x402.gateway.app import create_app
from x402.gateway.inference.upstream import UpstreamClient
from x402.settings import GatewaySettings
from x402.telemetry import Fact, Telemetry
from x402.telemetry.traces import TracedRequests, export_traces, trace_facts

CANARY = "canary-51c2-in-confidence"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Watched:
    """A gateway whose spans are kept."""

    def __init__(self, shop: Any, town: Any) -> None:
        shop.open()
        shop.ledger._clock = lambda: shop.now
        self.spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        upstream = UpstreamClient(httpx.AsyncClient(transport=httpx.ASGITransport(create_model())))
        self.app = create_app(
            GatewaySettings.read(), catalogue=demo_catalogue("http://model.test/v1"), facilitator=shop.bank,
            pay_to=town.PAY_TO, ledger=shop.ledger, public_url="https://shop.example", upstream=upstream,
            clock=lambda: shop.now, telemetry=Telemetry([trace_facts(provider, now_ns=time.time_ns)]),
        )  # fmt: skip
        traced = TracedRequests(self.app, provider=provider)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(traced), base_url="http://gateway.test")


def asked(**members: Any) -> dict[str, Any]:
    return {"model": ECHO, "messages": [{"role": "user", "content": CANARY}], "max_tokens": 40, **members}


async def test_row_097_a_sale_is_one_trace_with_what_was_used_and_paid(shop: Any, town: Any) -> None:
    watched = Watched(shop, town)
    challenge = town.challenge_of(await watched.client.post(CHAT, json=asked()))
    header = shop.payer.pay(challenge)
    path = f"{CHAT}?q={CANARY}"
    assert (await watched.client.post(path, json=asked())).status_code == 402
    watched.spans.clear()
    paid = await watched.client.post(CHAT, json=asked(), headers=header | {"traceparent": PARENT})
    assert paid.status_code == 200
    spans: dict[str, Any] = {span.name: span for span in watched.spans.get_finished_spans()}
    root = spans[f"POST {CHAT}"]
    assert {"step.verify", "step.settle", "step.upstream"} <= set(spans)
    assert {span.context.trace_id for span in spans.values()} == {int(PARENT.split("-")[1], 16)}
    assert {span.parent.span_id for name, span in spans.items() if name.startswith("step.")} == {root.context.span_id}
    assert all(span.end_time >= span.start_time for span in spans.values())
    (sold,) = [event for event in root.events if event.name == "answer.sold"]
    usage = paid.json()["usage"]
    assert sold.attributes["gen_ai.operation.name"] == "chat"
    assert sold.attributes["gen_ai.request.model"] == ECHO
    assert sold.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert sold.attributes["x402.transaction"] == town.receipt_of(paid).transaction
    assert sold.attributes["x402.network"] == challenge.accepts[0].network
    assert root.attributes["http.response.status_code"] == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_E03_G06_no_span_and_no_metric_tells_what_was_said_or_signed(shop: Any, town: Any, stream: bool) -> None:
    watched = Watched(shop, town)
    await filled(shop, 1_000_000)
    challenge = town.challenge_of(await watched.client.post(f"{CHAT}?q={CANARY}", json=asked(stream=stream)))
    header = shop.payer.pay(challenge)
    await watched.client.post(f"{CHAT}?q={CANARY}", json=asked(stream=stream), headers=header)
    owned = sign_in(shop)
    assert (await watched.client.post(CHAT, json=asked(stream=stream), headers=owned)).status_code == 200
    page = (await watched.client.get("/metrics")).text
    spans = "".join(span.to_json() for span in watched.spans.get_finished_spans())
    assert "answer.sold" in spans, "the control"
    secrets = [CANARY, *header.values(), *owned.values(), shop.payer.address]
    for secret in secrets:
        assert secret not in spans
        assert secret not in page


async def test_row_097_metrics_tell_answers_tokens_and_what_waits(shop: Any, town: Any) -> None:
    watched = Watched(shop, town)
    await filled(shop, 1_000_000)
    assert (await watched.client.post(CHAT, json=asked(), headers=sign_in(shop))).status_code == 200
    await watched.app.state.paywall._companion.measure()
    page = (await watched.client.get("/metrics")).text
    assert f'x402_answers_total{{model="{ECHO}",outcome="served",paid_by="balance",provider="demo"}} 1.0' in page
    for name in ("x402_revenue_units_total", "x402_tokens_total", "x402_answer_seconds_count"):
        assert f"{name}{{" in page
    assert "x402_pending_payments 0.0" in page
    assert "x402_webhook_deliveries_due 0.0" in page
    assert f'x402_provider_up{{model="{ECHO}",provider="demo"}} 1.0' in page
    assert 'x402_seconds_count{fact="step.upstream"} 1.0' in page


def test_a_step_that_fails_is_told_as_such() -> None:
    told: list[Fact] = []
    ticks = iter([1_000_000, 4_000_000])
    with (
        pytest.raises(MisconfiguredError),
        Telemetry([told.append], timer_ns=lambda: next(ticks)).step("step.x", network="n"),
    ):
        raise MisconfiguredError("wrong", "words that nobody else reads")
    assert told == [Fact("step.x", {"network": "n", "error": "wrong", "duration_us": 3000})]


def test_traces_are_sent_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    provider = export_traces()
    assert provider is not None
    provider.shutdown()  # type: ignore[attr-defined]

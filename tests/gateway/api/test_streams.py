"""What a streamed answer is billed: the upstream's usage, our own count without one, nothing for nothing (row 43)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from x402.devnet.model import ECHO, create_app, demo_catalogue
from x402.gateway.inference.chat import ChatDesk
from x402.gateway.inference.router import Router
from x402.gateway.inference.upstream import UpstreamClient
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import BillFilter

Make = Callable[..., httpx.AsyncClient]
PATH = "/api/v1/chat/completions"
ASKED = {"model": ECHO, "messages": [{"role": "user", "content": "Hello, world!"}], "max_tokens": 50, "stream": True}


def event(delta: dict[str, Any] | None, finish: str | None = None, **members: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return f"data: {json.dumps({'model': ECHO, 'choices': choices, **members})}\n\n".encode()


def usage(prompt: int, completion: int) -> bytes:
    return event(None, usage={"prompt_tokens": prompt, "completion_tokens": completion})


SAID = [event({"role": "assistant", "content": ""}), event({"content": "Hello"}), event({"content": "!"})]
END, DONE = event({}, "stop"), b"data: [DONE]\n\n"


def streaming(*events: bytes) -> Starlette:
    async def chat(request: Request) -> Response:
        return StreamingResponse(iter(events), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


@pytest.mark.parametrize(
    ("events", "used", "complete"),
    [
        ([*SAID, END, usage(7, 2), DONE], (7, 2), True),
        ([*SAID, END, usage(10**6, 10**6), DONE], None, True),
        ([*SAID, END, DONE], (-1, 3), False),
    ],
    ids=["stated", "absurd", "counted"],
)
async def test_row_043_B17_a_stream_is_billed_by_its_usage_and_never_above_the_quote(
    shop: Any, town: Any, make: Make, events: list[bytes], used: tuple[int, int] | None, complete: bool
) -> None:
    client = make(streaming(*events))
    asked = town.challenge_of(await client.post(PATH, json=ASKED))
    paid = await client.post(PATH, json=ASKED, headers=shop.payer.pay(asked))
    assert paid.text.endswith("data: [DONE]\n\n")
    (bill,) = await SqlAccounts(shop.ledger).bills(BillFilter())
    metered = bill.metered
    assert metered.complete is complete
    assert (bill.quoted, bill.credited) == (asked.accepts[0].amount, bill.quoted - metered.charged)
    if used is None:
        assert metered.charged == bill.quoted
    else:
        assert metered.completion_tokens == used[1]
        assert 0 < metered.charged < bill.quoted


@pytest.mark.parametrize("events", [[SAID[0], END, usage(7, 0), DONE], [SAID[0], END, DONE], [END, usage(7, 5), DONE]])
async def test_row_086_a_stream_that_says_nothing_is_credited_whole(
    shop: Any, town: Any, make: Make, events: list[bytes]
) -> None:
    client = make(streaming(*events))
    asked = town.challenge_of(await client.post(PATH, json=ASKED))
    paid = await client.post(PATH, json=ASKED, headers=shop.payer.pay(asked))
    assert paid.status_code == 200
    (bill,) = await SqlAccounts(shop.ledger).bills(BillFilter())
    assert (bill.metered.charged, bill.credited) == (0, bill.quoted)


async def test_row_086_a_stream_that_ends_in_an_error_is_not_billed(shop: Any, town: Any, make: Make) -> None:
    client = make(streaming(*SAID, event({}, "error"), DONE))
    asked = town.challenge_of(await client.post(PATH, json=ASKED))
    broken = await client.post(PATH, json=ASKED, headers=shop.payer.pay(asked))
    assert "[DONE]" not in broken.text, "it breaks off, and does not look whole"
    assert await SqlAccounts(shop.ledger).bills(BillFilter()) == []
    assert await shop.entry(), "the payment is owed: the same request asks again, or it is paid back"


async def test_G03_every_chunk_is_metered_as_it_passes() -> None:
    """What a reader who hangs up owes is known at each moment, and never falls."""
    transport = httpx.ASGITransport(create_app())
    router = Router(demo_catalogue("http://model.test/v1"), UpstreamClient(httpx.AsyncClient(transport=transport)))
    desk = ChatDesk(router)
    sale: Any = type("Sale", (), {"metered": None, "receipt": None, "requirement": type("R", (), {"extra": {}})})()
    ordered = desk.order(json.dumps(ASKED).encode(), sale)
    charged = []
    async for _ in await desk.stream(ordered, sale):
        charged.append(sale.metered.charged)
    assert charged == sorted(charged)
    assert 0 < charged[-1] <= ordered.quoted.bound
    assert sale.metered.complete
    assert sale.metered.provider == "demo"

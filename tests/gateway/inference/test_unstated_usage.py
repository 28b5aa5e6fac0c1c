"""What a provider earns that states no usage: what was counted as it passed, within the quote (aimo rows 83, 86)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from tests.gateway.inference.providers import HELLO, Providers, chunk, events, stock, usage_event
from x402.billing import Bill
from x402.gateway.inference.tally import BYTES_PER_TOKEN
from x402.ports.accounts import BillFilter
from x402.quote import Item
from x402.signed_quote import peek

Make = Callable[..., httpx.AsyncClient]
PATH = "/api/v1/chat/completions"
SAID = "forty bytes of text are ten tokens here."
TOKENS = 10
PRICE = 2
"""Atomic USDC for each token, in and out."""


def unstated(asked: dict[str, Any]) -> Response:
    """Says its words, and nothing of what they used."""
    if asked.get("stream"):
        return events(chunk(SAID), chunk(reason="stop"), b"data: [DONE]\n\n")
    return JSONResponse({"choices": [{"message": {"content": SAID}, "finish_reason": "stop"}]})


def nonsense(asked: dict[str, Any]) -> Response:
    """The same with a usage that makes no sense."""
    usage = {"prompt_tokens": -1, "completion_tokens": "many"}
    return JSONResponse({"choices": [{"message": {"content": SAID}, "finish_reason": "stop"}], "usage": usage})


def cut_short(_: dict[str, Any]) -> Response:
    return events(chunk(SAID))


def silent(asked: dict[str, Any]) -> Response:
    if asked.get("stream"):
        return events(chunk(reason="stop"), b"data: [DONE]\n\n")
    return JSONResponse({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]})


def stated(asked: dict[str, Any]) -> Response:
    if asked.get("stream"):
        return events(chunk(SAID), chunk(reason="stop"), usage_event(7, 3))
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return JSONResponse({"choices": [{"message": {"content": SAID}, "finish_reason": "stop"}], "usage": usage})


def endless(_: dict[str, Any]) -> Response:
    return JSONResponse({"choices": [{"message": {"content": "x" * 10_000}, "finish_reason": "stop"}]})


async def sold(
    shop: Any, town: Any, make: Make, answer: Any, *, stream: bool = False, fee: int = 0, network: str = ""
) -> tuple[Bill | None, int, int]:
    """The bill of an answer, the tokens that its prompt is counted as, and the quoted bound."""
    client = make(Providers({"a": answer}), catalogue=stock({"a": str(PRICE)}, top=f"fee_percent = {fee}"))
    body = {"model": "m", "messages": HELLO, "max_tokens": 50, "stream": stream}
    challenge = town.challenge_of(await client.post(PATH, json=body))
    quoted = peek(challenge.accepts[0].extra["quote"]).quote
    await client.post(PATH, json=body, headers=shop.payer.pay(challenge, network or town.EVM))
    prompt = next(line.units for line in quoted.lines if line.item is Item.PROMPT)
    bills = await shop.gateway.state.paywall.members.book.bills(BillFilter())
    return (bills[0] if bills else None), -(-prompt // BYTES_PER_TOKEN), quoted.bound


@pytest.mark.parametrize("fee", [0, 10])
@pytest.mark.parametrize(("answer", "stream"), [(unstated, False), (unstated, True), (nonsense, False)])
async def test_row_083_who_states_no_usage_earns_what_was_counted(
    shop: Any, town: Any, make: Make, answer: Any, stream: bool, fee: int
) -> None:
    bill, prompt, bound = await sold(shop, town, make, answer, stream=stream, fee=fee)
    assert bill is not None
    counted = (prompt + TOKENS) * PRICE
    assert (bill.metered.provider, bill.metered.complete) == ("a", False), "the bill says that nobody stated it"
    assert (bill.metered.prompt_tokens, bill.metered.completion_tokens) == (prompt, TOKENS)
    assert bill.metered.charged == -(-counted * (100 + fee) // 100) <= bound
    assert bill.earned == bill.metered.charged - bill.metered.fee == counted
    assert bill.credited == bound - bill.metered.charged


@pytest.mark.parametrize("stream", [False, True])
async def test_row_083_control_who_states_it_earns_by_its_own_word(
    shop: Any, town: Any, make: Make, stream: bool
) -> None:
    bill, _, _ = await sold(shop, town, make, stated, stream=stream)
    assert bill is not None
    assert (bill.earned, bill.metered.complete) == (10 * PRICE, True)


async def test_row_083_an_unstated_answer_beyond_the_bound_earns_the_bound(shop: Any, town: Any, make: Make) -> None:
    bill, prompt, bound = await sold(shop, town, make, endless)
    assert bill is not None
    assert bill.earned == (prompt + 50) * PRICE <= bound


@pytest.mark.parametrize("stream", [False, True])
async def test_row_086_who_says_nothing_earns_nothing(shop: Any, town: Any, make: Make, stream: bool) -> None:
    bill, _, _ = await sold(shop, town, make, silent, stream=stream)
    assert bill is None or (bill.earned, bill.metered.charged) == (0, 0)


async def test_G04_a_stream_that_breaks_off_earns_nothing_while_its_payment_is_owed(
    shop: Any, town: Any, make: Make
) -> None:
    bill, _, _ = await sold(shop, town, make, cut_short, stream=True)
    assert bill is None, "the same payment is served again, or credited"

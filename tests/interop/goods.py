"""What is bought in a cell: the request, the answer that must come of it, and the price that is asked."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import httpx

from tests.interop.cells import Cell, Server
from tests.interop.five_lines import PRICE
from tests.interop.town import OFFICIAL_PRICE, Town
from x402 import networks

MODEL = "demo/echo-1"
MAX_TOKENS = 64
ASKING_SECONDS_MAX = 20


@dataclass(frozen=True)
class Goods:
    """One thing on sale. `price` is in atomic USDC; `base` is the seller's URL without the path."""

    url: str
    base: str
    method: str
    body: dict[str, Any] | None
    answer: str
    price: int

    @property
    def question(self) -> str:
        """What the model is asked."""
        assert self.body is not None
        return str(self.body["messages"][0]["content"])


def order(cell: Cell, town: Town) -> Goods:
    """The goods of a cell. The gateway is asked for its price with a request that carries no payment.

    Raises `httpx.HTTPError` where nobody answers, `ValueError` for an answer that asks for no payment on the cell's
    network.
    """
    base = town.server(cell)
    question = f"Grüße aus 東京, {cell.name}"
    chat = {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": MAX_TOKENS}
    if cell.server is Server.PAYWALL:
        return Goods(f"{base}/report", base, "GET", None, "five lines", atomic(PRICE))
    if cell.server in (Server.FASTAPI, Server.EXPRESS):
        return Goods(f"{base}/both", base, "POST", chat, question, atomic(OFFICIAL_PRICE))
    if cell.streams:
        chat |= {"stream": True}
    url = f"{base}/api/{'alpha' if cell.server is Server.GATEWAY_ALPHA else 'v1'}/chat/completions"
    return Goods(url, base, "POST", chat, f"You said: {question}", asked(cell, url, chat))


def atomic(price: str) -> int:
    """Atomic USDC of a price such as `$0.0017`, which has a whole number of them."""
    whole, _, fraction = price.removeprefix("$").partition(".")
    return int(whole) * 10**6 + int(fraction.ljust(6, "0"))


def asked(cell: Cell, url: str, body: dict[str, Any]) -> int:
    """Atomic USDC in the seller's offer on the cell's network, read from the wire without any codec of ours."""
    response = httpx.post(url, json=body, timeout=ASKING_SECONDS_MAX, trust_env=False)
    if response.status_code != 402:
        raise ValueError(f"asked without a payment it answers HTTP {response.status_code}: {response.text[:300]}")
    if cell.version == 1:
        network, name, offers = networks.to_v1(cell.network), "maxAmountRequired", response.json()["accepts"]
    else:
        challenge = json.loads(base64.b64decode(response.headers["PAYMENT-REQUIRED"]))
        network, name, offers = cell.network, "amount", challenge["accepts"]
    # On Base the gateway offers `upto` as well; what the cells buy is `exact`.
    prices = [int(offer[name]) for offer in offers if (offer["network"], offer["scheme"]) == (network, "exact")]
    if len(prices) != 1:
        raise ValueError(f"{len(prices)} offers on {network} in version {cell.version}")
    return prices[0]


def read_answer(cell: Cell, text: str) -> str:
    """What a body says, in the words of `Goods.answer`. Raises `ValueError` for a body of another shape."""
    try:
        if cell.streams:
            return _read_stream(text)
        content = json.loads(text)
        if cell.server is Server.PAYWALL:
            return str(content["seller"])
        if cell.server in (Server.FASTAPI, Server.EXPRESS):
            return str(content["echo"]["messages"][0]["content"])
        return str(content["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{error!r} in {text[:200]}") from error


def _read_stream(text: str) -> str:
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        raise ValueError("the stream has no end")
    if not any(line.startswith(": x402-receipt ") for line in text.splitlines()):
        raise ValueError("the stream ends without a receipt")
    deltas = [choice["delta"] for event in events[:-1] for choice in json.loads(event)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)

"""What the demo buys, and everything that can be seen while it does: each step as it happens, in one record.

The client's requests and replies are watched from outside, through the HTTP client's own hooks, and the facilitator's
facts come from its telemetry; nothing here takes part in a payment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from x402 import networks
from x402.client.auth import X402Auth
from x402.client.chat import AsyncChat
from x402.quote import Quote
from x402.signed_quote import peek
from x402.telemetry import Fact
from x402.wire.challenge import BalanceEmpty, Challenge, Requirement, read_challenge
from x402.wire.headers import PAYMENT_REQUIRED
from x402.wire.payment import Payment, read_payment
from x402.wire.receipt import Receipt

_TIMEOUT_SECONDS = 30.0
_READING_SECONDS = 14.0
"""How long the demo goes at a reader's pace."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """One answer to buy: on which network (CAIP-2), in which version of x402, streamed or whole."""

    network: str
    version: int
    stream: bool
    model: str
    prompt: str
    max_tokens: int

    @property
    def title(self) -> str:
        """The purchase in a few words."""
        how = "streamed" if self.stream else "whole answer"
        return f"{networks.get(self.network).title} · {how} · x402 v{self.version}"


PURCHASES = tuple(
    Purchase(network, version, stream, model, prompt, max_tokens)
    for network in (networks.BASE_SEPOLIA, networks.SOLANA_DEVNET)
    for version, stream, model, prompt, max_tokens in (
        (2, False, "demo/echo-1", "A wallet with no account may speak here.", 32),
        (2, True, "demo/story-1", "Tell me how a payment found its way home.", 64),
        (1, False, "demo/echo-1", "Version one still works.", 24),
        (1, True, "demo/story-1", "And streams in version one?", 32),
    )
)


@dataclass(slots=True)
class Seen:
    """Everything that was seen of one purchase."""

    purchase: Purchase
    challenge: Challenge | None = None
    offer: Requirement | None = None
    quote: Quote | None = None
    payment: Payment | None = None
    text: str = ""
    chunks: list[str] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    receipt: Receipt | None = None
    milliseconds: int = 0
    facts: list[Fact] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The record for programs."""
        from x402.cli import tariff

        purchase = self.purchase
        return {
            "title": purchase.title,
            "network": purchase.network,
            "version": purchase.version,
            "stream": purchase.stream,
            "model": purchase.model,
            "offers": [offer.as_json() for offer in self.challenge.accepts] if self.challenge else [],
            "quote": tariff.as_json(self.quote) if self.quote else None,
            "amount": str(self.offer.amount) if self.offer else None,
            "paymentHeader": self.payment.header_name if self.payment else None,
            "steps": [fact.name for fact in self.facts],
            "answer": self.text,
            "chunks": len(self.chunks),
            "usage": self.usage,
            "receipt": self.receipt.as_json() if self.receipt else None,
            "milliseconds": self.milliseconds,
        }


Tell = Callable[[str, Seen], None]
"""`tell(step, seen)`: a step was seen; the record holds what is known by now."""


class Shopper:
    """Buys, one purchase at a time, and tells each step. Give `hear` to the town as an observer.

    `pauses` are seconds to wait after a step, so that people can read along; on a slow machine they are soon given up.
    """

    def __init__(self, tell: Tell, pauses: Mapping[str, float] | None = None) -> None:
        self._tell = tell
        self._pauses = pauses or {}
        self._hurry_at = time.monotonic() + _READING_SECONDS
        self._seen: Seen | None = None
        self._began = self._waited = 0.0

    def hear(self, fact: Fact) -> None:
        """Take notice of what facilitator and gateway do."""
        if self._seen is not None:
            self._seen.facts.append(fact)
            if fact.name in ("verify.valid", "settle.settled"):
                self._tell(fact.name, self._seen)

    async def buy(self, purchase: Purchase, base_url: str, auth: X402Auth) -> Seen:
        """One purchase, from the question to the receipt. Raises an `X402Error` when it does not succeed."""
        seen = self._seen = Seen(purchase)
        self._began, self._waited = time.monotonic(), 0.0
        await self._step("ask", seen)
        transport = _VersionOne() if purchase.version == 1 else httpx.AsyncHTTPTransport()
        hooks: dict[str, list[Callable[..., Any]]] = {"request": [self._sending], "response": [self._received]}
        try:
            async with (
                httpx.AsyncClient(
                    transport=transport, event_hooks=hooks, timeout=_TIMEOUT_SECONDS, trust_env=False
                ) as client,
                AsyncChat(base_url, auth=auth, http_client=client, api_key="") as chat,
            ):
                await (self._stream(chat, seen) if purchase.stream else self._whole(chat, seen))
        finally:
            self._seen = None
        await self._step("receipt", seen)
        return seen

    async def _whole(self, chat: AsyncChat, seen: Seen) -> None:
        answer = await chat.create(**_question(seen.purchase))
        usage = answer.usage
        seen.text, seen.receipt, seen.usage = answer.text, answer.receipt, usage.as_json() if usage else None
        self._clock(seen)
        self._tell("answer", seen)

    async def _stream(self, chat: AsyncChat, seen: Seen) -> None:
        stream = await chat.stream(**_question(seen.purchase))
        async with stream:
            async for chunk in stream:
                seen.chunks.append(chunk.text)
                self._tell("chunk", seen)
        usage = stream.usage
        seen.text, seen.receipt, seen.usage = stream.text, stream.receipt, usage.as_json() if usage else None
        self._clock(seen)
        self._tell("answer", seen)

    async def _step(self, step: str, seen: Seen) -> None:
        self._tell(step, seen)
        pause = self._pauses.get(step, 0)
        if pause and time.monotonic() < self._hurry_at:
            await asyncio.sleep(pause)
            self._waited += pause

    def _clock(self, seen: Seen) -> None:
        seen.milliseconds = round((time.monotonic() - self._began - self._waited) * 1000)

    async def _sending(self, request: httpx.Request) -> None:
        seen = self._seen
        payment = read_payment(request.headers.multi_items())
        if seen is None or payment is None:
            return
        seen.payment = payment
        seen.offer = payment.accepted or _on_network(seen.challenge, payment.network)
        await self._step("signed", seen)

    async def _received(self, response: httpx.Response) -> None:
        seen = self._seen
        if seen is None or response.status_code != 402 or seen.challenge is not None:
            return
        heard = read_challenge(response.headers.multi_items(), await response.aread())
        if isinstance(heard, BalanceEmpty):
            return
        seen.challenge = heard
        token = next((offer.extra["quote"] for offer in heard.accepts if "quote" in offer.extra), None)
        seen.quote = peek(token).quote if isinstance(token, str) else None
        await self._step("challenge", seen)


class _VersionOne(httpx.AsyncHTTPTransport):
    """The eyes of a client from the days of x402 v1: it sees bodies, and no header of version 2."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if PAYMENT_REQUIRED in response.headers:
            del response.headers[PAYMENT_REQUIRED]
        return response


def _question(purchase: Purchase) -> dict[str, Any]:
    messages = [{"role": "user", "content": purchase.prompt}]
    question = {"model": purchase.model, "messages": messages, "max_tokens": purchase.max_tokens}
    return question | ({"stream_options": {"include_usage": True}} if purchase.stream else {})


def _on_network(challenge: Challenge | None, network: str) -> Requirement | None:
    offers = challenge.accepts if challenge else ()
    return next((offer for offer in offers if offer.network == network), None)

"""The paid paths: chat completions, embeddings and images, in every profile that has them, and what they would cost."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from x402.gateway.api.estimates import estimate
from x402.gateway.api.profiles import LEGACY, MOUNTED, Profile
from x402.gateway.counter import PriceRule
from x402.gateway.inference.chat import ChatDesk
from x402.gateway.inference.desk import Completion, Desk, Ordered
from x402.gateway.inference.embeddings import EMBEDDINGS
from x402.gateway.inference.images import IMAGES
from x402.gateway.inference.router import Router
from x402.gateway.inference.selection import REGION
from x402.gateway.sale import Sale
from x402.wire.strict import dump_json

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Desks:
    """Everything that is sold, by its kind."""

    chat: ChatDesk
    embeddings: Desk[Any]
    images: Desk[Any]

    @classmethod
    def over(cls, router: Router) -> Desks:
        """The desks that sell what a router can reach."""
        return cls(ChatDesk(router), Desk(router, EMBEDDINGS), Desk(router, IMAGES))


def add_selling(app: FastAPI, desks: Desks) -> dict[str, PriceRule]:
    """Add the paid paths and the estimates; returns the prices, for the paywall."""
    prices: dict[str, PriceRule] = {}
    for profile in MOUNTED:
        tag: list[Any] = [profile.name]
        for path, desk in _paths(profile, desks):
            endpoint = _chat(profile, desk) if isinstance(desk, ChatDesk) else _whole(profile, desk)
            app.add_api_route(profile.base + path, endpoint, methods=["POST"], tags=tag, name=path.strip("/"))
            prices[f"POST {profile.base}{path}"] = desk.price
        app.add_api_route(f"{profile.base}/estimate", _estimate(profile, desks), methods=["POST"], tags=tag)
    return prices


def _paths(profile: Profile, desks: Desks) -> list[tuple[str, Desk[Any]]]:
    paths: list[tuple[str, Desk[Any]]] = [
        ("/chat/completions", desks.chat),
        ("/embeddings", desks.embeddings),
        ("/images/generations", desks.images),
    ]
    # The older documents call the chat so once, and nothing else does (aimo row 5).
    return [*paths, ("/inference", desks.chat)] if profile is LEGACY else paths


def _chat(profile: Profile, desk: ChatDesk) -> Endpoint:
    whole = _whole(profile, desk)

    async def chat_completions(request: Request) -> Response:
        """An OpenAI chat completion, paid per call. Without a payment: 402 with the offers."""
        sale = request.scope.get("x402")
        ordered = desk.order(await request.body(), sale, region=request.headers.get(REGION, ""))
        if not ordered.request.stream:
            return await whole(request)
        events = await desk.stream(ordered, sale, request_id=request.state.request_id)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    return chat_completions


def _whole(profile: Profile, desk: Desk[Any]) -> Endpoint:
    async def completion(request: Request) -> Response:
        """One answer, paid per call. Without a payment: 402 with the offers."""
        sale = request.scope.get("x402")
        ordered = desk.order(await request.body(), sale, region=request.headers.get(REGION, ""))
        begun = time.monotonic()
        done = await desk.complete(ordered, sale, request_id=request.state.request_id)
        if not profile.wrapped:
            return Response(done.body if sale is None else billed(done, sale), media_type="application/json")
        latency_ms = round((time.monotonic() - begun) * 1000)
        return JSONResponse(wrapped(done, ordered, request.state.request_id, latency_ms))

    return completion


def billed(done: Completion, sale: Sale) -> bytes:
    """An answer with its bill beside its own members, where nothing of that name is there already (aimo row 81)."""
    if "x402" in done.members or "charge" not in sale.notes:
        return done.body
    return dump_json({**done.members, "x402": {"id": sale.pay_id, "charge": sale.notes["charge"]}}).encode()


def wrapped(done: Completion, ordered: Ordered[Any], request_id: str, latency_ms: int) -> dict[str, Any]:
    """An answer as the older documents wrap it (aimo rows 36, 37, 60).

    Their own examples read `choices[0]` at the top, so the answer's members stand there as well, as far as they do not
    collide with the wrapping.
    """
    meta = {
        "request_id": request_id,
        "model": ordered.request.model,
        "provider": done.provider,
        "latency_ms": latency_ms,
    }
    return {**done.members, "success": True, "data": done.members, "meta": meta}


def _estimate(profile: Profile, desks: Desks) -> Endpoint:
    async def estimate_price(request: Request) -> Response:
        """The itemised quote of a request, without a payment. The body is that of the request itself."""
        body = estimate(await request.body(), desks.chat, desks.embeddings, desks.images)
        if profile.wrapped:
            body = {"success": True, "data": body, "meta": {"request_id": request.state.request_id}}
        return Response(dump_json(body), media_type="application/json")

    return estimate_price

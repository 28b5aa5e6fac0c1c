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
from x402.gateway.inference.batch import BatchDesk
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
    batch: BatchDesk

    @classmethod
    def over(cls, router: Router) -> Desks:
        """The desks that sell what a router can reach."""
        chat = ChatDesk(router)
        return cls(chat, Desk(router, EMBEDDINGS), Desk(router, IMAGES), BatchDesk(chat))


@dataclass(frozen=True, slots=True)
class Good:
    """One paid path: its price, and the name of its body in `schemas.SCHEMAS`."""

    path: str
    price: PriceRule
    body: str


def add_selling(app: FastAPI, desks: Desks) -> list[Good]:
    """Add the paid paths and the estimates; returns what is to be priced."""
    goods = []
    for profile in MOUNTED:
        tag: list[Any] = [profile.name]
        for path, desk, body in _paths(profile, desks):
            route, name = profile.base + path, path.strip("/")
            endpoint = _completion(profile, desk)
            app.add_api_route(route, endpoint, methods=["POST"], tags=tag, name=name, response_class=Response)
            goods.append(Good(route, desk.price, body))
        route = f"{profile.base}/batch"
        app.add_api_route(
            route, _batch(profile, desks.batch), methods=["POST"], tags=tag, name="batch", response_class=Response
        )
        goods.append(Good(route, desks.batch.price, "BatchRequest"))
        app.add_api_route(f"{profile.base}/estimate", _estimate(profile, desks), methods=["POST"], tags=tag)
    return goods


def _paths(profile: Profile, desks: Desks) -> list[tuple[str, Desk[Any], str]]:
    paths: list[tuple[str, Desk[Any], str]] = [
        ("/chat/completions", desks.chat, "ChatRequest"),
        ("/embeddings", desks.embeddings, "EmbeddingsRequest"),
        ("/images/generations", desks.images, "ImagesRequest"),
    ]
    # The older documents call the chat so once, and nothing else does (aimo row 5).
    return [*paths, ("/inference", desks.chat, "ChatRequest")] if profile is LEGACY else paths


def _batch(profile: Profile, desk: BatchDesk) -> Endpoint:
    async def batch_completion(request: Request) -> Response:
        """Many chat completions of one model under one payment, answered in order. Without a payment: 402."""
        sale = request.scope.get("x402")
        batch = desk.order(await request.body(), sale, region=request.headers.get(REGION, ""))
        body = await desk.complete(batch, sale, request_id=request.state.request_id)
        if profile.wrapped:
            body = {"success": True, "data": body, "meta": {"request_id": request.state.request_id}}
        return JSONResponse(body)

    return batch_completion


def _completion(profile: Profile, desk: Desk[Any]) -> Endpoint:
    async def completion(request: Request) -> Response:
        """One answer, paid per call. Without a payment: 402 with the offers."""
        sale, request_id = request.scope.get("x402"), request.state.request_id
        ordered = desk.order(await request.body(), sale, region=request.headers.get(REGION, ""))
        if isinstance(desk, ChatDesk) and ordered.request.stream:
            events = await desk.stream(ordered, sale, request_id=request_id)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        begun = time.monotonic()
        done = await desk.complete(ordered, sale, request_id=request_id)
        if not profile.wrapped:
            return Response(done.body if sale is None else billed(done, sale), media_type="application/json")
        latency_ms = round((time.monotonic() - begun) * 1000)
        return Response(dump_json(wrapped(done, ordered, request_id, latency_ms)), media_type="application/json")

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

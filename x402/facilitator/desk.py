"""The facilitator's desk: how a body is read and a refusal written, and a short way for the routes that are asked all
the time.

A framework's way to a route costs as much as reading a payment and checking all its rules. `/verify` and `/settle` need
none of it; every other path, and every other method of theirs, takes the long way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from x402.errors import LimitedError, MalformedError, UnavailableError, UnidentifiedError, X402Error
from x402.wire.facilitation import Facilitation, parse_facilitation
from x402.wire.strict import BODY_LIMIT, parse_object

Route = Callable[[Request], Awaitable[Response]]


class Desk:
    """ASGI middleware: a POST to one of `routes` (by path) is answered here, everything else by `app`."""

    def __init__(self, app: ASGIApp, routes: Mapping[str, Route]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await route(request)
        except X402Error as error:
            response = await explain(request, error)
        await response(scope, receive, send)


async def read(request: Request) -> Facilitation:
    """The body of `/verify` or `/settle`. Raises `MalformedError`, also for one that is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise MalformedError("body_too_large", f"the body is larger than {BODY_LIMIT} bytes")
    return parse_facilitation(parse_object(bytes(body)))


async def explain(_: Request, error: Exception) -> JSONResponse:
    """The answer that says what an error of ours means, and when to ask again. Raises every other error."""
    if not isinstance(error, X402Error):
        raise error
    headers: dict[str, str] = {}
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = "2"
    if isinstance(error, LimitedError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, UnidentifiedError):
        headers["WWW-Authenticate"] = "Bearer"
    body: dict[str, Any] = {"error": error.message, **error.as_json()}
    return JSONResponse(body, status_code=error.status, headers=headers)


async def astray(_: Request, error: Exception) -> JSONResponse:
    """The answer to a request for what is not served. Raises every error but Starlette's own."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)

"""A proxy on this machine that speaks OpenAI's API, and signs and pays what it passes on (design §1).

Any program that takes a base URL becomes pay-per-call: point it at `http://127.0.0.1:8080/v1`. Whoever can reach the
proxy spends the wallet's money, within its limits, so it answers this machine's programs only: a web page is refused by
its `Origin`, a foreign name by the `Host`, and on any other address a key is required.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from x402.client.answers import receipt_in
from x402.client.auth import X402Auth
from x402.client.chat_stream import broken
from x402.client.events import Comment, EventDecoder
from x402.client.line import moved_by
from x402.client.profile import OURS, Profile
from x402.errors import ApiError, MalformedError, MisconfiguredError, Moved, PendingError, X402Error
from x402.wire.headers import PAYMENT_HEADERS, SIGN_IN_WITH_X

BODY_LIMIT = 32 * 1024 * 1024
"""Most bytes of a request that are passed on; images travel inside chat messages."""
_TIMEOUT = httpx.Timeout(300, connect=10)

_NOT_SENT = {
    "authorization", "cookie", "host", "content-length", "connection", "keep-alive", "proxy-authorization", "te",
    "trailer", "transfer-encoding", "upgrade", "accept-encoding", "expect", SIGN_IN_WITH_X.lower(),
    *(name.lower() for name in PAYMENT_HEADERS),
}  # fmt: skip
"""What stays here: credentials of the program that asks, which are none with the seller, and what is about the hop."""
_NOT_RETURNED = {
    "connection",
    "content-encoding",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "set-cookie",
    "trailer",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """Who may use the proxy. With a `key` whoever has it, from anywhere; without one this machine's programs alone.

    `origins` are those of web pages that may ask, such as `http://localhost:3000`.
    """

    key: str = ""
    origins: Collection[str] = ()

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise `ApiError` 401 or 403 for a request that may not spend (faults F16, G01)."""
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins:
            raise ApiError(403, "origin_refused", "a web page asks, and pages may not spend: name its origin to let it")
        if self.key:
            shown = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(shown.encode(), self.key.encode()):
                raise ApiError(401, "proxy_key_required", "the proxy's own key is required: Authorization: Bearer …")
        elif not is_loopback(urlsplit("//" + headers.get("host", "")).hostname or ""):
            raise ApiError(403, "host_refused", "the proxy answers on this machine's own names only")


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def create_app(
    base_url: str,
    auth: X402Auth | None,
    *,
    profile: Profile = OURS,
    api_key: str = "",
    guard: Guard | None = None,
    http_client: httpx.AsyncClient | None = None,
) -> Starlette:
    """The proxy of one seller as an ASGI app: `/v1/...` is passed on to `base_url` and paid by `auth`.

    `api_key` is the caller's own with the seller, where it has one instead of a wallet. Only a POST is ever paid for.
    Raises `MisconfiguredError("no_base_url")`.
    """
    if not base_url.startswith(("http://", "https://")):
        raise MisconfiguredError("no_base_url", "name the seller's URL, or set X402_BASE_URL")
    client = http_client or httpx.AsyncClient(timeout=_TIMEOUT)
    window = _Window(client, base_url, auth, profile, api_key, guard or Guard())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    pages = [Middleware(CORSMiddleware, allow_origins=list(window.origins), allow_methods=["*"], allow_headers=["*"])]
    return Starlette(
        middleware=pages if window.origins else [],
        routes=[
            Route("/health", window.health, methods=["GET"]),
            Route("/v1/{path:path}", window.pass_on, methods=["GET", "POST", "DELETE"]),
        ],
        lifespan=lifespan,
    )


class _Window:
    """Takes a program's request, makes it to the seller, and hands the answer back as it comes."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        base_url: str,
        auth: X402Auth | None,
        profile: Profile,
        api_key: str,
        guard: Guard,
    ) -> None:
        self._client, self._base_url, self._auth = client, base_url, auth
        self._profile, self._api_key, self._guard = profile, api_key, guard

    @property
    def origins(self) -> Collection[str]:
        """The web pages that may ask."""
        return self._guard.origins

    async def health(self, _: Request) -> Response:
        """The process is alive."""
        return JSONResponse({"status": "ok"})

    async def pass_on(self, request: Request) -> Response:
        """One request and its answer; whatever goes wrong here is told in OpenAI's shape."""
        try:
            self._guard.check(request.headers)
            response = await self._send(request, await _body(request))
        except X402Error as error:
            return _told(error)
        except httpx.HTTPError as error:
            paid = request.method == "POST" and self._auth is not None
            return _told(broken(error, Moved.UNKNOWN if paid else Moved.NO), status=502)
        except ClientDisconnect:
            return Response(status_code=499)
        kept = {name: value for name, value in response.headers.items() if name.lower() not in _NOT_RETURNED}
        return StreamingResponse(self._bytes(response), response.status_code, kept)

    async def _send(self, request: Request, body: bytes) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_SENT}
        # A compressed stream would hide its receipt and its end from us.
        headers["Accept-Encoding"] = "identity"
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        query = f"?{request.url.query}" if request.url.query else ""
        url = self._profile.url(request.path_params["path"], self._base_url) + query
        outgoing = self._client.build_request(request.method, url, headers=headers, content=body or None)
        auth: Any = self._auth
        if auth is not None and request.method != "POST":
            auth = auth.sign_in
        return await self._client.send(outgoing, auth=auth, stream=True)

    async def _bytes(self, response: httpx.Response) -> AsyncIterator[bytes]:
        events = "event-stream" in response.headers.get("content-type", "")
        decoder = EventDecoder() if events else None
        try:
            async for piece in response.aiter_bytes():
                yield piece
                try:
                    if decoder is not None:
                        await self._note(response, decoder, piece)
                except MalformedError:
                    decoder = None  # Who reads the stream may understand it; only its receipt stays unknown here.
        except httpx.HTTPError as error:
            # The headers are gone, so only a stream of events can still say what happened.
            if events:
                yield _event(broken(error, moved_by(response)))
        finally:
            await response.aclose()

    async def _note(self, response: httpx.Response, decoder: EventDecoder, piece: bytes) -> None:
        """Take the receipt that comes in a comment of the stream into the journal."""
        auth = self._auth
        for item in decoder.feed(piece):
            receipt = receipt_in(item.text) if isinstance(item, Comment) else None
            if auth is not None and receipt is not None:
                await anyio.to_thread.run_sync(auth.note_receipt, response, receipt)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_LIMIT:
            raise ApiError(413, "request_too_large", f"a request is larger than {BODY_LIMIT} bytes")
    return bytes(body)


def _told(error: X402Error, *, status: int | None = None) -> Response:
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, PendingError) else None
    code = status or (502 if isinstance(error, MalformedError) else error.status_code)
    return JSONResponse({"error": _members(error)}, code, headers)


def _event(error: X402Error) -> bytes:
    content = JSONResponse({"error": _members(error)}).body
    return b"data: " + bytes(content) + b"\n\n"


def _members(error: X402Error) -> dict[str, Any]:
    return {"type": "x402_error", "param": None, **error.as_json()}

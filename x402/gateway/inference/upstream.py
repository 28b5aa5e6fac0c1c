"""The gateway's side of an OpenAI-compatible model server: one pooled client, typed failures, bytes as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx

from x402.gateway.inference.catalogue import Upstream
from x402.gateway.problem import ApiProblem
from x402.wire.headers import REQUEST_ID

ANSWER_LIMIT = 8 * 1024 * 1024
FIRST_BYTE_SECONDS = 120.0
CONNECT_SECONDS = 10.0

_CALLERS_FAULT = frozenset({400, 413, 415, 422})


class UpstreamFailed(Exception):
    """This upstream gave no answer; another one may. `status` is its HTTP status, 0 when there was none."""

    def __init__(self, reason: str, *, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class UpstreamAnswer:
    """A successful answer whose first bytes have arrived, and the id of the provider that gives it; `close` it in any
    case."""

    def __init__(self, response: httpx.Response, chunks: AsyncIterator[bytes], first: bytes) -> None:
        self.content_type = response.headers.get("content-type", "")
        self.provider = ""
        self._response = response
        self._chunks = chunks
        self._first = first

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `UpstreamFailed` when it breaks off."""
        yield self._first
        try:
            async for chunk in self._chunks:
                yield chunk
        except httpx.HTTPError as error:
            raise UpstreamFailed(f"{type(error).__name__} in mid-answer") from error

    async def read(self) -> bytes:
        """The whole body. Raises `UpstreamFailed` when it breaks off or is longer than `ANSWER_LIMIT`."""
        pieces: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > ANSWER_LIMIT:
                raise UpstreamFailed(f"the answer is longer than {ANSWER_LIMIT} bytes")
            pieces.append(chunk)
        return b"".join(pieces)

    async def close(self) -> None:
        """Give the connection back."""
        await self._response.aclose()


class UpstreamClient:
    """Speaks to all upstreams. Redirects are not followed: they would carry the operator's key elsewhere."""

    def __init__(self, client: httpx.AsyncClient | None = None) -> None:
        timeout = httpx.Timeout(FIRST_BYTE_SECONDS, connect=CONNECT_SECONDS)
        self._client = client or httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def open(
        self, upstream: Upstream, body: dict[str, Any], *, path: str = "/chat/completions", request_id: str = ""
    ) -> UpstreamAnswer:
        """Send a request and wait for the first byte of its answer; `path` is where, below the base URL.

        Raises `UpstreamFailed` when another upstream may do better, `ApiProblem` when the request is at fault.
        """
        headers = {"Accept": "text/event-stream, application/json"}
        if upstream.api_key:
            headers["Authorization"] = f"Bearer {upstream.api_key}"
        if request_id:
            headers[REQUEST_ID] = request_id
        # Joined as text: a base URL without a trailing slash keeps its last part (aimo §1.7).
        url = upstream.api_base.rstrip("/") + path
        try:
            request = self._client.build_request("POST", url, json=body, headers=headers)
            response = await self._client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UpstreamFailed(type(error).__name__) from error
        try:
            if response.status_code != 200:
                raise await _failure(response)
            chunks = response.aiter_bytes()
            first = await anext(chunks, b"")
        except httpx.HTTPError as error:
            await response.aclose()
            raise UpstreamFailed(type(error).__name__) from error
        except BaseException:
            await response.aclose()
            raise
        if not first:
            await response.aclose()
            raise UpstreamFailed("an empty answer", status=200)
        return UpstreamAnswer(response, chunks, first)


async def _failure(response: httpx.Response) -> Exception:
    status = response.status_code
    if status not in _CALLERS_FAULT:
        return UpstreamFailed(f"HTTP {status}", status=status)
    error: Any = None
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > 64 * 1024:
            break
    try:
        error = httpx.Response(status, content=body).json().get("error")
    except (ValueError, AttributeError):
        error = None
    message = error.get("message") if isinstance(error, dict) else error
    code = error.get("code") if isinstance(error, dict) else None
    text = message[:500] if isinstance(message, str) else "the model server refused the request"
    known = code[:64] if isinstance(code, str) and code else "upstream_refused"
    return ApiProblem(status, known, text, kind="invalid_request_error")

"""The gateway's side of a model server: pooled connections, typed failures, bytes as they come.

Whatever API a server speaks, what leaves here is OpenAI's: adapters translate both ways (`inference/adapters`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from x402.gateway.inference.adapters import FORMATS
from x402.gateway.inference.adapters.api_format import CHAT, Translator
from x402.gateway.inference.catalogue import Provider, Upstream
from x402.gateway.problem import ApiProblem
from x402.ports.public_web import PublicWeb
from x402.wire.headers import REQUEST_ID
from x402.wire.nesting import read_json

ANSWER_LIMIT = 8 * 1024 * 1024
FIRST_BYTE_SECONDS = 120.0
CONNECT_SECONDS = 10.0

_CALLERS_FAULT = frozenset({400, 413, 415, 422})


class UpstreamFailed(Exception):
    """This upstream gave no answer; another one may. `status` is its HTTP status, 0 when there was none.

    `busy` says that it was not even asked, which is no fault of its own.
    """

    def __init__(self, reason: str, *, status: int = 0, busy: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.busy = busy


class UpstreamAnswer:
    """A successful answer whose first bytes have arrived; `close` it in any case.

    `provider` is who gives it, once a router has asked.
    """

    def __init__(self, response: httpx.Response, chunks: AsyncIterator[bytes], first: bytes) -> None:
        self.content_type = response.headers.get("content-type", "")
        self.first = first
        self.provider: Provider | None = None
        self._response = response
        self._chunks = chunks
        self._on_end: Callable[[bool, int], None] = _ignore
        self._leave: Callable[[], None] | None = None

    def watch(self, on_end: Callable[[bool, int], None], leave: Callable[[], None]) -> None:
        """Have somebody told how it ended, and its place at the provider given back when it is closed."""
        self._on_end, self._leave = on_end, leave

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `UpstreamFailed` when it breaks off."""
        yield self.first
        try:
            async for chunk in self._chunks:
                yield chunk
        except httpx.HTTPError as error:
            raise UpstreamFailed(f"{type(error).__name__} in mid-answer") from error

    async def read(self) -> bytes:
        """The whole body. Raises `UpstreamFailed` when it breaks off or is longer than `ANSWER_LIMIT`."""
        return await _whole(self.chunks())

    def ended(self, tokens: int = 0, *, broken: bool = False) -> None:
        """Say how the answer ended: whole, after so many tokens, or broken off."""
        self._on_end(broken, tokens)

    async def close(self) -> None:
        """Give the connection back, and the place at the provider; more than once does no harm."""
        self._give_back()
        await self._response.aclose()

    def _give_back(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    # A stream that nobody began to read is never closed: only its end tells that the place is free.
    __del__ = _give_back


def _ignore(broken: bool, tokens: int) -> None:
    pass


class UpstreamClient:
    """Speaks to all upstreams. Redirects are not followed: they would carry the operator's key elsewhere."""

    def __init__(
        self,
        client: httpx.AsyncClient | None = None,
        *,
        public: httpx.AsyncClient | None = None,
        trusted_hosts: frozenset[str] = frozenset(),
    ) -> None:
        """`public` is for upstreams that others have named; it refuses private addresses but for `trusted_hosts`
        (fault E05)."""
        timeout = httpx.Timeout(FIRST_BYTE_SECONDS, connect=CONNECT_SECONDS)
        self._client = client or httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False)
        self._public = public or httpx.AsyncClient(
            transport=PublicWeb(allow=trusted_hosts), timeout=timeout, follow_redirects=False, trust_env=False
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._public.aclose()

    async def open(
        self, upstream: Upstream, body: dict[str, Any], *, request_id: str = "", path: str = CHAT
    ) -> UpstreamAnswer:
        """Send a request and wait for the first byte of its answer. `path` is OpenAI's, below the base URL.

        Raises `UpstreamFailed` when another upstream may do better, `ApiProblem` when the request is at fault.
        """
        spoken = FORMATS[upstream.format]
        theirs = spoken.path(path)
        if theirs is None:
            raise UpstreamFailed(f"its API has no {path}", busy=True)
        headers = {"Accept": "text/event-stream, application/json", **spoken.headers(upstream.api_key)}
        if request_id:
            headers[REQUEST_ID] = request_id
        # Joined as text: a base URL without a trailing slash keeps its last part (aimo §1.7).
        url = upstream.api_base.rstrip("/") + theirs
        client = self._public if upstream.guarded else self._client
        try:
            request = client.build_request("POST", url, json=spoken.request(body), headers=headers)
            response = await client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UpstreamFailed(type(error).__name__) from error
        try:
            return await _begun(upstream, response)
        except httpx.HTTPError as error:
            await response.aclose()
            raise UpstreamFailed(type(error).__name__) from error
        except BaseException:
            await response.aclose()
            raise


async def _begun(upstream: Upstream, response: httpx.Response) -> UpstreamAnswer:
    if response.status_code != 200:
        raise await _failure(response)
    spoken, created = FORMATS[upstream.format], _date_of(response)
    chunks = response.aiter_bytes()
    streamed = "text/event-stream" in response.headers.get("content-type", "")
    translator = spoken.translator(created)
    if translator is not None:
        chunks = _translated(translator, chunks) if streamed else _retold(upstream, created, chunks)
    first = await anext(chunks, b"")
    if not first:
        raise UpstreamFailed("an empty answer", status=200)
    return UpstreamAnswer(response, chunks, first)


async def _translated(translator: Translator, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        try:
            out = translator.feed(chunk)
        except ValueError as error:
            raise UpstreamFailed("the stream cannot be read", status=200) from error
        if out:
            yield out


async def _retold(upstream: Upstream, created: int, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    body = await _whole(chunks)
    try:
        yield FORMATS[upstream.format].answer(body, created)
    except ValueError as error:
        raise UpstreamFailed("the answer cannot be read", status=200) from error


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > ANSWER_LIMIT:
            raise UpstreamFailed(f"the answer is longer than {ANSWER_LIMIT} bytes")
        pieces.append(chunk)
    return b"".join(pieces)


def _date_of(response: httpx.Response) -> int:
    try:
        return int(parsedate_to_datetime(response.headers.get("date", "")).timestamp())
    except ValueError:
        return 0


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
        error = read_json(body).get("error")
    except (ValueError, AttributeError):
        error = None
    message = error.get("message") if isinstance(error, dict) else error
    code = error.get("code") if isinstance(error, dict) else None
    text = message[:500] if isinstance(message, str) else "the model server refused the request"
    known = code[:64] if isinstance(code, str) and code else "upstream_refused"
    return ApiProblem(status, known, text, kind="invalid_request_error")

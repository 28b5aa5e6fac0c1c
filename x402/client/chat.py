"""The thin caller: ask a model, pay for the answer, get the answer with its receipt.

    chat = Chat("https://gateway.example/api/v1", wallet=Wallet.from_env())
    print(chat.create(model="demo", messages=[{"role": "user", "content": "Hello"}]).text)

`Chat` blocks, `AsyncChat` does not; both carry out the same steps (`line`). For everything else use the `openai`
package with `X402Auth`, see `auth`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import anyio
import anyio.to_thread
import httpx
import httpx2

from x402.client.answers import Chunk, Completion, Fields, Quotation
from x402.client.answers import errors_of as errors_of
from x402.client.answers import receipt_in as receipt_in
from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.client.journal import Journal
from x402.client.line import Exchange, Line, Reader, Steps, Wait, moved_by
from x402.client.wallet import Wallet
from x402.errors import MisconfiguredError, Moved, PendingError, UnavailableError
from x402.settings import ClientSettings, secret
from x402.wire.receipt import Receipt

PATIENCE_SECONDS = 60.0
"""How long, in all, a pending payment or an answer in work is waited for before the caller is told."""
_TIMEOUT = httpx.Timeout(300, connect=10)
_TRANSPORT_ERRORS = (httpx.HTTPError, httpx2.HTTPError)

T = TypeVar("T")


class _Stream:
    """A streamed answer: iterate over its chunks. `receipt` and `usage` are complete once it has ended."""

    def __init__(self, response: Any, note: Callable[[Any, Receipt], object] | None) -> None:
        self._response = response
        self._note = note
        self._reader = Reader(response)

    @property
    def receipt(self) -> Receipt | None:
        """What was paid, as soon as it is known."""
        return self._reader.receipt

    @property
    def text(self) -> str:
        """The text of the first choice so far."""
        return self._reader.text

    @property
    def usage(self) -> Fields | None:
        """Token counts, when the seller sends them."""
        return self._reader.usage

    @property
    def request_id(self) -> str | None:
        return self._reader.request_id

    def _settle(self) -> None:
        late = self._reader.late_receipt()
        if late is not None and self._note is not None:
            self._note(self._response, late)


class ChatStream(_Stream):
    """A streamed answer of `Chat`; closes itself at its end, or use it in a `with` block."""

    def __iter__(self) -> Iterator[Chunk]:
        try:
            for piece in self._response.iter_bytes():
                yield from self._reader.read(piece)
            yield from self._reader.read(None)
            self._settle()
        except (httpx.HTTPError, httpx2.HTTPError) as error:
            # What breaks after the last chunk takes nothing away from the answer.
            if not self._reader.done:
                raise _broken(error, moved_by(self._response)) from error
            self._settle()
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChatStream(_Stream):
    """A streamed answer of `AsyncChat`; closes itself at its end, or use it in an `async with` block."""

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            async for piece in self._response.aiter_bytes():
                for chunk in self._reader.read(piece):
                    yield chunk
            for chunk in self._reader.read(None):
                yield chunk
            await anyio.to_thread.run_sync(self._settle)
        except (httpx.HTTPError, httpx2.HTTPError) as error:
            if not self._reader.done:
                raise _broken(error, moved_by(self._response)) from error
            await anyio.to_thread.run_sync(self._settle)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop reading."""
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Caller:
    """What both callers are made of.

    `base_url` ends before `/chat/completions`; the environment's when absent. Without `wallet`, `auth` or
    `http_client` the environment's wallet pays, unless an API key does. An `http_client` of httpx or httpx2 is used as
    it is, its own `auth` included when none is given here. `patience_seconds` bounds waits for pending payments.
    """

    _client_type: ClassVar[type[Any]]

    def __init__(
        self,
        base_url: str | None = None,
        *,
        wallet: Wallet | None = None,
        auth: X402Auth | None = None,
        policy: Policy | None = None,
        limits: Limits | None = None,
        journal: Journal | str | Path | None = None,
        api_key: str | None = None,
        http_client: Any = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        settings = ClientSettings.read()
        url = base_url or settings.base_url
        if not url.startswith(("http://", "https://")):
            raise MisconfiguredError("no_base_url", "name the seller's URL, or set X402_BASE_URL")
        key = secret(settings.api_key) if api_key is None else api_key
        headers = {"Accept": "application/json, text/event-stream"}
        self._line = Line(url, patience_seconds, headers | ({"Authorization": f"Bearer {key}"} if key else {}))
        if wallet is None and auth is None and http_client is None and not key and settings.has_wallet:
            wallet = Wallet.from_env(settings)
        if wallet is not None and auth is None:
            auth = X402Auth(wallet, policy=policy, limits=limits, journal=journal, settings=settings)
        self.auth = auth
        self._owned = http_client is None
        self._http: Any = self._client_type(timeout=_TIMEOUT) if http_client is None else http_client

    def _request(self, step: Exchange) -> Any:
        return self._http.build_request(step.method, step.url, headers=step.headers, content=step.content or None)

    def _how(self, step: Exchange) -> dict[str, Any]:
        """Without an `auth` of ours the client's own stays in force, unless nothing may be paid."""
        how: dict[str, Any] = {"stream": step.stream}
        if self.auth is not None or not step.pay:
            how["auth"] = self.auth if step.pay else None
        return how

    def _note(self, response: Any, receipt: Receipt) -> None:
        if self.auth is not None:
            self.auth.note_receipt(response, receipt)


class Chat(_Caller):
    """A model seller, called and paid for one answer at a time; blocking."""

    _client_type = httpx.Client

    def create(self, *, model: str, messages: Any, **params: Any) -> Completion:
        """A whole answer. `params` are those of an OpenAI chat completion.

        Raises `ApiError` for the seller's errors, `DeclinedError`, `UnpaidError` or `PendingError` for the payment's,
        `UnavailableError` when the seller can't be reached.
        """
        return self._drive(self._line.create(model, messages, params))

    def stream(self, *, model: str, messages: Any, **params: Any) -> ChatStream:
        """The answer chunk by chunk. Raises as `create`, here or on the way."""
        return ChatStream(self._drive(self._line.open_stream(model, messages, params)), self._note)

    def models(self) -> list[Fields]:
        """What can be bought. Raises as `create`."""
        return self._drive(self._line.models())

    def quote(self, *, model: str, messages: Any, **params: Any) -> Quotation:
        """What an answer would cost; asks and does not pay. Raises as `create`."""
        return self._drive(self._line.quote(model, messages, params))

    def close(self) -> None:
        """Close the HTTP client, unless it was given."""
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drive(self, steps: Steps[T]) -> T:
        advance: Callable[[], Exchange | Wait] = lambda: next(steps)  # noqa: E731 - replaced in the loop
        while True:
            try:
                step = advance()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                done = self._carry_out(step)
            except PendingError as error:
                advance = partial(steps.throw, error)
            else:
                advance = partial(steps.send, done)

    def _carry_out(self, step: Exchange | Wait) -> Any:
        if isinstance(step, Wait):
            return time.sleep(step.seconds)
        try:
            response = self._http.send(self._request(step), **self._how(step))
            if step.stream and response.status_code >= 300:
                response.read()
        except _TRANSPORT_ERRORS as error:
            raise _broken(error, Moved.UNKNOWN if step.pay and self.auth is not None else Moved.NO) from error
        return response


class AsyncChat(_Caller):
    """A model seller, called and paid for one answer at a time; asynchronous."""

    _client_type = httpx.AsyncClient

    async def create(self, *, model: str, messages: Any, **params: Any) -> Completion:
        """As `Chat.create`."""
        return await self._drive(self._line.create(model, messages, params))

    async def stream(self, *, model: str, messages: Any, **params: Any) -> AsyncChatStream:
        """As `Chat.stream`; await it, then iterate."""
        return AsyncChatStream(await self._drive(self._line.open_stream(model, messages, params)), self._note)

    async def models(self) -> list[Fields]:
        """As `Chat.models`."""
        return await self._drive(self._line.models())

    async def quote(self, *, model: str, messages: Any, **params: Any) -> Quotation:
        """As `Chat.quote`."""
        return await self._drive(self._line.quote(model, messages, params))

    async def aclose(self) -> None:
        """Close the HTTP client, unless it was given."""
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _drive(self, steps: Steps[T]) -> T:
        advance: Callable[[], Exchange | Wait] = lambda: next(steps)  # noqa: E731 - replaced in the loop
        while True:
            try:
                step = advance()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                done = await self._carry_out(step)
            except PendingError as error:
                advance = partial(steps.throw, error)
            else:
                advance = partial(steps.send, done)

    async def _carry_out(self, step: Exchange | Wait) -> Any:
        if isinstance(step, Wait):
            return await anyio.sleep(step.seconds)
        try:
            response = await self._http.send(self._request(step), **self._how(step))
            if step.stream and response.status_code >= 300:
                await response.aread()
        except _TRANSPORT_ERRORS as error:
            raise _broken(error, Moved.UNKNOWN if step.pay and self.auth is not None else Moved.NO) from error
        return response


def _broken(error: Exception, moved: Moved) -> UnavailableError:
    words = f"the connection to the seller failed: {type(error).__name__}"
    if moved is not Moved.NO:
        words += "; make the same call again, it presents the same payment if there was one"
    return UnavailableError("seller_unreachable", words, moved=moved)

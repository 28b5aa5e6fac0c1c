"""What a chat caller does, as steps: which requests, which waits, and how replies are read. No I/O of its own.

A response here is one of httpx or httpx2, of which only what both have in common is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from x402.client.answers import (
    Answer,
    Chunk,
    Completion,
    Fields,
    ModelList,
    Quotation,
    joined,
    read_answer,
    read_chunk,
    read_completion,
    read_models,
    read_quotation,
    receipt_in,
)
from x402.client.envelope import errors_of, request_id
from x402.client.events import Comment, EventDecoder
from x402.client.flow import outcome_of, receipt_of
from x402.client.profile import OURS, Profile
from x402.errors import ApiError, Moved, PendingError
from x402.stages import State
from x402.wire.headers import IDEMPOTENCY_KEY
from x402.wire.receipt import Receipt

_WAIT_MIN_SECONDS, _WAIT_MAX_SECONDS = 0.2, 10.0
_AGAIN = (409, 503)
"""Statuses that, with `Retry-After`, mean that the same request will find its answer later."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to make. `pay` allows a payment, and `known` saying who one is; `stream` leaves the body of a success
    unread. `network` is the only one that is paid on, where one is named."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes = b""
    pay: bool = True
    known: bool = True
    stream: bool = False
    network: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds to let pass."""

    seconds: float


T = TypeVar("T")
Steps = Generator[Exchange | Wait, Any, T]


@dataclass(frozen=True, slots=True)
class Line:
    """Where the seller is and how to talk to it. Builds steps, does nothing.

    `new_name` names an order that a balance may be charged for, so that asking for it again charges nothing more (fault
    G07); a payment needs no such name, it is one.
    """

    base_url: str
    patience_seconds: float
    headers: dict[str, str]
    credential: dict[str, str] = field(default_factory=dict, repr=False)
    profile: Profile = OURS
    new_name: Callable[[], str] = field(default=lambda: "", repr=False)

    def create(self, model: str, messages: Any, params: dict[str, Any]) -> Steps[Completion]:
        """The steps of one whole answer."""
        response = yield from self._answer(self._chat(model, messages, params | {"stream": False}))
        pairs = response.headers.multi_items()
        return read_completion(pairs, response.content, receipt_of(response), self.profile.envelope)

    def open_stream(self, model: str, messages: Any, params: dict[str, Any]) -> Steps[Any]:
        """The steps that open a stream; the response is read by the caller."""
        return (yield from self._answer(self._chat(model, messages, params | {"stream": True}, stream=True)))

    def models(self, filters: dict[str, Any]) -> Steps[ModelList]:
        """The steps of listing what is sold (aimo row 8), what `filters` leave of it (aimo row 72)."""
        response = yield from self._answer(self._get("models", filters))
        return read_models(response.content, self.profile.envelope)

    def quote(self, model: str, messages: Any, params: dict[str, Any]) -> Steps[Quotation]:
        """The steps of asking a price without paying it: as nobody, whose balance could be charged for the answer."""
        response = yield self._chat(model, messages, params, pay=False, known=False)
        return read_quotation(response.status_code, response.headers.multi_items(), response.content)

    def order(self, path: str, members: dict[str, Any], *, network: str = "") -> Steps[Answer]:
        """The steps of posting JSON for one answer that is no chat, paid where that is asked (aimo rows 6, 7)."""
        if isinstance(model := members.get("model"), str):
            self.profile.check_model(model)
        return self._read((yield from self._answer(self._post(path, members, network=network))))

    def tell(self, path: str, members: dict[str, Any]) -> Steps[Answer]:
        """The steps of posting something about oneself, which is never paid for."""
        return self._read((yield from self._answer(self._post(path, members, pay=False))))

    def ask(self, path: str, filters: dict[str, Any]) -> Steps[Answer]:
        """The steps of reading something about oneself, which is never paid for."""
        return self._read((yield from self._answer(self._get(path, filters))))

    def _get(self, path: str, filters: dict[str, Any]) -> Exchange:
        stated = {name: _parameter(value) for name, value in filters.items() if value is not None}
        url = self.profile.url(path, self.base_url) + (f"?{urlencode(stated)}" if stated else "")
        return Exchange("GET", url, self.headers | self.credential, pay=False)

    def _read(self, response: Any) -> Answer:
        pairs = response.headers.multi_items()
        return read_answer(pairs, response.content, receipt_of(response), self.profile.envelope)

    def _chat(self, model: str, messages: Any, params: dict[str, Any], **how: bool) -> Exchange:
        self.profile.check_model(model)
        members = {"model": model, "messages": messages, **params}
        if members.get("stream") is False:
            del members["stream"]
        return self._post("chat/completions", members, **how)

    def _post(self, path: str, members: dict[str, Any], *, known: bool = True, **how: Any) -> Exchange:
        content = json.dumps(members, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        headers = self.headers | (self.credential if known else {}) | {"Content-Type": "application/json"}
        if name := self.new_name():
            headers[IDEMPOTENCY_KEY] = name
        return Exchange("POST", self.profile.url(path, self.base_url), headers, content, known=known, **how)

    def _answer(self, exchange: Exchange) -> Steps[Any]:
        """The successful response, after waiting politely where that helps. Raises `ApiError` and `PendingError`."""
        waited = 0.0
        while True:
            try:
                response = yield exchange
            except PendingError as error:
                failure: ApiError | PendingError = error
                seconds: float | None = error.retry_after_seconds
            else:
                if response.status_code < 300:
                    return response
                pairs = response.headers.multi_items()
                failure = errors_of(response.status_code, pairs, response.content, moved=moved_by(response))
                again = response.status_code in _AGAIN
                seconds = failure.details.get("retry_after_seconds") if again else None
            if seconds is None or waited + seconds > self.patience_seconds:
                raise failure
            pause = min(max(seconds, _WAIT_MIN_SECONDS), _WAIT_MAX_SECONDS)
            waited += pause
            yield Wait(pause)


def _parameter(value: Any) -> str:
    """A filter as it stands in a URL: JSON's words for true and false, several values joined by commas."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(str(one) for one in value) if isinstance(value, list | tuple) else str(value)


class Reader:
    """What a stream has said so far, from its bytes. `receipt` may come with the headers or before the end."""

    def __init__(self, response: Any) -> None:
        self._decoder = EventDecoder()
        self._pieces: list[str] = []
        self._response = response
        self.done = False
        self.receipt: Receipt | None = receipt_of(response)
        self.request_id = request_id(response.headers.multi_items())
        self.usage: Fields | None = None

    @property
    def text(self) -> str:
        return joined(self._pieces)

    def read(self, chunk: bytes | None) -> list[Chunk]:
        """The chunks that these bytes complete; None stands for the end of the stream.

        Raises `ApiError` for an error event and for a stream that breaks off, `MalformedError("invalid_stream")`.
        """
        chunks: list[Chunk] = []
        for item in self._decoder.finish() if chunk is None else self._decoder.feed(chunk):
            if isinstance(item, Comment):
                self.receipt = receipt_in(item.text) or self.receipt
            elif item.data.strip() == "[DONE]":
                self.done = True
            elif not self.done:
                chunks.append(self._take(read_chunk(item.data)))
        if chunk is None and not self.done:
            raise ApiError(
                self._response.status_code,
                "stream_interrupted",
                "the stream ended before [DONE]; make the same call again, it presents the same payment",
                request_id=self.request_id,
                moved=moved_by(self._response),
            )
        return chunks

    def late_receipt(self) -> Receipt | None:
        """The receipt that only the stream brought, or None."""
        return self.receipt if receipt_of(self._response) is None else None

    def _take(self, chunk: Chunk) -> Chunk:
        self._pieces.append(chunk.text)
        usage = chunk.get("usage")
        self.usage = usage if isinstance(usage, Fields) else self.usage
        return chunk


def moved_by(response: Any) -> Moved:
    """What is known about the money of the call that ended in this response."""
    outcome = outcome_of(response)
    if outcome is None or outcome.record is None:
        return Moved.NO
    return Moved.YES if outcome.record.state is State.SETTLED else Moved.UNKNOWN

"""What is watched while a response's body goes by: that a paid answer arrives whole, that a refusal stays small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from x402.errors import MalformedError

_DONE = b"data: [DONE]"


class Watch(Protocol):
    """`see` hears of each chunk before it is passed on; `end` once, on a thread, when the body is over or given up.

    `ended` says that `end` has nothing left to do, `failed` is set when the body broke off by itself.
    """

    ended: bool
    failed: bool

    def see(self, chunk: bytes) -> None: ...

    def end(self, *, exhausted: bool) -> None: ...


class Arrival:
    """Tells whether a paid answer arrived whole. Until it has, the payment for it is not closed.

    A stream of server-sent events is whole at its `[DONE]`, for that is where readers stop reading; one who reads on
    and meets an error there may make the call again, and has to find the same payment (fault A22). Nothing at all is
    no answer, unless it is `bodiless` by its kind; `left` hears of a reader who stops in the midst of one.
    """

    def __init__(
        self, whole: Callable[[], None], broken: Callable[[], None], left: Callable[[], None], *, bodiless: bool = False
    ) -> None:
        self.ended = self.failed = False
        self._whole, self._broken, self._left = whole, broken, left
        self._done = False
        self._begun = bodiless
        self._tail = b""

    def see(self, chunk: bytes) -> None:
        self._begun = self._begun or bool(chunk)
        window = self._tail + chunk
        self._done = self._done or _DONE in window
        self._tail = window[-len(_DONE) :]

    def end(self, *, exhausted: bool) -> None:
        if self.ended:
            return
        self.ended = True
        if self._begun and (exhausted or (self._done and not self.failed)):
            self._whole()
        elif self._begun and not self.failed:
            self._left()
        else:
            self._broken()


class Bound:
    """Refuses a body of more than `limit` bytes with `MalformedError` (fault E04)."""

    def __init__(self, limit: int) -> None:
        self.ended = True
        self.failed = False
        self._limit = self._left = limit

    def see(self, chunk: bytes) -> None:
        self._left -= len(chunk)
        if self._left < 0:
            raise MalformedError("invalid_payment_required", f"the body of a 402 is larger than {self._limit} bytes")

    def end(self, *, exhausted: bool) -> None:
        """Nothing depends on how the body ended."""

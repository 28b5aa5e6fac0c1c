"""What is watched while a response's body goes by: that a paid answer arrives whole, that a refusal stays small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from x402.errors import MalformedError

_DONE = b"data: [DONE]"
_RECEIPT = b"\n: x402-receipt "
"""How the line of a stream begins that carries a receipt, as a comment that other readers pass over."""
_RECEIPT_LIMIT = 16 * 1024


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
    no answer, unless it is `bodiless` by its kind; `left` hears of a reader who stops in the midst of one. `late` hears
    before them of a receipt that came in the stream itself, by its text.
    """

    def __init__(
        self,
        whole: Callable[[], None],
        broken: Callable[[], None],
        left: Callable[[], None],
        *,
        bodiless: bool = False,
        late: Callable[[str], None] | None = None,
    ) -> None:
        self.ended = self.failed = False
        self._whole, self._broken, self._left = whole, broken, left
        self._done = False
        self._begun = bodiless
        self._tail = b""
        self._late = late
        self._line = b"\n"
        self._receipt = b""

    def see(self, chunk: bytes) -> None:
        self._begun = self._begun or bool(chunk)
        window = self._tail + chunk
        self._done = self._done or _DONE in window
        self._tail = window[-len(_DONE) :]
        if self._late is not None:
            self._look_for_receipt(self._line + chunk)

    def end(self, *, exhausted: bool) -> None:
        if self.ended:
            return
        self.ended = True
        if self._receipt and self._late is not None:
            self._late(self._receipt.decode("ascii", "replace").strip())
        if self._begun and (exhausted or (self._done and not self.failed)):
            self._whole()
        elif self._begun and not self.failed:
            self._left()
        else:
            self._broken()

    def _look_for_receipt(self, window: bytes) -> None:
        """Keep what may be the beginning of one, until its line is whole."""
        start = window.rfind(_RECEIPT)
        end = window.find(b"\n", start + len(_RECEIPT)) if start >= 0 else -1
        if end >= 0:
            self._receipt = window[start + len(_RECEIPT) : end]
            start = -1
        if start < 0 or len(window) - start > _RECEIPT_LIMIT:
            start = max(0, len(window) - len(_RECEIPT))
        self._line = window[start:]


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

"""An event loop whose seconds are short, so that code that waits for a node by design is fuzzed as it is."""

from __future__ import annotations

import asyncio
import selectors

SPEED = 250
"""How many of the loop's seconds pass in one of ours."""


class _Selector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout if timeout is None else timeout / SPEED)


class HurriedLoop(asyncio.SelectorEventLoop):
    """Timers run `SPEED` times faster; everything else takes the time that it takes."""

    def __init__(self) -> None:
        super().__init__(_Selector())

    def time(self) -> float:
        return super().time() * SPEED

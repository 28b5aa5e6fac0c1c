"""When the next block is to be expected, learnt from the blocks that were seen to come.

Whoever waits for a receipt need not ask all the time, nor learn of a block long after it came: blocks come at even
distances, two seconds on Base. It only says when to ask; a block that comes earlier or later is found all the same.
"""

from __future__ import annotations

_SHORTEST_SECONDS = 0.1
_LONGEST_SECONDS = 15.0


class BlockClock:
    """Learns from `absent` and `seen`, in seconds of one monotonic clock. Distances below a tenth of a second are no
    rhythm: such a chain makes a block for every transaction."""

    def __init__(self) -> None:
        self._absent_at: float | None = None
        self._last: tuple[int, float] | None = None
        self._distance: float | None = None

    def absent(self, now: float) -> None:
        """What was waited for was not there yet."""
        self._absent_at = now

    def seen(self, block: int, now: float) -> None:
        """It was there, in this block. The block came after it was last absent, which is the earliest that is known."""
        came = now if self._absent_at is None else self._absent_at
        if self._last is None:
            self._last = block, came
            return
        number, before = self._last
        if block <= number:
            return
        distance = (came - before) / (block - number)
        self._distance = distance if _SHORTEST_SECONDS <= distance <= _LONGEST_SECONDS else None
        self._last = block, came

    def expected(self, now: float) -> float | None:
        """Seconds until the next block; None while its rhythm is not known."""
        if self._last is None or self._distance is None:
            return None
        return self._distance - (now - self._last[1]) % self._distance

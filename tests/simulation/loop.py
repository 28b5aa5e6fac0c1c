"""An event loop without a clock and without I/O: time is a number that jumps to whatever is due next.

Which of the ready callbacks runs next is the scheduler's choice, so that a seed decides every interleaving. A callback
belongs to the life (one incarnation of a process) in whose context it was scheduled; the callbacks of a dead life are
never run, which is what `kill -9` does to them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any


class Life:
    """One incarnation of a process, from its start to its end."""

    __slots__ = ("alive", "name", "number")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.alive = True

    def __repr__(self) -> str:
        return f"{self.name}#{self.number}"


LIFE: ContextVar[Life | None] = ContextVar("life", default=None)
"""Whose code is running; None is the world itself, which never dies."""

Choose = Callable[[int], int]
"""Picks one of `n` ready callbacks, or of `n` pending deliveries, by index."""


class Stuck(Exception):
    """Nothing is ready and nothing is due: somebody waits for what nobody will do."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """Virtual seconds. `choose` picks among ready callbacks; without it they run in the order in which they came."""

    def __init__(self, choose: Choose | None = None, *, steps_max: int = 400_000) -> None:
        super().__init__()
        self._virtual = 0.0
        self._choose = choose
        self._steps_left = steps_max
        self.deliver: Callable[[], bool] | None = None
        """Asked when nothing is ready: delivers one pending message and says so, or False to let time go on."""
        self.set_exception_handler(self._note_exception)
        self.surprises: list[str] = []
        """What reached the loop's exception handler, which nothing should."""
        self.graveyard: list[Any] = []
        """Callbacks of dead lives, kept until the run is over, when they may end in peace."""

    def time(self) -> float:
        return self._virtual

    def bury(self) -> None:
        """Give the callbacks of dead lives back, after the run, so that their tasks can be cancelled."""
        self._ready.extend(self.graveyard)  # type: ignore[attr-defined]
        self.graveyard.clear()

    def forget_time(self) -> None:
        """Nothing that is due will happen any more."""
        for handle in list(self._scheduled):  # type: ignore[attr-defined]
            handle.cancel()

    def _note_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.surprises.append(f"{context.get('message')}: {error!r}")

    def _process_events(self, event_list: object) -> None:
        """There are no file descriptors."""

    def _write_to_self(self) -> None:
        """There are no other threads to be woken from."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("there are no threads in a simulation")

    def _run_once(self) -> None:
        """One callback, the next delivery, or the next moment at which something is due."""
        ready: Any = self._ready  # type: ignore[attr-defined]
        scheduled: list[Any] = self._scheduled  # type: ignore[attr-defined]
        if not ready:
            if self.deliver is not None and self.deliver():
                return
            self._pass_time(scheduled, ready)
        if self._choose is not None and len(ready) > 1:
            index = self._choose(len(ready))
            handle = ready[index]
            del ready[index]
        else:
            handle = ready.popleft()
        self._steps_left -= 1
        if self._steps_left < 0:
            raise Stuck("the run takes too many steps")
        if handle._cancelled:
            return
        life = handle._context.get(LIFE)
        if life is None or life.alive:
            handle._run()
        else:
            self.graveyard.append(handle)

    def _pass_time(self, scheduled: list[Any], ready: Any) -> None:
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not scheduled:
            raise Stuck("nothing is ready and nothing is due")
        self._virtual = max(self._virtual, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._virtual:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)

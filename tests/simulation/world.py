"""The world of one run: its time, its chance, the lives in it, and the boundaries that all their I/O crosses.

Everything a party does outside its own memory goes through `World.io` (or, for HTTP, through `wire`), which is a
numbered boundary before the effect and another after it. At each of them the party may die: before, the effect never
happens; after, the effect has happened and nobody knows.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.simulation.faults import Fate, Plan, Weather
from tests.simulation.loop import LIFE, Life, SimulatedLoop

T = TypeVar("T")

EPOCH = 1_800_000_000
"""The unix second at which every run begins."""
DOWNTIME_SECONDS = (0.5, 20.0)
_LATENCY = {"disk": (0.0005, 0.004), "read": (0.01, 0.12), "send": (0.01, 0.12), "http": (0.002, 0.05)}
_SLOW_SECONDS = (3.0, 12.0)
_GIVES_UP_SECONDS = {"disk": 0.5, "read": 10.0, "send": 10.0, "http": 20.0}
_LATE_SECONDS = (2.0, 60.0)


class Broken(Exception):
    """An invariant does not hold. The message begins with its id."""


Deed = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message under way: what happens when it arrives, and when it does not; whose death makes it pointless; and
    whether it only asks, so that nobody else can tell when it arrived."""

    what: str
    arrive: Deed
    lost: Deed | None
    heir: Life | None
    asks: bool


class World:
    """One run's world."""

    def __init__(self, seed: int | str, weather: Weather, plan: Plan, loop: SimulatedLoop) -> None:
        self.chance = random.Random(f"{seed}")
        self.weather = weather
        self.plan = plan
        self.loop = loop
        self.trace: list[str] = []
        self.injected: Counter[str] = Counter()
        self.boundaries = 0
        self.crash_points: list[str] = []
        """Every boundary at which a party might have died: its number, what and how often, and the side."""
        self.died_at: list[str] = []
        self.mortal: set[str] = set()
        """Names of the parties that may die."""
        self.start_again: dict[str, Callable[[], None]] = {}
        self.on_death: list[Callable[[Life], None]] = []
        self.lives: dict[str, Life] = {}
        self.everybody: list[Life] = []
        self.over = False
        self.deaths = 0
        self.broken: list[str] = []
        self.deliveries: list[Delivery] | None = None
        """What is under way, when its order is being explored."""
        self.heard: dict[str, int] = {}
        """A hash of everything that each party has done and been told; kept only while orders are explored."""
        self._context = Context()
        self._fate_number = 0
        self._crossed: Counter[str] = Counter()

    # Time and chance.

    def clock(self) -> int:
        """Unix seconds, as every party sees them."""
        return EPOCH + int(self.loop.time())

    def fair(self) -> bool:
        """Whether the weather has cleared up for good."""
        return self.loop.time() >= self.weather.ends_at

    def happens(self, name: str, rate: float) -> bool:
        """Chance decides about one mischief of the world, and it is counted."""
        if rate <= 0 or self.fair() or self.chance.random() >= rate:
            return False
        self.injected[name] += 1
        return True

    def entropy(self, size: int) -> bytes:
        """Random bytes for the parties' own use."""
        return self.chance.randbytes(size)

    def later(self, delay: float, deed: Callable[[], None]) -> asyncio.TimerHandle:
        """Let something happen that no party's death prevents."""
        return self.loop.call_later(delay, deed, context=self._context)

    def post(
        self,
        what: str,
        delay: float,
        deed: Deed,
        lost: Deed | None = None,
        heir: Life | None = None,
        *,
        asks: bool = False,
    ) -> None:
        """Let a message arrive: after its latency, or in the order that is being explored. `lost` is what happens when
        it does not, `heir` the one life that it is for."""
        if self.deliveries is None:
            self.later(delay, deed)
        else:
            self.deliveries.append(Delivery(what, deed, lost, heir, asks))

    def remember(self, life: Life | None, what: object) -> None:
        """While orders are explored: one more thing that a life has done or will be told, in whatever order."""
        if self.deliveries is not None and life is not None:
            self.heard[f"{life}"] = hash(repr(what)) + self.heard.get(f"{life}", 0)

    def note(self, line: str) -> None:
        """A line of the trace, which is what a run is compared by."""
        self.trace.append(f"{self.loop.time():.4f} {line}")

    def digest(self) -> str:
        """What happened in this run, as a hash."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    def fail(self, words: str) -> None:
        """Note that an invariant is broken; the run goes on, so that the trace shows what follows."""
        self.broken.append(words)
        self.note(f"BROKEN {words}")

    # Lives and deaths.

    def live(self, name: str) -> Life:
        """A new incarnation of a process."""
        life = Life(name, self.lives[name].number + 1 if name in self.lives else 1)
        self.lives[name] = life
        self.everybody.append(life)
        self.note(f"{life} starts")
        return life

    def within(self, life: Life) -> Context:
        """A context for the callbacks and tasks of a life."""
        context = Context()
        context.run(LIFE.set, life)
        return context

    def kill(self, life: Life, downtime: float | None = None) -> None:
        """`kill -9`: nothing of it runs any more; after a while the process is started again."""
        life.alive = False
        self.heard.pop(f"{life}", None)
        if self.deliveries is not None:
            self.deliveries[:] = [one for one in self.deliveries if one.heir is not life]
        self.deaths += 1
        self.injected["crash"] += 1
        self.note(f"{life} dies")
        for told in self.on_death:
            told(life)
        again = self.start_again.get(life.name)
        if again is not None:
            pause = self.chance.uniform(*DOWNTIME_SECONDS) if downtime is None else downtime
            self.later(pause, again)

    async def boundary(self, label: str, side: str) -> None:
        """A numbered point of the party whose code is running; here it may die."""
        if self.over:
            raise asyncio.CancelledError
        if asyncio.get_running_loop() is not self.loop:
            return
        life = LIFE.get()
        if life is None:
            return
        number = self.boundaries
        self.boundaries += 1
        self.trace.append(f"{self.loop.time():.4f} {life} {label} {side}")
        self.remember(life, (label, side))
        if life.name not in self.mortal:
            return
        place = f"{life.name} {label} {side}"
        self._crossed[place] += 1
        point = f"{number} {place} {self._crossed[place]}"
        self.crash_points.append(point)
        doomed = number in self.plan.deaths
        if not doomed and self.weather.crash and self.deaths < self.weather.crashes_max and not self.fair():
            doomed = self.chance.random() < self.weather.crash
        if doomed:
            self.died_at.append(point.partition(" ")[2])
            self.kill(life)
            # Nobody is left to be told anything.
            await self.loop.create_future()

    def fate(self, kind: str) -> Fate:
        """What becomes of the next message of a kind."""
        number = self._fate_number
        self._fate_number += 1
        drawn = self.plan.fates.get(number)
        start, end = self.weather.outage
        if kind in ("read", "send") and start <= self.loop.time() < end:
            drawn = Fate.LOST
        if drawn is None and not self.fair():
            drawn = self._draw(self.weather.fates.get(kind, ()))
        if drawn is None or drawn is Fate.FINE:
            return Fate.FINE
        self.injected[f"{kind}.{drawn}"] += 1
        self.note(f"fate {number} of {kind}: {drawn}")
        return drawn

    @property
    def fates_drawn(self) -> int:
        """How many messages there were."""
        return self._fate_number

    def _draw(self, fates: tuple[tuple[Fate, float], ...]) -> Fate | None:
        if not fates:
            return None
        roll = self.chance.random()
        for fate, rate in fates:
            if roll < rate:
                return fate
            roll -= rate
        return None

    def latency(self, kind: str) -> float:
        """Seconds for one way."""
        return self.chance.uniform(*_LATENCY[kind])

    # I/O.

    async def io(self, kind: str, label: str, work: Callable[[Fate], T], failure: Callable[[], Exception]) -> T:
        """Let `work` happen behind a boundary, and come back with what it returns or raises.

        `work` is told its fate and runs at one moment of the world; `failure` makes the error for an answer that is
        not coming.
        """
        if asyncio.get_running_loop() is not self.loop:
            return self._at_once(kind, work, failure)
        await self.boundary(label, "before")
        fate = self.fate(kind)
        reply: asyncio.Future[T] = self.loop.create_future()
        go = self.latency(kind) + (self.chance.uniform(*_SLOW_SECONDS) if fate is Fate.SLOW else 0.0)
        gives_up = _GIVES_UP_SECONDS[kind]
        if fate in (Fate.LOST, Fate.MUTE, Fate.LATE, Fate.FULL, Fate.UNSURE):
            if fate in (Fate.MUTE, Fate.UNSURE):
                self.post(label, go, lambda: self._attempt(work, fate))
            elif fate is Fate.LATE:
                self.later(gives_up + self.chance.uniform(*_LATE_SECONDS), lambda: self._attempt(work, fate))
            wait = go + (gives_up if kind != "disk" else 0.001)
            self.later(wait, lambda: None if reply.done() else reply.set_exception(failure()))
        else:
            asker = LIFE.get()
            self.post(
                label,
                go,
                lambda: self._arrive(label, kind, work, fate, reply, failure, asker),
                lambda: _fail(reply, failure()),
                asks=kind == "read",
            )
            if fate is Fate.TWICE:
                self.later(go + self.chance.uniform(*_LATE_SECONDS), lambda: self._attempt(work, fate))
        try:
            result = await reply
        except asyncio.CancelledError:
            raise
        except Exception:
            await self.boundary(label, "after")
            raise
        await self.boundary(label, "after")
        return result

    def _at_once(self, kind: str, work: Callable[[Fate], T], failure: Callable[[], Exception]) -> T:
        """For a thread that blocks, while the world stands still (see `proof`)."""
        fate = self.fate(kind)
        if fate in (Fate.LOST, Fate.MUTE):
            raise failure()
        return work(fate)

    def _arrive(
        self,
        label: str,
        kind: str,
        work: Callable[[Fate], T],
        fate: Fate,
        reply: asyncio.Future[T],
        failure: Callable[[], Exception],
        asker: Life | None,
    ) -> None:
        def answer(deed: Deed) -> None:
            what = f"{asker} {label}'s answer"
            self.post(what, self.latency(kind), deed, lambda: _fail(reply, failure()), asker, asks=kind == "read")

        try:
            result = work(fate)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            refused = error
            self.remember(asker, (label, refused))
            answer(lambda: _fail(reply, refused))
        else:
            self.remember(asker, (label, result))
            answer(lambda: _tell(reply, result))

    def _attempt(self, work: Callable[[Fate], Any], fate: Fate) -> None:
        """The effect without an answer."""
        try:
            work(fate)
        except Exception as error:  # noqa: BLE001 - nobody is there to hear the answer
            self.note(f"unheard: {type(error).__name__}")


def _tell(reply: asyncio.Future[T], result: T) -> None:
    if not reply.done():
        reply.set_result(result)


def _fail(reply: asyncio.Future[Any], error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)

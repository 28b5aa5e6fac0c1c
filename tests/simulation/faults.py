"""What may go wrong at a boundary, how often, and until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Fate(StrEnum):
    """What becomes of one message, write or question."""

    FINE = "fine"
    LOST = "lost"
    """It never arrives: no effect, no answer."""
    MUTE = "mute"
    """It has its effect, and the answer is lost."""
    LATE = "late"
    """The asker gives up, and the effect comes afterwards."""
    SLOW = "slow"
    """Effect and answer take long."""
    TWICE = "twice"
    """It has its effect twice, the second time after the first was answered."""
    CUT = "cut"
    """The answer breaks off in the middle."""
    LAGS = "lags"
    """The node that answers is behind: it does not know the latest blocks nor anybody's pending transactions."""
    VANISHES = "vanishes"
    """The node accepts a transaction, and its pool forgets it."""
    FULL = "full"
    """The disk is full: nothing is written, and the writer is told so."""
    UNSURE = "unsure"
    """It was written, and the writer is told that it was not."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Probabilities of fates by kind of boundary, and of the world's own mischief.

    `ends_at` is the virtual second from which everything is fine. `crash` is the probability of a death at each
    boundary, `crashes_max` bounds them. `reorg` is per included transaction, `stranger`, `cancel` and `drain` per
    payment that is seen: somebody else submits it once it is claimed (`early_stranger`: perhaps before), or its payer
    takes it back, or spends the money.
    """

    fates: Mapping[str, tuple[tuple[Fate, float], ...]] = field(default_factory=dict)
    ends_at: float = 0.0
    crash: float = 0.0
    crashes_max: int = 0
    reorg: float = 0.0
    stranger: float = 0.0
    early_stranger: float = 0.0
    thief: float = 0.0
    """Per payment that is seen: somebody presents it for another request."""
    cancel: float = 0.0
    drain: float = 0.0
    fee_spike: float = 0.0
    outage: tuple[float, float] = (0.0, 0.0)
    """From when to when no node answers anybody, in virtual seconds."""


CALM = Weather()


def storm(intensity: float, *, ends_at: float = 240.0) -> Weather:
    """Everything at once; `intensity` 1.0 is about one fault in ten messages."""

    def part(*fates: tuple[Fate, float]) -> tuple[tuple[Fate, float], ...]:
        return tuple((fate, rate * intensity) for fate, rate in fates)

    return Weather(
        fates={
            "http": part((Fate.LOST, 0.03), (Fate.MUTE, 0.04), (Fate.SLOW, 0.02), (Fate.TWICE, 0.03), (Fate.CUT, 0.03)),
            "read": part((Fate.LOST, 0.02), (Fate.MUTE, 0.01), (Fate.LAGS, 0.05), (Fate.SLOW, 0.02)),
            "send": part(
                (Fate.LOST, 0.05), (Fate.MUTE, 0.08), (Fate.LATE, 0.04), (Fate.VANISHES, 0.05), (Fate.TWICE, 0.03)
            ),
            "disk": part((Fate.FULL, 0.01), (Fate.UNSURE, 0.01), (Fate.SLOW, 0.01)),
        },
        ends_at=ends_at,
        crash=0.004 * intensity,
        crashes_max=3,
        reorg=0.08 * intensity,
        stranger=0.05 * intensity,
        thief=0.1 * intensity,
        cancel=0.04 * intensity,
        drain=0.04 * intensity,
        fee_spike=0.1 * intensity,
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is made to happen at numbered boundaries, beside the weather: deaths, and fates of messages.

    A boundary's number is its place in the run; the plan is the second half of a run's identity.
    """

    deaths: frozenset[int] = frozenset()
    fates: Mapping[int, Fate] = field(default_factory=dict)
    gone: tuple[tuple[str, float], ...] = ()
    """Parties that die for good, and the virtual seconds of their deaths."""

"""When a host is not paid any more: it was paid, or may have been, and no answer came of it (fault B11).

What counts is in the journal, so processes share it and a restart forgets nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from x402.errors import DeclinedError

FAILURES_MAX = 3
COOL_DOWN_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Standing:
    """How a host has treated us: payments presented in a row without an answer, refused ones among them, and the unix
    second of the newest payment since its last answer, those in work included."""

    unanswered: int = 0
    newest_at: int = 0


@dataclass(frozen=True, slots=True)
class Breaker:
    """After `failures` unanswered payments in a row nothing more is signed for a host.

    A payment stops counting when the same call fetches its answer or the chain proves that it never moved money. After
    `cool_down_seconds` without a payment one more is tried; its answer closes the breaker, its failure opens it again.
    """

    failures: int = FAILURES_MAX
    cool_down_seconds: int = COOL_DOWN_SECONDS

    def __post_init__(self) -> None:
        if self.failures < 1 or self.cool_down_seconds < 1:
            raise ValueError("a breaker opens after at least one failure, for at least a second")

    def check(self, host: str, standing: Standing, now: int) -> None:
        """Raise `DeclinedError("host_suspended")` while the host is not to be paid; `now` is in unix seconds."""
        left = standing.newest_at + self.cool_down_seconds - now
        if standing.unanswered < self.failures or left <= 0:
            return
        raise DeclinedError(
            "host_suspended",
            f"the last {standing.unanswered} payments to {host} brought no answer, so it is not paid for another"
            f" {left} s. Make the same calls again to fetch what they paid for, or type x402 resolve to find out"
            " which of them moved money",
            details={"host": host, "unanswered": standing.unanswered, "retry_after_seconds": left},
        )

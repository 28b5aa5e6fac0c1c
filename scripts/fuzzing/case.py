"""What is fuzzed: a target makes its input from a tape, and reads whatever bytes it is given."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fuzzing.tape import Tape
from x402.errors import MalformedError, RefusedError

Verdict = bool
"""True for input that was accepted, False for input that was refused; everything else is raised."""


class Broken(Exception):
    """A promise about malformed input does not hold: an HTTP 500, an answer that contradicts itself, a lost meaning."""


@dataclass(frozen=True)
class Target:
    """One decoder or door.

    `make` turns a tape into an input, `run` feeds an input, whatever it holds, and says whether it was accepted. It
    raises one of `refusals` to refuse; any other exception is a failure. `weight` is its share of the cases.
    """

    name: str
    make: Callable[[Tape], bytes]
    run: Callable[[bytes], Verdict | Awaitable[Verdict] | Any]
    weight: int
    refusals: tuple[type[BaseException], ...] = (MalformedError,)

    @property
    def family(self) -> str:
        """The word before the dot: `wire`, `chain`, `gateway` …"""
        return self.name.partition(".")[0]

    async def judge(self, data: bytes) -> Verdict:
        """Whether the input was accepted. Raises whatever is no refusal."""
        try:
            verdict = self.run(data)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except self.refusals as error:
            check_refusal(error)
            return False
        return verdict is not False


def check_refusal(error: BaseException) -> None:
    """A refusal has a code and words of a length that somebody can read (promise 7)."""
    if isinstance(error, MalformedError | RefusedError):
        if not error.code or not error.message:
            raise Broken(f"{type(error).__name__} without a code or words")
        if len(error.message) > 1_200:
            raise Broken(f"{error.code}: a message of {len(error.message)} characters")

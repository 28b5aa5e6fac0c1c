"""What happened, told once: the core emits facts, observers turn them into logs and metrics (design D12).

A fact carries identifiers, states, reasons, amounts and durations. Payloads, prompts, headers and keys never reach
an observer. An observer that fails is counted and silenced; it changes nothing about a payment (fault A19).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the HTTP request that is being served, for the log lines of everything that happens for it (aimo row 59).
A task that serves a request inherits it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that happened, such as `payment.settled`. Attribute names use snake_case, units last."""

    name: str
    attributes: Mapping[str, str | int] = field(default_factory=dict)


class Observer(Protocol):
    """Somebody who wants to know. Must be quick, and must not block."""

    def __call__(self, fact: Fact, /) -> None: ...


class Telemetry:
    """Passes facts on to every observer. `failures` counts facts that an observer could not take, `timer_ns` measures
    how long steps take."""

    def __init__(self, observers: Sequence[Observer] = (), *, timer_ns: Callable[[], int] | None = None) -> None:
        self._observers = list(observers)
        self._timer_ns = timer_ns
        self.failures = 0

    def observe(self, observer: Observer) -> None:
        """Add an observer; it hears every fact from now on."""
        self._observers.append(observer)

    def emit(self, name: str, **attributes: str | int) -> None:
        """Tell all observers one fact."""
        fact = Fact(name, attributes)
        for observer in self._observers:
            try:
                observer(fact)
            except Exception:  # noqa: BLE001 - an observer's defect must never reach a payment (fault A19)
                self.failures += 1

    @contextmanager
    def step(self, name: str, **attributes: str | int) -> Iterator[dict[str, str | int]]:
        """Tell one fact about what the block does, with its `duration_us` where there is a timer. More attributes may
        be put into what is yielded; an exception is told by its class, as `error`."""
        began = None if self._timer_ns is None else self._timer_ns()
        more: dict[str, str | int] = {}
        try:
            yield more
        except BaseException as error:
            more["error"] = getattr(error, "code", type(error).__name__)
            raise
        finally:
            if began is not None and self._timer_ns is not None:
                more["duration_us"] = (self._timer_ns() - began) // 1000
            self.emit(name, **{**attributes, **more})

"""What happened, told once: the core emits facts, observers turn them into logs and metrics (design D12).

A fact carries identifiers, states, reasons, amounts and durations. Payloads, prompts, headers and keys never reach
an observer. An observer that fails is counted and silenced; it changes nothing about a payment (fault A19).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Passes facts on to every observer. `failures` counts facts that an observer could not take."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = list(observers)
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

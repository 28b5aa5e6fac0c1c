"""A rail: one network as the facilitator uses it. `settle.py` decides, rails know how.

A payment travels `check` → `prepare` → `submit` → `decide`. Between `prepare` and `submit` the signed bytes are made
durable, so that a crash at any point leaves something that `decide` can ask the chain about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from x402.errors import MisconfiguredError, UnavailableError
from x402.lifecycle import Entry, Subject
from x402.ports import NotSent
from x402.stages import Intended, Refused, Settled
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment


@dataclass(frozen=True, slots=True)
class Checked:
    """A payment that broke no rule, with what it is on chain."""

    subject: Subject
    payment: Payment
    requirement: Requirement


class Rail(Protocol):
    """One scheme on one network."""

    network: str

    async def start(self) -> None:
        """Prove that the node serves this network. Raises `MisconfiguredError` or `UnavailableError`."""
        ...

    async def kind(self) -> Kind | None:
        """What this rail offers in `/supported`, or None while it can't settle (no gas: fault E08)."""
        ...

    def signers(self) -> list[str]:
        """The addresses that send and pay fees."""
        ...

    def read(self, payment: Payment, requirement: Requirement) -> Checked:
        """The payment by those rules that never change: shape, recipient, amount. Raises `RefusedError`.

        What was accepted once is read again after years, whatever keys and limits have become since.
        """
        ...

    async def check(self, payment: Payment, requirement: Requirement) -> Checked:
        """All rules, and the simulation of the very transfer; at most one round trip (design D7).

        Raises `RefusedError` with the canonical reason, `UnavailableError` when the chain can't be asked.
        """
        ...

    async def prepare(self, checked: Checked) -> Intended:
        """Sign the transaction that settles; nothing leaves. Raises `UnavailableError`."""
        ...

    async def abandon(self, intended: Intended) -> None:
        """Take back what `prepare` reserved, for bytes that provably never left."""
        ...

    async def release(self, intended: Intended) -> None:
        """Take back what `prepare` reserved if no node has the bytes, for a payment that was decided without them."""
        ...

    async def submit(self, intended: Intended) -> None:
        """Hand the bytes to a node. Raises `ports.NotSent` on proof that they were refused; doubt passes silently."""
        ...

    async def decide(self, entry: Entry, intended: Intended, *, timeout: float) -> Settled | Refused | None:
        """What the chain says about an intended payment: settled, provably dead, or None after `timeout` seconds."""
        ...

    async def find_settled(self, subject: Subject) -> Settled | None:
        """The transfer that already settled this very payment, whoever submitted it, or None (faults A10, A11).

        Raises `UnavailableError` when the chain can't be asked.
        """
        ...


async def send_again(rail: Rail, intended: Intended) -> None:
    """The same bytes again. A refusal now proves nothing: an earlier copy may have landed, or be in another pool
    (fault C16)."""
    try:
        await rail.submit(intended)
    except NotSent:
        return


async def prove(rail: Rail) -> None:
    """Nothing is judged by a node that may serve another chain (fault D14). Raises `UnavailableError`."""
    try:
        await rail.start()
    except MisconfiguredError as error:
        raise UnavailableError(error.code, error.message) from error

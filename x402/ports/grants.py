"""Gas that a facilitator gives to payers for their approval of Permit2, written down before anything of it is sent.

One row per approval, for ever: who was given gas once, and how it ended, decides whether there is more (fault D15).
Amounts in wei, times in unix seconds. Every method may raise `UnavailableError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class GrantState(StrEnum):
    """How a grant stands."""

    OPEN = "open"
    """The gas or the approval may be on its way."""
    USED = "used"
    """The approval is in a block, and succeeded."""
    LOST = "lost"
    """The approval will not come: its payer has used the nonce or the gas otherwise, or nobody took it in time."""
    VOID = "void"
    """Its gas was never given: the funding is not on its way, and nobody sends it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An approval that is sponsored: the payer's transaction, and the one that gives its gas.

    `approval` and `funding` are transaction hashes; without a `funding` the payer had gas enough. `wei` is what it
    gives, `sender` the key that gives it with its `nonce`.
    """

    network: str
    approval: str
    payer: str
    asset: str
    approval_raw: bytes = field(repr=False)
    approval_nonce: int
    wei: int = 0
    sender: str = ""
    nonce: int | None = None
    funding: str = ""
    funding_raw: bytes = field(default=b"", repr=False)
    state: GrantState = GrantState.OPEN
    created_at: int = 0


Draw = Callable[[int], Grant]
"""Signs a grant's funding with the nonce that is reserved for it. Pure: it runs inside the book's transaction."""


class NoMoreGas(Exception):
    """This payer gets no gas any more."""


def may_have_more(known: Iterable[Grant], most: int) -> bool:
    """Whether a payer with these grants may be given gas once more: fewer than `most` times until now, and never in
    vain, which is how gas is taken for something else (fault D15)."""
    given = [grant.state for grant in known if grant.wei and grant.state is not GrantState.VOID]
    return len(given) < most and GrantState.LOST not in given


class GrantBook(Protocol):
    """All grants of a facilitator."""

    async def begin(
        self, network: str, payer: str, approval: str, sender: str, chain_nonce: int, most: int, draw: Draw
    ) -> tuple[Grant, bool]:
        """The payer's open grant, whichever approval that is for, or the one of this approval; else a new one, with
        `sender`'s next nonce, which is `chain_nonce` or higher and is held by no open grant: first of all one whose
        funding never left, because nothing above it lands before it.

        True comes with the new one. Raises `NoMoreGas` when that gives gas and the payer was given some `most` times,
        or has lost it once. What `draw` raises is raised here.
        """
        ...

    async def of_payer(self, network: str, payer: str) -> Sequence[Grant]:
        """Every grant to a payer, oldest first."""
        ...

    async def open_ones(self, network: str, limit: int = 64) -> Sequence[Grant]:
        """Grants that are open, oldest first."""
        ...

    async def finish(self, grant: Grant, state: GrantState) -> None:
        """Say how an open grant has ended; one that has ended stays as it is."""
        ...

"""How deep a transfer must be buried before it counts, by its amount: small payments are quick, large ones are sure.

A policy is written `0=1,10=12,1000=finalized`: from 0 dollars on one block suffices, from 10 dollars on twelve, from
1,000 dollars on the network itself must call the block final. On Solana a confirmed transfer has one confirmation,
and the next step is final. Faults A16 and F#2294: no chain has one depth for all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from x402.errors import MisconfiguredError
from x402.money import Asset

FINALIZED = 1_000_000
"""A depth that only a final block has."""

_STEP = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)=(\d{1,5}|finalized)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Confirmations:
    """Steps of (US dollars, blocks), the dollars ascending from 0."""

    steps: tuple[tuple[Decimal, int], ...] = ((Decimal(0), 1),)

    def required(self, units: int, asset: Asset) -> int:
        """The blocks, its own included, that a transfer of so many atomic units needs; `FINALIZED` for a final one."""
        return next(depth for dollars, depth in reversed(self.steps) if units >= dollars.scaleb(asset.decimals))


def parse_confirmations(text: str) -> Confirmations:
    """A policy as it is written. Raises `MisconfiguredError("invalid_confirmations")` unless it begins at 0, ascends,
    and asks for at least one block everywhere."""
    found = [_STEP.fullmatch(step.strip()) for step in text.split(",")]
    steps = [
        (Decimal(match[1]), FINALIZED if match[2] == "finalized" else int(match[2]))
        for match in found
        if match is not None
    ]
    dollars = [step[0] for step in steps]
    if len(steps) != len(found) or dollars[0] != 0 or dollars != sorted(set(dollars)) or not all(n for _, n in steps):
        raise MisconfiguredError(
            "invalid_confirmations",
            "confirmations are written like 0=1,10=12,1000=finalized: dollars from 0 upwards, and at least one block",
        )
    return Confirmations(tuple(steps))

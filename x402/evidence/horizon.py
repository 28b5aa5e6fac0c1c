"""How deep a block lies on an EVM network, so that the depth is proven and not put together from two forks.

The heights are read first and the receipt afterwards. The other way round a height that comes late, after a
reorganisation, would bury a transfer that is on no chain any more (fault A16).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from x402.errors import UnavailableError
from x402.evidence import Standing
from x402.ports import EvmChain


@dataclass(frozen=True, slots=True)
class Horizon:
    """The newest block and the last final one, as they were before anything that is measured by them was read; None
    where a network knows no final block, and transfers stay as deep as they are."""

    height: int
    final: int | None = None

    def over(self, block: int) -> Standing:
        """How well that stands which was seen in `block` since."""
        return Standing(max(1, self.height - block + 1), self.is_final(block))

    def is_final(self, block: int) -> bool:
        """Whether no reorganisation reaches a block in which something was seen since."""
        return self.final is not None and block <= self.final


async def horizon_of(chain: EvmChain) -> Horizon:
    """Both heights, asked for at once. Raises `UnavailableError`."""
    return Horizon(*await asyncio.gather(chain.block_number(), _final(chain)))


async def _final(chain: EvmChain) -> int | None:
    try:
        return await chain.finalized()
    except UnavailableError:
        return None

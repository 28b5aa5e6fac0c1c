"""How long what is kept (aimo row 99).

    requests and prompts    never written anywhere
    answers                 sealed, until they are delivered and `Policy.answer_retention_seconds` longer
    a bill's tags           `metadata`, `user` and the request's id: `tag_days`, then blanked; amounts and tokens stay
    webhooks' deliveries    `delivery_days` after they have ended
    payments, entries       for ever: they are the books, and hold what the chain shows anyway
    keys and their trail    for ever, as digests

Zero retention keeps no answer that was delivered, no tags, and no delivery that has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from x402.ports import Clock
from x402.ports.deliveries import DeliveryBook
from x402.ports.retention import Forgetful
from x402.telemetry import Telemetry

_DAY_SECONDS = 86_400
PURGE_SECONDS = 60.0
"""How often is looked for what has become too old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What an operator decided, in days; 0 forgets at once."""

    tag_days: int = 90
    delivery_days: int = 30

    @classmethod
    def zero(cls) -> Retention:
        """Nothing is kept that need not be."""
        return cls(tag_days=0, delivery_days=0)


@dataclass(frozen=True, slots=True)
class Purge:
    """Forgets what has become too old."""

    retention: Retention
    rows: Forgetful
    deliveries: DeliveryBook
    clock: Clock
    telemetry: Telemetry

    async def step(self) -> int:
        """Forget what is too old now; how many rows. Raises `UnavailableError`."""
        now, gone = self.clock(), 0
        # What was written in this very second is old enough when nothing is to be kept.
        while blanked := await self.rows.blank_tags(now + 1 - self.retention.tag_days * _DAY_SECONDS):
            gone += blanked
        while deleted := await self.deliveries.forget(now + 1 - self.retention.delivery_days * _DAY_SECONDS):
            gone += deleted
        if gone:
            self.telemetry.emit("retention.purged", rows=gone)
        return gone

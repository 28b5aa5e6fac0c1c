"""What changes a list price: how urgent a request is, that it comes in a batch, that its answer was there already.

Each rule is a percentage that the operator writes into the price file, 0 unless named. A quote shows the rates that
came of it, so that a buyer recomputes it as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from x402.errors import MisconfiguredError
from x402.money import EXACT_CONTEXT
from x402.price import ModelPrice, Rate


class Tier(StrEnum):
    """How urgent a request is: OpenAI's member `service_tier`. What each costs stands in the price file."""

    PRIORITY = "priority"
    DEFAULT = "default"
    FLEX = "flex"


def tier_of(members: Mapping[str, Any]) -> Tier:
    """The tier of a request; one that only OpenAI knows is the ordinary one here."""
    stated = members.get("service_tier")
    return Tier(stated) if stated in list(Tier) else Tier.DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRules:
    """Percentages of the list price. Raises `MisconfiguredError("invalid_catalogue")` for a discount above 100.

    `priority_percent` is added for the tier `priority`, `flex_discount_percent` taken off for `flex`, and
    `batch_discount_percent` for every request of a batch. An answer that was there already costs the charge of the
    first one less `cache_discount_percent`.
    """

    priority_percent: Decimal = Decimal(0)
    flex_discount_percent: Decimal = Decimal(0)
    batch_discount_percent: Decimal = Decimal(0)
    cache_discount_percent: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        for name in ("flex_discount_percent", "batch_discount_percent", "cache_discount_percent"):
            if not 0 <= getattr(self, name) <= 100:
                raise MisconfiguredError("invalid_catalogue", f"{name} is a number from 0 to 100")
        if not 0 <= self.priority_percent <= 1000:
            raise MisconfiguredError("invalid_catalogue", "priority_percent is a number from 0 to 1000")

    def price(self, listed: ModelPrice, tier: Tier = Tier.DEFAULT, *, batch: bool = False) -> ModelPrice:
        """The price of a request of a tier, alone or in a batch."""
        part = Decimal(100)
        if tier is Tier.PRIORITY:
            part += self.priority_percent
        elif tier is Tier.FLEX:
            part -= self.flex_discount_percent
        if batch:
            part = EXACT_CONTEXT.multiply(part, 100 - self.batch_discount_percent).scaleb(-2, EXACT_CONTEXT)
        if part == 100:
            return listed
        return replace(
            listed,
            prompt=_scaled(listed.prompt, part),
            completion=_scaled(listed.completion, part),
            image=_scaled(listed.image, part),
            image_kinds=tuple((kind, _scaled(rate, part)) for kind, rate in listed.image_kinds),
            request=_scaled(listed.request, part),
        )

    def cached(self, charged: int) -> int:
        """What an answer from the cache costs, in atomic USDC, rounded up."""
        return -(-charged * int((100 - self.cache_discount_percent) * 10**6) // 10**8)


NO_RULES = PriceRules()


def _scaled(rate: Rate, percent: Decimal) -> Rate:
    value = EXACT_CONTEXT.multiply(rate.value, percent).scaleb(-2, EXACT_CONTEXT)
    return Rate(value.normalize(EXACT_CONTEXT) if value else Decimal(0), rate.unit)

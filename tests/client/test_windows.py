"""The windows of a budget, to the second, and what a refusal tells."""

from __future__ import annotations

from decimal import Decimal

import pytest

from x402.client.budget import DAY_SECONDS, HOUR_SECONDS, Limits
from x402.errors import DeclinedError


def test_B12_an_hour_and_a_day_are_as_long_as_they_are() -> None:
    assert (HOUR_SECONDS, DAY_SECONDS) == (60 * 60, 24 * 60 * 60)


def test_B12_one_call_counts_nothing_but_itself() -> None:
    with pytest.raises(DeclinedError) as declined:
        Limits(per_call="0.10").check(Decimal("0.11"), "shop.example", "0xpayee", lambda *_: Decimal(5))
    assert declined.value.details == {"limit": "0.10", "spent": "0", "asked": "0.11"}
    # The control: at the limit it is allowed.
    Limits(per_call="0.10").check(Decimal("0.10"), "shop.example", "0xpayee", lambda *_: Decimal(5))

"""What one answer used and what it came to: the facts behind a receipt, a usage report and a provider's earnings.

All amounts are atomic USDC (6 decimals).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class PaidBy(StrEnum):
    """How an answer is paid for."""

    EXACT = "exact"
    """The quoted bound, on chain; what was not used is credited to the payer."""
    UPTO = "upto"
    """The actual price, on chain."""
    BALANCE = "balance"
    """The actual price, from an account at the gateway."""
    FREE = "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """What a request really used, as far as it is known; `complete` once the upstream has said so itself.

    `charged` is the price of that, platform `fee` included, never above the quote (fault B17).
    """

    model: str
    provider: str = ""
    endpoint: str = "chat.completions"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    images: int = 0
    charged: int = 0
    fee: int = 0
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One answer that was sold, or given away: a row of its own, written together with the movement of the money.

    `bill_id` is the payId of a payment, or the id of a reservation. `quoted` is the bound, `credited` what of a paid
    bound went to the payer's balance, `earned` the provider's part. `at` is a unix second.
    """

    bill_id: str
    at: int
    account: str
    paid_by: PaidBy
    metered: Metered
    quoted: int = 0
    credited: int = 0
    earned: int = 0
    key_id: str = ""
    network: str = ""
    transaction: str = ""
    request_id: str = ""
    outcome: str = "served"
    latency_ms: int = 0
    first_token_ms: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    """The request's `metadata` and `user`, which stay with the receipt and go nowhere else (aimo rows 29, 31)."""

"""What one answer used and what it came to: the facts behind a receipt, a usage report and a provider's earnings.

All amounts are atomic USDC (6 decimals).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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

    `charged` is the price of that, platform `fee` included, never above the quote (fault B17). Where several providers
    made parts of one answer, `provider` is the first, and `shares` say what of the price is whose, without the fee.
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
    shares: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        # JSON knows no tuples, and what is kept with an answer comes back from there.
        object.__setattr__(self, "shares", tuple((str(provider), int(units)) for provider, units in self.shares))

    def within(self, bound: int) -> Metered:
        """The same, charged at most `bound` atomic USDC, and not less than nothing (fault B17)."""
        charged = min(max(0, self.charged), bound)
        return replace(self, charged=charged, fee=min(max(0, self.fee), charged))


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

    def parts(self) -> tuple[Bill, ...]:
        """The bill with its provider's part of what was earned, and a line of its own for every other provider that
        has a share: their `earned` add up to that of this bill, to the unit."""
        whole = sum(units for _, units in self.metered.shares)
        owners = [(provider, units) for provider, units in self.metered.shares if provider != self.metered.provider]
        if not owners or not whole:
            return (self,)
        others = [
            Bill(
                bill_id=f"{self.bill_id}#{number}",
                at=self.at,
                account=self.account,
                paid_by=self.paid_by,
                metered=Metered(model=self.metered.model, provider=provider, endpoint=self.metered.endpoint),
                earned=self.earned * units // whole,
                network=self.network,
                transaction=self.transaction,
                request_id=self.request_id,
            )
            for number, (provider, units) in enumerate(owners, 1)
        ]
        return replace(self, earned=self.earned - sum(other.earned for other in others)), *others

    def facts(self) -> dict[str, str | int]:
        """What observers are told of it: nothing that says who it was, or what was asked (fault G06)."""
        told: dict[str, str | int] = {
            "model": self.metered.model,
            "provider": self.metered.provider,
            "endpoint": self.metered.endpoint,
            "paid_by": str(self.paid_by),
            "outcome": self.outcome,
            "input_tokens": self.metered.prompt_tokens,
            "output_tokens": self.metered.completion_tokens,
            "charged_units": self.metered.charged,
            "quoted_units": self.quoted,
            "latency_ms": self.latency_ms,
        }
        stated = {"network": self.network, "transaction": self.transaction, "request_id": self.request_id}
        told |= {name: value for name, value in stated.items() if value}
        return told if self.first_token_ms is None else told | {"first_token_ms": self.first_token_ms}


class EntryKind(StrEnum):
    """Why an account's balance moved. Each is an entry that is never changed again."""

    DEPOSIT = "deposit"
    """A payment that was made to fill the account."""
    CREDIT = "credit"
    """What was paid and not used, or paid for an answer that never came."""
    GRANT = "grant"
    """A gift of the operator: spent before anything else, and never paid out."""
    EARN = "earn"
    """A provider's part of the answers that it gave."""
    RESERVE = "reserve"
    """The bound of an answer, set aside before it is made."""
    DEBIT = "debit"
    """What the answer cost, out of what was set aside."""
    FEE = "fee"
    """The platform's part of that."""
    RELEASE = "release"
    """What was set aside and not needed."""
    WITHDRAW = "withdraw"
    """On its way back to the payer's wallet."""
    REFUND = "refund"
    """A withdrawal that provably never left."""
    REVERSE = "reverse"
    """What a chain reorganisation took back."""
    REVOKE = "revoke"
    """What it took back of a gift: the bonus of the payment, or what had to stand for money that was gone."""
    RESTORE = "restore"
    """What it had taken back, when the payment landed again."""


PAID_IN = frozenset({EntryKind.DEPOSIT, EntryKind.CREDIT})
"""Kinds that are backed by a payment, whose payId is their reference; the seller holds that money for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One movement of an account: `units` change what may be spent, `held` what is set aside, either may be negative.

    No two postings of one kind have the same `reference`, so that nothing is booked twice: the payId of a payment, the
    id of a reservation, a withdrawal or a grant.
    """

    account: str
    kind: EntryKind
    reference: str
    units: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """What is written in the very transaction that moves a payment: the bill, and what the payer's account gains."""

    bill: Bill | None = None
    postings: tuple[Posting, ...] = ()

    @property
    def accounts(self) -> tuple[str, ...]:
        """The accounts that move."""
        return tuple(sorted({posting.account for posting in self.postings}))

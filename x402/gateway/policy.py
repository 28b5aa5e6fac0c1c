"""What the operator of a gateway decided about risk: whom to believe, how much may be open, when to pay back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache

from x402.confirmation import Confirmations
from x402.errors import MisconfiguredError
from x402.gateway.accounts.promotions import Promotions
from x402.money import Amount, Asset
from x402.networks import get as network_of

LEASE_SECONDS = 10
"""How long a replica that died keeps others from its payments; one that lives renews three times as often."""

_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Limits of one gateway. Dollars are whole US dollars, times seconds. Raises `MisconfiguredError`.

    `check_above` is the price from which a foreign facilitator's success is always looked up on chain, and
    `check_percent` the share of cheaper ones that is looked up as well (fault E12). `max_unsettled` bounds the value of
    all claims that are served and not settled yet, on one network (A08). A payer with a failure in the last
    `failure_memory_seconds` is settled before it is served (A16, D11). `answer_retention_seconds` is how long a
    delivered answer is kept; 0 keeps none. `confirmations`, by network family, is how deep a transfer lies before our
    own look at the chain counts it, whatever a facilitator says (A16). What is owed for longer than
    `refund_after_seconds` is paid back when a refund wallet is there, at most `refund_per_day` on one network (G10);
    else it is credited where accounts are kept. From those the same wallet pays out at most `withdraw_per_day` on one
    network, in withdrawals of at least `withdraw_min`; one deposit is at most `deposit_max`. A sign-in
    lives at most `sign_in_max_seconds`, and `promotions` are what the operator gives. A transfer that was made before
    it is presented is taken for `hash_proof_seconds` after its block; 0 takes none (`gateway.hash_proof`).
    """

    answer_retention_seconds: int = 600
    check_above: Decimal = Decimal(1)
    check_percent: int = 5
    max_unsettled: Decimal = Decimal(100)
    failure_memory_seconds: int = 7 * _DAY_SECONDS
    refund_after_seconds: int = 600
    refund_per_day: Decimal = Decimal(10)
    withdraw_per_day: Decimal = Decimal(100)
    withdraw_min: Decimal = Decimal("0.01")
    deposit_max: Decimal = Decimal(100)
    sign_in_max_seconds: int = 3600
    hash_proof_seconds: int = 0
    promotions: Promotions = field(default_factory=Promotions)
    lease_seconds: int = LEASE_SECONDS
    confirmations: Mapping[str, Confirmations] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "answer_retention_seconds",
            "failure_memory_seconds",
            "refund_after_seconds",
            "hash_proof_seconds",
        ):
            if getattr(self, name) < 0:
                raise MisconfiguredError("invalid_settings", f"{name}: at least 0")
        for name in (
            "check_above", "max_unsettled", "refund_per_day", "withdraw_per_day", "withdraw_min", "deposit_max",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise MisconfiguredError("invalid_settings", f"{name}: at least 0 US dollars")
        if not 0 <= self.check_percent <= 100:
            raise MisconfiguredError("invalid_settings", "check_percent: from 0 to 100")
        if self.lease_seconds < 3:
            raise MisconfiguredError("invalid_settings", "lease_seconds: at least 3")

    def required(self, units: int, network: str, asset: str) -> int:
        """The blocks under which a transfer of so many atomic units counts, its own included."""
        known = network_of(network).asset(asset)
        depths = self.confirmations.get(network_of(network).family)
        return depths.required(units, known) if depths is not None and known is not None else 1


def units_of(dollars: Decimal, network: str, asset: str) -> int:
    """Dollars in atomic units of a token, rounded up; every token that is sold for is a dollar."""
    known = network_of(network).asset(asset)
    if known is None:
        raise MisconfiguredError("unknown_asset", f"{asset} on {network} is not a known asset")
    return _units(dollars, known)


@lru_cache(maxsize=256)
def _units(dollars: Decimal, asset: Asset) -> int:
    return Amount.of(dollars, asset).units

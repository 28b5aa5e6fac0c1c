"""The demo's course: read the balances, buy, read them again, and compare with what every party wrote down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from x402.cli.demo_purchases import PURCHASES, Purchase, Seen, Shopper
from x402.client.journal import IN_MEMORY, Journal
from x402.devnet.town_books import Balances, Verdict, audit

if TYPE_CHECKING:
    from x402.cli.demo_screen import Screen
    from x402.devnet.town import Town


@dataclass(frozen=True, slots=True)
class Play:
    """How a demo went. Balances are atomic; `seconds` includes the town's start."""

    purchases: Sequence[Seen]
    before: Balances
    after: Balances
    verdict: Verdict
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The result for programs, amounts as strings of atomic units."""
        return {
            "ok": self.verdict.agrees,
            "seconds": f"{self.seconds:.2f}",
            "purchases": [seen.as_json() for seen in self.purchases],
            "balances": {"before": _amounts(self.before), "after": _amounts(self.after)},
            "verdict": self.verdict.as_json(),
        }


async def play(
    town: Town, shopper: Shopper, screen: Screen, *, began: float, purchases: Sequence[Purchase] = PURCHASES
) -> Play:
    """Run the demo in a town that is up. `began` is the monotonic second in which the command began.

    Raises an `X402Error` when a purchase fails.
    """
    screen.opening(town, time.monotonic() - began)
    journal = Journal(IN_MEMORY, clock=lambda: int(time.time()))
    before = await town.balances()
    seen = []
    for purchase in purchases:
        # Each version of the protocol has its own door, as in the wild; both lead to the same counter.
        door = town.urls.chat if purchase.version == 2 else f"{town.urls.gateway}/api/alpha"
        seen.append(await shopper.buy(purchase, door, town.client_auth(journal, network=purchase.network)))
    after = await town.balances()
    verdict = audit(before, after, await town.sums(journal))
    screen.books(before, after, verdict)
    journal.close()
    return Play(seen, before, after, verdict, time.monotonic() - began)


def _amounts(balances: Balances) -> dict[str, dict[str, dict[str, str]]]:
    listed: dict[str, dict[str, dict[str, str]]] = {}
    for (role, network), units in balances.usdc.items():
        fees = str(balances.fuel[role, network])
        listed.setdefault(network, {})[str(role)] = {"usdc": str(units), "fuel": fees}
    return listed

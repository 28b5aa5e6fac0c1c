"""What a seller owes to others, and whether his wallets hold that much (invariant I14).

Others' money is what their accounts hold, gifts apart; withdrawals that are asked for and not signed yet; and payments
for which nothing was delivered. A withdrawal or refund that is signed may have left the wallet already: it is told, and
counts for nobody. What the seller has earned is his, so his wallets hold more than that as long as he leaves it there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from x402 import networks
from x402.errors import MalformedError
from x402.lifecycle import Party
from x402.money import parse_atomic
from x402.ports.account_reading import AccountRow
from x402.ports.accounts import Payout
from x402.ports.audit import Violation
from x402.ports.ledger_text import PaymentRow, amount_of
from x402.stages import State

_DECIMALS = 6
_Place = tuple[str, str]
"""Network and asset."""


class BalanceReader(Protocol):
    """Reads from one network what a wallet holds. Raises `UnavailableError`."""

    async def balance(self, asset: str, owner: str) -> int:
        """Atomic units of an asset; 0 for what is no wallet there."""
        ...


@dataclass(frozen=True, slots=True)
class Cover:
    """What is owed in one asset, what of it is on its way out, and what the seller's wallets hold, in atomic units."""

    network: str
    asset: str
    owed_units: int
    leaving_units: int
    held_units: int
    wallets: tuple[str, ...]

    @property
    def short(self) -> int:
        """How much is missing."""
        return max(0, self.owed_units - self.held_units)

    @property
    def violations(self) -> list[Violation]:
        """The shortfall, if there is one, in words."""
        if not self.short:
            return []
        where = ", ".join(self.wallets) or "no wallet that the ledger knows"
        words = (
            f"{self.owed_units} units of {self.asset} are owed to payers on {self.network}, and {where} holds "
            f"{self.held_units}: {self.short} are missing; put them back, or name the wallet that holds them"
        )
        return [Violation("I14", str(Party.GATEWAY), "", words)]


class Debts:
    """What a gateway's ledger owes, by network and asset."""

    def __init__(self) -> None:
        self._owed: defaultdict[_Place, int] = defaultdict(int)
        self._leaving: defaultdict[_Place, int] = defaultdict(int)
        self._payees: defaultdict[_Place, set[str]] = defaultdict(set)

    def read(self, payments: Iterable[PaymentRow], accounts: Iterable[AccountRow]) -> Debts:
        """Add up a ledger; returns itself."""
        for row in payments:
            if row.party == Party.GATEWAY:
                self._payment(row)
        for account in accounts:
            self._account(account)
        return self

    @property
    def networks(self) -> frozenset[str]:
        """Where something was sold or is owed."""
        return frozenset(network for places in (self._owed, self._payees) for network, _ in places)

    async def compare(
        self, readers: Mapping[str, BalanceReader], wallets: Mapping[str, Sequence[str]]
    ) -> Sequence[Cover]:
        """Where accounts or unserved payments are owed something, whether it is there. `wallets` are the seller's
        own beside those that he is paid at, by network. Raises `UnavailableError`."""
        found = []
        for place in sorted(self._owed.keys() | self._leaving.keys()):
            network, asset = place
            if network not in readers:
                continue
            known = (*self._payees[place], *wallets.get(network, ()))
            owners = tuple(sorted({_spelled(network, owner) for owner in known}))
            held = [await readers[network].balance(asset, owner) for owner in owners]
            found.append(Cover(network, asset, self._owed[place], self._leaving[place], sum(held), owners))
        return found

    def _payment(self, row: PaymentRow) -> None:
        network = str(row.constants["network"])
        place = (network, _spelled(network, str(row.constants["asset"])))
        self._payees[place].add(str(row.constants["payee"]))
        if row.state not in (State.OWED, State.REFUNDING):
            return
        try:
            units = parse_atomic(amount_of(row))
        except MalformedError:
            # The audit of the payments says so.
            return
        (self._owed if row.state == State.OWED else self._leaving)[place] += units

    def _account(self, row: AccountRow) -> None:
        network = networks.find(row.account.rpartition(":")[0])
        if network is None or not network.assets:
            # A key's account has no wallet: what it holds is a gift of the operator.
            return
        place = (network.id, _spelled(network.id, network.usd.address))
        shift = network.usd.decimals - _DECIMALS
        for units, sums in (
            (max(0, row.balance + row.reserved - row.gift) + _withdrawn(row, Payout.ASKED), self._owed),
            (_withdrawn(row, Payout.SENT), self._leaving),
        ):
            if units:
                sums[place] += units * 10**shift if shift >= 0 else units // 10**-shift


def _withdrawn(row: AccountRow, state: Payout) -> int:
    return sum(one.units for one in row.withdrawals.values() if one.state == state)


def _spelled(network: str, address: str) -> str:
    return address.lower() if network.startswith(networks.EIP155 + ":") else address

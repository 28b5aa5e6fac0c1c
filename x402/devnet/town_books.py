"""Whether the money adds up: what the chains say, against what every party wrote down.

Pure arithmetic on atomic USDC. The books agree only when, on each network, the buyer paid exactly what the seller
received, the facilitator's USDC never moved, and each of the three memories sums up to the very same unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from x402.devnet.town_parties import Role


@dataclass(frozen=True, slots=True)
class Balances:
    """What each party holds, by (role, CAIP-2 network): atomic USDC, and wei or lamports for fees."""

    usdc: Mapping[tuple[Role, str], int]
    fuel: Mapping[tuple[Role, str], int]


@dataclass(frozen=True, slots=True)
class Sums:
    """Settled atomic USDC by CAIP-2 network, as each party remembers it.

    `unresolved` counts, by party, the payments whose outcome a party does not know.
    """

    client: Mapping[str, int]
    gateway: Mapping[str, int]
    facilitator: Mapping[str, int]
    unresolved: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Account:
    """One network's figures, all in atomic USDC; all but `facilitator_moved` must be the same number."""

    network: str
    paid: int
    received: int
    facilitator_moved: int
    client: int
    gateway: int
    facilitator: int

    @property
    def agrees(self) -> bool:
        """Whether chain and memories say the same, to the unit."""
        said = {self.paid, self.received, self.client, self.gateway, self.facilitator}
        return len(said) == 1 and self.facilitator_moved == 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The audit of a town. `problems` says in words what does not add up; empty means that everything does."""

    accounts: tuple[Account, ...]
    problems: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The verdict for programs, amounts as strings of atomic USDC."""
        return {
            "agrees": self.agrees,
            "problems": list(self.problems),
            "networks": {
                account.network: {
                    "buyerPaid": str(account.paid),
                    "sellerReceived": str(account.received),
                    "facilitatorMoved": str(account.facilitator_moved),
                    "clientJournal": str(account.client),
                    "gatewayLedger": str(account.gateway),
                    "facilitatorLedger": str(account.facilitator),
                    "agrees": account.agrees,
                }
                for account in self.accounts
            },
        }


def audit(before: Balances, after: Balances, sums: Sums) -> Verdict:
    """Compare two readings of the chains with the sums of the three memories in between."""
    networks = list(dict.fromkeys(network for _, network in before.usdc))
    accounts = tuple(_account(network, before, after, sums) for network in networks)
    problems = [problem for account in accounts for problem in _problems(account)]
    for party, count in sums.unresolved.items():
        if count:
            problems.append(f"the {party} does not know the outcome of {count} payments")
    return Verdict(accounts, tuple(problems))


def _account(network: str, before: Balances, after: Balances, sums: Sums) -> Account:
    def change(role: Role) -> int:
        return after.usdc[role, network] - before.usdc[role, network]

    return Account(
        network=network,
        paid=-change(Role.BUYER),
        received=change(Role.SELLER),
        facilitator_moved=change(Role.FACILITATOR),
        client=sums.client.get(network, 0),
        gateway=sums.gateway.get(network, 0),
        facilitator=sums.facilitator.get(network, 0),
    )


def _problems(account: Account) -> list[str]:
    problems = []
    if account.facilitator_moved:
        problems.append(f"{account.network}: {account.facilitator_moved} units of the facilitator's USDC moved")
    for what, said in (
        ("the seller received", account.received),
        ("the client's journal says", account.client),
        ("the gateway's ledger says", account.gateway),
        ("the facilitator's ledger says", account.facilitator),
    ):
        if said != account.paid:
            problems.append(f"{account.network}: the buyer paid {account.paid} units, {what} {said}")
    return problems

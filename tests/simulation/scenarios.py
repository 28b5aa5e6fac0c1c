"""What is played: who stands where, what is bought, how it is served."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import product

from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

EVM, SVM = BASE_SEPOLIA, SOLANA_DEVNET
PRICE_UNITS = 1_000
PRICE = "$0.001"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One cast and plot. `place` is where the facilitator runs: in the gateway (`local`), in two gateways on one
    database (`replicas`), or behind its own HTTP service (`remote`).

    `purchases` are made at about the same time; `budget` is how many the buyer may sign for in a day, `holds` how many
    it has money for. `failures` is how often the handler fails before it serves a payment, `pieces` in how many pieces
    it answers, `seconds` how long it takes. With `witness` the gateway asks the chain itself, with `refunds` it pays
    back what it owes for long. A `crowd` buys in one moment, so that settlements share transactions. Under the scheme
    `upto` half of the price is used and taken, and an answer in several pieces is a stream that is played as it comes.
    """

    network: str = EVM
    flow: str = "authorization"
    place: str = "local"
    purchases: int = 1
    failures: int = 0
    pieces: int = 1
    seconds: float = 0.2
    budget: int = 6
    holds: int = 10
    confirmations: str = "0=1"
    timeout_seconds: int = 60
    witness: bool = True
    refunds: bool = False
    crowd: bool = False
    scheme: str = "exact"

    @property
    def streams(self) -> bool:
        """Whether answers are charged by the piece, and leave before they are paid."""
        return self.scheme == "upto" and self.pieces > 1

    @property
    def name(self) -> str:
        """Short, and different for different scenarios."""
        family = "evm" if self.network == EVM else "svm"
        extras = f"x{self.purchases}" + (f" fails{self.failures}" if self.failures else "")
        extras += f" pieces{self.pieces}" if self.pieces > 1 else ""
        extras += f" deep{self.confirmations}" if self.confirmations != "0=1" else ""
        extras += "" if self.witness else " blind"
        extras += " refunds" if self.refunds else ""
        extras += " crowd" if self.crowd else ""
        extras += " upto" if self.scheme == "upto" else ""
        return f"{family} {self.flow} {self.place} {extras}"


def base_scenarios() -> list[Scenario]:
    """The plots whose every boundary is a crash point, one after the other."""
    found = []
    for network, flow, place in product((EVM, SVM), ("authorization", "upfront"), ("local", "remote", "replicas")):
        found.append(Scenario(network, flow, place, purchases=1, pieces=3 if flow == "upfront" else 1))
        found.append(Scenario(network, flow, place, purchases=2, failures=1, witness=place != "remote"))
    found.append(Scenario(EVM, "upfront", "local", confirmations="0=3"))
    found.append(Scenario(EVM, "authorization", "local", confirmations="0=3"))
    found.append(Scenario(EVM, "upfront", "local", purchases=3, crowd=True))
    found.append(Scenario(EVM, "authorization", "remote", purchases=4, crowd=True, witness=False))
    found.append(Scenario(EVM, place="local", pieces=3, scheme="upto"))
    found.append(Scenario(EVM, place="remote", purchases=2, failures=1, scheme="upto"))
    return found


def some_scenario(chance: random.Random) -> Scenario:
    """Any plot, for a storm."""

    purchases = chance.choice((1, 1, 2, 2, 3))
    return Scenario(
        network=chance.choice((EVM, EVM, SVM)),
        flow=chance.choice(("authorization", "upfront")),
        place=chance.choice(("local", "local", "replicas", "remote")),
        purchases=purchases,
        failures=chance.choice((0, 0, 0, 1, 2)),
        pieces=chance.choice((1, 1, 3)),
        seconds=chance.choice((0.05, 0.5, 5.0, 30.0)),
        budget=chance.choice((purchases, purchases + 1, 10)),
        holds=chance.choice((purchases, purchases, 20)),
        confirmations=chance.choice(("0=1", "0=1", "0=4")),
        witness=chance.random() < 0.7,
        refunds=chance.random() < 0.3,
    )


def some_crowd(chance: random.Random) -> Scenario:
    """Any plot in which many payments on Base are settled at once."""
    purchases = chance.choice((4, 6, 8))
    return replace(
        some_scenario(chance),
        network=EVM,
        purchases=purchases,
        budget=chance.choice((purchases, purchases + 2)),
        holds=chance.choice((purchases - 1, purchases, 20)),
        seconds=0.2,
        crowd=True,
    )


def some_meter(chance: random.Random) -> Scenario:
    """Any plot in which payments are charged by what they use (scheme `upto`)."""
    return replace(some_scenario(chance), network=EVM, scheme="upto", pieces=chance.choice((1, 3, 6)))

"""A rail that says what a test wants, for moments that no real chain can be brought to on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.payments import EvmPayer, evm_requirement
from x402.evidence import Standing
from x402.facilitator.rail import Checked
from x402.facilitator.settle import LocalFacilitator
from x402.lifecycle import Entry, Event, Party, Subject, begin
from x402.networks import BASE_SEPOLIA
from x402.ports import Ledger
from x402.schemes.subject import subject_of
from x402.stages import Intended, Refused, Reversed, Settled, State
from x402.telemetry import Fact, Telemetry
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

ME = Party.FACILITATOR
OURS = Settled("0xours", 7)
THEIRS = Settled("0xtheirs", 7)
DEAD = Refused("expired", "the chain proves it", "0xours")


class ScriptedRail:
    """Implements `facilitator.rail.Rail`: each question is answered with what stands under its name, an exception is
    raised, and the first of a list is taken. `asked` are the questions, in order."""

    def __init__(self, network: str = BASE_SEPOLIA, **answers: Any) -> None:
        self.network = network
        self.balances: Mapping[str, int] = {}
        self.reserve = 0
        self.extensions: Sequence[str] = ("gas",)
        self.answers: dict[str, Any] = {
            "check": None, "fee": 7, "cost": 5, "submit": None, "replace": None, "decide": OURS, "spent_by": None,
            "is_deep": True, "may_land": True, "is_open_to_all": False, "standing": None, "restore": None, "heal": None,
            "failure": None, "kinds": (), "signers": ["0xsigner"], "intend": None,
        } | answers  # fmt: skip
        self.asked: list[str] = []

    def _say(self, name: str) -> Any:
        self.asked.append(name)
        name = name.partition(" ")[0]
        said = self.answers[name]
        if isinstance(said, list) and name != "signers":
            said = said.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    async def aclose(self) -> None:
        return

    async def start(self) -> None:
        return

    async def kinds(self) -> Sequence[Kind]:
        kinds: Sequence[Kind] = self._say("kinds")
        return kinds

    def signers(self) -> list[str]:
        return list(self._say("signers"))

    def read(self, payment: Payment, requirement: Requirement) -> Checked:
        return Checked(replace(subject_of(payment, requirement), amount=requirement.amount), payment, requirement)

    async def check(self, payment: Payment, requirement: Requirement, *, settling: bool = False) -> Checked:
        said: dict[str, Any] = self._say("check settling" if settling else "check") or {}
        return replace(self.read(payment, requirement), balance=5000, **said)

    async def fee(self, checked: Checked) -> int:
        return int(self._say("fee"))

    async def cost(self, transaction: str, shares: int = 1) -> int | None:
        cost: int | None = self._say("cost")
        self.asked[-1] += f" {transaction} {shares}"
        return cost

    async def intend(self, checked: Checked, ledger: Ledger) -> tuple[Entry, bool]:
        self._say("intend")
        return await ledger.begin(begin(ME, checked.subject, Intended("0xours", b"raw", 2**40)))

    async def submit(self, intended: Intended) -> None:
        self._say("submit")

    async def replace(self, entry: Entry, intended: Intended, ledger: Ledger) -> Entry | None:
        if self._say("replace") is None:
            return None
        better = replace(intended, attempt=intended.attempt + 1, earlier=(*intended.earlier, intended.transaction))
        better = replace(better, transaction=f"0xours{better.attempt}")
        return await ledger.advance(ME, entry.subject.pay_id, Event.REPLACE, better)

    async def decide(
        self, entry: Entry, intended: Intended, ledger: Ledger, *, timeout: float
    ) -> Settled | Refused | None:
        if not intended.transaction:
            return Refused("nothing_due", "nothing was used")
        verdict: Settled | Refused | None = self._say("decide")
        return verdict

    async def failure(self, entry: Entry, intended: Intended) -> str | None:
        failed: str | None = self._say("failure")
        self.asked[-1] += f" {intended.transaction}"
        return failed

    async def spent_by(self, subject: Subject) -> Settled | Refused | None:
        verdict: Settled | Refused | None = self._say("spent_by")
        return verdict

    async def is_deep(self, subject: Subject, settled: Settled) -> bool:
        return bool(self._say("is_deep"))

    def is_open_to_all(self, subject: Subject) -> bool:
        return bool(self._say("is_open_to_all"))

    def may_land(self, entry: Entry) -> bool:
        return bool(self._say("may_land"))

    async def standing(self, entry: Entry, stage: Settled | Reversed) -> Standing | None:
        standing: Standing | None = self._say("standing")
        return standing

    async def restore(self, entry: Entry, stage: Reversed) -> Refused | None:
        dead: Refused | None = self._say("restore")
        return dead

    async def heal(self, ledger: Ledger) -> None:
        self._say("heal")


class Budget:
    """Stands for the allowance: what was booked, and what that was corrected to."""

    def __init__(self, *refusals: Exception) -> None:
        self.refusals = list(refusals)
        self.booked: list[tuple[str, int]] = []
        self.failing: bool | None = None

    async def ask(self, subject: Subject, fee: int, caller: Any) -> None:
        self._book("ask", fee)

    async def admit(self, subject: Subject, fee: int, caller: Any) -> None:
        self._book("admit", fee)

    async def correct(self, subject: Subject, fee: int) -> None:
        self.booked.append(("correct", fee))

    def correct_soon(self, subject: Subject, cost: Any) -> None:
        self.booked.append(("soon", 0))
        self.cost = cost

    def note(self, subject: Subject, *, failing: bool) -> None:
        self.failing = failing

    def _book(self, name: str, fee: int) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.booked.append((name, fee))


def offer_and_payment(amount: int = 1000) -> tuple[Requirement, Payment]:
    """An offer, and what pays it."""
    offer = evm_requirement(amount=amount)
    return offer, EvmPayer().pay(offer)


class Settler:
    """A facilitator on scripted rails, one payment, and what it tells."""

    def __init__(self, ledger: Any, rails: Sequence[ScriptedRail], budget: Any = None) -> None:
        self.facts: list[Fact] = []
        self.offer, self.payment = offer_and_payment()
        self.local = LocalFacilitator(rails, ledger, telemetry=Telemetry([self.facts.append]), allowance=budget)
        self.pay_id = subject_of(self.payment, self.offer).pay_id
        self.ledger = ledger

    async def settle(self, **changed: Any) -> Receipt:
        return await self.local.settle(self.payment, self.offer.model_copy(update=changed))

    async def state(self) -> State | None:
        entry = await self.ledger.find(ME, self.pay_id)
        return None if entry is None else entry.state

    def told(self) -> list[str]:
        names = [fact.name for fact in self.facts]
        self.facts.clear()
        return names

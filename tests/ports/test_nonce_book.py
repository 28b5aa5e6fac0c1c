"""Transaction nonces: never twice, and never a gap that nothing accounts for. Faults D01, D02."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from tests.ports.ledgers import ME, NETWORK, nonce_of, signing, subject
from x402.lifecycle import Event
from x402.ports import NonceBook
from x402.ports.ledger import SqlLedger
from x402.stages import Final, Intended, Refused, Settled


async def test_D01_nonces_are_handed_out_once_and_never_below_the_chain(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        nonces = await asyncio.gather(*(nonce_of(ledger, f"{n}", 7) for n in range(50)))
        assert sorted(nonces) == list(range(7, 57))
        assert await nonce_of(ledger, "other", 7, "0xother") == 7
        assert await nonce_of(ledger, "above", 100) == 100
        assert await nonce_of(ledger, "below", 3) == 101


async def test_D02_returned_nonces_come_back_first_and_once(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        for number in range(5):
            await nonce_of(ledger, f"{number}")
        for name in ("3", "1", "2"):
            await ledger.advance(ME, name, Event.REFUSE, Refused("a", "b"))
        for nonce in (3, 1, 1):
            await ledger.return_nonce(NETWORK, "0xsender", nonce)
        assert [await nonce_of(ledger, f"again{number}") for number in range(3)] == [1, 3, 5]
        await ledger.return_nonce(NETWORK, "0xsender", 2)
        # The chain has passed it: somebody else used it.
        assert await nonce_of(ledger, "later", 4) == 6


async def test_D02_a_nonce_that_is_held_or_unknown_is_not_handed_out_again(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        assert [await nonce_of(ledger, name) for name in ("held", "settled", "free")] == [0, 1, 2]
        await ledger.advance(ME, "settled", Event.SETTLE, Settled(signing("settled")(1).transaction))
        await ledger.advance(ME, "free", Event.REFUSE, Refused("a", "b"))
        assert await ledger.nonces(NETWORK, "0xsender") == NonceBook(3, frozenset({0, 1}))
        for nonce in range(6):
            await ledger.return_nonce(NETWORK, "0xsender", nonce)
            await ledger.return_nonce(NETWORK, "0xstranger", nonce)
            # Nobody may fill a gap where none is: what comes next comes anyway.
            assert await ledger.withdraw_nonce(NETWORK, "0xsender", nonce) is (nonce == 2)
        await ledger.return_nonce(NETWORK, "0xsender", 2)
        assert [await nonce_of(ledger, f"next{number}") for number in range(3)] == [2, 3, 4]
        assert await nonce_of(ledger, "first", 0, "0xstranger") == 0


async def test_A11_a_payment_that_a_stranger_settled_holds_no_nonce(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        assert await nonce_of(ledger, "pay") == 0
        await ledger.advance(ME, "pay", Event.SETTLE, Settled("0xstranger"))
        assert await ledger.nonces(NETWORK, "0xsender") == NonceBook(1, frozenset())
        await ledger.return_nonce(NETWORK, "0xsender", 0)
        assert await nonce_of(ledger, "next") == 0


async def test_D02_a_gap_is_filled_by_one(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await nonce_of(ledger, "lost")
        await ledger.advance(ME, "lost", Event.REFUSE, Refused("a", "b"))
        assert not await ledger.withdraw_nonce(NETWORK, "0xsender", 0)
        await ledger.return_nonce(NETWORK, "0xsender", 0)
        fillers = await asyncio.gather(*(ledger.withdraw_nonce(NETWORK, "0xsender", 0) for _ in range(5)))
        assert sorted(fillers) == [False] * 4 + [True]
        assert await nonce_of(ledger, "next") == 1


class NonceBookMachine(RuleBasedStateMachine):
    """Intend, replace, settle, refuse and return in any order, with a chain that takes nonces as they settle."""

    open = Bundle("open")
    """Payments that may still move."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.ledger = SqlLedger(clock=lambda: 7)
        self.run(self.ledger.start())
        self.payments = 0
        self.held: dict[str, Intended] = {}
        self.settled: dict[str, int] = {}
        self.freed: set[int] = set()
        self.used: set[int] = set()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.ledger.close())
        self.loop.close()

    @property
    def chain_nonce(self) -> int:
        nonce = 0
        while nonce in self.used:
            nonce += 1
        return nonce

    def taken(self, stage: Any) -> None:
        assert stage.nonce >= self.chain_nonce
        assert stage.nonce not in {one.nonce for one in self.held.values()}
        assert stage.nonce not in self.settled.values()
        assert stage.nonce not in self.used
        self.freed.discard(stage.nonce)

    @rule(target=open)
    def intend(self) -> str:
        name = f"{self.payments}"
        self.payments += 1
        entry, won = self.run(self.ledger.intend(subject(name), "0xsender", self.chain_nonce, signing(name)))
        assert won
        self.taken(entry.stage)
        self.held[name] = entry.stage
        return name

    @rule(target=open, name=consumes(open))
    def intend_again(self, name: str) -> str:
        entry, won = self.run(self.ledger.intend(subject(name), "0xsender", self.chain_nonce, signing(name)))
        assert not won
        assert entry.stage == self.held[name]
        return name

    @rule(target=open, name=consumes(open), keep=st.booleans())
    def replace(self, name: str, keep: bool) -> str:
        before = self.held.pop(name)
        assert before.nonce is not None
        earlier = (*before.earlier, before.transaction)
        again = signing(name, before.attempt + 1, earlier)
        work = self.ledger.replace(name, before.attempt, "0xsender", self.chain_nonce, again, keep_nonce=keep)
        stage = self.run(work).stage
        if keep:
            assert stage.nonce == before.nonce
        else:
            self.taken(stage)
            self.freed.add(before.nonce)
        self.held[name] = stage
        return name

    @rule(target=open, name=consumes(open), final=st.booleans())
    def settle(self, name: str, final: bool) -> Any:
        stage = self.held.pop(name)
        assert stage.nonce is not None
        self.run(self.ledger.advance(ME, name, Event.SETTLE, Settled(stage.transaction)))
        self.used.add(stage.nonce)
        if final:
            self.run(self.ledger.advance(ME, name, Event.FINALISE, Final(stage.transaction)))
        else:
            self.settled[name] = stage.nonce
        return multiple()

    @rule(target=open, name=consumes(open))
    def refuse(self, name: str) -> Any:
        stage = self.held.pop(name)
        assert stage.nonce is not None
        self.run(self.ledger.advance(ME, name, Event.REFUSE, Refused("a", "b")))
        self.freed.add(stage.nonce)
        return multiple()

    @rule(nonce=st.integers(0, 12))
    def give_back(self, nonce: int) -> None:
        if nonce not in self.used:
            self.run(self.ledger.return_nonce(NETWORK, "0xsender", nonce))

    @invariant()
    def every_nonce_is_accounted_for(self) -> None:
        book = self.run(self.ledger.nonces(NETWORK, "0xsender"))
        holding = {stage.nonce for stage in self.held.values()}
        assert book.held == holding | set(self.settled.values())
        assert holding | self.used | self.freed == set(range(book.next))


NonceBookMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestNonceBookMachine = NonceBookMachine.TestCase

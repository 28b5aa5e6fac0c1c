"""Reserved, signed and written in one transaction: first attempts and replacements. Faults A06, D01, D02, D03, E11."""

from __future__ import annotations

import asyncio

import pytest

from tests.ports.ledgers import ME, NETWORK, logged, nonce_of, signing, subject
from x402.lifecycle import Event, Party, UnlawfulEvent
from x402.ports import NonceBook
from x402.ports.ledger import SqlLedger
from x402.stages import Final, Intended, Refused, Reversed, Settled


def never(nonce: int) -> Intended:
    raise ArithmeticError(f"no signature with {nonce}")


async def test_A06_an_attempt_is_durable_when_it_is_known(ledger_url: str) -> None:
    async with SqlLedger(ledger_url, clock=lambda: 7) as ledger:
        entry, won = await ledger.intend(subject(), "0xsender", 4, signing())
        assert won
        assert entry.stage == signing()(4)
        assert (entry.created_at, entry.updated_at) == (7, 7)
    async with SqlLedger(ledger_url) as ledger:
        assert await ledger.find(ME, "pay") == entry
        assert await logged(ledger) == [("begin", "pay")]


async def test_A04_twenty_at_once_reserve_one_nonce(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        told = await asyncio.gather(
            *(ledger.intend(subject(), f"0x{n}", n, signing(sender=f"0x{n}")) for n in range(20))
        )
        assert [won for _, won in told].count(True) == 1
        (sender,) = {entry.stage.sender for entry, _ in told if isinstance(entry.stage, Intended)}
        books = [await ledger.nonces(NETWORK, f"0x{n}") for n in range(20)]
        assert [bool(book.held) for book in books] == [f"0x{n}" == sender for n in range(20)]
        assert [book.next for book in books if not book.held] == [0] * 19


async def test_D02_what_cannot_be_signed_reserves_nothing(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        told = await asyncio.gather(
            ledger.intend(subject("a"), "0xsender", 3, signing("a")),
            ledger.intend(subject("b"), "0xsender", 3, never),
            ledger.intend(subject("c"), "0xsender", 3, signing("c")),
            return_exceptions=True,
        )
        assert isinstance(told[1], ArithmeticError)
        assert await ledger.find(ME, "b") is None
        assert await ledger.nonces(NETWORK, "0xsender") == NonceBook(5, frozenset({3, 4}))
        with pytest.raises(ArithmeticError):
            await ledger.replace("a", 1, "0xsender", 3, never)
        assert await ledger.nonces(NETWORK, "0xsender") == NonceBook(5, frozenset({3, 4}))


async def test_D03_a_higher_fee_keeps_the_nonce(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        first, _ = await ledger.intend(subject(), "0xsender", 4, signing())
        assert isinstance(first.stage, Intended)
        again = signing(attempt=2, earlier=(first.stage.transaction,))
        second = await ledger.replace("pay", 1, "0xsender", 9, again, keep_nonce=True)
        assert second.stage == again(4)
        assert await ledger.find(ME, "pay") == second
        assert isinstance(second.stage, Intended)
        assert second.stage.transactions == (again(4).transaction, first.stage.transaction)
        assert await ledger.nonces(NETWORK, "0xsender") == NonceBook(5, frozenset({4}))
        assert [event for event, _ in await logged(ledger)] == ["begin", "replace"]


async def test_D02_bytes_that_never_left_are_signed_by_another(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        first, _ = await ledger.intend(subject(), "0xsender", 4, signing())
        assert isinstance(first.stage, Intended)
        again = signing(attempt=2, earlier=(first.stage.transaction,), sender="0xother")
        second = await ledger.replace("pay", 1, "0xother", 9, again)
        assert second.stage == again(9)
        assert await ledger.nonces(NETWORK, "0xsender") == NonceBook(5, frozenset())
        assert await ledger.nonces(NETWORK, "0xother") == NonceBook(10, frozenset({9}))
        await ledger.return_nonce(NETWORK, "0xsender", 4)
        assert await nonce_of(ledger, "next", 4) == 4


async def test_D03_an_attempt_is_replaced_once(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        with pytest.raises(KeyError):
            await ledger.replace("pay", 1, "0xsender", 0, signing())
        first, _ = await ledger.intend(subject(), "0xsender", 4, signing())
        assert isinstance(first.stage, Intended)
        again = signing(attempt=2, earlier=(first.stage.transaction,))
        told = await asyncio.gather(
            *(ledger.replace("pay", 1, "0xsender", 4, again) for _ in range(5)), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in told) == ["Entry"] + ["UnlawfulEvent"] * 4
        assert await ledger.nonces(NETWORK, "0xsender") == NonceBook(6, frozenset({5}))
        # A replacement that forgets one of those before it could hide a payment.
        with pytest.raises(UnlawfulEvent):
            await ledger.replace("pay", 2, "0xsender", 4, signing(attempt=3))
        assert await ledger.nonces(NETWORK, "0xsender") == NonceBook(6, frozenset({5}))
        await ledger.advance(ME, "pay", Event.SETTLE, Settled("0xtx"))
        with pytest.raises(UnlawfulEvent):
            await ledger.replace("pay", 2, "0xsender", 4, again)


async def test_A16_a_reversed_payment_has_its_bytes_and_its_nonce(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        first, _ = await ledger.intend(subject(), "0xsender", 4, signing())
        assert isinstance(first.stage, Intended)
        transaction, raw = first.stage.transaction, first.stage.raw
        await ledger.advance(ME, "pay", Event.SETTLE, Settled(transaction, 12))
        assert (await ledger.nonces(NETWORK, "0xsender")).held == {4}
        moved = await ledger.advance(ME, "pay", Event.REORGANISE, Reversed(transaction))
        assert moved.stage == Reversed(transaction, raw)
        assert await ledger.find(ME, "pay") == moved
        assert [entry.subject.pay_id for entry in await ledger.unresolved(ME)] == ["pay"]
        await ledger.return_nonce(NETWORK, "0xsender", 4)
        assert await nonce_of(ledger, "other", 4) == 5
        await ledger.advance(ME, "pay", Event.FINALISE, Final(transaction, 14))
        assert (await ledger.nonces(NETWORK, "0xsender")).held == {5}


async def test_A16_what_a_payer_did_after_verification_is_counted(ledger_url: str) -> None:
    now = 10
    async with SqlLedger(ledger_url, clock=lambda: now) as ledger:
        for name in ("never sent", "reverted", "reversed", "open"):
            await nonce_of(ledger, name)
        await ledger.advance(ME, "never sent", Event.REFUSE, Refused("a", "b"))
        await ledger.advance(ME, "reverted", Event.REFUSE, Refused("a", "b", "0xtx"))
        assert await ledger.failures_of(ME, "0xpayer", 0) == 1
        now = 20
        await ledger.advance(ME, "reversed", Event.SETTLE, Settled("0xtx"))
        await ledger.advance(ME, "reversed", Event.REORGANISE, Reversed("0xtx"))
        assert [await ledger.failures_of(ME, "0xpayer", since) for since in (0, 10, 11, 20, 21)] == [2, 2, 1, 1, 0]
        assert await ledger.failures_of(ME, "0xother", 0) == 0
        assert await ledger.failures_of(Party.GATEWAY, "0xpayer", 0) == 0

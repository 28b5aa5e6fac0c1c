"""Many payments, one nonce, one transaction, a row each: on both databases. Faults A04, A22, D01, D02, D03, E11."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.ports.ledgers import ME, NETWORK, logged, nonce_of, signing, subject
from x402.lifecycle import Entry, Event, Subject, UnlawfulEvent
from x402.ports import NonceBook, SignAgain, SignTogether
from x402.ports.audit import audit
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.stages import Intended, Refused, Reversed, Settled, State

SENDER = "0xsender"


def together(asked: list[list[str]] | None = None) -> SignTogether:
    """What signs one transaction for several payments, whose bytes tell which."""

    def sign(nonce: int, subjects: Sequence[Subject]) -> Sequence[Intended]:
        names = [one.pay_id for one in subjects]
        if asked is not None:
            asked.append(names)
        name, raw = f"0xbundle-{nonce}", f"{nonce}: {' '.join(names)}".encode()
        return [Intended(name, raw, 2**40, SENDER, nonce, shares=len(names)) for _ in names]

    return sign


def again(number: int = 2) -> SignAgain:
    """What signs it anew."""

    def sign(nonce: int, entries: Sequence[Entry]) -> Sequence[Intended]:
        name, raw = f"0xbundle-{nonce}-{number}", f"{nonce} {number}: {len(entries)}".encode()
        before = [entry.stage for entry in entries if isinstance(entry.stage, Intended)]
        return [
            Intended(name, raw, 2**40, SENDER, nonce, number, (*one.earlier, one.transaction), shares=len(before))
            for one in before
        ]

    return sign


def seen(entry: Entry | None) -> tuple[str, bytes, int | None]:
    """Transaction, bytes and nonce of a payment that waits."""
    assert entry is not None
    assert isinstance(entry.stage, Intended)
    return entry.stage.transaction, entry.stage.raw, entry.stage.nonce


async def test_A22_each_row_is_durable_with_the_bytes_of_all(ledger_url: str) -> None:
    names = ["a", "b", "c"]
    async with SqlLedger(ledger_url, clock=lambda: 7) as ledger:
        told = await ledger.intend_together([subject(name) for name in names], SENDER, 4, together())
        assert [(entry.subject.pay_id, won) for entry, won in told] == [(name, True) for name in names]
    async with SqlLedger(ledger_url) as ledger:
        for (entry, _), name in zip(told, names, strict=True):
            assert await ledger.find(ME, name) == entry
            assert seen(entry) == ("0xbundle-4", b"4: a b c", 4)
        assert [seen(entry) for entry in await ledger.unresolved(ME)] == [("0xbundle-4", b"4: a b c", 4)] * 3
        assert [seen(entry) for entry in await ledger.take_open(ME, 10)] == [("0xbundle-4", b"4: a b c", 4)] * 3
        assert await ledger.nonces(NETWORK, SENDER) == NonceBook(5, frozenset({4}))
        assert await logged(ledger) == [("begin", name) for name in names]
        assert await nonce_of(ledger, "next", 4) == 5


async def test_A04_who_is_known_already_is_not_signed_for_again(ledger_url: str) -> None:
    asked: list[list[str]] = []
    async with SqlLedger(ledger_url) as ledger:
        older, _ = await ledger.intend(subject("b"), "0xother", 0, signing("b", sender="0xother"))
        presented = [subject("a"), subject("b"), subject("c"), subject("c", amount=2000)]
        told = await ledger.intend_together(presented, SENDER, 0, together(asked))
        assert asked[-1] == ["a", "c"]
        assert [won for _, won in told] == [True, False, True, False]
        assert told[1][0] == older
        assert told[3][0].subject.amount == 1000
        # When nobody is new, nothing is reserved.
        assert [won for _, won in await ledger.intend_together(presented, SENDER, 0, together(asked))] == [False] * 4
        assert len(set(map(tuple, asked))) == 1
        assert (await ledger.nonces(NETWORK, SENDER)).next == 1


async def test_E11_replicas_that_present_the_same_payments_have_one_winner_each(ledger_url: str) -> None:
    names = [f"pay{number}" for number in range(12)]
    async with SqlLedger(ledger_url) as one, SqlLedger(ledger_url) as two:
        told = await asyncio.gather(
            *(
                ledger.intend_together([subject(name) for name in order], SENDER, 0, together())
                for ledger, order in ((one, names), (two, names[::-1]), (one, names[3:9]), (two, names[6:]))
            )
        )
        won = [entry.subject.pay_id for outcomes in told for entry, mine in outcomes if mine]
        assert sorted(won) == sorted(names)
        book = await one.nonces(NETWORK, SENDER)
        assert book.held == frozenset(range(book.next))


async def test_D02_what_cannot_be_signed_reserves_and_writes_nothing(ledger_url: str) -> None:
    def never(nonce: int, subjects: Sequence[Subject]) -> Sequence[Intended]:
        raise ArithmeticError(f"no signature with {nonce}")

    async with SqlLedger(ledger_url) as ledger:
        told = await asyncio.gather(
            ledger.intend_together([subject("a"), subject("b")], SENDER, 3, together()),
            ledger.intend_together([subject("c"), subject("d")], SENDER, 3, never),
            return_exceptions=True,
        )
        assert isinstance(told[1], ArithmeticError)
        assert await ledger.find(ME, "c") is None
        assert await ledger.nonces(NETWORK, SENDER) == NonceBook(4, frozenset({3}))


async def test_D03_all_that_wait_are_replaced_at_once_with_their_nonce(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.intend_together([subject(name) for name in "abcd"], SENDER, 0, together())
        await ledger.advance(ME, "d", Event.SETTLE, Settled("0xstranger", 9))
        sharing = await ledger.sharing(NETWORK, SENDER, 0, "0xbundle-0")
        assert [entry.subject.pay_id for entry in sharing] == ["a", "b", "c"]
        replaced = await ledger.replace_together(NETWORK, SENDER, 0, "0xbundle-0", again(), among=["a", "b", "d"])
        assert [entry.subject.pay_id for entry in replaced] == ["a", "b"]
        for name in "ab":
            assert seen(await ledger.find(ME, name)) == ("0xbundle-0-2", b"0 2: 2", 0)
        assert seen(await ledger.find(ME, "c"))[0] == "0xbundle-0"
        # Whoever comes late, with the transaction that was replaced, moves only what still waits for it.
        late = await ledger.replace_together(NETWORK, SENDER, 0, "0xbundle-0", again(), among=["a", "b", "c"])
        assert [entry.subject.pay_id for entry in late] == ["c"]
        with pytest.raises(UnlawfulEvent):
            await ledger.replace_together(NETWORK, SENDER, 0, "0xbundle-0", again(), among=["a", "b", "c"])
        assert await ledger.nonces(NETWORK, SENDER) == NonceBook(1, frozenset({0}))


async def test_D01_one_of_many_leaves_for_a_nonce_of_its_own(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.intend_together([subject("a"), subject("b")], SENDER, 0, together())
        alone = await ledger.replace("b", 1, SENDER, 0, signing("b", 2, ("0xbundle-0",)))
        assert seen(alone)[1:] == (b"raw 0xb-0xsender-1-2", 1)
        assert seen(await ledger.find(ME, "b")) == seen(alone)
        assert seen(await ledger.find(ME, "a")) == ("0xbundle-0", b"0: a b", 0)
        assert await ledger.nonces(NETWORK, SENDER) == NonceBook(2, frozenset({0, 1}))


async def test_a_transfer_that_was_undone_still_has_the_bytes_of_all(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.intend_together([subject("a"), subject("b")], SENDER, 0, together())
        for name in "ab":
            await ledger.advance(ME, name, Event.SETTLE, Settled("0xbundle-0", 9))
        undone = await ledger.advance(ME, "a", Event.REORGANISE, Reversed("0xbundle-0"))
        assert undone.stage == Reversed("0xbundle-0", b"0: a b")
        assert (await ledger.nonces(NETWORK, SENDER)).held == frozenset({0})


async def test_the_books_of_payments_that_share_a_transaction_are_in_order(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        await ledger.intend_together([subject(name) for name in "abc"], SENDER, 0, together())
        for name in "ab":
            await ledger.advance(ME, name, Event.SETTLE, Settled("0xbundle-0", 9))
        await ledger.advance(ME, "c", Event.REFUSE, Refused("why", "words", "0xbundle-0"))
        with read_ledger(ledger_url) as snapshot:
            assert audit(snapshot.histories(), now=0, batched=False).violations == []


async def test_control_a_nonce_of_two_lone_transactions_is_a_violation(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        for name in "ab":
            await ledger.begin(_lone(name))
        with read_ledger(ledger_url) as snapshot:
            told = audit(snapshot.histories(), now=0).violations
        assert [one.invariant for one in told] == ["I8"]
        assert {entry.state for entry in await ledger.unresolved(ME)} == {State.INTENDED}


def _lone(name: str) -> Entry:
    return Entry(ME, subject(name), Intended("0xsame", b"raw", 2**40, SENDER, 0))

"""Books of a busy gateway, the same every time: what its dashboard is looked at with."""

from __future__ import annotations

import random

from tests.ports.ledgers import subject
from x402.billing import Bill, EntryKind, Metered, PaidBy, Posting
from x402.lifecycle import Event, Party, Subject, begin
from x402.ports.account_book import SqlAccounts
from x402.ports.ledger import SqlLedger
from x402.stages import Claimed, Delivered, Owed, Refused, Settled, Settling

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
SHOP = Party.GATEWAY
MODELS = (("demo/echo-1", 40), ("demo/story-1", 900), ("demo/embed-1", 8))
PAYERS = (f"{EVM}:0x71C7656EC7ab88b098defB751B7401B5f6d8976F", f"{EVM}:0x2546BcD3c84621e976D8185a91A922aE77ECEC30",
          f"{SVM}:9WzDXwBbmkg8ZTbNMqUxvQRAyrZzDsGYdLVL9zYtAWWM")  # fmt: skip


async def fill(ledger: SqlLedger, now: int, *, answers: int = 400) -> None:
    """A day of sales up to `now`, of which a few went wrong, and two are still open."""
    chance, book = random.Random(7), SqlAccounts(ledger)
    for number in range(answers):
        model, price = chance.choices(MODELS, (6, 3, 4))[0]
        tokens = chance.randint(20, 900)
        at = now - int(80_000 * chance.random() ** 1.4)
        charged = price * tokens // 10 + 1
        metered = Metered(
            model=model, provider="demo", prompt_tokens=tokens // 3, completion_tokens=tokens, charged=charged,
            fee=charged * 3 // 100, complete=True,
        )  # fmt: skip
        bill = Bill(
            bill_id=f"bill {number}", at=at, account=chance.choices(PAYERS, (5, 3, 2))[0], paid_by=PaidBy.BALANCE,
            metered=metered, quoted=charged + 50, latency_ms=chance.randint(180, 2600),
            first_token_ms=chance.randint(60, 400), outcome="served" if number % 57 else "failed",
            request_id=f"req_{number}", tags={"user": f"customer {number % 9}"},
        )  # fmt: skip
        await book.add(bill)
    posting = Posting(account=PAYERS[0], kind=EntryKind.DEPOSIT, reference="fill", units=12_340_000)
    await book.post(posting)
    for number in range(24):
        # A ledger takes the time from its clock.
        ledger._clock = lambda number=number: now - (24 - number) * 700
        await _pay(ledger, number, chance)
    ledger._clock = lambda: now


async def _pay(ledger: SqlLedger, number: int, chance: random.Random) -> None:
    known = subject(f"pay{number}", chance.randint(900, 60_000))
    network, payer = chance.choice(PAYERS).rsplit(":", 1)
    paid = Subject(known.pay_id, network, known.asset, payer, known.payee, known.amount, record=known.record)
    await ledger.begin(begin(SHOP, paid, Claimed()))
    await ledger.advance(SHOP, paid.pay_id, Event.SUBMIT, Settling())
    if number in (3, 4):
        return
    if number == 5:
        await ledger.advance(SHOP, paid.pay_id, Event.REFUSE, Refused("insufficient_funds", "the balance is too low"))
        return
    transaction = f"0x{chance.randbytes(32).hex()}"
    await ledger.advance(SHOP, paid.pay_id, Event.SETTLE, Settled(transaction))
    if number == 6:
        await ledger.advance(SHOP, paid.pay_id, Event.FAIL, Owed(transaction, "upstream"))
    else:
        await ledger.advance(SHOP, paid.pay_id, Event.DELIVER, Delivered(transaction))

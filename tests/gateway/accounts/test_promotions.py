"""What the operator gives: discounts, bonuses and gifts, never more than promised and never paid out. Aimo row 78."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.gateway.accounts.wallets import Signer
from x402.billing import EntryKind, Metered, Posting
from x402.cli.ledger import app
from x402.cli.ledger_grant import give
from x402.discount import Discount, Step, percent_at
from x402.errors import MalformedError, MisconfiguredError
from x402.gateway.accounts.credits import DEPOSIT
from x402.gateway.accounts.promotions import Promotions, parse_steps
from x402.gateway.policy import Policy
from x402.gateway.sale import Sale
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import BillFilter
from x402.ports.ledger import SqlLedger


def test_row_078_steps_are_read_as_they_are_written() -> None:
    steps = parse_steps("0=1, 100=2.5,1000=10", "X402_DISCOUNTS")
    assert steps == (Step(0, Decimal(1)), Step(10**8, Decimal("2.5")), Step(10**9, Decimal(10)))
    assert [percent_at(steps, spent) for spent in (0, 10**8 - 1, 10**8, 10**9, 10**15)] == [
        1, 1, Decimal("2.5"), 10, 10,
    ]  # fmt: skip
    assert parse_steps(" ", "X") == ()
    assert percent_at((), 10**12) == Promotions().bonus(10**12) == 0


@pytest.mark.parametrize("text", ["5", "100=", "=5", "100=5%", "100=-5", "1e3=5", "100=101", "100=5,100=6", "9=1,3=2"])
def test_steps_that_make_no_sense_stop_the_start(text: str) -> None:
    with pytest.raises(MisconfiguredError, match="X402_DISCOUNTS"):
        parse_steps(text, "X402_DISCOUNTS")


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.decimals(0, 100, places=3))
def test_row_078_a_discount_is_rounded_down_and_never_below_nothing(charged: int, fee: int, percent: Decimal) -> None:
    whole, discount = Metered(model="m", charged=max(charged, fee), fee=fee), Discount(1, percent)
    less = Sale.reduced(cast("Sale", SimpleNamespace(discount=discount)), whole)
    assert 0 <= less.fee <= less.charged <= whole.charged
    off = whole.charged - less.charged
    assert off <= whole.charged * percent / 100 < off + 1


async def test_row_078_who_spends_much_pays_less(metered: Any) -> None:
    promotions = Promotions(discounts=parse_steps("0.01=10", "X"))
    client = metered.open(public_url="https://shop.example", flow="authorization", policy=Policy(promotions=promotions))
    posting = Posting(account=metered.account(), kind=EntryKind.DEPOSIT, reference="d", units=10**6)
    await metered.book.post(posting)
    for _ in range(4):
        assert (await client.post("/text", headers=Signer().header(metered.shop.now))).status_code == 200
    # 7000 and 7000, which is more than a cent, and from then on a tenth less.
    bills = await metered.book.bills(BillFilter())
    assert sorted(bill.metered.charged for bill in bills) == [6300, 6300, 7000, 7000]
    assert (await metered.balance()).units == 10**6 - 26_600
    # Thirty days later nothing of that counts.
    metered.shop.now += 31 * 86_400
    assert (await client.post("/text", headers=Signer().header(metered.shop.now))).status_code == 200
    assert (await metered.balance()).units == 10**6 - 33_600


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_row_078_a_bonus_comes_with_its_deposit_once_and_is_only_spent(metered: Any, flow: str) -> None:
    metered.used = lambda chunks: Metered(model="", endpoint=DEPOSIT, complete=True)
    client = metered.open(flow=flow, policy=Policy(promotions=Promotions(bonuses=parse_steps("0.01=5", "X"))))
    header = await metered.pay()
    for _ in range(2):
        assert (await client.post("/text", headers=header)).status_code == 200
    balance = await metered.balance()
    assert (balance.units, balance.gift, balance.withdrawable) == (10_500, 500, 10_000)
    kinds = {entry.kind: entry.units for entry in await metered.book.statement(metered.account())}
    assert kinds == {EntryKind.DEPOSIT: 10_000, EntryKind.GRANT: 500}
    assert await metered.book.bills(BillFilter()) == [], "a deposit is no answer that was sold"


ALICE = "eip155:84532:0x8ba1f109551bD432803012645Ac136ddd64DBA72"


async def test_row_078_a_gift_is_given_once_for_each_name(tmp_path: Path) -> None:
    file = str(tmp_path / "gateway.sqlite")
    runner = CliRunner()
    async with SqlLedger(f"sqlite:///{file}"):
        pass
    given = await asyncio.to_thread(runner.invoke, app, ["grant", file, ALICE, "5.00", "--name", "welcome"])
    assert (given.exit_code, "5 USDC given" in given.stdout) == (0, True)
    again = await asyncio.to_thread(runner.invoke, app, ["grant", file, ALICE, "7", "--name", "welcome"])
    assert (again.exit_code, "nothing was done" in again.stdout) == (0, True)
    async with SqlLedger(f"sqlite:///{file}") as ledger:
        balance = await SqlAccounts(ledger).balance(ALICE)
    assert (balance.units, balance.withdrawable) == (5_000_000, 0)


@pytest.mark.parametrize(
    ("account", "amount", "name", "code"),
    [("alice", "5", "n", "invalid_account"), ("eip155:1", "5", "n", "invalid_account"),
     ("key:", "5", "n", "invalid_account"), (ALICE, "0", "n", "invalid_amount"),
     (ALICE, "5.0000001", "n", "invalid_amount"),
     (ALICE, "-5", "n", "invalid_price"), (ALICE, "5", "", "invalid_name"), (ALICE, "5", "a b", "invalid_name"),
     (ALICE, "5", "n", "no_ledger")],
)  # fmt: skip
async def test_a_gift_that_makes_no_sense_is_refused(
    tmp_path: Path, account: str, amount: str, name: str, code: str
) -> None:
    with pytest.raises(MalformedError) as refused:
        await give(str(tmp_path / "none.sqlite"), account, amount, name)
    assert refused.value.code == code
    assert os.listdir(tmp_path) == []

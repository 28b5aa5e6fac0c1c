"""The demo is the whole journey: eight paid answers on two chains, and books that agree to the unit or say so."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest
from typer.testing import CliRunner

from x402.cli.app import app
from x402.client.journal import Journal
from x402.devnet.town import Town
from x402.devnet.town_books import Sums
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

NETWORKS = (BASE_SEPOLIA, SOLANA_DEVNET)
HEADERS = {1: "X-PAYMENT", 2: "PAYMENT-SIGNATURE"}


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    result = CliRunner().invoke(app, ["demo", "--json", "--fast"])
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_the_books_agree_to_the_unit(demo: dict[str, Any]) -> None:
    assert demo["ok"] is True
    assert demo["verdict"]["problems"] == []
    for network in NETWORKS:
        bought = sum(int(one["amount"]) for one in demo["purchases"] if one["network"] == network)
        figures = demo["verdict"]["networks"][network]
        names = ("buyerPaid", "sellerReceived", "clientJournal", "gatewayLedger", "facilitatorLedger")
        assert bought > 0
        assert {int(figures[name]) for name in names} == {bought}
        before, after = (demo["balances"][when][network] for when in ("before", "after"))
        assert int(before["buyer"]["usdc"]) - int(after["buyer"]["usdc"]) == bought
        assert int(after["seller"]["usdc"]) - int(before["seller"]["usdc"]) == bought
        assert before["facilitator"]["usdc"] == after["facilitator"]["usdc"]
        assert int(after["facilitator"]["fuel"]) < int(before["facilitator"]["fuel"])


def test_every_way_to_buy_was_taken(demo: dict[str, Any]) -> None:
    ways = {(one["network"], one["version"], one["stream"]) for one in demo["purchases"]}
    assert ways == {
        (network, version, stream) for network in NETWORKS for version in (1, 2) for stream in (False, True)
    }


def test_every_purchase_shows_its_steps(demo: dict[str, Any]) -> None:
    transactions = set()
    for one in demo["purchases"]:
        assert one["paymentHeader"] == HEADERS[one["version"]]
        assert one["quote"]["lines"]
        assert one["quote"]["bound"] == one["amount"]
        assert [step for step in one["steps"] if step in ("verify.valid", "settle.settled")] == [
            "verify.valid",
            "settle.settled",
        ]
        assert one["answer"]
        assert bool(one["chunks"]) is one["stream"]
        assert one["usage"]["completion_tokens"] > 0
        assert (one["receipt"]["success"], one["receipt"]["network"]) == (True, one["network"])
        transactions.add(one["receipt"]["transaction"])
    assert len(transactions) == len(demo["purchases"])


def test_it_is_quick(demo: dict[str, Any]) -> None:
    assert float(demo["seconds"]) < 30


class CookedBooks(Town):
    """A town in which one unit too many stands in a ledger's file, as a defect would leave it."""

    book = ""

    async def sums(self, journal: Journal) -> Sums:
        with sqlite3.connect(self.directory / f"{self.book}.sqlite") as ledger:
            changed = ledger.execute(
                "UPDATE payments SET amount = CAST(amount AS INTEGER) + 1 WHERE rowid ="
                " (SELECT MIN(rowid) FROM payments WHERE network = ?)",
                (BASE_SEPOLIA,),
            )
        assert changed.rowcount == 1
        return await super().sums(journal)


@pytest.mark.parametrize("book", ["gateway", "facilitator"])
def test_a_ledger_that_is_wrong_by_one_unit_fails_the_demo(book: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CookedBooks, "book", book)
    monkeypatch.setattr("x402.devnet.town.Town", CookedBooks)
    result = CliRunner().invoke(app, ["demo", "--json", "--fast"])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["ok"] is False
    assert len(told["verdict"]["problems"]) == 1
    assert f"the {book}'s ledger says" in told["verdict"]["problems"][0]
    assert told["verdict"]["networks"][SOLANA_DEVNET]["agrees"] is True


def test_a_person_sees_every_step_and_the_verdict() -> None:
    result = CliRunner().invoke(app, ["demo", "--fast"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    for step in ("ask", "402", "sign", "verify", "settle", "answer", "receipt"):
        assert result.stdout.count(f"\n  {step}") == 8, step
    assert "agree to the unit" in result.stdout
    assert "\x1b" not in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80

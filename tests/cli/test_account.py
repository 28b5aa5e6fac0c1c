"""`x402 usage`, `balance` and `deposit`: what was spent, and money that lies with a seller."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from tests.cli.conftest import LiveTown, run
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET


def test_what_was_spent_is_shown_by_seller(live_town: LiveTown) -> None:
    empty = run("usage")
    assert (empty.exit_code, "nothing was paid" in empty.stdout) == (0, True)
    for number in range(2):
        asked = run("chat", f"Hello {number}", "--model", "demo/echo-1", "--max-tokens", "5", **live_town.environment)
        assert asked.exit_code == 0, asked.output
    (row,) = json.loads(run("usage", "--json").stdout)["spent"]
    assert (row["payments"], row["settled"], row["hour"]) == (2, 2, row["total"])
    assert Decimal(row["total"]) > 0
    shown = run("usage")
    assert row["host"] in shown.stdout
    assert row["total"] in shown.stdout


def test_row_016_a_balance_is_filled_spent_and_looked_at(live_town: LiveTown) -> None:
    named = ("--network", "base-sepolia", "--json")
    paid = run("deposit", "0.05", *named, **live_town.environment)
    assert paid.exit_code == 0, paid.output
    told = json.loads(paid.stdout)
    assert told["receipt"]["success"] is True
    assert told["balance_micro_usdc"] >= 50_000
    again = json.loads(run("balance", *named, **live_town.environment).stdout)
    assert again["balance_micro_usdc"] == told["balance_micro_usdc"]
    assert again["caip_account_id"].startswith("eip155:84532:0x")
    shown = run("balance", "--network", "base-sepolia", **live_town.environment)
    assert f"${again['balance_usd']}" in shown.stdout
    other = json.loads(run("balance", "--network", "solana-devnet", "--json", **live_town.environment).stdout)
    assert other["caip_account_id"].startswith("solana:"), "the same wallet on another chain is another account"


def test_a_balance_pays_for_answers_and_says_what_they_cost(live_town: LiveTown) -> None:
    named = ("--network", "base-sepolia")
    assert run("deposit", "0.03", *named, **live_town.environment).exit_code == 0
    ask = ("chat", "Hello", "--model", "demo/echo-1", "--max-tokens", "9", "--sign-in", *named)
    told = json.loads(run(*ask, "--json", **live_town.environment).stdout)
    assert (told["receipt"], 0 < int(told["bill"]["charged"]) <= int(told["bill"]["quoted"])) == (None, True)
    for more, words in (((), "billed $"), (("--stream",), "billed at most $")):
        result = run(*ask, *more, **live_town.environment)
        assert (result.exit_code, words in result.stderr) == (0, True), result.output


def test_a_deposit_costs_what_was_typed_and_no_more(live_town: LiveTown) -> None:
    for amount, code in (("0", 2), ("-1", 2), ("a lot", 2)):
        result = run("deposit", amount, **live_town.environment)
        assert result.exit_code == code, result.output
    result = run("deposit", "0.05", "--network", "base", **live_town.environment)
    assert (result.exit_code, "--mainnet" in result.stderr) == (4, True)


@pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
def test_row_084_a_balance_is_asked_back_and_comes(live_town: LiveTown, network: str) -> None:
    named = ("--network", network, "--json")
    paid = run("deposit", "0.04", *named, **live_town.environment)
    assert paid.exit_code == 0, paid.output
    result = run("withdraw", "0.015", *named, **live_town.environment)
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout)
    assert (done["amount_micro_usdc"], done["state"] in ("asked", "sent", "paid")) == (15_000, True)
    again = json.loads(run("balance", *named, **live_town.environment).stdout)
    assert again["balance_micro_usdc"] == json.loads(paid.stdout)["balance_micro_usdc"] - 15_000
    shown = run("withdraw", "--network", network, **live_town.environment)
    assert (shown.exit_code, "on its way" in shown.stdout) == (0, True), shown.output
    nothing = run("withdraw", "0.05", *named, **live_town.environment)
    assert json.loads(nothing.stdout)["error"]["code"] == "insufficient_credits"

"""`x402 quote` and `x402 chat` against a real town: asked, priced, paid, receipted."""

from __future__ import annotations

import json
from contextlib import nullcontext
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.conftest import LiveTown, run
from x402.cli import buy
from x402.client.answers import Chunk


def test_a_quote_is_itemised_and_costs_nothing(live_town: LiveTown) -> None:
    arguments = ("quote", "Hello", "--model", "demo/echo-1", "--max-tokens", "20", "--base-url", live_town.urls["chat"])
    result = run(*arguments)
    assert result.exit_code == 0
    assert "answer tokens" in result.stdout
    assert "nothing was paid" in result.stderr
    told = json.loads(run(*arguments, "--json").stdout)
    exact = sum(Decimal(line["amount"]) for line in told["quote"]["lines"])
    assert exact <= int(told["quote"]["bound"]) < exact + 1
    assert {offer["amount"] for offer in told["offers"]} == {told["quote"]["bound"]}


def test_a_free_model_is_free(live_town: LiveTown) -> None:
    result = run("quote", "Hello", "--model", "demo/free-1", **live_town.environment)
    assert result.exit_code == 0
    assert "free" in result.stdout


@pytest.mark.parametrize("network", ["base-sepolia", "solana-devnet"])
def test_an_answer_is_bought_on_the_network_that_was_named(live_town: LiveTown, network: str) -> None:
    arguments = ("chat", f"Hello {network}", "--model", "demo/echo-1", "--network", network, "--json")
    result = run(*arguments, **live_town.environment)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert f"Hello {network}" in told["text"]
    assert told["receipt"]["success"] is True
    assert told["receipt"]["network"] == told["paid"]["network"]
    assert int(told["paid"]["amount"]) > 0


def test_a_stream_is_printed_as_text_and_its_receipt_beside_it(live_town: LiveTown) -> None:
    result = run(
        "chat", "A story", "--model", "demo/story-1", "--max-tokens", "12", "--stream", **live_town.environment
    )
    assert result.exit_code == 0, result.output
    assert len(result.stdout.split()) >= 8
    assert "paid $" in result.stderr
    assert "settled" in result.stderr
    assert "http" not in result.stderr, "no explorer knows a transaction of a devnet"


def test_the_prompt_may_come_from_standard_input(live_town: LiveTown) -> None:
    result = run("chat", "-", "--model", "demo/echo-1", stdin="from a pipe", **live_town.environment)
    assert "from a pipe" in result.stdout


def test_a_price_above_the_limit_is_not_signed(live_town: LiveTown) -> None:
    result = run("chat", "Hello", "--model", "demo/story-1", "--max", "0.000001", **live_town.environment)
    assert result.exit_code == 4
    assert "No money moved." in result.stderr
    assert "--max" in result.stderr


@pytest.mark.parametrize("network", ["base", "solana"])
def test_real_money_needs_the_flag(live_town: LiveTown, network: str) -> None:
    refused = run("chat", "Hi", "--model", "demo/echo-1", "--network", network, **live_town.environment)
    assert refused.exit_code == 4
    assert "--mainnet" in refused.stderr
    allowed = run("chat", "Hi", "--model", "demo/echo-1", "--network", network, "--mainnet", **live_town.environment)
    assert "mainnet_refused" not in allowed.stderr
    assert allowed.exit_code == 4, "this seller has no offer there"


@pytest.mark.parametrize("most", ["lots", "-1", "1e3", ""])
def test_a_limit_that_is_no_price_is_refused(live_town: LiveTown, most: str) -> None:
    result = run("chat", "Hi", "--model", "demo/echo-1", f"--max={most}", **live_town.environment)
    assert result.exit_code == 2
    assert "No money moved." in result.stderr


def test_errors_name_the_next_step(live_town: LiveTown) -> None:
    unknown = run("chat", "Hi", "--model", "nobody/none", **live_town.environment)
    assert unknown.exit_code == 9
    assert "x402 models" in unknown.stderr
    nowhere = run("models")
    assert nowhere.exit_code == 3
    assert "x402 devnet up" in nowhere.stderr
    penniless = run("chat", "Hi", "--model", "demo/echo-1", "--base-url", live_town.urls["chat"])
    assert penniless.exit_code == 3
    assert "x402 wallet new" in penniless.stderr
    gone = run("models", "--base-url", "http://127.0.0.1:9/v1", "--json")
    assert gone.exit_code == 7
    assert json.loads(gone.stdout)["error"]["moneyMoved"] == "no"


def test_an_emoji_that_a_model_says_in_two_chunks_is_written_whole(capsys: pytest.CaptureFixture[str]) -> None:
    class Said(nullcontext[None]):
        text, receipt, bill = "", None, None

        def __iter__(self) -> Any:
            for words in ("a\ud83d", "\ude00 b\ud83d"):
                yield Chunk({"choices": [{"delta": {"content": words}}]})

    caller: Any = SimpleNamespace(stream=lambda **_: Said())
    buy._streamed(caller, {})
    assert capsys.readouterr().out == "a\U0001f600 b\N{REPLACEMENT CHARACTER}\n"

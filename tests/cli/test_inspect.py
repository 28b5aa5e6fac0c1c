"""`x402 inspect` on live sellers, on pasted text, and on things that are neither."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.cli.conftest import LiveTown, run
from x402.cli import visit

QUESTION = json.dumps({"model": "demo/echo-1", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8})


def test_a_live_402_is_explained(live_town: LiveTown) -> None:
    result = run("inspect", f"{live_town.urls['chat']}/chat/completions", "-d", QUESTION)
    assert result.exit_code == 0
    for part in ("402", "PAYMENT-REQUIRED", "Base Sepolia", "Solana devnet", "prompt tokens", "play money"):
        assert part in result.stdout
    assert "would not pay" not in result.stdout


def test_the_explanation_is_data_too(live_town: LiveTown) -> None:
    url = f"{live_town.urls['chat']}/chat/completions"
    told = json.loads(run("inspect", url, "-d", QUESTION, "--json").stdout)
    assert told["kind"] == "challenge"
    assert told["problems"] == []
    assert told["message"]["accepts"][0]["network"] == "eip155:84532"


def test_a_facilitator_s_answer_is_explained(live_town: LiveTown) -> None:
    told = json.loads(run("inspect", f"{live_town.urls['facilitator']}/supported", "--json").stdout)
    assert told["kind"] == "supported"


def test_a_free_page_is_called_free(live_town: LiveTown) -> None:
    result = run("inspect", f"{live_town.urls['chat']}/models")
    assert result.exit_code == 0
    assert "without asking for a payment" in result.stdout


def test_standard_input_is_read() -> None:
    result = run("inspect", "-", stdin='{"success": true, "transaction": "0xab", "network": "base-sepolia"}')
    assert result.exit_code == 0
    assert "the money moved" in result.stdout


@pytest.mark.parametrize(
    ("what", "code"),
    [("nonsense", 2), ("http://127.0.0.1:9/", 7), ("http:///nothing", 2), ("http://[::1", 2), ("http://a:99999/", 2)],
)
def test_bad_input_is_a_sentence_and_not_a_traceback(what: str, code: int) -> None:
    result = run("inspect", what)
    assert result.exit_code == code, result.output
    assert "No money moved." in result.stderr
    assert "Next:" in result.stderr


def test_what_others_wrote_is_shown_and_not_obeyed() -> None:
    offer = {"payTo": "[bold red]x[/]", "amount": "1", "network": "\x1b[31mevil", "asset": "a", "scheme": "exact",
             "maxTimeoutSeconds": 60}  # fmt: skip
    result = run("inspect", json.dumps({"x402Version": 2, "accepts": [offer], "error": "\x1b]0;owned\x07"}))
    assert result.exit_code == 0
    assert "[bold red]x[/]" in result.stdout
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout


def test_a_seller_that_names_no_url_is_still_explained() -> None:
    offer = {"network": "base", "maxAmountRequired": "1", "payTo": "p", "maxTimeoutSeconds": 1, "asset": "a"}
    challenge = {"x402Version": 2, "accepts": [offer], "resource": {"url": "http://[::1"}}
    response = httpx.Response(402, json=challenge, request=httpx.Request("GET", "http://shop.test/"))
    told = visit._explain(response, response.content, 0)
    assert any("another host" in problem for problem in told.problems)

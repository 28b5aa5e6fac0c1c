"""The operator's commands for keys and webhooks, on the ledger of a gateway. AiMo rows 10, 13, 17, 18."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair

from tests.cli.conftest import run
from x402.cli.keys import opened_ring
from x402.ports.account_book import SqlAccounts
from x402.ports.ledger import SqlLedger
from x402.wire.sign_in import read_header


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    ledger = f"sqlite:///{tmp_path / 'shop.sqlite'}"
    monkeypatch.setenv("X402_GATEWAY_LEDGER", ledger)
    return ledger


def said(*arguments: str, stdin: str | None = None, code: int = 0) -> Any:
    result = run(*arguments, "--json", stdin=stdin)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_row_018_a_key_from_its_making_to_its_end(place: str) -> None:
    made = said("keys", "create", "--name", "bakery", "--days", "9", "--uses", "5", "--from", "192.0.2.0/24",
                "--scope", "completion_model", "--spend-limit", "2.5", "--grant", "1.25", "--tier", "pro")  # fmt: skip
    assert (made["spend_limit"], made["scopes"], made["tier"]) == ("2500000", ["completion_model"], "pro")
    assert made["account"] == f"key:{made['id']}"
    assert asyncio.run(_balance(place, made["account"])) == 1_250_000
    assert said("keys", "verify", stdin=made["key"] + "\n")["good"] is True
    (listed,) = said("keys", "list")
    assert made["key"] not in json.dumps(listed)
    fresh = said("keys", "rotate", made["id"], "--overlap", "0")
    assert said("keys", "verify", stdin=made["key"], code=1)["good"] is False
    assert said("keys", "verify", stdin=fresh["key"])["id"] == made["id"]
    assert said("keys", "revoke", made["id"], "--reason", "lost")["revoked"] is True
    assert said("keys", "verify", stdin=fresh["key"], code=1)["reason"] == "revoked"
    assert [one["event"] for one in said("keys", "trail", made["id"])] == ["created", "rotated", "revoked"]
    assert run("keys", "revoke", made["id"]).exit_code != 0
    assert "revoked" in run("keys", "list").stdout


def test_row_014_a_key_from_elsewhere_is_entered_out_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_KEY", "an-opaque-key-of-the-old-site")
    said("keys", "create", "--from-env", "OLD_KEY", "--account", "eip155:8453:0xabc")
    assert said("keys", "verify", stdin="an-opaque-key-of-the-old-site")["account"] == "eip155:8453:0xabc"
    for wrong in (["--scope", "all"], ["--from", "home"], ["--spend-limit", "-1"]):
        assert run("keys", "create", *wrong).exit_code != 0


def test_a_wallet_prints_a_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X402_SVM_PRIVATE_KEY", str(Keypair.from_seed(bytes([4] * 32))))
    told = said("wallet", "sign-in", "https://shop.example", "--chain", "solana-devnet")
    assert read_header(told["value"]).sign_in.account == told["account"]
    assert run("wallet", "sign-in", "https://shop.example", "--chain", "base").exit_code != 0


def test_row_010_webhooks_are_listed_tested_and_repeated(place: str) -> None:
    asyncio.run(_hook(place))
    (hook,) = said("webhooks", "list")
    assert hook["url"] == "http://127.0.0.1:9/x"
    tried = said("webhooks", "test", "operator")
    assert (tried["topic"], tried["state"], tried["attempts"]) == ("webhook.test", "due", 1)
    again = said("webhooks", "redeliver", tried["id"])
    assert again["attempts"] == 2
    assert [one["id"] for one in said("webhooks", "list", "--deliveries")] == [tried["id"]]
    assert "webhook.test" in run("webhooks", "list", "--deliveries").stdout
    for command in (("test", "nobody"), ("redeliver", "msg_none")):
        assert run("webhooks", *command).exit_code != 0


async def _balance(place: str, account: str) -> int:
    async with SqlLedger(place) as ledger:
        return (await SqlAccounts(ledger).balance(account)).units


async def _hook(place: str) -> None:
    from x402.gateway.api.operations import seal_of
    from x402.gateway.operations.webhooks import Webhooks
    from x402.ports.courier import HttpCourier
    from x402.ports.deliveries import SqlDeliveries
    from x402.settings import GatewaySettings

    async with SqlLedger(place) as ledger, opened_ring(place):
        seal = seal_of(GatewaySettings.read(), place)
        hooks = Webhooks(SqlDeliveries(ledger), HttpCourier(), clock=lambda: 1, seal=seal)
        await hooks.register("http://127.0.0.1:9/x", account="", inside=True, webhook_id="operator")

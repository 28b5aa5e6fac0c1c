"""`x402 gateway` and `x402 facilitator` as processes over a town's chains, and their refusals in words."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from solders.keypair import Keypair

from tests.cli.conftest import LiveTown, end, run, spawn
from tests.postgres import Postgres
from x402.facilitator.callers import Callers

READY_SECONDS = 40
SELLER = "0x" + "11" * 20


@contextmanager
def service(name: str, directory: Path, ledger: str = "", **settings: str) -> Iterator[str]:
    """A service on a free port; yields its URL."""
    environment = {**os.environ, "X402_LEDGER": ledger or f"sqlite:///{directory}/{name}.sqlite", **settings}
    process = spawn(name, "--port", "0", env=environment)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "http://" in line, line + process.stderr.read()
        yield next(word for word in line.split() if word.startswith("http://"))
    finally:
        end(process)


def get(url: str) -> httpx.Response:
    """The answer once the service is ready for it."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            response = httpx.get(url, trust_env=False, timeout=10)
            if response.status_code == 200 or time.monotonic() > deadline:
                return response
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def test_a_facilitator_without_gas_is_up_and_says_so(live_town: LiveTown, tmp_path: Path) -> None:
    settings = {
        "X402_FACILITATOR_EVM_PRIVATE_KEY": "0x" + secrets.token_hex(32),
        "X402_FACILITATOR_SVM_PRIVATE_KEY": str(Keypair()),
        "X402_EVM_RPC_URL": live_town.urls["evm_rpc"],
        "X402_SVM_RPC_URL": live_town.urls["svm_rpc"],
    }
    with service("facilitator", tmp_path, **settings) as url:
        assert get(f"{url}/health").json() == {"status": "ok"}
        assert get(f"{url}/supported").json()["kinds"] == []


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_gateway_sells_any_openai_compatible_server(
    live_town: LiveTown, tmp_path: Path, postgres: Postgres, database: str
) -> None:
    ledger = postgres.database() if database == "postgresql" else f"sqlite:///{tmp_path}/books.sqlite"
    prices = tmp_path / "prices.toml"
    prices.write_text(
        '[[models]]\nname = "demo/echo-1"\ncontext_length = 8192\n'
        '[models.pricing]\nunit = "per_1m"\nprompt = 1\ncompletion = 2\n'
        f'[models.params]\nmodel = "demo/echo-1"\napi_base = "{live_town.urls["model"]}/v1"\n'
    )
    settings = {
        "X402_EVM_PAY_TO": SELLER,
        "X402_FACILITATOR_URL": live_town.urls["facilitator"],
        "X402_PRICES": str(prices),
    }
    with service("gateway", tmp_path, ledger, **settings) as url:
        get(f"{url}/ready")
        environment = {**live_town.environment, "X402_BASE_URL": f"{url}/api/v1"}
        result = run("chat", "Sell me this", "--model", "demo/echo-1", "--json", **environment)
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert "Sell me this" in told["text"]
        assert told["paid"]["network"] == "eip155:84532"
    books = json.loads(run("ledger", "audit", ledger, "--json").stdout)
    assert (books["agrees"], [total["state"] for total in books["totals"]]) == (True, ["delivered"])


@pytest.mark.parametrize(
    ("command", "settings", "code", "words"),
    [
        ("facilitator", {}, 3, "X402_FACILITATOR_EVM_PRIVATE_KEY"),
        ("facilitator", {"X402_FACILITATOR_EVM_PRIVATE_KEY": "junk"}, 3, "64 hex digits"),
        ("facilitator", {"X402_FACILITATOR_EVM_PRIVATE_KEY": "11" * 32, "X402_EVM_NETWORK": "base"}, 3, "--mainnet"),
        ("gateway", {"X402_UPSTREAM_URL": "http://127.0.0.1:9/v1", "X402_MODELS": "gpt-4o-mini"}, 3, "X402_EVM_PAY_TO"),
        ("gateway", {"X402_EVM_PAY_TO": SELLER}, 3, "X402_UPSTREAM_URL"),
    ],
)
def test_contradictions_are_told_before_anything_listens(
    command: str, settings: dict[str, str], code: int, words: str
) -> None:
    result = run(command, "--port", "0", **settings)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert "junk" not in result.output


def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run("facilitator", "--port", port, "--ledger", "sqlite://", X402_FACILITATOR_EVM_PRIVATE_KEY="11" * 32)
    assert result.exit_code == 7
    assert "--port" in result.stderr


def test_keygen_makes_an_entry_that_the_facilitator_takes(tmp_path: Path) -> None:
    """The key is told once, apart from the lines for the file, and only its holder is let in."""
    made = run("facilitator", "keygen", "bakery", "--pay-to", f"base-sepolia={SELLER}")
    assert made.exit_code == 0, made.output
    key = made.stderr.split()[-1]
    assert key not in made.stdout
    bakery = Callers.parse(made.stdout).identify([f"Bearer {key}"])
    assert (bakery.name, dict(bakery.pay_to or {})) == ("bakery", {"eip155:84532": frozenset({SELLER})})
    told = json.loads(run("facilitator", "keygen", "smithy", "--pay-to", f"base={SELLER}", "--json").stdout)
    assert Callers.parse(made.stdout + told["entry"]).identify([f"Bearer {told['key']}"]).name == "smithy"
    for arguments in (("a b", f"base={SELLER}"), ("bakery", "moon=0x"), ("bakery", "base=0x12"), ("bakery", "base")):
        refused = run("facilitator", "keygen", arguments[0], "--pay-to", arguments[1])
        assert (refused.exit_code, refused.stdout) == (2, "")


def test_real_money_needs_callers(tmp_path: Path) -> None:
    settings = {"X402_FACILITATOR_EVM_PRIVATE_KEY": "11" * 32, "X402_EVM_NETWORK": "base"}
    result = run("facilitator", "--port", "0", "--mainnet", "--ledger", "sqlite://", **settings)
    assert result.exit_code == 3, result.output
    assert "X402_FACILITATOR_CALLERS" in " ".join(result.stderr.split())

"""`x402 providers` and `x402 payouts`: what an operator types, and what is written then."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from tests.cli.conftest import run
from x402.billing import Bill, Metered, PaidBy
from x402.devnet.model import STORY
from x402.devnet.model import create_app as create_model
from x402.ports.account_book import SqlAccounts
from x402.ports.ledger import SqlLedger
from x402.ports.provider_book import SqlProviders
from x402.ports.providers import RegisteredProvider

ADDRESS = "0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199"
ACCOUNT = f"eip155:84532:{ADDRESS}"


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    """The demo's model server on a port of its own, in a thread, because commands run their own loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_model(), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(5)


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'gateway.sqlite'}"


def test_row_087_a_server_is_tried_out(model_url: str) -> None:
    told = run("providers", "check", model_url, "--model", STORY, "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["passed"]
    words = run("providers", "check", model_url, "--model", STORY)
    assert "✓ stream" in words.stdout
    wrong = run("providers", "check", model_url.replace("/v1", "/v2"), "--model", STORY)
    assert wrong.exit_code == 9
    assert "HTTP 404" in wrong.stdout
    assert run("providers", "check", model_url, "--model", "m", "--format", "soap").exit_code == 2
    assert run("providers", "check", model_url, "--model", "m", "--key-env", "NO_SUCH_KEY").exit_code == 3


def test_a_provider_is_let_in_listed_and_shut_out(model_url: str, ledger: str, tmp_path: Path) -> None:
    environment = {"X402_ANSWER_KEY": "a secret of some length", "X402_GATEWAY_LEDGER": ledger}
    file = tmp_path / "provider.json"
    model = {"name": STORY, "pricing": {"prompt": "1", "completion": "2"}}
    document = {"name": "House", "base_url": model_url, "models": [model], "issued_at": int(time.time())}
    file.write_text(json.dumps(document))
    refused = run("providers", "add", str(file), "--account", ACCOUNT, **environment)
    assert refused.exit_code == 2, "a private address, unless the operator trusts it"
    trusted = environment | {"X402_PROVIDER_HOSTS": "127.0.0.1"}
    added = run("providers", "add", str(file), "--account", ACCOUNT, "--json", **trusted)
    assert added.exit_code == 0, added.output
    assert json.loads(added.stdout)["status"] == "active"
    (row,) = json.loads(run("providers", "list", "--json", **environment).stdout)
    assert (row["id"], row["status"], row["account"]) == (ADDRESS, "active", ACCOUNT)
    assert run("providers", "disable", ADDRESS, "--reason", "spam", **environment).exit_code == 0
    assert "spam" in run("providers", "list", **environment).stdout
    assert run("providers", "enable", ADDRESS, **environment).exit_code == 0
    unknown = run("providers", "enable", "0xnobody", **environment)
    assert (unknown.exit_code, "provider_not_found" in unknown.output) == (2, True)


def test_row_083_payouts_are_shown_and_then_made(ledger: str) -> None:
    async def sell() -> None:
        async with SqlLedger(ledger) as opened:
            offer = RegisteredProvider(id=ADDRESS, account=ACCOUNT, offer="{}", issued_at=1)
            await SqlProviders(opened).register(offer)
            metered = Metered(model="m", provider=ADDRESS, charged=15000, complete=True)
            old = int(time.time()) - 7200
            bill = Bill(bill_id="b", at=old, account="payer", paid_by=PaidBy.EXACT, metered=metered, earned=15000)
            await SqlAccounts(opened).add(bill)

    async def open_payouts() -> list[int]:
        async with SqlLedger(ledger) as opened:
            return [one.units for one in await SqlAccounts(opened).open_withdrawals(lease_seconds=0)]

    environment = {"X402_GATEWAY_LEDGER": ledger}
    assert "Nothing is due" in run("payouts", "--dry-run", **environment).stdout
    asyncio.run(sell())
    shown = json.loads(run("payouts", "--dry-run", "--json", **environment).stdout)
    assert [(row["provider"], row["units"]) for row in shown] == [(ADDRESS, "15000")]
    assert asyncio.run(open_payouts()) == []
    for _ in range(2):
        made = run("payouts", **environment)
        assert made.exit_code == 0, made.output
        assert "15000 atomic USDC for 1 answers" in made.stdout
    assert asyncio.run(open_payouts()) == [15000]

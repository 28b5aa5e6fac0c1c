"""`x402 gateway --workers`: several processes on one port and one ledger (faults A04, A22, E11)."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import LiveTown, end, run, spawn
from tests.cli.test_serve import SELLER, get
from tests.postgres import Postgres
from x402.cli.workers import Doors
from x402.devnet.town_serving import listen
from x402.errors import UnavailableError
from x402.gateway.paywall import Paywall

UPSTREAM = {"X402_EVM_PAY_TO": SELLER, "X402_UPSTREAM_URL": "http://127.0.0.1:9/v1", "X402_MODELS": "gpt-4o-mini"}


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    """The processes that serve for another, by what the system tells of its children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def delivered(url: str) -> float:
    """How many sales the metrics page of some worker tells of, perhaps of one that is still starting; each question
    takes a connection of its own."""
    page = httpx.get(f"{url}/metrics", trust_env=False, timeout=60).text
    return sum(float(each) for each in re.findall(r'x402_facts_total\{fact="sale.delivered".*\} (\S+)', page))


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_A22_E11_two_workers_sell_on_one_ledger_and_a_third_comes_for_one_that_is_killed(
    live_town: LiveTown, postgres: Postgres, database: str, tmp_path: Path
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
        "X402_QUOTE_KEY": "one key for all workers" if database == "postgresql" else "",
    }
    gateway = spawn("gateway", "--port", "0", "--workers", "2", "--ledger", ledger, env={**os.environ, **settings})
    try:
        assert gateway.stderr is not None
        url = next(word for word in gateway.stderr.readline().split() if word.startswith("http://"))
        get(f"{url}/ready")
        before = workers_of(gateway)
        buyer = {**live_town.environment, "X402_BASE_URL": f"{url}/api/v1"}
        assert "one" in run("chat", "one", "--model", "demo/echo-1", **buyer).stdout
        os.kill(min(before), signal.SIGKILL)
        while len(after := workers_of(gateway)) < 2 or after == before:
            get(f"{url}/api/v1/models")
        assert len(after & before) == 1, "the other one went on"
        # Whoever of them is asked, a quote of the other holds: they sign with one key.
        assert "two" in run("chat", "two", "--model", "demo/echo-1", **buyer).stdout
        while delivered(url) < 2:
            get(f"{url}/ready")
        assert {delivered(url) for _ in range(8)} == {2.0}, "each tells of all, of the killed one's too"
    finally:
        code, _ = end(gateway, signal.SIGTERM)
    assert code == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/ready", trust_env=False)
    audit = run("ledger", "audit", ledger, "--json")
    assert audit.exit_code == 0, audit.output
    assert '"delivered"' in audit.stdout


@pytest.mark.parametrize(
    ("ledger", "words"),
    [("sqlite://", "give it a file"), ("postgresql://nobody@127.0.0.1:9/books", "X402_QUOTE_KEY")],
)
def test_what_workers_cannot_share_is_told_before_anything_listens(ledger: str, words: str) -> None:
    result = run("gateway", "--port", "0", "--workers", "2", "--ledger", ledger, **UPSTREAM)
    assert result.exit_code == 3, result.output
    assert words in " ".join(result.stderr.split())


def test_connections_are_spread_over_the_doors_and_a_stranger_gets_none_of_them() -> None:
    doors = Doors(listen())
    copies: list[socket.socket] = [pickle.loads(pickle.dumps(doors)) for _ in range(2)]
    address = copies[0].getsockname()
    with pytest.raises(UnavailableError, match="cannot be used"):
        listen(address[1])
    callers = [socket.create_connection(address) for _ in range(64)]
    came = [_accepted(copy) for copy in copies]
    for one in (*callers, *copies):
        one.close()
    assert sum(came) == 64
    assert min(came) > 5, "one door has nearly all"


def _accepted(door: socket.socket) -> int:
    count = 0
    while True:
        try:
            door.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


async def _nothing(*_: Any) -> None:
    """An app that is never asked."""


def test_replicas_on_one_file_sign_quotes_with_one_key_and_others_do_not(tmp_path: Path) -> None:
    def key(folder: str) -> tuple[bytes, ...]:
        (tmp_path / folder).mkdir(exist_ok=True)
        shop = Paywall(
            _nothing, network="base-sepolia", pay_to=SELLER, facilitator="http://127.0.0.1:9",
            ledger=tmp_path / folder / "shop.sqlite",
        )  # fmt: skip
        return shop.counter.offers.seller.quote_keys

    assert key("one") == key("one") != key("other")

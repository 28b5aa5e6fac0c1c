"""The town: everything up and ready, money that adds up, and nothing left when it is gone."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from x402.client.chat import AsyncChat
from x402.client.journal import IN_MEMORY, Journal
from x402.devnet.evm import EvmDevnet
from x402.devnet.town import BUYER_USDC, FUEL_LAMPORTS, FUEL_WEI, Ports, Town
from x402.devnet.town_books import Balances, Sums, audit
from x402.devnet.town_parties import NETWORKS, Parties, Role
from x402.errors import MisconfiguredError, UnavailableError
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.telemetry import Fact

QUESTION = [{"role": "user", "content": "Is anybody there?"}]


def answers(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((parts.hostname or "", parts.port or 0)) == 0


def own_threads() -> set[str]:
    """Threads of chains and ledgers; those of an event loop's pools belong to the loop."""
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if not name.startswith(("asyncio_", "AnyIO", "MainThread"))}


async def test_a_town_serves_everybody_and_leaves_nothing_behind() -> None:
    threads = own_threads()
    async with Town(engine="py-evm") as town:
        urls = town.urls
        directory = town.directory
        assert all(answers(url) for url in urls.as_json().values())
        async with httpx.AsyncClient(trust_env=False) as client:
            for service in (urls.gateway, urls.facilitator):
                assert (await client.get(f"{service}/ready")).status_code == 200
        balances = await town.balances()
        for network in NETWORKS:
            assert balances.usdc[Role.BUYER, network] == BUYER_USDC
            assert balances.usdc[Role.SELLER, network] == balances.usdc[Role.FACILITATOR, network] == 0
            assert balances.fuel[Role.BUYER, network] == 0
        assert balances.fuel[Role.FACILITATOR, BASE_SEPOLIA] == FUEL_WEI
        assert balances.fuel[Role.FACILITATOR, SOLANA_DEVNET] == FUEL_LAMPORTS
        assert town.wallet_file.exists()
    assert not any(answers(url) for url in urls.as_json().values())
    assert not directory.exists()
    assert own_threads() <= threads
    with pytest.raises(UnavailableError):
        _ = town.urls


async def test_money_adds_up_after_real_purchases() -> None:
    async with Town(engine="py-evm") as town:
        journal = Journal(IN_MEMORY, clock=lambda: int(time.time()))
        before = await town.balances()
        for network in NETWORKS:
            async with AsyncChat(town.urls.chat, auth=town.client_auth(journal, network=network)) as chat:
                answer = await chat.create(model="demo/echo-1", messages=QUESTION, max_tokens=16)
            assert answer.receipt is not None
            assert answer.receipt.network == network
        after, sums = await town.balances(), await town.sums(journal)
        verdict = audit(before, after, sums)
        assert verdict.problems == ()
        assert all(account.paid == account.received > 0 for account in verdict.accounts)
        fuel = Role.FACILITATOR, BASE_SEPOLIA
        assert after.fuel[fuel] < before.fuel[fuel], "the facilitator pays the gas"


async def test_facts_are_heard_and_a_failing_observer_changes_nothing() -> None:
    heard: list[str] = []

    def broken(fact: Fact) -> None:
        raise RuntimeError(f"an observer's defect at {fact.name}")

    async with Town(engine="py-evm", observers=[broken, lambda fact: heard.append(fact.name)]) as town:
        journal = Journal(IN_MEMORY, clock=lambda: int(time.time()))
        async with AsyncChat(town.urls.chat, auth=town.client_auth(journal, network=SOLANA_DEVNET)) as chat:
            await chat.create(model="demo/echo-1", messages=QUESTION, max_tokens=16)
    assert heard.index("verify.valid") < heard.index("settle.settled")


async def test_a_town_that_cannot_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    threads = own_threads()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for ports in (
            Ports(gateway=taken.getsockname()[1]),
            Ports(svm=taken.getsockname()[1]),
            Ports(evm=taken.getsockname()[1]),
        ):
            with pytest.raises(UnavailableError, match="port"):
                await Town(engine="py-evm", ports=ports).__aenter__()
    assert os.listdir(tmp_path) == []
    assert own_threads() <= threads


@pytest.mark.parametrize("seconds", [0.05, 0.4, 1.0])
async def test_a_start_that_is_interrupted_leaves_nothing_behind(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    threads, tasks = own_threads(), asyncio.all_tasks()
    starting = asyncio.create_task(Town(engine="py-evm").__aenter__())
    await asyncio.sleep(seconds)
    if starting.done():
        await starting.result().stop()
    else:
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert os.listdir(tmp_path) == []
    assert own_threads() <= threads
    assert {task.get_name() for task in asyncio.all_tasks() - tasks} == set()


async def test_a_chain_that_is_given_up_while_it_is_made_leaves_no_thread() -> None:
    threads = own_threads()
    starting = asyncio.create_task(EvmDevnet("py-evm").__aenter__())
    for _ in range(5000):
        if not own_threads() <= threads:
            break
        await asyncio.sleep(0.001)
    if starting.done():
        # A busy machine may have made it before we looked.
        await starting.result().__aexit__(None, None, None)
    else:
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert own_threads() <= threads


async def test_state_stays_and_is_never_mixed_with_another_town_s(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with Town(engine="py-evm", state=state):
        pass
    assert {"gateway.sqlite", "facilitator.sqlite", "wallet.toml"} <= {file.name for file in state.iterdir()}
    with pytest.raises(MisconfiguredError) as refusal:
        await Town(engine="py-evm", state=state).__aenter__()
    assert refusal.value.code == "state_in_use"


async def test_the_caller_s_environment_does_not_reach_into_a_town(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PORT", "nonsense"), ("X402_SETTLE_TIMEOUT_SECONDS", "-1"), ("EVM_PRIVATE_KEY", "junk"),
                        ("DATABASE_URL", "nonsense://"), ("X402_EVM_NETWORK", "base")):  # fmt: skip
        monkeypatch.setenv(name, value)
    async with Town(engine="py-evm") as town:
        assert answers(town.urls.gateway)


def test_keys_of_a_town_are_masked() -> None:
    parties = Parties.fresh()
    shown = repr(parties)
    assert all(key.removeprefix("0x") not in shown for key in parties.buyer_keys)


def books(paid: int = 70) -> tuple[Balances, Balances, Sums]:
    before = Balances(
        {(role, network): 1000 for role in Role for network in NETWORKS},
        {(role, network): 0 for role in Role for network in NETWORKS},
    )
    change = {Role.BUYER: -paid, Role.SELLER: paid, Role.FACILITATOR: 0}
    after = Balances({key: units + change[key[0]] for key, units in before.usdc.items()}, before.fuel)
    said = dict.fromkeys(NETWORKS, paid)
    return before, after, Sums(said, dict(said), dict(said), {"gateway": 0})


def test_equal_books_agree() -> None:
    verdict = audit(*books())
    assert verdict.agrees
    assert [account.network for account in verdict.accounts] == list(NETWORKS)
    assert verdict.as_json()["networks"][BASE_SEPOLIA]["gatewayLedger"] == "70"


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("network", NETWORKS)
def test_one_unit_astray_on_chain_is_found(role: Role, network: str) -> None:
    before, after, sums = books()
    astray = Balances({**after.usdc, (role, network): after.usdc[role, network] + 1}, after.fuel)
    verdict = audit(before, astray, sums)
    assert not verdict.agrees
    assert [account.agrees for account in verdict.accounts] == [
        account.network != network for account in verdict.accounts
    ]


@pytest.mark.parametrize("party", ["client", "gateway", "facilitator"])
@pytest.mark.parametrize("astray", [-1, 1])
def test_one_unit_astray_in_a_memory_is_found(party: str, astray: int) -> None:
    before, after, sums = books()
    wrong = {**getattr(sums, party), SOLANA_DEVNET: 70 + astray}
    verdict = audit(before, after, dataclasses.replace(sums, **{party: wrong}))
    assert len(verdict.problems) == 1
    assert party in verdict.problems[0]
    assert SOLANA_DEVNET in verdict.problems[0]


def test_an_open_payment_is_no_agreement() -> None:
    before, after, sums = books()
    verdict = audit(before, after, dataclasses.replace(sums, unresolved={"facilitator": 1}))
    assert verdict.problems == ("the facilitator does not know the outcome of 1 payments",)

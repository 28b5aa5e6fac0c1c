"""Who may ask, before a body is read or a node is asked. Faults D13, E06, G01."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from limits.aio.storage import memory

from tests.facilitator.serving import body, serving
from tests.facilitator.world import EvmShop, facilitator
from tests.payments import address
from x402.errors import DeniedError, LimitedError, MisconfiguredError, Moved
from x402.facilitator.callers import new_key
from x402.facilitator.door import Door
from x402.facilitator.outfit import build_allowance, build_ceilings, build_door
from x402.facilitator.remote import RemoteFacilitator
from x402.lifecycle import Outcome
from x402.networks import BASE, BASE_SEPOLIA, SOLANA_DEVNET, SOLANA_MAINNET
from x402.ports.ledger import SqlLedger
from x402.settings import FacilitatorSettings
from x402.telemetry import Telemetry

POLYGON = "eip155:137"
TOO_OFTEN = f"too_many_requests, moved {Moved.NO}"
(KEY, DIGEST), (OTHER_KEY, OTHER_DIGEST) = new_key(), new_key()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def callers(evm: EvmShop, tmp_path: Path) -> Path:
    """X is paid at the shop's address, Y at another."""
    file = tmp_path / "callers.toml"
    file.write_text(
        f'[[callers]]\nname = "x"\nkeys = ["{DIGEST}"]\n[callers.pay_to]\nbase-sepolia = ["{evm.offer.pay_to}"]\n'
        f'[[callers]]\nname = "y"\nkeys = ["{OTHER_DIGEST}"]\n[callers.pay_to]\nbase-sepolia = ["{address()}"]\n'
    )
    return file


@pytest.fixture
async def guarded(evm: EvmShop, ledger: SqlLedger, callers: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(facilitator([evm.rail(ledger)], ledger), callers=callers, supported_seconds=300) as client:
        yield client


@pytest.mark.parametrize("route", ["/verify", "/settle"])
async def test_E06_no_key_a_wrong_key_and_another_s_account(
    guarded: httpx.AsyncClient, evm: EvmShop, route: str
) -> None:
    posted = body(evm.pay(), evm.offer)
    evm.chain.rpc.calls = 0
    for headers, status, code in (
        ({}, 401, "api_key_missing"),
        (bearer(KEY + "x"), 401, "api_key_unknown"),
        ({"Authorization": KEY}, 401, "api_key_unknown"),
        (bearer(OTHER_KEY), 403, "pay_to_not_registered"),
    ):
        for content in (posted, {"junk": 1}) if status == 401 else (posted,):
            answer = await guarded.post(route, json=content, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer.json()["moneyMoved"] == "no"
            assert ("www-authenticate" in answer.headers) is (status == 401)
    assert (evm.chain.rpc.calls, await evm.sent()) == (0, 0)
    answer = await guarded.post(route, json=posted, headers=bearer(KEY))
    assert answer.status_code == 200
    assert answer.json().get("isValid", answer.json().get("success")) is True


async def test_E06_the_open_routes_need_no_key(guarded: httpx.AsyncClient) -> None:
    for path in ("/supported", "/health", "/ready", "/metrics"):
        assert (await guarded.get(path)).status_code != 401


async def test_E06_no_page_in_a_browser_moves_money(evm: EvmShop, ledger: SqlLedger) -> None:
    posted = body(evm.pay(), evm.offer)
    for origins, status in (("", 403), ("https://other.example", 403), ("https://x.example, https://y.example", 200)):
        async with serving(facilitator([evm.rail(ledger)], ledger), origins=origins) as client:
            headers = {"Origin": "https://x.example", "Access-Control-Request-Method": "POST"}
            answer = await client.post("/verify", json=posted, headers=headers)
            assert answer.status_code == status
            assert answer.headers.get("access-control-allow-origin") == ("https://x.example" if status == 200 else None)
            preflight = await client.options("/settle", headers=headers)
            assert (preflight.status_code == 200) is (status == 200)
            assert (await client.post("/verify", json=posted)).status_code == 200, "sellers' servers send no origin"
            assert (await client.post("/verify", json=posted, headers={"Origin": "null"})).status_code == 403


async def test_E06_what_a_gateway_makes_of_a_closed_door(guarded: httpx.AsyncClient, evm: EvmShop) -> None:
    payment = evm.pay()
    for key in ("", "wrong"):
        stranger = RemoteFacilitator("http://facilitator", api_key=key, client=guarded)
        with pytest.raises(Exception, match="X402_FACILITATOR_API_KEY"):
            await stranger.verify(payment, evm.offer)
        # It may have been settled before the key was lost, so nobody calls it refused.
        assert (await stranger.settle(payment, evm.offer)).outcome is Outcome.PENDING
    known = RemoteFacilitator("http://facilitator", api_key=KEY, client=guarded)
    assert (await known.verify(payment, evm.offer)).is_valid
    assert (await known.settle(payment, evm.offer)).outcome is Outcome.SETTLED


@pytest.fixture
def mid_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """No minute ends while the test counts: at the edge of one, what was asked before counts for a little less."""
    begun = time.monotonic()
    clock = SimpleNamespace(time=lambda: 1_800_000_030 + time.monotonic() - begun)
    monkeypatch.setattr(memory, "time", clock)


@pytest.mark.usefixtures("mid_minute")
async def test_G01_who_asks_too_often_waits(evm: EvmShop, ledger: SqlLedger) -> None:
    posted = body(evm.pay(), evm.offer)
    party = facilitator([evm.rail(ledger)], ledger)
    async with serving(party, requests_per_minute=5, supported_seconds=300) as client:
        assert [(await client.post("/verify", json=posted)).status_code for _ in range(5)] == [200] * 5
        evm.chain.rpc.calls = 0
        answer = await client.post("/verify", json=posted)
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
        assert int(answer.headers["retry-after"]) > 0
        assert evm.chain.rpc.calls == 0
        settled = await client.post("/settle", json=posted)
        assert settled.json()["success"] is True, "verifications use up no settlements"
        for _ in range(4):
            assert (await client.post("/settle", json=posted)).json() == settled.json()
        answer = await client.post("/settle", json=posted)
        assert (answer.status_code, answer.json()["moneyMoved"]) == (429, "unknown")
        remote = RemoteFacilitator("http://facilitator", client=client)
        assert (await remote.settle(evm.pay(), evm.offer)).outcome is Outcome.PENDING


async def ask(door: Door, host: str, what: str = "verify") -> str:
    try:
        return (await door.admit(what, authorizations=[], origins=[], host=host)).name
    except LimitedError as error:
        return f"{error.code}, moved {error.moved}"


async def test_G01_addresses_are_counted_as_households() -> None:
    door = Door(requests_per_minute=2)
    assert [await ask(door, "10.0.0.1") for _ in range(3)] == ["at 10.0.0.1"] * 2 + [TOO_OFTEN]
    assert [await ask(door, "10.0.0.1", "settle") for _ in range(3)][2] == TOO_OFTEN.replace(Moved.NO, Moved.UNKNOWN)
    assert await ask(door, "10.0.0.2") == "at 10.0.0.2"
    home = [await ask(door, f"2001:db8:1:2:{number}::1") for number in range(3)]
    assert home == ["at 2001:db8:1:2::/64"] * 2 + [TOO_OFTEN]
    assert await ask(door, "2001:db8:1:3::1") == "at 2001:db8:1:3::/64"
    assert await ask(door, "::ffff:10.0.0.9") == "at 10.0.0.9"
    assert await ask(door, "fe80::1%eth0") == "at fe80::/64"
    assert await ask(door, "") == "at an unknown address"
    unlimited = Door()
    assert [await ask(unlimited, "10.0.0.1") for _ in range(50)][-1] == "at 10.0.0.1"
    with pytest.raises(DeniedError):
        await unlimited.admit("verify", authorizations=[], origins=["https://x.example"], host="")


# From settings.


def settings(**members: Any) -> FacilitatorSettings:
    return FacilitatorSettings.read(**members)


def test_E06_real_money_is_not_served_to_anybody_by_accident(callers: Path, tmp_path: Path) -> None:
    for network in (BASE, SOLANA_MAINNET):
        with pytest.raises(MisconfiguredError, match="X402_FACILITATOR_OPEN") as refused:
            build_door(settings(), [network])
        assert refused.value.code == "open_on_mainnet"
        assert build_door(settings(open=True), [network]).callers is None
        assert build_door(settings(callers=callers), [network]).callers is not None
    assert build_door(settings(), [BASE_SEPOLIA, SOLANA_DEVNET]).callers is None
    with pytest.raises(MisconfiguredError, match=r"gone\.toml") as refused:
        build_door(settings(callers=tmp_path / "gone.toml"), [BASE_SEPOLIA])
    assert refused.value.code == "no_callers_file"
    for origin in ("*", "x.example", "https://x.example/", "https://x.example/path", "file:///x"):
        with pytest.raises(MisconfiguredError, match="origin"):
            build_door(settings(origins=origin), [BASE_SEPOLIA])


async def caps(network: str, **members: Any) -> dict[str, int]:
    """The largest fee that each budget of a network lets through, found by asking."""
    async with SqlLedger() as ledger:
        budget = build_allowance(settings(**members), [network], ledger, lambda: 0, Telemetry())
        known = budget._of(network)
        return {name: getattr(known, name) for name in ("total", "caller", "payer") if getattr(known, name) is not None}


async def test_D13_what_is_not_set_is_as_much_as_is_at_stake() -> None:
    assert await caps(BASE_SEPOLIA) == await caps(SOLANA_DEVNET) == {}
    assert await caps(BASE) == {"total": 5 * 10**16, "caller": 2 * 10**16, "payer": 2 * 10**15}
    assert await caps(SOLANA_MAINNET) == {"total": 10**9, "caller": 4 * 10**8, "payer": 4 * 10**7}
    assert await caps(BASE, evm_fees_per_day="1", svm_fees_per_day="7") == {
        "total": 10**18, "caller": 2 * 10**16, "payer": 2 * 10**15,
    }  # fmt: skip
    assert await caps(BASE_SEPOLIA, evm_fees_per_payer="0") == {"payer": 0}
    with pytest.raises(MisconfiguredError, match="X402_EVM_FEES_PER_DAY") as refused:
        await caps(POLYGON)
    assert refused.value.code == "no_fee_budget"
    assert await caps(POLYGON, evm_fees_per_day="2") == {"total": 2 * 10**18}
    with pytest.raises(MisconfiguredError, match="price"):
        await caps(BASE, fee_share="0.5")
    with pytest.raises(MisconfiguredError, match="whole coins"):
        await caps(SOLANA_DEVNET, svm_fees_per_day="0.0000000001")


def test_E07_ceilings() -> None:
    both = [BASE_SEPOLIA, SOLANA_DEVNET]
    assert build_ceilings(settings(), both) == {}
    stated = settings(evm_balance_max="0.5", svm_balance_max="2")
    assert build_ceilings(stated, both) == {BASE_SEPOLIA: 5 * 10**17, SOLANA_DEVNET: 2 * 10**9}

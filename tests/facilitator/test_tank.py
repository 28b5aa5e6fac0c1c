"""What the keys hold is watched beside the requests: empty ones withdraw their network. Faults E07, E08."""

from __future__ import annotations

import asyncio

import httpx
from structlog.testing import capture_logs

from tests.facilitator.serving import ready, serving
from tests.facilitator.world import EvmShop, Meddled, SvmShop, facilitator, unreachable
from x402.facilitator.tank import Tank
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports.ledger import SqlLedger
from x402.telemetry import Fact, Telemetry
from x402.telemetry.logs import log_facts

OFTEN = 0.03


async def offered(client: httpx.AsyncClient) -> list[str]:
    kinds = (await client.get("/supported")).json()["kinds"]
    return [kind["network"] for kind in kinds if kind["x402Version"] == 2 and kind["scheme"] == "exact"]


async def test_E08_an_empty_key_withdraws_its_network(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    async with serving(party, supported_seconds=OFTEN) as client:
        assert (await ready(client)).status_code == 200
        assert await offered(client) == [BASE_SEPOLIA, SOLANA_DEVNET]
        await evm.world.request("anvil_setBalance", evm.signer.address, "0x0")
        for _ in range(100):
            if await offered(client) == [SOLANA_DEVNET]:
                break
            await asyncio.sleep(OFTEN)
        assert await offered(client) == [SOLANA_DEVNET]
        assert (await client.get("/ready")).status_code == 200, "the other network still settles"
        page = (await client.get("/metrics")).text
        assert f'x402_signer_balance{{network="{BASE_SEPOLIA}",signer="{evm.signer.address}"}} 0.0' in page
        assert f'x402_signer_balance{{network="{SOLANA_DEVNET}",signer="{svm.signer.address}"}} 1e+09' in page


async def test_E08_without_gas_nobody_is_ready(evm: EvmShop, ledger: SqlLedger) -> None:
    async with serving(facilitator([evm.rail(ledger)], ledger), supported_seconds=OFTEN) as client:
        assert (await ready(client)).status_code == 200
        await evm.world.request("anvil_setBalance", evm.signer.address, "0x0")
        answer = await ready(client, 503)
        assert (answer.status_code, list(answer.json()["problems"])) == (503, ["kinds"])
        await evm.world.request("anvil_setBalance", evm.signer.address, hex(10**18))
        assert (await ready(client)).status_code == 200


async def test_supported_asks_no_node(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    async with serving(party, supported_seconds=300) as client:
        await ready(client)
        evm.chain.rpc.calls = svm.chain.rpc.calls = 0
        for _ in range(50):
            assert len((await client.get("/supported")).json()["kinds"]) == 5
            assert (await client.get("/ready")).status_code == 200
        assert (evm.chain.rpc.calls, svm.chain.rpc.calls) == (0, 0)


async def test_E08_a_node_that_is_away_withdraws_its_network(evm: EvmShop, ledger: SqlLedger) -> None:
    chain = Meddled(evm.chain)
    tank = Tank(facilitator([evm.rail(ledger, chain)], ledger))
    assert [kind.version for kind in (await tank.look()).kinds] == [2, 2, 1]
    chain.instead["balance"] = unreachable
    assert (await tank.look()).kinds == ()
    chain.instead.clear()
    assert len((await tank.look()).kinds) == 3


async def test_E07_too_much_and_too_little_are_told_once(evm: EvmShop, ledger: SqlLedger) -> None:
    facts: list[Fact] = []
    party = facilitator([evm.rail(ledger)], ledger)
    party.telemetry = Telemetry([facts.append, log_facts()])
    tank = Tank(party, {BASE_SEPOLIA: 10**18})

    async def alarms(wei: int) -> list[str]:
        facts.clear()
        await evm.world.request("anvil_setBalance", evm.signer.address, hex(wei))
        await tank.look()
        assert [fact.attributes["balance"] for fact in facts if fact.name == "signer.balance"] == [wei]
        return [fact.name for fact in facts if fact.name != "signer.balance"]

    reserve = party.rails[BASE_SEPOLIA].reserve
    with capture_logs() as logs:
        assert await alarms(10**18) == []
        assert await alarms(10**18 + 1) == ["signer.balance_high"]
        assert await alarms(2 * 10**18) == []
        assert await alarms(reserve) == []
        assert await alarms(reserve - 1) == ["signer.balance_low"]
        assert await alarms(0) == []
        assert await alarms(2 * 10**18) == ["signer.balance_high"]
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("signer.balance_high", "warning"),
        ("signer.balance_low", "warning"),
        ("signer.balance_high", "warning"),
    ]

"""The service closes every connection to a node that it opened, however it was made and however it ended."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.facilitator.serving import body, ready, serving
from tests.facilitator.world import EvmShop, SvmShop, facilitator
from x402.errors import UnavailableError
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.service import unix_now
from x402.networks import BASE_SEPOLIA
from x402.ports.evm import RpcEvmChain
from x402.ports.http_connection import HttpConnection
from x402.ports.http_line import HttpLine, Origin
from x402.ports.ledger import SqlLedger


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, evm: EvmShop, svm: SvmShop) -> list[HttpConnection]:
    """Every connection to a node of this test's that is opened in it."""
    ports = {urlsplit(shop.world.url).port for shop in (evm, svm)}
    connections: list[HttpConnection] = []
    really = HttpLine._connect

    async def noted(line: HttpLine, origin: Origin, *room: Any) -> HttpConnection:
        connection = await really(line, origin, *room)
        if origin.port in ports:
            connections.append(connection)
        return connection

    monkeypatch.setattr(HttpLine, "_connect", noted)
    return connections


def is_open(connection: HttpConnection) -> bool:
    return connection._transport is not None and not connection._transport.is_closing()


def assert_closed(connections: list[HttpConnection]) -> None:
    assert connections
    assert not any(map(is_open, connections))


async def test_a_service_from_settings_closes_its_lines(
    evm: EvmShop, svm: SvmShop, tmp_path: Any, opened: list[HttpConnection]
) -> None:
    members: dict[str, Any] = {
        "evm_private_key": evm.signer._key.secret.hex(), "evm_rpc_url": evm.world.url,
        "svm_private_key": str(svm.signer._keypair), "svm_rpc_url": svm.world.url,
        "ledger": f"sqlite:///{tmp_path}/ledger.sqlite",
    }  # fmt: skip
    async with serving(**members) as client:
        assert (await ready(client)).status_code == 200
        assert (await client.post("/verify", json=body(evm.pay(), evm.offer))).json()["isValid"] is True
        assert any(map(is_open, opened))
    assert_closed(opened)


async def test_a_service_around_a_facilitator_closes_its_lines(
    evm: EvmShop, ledger: SqlLedger, opened: list[HttpConnection]
) -> None:
    chain = RpcEvmChain(evm.world.url, evm.chain.chain_id)
    async with serving(facilitator([evm.rail(ledger, chain)], ledger)) as client:
        assert (await ready(client)).status_code == 200
    assert_closed(opened)
    # Whoever made it may go on with it: a line opens again when something is asked.
    await chain.check_chain_id()
    await chain.aclose()


async def test_D14_a_service_that_never_gets_ready_closes_its_lines(
    evm: EvmShop, ledger: SqlLedger, opened: list[HttpConnection]
) -> None:
    wrong = EvmRail(BASE_SEPOLIA, RpcEvmChain(evm.world.url, 8453), [evm.signer], unix_now)
    async with serving(facilitator([wrong], ledger)) as client:
        while not opened:  # noqa: ASYNC110 - nothing tells when the first question leaves
            await asyncio.sleep(0.01)
        assert (await client.get("/ready")).status_code == 503
    assert_closed(opened)


async def test_E02_a_service_whose_ledger_does_not_open_leaves_nothing_open(
    evm: EvmShop, tmp_path: Any, opened: list[HttpConnection]
) -> None:
    members: dict[str, Any] = {"evm_private_key": evm.signer._key.secret.hex(), "evm_rpc_url": evm.world.url}
    with pytest.raises(UnavailableError):
        async with serving(**members, ledger=f"sqlite:///{tmp_path}/no/such/folder/ledger.sqlite"):
            raise AssertionError("it started without a ledger")
    assert not any(map(is_open, opened))

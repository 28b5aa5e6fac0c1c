"""The one process that is never killed: both chains, their faucets, and the model that gateways resell.

Environment: `ORACLE_FILE`, where its URLs are written as JSON once everything answers; `ORACLE_FUND`, a JSON object
`{address: [atomic USDC, wei or lamports]}` of accounts to fund before that; `ORACLE_ENGINE`, the EVM's engine.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from x402.devnet.evm import EngineName, EvmDevnet
from x402.devnet.model import create_app
from x402.devnet.svm import SvmDevnet
from x402.devnet.town_serving import listen, serving


def main() -> None:
    """Run until killed."""
    fund: dict[str, tuple[int, int]] = json.loads(os.environ["ORACLE_FUND"])
    asyncio.run(_live(Path(os.environ["ORACLE_FILE"]), fund, cast(EngineName, os.environ["ORACLE_ENGINE"])))


async def _live(file: Path, fund: dict[str, tuple[int, int]], engine: EngineName) -> None:
    async with AsyncExitStack() as running:
        evm = await running.enter_async_context(EvmDevnet(engine))
        svm = await running.enter_async_context(SvmDevnet())
        model = await running.enter_async_context(serving(create_app(), listen()))
        for address, (usdc, fuel) in fund.items():
            if address.startswith("0x"):
                await evm.fund(address, usdc, fuel)
            else:
                await svm.create_usdc_account(address)
                await svm.fund(address, usdc, fuel)
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps({"evm": evm.url, "svm": svm.url, "model": model, "engine": evm.engine}))
        draft.replace(file)
        await asyncio.Event().wait()

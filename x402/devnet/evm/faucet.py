"""The devnet's faucet: the token's issuer hands out USDC and wei, in real transactions.

Its key is public, so a script in another process may be the faucet too, through the node's JSON-RPC.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from x402.networks import BASE_SEPOLIA, get

CHAIN_ID = get(BASE_SEPOLIA).chain_id
USDC = get(BASE_SEPOLIA).usd.address
FAUCET_KEY = hashlib.sha256(b"x402 devnet faucet").digest()
"""The issuer's key: owner and minter of the token, rich in wei. Everybody knows it, and nothing real is behind it."""
FUNDING_TIMEOUT_S = 30.0
POLL_S = 0.02
MINT_GAS = 150_000
TRANSFER_GAS = 100_000
PRIORITY_FEE_WEI = 1_000_000

Request = Callable[..., Awaitable[Any]]
"""`request(method, *params)`: one JSON-RPC method of the devnet's node."""


class DevnetError(RuntimeError):
    """The devnet can't do what was asked of it, in words."""


async def give(request: Request, address: str, usdc_atomic: int, wei: int) -> None:
    """Mint `usdc_atomic` to `address` and send it `wei`; returns when both are mined.

    Raises `DevnetError` if one fails or is not mined in time, as when mining has been switched off.
    """
    sent: list[str] = []
    if usdc_atomic:
        mint = "0x40c10f19" + padded(address) + f"{usdc_atomic:064x}"
        sent.append(await _send(request, USDC, 0, mint, MINT_GAS))
    if wei:
        sent.append(await _send(request, address, wei, "0x", TRANSFER_GAS))
    for tx_hash in sent:
        await _mined(request, tx_hash)


def padded(address: str) -> str:
    """An address as an ABI word, without 0x."""
    return address.removeprefix("0x").lower().rjust(64, "0")


async def _send(request: Request, to: str, value: int, data: str, gas: int) -> str:
    from eth_account import Account as Keys
    from eth_utils.address import to_checksum_address

    faucet = (await asyncio.to_thread(Keys.from_key, FAUCET_KEY)).address
    nonce, latest = await asyncio.gather(
        request("eth_getTransactionCount", faucet, "pending"), request("eth_getBlockByNumber", "latest", False)
    )
    signed = Keys.sign_transaction(
        {
            "type": 2,
            "chainId": CHAIN_ID,
            "nonce": int(nonce, 16),
            "to": to_checksum_address(to),
            "value": value,
            "data": data,
            "gas": gas,
            "maxPriorityFeePerGas": PRIORITY_FEE_WEI,
            "maxFeePerGas": 2 * int(latest["baseFeePerGas"], 16) + PRIORITY_FEE_WEI,
        },
        FAUCET_KEY,
    )
    return str(await request("eth_sendRawTransaction", "0x" + bytes(signed.raw_transaction).hex()))


async def _mined(request: Request, tx_hash: str) -> None:
    deadline = time.monotonic() + FUNDING_TIMEOUT_S
    while (receipt := await request("eth_getTransactionReceipt", tx_hash)) is None:
        if time.monotonic() > deadline:
            raise DevnetError(f"the faucet's transaction {tx_hash} was not mined; is mining switched off?")
        await asyncio.sleep(POLL_S)
    if receipt["status"] != "0x1":
        raise DevnetError(f"the faucet's transaction {tx_hash} was refused by the chain")

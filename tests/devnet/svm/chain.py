"""A Solana devnet with funded parties, and the shortest way to call it."""

from __future__ import annotations

import base64
from typing import Any

import httpx
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM
from solders.transaction import VersionedTransaction

from x402.devnet.svm import USDC_MINT, SvmDevnet
from x402.devnet.svm.faucet import usdc_account

MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
SOL = 1_000_000_000


class Chain:
    """A devnet with a funded buyer, merchant and fee payer, and the shortest way to call it."""

    def __init__(self, devnet: SvmDevnet, http: httpx.AsyncClient) -> None:
        self.devnet = devnet
        self.http = http
        self.buyer, self.merchant, self.fee_payer = Keypair(), Keypair(), Keypair()

    async def post(self, body: Any) -> Any:
        return (await self.http.post(self.devnet.url, json=body)).json()

    async def response(self, method: str, *params: Any) -> Any:
        return await self.post({"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)})

    async def call(self, method: str, *params: Any) -> Any:
        response = await self.response(method, *params)
        assert "error" not in response, response
        return response["result"]

    async def send(self, tx: VersionedTransaction, **config: Any) -> Any:
        return await self.response("sendTransaction", wire(tx), {"encoding": "base64", **config})

    async def status(self, tx: VersionedTransaction) -> Any:
        found = await self.call("getSignatureStatuses", [str(tx.signatures[0])])
        return found["value"][0]

    async def blockhash(self) -> Hash:
        return Hash.from_string((await self.call("getLatestBlockhash"))["value"]["blockhash"])

    async def payment(self, amount: int = 250_000, *, blockhash: Hash | None = None) -> VersionedTransaction:
        """An x402 `exact` payment: limit, price, TransferChecked, memo; signed by buyer and fee payer."""
        accounts = [
            AccountMeta(usdc_account(self.buyer.pubkey()), False, True),
            AccountMeta(USDC_MINT, False, False),
            AccountMeta(usdc_account(self.merchant.pubkey()), False, True),
            AccountMeta(self.buyer.pubkey(), True, False),
        ]
        instructions = [
            set_compute_unit_limit(20_000),
            set_compute_unit_price(1_000),
            Instruction(TOKEN_PROGRAM, bytes([12]) + amount.to_bytes(8, "little") + bytes([6]), accounts),
            Instruction(MEMO, Keypair().secret().hex()[:32].encode(), []),
        ]
        payer = self.fee_payer.pubkey()
        message = MessageV0.try_compile(payer, instructions, [], blockhash or await self.blockhash())
        return VersionedTransaction(message, [self.fee_payer, self.buyer])


def wire(tx: VersionedTransaction) -> str:
    return base64.b64encode(bytes(tx)).decode()

"""A stall that takes transfers, and two buyers who make them before they ask (aimo §2.2, dialect 2)."""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI, Request
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from tests.facilitator.world import EvmShop, SvmShop
from tests.payments import EvmPayer
from x402 import networks
from x402.billing import Metered
from x402.gateway.paywall import Paywall
from x402.gateway.policy import Policy
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports.account_book import SqlAccounts
from x402.ports.ledger import SqlLedger
from x402.quote import request_digest
from x402.schemes import eip712, sign_in
from x402.schemes.eip1559 import EvmTransaction
from x402.schemes.exact_svm_layout import MEMO, token_account
from x402.wire.hash_proof import BINDING, binding_text

PRICE = 10_000
"""One cent, as every route here asks."""
POLICY = Policy(hash_proof_seconds=300, refund_after_seconds=0)
_CHAIN_ID = networks.get(BASE_SEPOLIA).chain_id


def digest(target: str = "/report") -> str:
    return request_digest("GET", target, b"")


@dataclass
class EvmBuyer:
    """Pays by a plain call of the token's `transfer`."""

    shop: EvmShop
    name: str = "base-sepolia"
    payer: EvmPayer = field(default_factory=EvmPayer)

    async def open(self) -> None:
        await self.shop.world.fund(self.payer.address, 1_000_000, 10**18)

    async def transfer(self, units: int = PRICE, *, to: str = "", token: str = "", **_: Any) -> str:
        data = eip712.keccak(b"transfer(address,uint256)")[:4]
        data += eip712.address_word(to or self.shop.offer.pay_to) + eip712.uint256(units)
        chain = self.shop.chain
        fees, nonce = await chain.fees(), await chain.transaction_count(self.payer.address)
        call = EvmTransaction(
            _CHAIN_ID, nonce, token or self.shop.offer.asset, 200_000, fees.max_fee, fees.priority_fee, data
        )
        transaction, raw = call.sign(self.payer.key)
        await chain.send(raw, transaction)
        assert await chain.receipt(transaction, timeout=10) is not None
        return transaction

    def headers(
        self, transaction: str, target: str = "/report", signer: Any = None, *, request: str = ""
    ) -> dict[str, str]:
        text = binding_text(BASE_SEPOLIA, transaction, request or digest(target))
        signature = eip712.sign((signer or self.payer).key, sign_in.evm_digest(text))
        return {"X-Payment": f"{self.name}:{transaction}", BINDING: "0x" + signature.hex()}

    async def failed(self) -> str:
        return await self.transfer(10**15)

    async def unknown(self) -> str:
        return "0x" + secrets.token_hex(32)


@dataclass
class SvmBuyer:
    """Pays by a transfer of its own, whose fee it pays as well."""

    shop: SvmShop
    name: str = "solana-devnet"
    keypair: Keypair = field(default_factory=Keypair)

    async def open(self) -> None:
        await self.shop.world.fund(str(self.keypair.pubkey()), 1_000_000, 10**9)

    async def transfer(
        self, units: int = PRICE, *, to: str = "", memo: str = "", fee_payer: Keypair | None = None, times: int = 1
    ) -> str:
        asset, me = networks.get(SOLANA_DEVNET).usd, self.keypair.pubkey()
        places = [str(token_account(who, asset.address, asset.token_program)) for who in (str(me), to or self.seller)]
        metas = [
            AccountMeta(Pubkey.from_string(places[0]), False, True),
            AccountMeta(Pubkey.from_string(asset.address), False, False),
            AccountMeta(Pubkey.from_string(places[1]), False, True),
            AccountMeta(me, True, False),
        ]
        data = struct.pack("<BQB", 12, units, asset.decimals)
        instructions = [Instruction(Pubkey.from_string(asset.token_program), data, metas)] * times
        if memo:
            instructions.append(Instruction(Pubkey.from_string(MEMO), memo.encode(), []))
        recent = Hash.from_string((await self.shop.chain.blockhash()).hash)
        payer = fee_payer or self.keypair
        keys = [payer] if payer is self.keypair else [payer, self.keypair]
        message = MessageV0.try_compile(payer.pubkey(), instructions, [], recent)
        signed = VersionedTransaction(message, keys)
        signature = str(signed.signatures[0])
        await self.shop.chain.send(bytes(signed), signature)
        assert await self.shop.chain.status(signature, timeout=10) is not None
        return signature

    @property
    def seller(self) -> str:
        return self.shop.offer.pay_to

    def headers(
        self, transaction: str, target: str = "/report", signer: Any = None, *, request: str = ""
    ) -> dict[str, str]:
        text = binding_text(SOLANA_DEVNET, transaction, request or digest(target))
        signature = (signer or self.keypair).sign_message(text.encode())
        return {"X-Payment": f"{self.name}:{transaction}", BINDING: str(signature)}

    async def unknown(self) -> str:
        return str(Keypair().sign_message(b"nothing"))


@dataclass
class Stall:
    """A paid app on both chains, with real nodes, ledger, accounts and facilitator."""

    ledger: SqlLedger
    evm: EvmBuyer
    svm: SvmBuyer
    options: dict[str, Any]
    runs: list[str] = field(default_factory=list)
    paywall: Paywall = field(init=False)
    client: httpx.AsyncClient = field(init=False)
    later: int = 0

    def buyer(self, family: str) -> Any:
        return self.evm if family == "evm" else self.svm

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/report")
        async def report(request: Request, q: str = "") -> dict[str, str]:
            self.runs.append(q)
            if q.isdigit():
                request.scope["x402"].metered = Metered(model="m", charged=int(q), complete=True)
            if q == "fail":
                raise ValueError("broken")
            return {"report": f"secret {len(self.runs)}"}

        return app

    async def balance(self, family: str, payer: str) -> int:
        network = BASE_SEPOLIA if family == "evm" else SOLANA_DEVNET
        return (await SqlAccounts(self.ledger).balance(f"{network}:{payer}")).units

    def reopen(self, **changed: Any) -> httpx.AsyncClient:
        """Again, as after a restart."""
        self.paywall = Paywall(self._app(), **(self.options | changed))
        transport = httpx.ASGITransport(self.paywall)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://shop.test")
        return self.client

"""A scripted griefer: whoever makes a facilitator pay for transactions that move nothing, in every way we know of.

python -m tests.facilitator.griefer --attempts 10000     prints what it cost, against real chains in this process
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import struct
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey

from tests.chains import EvmWorld, SvmWorld
from tests.facilitator.serving import body, serving
from tests.facilitator.world import EvmShop, Meddled, SvmShop
from tests.payments import EvmPayer, SvmPayer, with_payload
from tests.schemes import exact_svm_forge as forge
from x402.chain import EvmFees
from x402.facilitator.allowance import Allowance, Caps
from x402.facilitator.callers import new_key
from x402.facilitator.rail import Rail
from x402.facilitator.service import unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports.ledger import SqlLedger
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

TREASURE = 5_000_000
"""What the managed keys hold of USDC; none of it may ever move."""
VOLLEY = 4
GAS_PRICE = EvmFees(10**10, 10**10)
"""What every transaction bids and pays, whatever the blocks before it were like."""
CAPS = {
    BASE_SEPOLIA: Caps(total=2 * 10**16, payer=5 * 10**15, min_amount=Decimal("0.001")),
    SOLANA_DEVNET: Caps(total=2_000_000, payer=150_000, min_amount=Decimal("0.001")),
}


@dataclass
class Victim:
    """A facilitator with callers, budgets and treasure, on a day of its own."""

    evm: EvmShop
    svm: SvmShop
    ledger: SqlLedger
    callers: Path
    day: int = 0
    key: str = ""
    answers: Counter[str] = field(default_factory=Counter)
    attempts: int = 0

    def party(self) -> LocalFacilitator:
        """Its Solana node forwards what it has not simulated, so that failures land."""
        (self.key, digest) = new_key()
        self.callers.write_text(
            f'[[callers]]\nname = "shop"\nkeys = ["{digest}"]\n[callers.pay_to]\n'
            f'base-sepolia = ["{self.evm.offer.pay_to}"]\nsolana-devnet = ["{self.svm.offer.pay_to}"]\n'
        )
        rails: list[Rail] = [
            self.evm.rail(self.ledger, Meddled(self.evm.chain, fees=self._fees, time_of=self._time_of)),
            self.svm.rail(Meddled(self.svm.chain, send=self._forward)),
        ]
        budget = Allowance(self.ledger, CAPS, lambda: unix_now() + self.day * 86_400)
        return LocalFacilitator(rails, self.ledger, settle_timeout_seconds=10, allowance=budget)

    async def _fees(self) -> EvmFees:
        return GAS_PRICE

    async def _time_of(self, block: int) -> int:
        return await self.evm.chain.time_of(block) + self.day * 86_400

    async def _forward(self, raw: bytes, _: str) -> None:
        encoded = base64.b64encode(raw).decode()
        await self.svm.chain.rpc.call("sendTransaction", encoded, {"encoding": "base64", "skipPreflight": True})

    async def wealth(self) -> dict[str, int]:
        """What can be lost: fees and tokens of both keys, in smallest units."""
        lamports = (await self.svm.chain.accounts([self.svm.signer.address]))[0]
        assert lamports is not None
        return {
            BASE_SEPOLIA: await self.evm.world.wei(self.evm.signer.address),
            SOLANA_DEVNET: lamports.lamports,
            "tokens": await self.evm.world.usdc(self.evm.signer.address)
            + await self.svm.world.usdc(self.svm.signer.address),
        }

    async def settle(self, client: httpx.AsyncClient, payment: Payment, offer: Requirement) -> str:
        """What the facilitator says: `settled`, or the reason why not."""
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = await client.post("/settle", json=body(payment, offer), headers=headers)
        said = answer.json()
        reason = "settled" if said.get("success") else str(said.get("errorReason") or said["code"])
        self.attempts += 1
        self.answers[f"{answer.status_code} {reason}"] += 1
        return reason


async def open_victim(evm: EvmWorld, svm: SvmWorld, ledger: SqlLedger, callers: Path) -> Victim:
    """A facilitator whose keys hold USDC as well, which a careless one could be made to send."""
    victim = Victim(await EvmShop.open(evm), await SvmShop.open(svm), ledger, callers)
    await evm.fund(victim.evm.signer.address, TREASURE)
    await svm.fund(victim.svm.signer.address, TREASURE)
    return victim


async def attack(victim: Victim, client: httpx.AsyncClient, attempts: int) -> None:
    """Attack until so many settlements were asked for."""
    while victim.attempts < attempts:
        await _overdraw_evm(victim, client)
        await _overdraw_svm(victim, client)
        await _forge_evm(victim, client)
        await _forge_svm(victim, client)


async def _overdraw_evm(victim: Victim, client: httpx.AsyncClient) -> None:
    """Payments that all pass the simulation at once, from an account that can pay one: the rest reverts (C09, D11).
    Then one more, as nothing had happened."""
    payer, offer = EvmPayer(), victim.evm.offer
    await victim.evm.world.fund(payer.address, offer.amount)
    await asyncio.gather(*(victim.settle(client, payer.pay(offer), offer) for _ in range(VOLLEY)))
    await victim.evm.world.fund(payer.address, offer.amount)
    await victim.settle(client, payer.pay(offer), offer)


async def _overdraw_svm(victim: Victim, client: httpx.AsyncClient) -> None:
    """The same on Solana, at the highest fee that is sponsored (C06, C09)."""
    payer, offer = SvmPayer(), victim.svm.offer
    await victim.svm.world.fund(payer.address, offer.amount)
    blockhash = (await victim.svm.chain.blockhash()).hash
    dear = [_svm(victim, payer, blockhash, limit=200_000, price=250_000, memo=str(one)) for one in range(VOLLEY)]
    await asyncio.gather(*(victim.settle(client, payment, offer) for payment in dear))
    await victim.svm.world.fund(payer.address, offer.amount)
    await victim.settle(client, payer.pay(offer, blockhash), offer)


async def _forge_evm(victim: Victim, client: httpx.AsyncClient) -> None:
    """Dust, another's account, a factory that the payer chose, and a wallet that changes its mind (D04, D05, D13)."""
    payer, offer = victim.evm.payer, victim.evm.offer
    dust = offer.model_copy(update={"amount": 1})
    stranger = offer.model_copy(update={"pay_to": payer.address})
    for wanted in (dust, stranger):
        await victim.settle(client, payer.pay(wanted), wanted)
    wrapped = with_payload(payer.pay(offer), signature="0x" + "aa" * 96 + "6492" * 16)
    await victim.settle(client, wrapped, offer)
    wallet = EvmPayer()
    await victim.evm.world.fund(wallet.address, offer.amount)
    await victim.evm.world.request("anvil_setCode", wallet.address, "0x" + FICKLE_WALLET)
    await victim.settle(client, with_payload(wallet.pay(offer), signature="0x" + "bb" * 66), offer)


FICKLE_WALLET = "3a" + "15" + "600b57" + "60206000f3" + "00" + "5b" + "631626ba7e60e01b600052" + "60206000f3"
"""Says yes to every signature as long as gas costs nothing, which is when it is only asked (fault D05)."""


async def _forge_svm(victim: Victim, client: httpx.AsyncClient) -> None:
    """A fee above the cap, rent and lamports of the fee payer, its USDC, and a nonce account (C01, C03, C06-C08)."""
    payer, offer = victim.svm.payer, victim.svm.offer
    blockhash = (await victim.svm.chain.blockhash()).hash
    sponsor = Pubkey.from_string(victim.svm.signer.address)
    signed_by_sponsor = [AccountMeta(sponsor, True, True), AccountMeta(payer.keypair.pubkey(), False, True)]
    token = forge.token_account(victim.svm.signer.address, forge.MINT, str(forge.TOKEN))
    shapes: list[dict[str, Any]] = [
        {"price": 250_001, "limit": 200_000},
        {"limit": 1_400_000},
        {"more": [Instruction(forge.SYSTEM, struct.pack("<IQ", 2, 10**8), signed_by_sponsor)]},
        {"more": [Instruction(_ASSOCIATED, b"\x01", signed_by_sponsor)]},
        {"first": [Instruction(forge.SYSTEM, struct.pack("<I", 4), signed_by_sponsor)]},
        {"source": Pubkey.from_string(token), "authority": sponsor},
    ]
    for shape in shapes:
        await victim.settle(client, _svm(victim, payer, blockhash, **shape), offer)


_ASSOCIATED = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")


def _svm(
    victim: Victim,
    payer: SvmPayer,
    blockhash: str,
    *,
    limit: int = 20_000,
    price: int = 1,
    memo: str = "",
    first: list[Instruction] | None = None,
    more: list[Instruction] | None = None,
    source: Pubkey | None = None,
    authority: Pubkey | None = None,
) -> Payment:
    """A payment of the shop's offer, laid out by hand."""
    offer, key = victim.svm.offer, payer.keypair.pubkey()
    own = Pubkey.from_string(forge.token_account(str(key), forge.MINT, str(forge.TOKEN)))
    to = Pubkey.from_string(forge.token_account(offer.pay_to, forge.MINT, str(forge.TOKEN)))
    steps = [
        *(first or []),
        forge.compute_limit(limit),
        forge.compute_price(price),
        forge.transfer(source=source or own, destination=to, authority=authority or key, amount=offer.amount),
        forge.memo(f"grief {memo} {Keypair().pubkey()}".encode()),
        *(more or []),
    ]
    message = MessageV0.try_compile(
        Pubkey.from_string(victim.svm.signer.address), steps, [], Hash.from_string(blockhash)
    )
    return forge.paying(forge.signed(message, payer.keypair), offer)


async def _main(attempts: int) -> None:
    with EvmWorld() as evm, SvmWorld() as svm, tempfile.TemporaryDirectory() as place:
        async with SqlLedger(f"sqlite:///{place}/ledger.sqlite") as ledger:
            victim = await open_victim(evm, svm, ledger, Path(place) / "callers.toml")
            before, started = await victim.wealth(), time.monotonic()
            async with serving(victim.party(), callers=victim.callers) as client:
                await attack(victim, client, attempts)
            after = await victim.wealth()
            print(f"{victim.attempts} attempts in {time.monotonic() - started:.0f} s")
            for network, caps in CAPS.items():
                print(f"{network}: {before[network] - after[network]} of {caps.total} spent")
            print(f"tokens lost: {before['tokens'] - after['tokens']}")
            for answer, count in victim.answers.most_common():
                print(f"{count:7} {answer}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=10_000)
    asyncio.run(_main(parser.parse_args().attempts))

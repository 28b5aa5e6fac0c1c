"""A node of the simulated Solana cluster, as a party's port sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from solders.pubkey import Pubkey

from tests.simulation.evm_node import unavailable
from tests.simulation.faults import Fate
from tests.simulation.svm_chain import (
    CONFIRMED_AFTER,
    FINAL_AFTER,
    GENESIS_SLOT,
    SLOT_SECONDS,
    SimulatedSvm,
    read_payment,
)
from tests.simulation.world import EPOCH
from x402.chain import Blockhash, SvmAccount, SvmLanded, SvmListed, SvmSimulation, SvmStatus, SvmTransaction
from x402.errors import MisconfiguredError, UnavailableError
from x402.ports import NotSent
from x402.schemes import exact_svm_layout as layout

T = TypeVar("T")
_LAG_SLOTS = 20
_INITIALIZED = 1
_CLOCK = "SysvarC1ock11111111111111111111111111111111"
_SYSVAR = "Sysvar1111111111111111111111111111111111111"


class SimulatedSvmNode:
    """Implements `ports.SvmChain`."""

    def __init__(self, chain: SimulatedSvm) -> None:
        self._chain = chain
        self._world = chain.world

    async def _read(self, label: str, work: Callable[[int], T]) -> T:
        """`work` gets the slot up to which the node that answers has confirmed."""

        def answer(fate: Fate) -> T:
            slot = self._chain.slot() - CONFIRMED_AFTER
            if fate is Fate.LAGS:
                slot -= self._world.chance.randint(1, _LAG_SLOTS)
            return work(slot)

        return await self._world.io("read", f"svm.{label}", answer, unavailable)

    async def aclose(self) -> None:
        """A simulated node keeps no connections."""

    async def check_cluster(self, network: str) -> None:
        served = await self._read("check_cluster", lambda _: self._chain.network.id)
        if served != network:
            raise MisconfiguredError("wrong_chain", f"the node serves {served}, expected {network}")

    async def blockhash(self) -> Blockhash:
        return await self._read("blockhash", lambda slot: Blockhash(*self._chain.blockhash(slot)))

    async def block_height(self) -> int:
        return await self._read("block_height", lambda slot: slot - (self._chain.slot() - self._chain.height()))

    async def is_blockhash_valid(self, blockhash: str) -> bool:
        return await self._read("is_blockhash_valid", lambda _: self._chain.is_alive(blockhash))

    async def accounts(self, addresses: Sequence[str]) -> Sequence[SvmAccount | None]:
        return await self._read("accounts", lambda slot: [self._account(one, slot) for one in addresses])

    def _account(self, address: str, slot: int) -> SvmAccount | None:
        if address == _CLOCK:
            return SvmAccount(_SYSVAR, 1, bytes(32) + _time_of(slot).to_bytes(8, "little"))
        owner = self._chain.owners.get(address)
        if owner is None:
            lamports = self._chain.lamports.get(address)
            return None if lamports is None else SvmAccount(layout.SYSTEM, lamports, b"")
        mint, units = Pubkey.from_string(self._chain.asset.address), self._chain.balances(slot).get(address, 0)
        data = bytes(mint) + bytes(Pubkey.from_string(owner)) + units.to_bytes(8, "little") + bytes(36)
        return SvmAccount(self._chain.asset.token_program, 2_039_280, data + bytes([_INITIALIZED]) + bytes(56))

    async def simulate(self, raw: bytes, *, verify_signatures: bool) -> SvmSimulation:
        def work(slot: int) -> SvmSimulation:
            payment = read_payment(raw)
            if verify_signatures and not payment.genuine:
                return SvmSimulation('"SignatureFailure"')
            return SvmSimulation(self._chain.problem(payment, slot))

        return await self._read("simulate", work)

    async def send(self, raw: bytes, transaction: str) -> None:
        def work(fate: Fate) -> None:
            self._chain.submit(raw, forwarded=fate is not Fate.VANISHES)

        await self._world.io("send", "svm.send", work, unavailable)

    async def status(self, signature: str, *, timeout: float) -> SvmStatus | None:
        found = await self._read("status", lambda slot: self._status(signature, slot))
        if found is not None or timeout <= 0:
            return found
        await self._chain.wait_for(signature, timeout)
        await self._world.boundary("svm.status waited", "after")
        return self._status(signature, self._chain.slot() - CONFIRMED_AFTER)

    def _status(self, signature: str, slot: int) -> SvmStatus | None:
        landed = self._chain.find(signature, slot)
        if landed is None:
            return None
        final = slot - landed.slot >= FINAL_AFTER
        return SvmStatus(landed.slot, "finalized" if final else "confirmed", landed.error)

    async def finalized(self) -> int:
        return await self._read("finalized", lambda slot: slot - FINAL_AFTER)

    async def transaction(self, signature: str) -> SvmTransaction | None:
        def work(slot: int) -> SvmTransaction | None:
            landed = self._chain.find(signature, slot)
            if landed is None:
                return None
            balances = self._chain.token_balances(landed)
            return SvmTransaction(signature, landed.slot, landed.error, balances, landed.payment.signatures)

        return await self._read("transaction", work)

    async def landed(self, signature: str) -> SvmLanded | None:
        # Nobody in the simulation presents a transfer that was made before, so no bytes are kept.
        raise UnavailableError("rpc_unavailable", "this node keeps no transactions")

    async def signatures_of(self, address: str, *, limit: int = 1000, before: str = "") -> Sequence[SvmListed]:
        def work(slot: int) -> Sequence[SvmListed]:
            listed = [
                SvmListed(one.payment.signature, _time_of(one.slot), one.payment.memo)
                for one in reversed(self._chain.history)
                if one.slot <= slot
                and address in (one.payment.source, one.payment.destination, one.payment.payer, one.payment.fee_payer)
            ]
            names = [one.signature for one in listed]
            start = names.index(before) + 1 if before in names else 0
            return listed[start : start + limit]

        return await self._read("signatures_of", work)


def _time_of(slot: int) -> int:
    return EPOCH + int((slot - GENESIS_SLOT) * SLOT_SECONDS)


__all__ = ["NotSent", "SimulatedSvmNode"]

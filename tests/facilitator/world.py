"""A facilitator on the real chains, with wallets of its own per test, and ways to make its world misbehave."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from solders.keypair import Keypair

from tests.chains import EvmWorld, SvmWorld
from tests.payments import EvmPayer, SvmPayer, evm_asset, evm_requirement, svm_requirement, upto_requirement
from x402.errors import UnavailableError
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.rail import Rail
from x402.facilitator.service import unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.facilitator.svm_rail import SvmRail
from x402.lifecycle import Outcome
from x402.networks import BASE_SEPOLIA, PERMIT2, SOLANA_DEVNET
from x402.ports import Ledger
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.ports.svm import RpcSvmChain
from x402.schemes import eip712, exact_evm
from x402.schemes.eip1559 import EvmTransaction
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

CHAIN_ID = 84532
BRIEF = 0.3


class Meddled:
    """A port, some methods of which do something else: `Meddled(chain, send=lost)`. Everything else is the port's."""

    def __init__(self, real: Any, **instead: Callable[..., Any]) -> None:
        self.real = real
        self.instead = instead

    def __getattr__(self, name: str) -> Any:
        return self.instead.get(name) or getattr(self.real, name)


async def unreachable(*_: Any, **__: Any) -> Any:
    """What a node that is away does."""
    raise UnavailableError("rpc_unavailable", "the node did not answer")


def facilitator(rails: Iterable[Rail], ledger: Ledger, seconds: float = 10) -> LocalFacilitator:
    """A facilitator that waits `seconds` for a chain."""
    return LocalFacilitator(rails, ledger, settle_timeout_seconds=seconds)


@dataclass
class EvmShop:
    """A seller, a rich payer and a facilitator's key on the EVM."""

    world: EvmWorld
    chain: RpcEvmChain
    payer: EvmPayer = field(default_factory=EvmPayer)
    signer: EvmSigner = field(default_factory=lambda: EvmSigner(secrets.token_hex(32)))
    offer: Requirement = field(default_factory=evm_requirement)

    @classmethod
    async def open(cls, world: EvmWorld, usdc: int = 1_000_000) -> EvmShop:
        shop = cls(world, RpcEvmChain(world.url, CHAIN_ID))
        await world.fund(shop.payer.address, usdc)
        await world.fund(shop.signer.address, 0, 10**18)
        return shop

    def rail(self, ledger: Ledger, chain: Any = None, signers: Iterable[EvmSigner] = (), **limits: Any) -> EvmRail:
        """Our rail, on a chain that may be meddled with."""
        return EvmRail(BASE_SEPOLIA, chain or self.chain, list(signers) or [self.signer], unix_now, **limits)

    def pay(self, **how: Any) -> Payment:
        """A fresh payment of the offer."""
        return self.payer.pay(self.offer, **how)

    def upto(self, amount: int = 1000) -> Requirement:
        """An offer of the scheme upto that our key may settle."""
        return upto_requirement(self.signer.address, self.offer.pay_to, amount)

    async def approve(self, units: int = 2**256 - 1) -> None:
        """The payer's one transaction that lets Permit2 move its tokens."""
        await self.world.fund(self.payer.address, 0, 10**18)
        data = eip712.keccak(b"approve(address,uint256)")[:4] + eip712.address_word(PERMIT2) + eip712.uint256(units)
        await self.call_as_payer(self.offer.asset, data)

    async def call_as_payer(self, to: str, data: bytes) -> None:
        """A transaction of the payer's own, mined."""
        fees, nonce = await self.chain.fees(), await self.chain.transaction_count(self.payer.address)
        call = EvmTransaction(CHAIN_ID, nonce, to, 100_000, fees.max_fee, fees.priority_fee, data)
        transaction, raw = call.sign(self.payer.key)
        await self.chain.send(raw, transaction)
        receipt = await self.chain.receipt(transaction, timeout=10)
        assert receipt is not None
        assert receipt.succeeded

    async def spare_key(self) -> EvmSigner:
        """Another key that can pay gas: replicas on one ledger send with keys of their own."""
        spare = EvmSigner(secrets.token_hex(32))
        await self.world.fund(spare.address, 0, 10**18)
        return spare

    async def received(self) -> int:
        """Atomic USDC of the seller."""
        return await self.world.usdc(self.offer.pay_to)

    async def sent(self, *others: EvmSigner) -> int:
        """How many transactions our key, and those of `others`, have in blocks."""
        counts = [
            await self.world.request("eth_getTransactionCount", signer.address, "latest")
            for signer in (self.signer, *others)
        ]
        return sum(int(count, 16) for count in counts)


@dataclass
class SvmShop:
    """A seller, a rich payer and a facilitator's fee payer on Solana."""

    world: SvmWorld
    chain: RpcSvmChain
    offer: Requirement
    signer: SvmSigner
    payer: SvmPayer = field(default_factory=SvmPayer)

    @classmethod
    async def open(cls, world: SvmWorld, usdc: int = 1_000_000) -> SvmShop:
        seller, signer = str(Keypair().pubkey()), SvmSigner(Keypair())
        shop = cls(world, RpcSvmChain(world.url), svm_requirement(seller, signer.address), signer)
        await world.fund(shop.payer.address, usdc)
        await world.fund(signer.address, 0, 10**9)
        await world.open_usdc_account(seller)
        return shop

    def rail(self, chain: Any = None, signers: Iterable[SvmSigner] = ()) -> SvmRail:
        """Our rail, on a chain that may be meddled with."""
        return SvmRail(SOLANA_DEVNET, chain or self.chain, list(signers) or [self.signer], unix_now)

    async def pay(self) -> Payment:
        """A fresh payment of the offer."""
        return self.payer.pay(self.offer, (await self.chain.blockhash()).hash)

    async def received(self) -> int:
        """Atomic USDC of the seller."""
        return await self.world.usdc(self.offer.pay_to)


def ledger_at(path: Any) -> SqlLedger:
    """The ledger file of a test."""
    return SqlLedger(f"sqlite:///{path / 'ledger.sqlite'}")


async def submit(shop: EvmShop, data: bytes) -> str:
    """Somebody else's transaction to the token, mined; its hash."""
    stranger = EvmSigner(secrets.token_hex(32))
    await shop.world.fund(stranger.address, 0, 10**18)
    fees = await shop.chain.fees()
    transaction, raw = stranger.sign_transaction(
        EvmTransaction(CHAIN_ID, 0, shop.offer.asset, 200_000, fees.max_fee, fees.priority_fee, data)
    )
    await shop.chain.send(raw, transaction)
    receipt = await shop.chain.receipt(transaction, timeout=10)
    assert receipt is not None
    assert receipt.succeeded
    return transaction


def transfer_call(payment: Payment) -> bytes:
    """The call with which anybody can submit a payment."""
    return exact_evm.read_payload(payment.payload, evm_asset()).calldata()


def cancel_call(payer: EvmPayer, payment: Payment) -> bytes:
    """The call with which the payer takes a payment back (EIP-3009, cancelAuthorization)."""
    asset, auth = evm_asset(), exact_evm.read_payload(payment.payload, evm_asset()).authorization
    separator = eip712.domain_separator(asset.eip712_name, asset.eip712_version, CHAIN_ID, asset.address)
    kind = eip712.keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    struct = eip712.keccak(kind + eip712.address_word(auth.payer) + auth.nonce)
    signature = eip712.sign(payer.key, eip712.digest(separator, struct))
    selector = eip712.keccak(b"cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)")[:4]
    words = eip712.address_word(auth.payer) + auth.nonce + eip712.uint256(signature[64]) + signature[:64]
    return selector + words


async def absent(*_: Any, **__: Any) -> None:
    """What a node says about something that it has not seen."""


def hours_later(shop: EvmShop) -> Callable[[int], Awaitable[int]]:
    """The times of a node's blocks, when every payment of today's is dead."""

    async def time_of(block: int) -> int:
        return await shop.chain.time_of(block) + 36_000

    return time_of


async def settle_on(shop: EvmShop, ledger: SqlLedger, payment: Any, seconds: float = BRIEF, **instead: Any) -> Receipt:
    """Settle through a node that misbehaves in these methods."""
    rail = shop.rail(ledger, Meddled(shop.chain, **instead))
    return await facilitator([rail], ledger, seconds).settle(payment, shop.offer)


async def healthy(shop: EvmShop, ledger: SqlLedger) -> LocalFacilitator:
    """A facilitator whose node is well again; proves that nothing jams the signer."""
    party = facilitator([shop.rail(ledger)], ledger)
    receipt = await party.settle(shop.pay(), shop.offer)
    assert receipt.success, receipt
    return party


async def settles_soon(party: LocalFacilitator, shop: EvmShop) -> bool:
    """Whether a fresh payment settles, in a few tries of the same bytes."""
    return await settles_at_last(party, shop.pay(), shop)


async def settles_at_last(party: LocalFacilitator, payment: Payment, shop: EvmShop) -> bool:
    """Whether a payment settles, in a few tries of the same bytes."""
    for _ in range(10):
        receipt = await party.settle(payment, shop.offer)
        if receipt.outcome is not Outcome.PENDING:
            break
    return receipt.success

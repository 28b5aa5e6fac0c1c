"""Who takes part: names and keys. They are worth nothing and the same in every run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256

from solders.keypair import Keypair

from tests.simulation.scenarios import EVM, SVM
from x402.client.wallet import Wallet
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.gateway.purse import Purse

SHOP, SETTLER, SVM_NODE, EVM_NODE = "shop.test", "settler.test", "node.test", "evm-node.test"
STRANGER = "0x57A2e8Bb4fC9bE8a0A3F3d4b3E5b1f60a1B2C3D4"
"""Somebody with gas and no business here."""


@dataclass(frozen=True)
class Keys:
    """Everybody's keys. They are worth nothing and the same in every run."""

    buyer: Wallet
    seller_evm: str
    seller_svm: str
    signers: tuple[EvmSigner, ...]
    fee_payer: SvmSigner
    purses: dict[str, Purse]


@cache
def keys() -> Keys:
    """Made once, because keys are slow."""

    def secret(name: str) -> bytes:
        return sha256(f"x402 simulation {name}".encode()).digest()

    buyer = Wallet(evm="0x" + secret("buyer").hex(), svm=str(Keypair.from_seed(secret("buyer"))), testnet_only=True)
    signers = tuple(EvmSigner(secret(f"signer {number}").hex()) for number in range(3))
    return Keys(
        buyer=buyer,
        seller_evm=EvmSigner(secret("seller").hex()).address,
        seller_svm=str(Keypair.from_seed(secret("seller")).pubkey()),
        signers=signers,
        fee_payer=SvmSigner(Keypair.from_seed(secret("fee payer"))),
        purses={
            EVM: Purse(evm="0x" + secret("purse").hex()),
            SVM: Purse(svm=str(Keypair.from_seed(secret("purse")))),
        },
    )

"""Who lives in a town: a buyer, a seller and a facilitator, with fresh keys on both chains."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum

from solders.keypair import Keypair

from x402.client.wallet import Wallet
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

NETWORKS = (BASE_SEPOLIA, SOLANA_DEVNET)
"""The networks that the town's chains answer for, in the order in which they are shown."""


class Role(StrEnum):
    """A party of the town."""

    BUYER = "buyer"
    SELLER = "seller"
    FACILITATOR = "facilitator"


@dataclass(frozen=True, slots=True)
class Parties:
    """Fresh keys for everybody. They control play money on chains that end with the town.

    `buyer_keys` are the buyer's keys in clear, EVM hex and Solana base58, for a person to try out; `seller_keys` the
    seller's, for a gateway that pays out.
    """

    buyer: Wallet
    seller: Wallet
    evm_signer: EvmSigner
    svm_signer: SvmSigner
    buyer_keys: tuple[str, str] = field(repr=False)
    seller_keys: tuple[str, str] = field(repr=False)

    @classmethod
    def fresh(cls) -> Parties:
        """New random keys for every party."""
        buyer, seller = (("0x" + secrets.token_hex(32), str(Keypair())) for _ in range(2))
        return cls(
            buyer=Wallet(evm=buyer[0], svm=buyer[1], testnet_only=True),
            seller=Wallet(evm=seller[0], svm=seller[1], testnet_only=True),
            evm_signer=EvmSigner(secrets.token_hex(32)),
            svm_signer=SvmSigner(Keypair()),
            buyer_keys=buyer,
            seller_keys=seller,
        )

    @property
    def pay_to(self) -> dict[str, str]:
        """Where the seller is paid, by CAIP-2 network."""
        return {network: self.seller.address(network) for network in NETWORKS}

    def address(self, role: Role, network: str) -> str:
        """The address of a party on a network (CAIP-2)."""
        if role is Role.FACILITATOR:
            return self.evm_signer.address if network == BASE_SEPOLIA else self.svm_signer.address
        return (self.buyer if role is Role.BUYER else self.seller).address(network)

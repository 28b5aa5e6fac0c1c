"""Wallets that sign in, in both dialects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coincurve import PrivateKey
from solders.keypair import Keypair

from x402.schemes import eip712
from x402.schemes.sign_in import evm_digest
from x402.wire.headers import SIGN_IN_WITH_X
from x402.wire.sign_in import Dialect, SignIn, instant, signed

EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
HOST = "shop.example"


@dataclass
class Signer:
    """One person's two keys, the same as the shop's payer has."""

    key: PrivateKey = field(default_factory=lambda: PrivateKey(bytes([3] * 32)))
    keypair: Keypair = field(default_factory=lambda: Keypair.from_seed(bytes([4] * 32)))

    def address(self, network: str) -> str:
        return eip712.address_of(self.key.public_key) if network.startswith("eip155") else str(self.keypair.pubkey())

    def signature(self, network: str, message: str) -> str:
        if network.startswith("eip155"):
            return "0x" + eip712.sign(self.key, evm_digest(message)).hex()
        return str(self.keypair.sign_message(message.encode()))

    def header(
        self, now: int, network: str = EVM, dialect: Dialect = Dialect.AIMO, *, life: int = 300, **changes: Any
    ) -> dict[str, str]:
        """AiMo's sign-in has an expiry and nothing else; changes may be any of the fields."""
        members: dict[str, Any] = {
            "domain": HOST,
            "address": self.address(network),
            "uri": f"https://{HOST}/api/v1",
            "chain_id": network,
            "expiration_time": instant(now + life),
        }
        sign_in = SignIn.model_validate(members | changes)
        signature = self.signature(network, sign_in.message(dialect))
        return {SIGN_IN_WITH_X: signed(sign_in, signature, dialect).as_header()}

    def answer(self, extension: dict[str, Any], network: str = EVM, **changes: Any) -> dict[str, str]:
        """The answer to a sign-in that a 402 of ours offers."""
        info = extension["info"]
        members = {
            "domain": info["domain"],
            "address": self.address(network),
            "uri": info["uri"],
            "chain_id": network,
            "nonce": info["nonce"],
            "issued_at": info["issuedAt"],
            "resources": info["resources"],
        }
        sign_in = SignIn.model_validate(members | changes)
        signature = self.signature(network, sign_in.message(Dialect.X402))
        return {SIGN_IN_WITH_X: signed(sign_in, signature, Dialect.X402).as_header()}

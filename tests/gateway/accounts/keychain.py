"""A ring of keys on a real ledger, wallets that issue keys, and requests that present them."""

from __future__ import annotations

from dataclasses import dataclass, field

from solders.keypair import Keypair

from x402.gateway.accounts import Holder
from x402.gateway.accounts.keys import KeyRing
from x402.gateway.accounts.signed_key import OURS, KeyTerms, SignedKey
from x402.gateway.sale import PaidRequest
from x402.gateway.sealed import Seal
from x402.ports.keys import SqlKeys
from x402.ports.ledger import SqlLedger

GATEWAY = "https://gateway.example"
SVM = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
NOW = 1_800_000_000
CHAT = "/api/v1/chat/completions"


@dataclass
class Hour:
    """A clock that is set by hand."""

    now: int = NOW

    def __call__(self) -> int:
        return self.now


def ring_on(ledger: SqlLedger, clock: Hour, *, theirs: bool = False, keys: tuple[bytes, ...] = (b"k" * 16,)) -> KeyRing:
    return KeyRing(SqlKeys(ledger), clock=clock, seal=Seal(keys), gateway=GATEWAY, network=SVM, theirs=theirs)


def asking(
    authorization: str | None, *, target: str = CHAT, body: bytes = b"{}", peer: str = "", method: str = "POST"
) -> PaidRequest:
    headers = () if authorization is None else (("authorization", authorization),)
    return PaidRequest(method, target, headers, body, peer=peer)


def issued_by(
    wallet: Keypair, *, version: int = OURS, tag: str = "dev", gateway: str = GATEWAY, **terms: int
) -> SignedKey:
    """A key that a wallet has signed."""
    stated = {"created_at_ms": NOW * 1000, "valid_for_ms": 3_600_000} | terms
    key = SignedKey(tag=tag, version=version, signer=str(wallet.pubkey()), terms=KeyTerms(**stated))  # type: ignore[arg-type]
    return key.signed_with(bytes(wallet.sign_message(key.message(gateway))))


@dataclass
class Wallets:
    """A sign-in for tests of what stands behind it: the account that the header X-Account names."""

    seen: list[str] = field(default_factory=list)

    async def holder(self, request: PaidRequest) -> Holder | None:
        account = request.header("X-Account")
        self.seen.append(account or "")
        return None if account is None else Holder(account=account)

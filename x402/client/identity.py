"""Who a wallet signs in as, and the header that says so (aimo row 16 and §2.8).

The seeds' kits send one header until it expires, which anybody who sees it may send again. Here each request has its
own: with a nonce, the time of issue, and a short life.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from solders.signature import Signature

from x402 import networks
from x402.client.choose import is_secure
from x402.client.wallet import Wallet
from x402.errors import DeclinedError, MisconfiguredError
from x402.schemes.sign_in import evm_digest
from x402.wire.sign_in import Dialect, SignIn, instant, signed

LIFETIME_SECONDS = 300
NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Identity:
    """A wallet on one chain: `chain_id` is CAIP-2, and the same wallet elsewhere is another account (CAIP-10).

    `domain` is the seller's host, with its port, unless it is stated here: a gateway behind a proxy may know itself by
    another name. `lifetime_seconds` is how long one header holds.
    """

    wallet: Wallet
    chain_id: str
    domain: str = ""
    lifetime_seconds: int = LIFETIME_SECONDS
    dialect: Dialect = Dialect.AIMO
    statement: str | None = None

    @property
    def address(self) -> str:
        """The address that signs in."""
        return self.wallet.address(self.chain_id)

    @property
    def account(self) -> str:
        """Whose balance is spent, as CAIP-10."""
        return f"{self.chain_id}:{self.address}"

    def header(self, url: str, *, now: int, entropy: bytes) -> str:
        """The value of `SIGN-IN-WITH-X` for a request to `url`. `now` is unix seconds, `entropy` at least 16 bytes.

        Raises `MisconfiguredError("no_key")` when the wallet has no key for the chain, and
        `DeclinedError("insecure_transport")` where somebody on the way could take the header and spend a balance of
        real money with it (fault B04).
        """
        parts = urlsplit(url)
        where = parts.netloc.rpartition("@")[2].lower()
        chain = networks.find(self.chain_id)
        if (chain is None or not chain.testnet) and not is_secure(parts.scheme.lower(), parts.hostname or ""):
            raise DeclinedError("insecure_transport", "nobody signs in over plain http where money is real")
        sign_in = SignIn(
            domain=self.domain or where,
            address=self.address,
            uri=f"{parts.scheme}://{where}{parts.path}",
            chain_id=self.chain_id,
            nonce=entropy[:NONCE_BYTES].hex(),
            issued_at=instant(now),
            expiration_time=instant(now + self.lifetime_seconds),
            statement=self.statement,
        )
        return signed(sign_in, self._signature(sign_in.message(self.dialect)), self.dialect).as_header()

    def _signature(self, message: str) -> str:
        if self.chain_id.startswith(networks.EIP155 + ":"):
            return "0x" + self.wallet.sign_digest(evm_digest(message)).hex()
        return str(Signature(self.wallet.sign_message(message.encode())))


def identity_of(wallet: Wallet, chain: str = "", *, mainnet: bool = False) -> Identity:
    """Who a wallet is when nobody says more: on `chain` (a CAIP-2 id, a name such as `base`, or an EIP-155 number), or
    else where its payments go: Base or Solana, their test networks unless `mainnet` is meant.

    Raises `MisconfiguredError("invalid_chain")` for a chain that is none, or that the wallet has no key for.
    """
    if not chain:
        evm = networks.BASE if mainnet else networks.BASE_SEPOLIA
        svm = networks.SOLANA_MAINNET if mainnet else networks.SOLANA_DEVNET
        return Identity(wallet, evm if wallet.evm_address else svm)
    named = f"{networks.EIP155}:{chain}" if chain.isascii() and chain.isdigit() else networks.to_caip2(chain)
    if ":" not in named or not wallet.address(named):
        raise MisconfiguredError(
            "invalid_chain", f"{chain[:80]!r} is no chain that the wallet has a key for; name one such as base-sepolia"
        )
    return Identity(wallet, named)

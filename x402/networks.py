"""Networks and assets: one table, CAIP-2 inside, v1 names only at the door.

The rows are data: `register(Network(...))` adds one, and nothing else in the project names a network. Decimals and
EIP-712 domains are pinned here and never taken from the wire (faults B07, D08, F13). Sources: protocol pages §1.8
and §8; where the official SDKs disagree about a v1 name's chain id, the live chain's id is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from x402.errors import MalformedError
from x402.money import Asset

_CAIP2 = re.compile(r"([-a-z0-9]{3,8}):([-_a-zA-Z0-9]{1,32})", re.ASCII)

EIP155 = "eip155"
SOLANA = "solana"

BASE = "eip155:8453"
BASE_SEPOLIA = "eip155:84532"
SOLANA_MAINNET = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
SOLANA_DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
SOLANA_TESTNET = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"

TOKEN_PROGRAM = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
TOKEN_2022_PROGRAM = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"

PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3"
UPTO_PERMIT2_PROXY = "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"
"""Who may spend what a payer signs under the scheme `upto`; as Permit2, the same on every EVM network."""
MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11"


@dataclass(frozen=True, slots=True)
class Network:
    """One chain: its CAIP-2 id, its v1 name (`""` when it never had one), and its assets; the first is "USD".

    `family` is `eip155` or `solana`: the CAIP-2 namespace, which decides the scheme implementation.
    """

    id: str
    name: str
    title: str
    testnet: bool = False
    assets: tuple[Asset, ...] = field(default=())
    rpc_url: str = ""
    explorer: str = ""
    faucet: str = ""
    family: str = field(init=False)
    _by_address: Mapping[str, Asset] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.id.partition(":")[0])
        # The first of two with one address is the one that counts.
        by_address = {self._spelt(asset.address): asset for asset in reversed(self.assets)}
        # Nearly everybody spells an address as it is pinned.
        by_address |= {asset.address: by_address[self._spelt(asset.address)] for asset in self.assets}
        object.__setattr__(self, "_by_address", by_address)

    @property
    def chain_id(self) -> int:
        """The EIP-155 chain id. Raises `MalformedError` for a network of another family."""
        if self.family != EIP155:
            raise MalformedError("invalid_network", f"{self.id} has no EIP-155 chain id")
        return int(self.id.partition(":")[2])

    @property
    def usd(self) -> Asset:
        """The asset that a price in dollars means here. Raises `MalformedError` when the network has none."""
        if not self.assets:
            raise MalformedError("unknown_asset", f"no asset is known on {self.id}")
        return self.assets[0]

    def asset(self, address: str) -> Asset | None:
        """The pinned asset at `address`, or None. EVM addresses compare without case, Solana's exactly."""
        return self._by_address.get(address) or self._by_address.get(self._spelt(address))

    def _spelt(self, address: str) -> str:
        return address.lower() if self.family == EIP155 else address

    def transaction_url(self, transaction: str) -> str:
        """Where a person can look at a transaction, or `""`."""
        if not self.explorer or not transaction:
            return ""
        url, _, query = self.explorer.partition("?")
        return f"{url}/tx/{transaction}" + (f"?{query}" if query else "")


_BY_ID: dict[str, Network] = {}
_BY_NAME: dict[str, Network] = {}


def register(network: Network) -> Network:
    """Add a network, or replace the one with the same CAIP-2 id."""
    namespace, reference = parse_caip2(network.id)
    if namespace == EIP155 and not (reference.isdigit() and reference == str(int(reference))):
        raise MalformedError("invalid_network", f"{network.id} has no EIP-155 chain id")
    older = _BY_ID.get(network.id)
    if older is not None:
        _BY_NAME.pop(older.name, None)
    _BY_ID[network.id] = network
    if network.name:
        _BY_NAME[network.name] = network
    return network


def find(network: str) -> Network | None:
    """The network with this CAIP-2 id or v1 name, or None when it is unknown."""
    return _BY_ID.get(network) or _BY_NAME.get(network)


def get(network: str) -> Network:
    """Like `find`, but raises `MalformedError("invalid_network")` for what is unknown."""
    known = find(network)
    if known is None:
        raise MalformedError("invalid_network", f"unknown network {network[:80]!r}")
    return known


def every() -> Iterator[Network]:
    """All known networks, in the order in which they were registered."""
    return iter(tuple(_BY_ID.values()))


def parse_caip2(network: str) -> tuple[str, str]:
    """Split a CAIP-2 id into namespace and reference; raises `MalformedError("invalid_network")`."""
    match = _CAIP2.fullmatch(network)
    if match is None:
        raise MalformedError("invalid_network", f"{network[:80]!r} is no CAIP-2 network id")
    return match[1], match[2]


def matches(pattern: str, network: str) -> bool:
    """Whether a CAIP-2 id falls under a pattern: the id itself, or a wildcard such as `eip155:*`."""
    if pattern.endswith(":*"):
        return network.startswith(pattern[:-1])
    return pattern == network


def to_caip2(network: str) -> str:
    """A v1 name as its CAIP-2 id; anything else comes back unchanged, so that unknown offers survive (fault F14)."""
    known = _BY_NAME.get(network)
    return known.id if known else network


def to_v1(network: str) -> str:
    """A CAIP-2 id as its v1 name; unchanged when it has none."""
    known = _BY_ID.get(network)
    return known.name if known and known.name else network


@dataclass(frozen=True, slots=True)
class Token:
    """A row of the table below, before it knows its network."""

    address: str
    symbol: str = "USDC"
    name: str = "USDC"
    version: str = "2"
    decimals: int = 6
    method: str = "eip3009"


def _evm(
    chain_id: int,
    name: str,
    title: str,
    *tokens: Token,
    test: bool = False,
    rpc: str = "",
    explorer: str = "",
    faucet: str = "",
) -> None:
    caip2 = f"{EIP155}:{chain_id}"
    assets = tuple(Asset(caip2, t.address, t.symbol, t.decimals, t.method, t.name, t.version) for t in tokens)
    register(Network(caip2, name, title, test, assets, rpc, explorer, faucet))


def _solana(
    caip2: str, name: str, title: str, rpc: str, explorer: str, *mints: tuple[str, str, str], faucet: str = ""
) -> None:
    assets = tuple(Asset(caip2, mint, symbol, 6, "spl", token_program=program) for symbol, mint, program in mints)
    register(Network(caip2, name, title, name != "solana", assets, rpc, explorer, faucet))


_CIRCLE_FAUCET = "https://faucet.circle.com"
_SOLSCAN = "https://explorer.solana.com"
_TEST_MINTS = (
    ("USDC", "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU", TOKEN_PROGRAM),
    ("USDG", "4F6PM96JJxngmHnZLBh9n58RH4aTVNWvDs2nuwrT5BP7", TOKEN_2022_PROGRAM),
    ("PYUSD", "CXk2AMBfi3TwaEL2468s6zP8xq9NxTXjp9gjMgzeUynM", TOKEN_2022_PROGRAM),
)


def _usd_coin(address: str) -> Token:
    return Token(address, name="USD Coin")


# fmt: off
_evm(8453, "base", "Base", _usd_coin("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
     rpc="https://mainnet.base.org", explorer="https://basescan.org")
_evm(84532, "base-sepolia", "Base Sepolia", Token("0x036CbD53842c5426634e7929541eC2318f3dCF7e"), test=True,
     rpc="https://sepolia.base.org", explorer="https://sepolia.basescan.org", faucet=_CIRCLE_FAUCET)
_solana(SOLANA_MAINNET, "solana", "Solana", "https://api.mainnet-beta.solana.com", _SOLSCAN,
        ("USDC", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", TOKEN_PROGRAM),
        ("USDT", "Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB", TOKEN_PROGRAM),
        ("USDG", "2u1tszSeqZ3qBWF3uNGPFc8TzMk2tdiwknnRMWGWjGWH", TOKEN_2022_PROGRAM),
        ("PYUSD", "2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo", TOKEN_2022_PROGRAM),
        ("CASH", "CASHx9KJUStyftLFWGvEVf59SGeG9sh5FfcnZMVPCASH", TOKEN_2022_PROGRAM))
_solana(SOLANA_DEVNET, "solana-devnet", "Solana devnet", "https://api.devnet.solana.com",
        _SOLSCAN + "?cluster=devnet", *_TEST_MINTS, faucet=_CIRCLE_FAUCET)
_solana(SOLANA_TESTNET, "solana-testnet", "Solana testnet", "https://api.testnet.solana.com",
        _SOLSCAN + "?cluster=testnet", *_TEST_MINTS)

_evm(1, "ethereum", "Ethereum", _usd_coin("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"), explorer="https://etherscan.io")
_evm(11155111, "sepolia", "Ethereum Sepolia", test=True, explorer="https://sepolia.etherscan.io")
_evm(10, "", "Optimism")
_evm(137, "polygon", "Polygon", _usd_coin("0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359"), explorer="https://polygonscan.com")
_evm(80002, "polygon-amoy", "Polygon Amoy", Token("0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582"), test=True)
_evm(42161, "", "Arbitrum One", _usd_coin("0xaf88d065e77c8cC2239327C5EDb3A432268e5831"), explorer="https://arbiscan.io")
_evm(421614, "", "Arbitrum Sepolia", _usd_coin("0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d"), test=True)
_evm(43114, "avalanche", "Avalanche", _usd_coin("0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E"))
_evm(43113, "avalanche-fuji", "Avalanche Fuji", _usd_coin("0x5425890298aed601595a70AB815c96711a31Bc65"), test=True)
_evm(143, "monad", "Monad", Token("0x754704Bc059F8C67012fEd69BC8A327a5aafb603"))
_evm(10143, "monad-testnet", "Monad testnet", Token("0x534b2f3A21130d7a60830c2Df862319e593943A3"), test=True)
_evm(1329, "sei", "Sei", Token("0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392"))
_evm(1328, "sei-testnet", "Sei testnet", Token("0x4fCF1784B31630811181f670Aea7A7bEF803eaED"), test=True)
_evm(42220, "celo", "Celo", Token("0xcebA9300f2b948710d2653dD7B07f33A8B32118C"),
     Token("0x48065fbBE25f71C9282ddf5e1cD6D6A887483D5e", "USDT", "Tether USD", "1"),
     Token("0xD2ab3C9A02DBBAB236BfEC45D1d755DF4267F771", "USAT", "Tether America USD", "1"))
_evm(11142220, "", "Celo Sepolia", Token("0x01C5C0122039549AD1493B8220cABEdD739BC44E"), test=True)
_evm(50, "", "XDC", Token("0xfA2958CB79b0491CC627c1557F441eF849Ca8eb1"))
_evm(51, "", "XDC Apothem", Token("0xb5AB69F7bBada22B28e79C8FFAECe55eF1c771D4"), test=True)
_evm(5042, "", "Arc", Token("0x3600000000000000000000000000000000000000"))
_evm(5042002, "", "Arc testnet", Token("0x3600000000000000000000000000000000000000"), test=True)
_evm(988, "stable", "Stable", Token("0x779Ded0c9e1022225f8E0630b35a9b54bE713736", "USDT0", "USDT0", "1"))
_evm(2201, "stable-testnet", "Stable testnet", Token("0x78Cf24370174180738C5B8E352B6D14c83a6c9A9", "USDT0", "USDT0", "1"), test=True)
_evm(14, "flare", "Flare", Token("0xe7cd86e13AC4309349F30B3435a9d337750fC82D", "USDT0", "USD\u20ae0", "1"))
_evm(36900, "", "ADI", Token("0x9cb8142aEBBcdc60AF7c97Af897A67A8f3CA71C2", "USDC.e", "USDC.e"))
_evm(190415, "", "HPP", Token("0x401eCb1D350407f13ba348573E5630B83638E30D", "USDC.e", "Bridged USDC"))
_evm(181228, "", "HPP Sepolia", Token("0x401eCb1D350407f13ba348573E5630B83638E30D", "USDC.e", "Bridged USDC"), test=True)
_evm(4326, "megaeth", "MegaETH", Token("0xFAfDdbb3FC7688494971a79cc65DCa3EF82079E7", "MegaUSD", "MegaUSD", "1", 18, "permit2"))
_evm(31612, "", "Mezo", Token("0xdD468A1DDc392dcdbEf6db6e34E89AA338F9F186", "mUSD", "Mezo USD", "1", 18, "permit2"))
_evm(31611, "", "Mezo testnet", Token("0x118917a40FAF1CD7a13dB0Ef56C86De7973Ac503", "mUSD", "Mezo USD", "1", 18, "permit2"), test=True)
_evm(723487, "", "Radius", Token("0x33ad9e4BD16B69B5BfDED37D8B5D9fF9aba014Fb", "SBC", "Stable Coin", "1", 6, "permit2"))
_evm(72344, "", "Radius testnet", Token("0x33ad9e4BD16B69B5BfDED37D8B5D9fF9aba014Fb", "SBC", "Stable Coin", "1", 6, "permit2"), test=True)
_evm(38833, "", "Igra", Token("0xA5b8BF902b2844dA17d4506cc827F7F1681735E7", "USDC", "", "", 6, "permit2"))

_evm(2741, "abstract", "Abstract")
_evm(11124, "abstract-testnet", "Abstract testnet", test=True)
_evm(4689, "iotex", "IoTeX")
_evm(3338, "peaq", "peaq")
_evm(1514, "story", "Story")
_evm(41923, "educhain", "EDU Chain")
_evm(324705682, "skale-base-sepolia", "SKALE Base Sepolia", test=True)
# fmt: on

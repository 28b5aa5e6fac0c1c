"""What a seller asks for one request: the price, when it is taken, and who gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, StrEnum

from x402 import networks
from x402.discount import Step
from x402.errors import MalformedError, MisconfiguredError
from x402.money import Amount, Asset, parse_price
from x402.networks import Network
from x402.quote import Order, PriceList, Quote
from x402.schemes.eip712 import parse_address
from x402.schemes.evm_scheme import SCHEMES
from x402.schemes.exact_svm_layout import parse_key

PAYABLE_METHODS = ("eip3009", "spl")
"""Transfer methods of the scheme `exact` that this gateway offers."""


class Flow(StrEnum):
    """When the money is taken (protocol §7.2)."""

    AUTHORIZATION = "authorization"
    """Verify, serve, settle, then release the answer: for short answers."""
    UPFRONT = "upfront"
    """Settle, then serve as it comes: for streams, and for handlers with side effects (faults A17, A20)."""
    METERED = "metered"
    """Serve as it comes, then settle what was used: every payment of the scheme `upto`, and no other."""


class Free(Enum):
    """The price of what costs nothing."""

    FREE = "free"


FREE = Free.FREE
"""Returned by a price function for a request that is served without a payment."""

PlainPrice = str | int | Decimal | Quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A price with its circumstances. `price` is in whole dollars (`"$0.01"`), or a quote.

    `flow` None means the paywall's own, and so do no `schemes`: those in which a payment is taken, of `exact` and
    `upto`. `order` and `prices`, beside a quote, are what it was made of: with them the price of the next request of
    the same `variant` can be announced (`x402.tariff`). Raises `MalformedError("invalid_price")` for a price of zero:
    what costs nothing is `FREE`, never a payment of nothing (fault F10).
    """

    price: PlainPrice
    flow: Flow | None = None
    description: str = ""
    mime_type: str = ""
    schemes: tuple[str, ...] = ()
    order: Order | None = None
    prices: PriceList | None = None
    variant: str = ""
    on_chain: bool = False
    """Whether only a payment will do, and no balance: for what fills one."""

    def __post_init__(self) -> None:
        _check_schemes(self.schemes)
        if self.flow is Flow.METERED:
            raise MalformedError("invalid_flow", "what is metered is paid by the scheme upto: name that in schemes")
        if self.usd == 0:
            raise MalformedError("invalid_price", "a price is more than zero; what costs nothing is FREE")
        if self.flow is not None:
            object.__setattr__(self, "flow", Flow(self.flow))

    @property
    def quote(self) -> Quote | None:
        """The quote, when the price is one."""
        return self.price if isinstance(self.price, Quote) else None

    @property
    def usd(self) -> Decimal:
        """The price in whole dollars."""
        return self.price.usd if isinstance(self.price, Quote) else parse_price(self.price)[0]

    def units(self, asset: Asset) -> int:
        """The price in atomic units of an asset. Raises `MalformedError("invalid_price")` when it does not fit."""
        price = self.price.usd if isinstance(self.price, Quote) else self.price
        return Amount.of(price, asset).units


Price = PlainPrice | Terms | Free


def terms_of(price: Price) -> Terms | None:
    """The terms of any price; None when nothing is asked."""
    if price is FREE or (isinstance(price, Quote) and price.free):
        return None
    return price if isinstance(price, Terms) else Terms(price=price)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seller:
    """Who sells, and what the operator decided once and for all.

    `pay_to` maps networks (CAIP-2 or v1 names) to receiving addresses; its order is the order of the offers.
    `quote_keys` sign quotes: the first signs, all are read. `schemes` are those in which payments are taken, the
    preferred one first; `upto` only on EVM networks. A price is announced for `pay_ahead_seconds`, so that a buyer pays
    with the first request; 0 announces none. `discounts` stand in every quote, for those who spend much. Raises
    `MisconfiguredError` for an address that cannot be one, an unknown network, or a mixture of main and test networks
    (faults F12, F13).
    """

    pay_to: Mapping[str, str]
    max_timeout_seconds: int = 300
    quote_keys: tuple[bytes, ...] = field(default=(), repr=False)
    quote_ttl_seconds: int = 300
    schemes: tuple[str, ...] = ("exact",)
    pay_ahead_seconds: int = 300
    discounts: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        _check_schemes(self.schemes)
        if not self.schemes:
            raise MisconfiguredError("invalid_scheme", "a seller takes payments in one scheme at least")
        addresses = {_network(name).id: address for name, address in self.pay_to.items()}
        if not addresses:
            raise MisconfiguredError("no_network", "a seller needs at least one network and an address to be paid at")
        addresses = {network: _spelled(networks.get(network), address) for network, address in addresses.items()}
        if len({networks.get(network).testnet for network in addresses}) > 1:
            raise MisconfiguredError("mixed_networks", "main and test networks are never sold on together")
        if not 0 < self.max_timeout_seconds <= 3600:
            raise MisconfiguredError("invalid_timeout", "max_timeout_seconds is between 1 and 3600")
        object.__setattr__(self, "pay_to", addresses)


def _check_schemes(schemes: Sequence[str]) -> None:
    for scheme in schemes:
        if scheme not in SCHEMES:
            raise MisconfiguredError("invalid_scheme", f"{scheme[:40]!r} is no scheme of {', '.join(SCHEMES)}")


def _network(name: str) -> Network:
    known = networks.find(name)
    if known is None:
        raise MisconfiguredError("invalid_network", f"unknown network {name[:80]!r}")
    if not any(asset.transfer_method in PAYABLE_METHODS for asset in known.assets):
        raise MisconfiguredError("invalid_network", f"no asset on {known.title} can be paid with the scheme exact")
    return known


def asset_on(network: str) -> Asset:
    """The asset in which a price in dollars is asked on a network. Raises `MalformedError` where there is none."""
    known = networks.get(network)
    for asset in known.assets:
        if asset.transfer_method in PAYABLE_METHODS:
            return asset
    raise MalformedError("invalid_network", f"no asset on {known.title} can be paid with the scheme exact")


def _spelled(network: Network, address: str) -> str:
    try:
        if network.family == networks.SOLANA:
            return str(parse_key(address, f"pay_to on {network.title}"))
        return parse_address(address)
    except MalformedError as error:
        raise MisconfiguredError("invalid_address", f"pay_to on {network.title}: {error.message}") from error


def addresses_of(pay_to: str | Mapping[str, str], network: str | Sequence[str] | None) -> Mapping[str, str]:
    """Receiving addresses by network, from one address and its networks, or from a table of them.

    Raises `MisconfiguredError("no_network")` when a network or an address is missing.
    """
    wanted = [network] if isinstance(network, str) else list(network or ())
    if isinstance(pay_to, str):
        if not wanted:
            raise MisconfiguredError("no_network", "name the network of pay_to: network='base', or pay_to={'base': …}")
        return dict.fromkeys(wanted, pay_to)
    addresses = {networks.to_caip2(name): address for name, address in pay_to.items()}
    missing = [name for name in wanted if networks.to_caip2(name) not in addresses]
    if missing:
        raise MisconfiguredError("no_network", f"pay_to has no address on {', '.join(missing)}")
    return {name: addresses[networks.to_caip2(name)] for name in wanted} if wanted else pay_to

"""Which offer of a challenge is paid, by the buyer's own rules and never by the seller's order (faults B04-B09).

Pure. Every offer that is not taken gets a reason; when none is left, all the reasons are in the error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from x402 import networks
from x402.client.allowance import Allowances
from x402.client.trust import Payee, named_host
from x402.errors import DeclinedError, MalformedError, X402Error
from x402.money import Amount, Asset, parse_price
from x402.schemes import exact_evm, exact_svm_layout, upto_evm
from x402.schemes.eip712 import parse_address
from x402.schemes.evm_scheme import SCHEMES, evm_scheme
from x402.wire.challenge import Challenge, Requirement

DEFAULT_CAP = Decimal(1)
"""US dollars per call when nothing else is said, like the official SDKs (protocol page §7.1)."""
EXACT = exact_evm.SCHEME
AUTHORIZATION = "authorization"
UPFRONT = "upfront"
_FLOWS = (AUTHORIZATION, UPFRONT)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the buyer is willing to sign.

    `max_per_call` is in US dollars. `networks` are CAIP-2 ids, patterns such as `solana:*`, or v1 names: only these
    are paid on, the most wanted first; empty means every network that the wallet has a key for. `schemes` are those
    that are paid in, the preferred one first where the price is the same; under `upto` it is a maximum. `mainnet`
    forbids (False), allows (True) or leaves to the wallet (None) networks where money is real. `payees` names, per
    host, the addresses that may be paid; any other host is held to those that it was paid at before. A signature lives
    `lifetime_seconds` at most, however long the offer asks for. `allow_http` permits paying real money over a
    connection that anybody on the way can alter. A 402 that is written in both versions of x402 is read and paid in
    `version`; None takes 2. With `approvals` an approval of Permit2 for all of a token is signed, as a transaction that
    the seller's facilitator sends, where an offer needs one and no permit for one payment does; None leaves that to the
    environment.
    """

    max_per_call: Decimal | str | int | None = None
    networks: tuple[str, ...] = ()
    schemes: tuple[str, ...] = (exact_evm.SCHEME, upto_evm.SCHEME)
    mainnet: bool | None = None
    payees: Mapping[str, Collection[str]] = field(default_factory=dict)
    lifetime_seconds: int = 600
    allow_http: bool = False
    version: int | None = None
    approvals: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_per_call", dollars(self.max_per_call))
        object.__setattr__(self, "networks", tuple(networks.to_caip2(name) for name in self.networks))
        object.__setattr__(self, "payees", _by_host(self.payees))
        if not 0 < self.lifetime_seconds <= 86_400:
            raise ValueError("lifetime_seconds must be between 1 and 86400")


@dataclass(frozen=True, slots=True)
class Buyer:
    """What `choose` must know of the wallet and the call: addresses by family, the host, and whether it is secure.

    `allowances` say what Permit2 may move of the payer's tokens, where a node was asked, and `sponsored` that the
    seller takes a permit that gives it. `cap` is the highest price in US dollars, `known` are the addresses at which
    the host was paid before.
    """

    addresses: Mapping[str, str]
    host: str
    secure: bool
    testnet_only: bool = False
    cap: Decimal = DEFAULT_CAP
    allowances: Allowances = field(default_factory=dict)
    sponsored: bool = False
    known: frozenset[Payee] = frozenset()


@dataclass(frozen=True, slots=True)
class Choice:
    """The offer to pay, its price in the pinned asset, and why each other offer was left.

    `usd` is the price in US dollars; every pinned asset is a dollar token.
    """

    requirement: Requirement
    amount: Amount
    passed_over: tuple[Mapping[str, Any], ...] = ()

    @property
    def usd(self) -> Decimal:
        return self.amount.decimal


def _by_host(payees: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Named payees under their hosts as `host_of` writes them; two spellings of a host name the addresses of both."""
    found: dict[str, frozenset[str]] = {}
    for host, addresses in payees.items():
        spelt = named_host(host)
        found[spelt] = found.get(spelt, frozenset()) | frozenset(addresses)
    return found


def dollars(price: Decimal | str | int | None) -> Decimal | None:
    """A limit in US dollars; raises `MalformedError` for what is no price, `TypeError` for a float."""
    if price is None:
        return None
    number, ticker = parse_price(price)
    if ticker not in ("", "USD", "USDC"):
        raise MalformedError("invalid_price", "limits are in US dollars")
    return number


def dollar_text(price: Decimal | str | int) -> str:
    """An amount of US dollars as a seller reads it: plain decimals. Raises as `dollars`, and for nothing or less."""
    number = dollars(price)
    if number is None or number <= 0:
        raise MalformedError("invalid_price", "an amount is more than nothing")
    return f"{number:f}"


def is_secure(scheme: str, host: str) -> bool:
    """Whether nobody between us and the seller can alter the challenge: TLS, or this very machine (fault B04)."""
    if scheme == "https" or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def choose(challenge: Challenge, buyer: Buyer, policy: Policy) -> Choice:
    """The offer to pay: the most wanted network first, then the cheapest, then the preferred scheme, then the seller's
    order.

    Raises `DeclinedError` when no offer is acceptable: with the reason's own code when all offers fail for the same
    reason, else `no_acceptable_offer`. `details["offers"]` lists each offer with its reason.
    """
    refused: dict[int, DeclinedError] = {}
    fitting: list[tuple[int, Requirement, Amount]] = []
    for index, offer in enumerate(challenge.accepts):
        try:
            fitting.append((index, offer, _judge(offer, buyer, policy)))
        except DeclinedError as error:
            refused[index] = error
    protective = [entry for entry in fitting if _flow(entry[1]) == AUTHORIZATION]
    if protective:
        for index, offer, _ in fitting:
            if _flow(offer) != AUTHORIZATION:
                refused[index] = DeclinedError("less_protective_flow", "another offer is paid only after the answer")
        fitting = protective
    if not fitting:
        raise _none_left(challenge, refused, buyer)
    if len(fitting) > 1:
        fitting.sort(
            key=lambda entry: (
                _rank(entry[1].network, policy) or 0,
                entry[2].decimal,
                policy.schemes.index(entry[1].scheme),
                entry[0],
            )
        )
    index, offer, amount = fitting[0]
    for other, _, price in fitting:
        if other != index:
            refused[other] = DeclinedError("not_preferred", f"{price} on a network or at a price that is less wanted")
    return Choice(offer, amount, _explain(challenge, refused))


def _judge(offer: Requirement, buyer: Buyer, policy: Policy) -> Amount:
    """The price of an acceptable offer. Raises `DeclinedError` with the first rule that it breaks."""
    network = networks.find(offer.network)
    known = network is None or offer.scheme == exact_evm.SCHEME or network.family == networks.EIP155
    if offer.scheme not in policy.schemes or offer.scheme not in SCHEMES or not known:
        raise DeclinedError("unsupported_scheme", f"scheme {offer.scheme!r} is not paid by this client")
    if network is None:
        raise DeclinedError("unknown_network", f"network {offer.network!r} is not known")
    if _rank(network.id, policy) is None:
        raise DeclinedError("network_not_wanted", f"the policy does not pay on {network.title}")
    payer = buyer.addresses.get(network.family, "")
    if not payer:
        raise DeclinedError("no_key", f"the wallet has no key for {network.title}")
    mainnet_allowed = policy.mainnet if policy.mainnet is not None else not buyer.testnet_only
    if not network.testnet and not mainnet_allowed:
        raise DeclinedError("mainnet_refused", f"{network.title} moves real money and was not allowed")
    if not network.testnet and not buyer.secure and not policy.allow_http:
        raise DeclinedError("insecure_transport", "real money is not paid on terms heard over plain http")
    if _flow(offer) not in _FLOWS:
        raise DeclinedError("unknown_payment_flow", f"payment flow {offer.extra.get('paymentFlow')!r} is not known")
    asset = _pinned(offer, network, payer)
    amount = _price(offer, asset)
    if amount.decimal > buyer.cap:
        raise DeclinedError("price_above_limit", f"it asks for {amount}, the limit per call is ${buyer.cap}")
    _check_payee(offer, network, buyer, policy)
    if offer.scheme == upto_evm.SCHEME:
        _check_allowance(amount, buyer)
    return amount


def _check_allowance(amount: Amount, buyer: Buyer) -> None:
    """Raise `DeclinedError` unless Permit2 may move as much, or the seller takes a permit that lets it."""
    asset = amount.asset
    known = buyer.allowances.get((asset.network, asset.address))
    if known is None:
        raise DeclinedError(
            "permit2_allowance_unknown",
            "no node says what Permit2 may move of the wallet's tokens: name one in X402_EVM_RPC_URL",
        )
    permitted = buyer.sponsored and known.permit_nonce is not None and asset.eip712_name
    if known.units < amount.units and not permitted and known.account is None:
        raise DeclinedError(
            "permit2_allowance_required",
            f"Permit2 may move {Amount(min(known.units, asset.largest), asset)} of the wallet's and {amount} is the"
            f" maximum here; allow it once: x402 approve --network {networks.to_v1(asset.network)}",
        )


def _pinned(offer: Requirement, network: networks.Network, payer: str) -> Asset:
    """The pinned asset, after everything that signing would stumble over was looked at."""
    if network.asset(offer.asset) is None:
        raise DeclinedError("unknown_asset", f"{offer.asset} on {network.title} is not a known asset")
    try:
        sponsor = ""
        if network.family == networks.EIP155:
            payee = parse_address(offer.pay_to)
            asset = evm_scheme(offer.scheme).asset_of(offer)
            if offer.scheme == upto_evm.SCHEME:
                upto_evm.facilitator_of(offer)
        else:
            asset = exact_svm_layout.pinned_asset(offer)
            payee = str(exact_svm_layout.offer_key(offer.pay_to, "payTo"))
            sponsor = str(exact_svm_layout.offer_key(offer.extra.get("feePayer"), "extra.feePayer"))
            exact_svm_layout.wanted_memo(offer)
    except DeclinedError:
        raise
    except X402Error as error:
        raise DeclinedError("unpayable_offer", error.message) from error
    if payee == payer:
        raise DeclinedError("unpayable_offer", "the offer pays the payer")
    if sponsor == payer:
        raise DeclinedError("unpayable_offer", "the offer has the payer sponsor its own payment")
    return asset


def _price(offer: Requirement, asset: Asset) -> Amount:
    if not 0 < offer.amount <= asset.largest:
        raise DeclinedError("unpayable_offer", f"{offer.amount} is no amount of {asset.symbol} that can be paid")
    return Amount(offer.amount, asset)


def _check_payee(offer: Requirement, network: networks.Network, buyer: Buyer, policy: Policy) -> None:
    named = policy.payees.get(buyer.host)
    known = buyer.known if named is None else {Payee(address) for address in named}
    first_use = named is None and not known
    if not first_use and not any(payee.fits(offer) for payee in known):
        raise DeclinedError(
            "payee_changed",
            f"{buyer.host} was not paid at {offer.pay_to} on {network.title} before. If its seller says that this"
            f" address is its own, accept it: x402 trust {buyer.host} {offer.pay_to}",
        )


def _flow(offer: Requirement) -> object:
    flow = offer.extra.get("paymentFlow")
    return AUTHORIZATION if flow is None else flow


def _rank(network: str, policy: Policy) -> int | None:
    if not policy.networks:
        return 0
    for rank, pattern in enumerate(policy.networks):
        if pattern == "*" or networks.matches(pattern, network):
            return rank
    return None


def _explain(challenge: Challenge, refused: Mapping[int, DeclinedError]) -> tuple[Mapping[str, Any], ...]:
    if not refused and not challenge.unreadable:
        return ()
    rows: list[Mapping[str, Any]] = [
        {
            "network": challenge.accepts[index].network,
            "amount": str(challenge.accepts[index].amount),
            "asset": challenge.accepts[index].asset,
            "code": error.code,
            "reason": error.message,
        }
        for index, error in sorted(refused.items())
    ]
    rows += [{"code": "unreadable_offer", "reason": offer.reason} for offer in challenge.unreadable]
    return tuple(rows)


def _none_left(challenge: Challenge, refused: Mapping[int, DeclinedError], buyer: Buyer) -> DeclinedError:
    offers = _explain(challenge, refused)
    codes = {str(row["code"]) for row in offers}
    if not offers:
        return DeclinedError("no_offers", f"{buyer.host} asks for a payment and offers no way to make it")
    reasons = "; ".join(f"{row.get('network', 'an offer')}: {row['reason']}" for row in offers)
    code = codes.pop() if len(codes) == 1 else "no_acceptable_offer"
    words = f"no offer of {buyer.host} was taken: {reasons}"
    return DeclinedError(code, words[:1000], details={"offers": list(offers)})

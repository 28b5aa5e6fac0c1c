"""What is offered for a request, and whether a payment that comes back takes one of those offers.

Every requirement is computed from configuration, never from what a client sent (faults B03, B19). The facilitator
adds to `extra`, and never replaces what we put there (aimo K7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from x402 import networks, signed_quote, tariff
from x402.errors import MalformedError, Mender, MisconfiguredError, RefusedError, UnavailableError
from x402.gateway.hash_proof import identity_of_transfer, is_hash_proof
from x402.gateway.kinds import HINTS, KINDS_TTL_SECONDS, Kinds, Supports
from x402.gateway.terms import Flow, Seller, Terms, asset_on
from x402.money import Amount, Asset
from x402.networks import Network
from x402.ports import Clock
from x402.price import PriceList
from x402.schemes import approval_sponsoring, gas_sponsoring, upto_evm
from x402.schemes.evm_scheme import evm_scheme
from x402.schemes.exact_svm_layout import identify
from x402.tariff import Tariff
from x402.wire.challenge import Challenge, Requirement, Resource
from x402.wire.facilitation import Kind
from x402.wire.payment import Payment

SCHEME = "exact"
"""The scheme of v1, and of refunds."""
UNPAID = "PAYMENT-SIGNATURE header is required"
_FIXED_MAX = 256
"""Offers that are remembered; a price function may name any number of prices."""
_MISMATCH = "invalid_payment_requirements"
_TARIFF = "tariff"
_DYNAMIC = HINTS | {"feePayer", "facilitatorAddress", "quote"}


class Offers:
    """The seller's offers: `Requirement`s for terms, and the judgement whether a payment takes one of them."""

    def __init__(
        self, facilitator: Supports, seller: Seller, *, clock: Clock, kinds_ttl_seconds: int = KINDS_TTL_SECONDS
    ) -> None:
        self.seller = seller
        self._clock = clock
        self.kinds = Kinds(facilitator, clock=clock, ttl_seconds=kinds_ttl_seconds)
        self._fixed: dict[tuple[Any, ...], tuple[Kind, Requirement]] = {}

    async def requirements(self, terms: Terms, *, request_digest: str, preferred: str = "") -> tuple[Requirement, ...]:
        """One requirement per scheme and network that the facilitator settles, those on the preferred network first.

        Raises `UnavailableError` when there is none: an empty list of offers would tell the client nothing (K8).
        """
        token = self._sign(terms, request_digest)
        offers = []
        for network in sorted(self.seller.pay_to, key=lambda network: _distance(network, preferred)):
            for scheme in self._schemes(terms, network):
                offer = await self._requirement(scheme, network, terms, token)
                if offer is not None:
                    offers.append(offer)
        if not offers:
            raise UnavailableError("nothing_supported", "the facilitator settles on none of this seller's networks")
        return tuple(offers)

    async def match(
        self,
        payment: Payment,
        terms: Terms,
        *,
        request_digest: str,
        resource: Resource,
        any_origin: bool = False,
        route: str = "",
    ) -> Requirement:
        """The requirement that a payment takes, as we compute it.

        With `any_origin` only the path of the resource is compared, because nobody said under which name we are known.
        `route` is what a price that was announced must have been announced for.
        Raises `RefusedError` when it takes none: another network, price, payee or resource, or a quote that expired
        or was made for another request (faults B01-B03). The caller then challenges anew.
        """
        taken = self._schemes(terms, payment.network) if payment.network in self.seller.pay_to else ()
        if payment.scheme not in taken or (payment.accepted is None and payment.scheme != SCHEME):
            raise RefusedError(_MISMATCH, f"{payment.scheme} on {payment.network} is not offered here")
        token: str | None
        if payment.accepted is None:
            token = self._sign(terms, request_digest)
        else:
            _check_resource(payment, resource, any_origin)
            token, terms = self._read_quote(payment.accepted, terms, request_digest, route)
        ours = await self._requirement(payment.scheme, payment.network, terms, token)
        if ours is None:
            raise UnavailableError("nothing_supported", f"the facilitator does not settle on {payment.network} now")
        if payment.accepted is None:
            return _without(ours, HINTS)
        return await self._agreed(ours, payment.accepted)

    async def settleable(self) -> bool:
        """Whether the facilitator settles on any of the seller's networks. Raises `UnavailableError`."""
        kinds = [
            await self.kinds.find(scheme, network) for network in self.seller.pay_to for scheme in self.seller.schemes
        ]
        return any(kind is not None for kind in kinds)

    async def sponsoring(self, requirements: Sequence[Requirement]) -> dict[str, Any]:
        """The extensions by which a payer needs no gas for Permit2's allowance, where an offer draws on that and the
        facilitator has them."""
        if not any(requirement.scheme == upto_evm.SCHEME for requirement in requirements):
            return {}
        served = (await self.kinds.supported()).extensions
        ways = (gas_sponsoring, approval_sponsoring)
        return {way.EXTENSION: way.declaration() for way in ways if way.EXTENSION in served}

    def challenge(
        self,
        requirements: Sequence[Requirement],
        resource: Resource,
        error: str = UNPAID,
        extensions: Mapping[str, Any] | None = None,
    ) -> Challenge:
        """A 402 in words of the protocol; `error` is a reason code, or the sentence for a first request."""
        return Challenge(error=error, resource=resource, accepts=tuple(requirements), extensions=dict(extensions or {}))

    def announce(self, terms: Terms, route: str) -> dict[str, Any]:
        """The extension with the signed price of the next requests of a route, so that they are paid for at once; empty
        where none is announced."""
        seconds = self.seller.pay_ahead_seconds
        if not (route and seconds and self.seller.quote_keys):
            return {}
        flat, prices = (terms.usd, None) if terms.order is None else (None, terms.prices)
        if prices is not None and terms.order is not None:
            prices = PriceList(prices.version, (prices.get(terms.order.model),), prices.fee_percent)
        said = Tariff(
            route=route, variant=terms.variant, expires_at=self._clock() + seconds, flat=flat, prices=prices,
            discounts=self.seller.discounts,
        )  # fmt: skip
        return {tariff.EXTENSION: {"info": {"tariff": tariff.sign(said, key=self.seller.quote_keys[0])}}}

    def _schemes(self, terms: Terms, network: str) -> tuple[str, ...]:
        """The schemes in which terms are offered on a network."""
        schemes = terms.schemes or self.seller.schemes
        on_evm = networks.get(network).family == networks.EIP155
        return tuple(scheme for scheme in schemes if on_evm or scheme == SCHEME)

    async def _requirement(self, scheme: str, network: str, terms: Terms, token: str | None) -> Requirement | None:
        kind = await self.kinds.find(scheme, network)
        if kind is None:
            return None
        if token is not None:
            return self._composed(kind, scheme, network, terms, token)
        # Without a quote an offer says the same to everybody, until the facilitator says something else.
        key = scheme, network, terms.flow, type(terms.price), terms.price
        made = self._fixed.get(key)
        if made is not None and made[0] is kind:
            return made[1]
        if len(self._fixed) >= _FIXED_MAX:
            self._fixed.clear()
        offer = self._composed(kind, scheme, network, terms, None)
        if offer is not None:
            self._fixed[key] = kind, offer
        return offer

    def _composed(self, kind: Kind, scheme: str, network: str, terms: Terms, token: str | None) -> Requirement | None:
        if networks.get(network).family == networks.SOLANA and not kind.extra.get("feePayer"):
            return None
        asset = asset_on(network)
        extra: dict[str, Any] = {**kind.extra, **_domain(asset)}
        extra.pop("paymentFlow", None)
        if scheme == upto_evm.SCHEME:
            if not kind.extra.get("facilitatorAddress"):
                return None
            extra["assetTransferMethod"] = upto_evm.TRANSFER_METHOD
        elif terms.flow is Flow.UPFRONT:
            extra["paymentFlow"] = str(Flow.UPFRONT)
        if token is not None:
            extra["quote"] = token
        try:
            units = terms.units(asset)
        except MalformedError as error:
            raise MisconfiguredError("invalid_price", f"the price of this request: {error.message}") from error
        return Requirement(
            scheme=scheme,
            network=network,
            amount=units,
            asset=asset.address,
            pay_to=self.seller.pay_to[network],
            max_timeout_seconds=self.seller.max_timeout_seconds,
            extra=extra,
        )

    def _sign(self, terms: Terms, request_digest: str) -> str | None:
        if terms.quote is None or not self.seller.quote_keys:
            return None
        return signed_quote.sign(
            terms.quote if terms.quote.discounts else replace(terms.quote, discounts=self.seller.discounts),
            key=self.seller.quote_keys[0],
            request_digest=request_digest,
            issued_at=self._clock(),
            ttl_seconds=self.seller.quote_ttl_seconds,
        )

    def _read_quote(
        self, accepted: Requirement, terms: Terms, request_digest: str, route: str
    ) -> tuple[str | None, Terms]:
        """The quote that a payment carries holds, whatever the price list says by now (aimo K6); and so does a price
        that was announced."""
        if not self.seller.quote_keys:
            return None, terms
        token, announced = accepted.extra.get("quote"), accepted.extra.get(_TARIFF)
        if isinstance(announced, str) and not isinstance(token, str):
            terms = self._announced(announced, terms, route)
            return self._sign(terms, request_digest), terms
        if terms.quote is None:
            return None, terms
        if not isinstance(token, str):
            raise RefusedError("quote_required", "extra.quote: pay with the quote of the challenge")
        try:
            quoted = signed_quote.read(
                token, keys=self.seller.quote_keys, now=self._clock(), request_digest=request_digest
            )
        except MalformedError as error:
            raise RefusedError(error.code, error.message) from error
        return token, replace(terms, price=quoted)

    def _announced(self, token: str, terms: Terms, route: str) -> Terms:
        """The terms by a price that we announced. Raises `RefusedError` for one that does not hold for this request."""
        try:
            said = tariff.read(token, keys=self.seller.quote_keys, now=self._clock(), route=route)
            if terms.order is None:
                return replace(terms, price=said.flat) if said.flat is not None else _other_terms()
            model = said.model
            if model is None or (model.model, said.variant) != (terms.order.model, terms.variant):
                return _other_terms()
            return replace(terms, price=said.quote(terms.order))
        except MalformedError as error:
            raise RefusedError(error.code, error.message) from error

    async def _agreed(self, ours: Requirement, theirs: Requirement) -> Requirement:
        network = networks.get(ours.network)
        if theirs.amount != ours.amount:
            _differs("amount", shortfall(ours, theirs.amount))
        _same("maxTimeoutSeconds", ours.max_timeout_seconds, theirs.max_timeout_seconds)
        _same("asset", _spelled(network, ours.asset), _spelled(network, theirs.asset))
        _same("payTo", _spelled(network, ours.pay_to), _spelled(network, theirs.pay_to))
        for name, value in ours.extra.items():
            if name not in _DYNAMIC:
                _same(f"extra.{name}", value, theirs.extra.get(name))
        _same("extra.paymentFlow", ours.extra.get("paymentFlow"), theirs.extra.get("paymentFlow"))
        kept = _without(ours, HINTS)
        name = "feePayer" if network.family == networks.SOLANA else "facilitatorAddress"
        if name not in ours.extra:
            return kept
        # Whichever of its keys the facilitator named when the offer was made.
        key = theirs.extra.get(name)
        if not isinstance(key, str) or key not in await self.kinds.fee_payers(ours.network):
            _differs(f"extra.{name}")
        return kept.model_copy(update={"extra": {**kept.extra, name: key}})


def shortfall(requirement: Requirement, units: int) -> dict[str, str]:
    """What is asked and what was paid, in whole coins, when `units` are too few (aimo row 54); else nothing."""
    asset = networks.get(requirement.network).asset(requirement.asset)
    if asset is None or units >= requirement.amount:
        return {}
    required, received = Amount(requirement.amount, asset), Amount(units, asset)
    return {"required": format(required.decimal, "f"), "received": format(received.decimal, "f")}


def _other_terms() -> NoReturn:
    raise RefusedError("tariff_mismatch", "this price was announced for other requests")


def identity_of(payment: Payment) -> str:
    """The chain-level identity of a payment, by its payload alone (design D5).

    Raises `RefusedError` for what is no payment of a scheme and network that are known here.
    """
    if is_hash_proof(payment):
        return identity_of_transfer(payment)
    network = networks.find(payment.network)
    metered = payment.scheme == upto_evm.SCHEME and payment.accepted is not None
    if network is None or (payment.scheme != SCHEME and not (metered and network.family == networks.EIP155)):
        raise RefusedError(_MISMATCH, f"{payment.scheme} on {payment.network} is not offered here")
    if network.family == networks.SOLANA:
        return identify(payment.payload, network.id)
    asset = asset_on(network.id) if payment.accepted is None else network.asset(payment.accepted.asset)
    if asset is None:
        raise RefusedError(_MISMATCH, "asset: this token is not offered here", details={"member": "asset"})
    return evm_scheme(payment.scheme).read_payload(payment.payload, asset).pay_id


def flow_of(requirement: Requirement) -> Flow:
    """The flow that a requirement of ours asks for."""
    if requirement.scheme == upto_evm.SCHEME:
        return Flow.METERED
    return Flow.UPFRONT if requirement.extra.get("paymentFlow") == Flow.UPFRONT else Flow.AUTHORIZATION


def _domain(asset: Asset) -> dict[str, str]:
    return {"name": asset.eip712_name, "version": asset.eip712_version} if asset.eip712_name else {}


def _without(requirement: Requirement, names: frozenset[str]) -> Requirement:
    if names.isdisjoint(requirement.extra):
        return requirement
    extra = {name: value for name, value in requirement.extra.items() if name not in names}
    return requirement.model_copy(update={"extra": extra})


def _distance(network: str, preferred: str) -> int:
    wanted = preferred.strip().lower()
    if not wanted:
        return 0
    known = networks.get(network)
    if wanted in (network.lower(), known.name):
        return 0
    return 1 if known.name.startswith(wanted) or known.family == wanted else 2


def _spelled(network: Network, address: str) -> str:
    return address.lower() if network.family == networks.EIP155 else address


def _check_resource(payment: Payment, resource: Resource, any_origin: bool) -> None:
    if payment.resource is None:
        return
    theirs, ours = payment.resource.url.rstrip("/"), resource.url.rstrip("/")
    if any_origin:
        theirs, ours = _without_origin(theirs), _without_origin(ours)
    if theirs == ours:
        return
    raise RefusedError(
        "resource_mismatch",
        "the payment was made for another resource",
        mender=Mender.CALLER,
        details={"resource": resource.url},
    )


def _without_origin(url: str) -> str:
    return url.partition("://")[2].partition("/")[2]


def _same(member: str, ours: Any, theirs: Any) -> None:
    # True == 1 in Python; in an offer they are two different things.
    if type(ours) is not type(theirs) or ours != theirs:
        _differs(member)


def _differs(member: str, details: Mapping[str, str] | None = None) -> NoReturn:
    raise RefusedError(
        _MISMATCH,
        f"{member}: the payment accepts other terms than those offered",
        details={"member": member, **(details or {})},
    )

"""The counter: a request comes, with or without a payment; a price, a refusal or an answer goes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from inspect import isawaitable

from x402.errors import MalformedError, MisconfiguredError, RefusedError, X402Error
from x402.gateway.accounts import Holder
from x402.gateway.accounts.members import Members
from x402.gateway.accounts.tab import Tab
from x402.gateway.envelope import EnvelopeRule, plain_envelope
from x402.gateway.flow import Till
from x402.gateway.hash_proof import HashProofs, is_hash_proof
from x402.gateway.offers import UNPAID, Offers
from x402.gateway.replies import Plain, challenge_reply, error_reply
from x402.gateway.running import Offer
from x402.gateway.sale import Handler, PaidRequest, Refusal, Reply
from x402.gateway.terms import Flow, Price, Terms, asset_on, terms_of
from x402.wire.challenge import Requirement, Resource
from x402.wire.hash_proof import HashProof, read_hash_proof
from x402.wire.headers import PREFERRED_NETWORK
from x402.wire.payment import Payment, read_payment
from x402.wire.receipt import Receipt

PriceFunction = Callable[[PaidRequest], Price | Awaitable[Price]]
PriceRule = Price | PriceFunction
"""A fixed price, or a function of the request that returns one, or raises an `X402Error` that answers the request."""


class Free(Exception):
    """This request costs nothing: serve it as it is."""


class Counter:
    """Prices requests and passes their payments to the till.

    `flow` holds where the terms name none. `any_origin` says that the origin of a resource's URL is only a guess,
    `envelope` which shape an error has.
    """

    def __init__(
        self,
        till: Till,
        offers: Offers,
        *,
        flow: Flow = Flow.AUTHORIZATION,
        any_origin: bool = False,
        members: Members | None = None,
        envelope: EnvelopeRule = plain_envelope,
    ) -> None:
        self.till = till
        self.offers = offers
        self._flow = flow
        self._any_origin = any_origin
        self._fixed: dict[tuple[type, Price], Terms | None] = {}
        self._members = members
        self.proofs: HashProofs | None = None
        """Takes transfers that were made before, where the seller does."""
        self.envelope = envelope

    def check(self, rule: PriceRule) -> None:
        """Raise `MisconfiguredError` for a fixed price that cannot be asked on every network of the seller."""
        if callable(rule):
            return
        terms = self._filled(rule)
        if terms is not None:
            for network in self.offers.seller.pay_to:
                try:
                    terms.units(asset_on(network))
                except MalformedError as error:
                    raise MisconfiguredError("invalid_price", error.message) from error

    async def serve(self, request: PaidRequest, rule: PriceRule, url: str, handler: Handler) -> Reply | Plain:
        """The reply to one request. `url` is the canonical one of the resource.

        Raises `Free` when nothing is asked for this request, and whatever a handler or price function raises that is
        no `X402Error`. A payment that cannot be read is 400, never treated as absent.
        """
        try:
            proof = None if self.proofs is None else read_hash_proof(request.headers)
            if proof is not None and self.proofs is not None:
                return await self._proven(proof, self.proofs, request, rule, url, handler)
            payment = read_payment(request.headers)
            if payment is not None and is_hash_proof(payment):
                raise MalformedError("invalid_payload", f"{payment.scheme} is no scheme that travels as JSON")
            if payment is not None:
                return await self._paid(payment, request, rule, url, handler)
            holder = None if self._members is None else await self._members.holder(request)
            if self._members is not None and holder is not None:
                return await self._charged(self._members.tab, holder, request, rule, url, handler)
            return await self._challenge(request, rule, url)
        except X402Error as error:
            return error_reply(error, envelope=self.envelope(request.target, request.headers))

    async def _paid(
        self, payment: Payment, request: PaidRequest, rule: PriceRule, url: str, handler: Handler
    ) -> Reply | Plain:
        async def offer() -> Requirement:
            terms = await self._terms(request, rule)
            resource = _resource(url, terms)
            return await self.offers.match(
                payment, terms, request_digest=request.digest, resource=resource, any_origin=self._any_origin,
                route=request.route,
            )  # fmt: skip

        return await self._taken(payment, request, rule, url, offer, handler)

    async def _proven(
        self, proof: HashProof, proofs: HashProofs, request: PaidRequest, rule: PriceRule, url: str, handler: Handler
    ) -> Reply | Plain:
        """The answer to a transfer that was made before. A price function may still say that nothing is asked."""
        try:
            payment = await proofs.present(proof, request.digest)
        except RefusedError as error:
            return await self._challenge(request, rule, url, error)

        async def offer() -> Requirement:
            return proofs.requirement(payment, await self._terms(request, rule))

        return await self._taken(payment, request, rule, url, offer, handler)

    async def _taken(
        self, payment: Payment, request: PaidRequest, rule: PriceRule, url: str, offer: Offer, handler: Handler
    ) -> Reply | Plain:
        try:
            return await self.till.take(payment, request.digest, offer, handler)
        except Refusal as refusal:
            if not isinstance(refusal.error, RefusedError):
                envelope = self.envelope(request.target, request.headers)
                return error_reply(refusal.error, refusal.receipt, envelope=envelope)
            return await self._challenge(request, rule, url, refusal.error, refusal.receipt)

    async def _charged(
        self, tab: Tab, holder: Holder, request: PaidRequest, rule: PriceRule, url: str, handler: Handler
    ) -> Reply | Plain:
        """An answer out of a balance; offers to pay for it when that is empty."""
        terms = await self._terms(request, rule)
        if terms.on_chain:
            return await self._challenge(request, rule, url)
        try:
            return await tab.take(holder, request, terms, handler)
        except RefusedError as error:
            return await self._challenge(request, rule, url, error)

    async def _challenge(
        self,
        request: PaidRequest,
        rule: PriceRule,
        url: str,
        refused: RefusedError | None = None,
        receipt: Receipt | None = None,
    ) -> Plain:
        with self.till.register.telemetry.step("step.challenge", reason="" if refused is None else refused.code):
            terms = await self._terms(request, rule)
            preferred = request.header(PREFERRED_NETWORK) or ""
            offers = await self.offers.requirements(terms, request_digest=request.digest, preferred=preferred)
        error = UNPAID if refused is None else refused.code
        route = request.route if terms.order is not None or not callable(rule) else ""
        extensions = {} if self._members is None else self._members.extensions(url)
        extensions = {**extensions, **self.offers.announce(terms, route), **await self.offers.sponsoring(offers)}
        challenge = self.offers.challenge(offers, _resource(url, terms), error, extensions)
        envelope = self.envelope(request.target, request.headers)
        return challenge_reply(challenge, refused, receipt, envelope=envelope)

    async def _terms(self, request: PaidRequest, rule: PriceRule) -> Terms:
        if callable(rule):
            named = rule(request)
            terms = self._filled(await named if isawaitable(named) else named)
        else:
            # Routes have few fixed prices, and each is read once.
            key = (type(rule), rule)
            if key not in self._fixed:
                self._fixed[key] = self._filled(rule)
            terms = self._fixed[key]
        if terms is None:
            raise Free
        return terms

    def _filled(self, price: Price) -> Terms | None:
        try:
            terms = terms_of(price)
            if terms is None or terms.flow is not None:
                return terms
            return replace(terms, flow=self._flow)
        except MalformedError as error:
            raise MisconfiguredError("invalid_price", f"the price of this request: {error.message}") from error


def _resource(url: str, terms: Terms) -> Resource:
    return Resource(url=url, description=terms.description, mime_type=terms.mime_type)

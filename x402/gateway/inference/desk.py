"""Where one kind of answer is sold: what a request costs, and how its answer is made and metered once it is paid for.

Chat completions, embeddings and images differ in how a request is read and an answer is judged (`Trade`); everything
about money is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from x402.chat_order import variant_of
from x402.errors import MalformedError, Mender
from x402.gateway.inference.catalogue import Model
from x402.gateway.inference.price_rules import Tier, tier_of
from x402.gateway.inference.ranges import refused
from x402.gateway.inference.router import Forwardable, Router, Take, Taken
from x402.gateway.inference.selection import NO_WISHES, REGION, Wishes, read_wishes
from x402.gateway.inference.tally import Tally
from x402.gateway.inference.upstream import UpstreamAnswer, UpstreamFailed
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest, Sale
from x402.gateway.terms import FREE, Flow, Price, Terms
from x402.price import ModelPrice
from x402.quote import Order, Quote, quote
from x402.signed_quote import peek
from x402.wire.strict import parse_object


class Sold(Forwardable, Protocol):
    """A request that can be priced and forwarded: `members` is its JSON, `path` where it goes below an upstream's base
    URL, `endpoint` what a bill calls it, `tags` what stays with the bill."""

    @property
    def members(self) -> Mapping[str, Any]: ...

    @property
    def model(self) -> str: ...

    @property
    def stream(self) -> bool: ...

    @property
    def tags(self) -> Mapping[str, str]: ...

    @property
    def endpoint(self) -> str: ...

    @property
    def path(self) -> str: ...

    def order(self, price: ModelPrice) -> Order:
        """What is bought, for the price of a model. Raises `ApiProblem` 400 for what cannot be priced."""
        ...


R = TypeVar("R", bound=Sold)


@dataclass(frozen=True, slots=True)
class Ordered(Generic[R]):
    """A request that was read, the model it names with the providers that may serve it, and the quote under which it
    is served."""

    request: R
    model: Model
    quoted: Quote
    wishes: Wishes = NO_WISHES
    tier: Tier = Tier.DEFAULT
    batch: bool = False
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer, as the buyer gets it, and who made it."""

    body: bytes = field(repr=False)
    members: dict[str, Any] = field(repr=False)
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Trade(Generic[R]):
    """What is particular to one kind of answer.

    `makes` are the output modalities of the models that can be asked, `count` tells a tally what an answer used:
    it raises `UpstreamFailed` for what is no such answer, so that another provider is asked.
    """

    words: str
    makes: frozenset[str]
    parse: Callable[[bytes], R]
    count: Callable[[Mapping[str, Any], Tally], None]
    check: Callable[[R, Model], None] = lambda request, model: None
    announced: bool = False
    """Whether a buyer can price the next request itself (`x402.tariff`)."""


class Desk(Generic[R]):
    """Sells one kind of answer of the models of a router's catalogue."""

    def __init__(self, router: Router, trade: Trade[R]) -> None:
        self.router = router
        self.trade = trade

    def price(self, request: PaidRequest) -> Price:
        """The price of a request: a quote, taken up front for a stream; nothing for a free model.

        Raises `ApiProblem` for what cannot run, before anybody is asked to pay for it.
        """
        ordered = self.order(request.body, None, region=request.header(REGION) or "")
        if ordered.quoted.free:
            return FREE
        stream = ordered.request.stream
        return Terms(
            price=ordered.quoted,
            flow=Flow.UPFRONT if stream else Flow.AUTHORIZATION,
            description=f"{self.trade.words} by {ordered.model.display_name}",
            mime_type="text/event-stream" if stream else "application/json",
            order=ordered.order if self.trade.announced else None,
            prices=self.router.catalogue.price_list(ordered.model),
            variant=variant_of(ordered.request.members, request.header(REGION) or ""),
        )

    def order(self, body: bytes, sale: Sale | None, *, region: str = "", batch: bool = False) -> Ordered[R]:
        """The order to serve. What was paid for is the quote that came with the payment, not today's price.

        `region` is where the buyer would like to be served; `batch` says that it is one of many under one payment.
        """
        request = self.trade.parse(body)
        wishes = read_wishes(request.members, preferred_region=region)
        model = self.router.resolve(request.model)
        if not self.trade.makes & set(model.output_modalities):
            made = ", ".join(model.output_modalities)
            words = f"{model.id} does not make this: it makes {made}"
            raise refused("model", words, code="unsuitable_model", status=422)
        self.trade.check(request, model)
        model = self.router.fitting(model, request.members, wishes, path=request.path)
        tier = tier_of(request.members)
        token = None if sale is None else sale.requirement.extra.get("quote")
        if isinstance(token, str):
            # Its signature was checked when the payment was taken.
            return Ordered(request, model, peek(token).quote, wishes, tier)
        model = replace(model, price=self.router.catalogue.rules.price(model.price, tier, batch=batch))
        try:
            order = request.order(model.price)
            quoted = quote(order, self.router.catalogue.price_list(model))
        except MalformedError as error:
            raise refused("", error.message, code=error.code) from error
        return Ordered(request, model, quoted, wishes, tier, batch, order)

    async def complete(self, ordered: Ordered[R], sale: Sale | None, *, request_id: str = "") -> Completion:
        """A whole answer; the receipt notes what it really used.

        An empty answer raises `ApiProblem` 502, and so is not charged (aimo row 86).
        """
        remember(ordered, sale, request_id)
        done, tally = await self._known_or_made(ordered, sale, request_id)
        tally.sale = sale
        tally.tell()
        if tally.void:
            raise empty_completion()
        if sale is not None:
            sale.note(charge=tally.as_json())
        return done

    async def make(self, ordered: Ordered[R], request_id: str) -> tuple[Completion, Tally]:
        """An answer with its bill, which nobody has been told yet; it is `void` when the answer says nothing."""
        name = ordered.request.model

        async def take(answer: UpstreamAnswer) -> tuple[Completion, Tally]:
            body, members = await _read(answer)
            # Two providers may be racing, so each answer is counted by itself.
            tally = self.tally(ordered, answer)
            self.trade.count(members, tally)
            answer.ended(tally.used.completion_tokens)
            if members.get("model") not in (None, name):
                # The buyer hears the name that it asked for (aimo row 35).
                members["model"] = name
                body = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
            return Completion(body, members, tally.provider), tally

        return await self.ask(ordered, take, request_id)

    async def _known_or_made(self, ordered: Ordered[R], sale: Sale | None, request_id: str) -> tuple[Completion, Tally]:
        cache = self.router.cache
        if cache is None or sale is None or not ordered.wishes.cache:
            return await self.make(ordered, request_id)
        key = cache.key(sale.payer, ordered.model.id, ordered.request.members)
        known = cache.find(key)
        if known is not None:
            # No provider has worked for it, so none earns.
            tally = Tally(ordered.quoted, ordered.request.endpoint, usage=known.usage)
            tally.cut = self.router.catalogue.rules.cached
            return Completion(known.body, known.members), tally
        done, tally = await self.make(ordered, request_id)
        if tally.usage is not None and not tally.void:
            cache.keep(key, done.body, done.members, tally.usage)
        return done, tally

    def tally(self, ordered: Ordered[R], answer: UpstreamAnswer, sale: Sale | None = None) -> Tally:
        """The bill of an answer that has begun, at the price of the provider that gives it."""
        provider = answer.provider
        if provider is None:
            return Tally(ordered.quoted, ordered.request.endpoint, sale)
        price = self.router.catalogue.rules.price(provider.price, ordered.tier, batch=ordered.batch)
        return Tally(ordered.quoted, ordered.request.endpoint, sale, provider.id, at=price)

    async def ask(self, ordered: Ordered[R], take: Take[Taken], request_id: str) -> Taken:
        """What `take` makes of the first usable answer; raises as `Router.ask`."""
        return await self.router.ask(
            ordered.model,
            ordered.request,
            ordered.quoted.output_tokens,
            take,
            request_id=request_id,
            path=ordered.request.path,
            wishes=ordered.wishes,
            tier=ordered.tier,
        )


def remember(ordered: Ordered[Any], sale: Sale | None, request_id: str) -> None:
    """Put into a sale what its bill has to say of the request."""
    if sale is not None:
        sale.tags, sale.request_id = dict(ordered.request.tags), request_id


def empty_completion() -> ApiProblem:
    """What an answer that says nothing ends in."""
    words = "the model said nothing; nothing is charged"
    return ApiProblem(502, "empty_completion", words, kind="server_error", mender=Mender.NOBODY)


async def _read(answer: UpstreamAnswer) -> tuple[bytes, dict[str, Any]]:
    try:
        body = await answer.read()
    finally:
        await answer.close()
    try:
        return body, parse_object(body, limit=len(body) + 1)
    except MalformedError as error:
        raise UpstreamFailed("the answer is not JSON", status=200) from error

"""The models on sale: what each costs, who serves it, how a request's name finds it, and the list for buyers.

Several providers of one model share its name: the name is priced at the dearest of each rate, so that any of them can
serve under the same quote, and `provider_id:name` buys from one of them at its own price.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any

from x402.errors import MalformedError, MisconfiguredError
from x402.gateway.inference.model_name import bare, split_name
from x402.gateway.inference.price_rules import NO_RULES, PriceRules
from x402.money import EXACT_CONTEXT
from x402.price import ModelPrice, PriceList, PriceUnit, Rate

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices

CODE = "invalid_catalogue"
_QUARTER_HOUR = 900


HealthOf = Callable[[str], dict[str, Any]]
"""How the offer `provider_id:name` does at the moment, as JSON."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a provider's model answers: its own name for the model, its base URL, and the key to present.

    `format` names the adapter that speaks its API (`inference/adapters`). At most `concurrency` requests are at work
    there at once, the others wait; None is any number. With `guarded` the address is resolved by us and refused when
    it lies in a private network, because somebody else has named it (fault E05).
    """

    model: str
    api_base: str
    api_key: str = field(default="", repr=False)
    format: str = "openai"
    concurrency: int | None = None
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """One seller of a model. `price.model` is the direct id `provider_id:name`.

    `regions` are labels such as `eu`, in lower case. `weight` multiplies its share among the healthy; with 0 it only
    stands in for others.
    """

    id: str
    name: str
    price: ModelPrice
    upstream: Upstream | None = None
    regions: tuple[str, ...] = ()
    weight: int = 1

    @property
    def endpoint(self) -> str:
        """This provider's offer of this model: the id of its price, and of its health."""
        return self.price.model

    def is_called(self, slug: str) -> bool:
        """Whether a request means this provider: by its id, or by its name with dashes."""
        return slug.lower() in {self.id.lower(), "-".join(self.name.lower().split())}


@dataclass(frozen=True, slots=True)
class Model:
    """A model on sale. `price.model` is the id to quote; any of `providers` may serve it at that price."""

    id: str
    name: str
    display_name: str
    providers: tuple[Provider, ...]
    price: ModelPrice
    owned_by: str = ""
    created: int = 0
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    aliases: tuple[str, ...] = ()
    """Other names for it, such as one without a date: what they mean is pinned here (aimo row 100)."""
    own: bool = True
    """Whether the operator lists it; a model that others brought never takes a name from one that he lists."""

    def narrowed(self, providers: Sequence[Provider]) -> Model:
        """The same model from some of its providers only, priced so that each of those may serve."""
        if tuple(providers) == self.providers:
            return self
        alone = [replace(self, providers=(one,), price=replace(one.price, model=self.price.model)) for one in providers]
        return reduce(join, alone)

    def as_json(self, health: HealthOf | None = None) -> dict[str, Any]:
        """The entry of a model list, readable by OpenAI's clients and by AiMo's. Prices are strings, never floats.

        `health` adds how each provider does at the moment.
        """
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": self.owned_by,
            "name": self.name,
            "display_name": self.display_name,
            "providers": [_provider_json(provider, health) for provider in self.providers],
            "pricing": _pricing_json(self.price),
            "context_length": self.price.context_length,
            "architecture": {
                "input_modalities": list(self.input_modalities),
                "output_modalities": list(self.output_modalities),
            },
        }


class Catalogue:
    """All models on sale and the price list that belongs to them.

    `changes_at` is the unix second from which other prices of the same file hold, 0 when none do.
    """

    def __init__(
        self,
        models: Iterable[Model],
        *,
        version: str,
        fee_percent: Decimal = Decimal(0),
        rules: PriceRules = NO_RULES,
        changes_at: int = 0,
    ) -> None:
        """Raises `MisconfiguredError("invalid_catalogue")` when an id occurs twice or the version is malformed."""
        self.models = tuple(models)
        self.rules = rules
        self.changes_at = changes_at
        self._by_id = {model.id: model for model in self.models}
        self._direct = {
            provider.endpoint: replace(model, id=provider.endpoint, providers=(provider,), price=provider.price)
            for model in self.models
            for provider in model.providers
        }
        self._by_alias: dict[str, list[Model]] = {}
        for model in self.models:
            # An offer that is sold by its direct name alone has no other.
            others = set() if model.id in self._direct else {bare(model.id), *model.aliases} - {model.id}
            for alias in others:
                self._by_alias.setdefault(alias, []).append(model)
        for alias, found in self._by_alias.items():
            self._by_alias[alias] = [model for model in found if model.own] or found
        directly = [model.price for id, model in self._direct.items() if id not in self._by_id]
        try:
            self.prices = PriceList(version, (*(model.price for model in self.models), *directly), fee_percent)
        except MalformedError as error:
            raise MisconfiguredError(CODE, error.message) from error

    def restock(self, other: Catalogue) -> None:
        """Sell what another catalogue sells, from the next request on. What was quoted before keeps its price."""
        # One assignment: nobody who asks in between sees half of the one and half of the other.
        self.__dict__ = dict(other.__dict__)

    def price_list(self, model: Model) -> PriceList:
        """The list that prices a model as `resolve` or `Model.narrowed` gave it."""
        if self.prices.find(model.price.model) == model.price:
            return self.prices
        return PriceList(self.prices.version, (model.price,), self.prices.fee_percent)

    def resolve(self, name: str) -> Model:
        """The model that a request names, in any of the spellings of `model_name`.

        Raises `MalformedError("model_not_found")` with the nearest names, or `MalformedError("ambiguous_model")` with
        the candidates; both in `details["suggestions"]`.
        """
        # A provider's own name comes first: nobody else can call a model by it.
        exact = self._direct.get(name) or self._by_id.get(name)
        if exact is not None:
            return exact
        provider, rest = self._split(name)
        if provider:
            offers = [model for model in self._direct.values() if model.providers[0].id == provider]
            candidates = [model for model in offers if rest in _names(model)]
        else:
            candidates = self._by_alias.get(name, [])
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = [model.id for model in candidates]
            raise MalformedError(
                "ambiguous_model",
                f"{name[:80]!r} is the name of several models: {', '.join(names)}",
                details={"suggestions": names},
            )
        nearest = self._offers_near(provider, rest) if provider else self.suggestions(name)
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        raise MalformedError(
            "model_not_found", f"no model is called {name[:80]!r}{hint}", details={"suggestions": nearest}
        )

    def _split(self, name: str) -> tuple[str, str]:
        provider, rest = split_name(name)
        if not provider:
            # A provider of the price file may be called by any word; a tag such as `:free` belongs to the model.
            word, colon, after = name.partition(":")
            if colon and any(word == model.providers[0].id for model in self._direct.values()):
                return word, after
        return provider, rest

    def _offers_near(self, provider: str, rest: str) -> list[str]:
        """Up to three direct ids: the wanted model from others, else what the wanted provider has."""
        same = [id for id, model in self._direct.items() if rest in _names(model)]
        own = [id for id, model in self._direct.items() if model.providers[0].id == provider]
        near = difflib.get_close_matches(f"{provider}:{rest}"[:128], own, n=3, cutoff=0.5)
        return (same or near or own)[:3]

    def means(self, name: str) -> bool:
        """Whether a name means anything here, be it several models."""
        return name in self._by_id or name in self._direct or name in self._by_alias

    def suggestions(self, name: str) -> list[str]:
        """Up to three ids that look like `name`, the nearest first."""
        spellings = {model.id.lower(): model.id for model in self.models}
        spellings |= {bare(model.id).lower(): model.id for model in self.models}
        near = difflib.get_close_matches(name[:128].lower(), spellings, n=6, cutoff=0.5)
        return list(dict.fromkeys(spellings[spelling] for spelling in near))[:3]

    def listing(self, health: HealthOf | None = None) -> dict[str, Any]:
        """The body of `GET /models`."""
        return {"object": "list", "data": [model.as_json(health) for model in self.models]}


def _names(direct: Model) -> set[str]:
    """What may stand after `provider:` for one provider's offer."""
    own = direct.id.removeprefix(f"{direct.providers[0].id}:")
    return {own, bare(own), *direct.aliases}


def join(known: Model, other: Model) -> Model:
    """One model with the providers of both, priced so that each of them may serve.

    Raises `MisconfiguredError("invalid_catalogue")` when a provider is in both.
    """
    if other.providers[0].id in {provider.id for provider in known.providers}:
        raise MisconfiguredError(CODE, f"{known.id} is listed twice for the provider {other.providers[0].id}")
    ours, theirs = known.price, other.price
    price = replace(
        ours,
        prompt=_dearest(ours.prompt, theirs.prompt),
        completion=_dearest(ours.completion, theirs.completion),
        image=_dearest(ours.image, theirs.image),
        image_kinds=_dearest_kinds(ours, theirs),
        request=_dearest(ours.request, theirs.request),
        default_output_tokens=min(ours.default_output_tokens, theirs.default_output_tokens),
        max_output_tokens=_smallest(ours.max_output_tokens, theirs.max_output_tokens),
        context_length=_smallest(ours.context_length, theirs.context_length),
        tokenizer_factor=max(ours.tokenizer_factor, theirs.tokenizer_factor),
        image_tokens=max(ours.image_tokens, theirs.image_tokens),
    )
    return replace(known, providers=known.providers + other.providers, price=price)


def _dearest(one: Rate, other: Rate) -> Rate:
    return other if other.atomic > one.atomic else one


def _dearest_kinds(ours: ModelPrice, theirs: ModelPrice) -> tuple[tuple[str, Rate], ...]:
    """Images of every kind that both providers have a price for, each at the dearer one."""
    shared = []
    for name in dict.fromkeys(name for name, _ in (*ours.image_kinds, *theirs.image_kinds)):
        words = frozenset(name.split())
        with suppress(MalformedError):
            shared.append((name, _dearest(ours.image_rate(words), theirs.image_rate(words))))
    return tuple(shared)


def _smallest(one: int | None, other: int | None) -> int | None:
    return min(one, other) if one is not None and other is not None else one or other


def default_price(model: str, *, now: int) -> ModelPrice | None:
    """The public price of a well-known model (`name` or `vendor/name`) from the `genai-prices` package, or None.

    `now` is a unix second: some prices begin on a day. Where a price depends on the hour or on the prompt's length,
    the dearest is taken, so that it still covers its cost later. A price of zero is no default, nor is one without
    text output (image and audio models): an operator who gives something away says so. The context length stays
    unknown, because a bound must not rest on a public figure that the upstream may exceed.
    """
    from genai_prices.data_snapshot import get_snapshot

    vendor, slash, name = model.partition("/")
    for reference, provider in ((name, vendor), (model, None)) if slash else ((model, None),):
        try:
            _, known = get_snapshot().find_provider_model(reference, None, provider, None)
        except LookupError:
            continue
        day = [known.get_prices(datetime.fromtimestamp(now + step, UTC)) for step in range(0, 86_400, _QUARTER_HOUR)]
        if day[0].output_mtok is None and any(key.startswith("output_") for key in day[0].__dict__):
            return None
        price = ModelPrice(
            model=model,
            prompt=Rate(max(_dearest_step(rates.input_mtok) for rates in day), PriceUnit.PER_1M),
            completion=Rate(max(_dearest_step(rates.output_mtok) for rates in day), PriceUnit.PER_1M),
            request=Rate(
                max(_dearest_step(rates.requests_kcount) for rates in day).scaleb(-3, EXACT_CONTEXT), PriceUnit.EACH
            ),
        )
        return price if price.prompt.value or price.completion.value else None
    return None


def _dearest_step(price: Decimal | TieredPrices | None) -> Decimal:
    if price is None or isinstance(price, Decimal):
        return price or Decimal(0)
    return max(price.base, *(tier.price for tier in price.tiers))


def _provider_json(provider: Provider, health: HealthOf | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": provider.id, "name": provider.name, "pricing": _pricing_json(provider.price)}
    if provider.regions:
        entry["regions"] = list(provider.regions)
    return entry if health is None else entry | {"health": health(provider.endpoint)}


def _pricing_json(price: ModelPrice) -> dict[str, Any]:
    """USD per million tokens, and USD per image or request; `null` where a price is not asked."""
    return {
        "prompt": _plain(price.prompt.atomic),
        "completion": _plain(price.completion.atomic),
        "image": _plain(price.image.value) if price.image.value else None,
        "request": _plain(price.request.value) if price.request.value else None,
        **({"images": {kind: _plain(rate.value) for kind, rate in price.image_kinds}} if price.image_kinds else {}),
        "unit": PriceUnit.PER_1M,
    }


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"

"""The models on sale: what each costs, who serves it, how a request's name finds it, and the list for buyers.

Several providers of one model share its name: the name is priced at the dearest of each rate, so that any of them can
serve under the same quote, and `provider_id:name` buys from one of them at its own price.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from x402.errors import MalformedError, MisconfiguredError
from x402.money import EXACT_CONTEXT
from x402.price import ModelPrice, PriceList, PriceUnit, Rate

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices

CODE = "invalid_catalogue"
_QUARTER_HOUR = 900


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a provider's model answers: its own name for the model, its base URL, and the key to present."""

    model: str
    api_base: str
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Provider:
    """One seller of a model. `price.model` is the direct id `provider_id:name`."""

    id: str
    name: str
    price: ModelPrice
    upstream: Upstream | None = None


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

    def as_json(self) -> dict[str, Any]:
        """The entry of a model list, readable by OpenAI's clients and by AiMo's. Prices are strings, never floats."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": self.owned_by,
            "name": self.name,
            "display_name": self.display_name,
            "providers": [{"id": p.id, "name": p.name, "pricing": _pricing_json(p.price)} for p in self.providers],
            "pricing": _pricing_json(self.price),
            "context_length": self.price.context_length,
            "architecture": {
                "input_modalities": list(self.input_modalities),
                "output_modalities": list(self.output_modalities),
            },
        }


class Catalogue:
    """All models on sale and the price list that belongs to them."""

    def __init__(self, models: Iterable[Model], *, version: str, fee_percent: Decimal = Decimal(0)) -> None:
        """Raises `MisconfiguredError("invalid_catalogue")` when an id occurs twice or the version is malformed."""
        self.models = tuple(models)
        self._by_id = {model.id: model for model in self.models}
        self._direct = {
            provider.price.model: replace(model, id=provider.price.model, providers=(provider,), price=provider.price)
            for model in self.models
            for provider in model.providers
        }
        prices = [model.price for model in (*self.models, *self._direct.values())]
        try:
            self.prices = PriceList(version, tuple(prices), fee_percent)
        except MalformedError as error:
            raise MisconfiguredError(CODE, error.message) from error

    def resolve(self, name: str) -> Model:
        """The model that a request names: an id, `provider_id:name`, or a bare name without its `vendor/`.

        Raises `MalformedError("model_not_found")` with the nearest names, or `MalformedError("ambiguous_model")` with
        the candidates; both in `details["suggestions"]`.
        """
        exact = self._by_id.get(name) or self._direct.get(name)
        if exact is not None:
            return exact
        candidates = [model for model in self.models if model.id.rpartition("/")[2] == name]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = [model.id for model in candidates]
            raise MalformedError(
                "ambiguous_model",
                f"{name[:80]!r} is the name of several models: {', '.join(names)}",
                details={"suggestions": names},
            )
        nearest = self.suggestions(name)
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        raise MalformedError(
            "model_not_found", f"no model is called {name[:80]!r}{hint}", details={"suggestions": nearest}
        )

    def suggestions(self, name: str) -> list[str]:
        """Up to three ids that look like `name`, the nearest first."""
        spellings = {model.id.lower(): model.id for model in self.models}
        spellings |= {model.id.rpartition("/")[2].lower(): model.id for model in self.models}
        near = difflib.get_close_matches(name[:128].lower(), spellings, n=6, cutoff=0.5)
        return list(dict.fromkeys(spellings[spelling] for spelling in near))[:3]

    def listing(self) -> dict[str, Any]:
        """The body of `GET /models`."""
        return {"object": "list", "data": [model.as_json() for model in self.models]}


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

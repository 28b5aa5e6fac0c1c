"""What can be bought, and from whom: the list of models, one model, the list of providers (aimo rows 8, 72).

One entry has the members of OpenAI's model list and of AiMo's catalogue (aimo §2.5). A list is narrowed by its query:

    capability=chat|vision|embeddings|images    modality=text|image|…    provider=<id or name>    q=<part of a name>
    max_price=<US dollars, per million tokens or per image>    context=<least tokens>    free=true|false
    sort=price|context|name
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from x402.errors import MalformedError
from x402.gateway.api.profiles import MOUNTED, Profile
from x402.gateway.api.ratings import Ratings, rating_json
from x402.gateway.inference.abilities import CAPABILITIES, capabilities
from x402.gateway.inference.catalogue import Model, Provider
from x402.gateway.inference.ranges import out_of_range
from x402.gateway.inference.router import Router, servable
from x402.ports import Clock
from x402.ports.ratings import RatingSum
from x402.price import exact
from x402.wire.strict import dump_json

_DIGITS_LIMIT = 12


def add_listings(app: FastAPI, router: Router, clock: Clock) -> None:
    """Add `/models`, `/models/{id}`, `/providers` and `/ratings` to every profile."""
    ratings = Ratings(app, router, clock)
    for profile in MOUNTED:
        tag: list[Any] = [profile.name]
        app.add_api_route(f"{profile.base}/models", _models(profile, router, ratings), methods=["GET"], tags=tag)
        app.add_api_route(
            f"{profile.base}/models/{{model:path}}", _model(profile, router, ratings), methods=["GET"], tags=tag
        )
        app.add_api_route(f"{profile.base}/providers", _providers(profile, router), methods=["GET"], tags=tag)
        app.add_api_route(f"{profile.base}/ratings", ratings.rate, methods=["POST"], tags=tag, status_code=201)


def _models(profile: Profile, router: Router, ratings: Ratings) -> Any:
    async def list_models(request: Request) -> Response:
        """The models on sale, with prices in US dollars per million tokens, or per image or request."""
        rated = await ratings.of_models()
        chosen = select(router.catalogue.models, request.query_params)
        entries = [entry(model, router, rated) for model in chosen]
        return _reply(profile, request, {"object": "list", "data": entries})

    return list_models


def _model(profile: Profile, router: Router, ratings: Ratings) -> Any:
    async def show_model(request: Request) -> Response:
        """One model, by any of its names."""
        model = router.resolve(request.path_params["model"])
        return _reply(profile, request, entry(model, router, await ratings.of_models()))

    return show_model


def _providers(profile: Profile, router: Router) -> Any:
    async def list_providers(request: Request) -> Response:
        """Who serves the models, and which."""
        return _reply(profile, request, {"object": "list", "data": providers(router)})

    return list_providers


def entry(model: Model, router: Router, rated: Mapping[str, RatingSum]) -> dict[str, Any]:
    """One model of the list, with the health of its providers and its ratings. `available` says whether any provider
    answers now."""
    able = [provider for provider, _ in servable(model) if not router.health.is_out(provider.endpoint)]
    more = {"capabilities": list(capabilities(model)), "available": bool(able)}
    return model.as_json(router.health.of) | more | {"rating": rating_json(rated.get(model.name))}


def providers(router: Router) -> list[dict[str, Any]]:
    """Every provider once, in AiMo's shape, with what it serves and how it does.

    Its `status` is `active`, or `limited` while some of its models cannot be had from it.
    """
    found: dict[str, dict[str, Any]] = {}
    for model in router.catalogue.models:
        for provider in model.providers:
            known = found.setdefault(provider.id, _provider(provider))
            _add(known["regions"], provider.regions)
            _add(known["capabilities"], capabilities(model))
            known["models"].append({"id": model.id, "health": router.health.of(provider.endpoint)})
            if provider.upstream is None or router.health.is_out(provider.endpoint):
                known["status"] = "limited"
    return list(found.values())


def _provider(provider: Provider) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": provider.id, "object": "provider", "display_name": provider.name}
    return shown | {"regions": [], "capabilities": [], "status": "active", "models": []}


def _add(known: list[str], more: Iterable[str]) -> None:
    known += [one for one in more if one not in known]


def select(models: tuple[Model, ...], query: Mapping[str, str]) -> list[Model]:
    """The models that a query leaves, in its order. Raises `ApiProblem` 400 for a value that cannot be meant."""
    chosen = list(models)
    for name, rule in _FILTERS.items():
        value = query.get(name)
        if value is not None:
            keep = rule(name, value)
            chosen = [model for model in chosen if keep(model)]
    order = query.get("sort")
    if order is not None:
        if order not in _ORDERS:
            out_of_range("sort", f"one of {', '.join(_ORDERS)}")
        chosen.sort(key=_ORDERS[order])
    return chosen


def dearest(model: Model) -> Decimal:
    """The dearest rate of a model in US dollars, per million tokens or per image: what `max_price` bounds."""
    price = model.price
    kinds = (rate.value for _, rate in price.image_kinds)
    return max(price.prompt.atomic, price.completion.atomic, price.image.value, *kinds)


_Keep = Callable[[Model], bool]


def _capability(name: str, value: str) -> _Keep:
    if value not in CAPABILITIES:
        out_of_range(name, f"one of {', '.join(CAPABILITIES)}")
    return lambda model: value in capabilities(model)


def _modality(name: str, value: str) -> _Keep:
    return lambda model: value in (*model.input_modalities, *model.output_modalities)


def _max_price(name: str, value: str) -> _Keep:
    try:
        most = exact(value)
    except MalformedError:
        out_of_range(name, "a plain number of US dollars")
    return lambda model: dearest(model) <= most


def _free(name: str, value: str) -> _Keep:
    if value not in ("true", "false"):
        out_of_range(name, "true or false")
    return lambda model: model.price.free is (value == "true")


def _sold_by(name: str, value: str) -> _Keep:
    return lambda model: any(provider.is_called(value) for provider in model.providers)


def _context(name: str, value: str) -> _Keep:
    if not value.isascii() or not value.isdigit() or len(value) > _DIGITS_LIMIT:
        out_of_range(name, "a number of tokens")
    return lambda model: (model.price.context_length or 0) >= int(value)


def _search(name: str, value: str) -> _Keep:
    wanted = value.lower()
    return lambda model: wanted in model.id.lower() or wanted in model.display_name.lower()


_FILTERS: Mapping[str, Callable[[str, str], _Keep]] = {
    "capability": _capability,
    "modality": _modality,
    "max_price": _max_price,
    "free": _free,
    "provider": _sold_by,
    "context": _context,
    "q": _search,
}
_ORDERS: Mapping[str, Callable[[Model], Any]] = {
    "price": dearest,
    "context": lambda model: -(model.price.context_length or 0),
    "name": lambda model: model.id,
}


def _reply(profile: Profile, request: Request, body: dict[str, Any]) -> Response:
    if profile.wrapped:
        body = {"success": True, "data": body, "meta": {"request_id": request.state.request_id}}
    return Response(dump_json(body), media_type="application/json")

"""One entry of a price list: a model of one provider with its prices, its limits and its upstream."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from x402.errors import MalformedError, MisconfiguredError
from x402.gateway.inference.adapters import FORMATS
from x402.gateway.inference.catalogue import CODE, Model, Provider, Upstream, default_price
from x402.price import ModelPrice, PriceUnit, Rate

WEIGHT_LIMIT = 1000

_ENVIRONMENT = re.compile(r"std::env::([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_NO_ID = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)
_LIMIT_KEYS = frozenset(
    {"context_length", "max_output_tokens", "default_output_tokens", "tokenizer_factor", "image_tokens"}
)
_LABEL_KEYS = frozenset({"name", "display_name", "provider_name", "provider_id", "owned_by", "created", "aliases"})
_ROUTING_KEYS = frozenset({"regions", "weight"})
_MODALITY_KEYS = frozenset({"input_modalities", "output_modalities"})
_MODEL_KEYS = _LIMIT_KEYS | _LABEL_KEYS | _ROUTING_KEYS | _MODALITY_KEYS | {"pricing", "later", "params"}
_PRICING_KEYS = frozenset({"prompt", "completion", "image", "images", "request", "unit", "token"})
_ASKED_KEYS = frozenset({"prompt", "image", "images", "request"})
_PARAMS_KEYS = frozenset({"model", "api_base", "api_key", "format", "concurrency"})
_UNITS = {str(unit): unit for unit in (PriceUnit.PER_TOKEN, PriceUnit.PER_1K, PriceUnit.PER_1M, PriceUnit.USDC_9)}


def model_of(entry: Any, where: str, environment: Mapping[str, str], now: int) -> Model:
    """One model of one provider. Raises `MisconfiguredError("invalid_catalogue")`, `MalformedError` or `TypeError`."""
    if not isinstance(entry, dict):
        raise MisconfiguredError(CODE, f"{where} is not a table")
    known_keys(where, entry, _MODEL_KEYS)
    name = text(entry, "name", where)
    upstream = _upstream(entry.get("params"), name, where, environment)
    provider_name = text(entry, "provider_name", where, name.partition("/")[0] if "/" in name else "local")
    provider_id = text(entry, "provider_id", where, _NO_ID.sub("-", provider_name).strip("-").lower())
    if _ID.fullmatch(provider_id) is None:
        raise MisconfiguredError(CODE, f"{where}: provider_id is 1 to 64 letters, digits, dots, dashes or underscores")
    price = _price(entry, name, upstream.model if upstream else name, where, now)
    weight = entry.get("weight", 1)
    if type(weight) is not int or not 0 <= weight <= WEIGHT_LIMIT:
        raise MisconfiguredError(CODE, f"{where}: weight is a whole number from 0 to {WEIGHT_LIMIT}")
    regions = tuple(region.lower() for region in texts(entry, "regions", where, []))
    created = entry.get("created", 0)
    if type(created) is not int or created < 0:
        raise MisconfiguredError(CODE, f"{where}: created is a unix second")
    return Model(
        id=name,
        name=name,
        display_name=text(entry, "display_name", where, name),
        providers=(
            Provider(
                provider_id, provider_name, replace(price, model=f"{provider_id}:{name}"), upstream, regions, weight
            ),
        ),
        price=price,
        owned_by=text(entry, "owned_by", where, provider_name),
        created=created,
        input_modalities=texts(entry, "input_modalities", where),
        output_modalities=texts(entry, "output_modalities", where),
        aliases=texts(entry, "aliases", where, []),
    )


def _price(entry: Mapping[str, Any], name: str, upstream_model: str, where: str, now: int) -> ModelPrice:
    pricing = _in_force(entry, where, now)
    if pricing is None:
        price = default_price(upstream_model, now=now) or default_price(name, now=now)
        if price is None:
            raise MisconfiguredError(CODE, f"{where}: {name} has no [models.pricing], and no default price is known")
        price = replace(price, model=name)
    else:
        price = _stated_price(pricing, name, where)
    return replace(price, **{key: entry[key] for key in _LIMIT_KEYS if key in entry})


def _in_force(entry: Mapping[str, Any], where: str, now: int) -> Any:
    """The newest of the prices that hold: `pricing`, or one of `later` whose day has come (aimo row 80)."""
    dated = [table for table in later_prices(entry, where) if table[0] <= now]
    return max(dated, key=lambda table: table[0])[1] if dated else entry.get("pricing")


def later_prices(entry: Mapping[str, Any], where: str) -> list[tuple[int, dict[str, Any]]]:
    """The prices of an entry that hold from a day on, each with its unix second."""
    tables = entry.get("later", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise MisconfiguredError(CODE, f"{where}: write later prices as [[models.later]]")
    if tables and "pricing" not in entry:
        raise MisconfiguredError(CODE, f"{where}: later prices need [models.pricing] for the time before them")
    dated = []
    for table in tables:
        since = table.get("since")
        if not isinstance(since, datetime) or since.tzinfo is None:
            raise MisconfiguredError(CODE, f"{where}: since is a time with its zone, such as 2026-01-01T00:00:00Z")
        dated.append((int(since.timestamp()), {key: value for key, value in table.items() if key != "since"}))
    return dated


def _stated_price(pricing: Any, name: str, where: str) -> ModelPrice:
    if not isinstance(pricing, dict):
        raise MisconfiguredError(CODE, f"{where}: [models.pricing] is not a table")
    known_keys(f"{where} pricing", pricing, _PRICING_KEYS)
    spelling = str(pricing.get("unit", pricing.get("token", PriceUnit.PER_1M))).lower()
    unit = _UNITS.get(spelling)
    if unit is None or ("unit" in pricing and "token" in pricing):
        raise MisconfiguredError(CODE, f"{where}: the unit of a price is one of {', '.join(_UNITS)}, named once")
    if ("prompt" in pricing) != ("completion" in pricing) or not pricing.keys() & _ASKED_KEYS:
        raise MisconfiguredError(
            CODE, f"{where}: state prompt and completion together (0 means free), or an image or request price"
        )
    return ModelPrice(
        model=name,
        prompt=rate(pricing.get("prompt", 0), unit, f"{where} prompt"),
        completion=rate(pricing.get("completion", 0), unit, f"{where} completion"),
        image=rate(pricing.get("image", 0), PriceUnit.EACH, f"{where} image"),
        image_kinds=_image_kinds(pricing.get("images", {}), where),
        request=rate(pricing.get("request", 0), PriceUnit.EACH, f"{where} request"),
    )


def _image_kinds(kinds: Any, where: str) -> tuple[tuple[str, Rate], ...]:
    """Prices of images to be made: `images = { "1024x1024" = 0.04, "hd 1024x1792" = 0.12 }`."""
    if not isinstance(kinds, dict) or not all(kind.split() for kind in kinds):
        raise MisconfiguredError(CODE, f'{where}: images is a table such as {{ "hd 1024x1024" = 0.08 }}')
    return tuple((kind, rate(price, PriceUnit.EACH, f"{where} images {kind}")) for kind, price in kinds.items())


def _upstream(params: Any, name: str, where: str, environment: Mapping[str, str]) -> Upstream | None:
    if params is None:
        return None
    if not isinstance(params, dict):
        raise MisconfiguredError(CODE, f"{where}: [models.params] is not a table")
    known_keys(f"{where} params", params, _PARAMS_KEYS)
    key = text(params, "api_key", where, "")
    if key:
        variable = _ENVIRONMENT.fullmatch(key)
        if variable is None:
            raise MisconfiguredError(
                CODE, f'{where}: write api_key = "std::env::NAME"; a key does not belong in a file'
            )
        key = environment.get(variable[1], "")
        if not key:
            raise MisconfiguredError(CODE, f"{where}: the environment variable {variable[1]} is not set")
    spoken = text(params, "format", where, "openai")
    if spoken not in FORMATS:
        raise MisconfiguredError(CODE, f"{where}: format is one of {', '.join(FORMATS)}")
    places = params.get("concurrency")
    if places is not None and (type(places) is not int or places < 1):
        raise MisconfiguredError(CODE, f"{where}: concurrency is a whole number of at least 1")
    return Upstream(text(params, "model", where, name), text(params, "api_base", where), key, spoken, places)


def rate(value: Any, unit: PriceUnit, name: str) -> Rate:
    """A number with its unit. Raises `MisconfiguredError`."""
    try:
        return Rate.of(value, unit)
    except (MalformedError, TypeError) as error:
        raise MisconfiguredError(CODE, f"{name}: {error}") from error


def text(table: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    """A text of an entry, required without a default. Raises `MisconfiguredError`."""
    value = table.get(key, default)
    if not isinstance(value, str) or (not value and default is None):
        raise MisconfiguredError(CODE, f"{where}: {key} is a text, and required")
    return value


def texts(table: Mapping[str, Any], key: str, where: str, default: Sequence[str] = ("text",)) -> tuple[str, ...]:
    """The texts of an entry. Raises `MisconfiguredError`."""
    value = table.get(key, list(default))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MisconfiguredError(CODE, f"{where}: {key} is a list of texts")
    return tuple(value)


def known_keys(where: str, table: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise `MisconfiguredError` for a key that means nothing, with the one that may have been meant."""
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise MisconfiguredError(CODE, f"{where}: unknown key {key}{hint}")

"""The operator's price list: a TOML text with the models on sale, read into a `Catalogue`.

It has the shape of AiMo's provider settings (aimo §2.9):

    version = "2025-11-20"
    fee_percent = 3
    [[models]]
    name = "deepseek-chat-v3"
    context_length = 65536
    [models.pricing]                    # left out: the public default price of a well-known model
    unit = "per_1m"                     # or per_token, per_1k, usdc_9
    prompt = 0.27
    completion = 1.10
    [models.params]
    model = "deepseek-chat"
    api_base = "https://api.example.com/v1"
    api_key = "std::env::EXAMPLE_KEY"

An unknown key is refused, because a misspelt `completion` would sell answers for nothing. A list without a version is
named by the digest of its text.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from x402.config_file import TABLES
from x402.errors import MalformedError, MisconfiguredError
from x402.gateway.inference.catalogue import CODE, Catalogue, Model, Provider, Upstream, default_price, join
from x402.price import ModelPrice, PriceUnit, Rate

_ENVIRONMENT = re.compile(r"std::env::([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_NO_ID = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)
_TOP_KEYS = frozenset({"version", "fee_percent", "models", "router"})
_LIMIT_KEYS = frozenset(
    {"context_length", "max_output_tokens", "default_output_tokens", "tokenizer_factor", "image_tokens"}
)
_LABEL_KEYS = frozenset({"name", "display_name", "provider_name", "provider_id", "owned_by", "created"})
_MODEL_KEYS = _LIMIT_KEYS | _LABEL_KEYS | {"input_modalities", "output_modalities", "pricing", "params"}
_PRICING_KEYS = frozenset({"prompt", "completion", "image", "images", "request", "unit", "token"})
_PARAMS_KEYS = frozenset({"model", "api_base", "api_key"})
_UNITS = {str(unit): unit for unit in (PriceUnit.PER_TOKEN, PriceUnit.PER_1K, PriceUnit.PER_1M, PriceUnit.USDC_9)}


def read_catalogue(text: str, *, environment: Mapping[str, str], now: int) -> Catalogue:
    """The catalogue in a TOML text. `now` (unix seconds) picks among default prices that change with time.

    API keys are never in the file: `api_key = "std::env::NAME"` takes `NAME` from `environment`. Raises
    `MisconfiguredError("invalid_catalogue")` that says which entry is wrong and why.
    """
    try:
        # Decimal straight from the digits: `prompt = 0.15` never is a float.
        content = tomllib.loads(text, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise MisconfiguredError(CODE, f"the price list is not TOML: {error}") from error
    _known_keys("the price list", content, _TOP_KEYS | TABLES.keys())
    entries = content.get("models", [])
    if not isinstance(entries, list) or not entries:
        raise MisconfiguredError(CODE, "the price list has no [[models]]")
    models: dict[str, Model] = {}
    for number, entry in enumerate(entries, 1):
        where = f"[[models]] number {number}"
        try:
            model = _model(entry, where, environment, now)
        except (MalformedError, TypeError) as error:
            raise MisconfiguredError(CODE, f"{where}: {error}") from error
        known = models.get(model.id)
        models[model.id] = join(known, model) if known else model
    fee = _rate(content.get("fee_percent", 0), PriceUnit.PERCENT, "fee_percent")
    version = _text(content, "version", "the price list", hashlib.sha256(text.encode()).hexdigest()[:12])
    return Catalogue(models.values(), version=version, fee_percent=fee.value)


def _model(entry: Any, where: str, environment: Mapping[str, str], now: int) -> Model:
    if not isinstance(entry, dict):
        raise MisconfiguredError(CODE, f"{where} is not a table")
    _known_keys(where, entry, _MODEL_KEYS)
    name = _text(entry, "name", where)
    upstream = _upstream(entry.get("params"), name, where, environment)
    provider_name = _text(entry, "provider_name", where, name.partition("/")[0] if "/" in name else "local")
    provider_id = _text(entry, "provider_id", where, _NO_ID.sub("-", provider_name).strip("-").lower())
    price = _price(entry, name, upstream.model if upstream else name, where, now)
    created = entry.get("created", 0)
    if type(created) is not int or created < 0:
        raise MisconfiguredError(CODE, f"{where}: created is a unix second")
    return Model(
        id=name,
        name=name,
        display_name=_text(entry, "display_name", where, name),
        providers=(Provider(provider_id, provider_name, replace(price, model=f"{provider_id}:{name}"), upstream),),
        price=price,
        owned_by=_text(entry, "owned_by", where, provider_name),
        created=created,
        input_modalities=_texts(entry, "input_modalities", where),
        output_modalities=_texts(entry, "output_modalities", where),
    )


def _price(entry: Mapping[str, Any], name: str, upstream_model: str, where: str, now: int) -> ModelPrice:
    pricing = entry.get("pricing")
    if pricing is None:
        price = default_price(upstream_model, now=now) or default_price(name, now=now)
        if price is None:
            raise MisconfiguredError(CODE, f"{where}: {name} has no [models.pricing], and no default price is known")
        price = replace(price, model=name)
    else:
        price = _stated_price(pricing, name, where)
    return replace(price, **{key: entry[key] for key in _LIMIT_KEYS if key in entry})


def _stated_price(pricing: Any, name: str, where: str) -> ModelPrice:
    if not isinstance(pricing, dict):
        raise MisconfiguredError(CODE, f"{where}: [models.pricing] is not a table")
    _known_keys(f"{where} pricing", pricing, _PRICING_KEYS)
    spelling = str(pricing.get("unit", pricing.get("token", PriceUnit.PER_1M))).lower()
    unit = _UNITS.get(spelling)
    if unit is None or ("unit" in pricing and "token" in pricing):
        raise MisconfiguredError(CODE, f"{where}: the unit of a price is one of {', '.join(_UNITS)}, named once")
    if ("prompt" in pricing) != ("completion" in pricing) or not pricing.keys() & {
        "prompt",
        "image",
        "images",
        "request",
    }:
        raise MisconfiguredError(
            CODE, f"{where}: state prompt and completion together (0 means free), or an image or request price"
        )
    return ModelPrice(
        model=name,
        prompt=_rate(pricing.get("prompt", 0), unit, f"{where} prompt"),
        completion=_rate(pricing.get("completion", 0), unit, f"{where} completion"),
        image=_rate(pricing.get("image", 0), PriceUnit.EACH, f"{where} image"),
        image_kinds=_image_kinds(pricing.get("images", {}), where),
        request=_rate(pricing.get("request", 0), PriceUnit.EACH, f"{where} request"),
    )


def _image_kinds(kinds: Any, where: str) -> tuple[tuple[str, Rate], ...]:
    """Prices of images to be made: `images = { "1024x1024" = 0.04, "hd 1024x1792" = 0.12 }`."""
    if not isinstance(kinds, dict) or not all(kind.split() for kind in kinds):
        raise MisconfiguredError(CODE, f'{where}: images is a table such as {{ "hd 1024x1024" = 0.08 }}')
    return tuple((kind, _rate(price, PriceUnit.EACH, f"{where} images {kind}")) for kind, price in kinds.items())


def _upstream(params: Any, name: str, where: str, environment: Mapping[str, str]) -> Upstream | None:
    if params is None:
        return None
    if not isinstance(params, dict):
        raise MisconfiguredError(CODE, f"{where}: [models.params] is not a table")
    _known_keys(f"{where} params", params, _PARAMS_KEYS)
    key = _text(params, "api_key", where, "")
    if key:
        variable = _ENVIRONMENT.fullmatch(key)
        if variable is None:
            raise MisconfiguredError(
                CODE, f'{where}: write api_key = "std::env::NAME"; a key does not belong in a file'
            )
        key = environment.get(variable[1], "")
        if not key:
            raise MisconfiguredError(CODE, f"{where}: the environment variable {variable[1]} is not set")
    return Upstream(_text(params, "model", where, name), _text(params, "api_base", where), key)


def _rate(value: Any, unit: PriceUnit, name: str) -> Rate:
    try:
        return Rate.of(value, unit)
    except (MalformedError, TypeError) as error:
        raise MisconfiguredError(CODE, f"{name}: {error}") from error


def _text(table: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str) or (not value and default is None):
        raise MisconfiguredError(CODE, f"{where}: {key} is a text, and required")
    return value


def _texts(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key, ["text"])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MisconfiguredError(CODE, f"{where}: {key} is a list of texts")
    return tuple(value)


def _known_keys(where: str, table: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise MisconfiguredError(CODE, f"{where}: unknown key {key}{hint}")

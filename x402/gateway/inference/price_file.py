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
    format = "anthropic"                # the API that it speaks; openai when left out
    concurrency = 8                     # requests at once; any number when left out

A model may also state `regions`, `weight`, `aliases`, and prices that hold from a day on: `[[models.later]]`, `since`.

An unknown key is refused, because a misspelt `completion` would sell answers for nothing. A list without a version is
named by the digest of its text.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any

from x402.config_file import TABLES
from x402.errors import MalformedError, MisconfiguredError
from x402.gateway.inference.catalogue import CODE, Catalogue, Model, join
from x402.gateway.inference.price_entry import known_keys, later_prices, model_of, rate
from x402.gateway.inference.price_entry import text as text_of
from x402.gateway.inference.price_rules import PriceRules
from x402.price import PriceUnit

_RULE_KEYS = frozenset(rule.name for rule in fields(PriceRules))
_TOP_KEYS = frozenset({"version", "fee_percent", "models", "router"}) | _RULE_KEYS


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
    known_keys("the price list", content, _TOP_KEYS | TABLES.keys())
    entries = content.get("models", [])
    if not isinstance(entries, list) or not entries:
        raise MisconfiguredError(CODE, "the price list has no [[models]]")
    models: dict[str, Model] = {}
    for number, entry in enumerate(entries, 1):
        where = f"[[models]] number {number}"
        try:
            model = model_of(entry, where, environment, now)
        except (MalformedError, TypeError) as error:
            raise MisconfiguredError(CODE, f"{where}: {error}") from error
        known = models.get(model.id)
        models[model.id] = join(known, model) if known else model
    fee = rate(content.get("fee_percent", 0), PriceUnit.PERCENT, "fee_percent")
    rules = {name: rate(content[name], PriceUnit.PERCENT, name).value for name in _RULE_KEYS if name in content}
    stated = text_of(content, "version", "the price list", hashlib.sha256(text.encode()).hexdigest()[:12])
    version, changes_at = _dated(stated, entries, now)
    return Catalogue(
        models.values(), version=version, fee_percent=fee.value, rules=PriceRules(**rules), changes_at=changes_at
    )


def _dated(version: str, entries: Sequence[Any], now: int) -> tuple[str, int]:
    """The name of the prices that hold now, and the unix second at which others will, 0 when none will."""
    times = [since for entry in entries for since, _ in later_prices(entry, "the price list")]
    begun = [since for since in times if since <= now]
    # Other prices are another list: a quote says under which it was made.
    return (f"{version[:20]}+{max(begun)}" if begun else version), min((t for t in times if t > now), default=0)

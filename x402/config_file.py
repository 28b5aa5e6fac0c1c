"""One TOML file for a gateway: the tables below, and the price list's own beside them (aimo §2.9).

Every entry is one of the settings, under a name that reads well in its table; the environment wins over the file. Keys
are never in it: `"std::env::NAME"` takes one from the environment. A name that means nothing is refused, because a
misspelt limit is no limit.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from x402.errors import MisconfiguredError

CODE = "invalid_config"
TABLES: Mapping[str, Mapping[str, str]] = {
    "gateway": {
        "public_url": "public_url", "host": "host", "port": "port", "ledger": "ledger", "mainnet": "mainnet",
        "quote_key": "quote_key", "answer_key": "answer_key", "max_timeout_seconds": "max_timeout_seconds",
        "traces": "traces", "schemes": "scheme_names", "pay_ahead_seconds": "pay_ahead_seconds",
        "hash_proof": "hash_proof", "hash_proof_seconds": "hash_proof_seconds",
        "body_limit": "body_limit", "workers": "workers",
    },
    "pay_to": {
        "evm": "evm_pay_to", "svm": "svm_pay_to", "evm_network": "evm_network", "svm_network": "svm_network",
    },
    "facilitator": {"urls": "facilitator_url", "api_keys": "facilitator_api_key"},
    "nodes": {
        "evm": "evm_rpc_url", "svm": "svm_rpc_url", "check_above": "check_above", "check_percent": "check_percent",
        "evm_confirmations": "evm_confirmations", "svm_confirmations": "svm_confirmations",
    },
    "risk": {
        "max_unsettled": "max_unsettled", "refund_after_seconds": "refund_after_seconds",
        "refund_per_day": "refund_per_day", "refund_evm_private_key": "refund_evm_private_key",
        "refund_svm_private_key": "refund_svm_private_key",
    },
    "accounts": {
        "open": "accounts", "sign_in_max_seconds": "sign_in_max_seconds", "deposit_max": "deposit_max",
        "discounts": "discounts", "deposit_bonus": "deposit_bonus", "withdraw_per_day": "withdraw_per_day",
        "withdraw_min": "withdraw_min",
    },
    "routing": {
        "hedge_percent": "hedge_percent", "cache_seconds": "cache_seconds", "cache_shared": "cache_shared",
    },
    "providers": {
        "admission": "provider_admission", "hosts": "provider_hosts", "bonus_percent": "bonus_percent",
        "payout_after_seconds": "payout_after_seconds", "payout_min": "payout_min",
        "payout_per_day": "payout_per_day",
    },
    "limits": {
        "tiers": "tiers", "open_quotes": "open_quotes", "quotes_per_hour": "quotes_per_hour", "exempt": "rate_exempt",
        "trusted_proxies": "trusted_proxies", "store": "rate_store",
    },
    "webhook": {"url": "webhook_url", "secret": "webhook_secret"},
    "operators": {"wallets": "operators", "session_seconds": "operator_session_seconds"},
    "keys": {"accept_aimo": "accept_aimo_keys"},
    "retention": {
        "zero": "zero_retention", "answer_seconds": "answer_retention_seconds", "tag_days": "tag_retention_days",
        "delivery_days": "delivery_retention_days",
    },
}  # fmt: skip
"""From a table's entries to the settings' field names."""
PRICES = frozenset(
    {"version", "fee_percent", "models", "router"}
    | {"priority_percent", "flex_discount_percent", "batch_discount_percent", "cache_discount_percent"}
)
"""What belongs to the price list, which may stand in the same file."""

_ENVIRONMENT = re.compile(r"std::env::([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_SECRETS = frozenset(
    {
        "quote_key",
        "answer_key",
        "facilitator_api_key",
        "webhook_secret",
        "refund_evm_private_key",
        "refund_svm_private_key",
    }
)


def read_config(text: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Settings by field name, as far as the file states them.

    Raises `MisconfiguredError("invalid_config")` that says which entry is wrong, and which name was perhaps meant.
    """
    try:
        content = tomllib.loads(text, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise MisconfiguredError(CODE, f"the file is not TOML: {error}") from None
    _known("the file", content, TABLES.keys() | PRICES)
    stated: dict[str, Any] = {}
    for table, names in TABLES.items():
        entries = content.get(table, {})
        if not isinstance(entries, dict):
            raise MisconfiguredError(CODE, f"[{table}] is a table")
        _known(f"[{table}]", entries, names.keys())
        for name, value in entries.items():
            stated[names[name]] = _plain(value, f"[{table}] {name}", names[name], environment)
    return stated


def has_prices(text: str) -> bool:
    """Whether the file holds a price list as well."""
    return bool(tomllib.loads(text).get("models"))


def _known(where: str, content: Mapping[str, Any], names: Any) -> None:
    for name in content:
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), 1)
            meant = f": did you mean {near[0]}?" if near else f"; it knows {', '.join(sorted(names))}"
            raise MisconfiguredError(CODE, f"{where} has {name!r}, which means nothing{meant}")


def _plain(value: Any, where: str, field: str, environment: Mapping[str, str]) -> Any:
    """A value as the environment would state it: lists by commas, tables as name=value."""
    if isinstance(value, str) and (variable := _ENVIRONMENT.fullmatch(value)):
        if not environment.get(variable[1]):
            raise MisconfiguredError(CODE, f"{where}: the environment variable {variable[1]} is not set")
        return environment[variable[1]]
    if field in _SECRETS and value:
        raise MisconfiguredError(CODE, f'{where}: write "std::env::NAME"; a secret does not belong in a file')
    if isinstance(value, list):
        return ",".join(str(_plain(one, where, "", environment)) for one in value)
    if isinstance(value, dict):
        return ",".join(f"{name}={one}" for name, one in value.items())
    return value

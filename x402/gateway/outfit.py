"""From settings to what a gateway sells and how it takes money. Contradictions stop it here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from x402 import networks
from x402.confirmation import parse_confirmations
from x402.errors import MisconfiguredError
from x402.gateway.accounts.promotions import Promotions, parse_steps
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.price_file import read_catalogue
from x402.gateway.nodes import open_nodes
from x402.gateway.policy import Policy
from x402.gateway.purse import Purse
from x402.settings import GatewaySettings, secret

_UPSTREAM_KEY = "X402_UPSTREAM_API_KEY"


def catalogue_of(settings: GatewaySettings, *, environment: Mapping[str, str], now: int) -> Catalogue:
    """The models on sale: the price file, or `models` of one upstream at their list prices.

    `environment` is where the price file's keys are. Raises `MisconfiguredError` that says which setting is missing.
    """
    environment = {**environment, _UPSTREAM_KEY: secret(settings.upstream_api_key)}
    if settings.price_file is not None:
        try:
            text = settings.price_file.read_text()
        except OSError as error:
            raise MisconfiguredError("no_price_file", f"{settings.price_file}: {error.strerror}") from error
        return read_catalogue(text, environment=environment, now=now)
    if not settings.upstream_url or not settings.models:
        raise MisconfiguredError(
            "no_upstream", "set X402_PRICES to a price file, or X402_UPSTREAM_URL and X402_MODELS to sell one upstream"
        )
    key = f'api_key = "std::env::{_UPSTREAM_KEY}"\n' if environment[_UPSTREAM_KEY] else ""
    entries = [
        f'[[models]]\nname = "{name}"\n[models.params]\nmodel = "{name}"\napi_base = "{settings.upstream_url}"\n{key}'
        for name in settings.models
    ]
    return read_catalogue("\n".join(entries), environment=environment, now=now)


def till_options(settings: GatewaySettings, receivers: Mapping[str, str]) -> dict[str, Any]:
    """How the paywall is to take money, as far as settings alone say so."""
    sold_on = {networks.to_caip2(name) for name in receivers}
    urls = {name: url for name, url in settings.rpc_urls.items() if networks.to_caip2(name) in sold_on}
    return {
        "facilitator_api_key": secret(settings.facilitator_api_key),
        "max_timeout_seconds": settings.max_timeout_seconds,
        "schemes": settings.schemes,
        "pay_ahead_seconds": settings.pay_ahead_seconds,
        "body_limit": settings.body_limit,
        "quote_keys": settings.quote_keys,
        "answer_keys": settings.answer_keys,
        "policy": _policy(settings),
        "nodes": open_nodes(urls),
        "purse": _purse(settings),
        "accounts": settings.accounts,
    }


def _policy(settings: GatewaySettings) -> Policy:
    return Policy(
        answer_retention_seconds=0 if settings.zero_retention else settings.answer_retention_seconds,
        confirmations={
            networks.EIP155: parse_confirmations(settings.evm_confirmations),
            networks.SOLANA: parse_confirmations(settings.svm_confirmations),
        },
        check_above=settings.check_above,
        check_percent=settings.check_percent,
        max_unsettled=settings.max_unsettled,
        refund_after_seconds=settings.refund_after_seconds,
        refund_per_day=settings.refund_per_day,
        withdraw_per_day=settings.withdraw_per_day,
        withdraw_min=settings.withdraw_min,
        deposit_max=settings.deposit_max,
        sign_in_max_seconds=settings.sign_in_max_seconds,
        hash_proof_seconds=settings.hash_proof_seconds if settings.hash_proof else 0,
        promotions=Promotions(
            discounts=parse_steps(settings.discounts, "X402_DISCOUNTS"),
            bonuses=parse_steps(settings.deposit_bonus, "X402_DEPOSIT_BONUS"),
        ),
    )


def _purse(settings: GatewaySettings) -> Purse | None:
    evm, svm = secret(settings.refund_evm_private_key), secret(settings.refund_svm_private_key)
    return Purse(evm=evm, svm=svm) if evm or svm else None


def refuse_mainnet(receivers: Mapping[str, str]) -> None:
    """Raise `MisconfiguredError` when an address is on a network that carries real money (design promise 8)."""
    real = [name for name in receivers if (known := networks.find(name)) is not None and not known.testnet]
    if real:
        raise MisconfiguredError(
            "mainnet_refused", f"{', '.join(real)} carries real money: set X402_MAINNET=1 (or --mainnet) if you mean it"
        )

"""X402 payment and settlement engine: pay for one HTTP answer at a time, in USDC, on Base or Solana.

The public names are loaded when they are first used, so that `import x402` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from x402.client.aimo import AimoClient, AimoError, AsyncAimoClient
    from x402.client.auth import X402Auth
    from x402.client.budget import Limits
    from x402.client.chat import AsyncChat, Chat
    from x402.client.wallet import Wallet
    from x402.errors import (
        ApiError,
        ConflictError,
        DeclinedError,
        MalformedError,
        MisconfiguredError,
        PendingError,
        RefusedError,
        UnavailableError,
        UnpaidError,
        X402Error,
    )
    from x402.gateway.paywall import Paywall
    from x402.money import Amount, Asset
    from x402.networks import Network
    from x402.quote import Quote
    from x402.wire.challenge import Challenge, Requirement
    from x402.wire.payment import Payment
    from x402.wire.receipt import Receipt

__version__ = "0.1.0"

_HOMES = {
    "AimoClient": "client.aimo",
    "AimoError": "client.aimo",
    "Amount": "money",
    "ApiError": "errors",
    "Asset": "money",
    "AsyncAimoClient": "client.aimo",
    "AsyncChat": "client.chat",
    "Challenge": "wire.challenge",
    "Chat": "client.chat",
    "ConflictError": "errors",
    "DeclinedError": "errors",
    "Limits": "client.budget",
    "MalformedError": "errors",
    "MisconfiguredError": "errors",
    "Network": "networks",
    "Payment": "wire.payment",
    "Paywall": "gateway.paywall",
    "PendingError": "errors",
    "Quote": "quote",
    "Receipt": "wire.receipt",
    "RefusedError": "errors",
    "Requirement": "wire.challenge",
    "UnavailableError": "errors",
    "UnpaidError": "errors",
    "Wallet": "client.wallet",
    "X402Auth": "client.auth",
    "X402Error": "errors",
}

__all__ = [
    "AimoClient",
    "AimoError",
    "Amount",
    "ApiError",
    "Asset",
    "AsyncAimoClient",
    "AsyncChat",
    "Challenge",
    "Chat",
    "ConflictError",
    "DeclinedError",
    "Limits",
    "MalformedError",
    "MisconfiguredError",
    "Network",
    "Payment",
    "Paywall",
    "PendingError",
    "Quote",
    "Receipt",
    "RefusedError",
    "Requirement",
    "UnavailableError",
    "UnpaidError",
    "Wallet",
    "X402Auth",
    "X402Error",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""What the operator of a gateway decides beside prices: limits, webhooks, dashboard, retention; and his TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import EnvSettingsSource

from x402.config_file import has_prices, read_config
from x402.environment import Settings, named
from x402.errors import MisconfiguredError


class OperatorSettings(Settings):
    """Who may ask a gateway how often, who is told, who may look, and how long what is kept. Times in seconds or days.

    The page docs/operating.md says what each is for.
    """

    trusted_proxies: str = Field("", validation_alias=named("X402_TRUSTED_PROXIES"))
    """Networks of proxies whose `X-Forwarded-For` is believed, separated by commas."""
    rate_store: str = Field("memory://", repr=False, validation_alias=named("X402_RATE_STORE"))
    """Where requests are counted: `memory://`, or `redis://host:port` when replicas share."""
    tiers: str = Field("free=100,pro=1000,enterprise=0", validation_alias=named("X402_TIERS"))
    """Requests a minute by tier, 0 for any number; `free` is for everybody without one (aimo row 57)."""
    rate_exempt: str = Field("127.0.0.0/8,::1", validation_alias=named("X402_RATE_EXEMPT"))
    """Networks that are not counted; a key is counted wherever it comes from."""
    open_quotes: int = Field(10, ge=0, validation_alias=named("X402_OPEN_QUOTES"))
    """Quotes that one address may leave unpaid at once, 0 for any number (aimo row 58)."""
    quotes_per_hour: int = Field(100, ge=0, validation_alias=named("X402_QUOTES_PER_HOUR"))
    accept_aimo_keys: bool = Field(False, validation_alias=named("X402_ACCEPT_AIMO_KEYS"))
    """Accept keys of AiMo's own signed layout, which are good at every node that does."""

    webhook_url: str = Field("", repr=False, validation_alias=named("X402_WEBHOOK_URL"))
    """Where the operator is told of every change of a payment."""
    webhook_secret: SecretStr | None = Field(None, validation_alias=named("X402_WEBHOOK_SECRET"))
    """`whsec_` and base64: signs what is sent there."""
    operators: str = Field("", validation_alias=named("X402_OPERATORS"))
    """Wallet addresses that may look at the dashboard, separated by commas; nobody unless named."""
    operator_session_seconds: int = Field(
        1800, ge=60, le=86_400, validation_alias=named("X402_OPERATOR_SESSION_SECONDS")
    )

    zero_retention: bool = Field(False, validation_alias=named("X402_ZERO_RETENTION"))
    """Keep nothing of a request or an answer longer than it takes to deliver it."""
    tag_retention_days: int = Field(90, ge=0, validation_alias=named("X402_TAG_RETENTION_DAYS"))
    """How long a bill keeps the request's `metadata`, `user` and request id."""
    delivery_retention_days: int = Field(30, ge=0, validation_alias=named("X402_DELIVERY_RETENTION_DAYS"))
    """How long a webhook's deliveries are kept once they have ended."""
    traces: bool = Field(False, validation_alias=named("X402_TRACES"))
    """Send OpenTelemetry traces, to where the variables OTEL_* say."""


class ConfigFile(Settings):
    """Where a gateway's TOML file is (see `config_file`)."""

    config: Path | None = Field(None, validation_alias=named("X402_CONFIG"))

    @classmethod
    def read(cls, **overrides: Any) -> Self:
        """As `Settings.read`, with what the file `config` (`X402_CONFIG`) states where the environment says nothing.

        Raises `MisconfiguredError("invalid_config")` for a file that can't be read.
        """
        place = overrides.get("config") or ConfigFile.read().config
        if place is None:
            return super().read(**overrides)
        try:
            text = Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise MisconfiguredError("invalid_config", f"{place} cannot be read: {type(error).__name__}") from None
        variables = {name.lower(): value or "" for name, value in EnvSettingsSource(cls).env_vars.items() if value}
        stated = read_config(text, _AnyCase(variables))
        if has_prices(text):
            stated["price_file"] = Path(place)
        silent = {name: value for name, value in stated.items() if not _spellings(cls, name) & variables.keys()}
        return super().read(**{**silent, **overrides, "config": Path(place)})


class _AnyCase(dict[str, str]):
    """Environment variables, whose names compare without case."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())


def _spellings(settings: type[Settings], name: str) -> set[str]:
    """The variables that a setting may be read from."""
    choices = settings.model_fields[name].validation_alias
    return {str(one).lower() for one in choices.choices} if isinstance(choices, AliasChoices) else {name}

"""How settings are read: from environment variables, once, into values that don't change any more."""

from __future__ import annotations

from typing import Any, Self

from pydantic import AliasChoices, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from x402.errors import MisconfiguredError


def named(*names: str) -> AliasChoices:
    """The variables that a setting is read from, most wanted first."""
    return AliasChoices(*names)


class Settings(BaseSettings):
    """What all programs share: an empty variable counts as absent, and nothing changes after start-up."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True, defer_build=True
    )

    @classmethod
    def read(cls, **overrides: Any) -> Self:
        """Settings from the environment; `overrides` by field name win.

        Raises `MisconfiguredError("invalid_settings")` that names the variable in the wrong and never its value.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "settings"
            raise MisconfiguredError("invalid_settings", f"{where}: {first['msg']}") from None

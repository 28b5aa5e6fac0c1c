"""The environment, read once: names, precedence, masks, and errors that never quote a secret."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from x402.errors import MisconfiguredError
from x402.settings import ClientSettings, FacilitatorSettings, describe, secret, without_password


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("X402_", "AIMO_", "EVM_", "SVM_", "SOLANA_", "BLOCKRUN_", "XDG_")):
            monkeypatch.delenv(name)


def test_nothing_set() -> None:
    settings = ClientSettings.read()
    assert not settings.has_wallet
    assert settings.base_url == ""
    assert settings.journal_path == str(Path("~/.local/state/x402/journal.sqlite").expanduser())


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("X402_BASE_URL", "base_url"),
        ("AIMO_BASE_URL", "base_url"),
        ("X402_SVM_RPC_URL", "svm_rpc_url"),
        ("SVM_RPC_URL", "svm_rpc_url"),
    ],
)
def test_names_of_other_programs(monkeypatch: pytest.MonkeyPatch, name: str, field: str) -> None:
    monkeypatch.setenv(name, "https://x.test")
    assert getattr(ClientSettings.read(), field) == "https://x.test"


def test_the_prefixed_name_wins_and_an_empty_one_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMO_BASE_URL", "https://aimo.test")
    monkeypatch.setenv("X402_BASE_URL", "")
    assert ClientSettings.read().base_url == "https://aimo.test"
    monkeypatch.setenv("X402_BASE_URL", "https://x402.test")
    assert ClientSettings.read().base_url == "https://x402.test"
    assert ClientSettings.read(base_url="https://given.test").base_url == "https://given.test"


def test_the_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ClientSettings.read().journal_path == str(tmp_path / "x402" / "journal.sqlite")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert ClientSettings.read().journal_path.startswith(str(Path.home()))
    monkeypatch.setenv("X402_JOURNAL", ":memory:")
    assert ClientSettings.read().journal_path == ":memory:"


def test_limits_are_decimals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X402_MAX_PER_CALL", "0.05")
    assert ClientSettings.read().max_per_call == Decimal("0.05")
    for wrong in ("-1", "0", "NaN", "much"):
        monkeypatch.setenv("X402_MAX_PER_CALL", wrong)
        with pytest.raises(MisconfiguredError, match="X402_MAX_PER_CALL"):
            ClientSettings.read()


def test_G09_keys_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("X402_EVM_PRIVATE_KEY", "X402_SVM_PRIVATE_KEY", "AIMO_PRIVATE_KEY", "X402_API_KEY"):
        monkeypatch.setenv(name, f"canary-{name}")
    settings = ClientSettings.read()
    assert settings.has_wallet
    shown = [repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())]
    assert not any("canary" in text for text in (*shown, str(describe(settings))))
    assert secret(settings.api_key) == "canary-X402_API_KEY"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        setattr(ClientSettings.read(), "base_url", "x")  # noqa: B010


@pytest.mark.parametrize(("address", "shown"), [
    ("postgresql://shop:canary@db.test/ledger", "postgresql://shop:**@db.test/ledger"),
    ("postgresql://shop:can@ry:x@db.test/ledger", "postgresql://shop:**@db.test/ledger"),
    ("postgresql://:canary@/ledger?host=db.test", "postgresql://:**@/ledger?host=db.test"),
    ("postgresql://shop@db.test/l?password=canary&sslmode=require", "postgresql://shop@db.test/l?password=**&sslmode=require"),
    ("postgresql://shop@db.test:5432/ledger", "postgresql://shop@db.test:5432/ledger"),
    ("sqlite:///ledger.sqlite", "sqlite:///ledger.sqlite"),
])  # fmt: skip
def test_G06_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    settings = FacilitatorSettings.read(ledger=address)
    assert without_password(address) == shown == describe(settings)["ledger"]
    assert "canary" not in f"{settings!r} {settings} {describe(settings)}"

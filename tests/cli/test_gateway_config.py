"""One file for a gateway: written with every entry explained, read with the environment before it, and checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import LiveTown, run
from x402.cli.gateway_config import TEMPLATE
from x402.config_file import PRICES, TABLES, read_config
from x402.errors import MisconfiguredError
from x402.gateway.inference.price_file import read_catalogue
from x402.settings import GatewaySettings

ADDRESS = "0x" + "5e" * 20


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("X402_EVM_PAY_TO", "X402_SVM_PAY_TO", "X402_CONFIG", "X402_FACILITATOR_URL"):
        monkeypatch.delenv(name, raising=False)


def test_init_writes_a_file_that_check_and_the_gateway_read(live_town: LiveTown, tmp_path: Path) -> None:
    urls = live_town.urls
    made = run("gateway", "init", "shop.toml", "--evm", ADDRESS, "--model", "demo/echo-1", "--api-base", urls["model"])
    assert made.exit_code == 0, made.output
    assert run("gateway", "init", "shop.toml").exit_code != 0, "an existing file is left alone"
    text = Path("shop.toml").read_text().replace("http://127.0.0.1:4022", urls["facilitator"])
    Path("shop.toml").write_text(text)
    checked = run("gateway", "check", "--config", "shop.toml", "--json", UPSTREAM_KEY="key")
    told = json.loads(checked.stdout)
    assert checked.exit_code == 0, told
    assert told["ready"] is True
    assert {one["what"].split()[0] for one in told["checks"]} == {
        "settings", "price", "provider", "ledger", "operations", "facilitator"
    }  # fmt: skip


def test_check_says_what_is_to_be_mended(tmp_path: Path) -> None:
    Path("shop.toml").write_text(
        f'[pay_to]\nevm = "{ADDRESS}"\n[facilitator]\nurls = ["http://127.0.0.1:9"]\n[limits]\ntiers = {{ pro = 5 }}\n'
        '[gateway]\npublic_url = "https://shop.example"\n[[models]]\nname = "m"\n[models.pricing]\nprompt = 1\n'
        'completion = 1\n[models.params]\nmodel = "m"\napi_base = "http://127.0.0.1:9/v1"\n'
    )
    checked = run("gateway", "check", "-c", "shop.toml", "--json")
    wrong = {one["what"].split()[0]: one["words"] for one in json.loads(checked.stdout)["checks"] if not one["well"]}
    assert checked.exit_code == 1
    assert set(wrong) == {"provider", "operations", "facilitator", "trusted_proxies"}
    assert "X402_TIERS" in wrong["operations"]
    plain = run("gateway", "check", "-c", "shop.toml")
    assert "does not answer" in plain.stdout
    nothing = json.loads(run("gateway", "check", "--json").stdout)
    assert "X402_EVM_PAY_TO" in nothing["checks"][0]["words"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[limit]\n", "did you mean limits"), ("[limits]\ntier = 1\n", "did you mean tiers"), ("= 1", "not TOML"),
        ('[gateway]\nquote_key = "abc"\n', "does not belong in a file"), ("limits = 1\n", "is a table"),
        ('[webhook]\nsecret = "std::env::NOBODY"\n', "NOBODY is not set"), ("[gateway]\nport = 99999\n", "port"),
    ],
)  # fmt: skip
def test_a_file_that_says_nothing_sensible_is_refused(tmp_path: Path, text: str, words: str) -> None:
    Path("bad.toml").write_text(text)
    with pytest.raises(MisconfiguredError, match=re.escape(words)):
        GatewaySettings.read(config=Path("bad.toml"))
    with pytest.raises(MisconfiguredError, match="cannot be read"):
        GatewaySettings.read(config=Path("nowhere.toml"))


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("shop.toml").write_text(
        f'[pay_to]\nevm = "{ADDRESS}"\nevm_network = "base"\n[gateway]\nport = 1111\nquote_key = "std::env::MY_KEY"\n'
        '[limits]\ntiers = { free = 5 }\ntrusted_proxies = ["10.0.0.0/8", "::1"]\n[retention]\nzero = true\n'
    )
    monkeypatch.setenv("X402_CONFIG", "shop.toml")
    monkeypatch.setenv("MY_KEY", "a secret of some length")
    monkeypatch.setenv("EVM_NETWORK", "base-sepolia")
    settings = GatewaySettings.read(port=2222)
    assert settings.pay_to == {"base-sepolia": ADDRESS}, "also under a name that other programs use"
    assert (settings.port, settings.tiers, settings.zero_retention) == (2222, "free=5", True)
    assert settings.trusted_proxies == "10.0.0.0/8,::1"
    assert settings.quote_keys == (b"a secret of some length",)
    assert settings.price_file is None, "a file without [[models]] is no price list"
    assert "secret of" not in repr(settings)


def test_every_entry_is_a_setting_and_stands_in_the_template() -> None:
    fields = {name for table in TABLES.values() for name in table.values()}
    assert fields <= set(GatewaySettings.model_fields)
    stated = read_config(TEMPLATE, {"UPSTREAM_KEY": "x"})
    assert set(stated) <= fields
    defaults = {name: field.default for name, field in GatewaySettings.model_fields.items()}
    for name in (
        "tiers",
        "rate_exempt",
        "open_quotes",
        "quotes_per_hour",
        "tag_retention_days",
        "answer_retention_seconds",
    ):
        assert str(stated[name]) == str(defaults[name]), f"the template shows the default of {name}"


def test_a_gateway_runs_from_its_file_alone(live_town: LiveTown, tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    from x402.gateway.app import create_app

    run(
        "gateway",
        "init",
        "shop.toml",
        "--evm",
        ADDRESS,
        "--model",
        "demo/echo-1",
        "--api-base",
        live_town.urls["model"],
    )
    text = Path("shop.toml").read_text().replace("http://127.0.0.1:4022", live_town.urls["facilitator"])
    Path("shop.toml").write_text(text.replace('api_key = "std::env::UPSTREAM_KEY"', ""))
    with TestClient(create_app(GatewaySettings.read(config=Path("shop.toml")))) as client:
        body = {"model": "demo/echo-1", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        assert client.post("/api/v1/chat/completions", json=body).status_code == 402


def test_the_file_knows_every_setting_and_every_rule_of_the_price_list() -> None:
    """What belongs to one upstream alone is said by the price list's models."""
    stated = {field for names in TABLES.values() for field in names.values()}
    elsewhere = {"config", "model_names", "price_file", "upstream_api_key", "upstream_url"}
    assert set(GatewaySettings.model_fields) == stated | elsewhere
    read_catalogue(
        "\n".join(f"{name} = 1" for name in sorted(PRICES) if name.endswith("_percent"))
        + '\n[[models]]\nname = "a"\npricing = { prompt = 1, completion = 1 }\n',
        environment={},
        now=0,
    )
    with pytest.raises(MisconfiguredError):
        read_catalogue('surprise_percent = 1\n[[models]]\nname = "a"\n', environment={}, now=0)

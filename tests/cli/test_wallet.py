"""`x402 wallet`: files that only their owner reads, and keys that nobody sees (fault G09)."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path

from tests.cli.conftest import run


def test_new_makes_a_private_file_and_prints_no_key(tmp_path: Path) -> None:
    file = tmp_path / "w.toml"
    result = run("wallet", "new", "--file", str(file))
    assert result.exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    members = tomllib.loads(file.read_text())
    assert members["testnet_only"] is True
    for name in ("evm_private_key", "svm_private_key"):
        assert members[name]
        assert members[name].removeprefix("0x") not in result.stdout + result.stderr


def test_show_gives_the_addresses_of_the_file_that_the_environment_names(tmp_path: Path) -> None:
    file = tmp_path / "w.toml"
    made = json.loads(run("wallet", "new", "--file", str(file), "--json").stdout)
    shown = json.loads(run("wallet", "show", "--json", X402_WALLET_FILE=str(file)).stdout)
    assert shown == {"evm": made["evm"], "svm": made["svm"], "testnetOnly": True}


def test_without_a_name_the_default_file_serves_both(tmp_path: Path) -> None:
    made = json.loads(run("wallet", "new", "--any-network", "--json").stdout)
    assert Path(made["file"]).is_relative_to(tmp_path)
    assert json.loads(run("wallet", "show", "--json").stdout)["evm"] == made["evm"]
    assert made["testnetOnly"] is False


def test_a_wallet_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "w.toml"
    run("wallet", "new", "--file", str(file))
    before = file.read_bytes()
    result = run("wallet", "new", "--file", str(file))
    assert (result.exit_code, file.read_bytes()) == (3, before)
    assert "another-wallet.toml" in result.stderr


def test_no_wallet_says_what_to_type() -> None:
    result = run("wallet", "show")
    assert result.exit_code == 3
    assert "x402 wallet new" in result.stderr

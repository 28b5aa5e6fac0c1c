"""The committed artifacts are what the committed sources compile to, byte for byte."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from eth_utils.abi import event_abi_to_log_topic, function_abi_to_4byte_selector

import contracts_abi

HOME = Path(contracts_abi.__file__).parent
BUILD = HOME / "build"


@pytest.mark.timeout(300)
def test_rebuild_is_identical(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(BUILD), "--output", str(tmp_path)], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    kept = {f"{name}.json": (HOME / f"{name}.json").read_bytes() for name in contracts_abi.NAMES}
    assert made == kept


@pytest.mark.parametrize("name", contracts_abi.NAMES)
def test_artifact_is_of_this_source(name: str) -> None:
    record = json.loads((HOME / f"{name}.json").read_text("utf-8"))
    assert record["source_sha256"] == hashlib.sha256((HOME / f"{name}.sol").read_bytes()).hexdigest()
    assert record["contractName"] == name


def test_lock_names_no_host() -> None:
    lock = json.loads((HOME / "package-lock.json").read_text("utf-8"))
    packages = [package for path, package in lock["packages"].items() if path]
    assert packages
    assert all("resolved" not in package and "integrity" in package for package in packages)


def test_load_gives_code_and_slots() -> None:
    token = contracts_abi.load("Usdc")
    assert token.name == "Usdc"
    assert token.runtime in token.bytecode
    assert token.slots["owner"] == 0
    assert contracts_abi.load("Usdc") is token


def test_load_refuses_other_names() -> None:
    with pytest.raises(contracts_abi.UnknownContract, match="Usdc"):
        contracts_abi.load("../secrets")


def test_token_has_the_selectors_that_settlers_call() -> None:
    abi = contracts_abi.load("Usdc").abi
    selectors = {function_abi_to_4byte_selector(entry).hex() for entry in abi if entry["type"] == "function"}  # type: ignore[arg-type]
    # transferWithAuthorization in both forms, authorizationState, permit (protocol, the EIP-3009 pages).
    assert {"e3ee160e", "cf092995", "e94a0102", "d505accf"} <= selectors
    topics = {event_abi_to_log_topic(entry).hex() for entry in abi if entry["type"] == "event"}  # type: ignore[arg-type]
    assert "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef" in topics
    assert "98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5" in topics

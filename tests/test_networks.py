"""Networks: CAIP-2 inside, v1 names at the door, every asset pinned (faults B07, D08, F13, F14)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402 import networks
from x402.errors import MalformedError
from x402.money import Asset
from x402.networks import Network

VECTORS = json.loads((Path(__file__).parents[1] / "fixtures" / "networks.json").read_text())
BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}")


@pytest.fixture
def table() -> Iterator[None]:
    """Give the table back as it was."""
    by_id, by_name = dict(networks._BY_ID), dict(networks._BY_NAME)
    yield
    for live, kept in ((networks._BY_ID, by_id), (networks._BY_NAME, by_name)):
        live.clear()
        live.update(kept)


@pytest.mark.parametrize("case", VECTORS["network_pattern"], ids=lambda case: f"{case['network']} in {case['pattern']}")
def test_patterns_match_like_in_the_official_sdk(case: dict[str, Any]) -> None:
    assert networks.matches(case["pattern"], case["network"]) is case["ok"]


def test_a_wildcard_covers_one_namespace_only() -> None:
    assert not networks.matches("eip155:*", "eip1559:1")
    assert not networks.matches("eip155:8453", "eip155:84532")
    assert not networks.matches("*", "eip155:8453")


@pytest.mark.parametrize(
    ("id", "name", "usdc", "domain", "testnet"),
    [
        (networks.BASE, "base", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin", False),
        (networks.BASE_SEPOLIA, "base-sepolia", "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC", True),
        (networks.SOLANA_MAINNET, "solana", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", "", False),
        (networks.SOLANA_DEVNET, "solana-devnet", "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU", "", True),
        (networks.SOLANA_TESTNET, "solana-testnet", "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU", "", True),
    ],
)
def test_the_first_five_networks_pin_their_usdc(id: str, name: str, usdc: str, domain: str, testnet: bool) -> None:
    network = networks.get(id)
    assert networks.get(name) is network
    assert (network.name, network.testnet) == (name, testnet)
    assert (network.usd.symbol, network.usd.address, network.usd.decimals) == ("USDC", usdc, 6)
    assert network.usd.eip712_name == domain


def test_every_row_is_consistent() -> None:
    rows = list(networks.every())
    assert len({row.id for row in rows}) == len(rows)
    names = [row.name for row in rows if row.name]
    assert len(set(names)) == len(names)
    for row in rows:
        assert networks.parse_caip2(row.id)[0] == row.family
        assert row.family in (networks.EIP155, networks.SOLANA)
        assert networks.to_v1(row.id) == (row.name or row.id)
        assert networks.to_caip2(row.name or row.id) == row.id
        for asset in row.assets:
            check_asset(row, asset)


def check_asset(network: Network, asset: Asset) -> None:
    assert asset.network == network.id
    assert network.asset(asset.address) is asset
    if network.family == networks.SOLANA:
        assert asset.transfer_method == "spl"
        assert asset.token_program in (networks.TOKEN_PROGRAM, networks.TOKEN_2022_PROGRAM)
        assert BASE58.fullmatch(asset.address)
    else:
        assert asset.transfer_method in ("eip3009", "permit2")
        assert not asset.token_program
        assert re.fullmatch(r"0x[0-9a-fA-F]{40}", asset.address)
        if asset.transfer_method == "eip3009":
            assert asset.eip712_name
            assert asset.eip712_version


def test_addresses_compare_without_case_on_evm_only() -> None:
    base, solana = networks.get(networks.BASE), networks.get(networks.SOLANA_MAINNET)
    assert base.asset(base.usd.address.lower()) is base.usd
    assert base.asset(base.usd.address.upper().replace("0X", "0x")) is base.usd
    assert solana.asset(solana.usd.address) is solana.usd
    assert solana.asset(solana.usd.address.lower()) is None
    assert base.asset(solana.usd.address) is None


def test_unknown_networks_stay_as_they_are() -> None:
    assert networks.find("eip155:999999999") is None
    assert networks.to_caip2("somechain") == "somechain"
    assert networks.to_v1("eip155:999999999") == "eip155:999999999"
    with pytest.raises(MalformedError) as caught:
        networks.get("somechain")
    assert caught.value.code == "invalid_network"


@pytest.mark.parametrize("text", ["", "base", "eip155", "eip155:", ":1", "ab:1", "ninechars:1", "eip155:" + "1" * 33])
def test_what_is_no_caip2_id_is_refused(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        networks.parse_caip2(text)
    assert caught.value.code == "invalid_network"


@given(st.text())
def test_no_text_makes_the_readers_raise_anything_else(text: str) -> None:
    networks.find(text)
    networks.to_caip2(text)
    networks.to_v1(text)
    networks.matches(text, text)
    with suppress(MalformedError):
        networks.parse_caip2(text)


def test_a_network_is_added_by_data(table: None) -> None:
    usdc = Asset("eip155:777", "0x" + "ab" * 20, "USDC", 6, "eip3009", "USDC", "2")
    added = networks.register(Network("eip155:777", "lucky", "Lucky", assets=(usdc,)))
    assert networks.get("lucky") is added
    assert networks.get("eip155:777").usd is usdc
    assert networks.to_v1("eip155:777") == "lucky"
    assert added.chain_id == 777
    assert networks.matches("eip155:*", added.id)


def test_chain_ids_and_dollars_are_refused_where_there_are_none() -> None:
    with pytest.raises(MalformedError):
        networks.get(networks.SOLANA_DEVNET).chain_id  # noqa: B018 - the property raises
    with pytest.raises(MalformedError) as caught:
        networks.get("peaq").usd  # noqa: B018 - the property raises
    assert caught.value.code == "unknown_asset"


def test_explorers_keep_their_query() -> None:
    assert networks.get(networks.BASE).transaction_url("0xab") == "https://basescan.org/tx/0xab"
    url = networks.get(networks.SOLANA_DEVNET).transaction_url("sig")
    assert url == "https://explorer.solana.com/tx/sig?cluster=devnet"
    assert networks.get(networks.BASE).transaction_url("") == ""


@pytest.mark.parametrize("name", ["eip155: 1", "eip155:1\n", "eip155:\uff11", "EIP155:1", "eip155:abc:def", "eip155:"])
def test_F13_only_caip2_is_caip2(name: str) -> None:
    assert networks.parse_caip2("eip155:1") == ("eip155", "1")
    with pytest.raises(MalformedError):
        networks.parse_caip2(name)


def test_F13_a_chain_id_is_a_number() -> None:
    with pytest.raises(MalformedError):
        networks.register(networks.Network("eip155:abc", "", "no chain"))


def test_a_replaced_network_gives_up_its_old_name(table: None) -> None:
    old = networks.register(networks.Network("eip155:999999", "old-name", "Old"))
    new = networks.register(networks.Network("eip155:999999", "new-name", "New"))
    assert networks.find("old-name") is None
    assert networks.find("new-name") is new is networks.find(old.id)

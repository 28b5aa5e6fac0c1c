"""Every conformance vector is run by a test or listed as not covered, with the reason; the route keys run here."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from x402.gateway.route_keys import RouteKey

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"

RUN_BY = {
    "v2 header PAYMENT-REQUIRED #1": ("headers.json", "wire/test_headers.py"),
    "v2 header PAYMENT-SIGNATURE #1": ("headers.json", "wire/test_headers.py"),
    "v2 header PAYMENT-RESPONSE #1": ("headers.json", "wire/test_headers.py"),
    "v1 header X-PAYMENT #1": ("headers.json", "wire/test_headers.py"),
    "v1 header X-PAYMENT-RESPONSE #1": ("headers.json", "wire/test_headers.py"),
    "EXTENSION-RESPONSES header #1": ("headers.json", "wire/test_headers.py"),
    "extension echo subset rule": ("extensions.json", "wire/test_extensions.py"),
    "exact EVM EIP-3009 digest+signature (Base Sepolia USDC)": ("evm_exact.json", "schemes/test_exact_evm.py"),
    "eip2612GasSponsoring permit digest+signature": ("evm_upto.json", "schemes/test_upto_evm.py"),
    "type hashes": ("evm_exact.json", "schemes/test_eip712.py"),
    "exact SVM partially-signed v0 transaction": ("svm_exact.json", "schemes/test_exact_svm.py"),
    "parse_money": ("money.json", "test_money.py"),
    "convert_to_token_amount": ("money.json", "test_money.py"),
    "network pattern": ("networks.json", "test_networks.py"),
    "route patterns": ("routes.json", "test_vectors.py"),
}
"""Vector to the fixture that holds it and the test file that runs it."""


def names_in(value: Any) -> set[str]:
    """The vectors in a fixture: by `name`, or by a member `like_this` for one called "like this"."""
    if isinstance(value, list):
        return set().union(*map(names_in, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    own = {str(key).replace("_", " ") for key in value} | set(value)
    if {"name", "input", "expected"} <= value.keys():
        own.add(value["name"])
    return own.union(*map(names_in, value.values()))


def test_every_vector_is_run_or_listed_as_not_covered() -> None:
    index = json.loads((FIXTURES / "index.json").read_text())
    not_covered = json.loads((FIXTURES / "not_covered.json").read_text())
    assert len(index) == len(set(index)) == 33
    assert set(RUN_BY) & set(not_covered) == set()
    assert set(RUN_BY) | set(not_covered) == set(index)
    assert all(len(reason) > 10 for reason in not_covered.values())


@pytest.mark.parametrize(("name", "place"), RUN_BY.items())
def test_the_fixture_holds_the_vector_and_a_test_reads_the_fixture(name: str, place: tuple[str, str]) -> None:
    fixture, file = place
    assert name in names_in(json.loads((FIXTURES / fixture).read_text()))
    source = (ROOT / "tests" / file).read_text()
    texts = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert any(isinstance(text, str) and text.endswith(fixture) for text in texts)


def test_the_index_of_the_fixtures_names_every_file() -> None:
    readme = (FIXTURES / "README.md").read_text()
    assert [path.name for path in sorted(FIXTURES.glob("*.json")) if f"`{path.name}`" not in readme] == []


ROUTES = json.loads((FIXTURES / "routes.json").read_text())["vectors"][0]["expected"]["cases"]


@pytest.mark.parametrize("case", ROUTES, ids=[case["pattern"] for case in ROUTES])
def test_vector_route_patterns(case: dict[str, Any]) -> None:
    key = RouteKey.parse(case["pattern"])
    assert (key.method or "*") == case["verb"]
    assert {path: key.covers_path(path) for path in case["matches"]} == case["matches"]

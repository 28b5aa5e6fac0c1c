"""The echo rule of extensions, and the grammar of a payment's own id (protocol page §6.1, §6.3)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x402.errors import MalformedError
from x402.wire.extensions import DYNAMIC, ECHO_MISMATCH, altered, echo, payment_identifier
from x402.wire.strict import dump_json, parse_object

FIXTURE = Path(__file__).parents[2] / "fixtures" / "extensions.json"
CASES = json.loads(FIXTURE.read_text())["vectors"][0]["expected"]["cases"]

scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcs"), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["k", "builder-code", "sign-in-with-x", "offer-receipt", "payment-identifier"])
entries = st.fixed_dictionaries(
    {"info": st.dictionaries(st.sampled_from(["a", "s", "w", "nonce", "offers", "required"]), values, max_size=4)},
    optional={"schema": values, "more": values},
)
extensions = st.dictionaries(keys, entries | values, max_size=4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: json.dumps(case["expected"]))
def test_vector_extension_echo_subset_rule(case: dict[str, Any]) -> None:
    difference = altered({"k": {"info": case["expected"]}}, {"k": {"info": case["actual"]}})
    assert (difference is None) == case["ok"]


@settings(max_examples=200, deadline=None)
@given(extensions, extensions)
def test_our_own_echo_is_never_altered(server: dict[str, Any], client: dict[str, Any]) -> None:
    before = copy.deepcopy((server, client))
    echoed = echo(server, client)
    assert altered(server, echoed) is None
    assert altered(server, parse_object(dump_json(echoed))) is None
    assert (server, client) == before
    assert set(echoed) == set(server) | set(client)


@settings(max_examples=150, deadline=None)
@given(extensions)
def test_an_echo_without_additions_is_the_advertisement(server: dict[str, Any]) -> None:
    echoed = echo(server, {})
    assert {key: value for key, value in echoed.items() if key != "builder-code"} == {
        key: value for key, value in server.items() if key != "builder-code"
    }


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), values, min_size=1, max_size=4), st.data())
def test_a_changed_or_deleted_member_is_found(info: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(info)))
    changed = copy.deepcopy(info)
    if data.draw(st.booleans()) and info[name] is not None:
        del changed[name]
    else:
        changed[name] = ["something", "else", "than", info[name]]
    assert altered({"k": {"info": info}}, {"k": {"info": changed}}) == f"k.info.{name}"
    assert altered({"k": {"info": info}}, {"k": {"info": info}}) is None


@settings(max_examples=150, deadline=None)
@given(values | extensions, values | extensions)
def test_nothing_makes_the_comparison_fail(advertised: Any, echoed: Any) -> None:
    server = advertised if isinstance(advertised, dict) else {"k": advertised}
    client = echoed if isinstance(echoed, dict) else {"k": echoed}
    difference = altered(server, client)
    assert difference is None or isinstance(difference, str)


@pytest.mark.parametrize(
    ("advertised", "echoed", "where"),
    [
        ({"a": 1}, {"a": True}, "k.info.a"),
        ({"a": True}, {"a": 1}, "k.info.a"),
        ({"a": 0}, {"a": False}, "k.info.a"),
        ({"a": 1}, {"a": 1.0}, None),
        ({"a": 1}, {"a": "1"}, "k.info.a"),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, "k.info.a"),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, "k.info.a.b.c"),
        ({"a": {"b": 1}}, {"a": [1]}, "k.info.a"),
        ({"a": None}, {}, None),
        ({"a": None}, {"a": None}, None),
        ({"a": None}, {"a": 1}, "k.info.a"),
        ({}, {"anything": 1}, None),
    ],
)
def test_where_an_echo_differs(advertised: dict[str, Any], echoed: dict[str, Any], where: str | None) -> None:
    assert altered({"k": {"info": advertised}}, {"k": {"info": echoed}}) == where


def test_only_extensions_on_both_sides_are_compared_and_of_them_only_info() -> None:
    advertised = {"k": {"info": {"a": 1}, "schema": {"type": "object"}}}
    assert altered(advertised, {}) is None
    assert altered(advertised, {"other": {"info": {"a": 2}}}) is None
    assert altered(advertised, {"k": {"info": {"a": 1}}}) is None
    changed: tuple[Any, ...] = ({}, {"info": {}}, {"info": None}, {"info": [1]}, None, "a", {"Info": {"a": 1}})
    for gone in changed:
        assert altered(advertised, {"k": gone}) == "k.info.a"
    assert ECHO_MISMATCH == "extension_echo_mismatch"


def test_dynamic_members_may_be_older() -> None:
    for key, names in DYNAMIC.items():
        old = {key: {"info": dict.fromkeys(names, "old") | {"domain": "a"}}}
        new = {key: {"info": dict.fromkeys(names, "new") | {"domain": "a"}}}
        assert altered(new, old) is None
        new[key]["info"]["domain"] = "b"
        assert altered(new, old) == f"{key}.info.domain"
        assert altered({"other": new[key]}, {"other": old[key]}) is not None


def test_the_client_adds_and_the_server_wins() -> None:
    server = {"k": {"info": {"required": True, "deep": {"a": 1}}, "schema": {"x": 1}}}
    client = {"k": {"info": {"id": "mine", "required": False, "deep": {"a": 2, "b": 3}}}, "new": {"info": {"c": 1}}}
    assert echo(server, client) == {
        "k": {"info": {"required": True, "deep": {"a": 1, "b": 3}, "id": "mine"}, "schema": {"x": 1}},
        "new": {"info": {"c": 1}},
    }


def test_an_echo_shares_nothing_with_what_it_was_made_from() -> None:
    server, client = {"k": {"info": {"a": [1]}}}, {"c": {"info": {"b": [2]}}}
    echoed = echo(server, client)
    echoed["k"]["info"]["a"].append(9)
    echoed["c"]["info"]["b"].append(9)
    assert server == {"k": {"info": {"a": [1]}}}
    assert client == {"c": {"info": {"b": [2]}}}


def test_builder_codes_are_joined_and_the_app_code_is_the_servers() -> None:
    server = {"builder-code": {"info": {"a": "app", "s": ["one", "both"]}}}
    joined = echo(server, {"builder-code": {"info": {"a": "evil", "s": ["mine", "both"]}}})
    assert joined == {"builder-code": {"info": {"a": "app", "s": ["mine", "both", "one"]}}}
    assert echo(server, {"builder-code": {"info": {"s": "mine"}}})["builder-code"]["info"]["s"] == [
        "mine",
        "one",
        "both",
    ]
    assert echo({}, {"builder-code": {"info": {"a": "evil", "s": ["m"]}}}) == {"builder-code": {"info": {"s": ["m"]}}}
    assert altered(server, {"builder-code": {"info": {"a": "app", "s": ["mine", "both"]}}}) == "builder-code.info.s"
    assert altered(server, {"builder-code": {"info": {"a": "evil", "s": ["one", "both"]}}}) == "builder-code.info.a"
    assert altered({}, {"builder-code": {"info": {"a": "evil"}}}) == "builder-code.info.a"
    assert altered({"builder-code": {"info": {}}}, {"builder-code": {"info": {"a": "x"}}}) == "builder-code.info.a"


@pytest.mark.parametrize("identifier", ["a" * 16, "Z-_9" * 32, "pay_0123456789abcdef0123456789abcdef"])
def test_a_payment_identifier_is_read(identifier: str) -> None:
    for required in (True, False):
        assert (
            payment_identifier({"payment-identifier": {"info": {"required": required, "id": identifier}}}) == identifier
        )


@pytest.mark.parametrize(
    "entry",
    [
        {"info": {"id": "a" * 15}}, {"info": {"id": "a" * 129}}, {"info": {"id": "a" * 16 + "\n"}},
        {"info": {"id": "a" * 16 + "."}}, {"info": {"id": "é" * 16}}, {"info": {"id": "٣" * 16}},
        {"info": {"id": 10**16}}, {"info": {"id": ""}}, {"info": {"id": ["a" * 16]}},
        {"info": {"required": True}}, {"info": {"required": True, "id": None}}, {"info": []},
        {"info": None}, {"info": "a" * 16}, [], "a" * 16, 5, True,
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_payment_identifier_is_refused(entry: object) -> None:
    with pytest.raises(MalformedError, match="payment-identifier") as caught:
        payment_identifier({"payment-identifier": entry})
    assert caught.value.code == "invalid_payload"


@pytest.mark.parametrize(
    "sent",
    [{}, {"payment-identifier": None}, {"payment-identifier": {}},
     {"payment-identifier": {"info": {"required": False}}}, {"payment-identifier": {"info": {"id": None}}},
     {"other": {"info": {"id": "x"}}}],
    ids=str,
)  # fmt: skip
def test_no_payment_identifier_is_none(sent: dict[str, Any]) -> None:
    assert payment_identifier(sent) is None

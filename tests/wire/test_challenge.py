"""The payment-challenge parser: every dialect of a 402 (faults E04, F09, F11, F13, F14; AiMo rows 47, 54, 55)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from x402.errors import MalformedError
from x402.wire.challenge import CODE, OFFER_LIMIT, BalanceEmpty, Challenge, Requirement, parse_challenge, read_challenge
from x402.wire.headers import PAYMENT_REQUIRED, encode_header

AIMO = json.loads((Path(__file__).parents[2] / "fixtures" / "aimo.json").read_text())["cases"]
OFFER: dict[str, Any] = {
    "scheme": "exact",
    "network": "eip155:84532",
    "amount": "10000",
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}
OLD_OFFER: dict[str, Any] = {
    "scheme": "exact",
    "network": "base-sepolia",
    "maxAmountRequired": "10000",
    "resource": "https://api.example.com/report",
    "description": "the report",
    "mimeType": "application/json",
    "outputSchema": None,
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "maxTimeoutSeconds": 60,
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "extra": {"name": "USDC", "version": "2"},
}
RESOURCE = {"url": "https://api.example.com/report", "description": "the report", "mimeType": "application/json"}
NEW: dict[str, Any] = {"x402Version": 2, "error": "pay", "resource": RESOURCE, "accepts": [OFFER]}
OLD: dict[str, Any] = {"x402Version": 1, "error": "pay", "accepts": [OLD_OFFER]}


def challenge_of(headers: list[tuple[str, str]], body: object = None) -> Challenge:
    read = read_challenge(headers, b"" if body is None else json.dumps(body).encode())
    assert isinstance(read, Challenge)
    return read


def with_offer(**members: Any) -> Challenge:
    return parse_challenge({"x402Version": 2, "accepts": [{**OFFER, **members}]})


@pytest.mark.parametrize("case", AIMO, ids=[case["name"] for case in AIMO])
def test_a_402_is_told_by_its_content(case: dict[str, Any]) -> None:
    body = json.dumps(case["body"]).encode()
    if case["means"] == "neither":
        with pytest.raises(MalformedError, match="neither an offer nor an empty balance") as caught:
            read_challenge([], body)
        error = case["body"].get("error") or {}
        assert error.get("message", "") in str(caught.value)
        said = {"sellerCode": error.get("type", ""), "sellerMessage": error.get("message", "")}
        assert caught.value.details == said
        return
    read = read_challenge([], body)
    assert isinstance(read, Challenge if case["means"] == "offer" else BalanceEmpty)


def test_aimo_reduced_v1_gets_a_scheme_and_caip2_networks() -> None:
    challenge = parse_challenge(AIMO[0]["body"])
    assert challenge.version == 1
    assert [offer.scheme for offer in challenge.accepts] == ["exact", "exact"]
    assert [offer.network for offer in challenge.accepts] == ["solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "eip155:8453"]
    assert [offer.amount for offer in challenge.accepts] == [123, 123]
    assert all(offer.extra == {} for offer in challenge.accepts)
    assert challenge.resource is None
    assert challenge.unreadable == ()


def test_balance_empty_keeps_code_words_and_details() -> None:
    empty = read_challenge([], json.dumps(AIMO[2]["body"]).encode())
    assert isinstance(empty, BalanceEmpty)
    assert empty.code == "insufficient_balance"
    assert empty.message == "Insufficient balance"
    assert empty.details == {"required": "0.02", "available": "0.01"}


def test_an_offer_beside_a_balance_error_is_an_offer() -> None:
    body = {**OLD, "error": {"type": "insufficient_balance", "message": "Insufficient balance"}}
    challenge = challenge_of([], body)
    assert challenge.error == "Insufficient balance"
    assert len(challenge.accepts) == 1


@pytest.mark.parametrize("error", [{"code": ["x"]}, {"type": {"a": 1}, "message": 5}, [], 5, True, "balance" * 5_000])
def test_odd_errors_are_understood_or_refused(error: object) -> None:
    try:
        read = read_challenge([], json.dumps({"error": error}).encode())
    except MalformedError as caught:
        words = str(caught)
    else:
        assert isinstance(read, BalanceEmpty)
        words = read.code + read.message
    assert len(words) < 1_200


def test_v2_header_and_v1_body_say_the_same() -> None:
    new = challenge_of([(PAYMENT_REQUIRED, encode_header(NEW))], OLD)
    old = challenge_of([], OLD)
    assert new.version == 2
    assert old.version == 1
    assert new.accepts == old.accepts
    assert new.resource == old.resource


@pytest.mark.parametrize(
    ("headers", "body", "version"),
    [
        ([(PAYMENT_REQUIRED, encode_header(NEW))], None, 2),
        ([(PAYMENT_REQUIRED, encode_header(NEW))], {}, 2),
        ([(PAYMENT_REQUIRED, encode_header(NEW))], OLD, 2),
        ([(PAYMENT_REQUIRED, encode_header(OLD))], None, 1),
        ([], NEW, 2),
        ([], OLD, 1),
        ([], {"accepts": [OFFER]}, 2),
        ([], {"accepts": [OLD_OFFER]}, 1),
        ([], {"x402Version": 2, "accepts": [OLD_OFFER]}, 2),
        ([], {"x402Version": 1, "accepts": [OFFER]}, 1),
        ([], {"x402Version": None, "accepts": [OFFER], "extensions": None, "resource": None, "error": None}, 2),
        ([], {"x402Version": 2, "accepts": [{**OFFER, "maxAmountRequired": "10000"}]}, 2),
    ],
)
def test_F14_versions_and_their_mixtures(headers: list[tuple[str, str]], body: object, version: int) -> None:
    challenge = challenge_of(headers, body)
    assert challenge.version == version
    assert challenge.accepts == (Requirement.model_validate(OFFER | {"amount": 10_000}),)


@pytest.mark.parametrize("version", [0, 3, -1, "2", "1", 2.0, True, [2], {"a": 1}, 10**70])
def test_F14_other_versions_are_refused(version: object) -> None:
    with pytest.raises(MalformedError, match="x402Version must be 1 or 2"):
        parse_challenge({**NEW, "x402Version": version})


def test_F14_two_amounts_that_contradict_each_other_are_refused() -> None:
    challenge = with_offer(maxAmountRequired="10001")
    assert challenge.accepts == ()
    assert "contradict" in challenge.unreadable[0].reason


def test_F14_one_unreadable_offer_does_not_spoil_the_others() -> None:
    offers = [OFFER, {**OFFER, "amount": "1e4"}, 7, None, "offer", {**OFFER, "network": "lightning"}, {}]
    challenge = parse_challenge({"x402Version": 2, "accepts": offers})
    assert [offer.network for offer in challenge.accepts] == ["eip155:84532", "lightning"]
    assert [entry.index for entry in challenge.unreadable] == [1, 2, 3, 4, 6]
    assert challenge.unreadable[0].reason.startswith("amount: ")
    assert all(entry.reason for entry in challenge.unreadable)


BAD_AMOUNTS = [
    "-1", "+1", "01", "00", "1_000", " 1", "1 ", "1\n", "1.0", "1e3", "0x10", "", "٣٠٠", "１０", "²", "NaN", "1,000",
    str(2**256), "9" * 79, "9" * 5_000, 10_000, 10_000.0, 0, True, None, [], ["1"], {"value": "1"},
]  # fmt: skip


@pytest.mark.parametrize("amount", BAD_AMOUNTS)
@pytest.mark.parametrize("member", ["amount", "maxAmountRequired"])
def test_F09_amounts_have_one_grammar(member: str, amount: object) -> None:
    offer = {name: value for name, value in OFFER.items() if name != "amount"}
    challenge = parse_challenge({"x402Version": 2, "accepts": [{**offer, member: amount}]})
    assert challenge.accepts == ()
    assert challenge.unreadable[0].reason.startswith("amount: ")


@pytest.mark.parametrize(("text", "units"), [("0", 0), ("1", 1), ("10000", 10_000), (str(2**256 - 1), 2**256 - 1)])
def test_F11_control_bounds_are_read_exactly_and_written_as_text(text: str, units: int) -> None:
    challenge = with_offer(amount=text)
    assert challenge.accepts[0].amount == units
    assert challenge.as_json()["accepts"][0]["amount"] == text


@pytest.mark.parametrize("units", [-1, 2**256, 10**78, 1.5, True])
def test_F11_our_own_code_cannot_make_an_amount_out_of_bounds(units: Any) -> None:
    with pytest.raises(MalformedError, match="amount"):
        Requirement(scheme="exact", network="n:1", amount=units, asset="a", pay_to="b", max_timeout_seconds=1)


@pytest.mark.parametrize(
    ("name", "caip2"),
    [
        ("base", "eip155:8453"),
        ("base-sepolia", "eip155:84532"),
        ("solana", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"),
        ("solana-devnet", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"),
        ("polygon", "eip155:137"),
        ("eip155:8453", "eip155:8453"),
        ("Base", "Base"),
        ("mainnet", "mainnet"),
    ],
)
def test_F13_networks_are_caip2_inside(name: str, caip2: str) -> None:
    assert with_offer(network=name).accepts[0].network == caip2


@pytest.mark.parametrize(
    "members",
    [
        {"network": ""}, {"network": None}, {"network": 8453}, {"network": "n" * 513}, {"scheme": ""}, {"scheme": 1},
        {"asset": None}, {"asset": ""}, {"asset": ["a"]}, {"payTo": None}, {"payTo": ""}, {"payTo": {}},
        {"maxTimeoutSeconds": 0}, {"maxTimeoutSeconds": -5}, {"maxTimeoutSeconds": "60"}, {"maxTimeoutSeconds": 60.0},
        {"maxTimeoutSeconds": True}, {"maxTimeoutSeconds": None}, {"maxTimeoutSeconds": 10**13},
        {"extra": []}, {"extra": 1}, {"extra": "{"}, {"extra": "[]"}, {"extra": '{"a":1,"a":2}'},
        {"extra": '{"a":' * 15 + "1" + "}" * 15},
    ],
    ids=str,
)  # fmt: skip
def test_an_offer_with_a_wrong_member_is_unreadable(members: dict[str, Any]) -> None:
    challenge = with_offer(**members)
    assert challenge.accepts == ()
    assert len(challenge.unreadable) == 1


@pytest.mark.parametrize(("extra", "read"), [(None, {}), ({}, {}), ('{"name":"USDC"}', {"name": "USDC"})])
def test_extra_may_be_null_or_a_json_text(extra: object, read: dict[str, Any]) -> None:
    assert with_offer(extra=extra).accepts[0].extra == read


@pytest.mark.parametrize(
    "body",
    [
        {"accepts": None}, {"accepts": {}}, {"accepts": "[]"}, {**NEW, "resource": 5}, {**NEW, "resource": {}},
        {**NEW, "resource": {"url": 5}}, {**NEW, "resource": {"url": "u" * 5_000}}, {**NEW, "extensions": []},
        {**NEW, "error": 5}, {**NEW, "accepts": [OFFER] * (OFFER_LIMIT + 1)}, [], [NEW], "text", 5, None,
    ],
    ids=lambda body: str(body)[:40],
)  # fmt: skip
def test_what_is_no_challenge_is_refused(body: object) -> None:
    with pytest.raises(MalformedError) as caught:
        read_challenge([], json.dumps(body).encode())
    assert caught.value.code == CODE


@pytest.mark.parametrize("body", [b"", b"Payment required", b"<html>", b"\xff\xfe", b'{"accepts":['])
def test_a_402_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        read_challenge([("Content-Type", "text/plain")], body)
    assert caught.value.code == CODE


def test_a_damaged_header_is_not_replaced_by_the_body() -> None:
    with pytest.raises(MalformedError):
        read_challenge([(PAYMENT_REQUIRED, encode_header(NEW)[:-7])], json.dumps(OLD).encode())


def test_members_of_ours_cannot_come_from_outside() -> None:
    challenge = parse_challenge({**NEW, "unreadable": [{"index": 0, "reason": "x"}], "version": 1, "other": {"a": 1}})
    assert challenge.unreadable == ()
    assert challenge.version == 2
    assert "other" not in challenge.as_json()


def test_F18_an_encoded_challenge_has_no_nulls() -> None:
    challenge = parse_challenge({**NEW, "error": None, "resource": {"url": "u", "tags": None}})
    assert challenge.as_json() == {"x402Version": 2, "resource": {"url": "u"}, "accepts": [OFFER]}


def test_nulls_inside_an_extension_are_the_servers_and_stay() -> None:
    extensions = {"note": {"info": {"a": None}, "schema": {"default": None}}}
    assert parse_challenge({**NEW, "extensions": extensions}).as_json()["extensions"] == extensions


def test_E04_an_offer_of_each_kind_sixty_four_times_is_still_read() -> None:
    assert len(parse_challenge({**NEW, "accepts": [OFFER] * OFFER_LIMIT}).accepts) == OFFER_LIMIT

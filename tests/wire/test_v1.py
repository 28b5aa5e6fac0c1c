"""v1 is spoken at the door, in both directions, and known nowhere behind it (faults F13, F14)."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import x402.wire
from x402 import networks
from x402.errors import MalformedError
from x402.wire import v1
from x402.wire.challenge import Challenge, Requirement, Resource, parse_challenge
from x402.wire.strict import DEPTH_LIMIT

V1_NAMES = ("base", "base-sepolia", "solana", "solana-devnet", "polygon", "avalanche", "sei")


def offer(network: str, **members: Any) -> Requirement:
    return Requirement(
        scheme=members.pop("scheme", "exact"),
        network=network,
        amount=members.pop("amount", 10_000),
        asset="0xa",
        pay_to="0xb",
        max_timeout_seconds=60,
        extra=members.pop("extra", {}),
    )


def test_a_v1_body_says_everything_that_v1_clients_demand() -> None:
    resource = Resource(url="https://api.example.com/report", description="the report", mime_type="application/json")
    challenge = Challenge(resource=resource, accepts=(offer("eip155:84532", extra={"name": "USDC"}),))
    assert challenge.as_v1() == {
        "x402Version": 1,
        "error": "X-PAYMENT header is required",
        "accepts": [
            {
                "scheme": "exact",
                "network": "base-sepolia",
                "maxAmountRequired": "10000",
                "resource": "https://api.example.com/report",
                "description": "the report",
                "mimeType": "application/json",
                "payTo": "0xb",
                "maxTimeoutSeconds": 60,
                "asset": "0xa",
                "extra": {"name": "USDC"},
            }
        ],
    }


def test_F14_offers_that_v1_cannot_say_are_left_out() -> None:
    sayable = [offer("eip155:84532"), offer("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1")]
    others = [
        offer("eip155:42161"),
        offer("eip155:999999999"),
        offer("eip155:8453", scheme="upto"),
        offer("cosmos:hub"),
    ]
    body = Challenge(accepts=(*others[:2], sayable[0], *others[2:], sayable[1])).as_v1()
    assert [entry["network"] for entry in body["accepts"]] == ["base-sepolia", "solana-devnet"]
    assert all(entry["scheme"] == "exact" for entry in body["accepts"])


def test_F14_control_v2_still_lists_every_offer() -> None:
    challenge = Challenge(accepts=(offer("eip155:42161"), offer("eip155:8453", scheme="upto")))
    assert len(challenge.as_json()["accepts"]) == 2


@pytest.mark.parametrize("name", V1_NAMES)
def test_F13_every_v1_name_survives_there_and_back(name: str) -> None:
    caip2 = networks.to_caip2(name)
    assert ":" in caip2
    body = Challenge(accepts=(offer(caip2),)).as_v1()
    assert body["accepts"][0]["network"] == name
    assert parse_challenge(body).accepts[0].network == caip2


def test_the_resource_of_the_first_offer_is_the_resource() -> None:
    body = Challenge(resource=Resource(url="https://a"), accepts=(offer("eip155:8453"), offer("eip155:84532"))).as_v1()
    assert parse_challenge(body).resource == Resource(url="https://a")
    body["accepts"][0]["resource"] = ""
    assert parse_challenge(body).resource is None


@pytest.mark.parametrize("resource", [None, 5, [], {"url": "x"}, ""])
def test_an_odd_resource_in_an_offer_is_no_resource(resource: object) -> None:
    body = Challenge(accepts=(offer("eip155:8453"),)).as_v1()
    body["accepts"][0]["resource"] = resource
    challenge = parse_challenge(body)
    assert challenge.resource is None
    assert len(challenge.accepts) == 1


def test_extra_as_text_may_nest_less_than_a_message() -> None:
    text = '{"a":' * (DEPTH_LIMIT // 2) + "1" + "}" * (DEPTH_LIMIT // 2)
    assert v1.requirement_in({"extra": text})["extra"]["a"]
    with pytest.raises(MalformedError, match="nested"):
        v1.requirement_in({"extra": '{"a":' + text + "}"})


def test_version_of() -> None:
    assert v1.version_of({}, code="x") == 2
    assert v1.version_of({}, code="x", default=1) == 1
    assert v1.version_of({"x402Version": 1}, code="x") == 1
    with pytest.raises(MalformedError) as caught:
        v1.version_of({"x402Version": 7}, code="invalid_payment_required")
    assert caught.value.code == "invalid_payment_required"


def test_no_room_outside_wire_knows_the_old_member_names() -> None:
    root = Path(x402.wire.__file__).parents[1]
    old = {"maxAmountRequired", "outputSchema"}
    found = []
    for path in root.rglob("*.py"):
        if path.parent.name == "wire":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in old:
                found.append(f"{path.relative_to(root)}:{node.lineno}")
    assert found == []

"""x402 v1, translated at the door in both directions; no other room knows that it exists.

Works on plain JSON objects, before and after the models: `…_in` turns v1 (or a mixture) into v2 members, `…_out`
turns v2 members into v1. Differences: protocol page §1.1 and §1.4; AiMo's reduced form: aimo page §2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from x402 import networks
from x402.errors import MalformedError
from x402.wire.strict import DEPTH_LIMIT, parse_object

EXTRA_DEPTH = DEPTH_LIMIT // 2
"""Nesting of an `extra` that is written as text; what is read here must still fit the limit when it is sent on."""


def version_of(value: Mapping[str, Any], *, code: str, default: int = 2) -> int:
    """The `x402Version` of a message: 1 or 2. Raises `MalformedError` for any other."""
    version = value.get("x402Version")
    if version is None:
        return default
    if type(version) is not int or version not in (1, 2):
        raise MalformedError(
            "invalid_x402_version" if code == "invalid_payload" else code, "x402Version must be 1 or 2"
        )
    return version


def requirement_in(value: Any) -> Any:
    """The v2 members of an offer in any dialect; what is no object comes back as it is, to be refused by the model."""
    if not isinstance(value, Mapping):
        return value
    offer = dict(value)
    old = offer.get("maxAmountRequired")
    if offer.get("amount") is None:
        offer["amount"] = old
    elif old is not None and old != offer["amount"]:
        raise MalformedError("invalid_payment_requirements", "amount and maxAmountRequired contradict each other")
    if offer.get("scheme") is None:
        offer["scheme"] = "exact"
    if isinstance(offer.get("network"), str):
        offer["network"] = networks.to_caip2(offer["network"])
    if isinstance(offer.get("extra"), str):
        # The oldest senders wrote `extra` as a JSON text.
        offer["extra"] = parse_object(offer["extra"], depth=EXTRA_DEPTH, code="invalid_payment_requirements")
    return offer


def challenge_in(value: Mapping[str, Any], *, code: str) -> tuple[int, list[Any], dict[str, Any]]:
    """Version, offers as they came, and the remaining v2 members of a challenge in any dialect."""
    offers = value.get("accepts")
    if not isinstance(offers, list):
        raise MalformedError(code, "accepts: a list of offers is required")
    first = dict(next((offer for offer in offers if isinstance(offer, Mapping)), {}))
    version = version_of(value, code=code, default=1 if "maxAmountRequired" in first else 2)
    common = {name: value.get(name) for name in ("error", "resource", "extensions")}
    if isinstance(common["error"], Mapping):
        # OpenAI-compatible sellers put their usual error object here; its words are all that a challenge needs.
        common["error"] = common["error"].get("message")
    if common["resource"] is None or isinstance(common["resource"], str):
        common["resource"] = resource_in(first | {"resource": common["resource"] or first.get("resource")})
    return version, offers, common


def resource_in(offer: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a v1 offer says about the thing that is sold, as a v2 `resource`; v1 writes `""` where it has no words."""
    names = {"url": "resource", "description": "description", "mimeType": "mimeType"}
    described = {name: offer.get(old) for name, old in names.items()}
    said = {name: member for name, member in described.items() if isinstance(member, str) and member}
    return said if "url" in said else None


def requirement_out(offer: Mapping[str, Any], resource: Mapping[str, Any]) -> dict[str, Any]:
    """An offer with v1 members; v1 wants the resource repeated in each."""
    return {
        "scheme": offer["scheme"],
        "network": networks.to_v1(offer["network"]),
        "maxAmountRequired": offer["amount"],
        "resource": resource.get("url", ""),
        "description": resource.get("description", ""),
        "mimeType": resource.get("mimeType", ""),
        "payTo": offer["payTo"],
        "maxTimeoutSeconds": offer["maxTimeoutSeconds"],
        "asset": offer["asset"],
        "extra": offer.get("extra", {}),
    }


def challenge_out(challenge: Mapping[str, Any]) -> dict[str, Any]:
    """A v2 challenge object as a v1 402 body; offers of schemes and networks that v1 never had are left out."""
    resource = challenge.get("resource") or {}
    offers = [requirement_out(offer, resource) for offer in challenge["accepts"]]
    return {
        "x402Version": 1,
        "error": challenge.get("error") or "X-PAYMENT header is required",
        "accepts": [offer for offer in offers if offer["scheme"] == "exact" and ":" not in offer["network"]],
    }


def payment_in(value: Mapping[str, Any]) -> dict[str, Any]:
    """The v2-like members of a v1 payment: scheme and CAIP-2 network beside the payload, no `accepted`."""
    network = value.get("network")
    return {
        "scheme": value.get("scheme"),
        "network": networks.to_caip2(network) if isinstance(network, str) else network,
        "payload": value.get("payload"),
    }


def payment_out(payment: Mapping[str, Any]) -> dict[str, Any]:
    """A payment with v1 members."""
    return {
        "x402Version": 1,
        "scheme": payment["scheme"],
        "network": networks.to_v1(payment["network"]),
        "payload": payment["payload"],
    }


def receipt_out(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """A settlement result with the v1 network name and without v2-only members."""
    kept = {name: member for name, member in receipt.items() if name not in ("extensions", "amount", "extra")}
    return kept | {"network": networks.to_v1(str(receipt.get("network", "")))}

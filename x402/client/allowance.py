"""Whether Permit2 may move the payer's tokens: what must be known before a payment of scheme `upto` is signed.

One question to a node, in one request: the allowance, and the nonce with which an EIP-2612 permit would give it.
Without an answer such offers are not taken, because nothing is signed that the chain would refuse (protocol page §2.6).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from x402 import networks
from x402.errors import MalformedError
from x402.schemes import gas_sponsoring, upto_evm
from x402.wire.challenge import Challenge, Requirement
from x402.wire.strict import dump_json, parse_json

_WORD_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Allowance:
    """What Permit2 may move, in atomic units, and the token's next EIP-2612 nonce of the payer; None where the token
    has none."""

    units: int
    permit_nonce: int | None = None


Allowances = Mapping[tuple[str, str], Allowance]
"""By CAIP-2 network and the pinned asset's address."""


def asked_of(challenge: Challenge) -> Requirement | None:
    """The first offer of scheme `upto` in an asset that is known; None when there is none, and so nothing to ask."""
    for offer in challenge.accepts:
        network = networks.find(offer.network)
        if offer.scheme == upto_evm.SCHEME and network is not None and network.asset(offer.asset) is not None:
            return offer
    return None


def question(offer: Requirement, payer: str) -> bytes:
    """The JSON-RPC batch for an offer's asset."""
    calls = (upto_evm.allowance_call(payer), gas_sponsoring.nonce_call(payer))
    return dump_json(
        [
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "eth_call",
                "params": [{"to": offer.asset, "data": "0x" + call.hex()}, "latest"],
            }
            for number, call in enumerate(calls)
        ]
    ).encode()


def read_answer(status: int, body: bytes) -> Allowance | None:
    """What a node says; None for anything that is no answer."""
    try:
        replies = parse_json(body) if status == 200 else None
    except MalformedError:
        return None
    words: dict[Any, int | None] = {}
    for reply in replies if isinstance(replies, list) else ():
        if isinstance(reply, dict):
            words[json.dumps(reply.get("id"))] = _word(reply.get("result"))
    units = words.get("0")
    return None if units is None else Allowance(units, words.get("1"))


def _word(value: object) -> int | None:
    if not isinstance(value, str) or len(value) != _WORD_DIGITS + 2 or not value.startswith("0x"):
        return None
    try:
        return int(value, 16)
    except ValueError:
        return None

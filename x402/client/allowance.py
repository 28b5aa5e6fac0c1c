"""Whether Permit2 may move the payer's tokens: what must be known before a payment of scheme `upto` is signed.

One question to a node, in one request: the allowance, the nonce with which an EIP-2612 permit would give it, and what a
transaction of the payer's own would need that does. Without an answer such offers are not taken, because nothing is
signed that the chain would refuse (protocol page §2.6).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from x402 import networks
from x402.errors import MalformedError
from x402.schemes import gas_sponsoring, upto_evm
from x402.wire.challenge import Challenge, Requirement
from x402.wire.strict import dump_json, parse_json

_WORD = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,16}", re.ASCII)


FEE_MAX = 100 * 10**9
"""The most that an approval offers, in wei per gas, whatever a node says that gas costs."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a transaction of the payer's needs: its next nonce, and what gas costs now, in wei."""

    nonce: int
    gas_price: int
    tip: int

    @property
    def fees(self) -> tuple[int, int]:
        """What to offer for gas, in wei: twice what it costs, so that it is taken within minutes, and the tip."""
        highest = min(2 * self.gas_price, FEE_MAX)
        return highest, min(self.tip, highest)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What Permit2 may move, in atomic units, the token's next EIP-2612 nonce of the payer, None where the token has
    none, and the payer's account, None where no transaction of its own is wanted."""

    units: int
    permit_nonce: int | None = None
    account: Account | None = None


Allowances = Mapping[tuple[str, str], Allowance]
"""By CAIP-2 network and the pinned asset's address."""


def asked_of(challenge: Challenge) -> Requirement | None:
    """The first offer of scheme `upto` in an asset that is known; None when there is none, and so nothing to ask."""
    for offer in challenge.accepts:
        network = networks.find(offer.network)
        if offer.scheme == upto_evm.SCHEME and network is not None and network.asset(offer.asset) is not None:
            return offer
    return None


def question(offer: Requirement, payer: str, *, account: bool = False) -> bytes:
    """The JSON-RPC batch for an offer's asset; with `account` also for what a transaction of the payer's needs."""
    calls = (upto_evm.allowance_call(payer), gas_sponsoring.nonce_call(payer))
    asked: list[tuple[str, list[Any]]] = [
        ("eth_call", [{"to": offer.asset, "data": "0x" + call.hex()}, "latest"]) for call in calls
    ]
    if account:
        asked += [
            ("eth_getTransactionCount", [payer, "pending"]), ("eth_gasPrice", []), ("eth_maxPriorityFeePerGas", []),
        ]  # fmt: skip
    return dump_json(
        [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(asked)
        ]
    ).encode()


def read_answer(status: int, body: bytes) -> Allowance | None:
    """What a node says; None for anything that is no answer."""
    try:
        replies = parse_json(body) if status == 200 else None
    except MalformedError:
        return None
    said: dict[str, Any] = {}
    for reply in replies if isinstance(replies, list) else ():
        if isinstance(reply, dict):
            said[json.dumps(reply.get("id"))] = reply.get("result")
    units, permit_nonce = _number(said.get("0"), _WORD), _number(said.get("1"), _WORD)
    nonce, gas_price, tip = (_number(said.get(name), _QUANTITY) for name in ("2", "3", "4"))
    known = nonce is not None and gas_price is not None and tip is not None
    account = Account(nonce, gas_price, tip) if known else None  # type: ignore[arg-type]
    return None if units is None else Allowance(units, permit_nonce, account)


def _number(value: object, shape: re.Pattern[str]) -> int | None:
    return int(value, 16) if isinstance(value, str) and shape.fullmatch(value) else None

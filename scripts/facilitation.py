"""What verify and settle ask a facilitator about: a payment and the offer that it pays, in any form people have it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import testnet

if TYPE_CHECKING:
    from x402.wire.facilitation import Facilitation, Facilitator

REFUSED, PENDING = 5, 6
"""Exit codes, as `x402` has them."""


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """The options of verify and settle."""
    made = testnet.parser(description, example)
    made.add_argument(
        "payment", help="a PAYMENT-SIGNATURE header's value, JSON, a file with either, or - for standard input"
    )
    made.add_argument("--requirement", metavar="JSON", help="the offer, also as a file; else the one the payment names")
    made.add_argument("--facilitator", metavar="URL", help="ask this one; else in this process, by the environment")
    return made


def read(typed: argparse.Namespace) -> Facilitation:
    """The payment that was typed. Raises `MalformedError`, and `MisconfiguredError` for real money unasked."""
    from x402.errors import MalformedError
    from x402.wire.facilitation import parse_facilitation
    from x402.wire.headers import decode_header
    from x402.wire.strict import parse_object

    text = _contents(typed.payment)
    value = parse_object(text.encode()) if text.startswith("{") else decode_header(text)
    body: dict[str, Any] = dict(value)
    if "paymentPayload" not in body:
        body = {"x402Version": body.get("x402Version"), "paymentPayload": body}
        if isinstance(value.get("accepted"), dict):
            body["paymentRequirements"] = value["accepted"]
    if typed.requirement is not None:
        body["paymentRequirements"] = parse_object(_contents(typed.requirement).encode())
    if "paymentRequirements" not in body:
        raise MalformedError("no_requirement", "this payment names no offer (v1 never does); add --requirement")
    facilitation = parse_facilitation(body)
    testnet.network(facilitation.requirement.network, mainnet=typed.mainnet)
    return facilitation


def _contents(text: str) -> str:
    from x402.errors import MalformedError

    if text == "-":
        return sys.stdin.read().strip()
    if text.startswith("{"):
        return text
    try:
        file = Path(text)
        return file.read_text(encoding="utf-8").strip() if file.is_file() else text
    except (OSError, ValueError) as error:
        # A long header is no file name, and that is no failure.
        if len(text) > 200:
            return text
        raise MalformedError("unreadable_file", f"{text} can't be read: {type(error).__name__}") from None


@asynccontextmanager
async def facilitator(typed: argparse.Namespace, what: Facilitation, *, ledger: str = "") -> AsyncIterator[Facilitator]:
    """The facilitator that was named, or one in this process with the environment's keys.

    `ledger` overrules the environment's. Raises `MisconfiguredError` without a key and for a node of another chain.
    """
    from x402.facilitator.remote import RemoteFacilitator

    url = typed.facilitator or (testnet.LOCAL_FACILITATOR if typed.local else "")
    if url:
        remote = RemoteFacilitator(url)
        try:
            yield remote
        finally:
            await remote.aclose()
        return

    from x402 import networks
    from x402.facilitator.service import build_rails
    from x402.facilitator.settle import LocalFacilitator
    from x402.ports.ledger import SqlLedger
    from x402.settings import FacilitatorSettings

    network = testnet.network(what.requirement.network, mainnet=typed.mainnet)
    own, other = ("evm", "svm") if network.family == networks.EIP155 else ("svm", "evm")
    settings = FacilitatorSettings.read(
        **{f"{own}_network": network.id, f"{own}_rpc_url": testnet.node(network, typed), f"{other}_private_key": None},
        mainnet=typed.mainnet,
    )
    async with SqlLedger(ledger or settings.ledger) as memory:
        rails = build_rails(settings)
        for rail in rails:
            await rail.start()
        yield LocalFacilitator(rails, memory, settle_timeout_seconds=settings.settle_timeout_seconds)

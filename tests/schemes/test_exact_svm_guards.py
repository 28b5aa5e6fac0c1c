"""Lighthouse guards that wallets add: assertions pass wherever they stand, everything else is refused (C02, C14)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction

from tests.schemes.exact_svm_forge import (
    AMOUNT,
    GUARD,
    LAYOUTS,
    LIMIT,
    PRICE,
    SPONSOR,
    STRANGER,
    SYSTEM,
    accepted,
    guard,
    memo,
    refused,
    steps,
    transfer,
)
from x402.schemes import exact_svm_reasons as why
from x402.schemes.exact_svm_rules import ASSERTIONS, DEFAULT_LIMITS


@pytest.mark.parametrize("opcode", [0, 1, 16, 18, 255])
def test_C02_lighthouse_opcodes_that_are_no_plain_assertion(opcode: int) -> None:
    writes = Instruction(
        GUARD,
        bytes([opcode, 0, 255, 0, 0]),
        [
            AccountMeta(GUARD, False, False),
            AccountMeta(SYSTEM, False, False),
            AccountMeta(SPONSOR.pubkey(), True, True),
            AccountMeta(STRANGER.pubkey(), False, True),
        ],
    )
    for position in range(5):
        hostile = steps()
        hostile.insert(position, writes)
        assert refused(hostile) == why.GUARD


def test_C02_empty_lighthouse_instruction() -> None:
    assert refused([*steps(), Instruction(GUARD, b"", [])]) == why.GUARD


@pytest.mark.parametrize("opcode", sorted(ASSERTIONS))
def test_C02_assertions_on_the_fee_payer_are_accepted(opcode: int) -> None:
    assert accepted([*steps(), guard(opcode)]).transfer.amount == AMOUNT


def _laid_out(layout: dict[str, Any], hostile: Instruction | None = None) -> list[Instruction]:
    known = {"limit": steps()[LIMIT], "price": steps()[PRICE], "transfer": transfer(), "memo": memo()}
    built = []
    for name in layout["instructions"]:
        kind, _, size = name.partition(":")
        built.append(known[kind] if kind in known else hostile or guard(5, int(size)))
    return built


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout["name"])
def test_C14_wallet_layouts(layout: dict[str, Any]) -> None:
    assert accepted(_laid_out(layout)).transfer.amount == AMOUNT
    if any(name.startswith("guard") for name in layout["instructions"]):
        assert refused(_laid_out(layout, guard(0))) == why.GUARD
        assert refused(_laid_out(layout, Instruction(STRANGER.pubkey(), b"\x05", []))) != why.GUARD


def test_C14_guards_are_bounded() -> None:
    assert accepted([*steps(), *[guard(size=17 + i) for i in range(6)]])
    assert refused([*steps(), *[guard(size=17 + i) for i in range(7)]]) == why.GUARD_COUNT


def test_limits_are_data() -> None:
    strict = replace(DEFAULT_LIMITS, guards=0)
    assert refused([*steps(), guard()], limits=strict) == why.GUARD_COUNT

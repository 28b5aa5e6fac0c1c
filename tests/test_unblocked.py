"""The watch that all tests run under: what holds up an event loop is found, also where nobody hears of it (C16)."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.unblocked import HeldUpError
from x402.gateway.answers import key_beside


async def test_C16_what_waits_for_a_disk_on_the_loop_is_found(tmp_path: Path, held_up: list[str]) -> None:
    with pytest.raises(HeldUpError):
        key_beside(tmp_path / "ledger.sqlite")
    with contextlib.suppress(Exception):
        key_beside(tmp_path / "ledger.sqlite")
    assert held_up == ["os.stat", "os.stat"], "what somebody swallowed is remembered as well"
    held_up.clear()


async def test_C16_control_on_a_thread_it_may_wait(tmp_path: Path, held_up: list[str]) -> None:
    assert await asyncio.to_thread(key_beside, tmp_path / "ledger.sqlite")
    assert held_up == []


def test_C16_control_without_a_loop_it_may_wait(tmp_path: Path, held_up: list[str]) -> None:
    assert key_beside(tmp_path / "ledger.sqlite")
    assert held_up == []

"""Answers at rest: sealed, bound to their payment, and gone without their key (fault A22, E03)."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from x402.errors import MisconfiguredError
from x402.gateway.answers import Answers, key_beside
from x402.ports import Answer
from x402.settings import GatewaySettings

PRICED = {"GET /report": "$0.01"}
ANSWER = Answer(200, (("X-Kind", "té"), ("X-Kind", "b")), b"what was asked in confidence" * 9)


def answers(shop: Any, *keys: bytes) -> Answers:
    return Answers(shop.ledger, clock=lambda: shop.now, retention_seconds=600, keys=keys)


async def test_an_answer_at_rest_shows_nothing(shop: Any) -> None:
    shop.open()
    await shop.ledger.keep_answer("pay", answers(shop, b"first key").sealed("pay", ANSWER))
    stored = await shop.ledger.answer("pay")
    assert b"confidence" not in stored.body
    assert "té" not in str(stored.headers)
    assert await answers(shop, b"first key").find("pay") == ANSWER
    # A key that was changed: the new one seals, the old one still opens.
    assert await answers(shop, b"new key", b"first key").find("pay") == ANSWER


@pytest.mark.parametrize("how", ["lost key", "bit", "cut", "empty", "other payment", "other status"])
async def test_an_answer_that_cannot_be_opened_is_gone(shop: Any, how: str) -> None:
    shop.open()
    await shop.ledger.keep_answer("pay", answers(shop, b"key").sealed("pay", ANSWER))
    stored = await shop.ledger.answer("pay")
    body = {"bit": stored.body[:-1] + bytes([stored.body[-1] ^ 1]), "cut": stored.body[:20], "empty": b""}
    status = 201 if how == "other status" else stored.status
    await shop.ledger.keep_answer("pay", Answer(status, stored.headers, body.get(how, stored.body)))
    await shop.ledger.keep_answer("other", Answer(stored.status, stored.headers, stored.body))
    key = b"another key" if how == "lost key" else b"key"
    assert await answers(shop, key).find("other" if how == "other payment" else "pay") is None


async def test_an_answer_kept_before_sealing_is_still_read(shop: Any) -> None:
    shop.open()
    await shop.ledger.keep_answer("pay", ANSWER)
    assert await answers(shop, b"key").find("pay") == ANSWER


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_A22_a_lost_key_is_410_with_the_receipt_and_never_a_second_payment(
    shop: Any, town: Any, flow: str
) -> None:
    client = shop.open(PRICED, flow=flow)
    header = shop.payer.pay(await shop.challenge())
    first = await client.get("/report", headers=header)
    shop.paywall.till.register.answers = answers(shop, b"the key was lost")
    gone = await client.get("/report", headers=header)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "answer_gone")
    assert town.receipt_of(gone).transaction == town.receipt_of(first).transaction
    assert len(shop.bank.moved) == 1


def test_a_key_file_is_made_beside_the_ledger_for_its_owner_alone(tmp_path: Path) -> None:
    ledger = tmp_path / "gateway.sqlite"
    key = key_beside(ledger)
    path = tmp_path / "gateway.sqlite.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key) == 64
    assert key_beside(ledger) == key
    assert [file.name for file in tmp_path.iterdir()] == ["gateway.sqlite.key"]
    path.write_bytes(b"short")
    with pytest.raises(MisconfiguredError, match="X402_ANSWER_KEY"):
        key_beside(ledger)
    with pytest.raises(MisconfiguredError, match="X402_ANSWER_KEY"):
        key_beside(tmp_path / "nowhere" / "gateway.sqlite")


async def test_a_restart_on_the_same_file_opens_what_was_kept(shop: Any, tmp_path: Path) -> None:
    place = tmp_path / "gateway.sqlite"
    client = shop.open(PRICED, ledger=str(place), answer_keys=())
    await shop.paywall.start({"type": "lifespan"})
    header = shop.payer.pay(await shop.challenge())
    assert (await client.get("/report", headers=header)).json() == {"report": "secret 1"}
    await shop.paywall.stop()
    assert b"secret 1" not in b"".join(row[0] for row in sqlite3.connect(place).execute("select body from answers"))
    shop.app.router.routes[:] = [route for route in shop.app.router.routes if getattr(route, "path", "") != "/report"]

    @shop.app.get("/report")
    async def another() -> dict[str, str]:
        return {"report": "made again"}

    client = shop.open(PRICED, ledger=str(place), answer_keys=())
    assert (await client.get("/report", headers=header)).json() == {"report": "secret 1"}
    await shop.paywall.stop()


def test_a_short_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X402_ANSWER_KEY", "too short")
    with pytest.raises(MisconfiguredError, match="16 characters"):
        assert GatewaySettings.read().answer_keys
    monkeypatch.setenv("X402_ANSWER_KEY", "k" * 16 + "," + "l" * 16)
    assert GatewaySettings.read().answer_keys == (b"k" * 16, b"l" * 16)
    assert "kkkk" not in repr(GatewaySettings.read())

"""How an answer lies in the ledger byte by byte, which are found again, and where the key comes from (fault A22)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from x402.errors import MisconfiguredError
from x402.gateway.answers import MIN_KEY_BYTES, Answers, key_beside, keys_beside
from x402.ports import Answer

ANSWER = Answer(201, (("X-Kind", "té"), ("X-Kind", "b")), b"what was asked in confidence")
KEPT = b"twelve bytes"
"""A nonce that is used nowhere else."""


class Shelf:
    """What a ledger does with answers."""

    def __init__(self) -> None:
        self.kept: dict[str, Answer] = {}
        self.forgotten: list[int] = []

    async def answer(self, pay_id: str) -> Answer | None:
        return self.kept.get(pay_id)

    async def forget_answers(self, before: int) -> int:
        self.forgotten.append(before)
        return 7


def answers(shelf: Shelf, *keys: bytes) -> Answers:
    ledger: Any = shelf
    return Answers(ledger, clock=lambda: 10_000, retention_seconds=600, keys=keys)


def cipher(key: bytes) -> AESGCM:
    return AESGCM(hashlib.blake2b(key, digest_size=32, person=b"x402 answers").digest())


async def test_an_answer_lies_as_nonce_tag_and_text_so_that_every_version_opens_it() -> None:
    shelf = Shelf()
    sealed = answers(shelf, b"first key").sealed("pay", ANSWER)
    assert (sealed.status, sealed.headers, sealed.complete) == (201, (("x402-sealed", "1"),), True)
    nonce, tag, text = sealed.body[:12], sealed.body[12:28], sealed.body[28:]
    head = b'[["X-Kind","t\\u00e9"],["X-Kind","b"]]'
    plain = len(head).to_bytes(4, "big") + head + ANSWER.body
    assert cipher(b"first key").decrypt(nonce, text + tag, b"201 pay") == plain
    assert answers(shelf, b"first key").sealed("pay", ANSWER).body[:12] != nonce

    kept = cipher(b"old").encrypt(KEPT, plain, b"201 pay")
    shelf.kept["pay"] = replace(sealed, body=KEPT + kept[-16:] + kept[:-16])
    assert await answers(shelf, b"new", b"old").find("pay") == ANSWER


async def test_the_first_key_seals_and_every_key_opens() -> None:
    shelf = Shelf()
    shelf.kept["pay"] = answers(shelf, b"new", b"old", b"older").sealed("pay", ANSWER)
    assert await answers(shelf, b"new").find("pay") == ANSWER
    assert await answers(shelf, b"older", b"old", b"new").find("pay") == ANSWER
    assert await answers(shelf, b"old").find("pay") is None


async def test_without_a_key_nobody_else_opens_what_is_sealed() -> None:
    shelf = Shelf()
    mine = answers(shelf)
    shelf.kept["pay"] = mine.sealed("pay", ANSWER)
    assert await mine.find("pay") == ANSWER
    assert await answers(shelf).find("pay") is None
    assert await answers(shelf, b"").find("pay") is None


@pytest.mark.parametrize(
    ("status", "complete", "found"),
    [(200, True, True), (399, True, True), (400, True, False), (401, True, False), (500, True, False),
     (200, False, False), (400, False, False)],
)  # fmt: skip
async def test_only_a_whole_and_good_answer_is_found_again(status: int, complete: bool, found: bool) -> None:
    shelf = Shelf()
    answer = replace(ANSWER, status=status, complete=complete)
    shelf.kept["pay"] = answers(shelf, b"key").sealed("pay", answer)
    assert await answers(shelf, b"key").find("pay") == (answer if found else None)
    assert await answers(shelf, b"key").find("unknown") is None


async def test_an_answer_without_headers_or_body_is_found_again() -> None:
    shelf = Shelf()
    shelf.kept["pay"] = answers(shelf, b"key").sealed("pay", Answer(204, (), b""))
    assert await answers(shelf, b"key").find("pay") == Answer(204, (), b"")


async def test_answers_are_forgotten_so_many_seconds_after_their_payment_ended() -> None:
    shelf = Shelf()
    assert await answers(shelf, b"key").forget() == 7
    assert shelf.forgotten == [9400]


# Where the key comes from.


def test_a_ledger_that_is_a_file_has_its_key_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledger: Any = Shelf()
    for nothing in ("sqlite://", "postgresql://host/name", "", ledger):
        assert keys_beside(nothing) == ()
    assert list(tmp_path.iterdir()) == []
    for place in ("a.sqlite", Path("b.sqlite"), f"sqlite:///{tmp_path / 'c.sqlite'}", None):
        (key,) = keys_beside(place)
        assert len(key) == 64
        assert keys_beside(place) == (key,)
    assert {file.name for file in tmp_path.iterdir()} == {
        "a.sqlite.key", "b.sqlite.key", "c.sqlite.key", "x402-gateway.sqlite.key",
    }  # fmt: skip


@pytest.mark.parametrize(("length", "good"), [(15, False), (16, True), (17, True)])
def test_a_key_has_sixteen_bytes_at_least(tmp_path: Path, length: int, good: bool) -> None:
    path = tmp_path / "ledger.sqlite.key"
    path.write_bytes(b"  " + b"k" * length + b"\n")
    if good:
        assert key_beside(tmp_path / "ledger.sqlite") == b"k" * length
        return
    with pytest.raises(MisconfiguredError) as refused:
        key_beside(tmp_path / "ledger.sqlite")
    assert refused.value.code == "no_answer_key"
    assert refused.value.message == f"{path}: no key in it; delete the file, or set X402_ANSWER_KEY"
    assert MIN_KEY_BYTES == 16


def test_a_key_that_cannot_be_made_says_why_and_what_helps(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        key_beside(tmp_path / "nowhere" / "ledger.sqlite")
    assert refused.value.code == "no_answer_key"
    path = tmp_path / "nowhere" / "ledger.sqlite.key"
    assert refused.value.message == f"{path}: No such file or directory; or set X402_ANSWER_KEY"


def test_a_key_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    fsync, link = os.fsync, os.link

    def syncs(handle: int) -> None:
        done.append(os.fstat(handle).st_size)
        fsync(handle)

    def links(fresh: Path, path: Path) -> None:
        done.append(path.name)
        link(fresh, path)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(os, "link", links)
    key_beside(tmp_path / "ledger.sqlite")
    assert done == [65, "ledger.sqlite.key"]


def test_two_that_start_at_once_agree_on_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def links(fresh: Path, path: Path) -> None:
        path.write_bytes(b"the key of whoever came first\n")
        link(fresh, path)

    monkeypatch.setattr(os, "link", links)
    assert key_beside(tmp_path / "ledger.sqlite") == b"the key of whoever came first"
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.sqlite.key"]

"""Answers that were paid for, kept for the same payment to be sent again, and unreadable without the seller's key.

An answer may hold what a person asked a model in confidence, so it lies in the ledger as AES-256-GCM ciphertext, bound
to its payment. Without the key it was sealed with, it counts as gone: 410 with the receipt, never an error (A22).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from x402.errors import MisconfiguredError
from x402.ports import Answer, Clock, Ledger

LEDGER_FILE = "x402-gateway.sqlite"
MIN_KEY_BYTES = 16
_SEAL = "x402-sealed"
_VERSION = "1"
_NONCE_BYTES, _TAG_BYTES = 12, 16


class Answers:
    """The kept answers of one seller.

    The first of `keys` seals, all are tried for opening, so that a key can be changed; without any a fresh one is made
    that dies with the process. Each key is a secret of any length. An answer is forgotten `retention_seconds` after its
    payment ended; 0 keeps none beyond delivery.
    """

    def __init__(self, ledger: Ledger, *, clock: Clock, retention_seconds: int, keys: Sequence[bytes] = ()) -> None:
        self.ledger = ledger
        self.retention_seconds = retention_seconds
        self._clock = clock
        self._keys = [_derived(key) for key in keys or (secrets.token_bytes(32),)]

    async def find(self, pay_id: str) -> Answer | None:
        """The answer of a payment when it is whole, good, and readable with the keys at hand."""
        answer = await self.ledger.answer(pay_id)
        if answer is None or not answer.complete or answer.status >= 400:
            return None
        return self._open(pay_id, answer)

    async def forget(self) -> int:
        """Delete the answers of payments that ended longer ago than answers are kept; returns how many."""
        return await self.ledger.forget_answers(self._clock() - self.retention_seconds)

    def sealed(self, pay_id: str, answer: Answer) -> Answer:
        """An answer as the ledger keeps it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = json.dumps(answer.headers, separators=(",", ":")).encode()
        plain = len(head).to_bytes(4, "big") + head + answer.body
        sealed = self._keys[0].encrypt(nonce, plain, _bound_to(pay_id, answer.status))
        body, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
        return Answer(answer.status, ((_SEAL, _VERSION),), nonce + tag + body, answer.complete)

    def _open(self, pay_id: str, answer: Answer) -> Answer | None:
        if (_SEAL, _VERSION) not in answer.headers:
            # Kept by a version that did not seal yet.
            return answer
        sealed, start = answer.body, _NONCE_BYTES + _TAG_BYTES
        if len(sealed) < start:
            return None
        nonce, tag, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:start], sealed[start:]
        for key in self._keys:
            try:
                plain = key.decrypt(nonce, body + tag, _bound_to(pay_id, answer.status))
            except InvalidTag:
                continue
            end = 4 + int.from_bytes(plain[:4], "big")
            headers = json.loads(plain[4:end])
            return Answer(answer.status, tuple((name, value) for name, value in headers), plain[end:], answer.complete)
        return None


def keys_beside(ledger: Ledger | str | Path | None) -> tuple[bytes, ...]:
    """The one key of a ledger that is a file, the default one for None; an object's owner gives keys, or none.

    Raises what `key_beside` raises.
    """
    place = str(ledger if isinstance(ledger, str | Path) else LEDGER_FILE if ledger is None else "")
    path = place.removeprefix("sqlite:///")
    return (key_beside(Path(path)),) if path and "://" not in path else ()


def key_beside(ledger: Path) -> bytes:
    """The key for the answers in a ledger file: kept beside it, in a file of its own that only its owner may read.

    Raises `MisconfiguredError` when that can't be read or made.
    """
    path = ledger.with_name(ledger.name + ".key")
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise MisconfiguredError("no_answer_key", f"{path}: {error.strerror}; or set X402_ANSWER_KEY") from error
    if len(key) < MIN_KEY_BYTES:
        raise MisconfiguredError("no_answer_key", f"{path}: no key in it; delete the file, or set X402_ANSWER_KEY")
    return key


def _make_key(path: Path) -> None:
    # Written whole under another name, so that two processes that start at once agree on one.
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_hex(32).encode() + b"\n")
        file.flush()
        os.fsync(handle)
    try:
        with suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()


def _derived(secret: bytes) -> AESGCM:
    return AESGCM(hashlib.blake2b(secret, digest_size=32, person=b"x402 answers").digest())


def _bound_to(pay_id: str, status: int) -> bytes:
    return f"{status} {pay_id}".encode()

"""Answers that were given already, for a request that is the same to the byte (aimo row 74).

Off unless the operator turns it on, because a buyer who asks twice may want two answers: `"provider": {"cache": false}`
in a request asks anew. An answer is given to the payer who bought it, and to nobody else unless the operator says so.
Kept in this process's memory alone; streams are never kept.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from x402.ports import Clock
from x402.quote import Usage
from x402.wire.strict import dump_json

BYTES_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """One answer with what it used."""

    body: bytes
    members: dict[str, Any]
    usage: Usage
    until: int


class AnswerCache:
    """Keeps whole answers for `seconds`, the ones used last, up to a bound in bytes. With `shared` all payers see
    them."""

    def __init__(self, seconds: int, *, clock: Clock, shared: bool = False, bytes_limit: int = BYTES_LIMIT) -> None:
        self._seconds = seconds
        self._clock = clock
        self._shared = shared
        self._limit = bytes_limit
        self._size = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def key(self, payer: str, model: str, members: Mapping[str, Any]) -> str:
        """What makes two requests the same: who asks, which model, and everything in the body."""
        whose = "" if self._shared else payer
        return hashlib.sha256("\n".join((whose, model, dump_json(dict(members)))).encode()).hexdigest()

    def find(self, key: str) -> Kept | None:
        """The answer, while it is fresh."""
        known = self._kept.get(key)
        if known is None:
            return None
        if known.until <= self._clock():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return known

    def keep(self, key: str, body: bytes, members: dict[str, Any], usage: Usage) -> None:
        """Keep an answer, and forget those that were not asked for longest where there is no room."""
        if len(body) > self._limit // 16:
            return
        self._drop(key)
        self._kept[key] = Kept(body, members, usage, self._clock() + self._seconds)
        self._size += len(body)
        while self._size > self._limit:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        known = self._kept.pop(key, None)
        if known is not None:
            self._size -= len(known.body)

"""What the Solana devnet remembers: landed transactions, newest kept, oldest forgotten."""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Landed:
    """One transaction in the ledger; it may have failed, but it has paid its fee.

    `error` is the JSON form of a Solana `TransactionError`, None for success. The metadata of
    `getTransaction` is kept compressed, because a long run holds a few hundred thousand of these.
    """

    signature: str
    slot: int
    block_time: int
    error: Json
    raw: bytes
    packed_meta: bytes
    addresses: tuple[Pubkey, ...]

    @property
    def transaction(self) -> VersionedTransaction:
        return VersionedTransaction.from_bytes(self.raw)

    @property
    def meta(self) -> dict[str, Json]:
        """The status metadata, unpacked."""
        meta: dict[str, Json] = json.loads(zlib.decompress(self.packed_meta))
        return meta


def pack(meta: Mapping[str, Json]) -> bytes:
    """The stored form of a transaction's metadata."""
    return zlib.compress(json.dumps(meta, separators=(",", ":")).encode(), 1)


class History:
    """The last `limit` landed transactions, by signature and by address."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._landed: dict[str, Landed] = {}
        self._by_address: dict[Pubkey, deque[Landed]] = {}
        self._known: dict[Pubkey, Pubkey] = {}
        self.total = 0

    def __len__(self) -> int:
        return len(self._landed)

    def shared(self, addresses: Sequence[Pubkey]) -> tuple[Pubkey, ...]:
        """The same addresses without repetition, as the objects that the history holds already; this saves a
        quarter of its memory, since most transactions name the same programs, mint and payers."""
        return tuple(self._known.get(address, address) for address in dict.fromkeys(addresses))

    def add(self, landed: Landed) -> None:
        """Remember a transaction, and forget the oldest beyond the limit."""
        self.total += 1
        self._landed[landed.signature] = landed
        for address in landed.addresses:
            self._known.setdefault(address, address)
            self._by_address.setdefault(address, deque()).append(landed)
        while len(self._landed) > self._limit:
            self._forget(self._landed.pop(next(iter(self._landed))))

    def get(self, signature: str) -> Landed | None:
        return self._landed.get(signature)

    def touching(self, address: Pubkey) -> Iterator[Landed]:
        """Transactions that name `address`, newest first."""
        return reversed(self._by_address.get(address, deque()))

    def _forget(self, oldest: Landed) -> None:
        for address in oldest.addresses:
            queue = self._by_address[address]
            queue.popleft()
            if not queue:
                del self._by_address[address]
                del self._known[address]

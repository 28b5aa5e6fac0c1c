"""The book of API keys: what each may do, what it has done, and who changed it, in the ledger's database.

A key itself is never in it: only its SHA-256. Every method is one transaction, and every change leaves a row in the
append-only trail (aimo row 18).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, select, update

from x402.ports.ledger import SqlLedger
from x402.ports.operator_schema import api_keys, key_events, signed_requests
from x402.ports.schema import upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as the book has it. Times are unix seconds and 0 is never; 0 uses is no limit.

    `account` pays (CAIP-10, or `key:<id>`), `addresses` are the networks in CIDR notation from which it may be used,
    none meaning any, `spend_limit` is in atomic USDC. `signing` is the sealed secret of keys that sign their requests.
    """

    key_id: str
    digest: str
    account: str
    name: str = ""
    hint: str = ""
    scopes: frozenset[str] = frozenset()
    addresses: tuple[str, ...] = ()
    tier: str = ""
    created_at: int = 0
    expires_at: int = 0
    usage_limit: int = 0
    uses: int = 0
    spend_limit: int | None = None
    signing: bytes = field(default=b"", repr=False)
    signed_only: bool = False
    revoked_at: int = 0
    former_digest: str = ""
    former_until: int = 0


@dataclass(frozen=True, slots=True)
class Fresh:
    """What is new about a key that was rotated."""

    digest: str
    hint: str
    signing: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """One line of the trail."""

    key_id: str
    at: int
    event: str
    actor: str
    details: Mapping[str, Any] = field(default_factory=dict)


class KeyTaken(Exception):
    """The book has a key with this digest already."""


Check = Callable[[ApiKey], None]
"""Raises when a key may not be used now. Pure: it runs inside a transaction."""


class KeyBook(Protocol):
    """All keys of a gateway."""

    async def add(self, key: ApiKey, *, actor: str) -> None:
        """Write a new key. Raises `KeyTaken`."""
        ...

    async def find(self, digest: str) -> ApiKey | None: ...

    async def get(self, key_id: str) -> ApiKey | None: ...

    async def use(self, digest: str, check: Check) -> ApiKey | None:
        """Count one use of a key that `check` lets pass: read, checked and counted at once, so that no two requests
        share the last use. None when there is no such key; what `check` raises is raised, and nothing was counted."""
        ...

    async def keys_of(self, account: str | None = None, *, limit: int = 200) -> Sequence[ApiKey]:
        """The keys that an account pays for, or all, the newest first."""
        ...

    async def revoke(self, key_id: str, *, actor: str, reason: str = "") -> bool:
        """End a key for good; False when it had ended, or never was."""
        ...

    async def rotate(self, key_id: str, fresh: Fresh, *, overlap_seconds: int, actor: str) -> bool:
        """Give a key another text; the one before is good for `overlap_seconds` more. False when it had ended."""
        ...

    async def trail(self, key_id: str) -> Sequence[KeyEvent]: ...

    async def record(self, key_id: str, event: str, *, actor: str, details: Mapping[str, Any] | None = None) -> None:
        """Add a line to the trail that no other method writes."""
        ...

    async def spend_signature(self, digest: str, until: int) -> bool:
        """Accept a request's signature, once; False when it has come before. It is remembered until unix second
        `until`, after which its time stamp is too old anyway."""
        ...


class SqlKeys:
    """`KeyBook` on the ledger's database and write thread."""

    def __init__(self, ledger: SqlLedger) -> None:
        self.ledger = ledger

    async def add(self, key: ApiKey, *, actor: str) -> None:
        now = self.ledger.clock()

        def write(connection: Connection) -> None:
            _insert(connection, key)
            _log(connection, key.key_id, now, "created", actor, _told(key))

        await self.ledger.run(write, ("key", key.digest))

    async def find(self, digest: str) -> ApiKey | None:
        return await self._one(_bearing(digest, self.ledger.clock()))

    async def get(self, key_id: str) -> ApiKey | None:
        return await self._one(api_keys.c.key_id == key_id)

    async def use(self, digest: str, check: Check) -> ApiKey | None:
        now = self.ledger.clock()

        def count(connection: Connection) -> ApiKey | None:
            mine = _bearing(digest, now)
            row = connection.execute(select(api_keys).where(mine).with_for_update()).one_or_none()
            if row is None:
                return None
            key = _key_of(row)
            check(key)
            counted = update(api_keys).where(api_keys.c.key_id == key.key_id)
            connection.execute(counted.values(uses=key.uses + 1, used_at=now))
            return replace(key, uses=key.uses + 1)

        return await self.ledger.run(count, ("key", digest))

    async def keys_of(self, account: str | None = None, *, limit: int = 200) -> Sequence[ApiKey]:
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.key_id).limit(limit)
        if account is not None:
            query = query.where(api_keys.c.account == account)
        return await self.ledger.run(lambda connection: [_key_of(row) for row in connection.execute(query)])

    async def revoke(self, key_id: str, *, actor: str, reason: str = "") -> bool:
        now = self.ledger.clock()

        def end(connection: Connection) -> bool:
            return _end(connection, key_id, now, actor, {"reason": reason} if reason else {})

        return await self.ledger.run(end)

    async def rotate(self, key_id: str, fresh: Fresh, *, overlap_seconds: int, actor: str) -> bool:
        now = self.ledger.clock()

        def turn(connection: Connection) -> bool:
            mine = (api_keys.c.key_id == key_id) & (api_keys.c.revoked_at == 0)
            row = connection.execute(select(api_keys).where(mine).with_for_update()).one_or_none()
            if row is None or 0 < row.expires_at <= now:
                return False
            values = {"digest": fresh.digest, "hint": fresh.hint, "signing": fresh.signing or None}
            former = {"former_digest": row.digest, "former_until": now + overlap_seconds}
            connection.execute(update(api_keys).where(mine).values(**values, **former))
            told = {"before": row.hint, "after": fresh.hint, "overlap_seconds": overlap_seconds}
            _log(connection, key_id, now, "rotated", actor, told)
            return True

        return await self.ledger.run(turn, ("key", fresh.digest))

    async def trail(self, key_id: str) -> Sequence[KeyEvent]:
        query = select(key_events).where(key_events.c.key_id == key_id).order_by(key_events.c.seq)

        def read(connection: Connection) -> Sequence[KeyEvent]:
            rows = connection.execute(query)
            return [KeyEvent(row.key_id, row.at, row.event, row.actor, json.loads(row.details)) for row in rows]

        return await self.ledger.run(read)

    async def record(self, key_id: str, event: str, *, actor: str, details: Mapping[str, Any] | None = None) -> None:
        now = self.ledger.clock()
        await self.ledger.run(lambda connection: _log(connection, key_id, now, event, actor, details or {}))

    async def spend_signature(self, digest: str, until: int) -> bool:
        now = self.ledger.clock()

        def spend(connection: Connection) -> bool:
            connection.execute(delete(signed_requests).where(signed_requests.c.until < now))
            statement = upsert(connection, signed_requests).values(digest=digest, until=until)
            written = statement.on_conflict_do_nothing().returning(signed_requests.c.digest)
            return connection.execute(written).first() is not None

        return await self.ledger.run(spend)

    async def _one(self, where: Any) -> ApiKey | None:
        def read(connection: Connection) -> ApiKey | None:
            row = connection.execute(select(api_keys).where(where)).one_or_none()
            return None if row is None else _key_of(row)

        return await self.ledger.run(read)


def _bearing(digest: str, now: int) -> ColumnElement[bool]:
    """The key with this digest, or with the one that it had before it was rotated a moment ago."""
    former = (api_keys.c.former_digest == digest) & (api_keys.c.former_until > now)
    return (api_keys.c.digest == digest) | former


def _insert(connection: Connection, key: ApiKey) -> None:
    columns = {
        "key_id": key.key_id,
        "digest": key.digest,
        "account": key.account,
        "name": key.name,
        "hint": key.hint,
        "scopes": json.dumps(sorted(key.scopes)),
        "addresses": json.dumps(list(key.addresses)),
        "tier": key.tier,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "usage_limit": str(key.usage_limit),
        "uses": key.uses,
        "used_at": 0,
        "spend_limit": key.spend_limit,
        "signing": key.signing or None,
        "signed_only": key.signed_only,
        "revoked_at": key.revoked_at,
        "former_digest": key.former_digest,
        "former_until": key.former_until,
    }
    statement = upsert(connection, api_keys).values(**columns).on_conflict_do_nothing().returning(api_keys.c.key_id)
    if connection.execute(statement).first() is None:
        raise KeyTaken(key.key_id)


def _end(connection: Connection, key_id: str, now: int, actor: str, details: Mapping[str, Any]) -> bool:
    mine = (api_keys.c.key_id == key_id) & (api_keys.c.revoked_at == 0)
    # A clock that stands at 0 must not leave the key alive.
    ended = connection.execute(update(api_keys).where(mine).values(revoked_at=max(now, 1))).rowcount == 1
    if ended:
        _log(connection, key_id, now, "revoked", actor, details)
    return ended


def _log(connection: Connection, key_id: str, now: int, event: str, actor: str, details: Mapping[str, Any]) -> None:
    told = json.dumps(dict(details), separators=(",", ":"))
    connection.execute(insert(key_events).values(key_id=key_id, at=now, event=event, actor=actor, details=told))


def _told(key: ApiKey) -> dict[str, Any]:
    """What the trail says of a new key."""
    return {
        "name": key.name,
        "account": key.account,
        "scopes": sorted(key.scopes),
        "addresses": list(key.addresses),
        "expires_at": key.expires_at,
        "usage_limit": key.usage_limit,
        "spend_limit": key.spend_limit,
    }


def _key_of(row: Row[Any]) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        digest=row.digest,
        account=row.account,
        name=row.name,
        hint=row.hint,
        scopes=frozenset(json.loads(row.scopes)),
        addresses=tuple(json.loads(row.addresses)),
        tier=row.tier,
        created_at=row.created_at,
        expires_at=row.expires_at,
        usage_limit=int(row.usage_limit),
        uses=row.uses,
        spend_limit=row.spend_limit,
        signing=row.signing or b"",
        signed_only=row.signed_only,
        revoked_at=row.revoked_at,
        former_digest=row.former_digest,
        former_until=row.former_until,
    )

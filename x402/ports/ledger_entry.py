"""A payment's row as the memory that it is, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from x402.errors import Mender, UnavailableError
from x402.lifecycle import Entry, Party, Subject
from x402.ports.ledger_text import compact
from x402.stages import STAGES, Intended, Stage, State, stage_of

_MEMBERS: Mapping[State, tuple[str, ...]] = {
    state: tuple(member.name for member in fields(kind)) for state, kind in STAGES.items()
}


def entry_of(row: Any) -> Entry:
    """A row as the memory that it is. Raises `UnavailableError("ledger_damaged")` for one that nobody here wrote."""
    try:
        return _parsed(row)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnavailableError(
            "ledger_damaged",
            f"the ledger's row of payment {row.pay_id!s:.200} can't be read: `x402 ledger audit` says what is wrong",
            mender=Mender.OPERATOR,
        ) from error


def _parsed(row: Any) -> Entry:
    told: dict[str, Any] = json.loads(row.stage)
    state = State(row.state)
    if "raw" in _MEMBERS[state]:
        told["raw"] = row.raw or row.bundle or b""
    subject = Subject(
        pay_id=row.pay_id,
        network=row.network,
        asset=row.asset,
        payer=row.payer,
        payee=row.payee,
        amount=int(row.amount),
        expires_at=row.expires_at,
        fingerprint=row.fingerprint,
        record=json.loads(row.record),
    )
    return Entry(Party(row.party), subject, stage_of(state, told), row.created_at, row.updated_at)


def written(stage: Stage) -> tuple[str, dict[str, Any]]:
    """A stage as text, and what of it stands in columns: bytes, which only newer bytes replace, sender and nonce."""
    members = {name: getattr(stage, name) for name in _MEMBERS[stage.state]}
    if members.get("amount") is None:
        members.pop("amount", None)
    raw = members.pop("raw", b"")
    shared = isinstance(stage, Intended) and stage.shares > 1
    columns: dict[str, Any] = {"raw": raw} if raw and not shared else {}
    if isinstance(stage, Intended):
        columns |= {"sender": stage.sender, "nonce": stage.nonce}
    return compact(members), columns

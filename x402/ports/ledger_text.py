"""A ledger's rows as they stand in the tables, and the texts in them: how they are written, and read again.

Nothing here trusts a row: whatever stands in a text is read as far as it goes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BEGIN = "begin"
"""The event that no arrow stands for: the first memory of a payment."""

SUBJECT = "subject"
"""The member of a first event that repeats what never changes."""

compact = json.JSONEncoder(separators=(",", ":")).encode
"""A value as JSON without blanks, as it stands in the tables."""

CONSTANTS = ("network", "asset", "payer", "payee", "amount", "expires_at", "fingerprint", "record")


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """A row of `payments`; `constants` are its columns that never change, by name."""

    party: str
    pay_id: str
    state: str
    stage: str
    created_at: int
    updated_at: int
    constants: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of `events`."""

    event: str
    after: str
    stage: str
    at: int


@dataclass(frozen=True, slots=True)
class History:
    """A payment with its events, oldest first; no payment when only events are left of it."""

    party: str
    pay_id: str
    payment: PaymentRow | None
    events: tuple[EventRow, ...]


def attest(stage: str, constants: Mapping[str, Any]) -> str:
    """The first event's text: the stage, and what never changes about the payment, its record as a digest."""
    repeated = {name: constants[name] for name in CONSTANTS if name != "record"}
    repeated["record_sha256"] = digest_of(constants["record"])
    return compact({**json.loads(stage), SUBJECT: repeated})


def transaction_of(stage: str) -> str:
    """The transaction that a stage names, or `""`."""
    return str(members_of(stage).get("transaction") or "")


def transactions_of(stage: str) -> Sequence[str]:
    """Every transaction that a stage names, the newest first, those that were replaced after it."""
    earlier = members_of(stage).get("earlier")
    named = [transaction_of(stage), *reversed(earlier if isinstance(earlier, list) else [])]
    return [str(one) for one in named if one]


def stage_of(stage: str) -> str:
    """The stage that an event's text tells, without what the first one repeats: as it stands in the row."""
    members = members_of(stage)
    if SUBJECT not in members:
        return stage
    return compact({name: value for name, value in members.items() if name != SUBJECT})


def amount_of(row: PaymentRow) -> str:
    """What is due of a payment or has moved, as digits: what its stage tells, else all that was signed."""
    told = members_of(row.stage).get("amount")
    return str(told) if type(told) is int else str(row.constants["amount"])


def members_of(text: object) -> dict[str, Any]:
    """A JSON object, or an empty one for whatever else stands there."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def digest_of(text: object) -> str:
    """SHA-256 of a text, hex."""
    return hashlib.sha256(str(text).encode("utf-8", "surrogatepass")).hexdigest()

"""One payment as the client remembers it: a row of the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from x402.errors import MalformedError, Mender, UnavailableError
from x402.lifecycle import Entry, Party, Subject
from x402.money import EXACT_CONTEXT, round_up
from x402.stages import State, stage_of
from x402.wire.receipt import Receipt, parse_receipt

_ALIVE_MARGIN_SECONDS = 60
"""How far our clock and the chain's may differ before a signature is taken for dead."""
_ALIVE_WITHOUT_EXPIRY_SECONDS = 300
"""A Solana blockhash serves 150 blocks, which is 60 to 90 seconds; this is how long we take it to live."""


EARLIER = "earlier"
"""Member of a subject's record: what was presented before with the same nonce, each as `Earlier`."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A header that another took the place of. It can still be the one that is paid, whatever was said of the other
    since, so it stays in the row in every state. `amount` is atomic."""

    header_name: str
    header: str = field(repr=False)
    amount: int
    payee: str


class Finding(StrEnum):
    """What the chain said of the transaction that a seller's receipt names (fault B13)."""

    CONFIRMED = "confirmed"
    """It made our transfer."""
    DISPUTED = "receipt_disputed"
    """It did not: the receipt is no evidence, whatever was served for it."""


@dataclass(frozen=True, slots=True)
class Check:
    """A receipt compared with the chain at the unix second `at`; `words` say what was found."""

    finding: Finding
    words: str
    at: int


@dataclass(frozen=True, slots=True)
class Record:
    """One payment as the client remembers it.

    `header_name` and `header` are the very text that was presented. `open` says that no answer was received for it
    yet, so that the next call for the same request presents it again; `answered_at` is the unix second at which one
    had arrived, 0 when none has. `check` is what became of its receipt on chain, None while nobody has looked.
    """

    entry: Entry
    host: str
    usd: Decimal
    header_name: str = ""
    header: str = field(default="", repr=False)
    receipt: Receipt | None = None
    open: bool = True
    answered_at: int = 0
    check: Check | None = None
    earlier: tuple[Earlier, ...] = ()
    """What was presented before it with the same nonce, the first one first."""

    @property
    def pay_id(self) -> str:
        return self.entry.subject.pay_id

    @property
    def state(self) -> State:
        return self.entry.state

    def alive(self, now: int) -> bool:
        """Whether the signature may still move money by our own clock; `now` is in unix seconds.

        Only the chain can prove the contrary (fault A23).
        """
        expires_at = self.entry.subject.expires_at
        if expires_at:
            return now < expires_at + _ALIVE_MARGIN_SECONDS
        return now < self.entry.created_at + _ALIVE_WITHOUT_EXPIRY_SECONDS


def record_of(row: Any) -> Record:
    """The record in a row of the table `payments`. Raises `UnavailableError("journal_damaged")` for one that nobody
    here wrote."""
    try:
        return _parsed(row)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, MalformedError) as error:
        raise damaged(f"payment {row['pay_id']!s:.200}") from error


def damaged(what: str) -> UnavailableError:
    """The error for what stands in the journal and was written by something else."""
    return UnavailableError(
        "journal_damaged",
        f"{what} in the journal can't be read: something else wrote to its file. Put a copy from before that back, or"
        " name another file in X402_JOURNAL",
        mender=Mender.OPERATOR,
    )


def _parsed(row: Any) -> Record:
    subject = Subject(
        pay_id=row["pay_id"], network=row["network"], asset=row["asset"], payer=row["payer"], payee=row["payee"],
        amount=int(row["amount"]), expires_at=row["expires_at"], fingerprint=row["fingerprint"],
        record=json.loads(row["record"]),
    )  # fmt: skip
    stage = stage_of(State(row["state"]), json.loads(row["stage"]))
    return Record(
        entry=Entry(Party.CLIENT, subject, stage, row["created_at"], row["updated_at"]),
        host=row["host"],
        usd=dollars(row["usd_micros"]),
        header_name=row["header_name"],
        header=row["header"],
        receipt=parse_receipt(json.loads(row["receipt"])) if row["receipt"] else None,
        open=bool(row["open"]),
        answered_at=row["answered_at"],
        check=_check_of(json.loads(row["finding"])) if row["finding"] else None,
        earlier=tuple(Earlier(**members) for members in subject.record.get(EARLIER, ())),
    )


def _check_of(members: Mapping[str, Any]) -> Check:
    return Check(Finding(members["finding"]), members["words"], members["at"])


def dollars(micros: object) -> Decimal:
    """US dollars from millionths, as a row has them. Raises `UnavailableError("journal_damaged")`."""
    if type(micros) is not int:
        raise damaged("an amount")
    return Decimal(micros).scaleb(-6, EXACT_CONTEXT)


def micros(usd: Decimal) -> int:
    """Millionths of a US dollar, part of one counted as a whole."""
    return round_up(usd.scaleb(6, EXACT_CONTEXT))

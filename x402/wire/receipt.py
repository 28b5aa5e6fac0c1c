"""The result of a settlement: `/settle` answers with it, and `PAYMENT-RESPONSE` carries it to the client."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from x402 import networks
from x402.lifecycle import Outcome
from x402.wire import v1
from x402.wire.challenge import AtomicText, JsonObject
from x402.wire.headers import PAYMENT_RESPONSE, X_PAYMENT_RESPONSE, Pairs, decode_header, encode_header, only
from x402.wire.strict import WireModel, read_model, require_object

CODE = "invalid_settlement"
PENDING = "settlement_pending"
"""Reason of a settlement whose transaction may still land."""


class Receipt(WireModel):
    """A settlement result (x402 v2 spec, SettlementResponse).

    `transaction` is the EVM hash or Solana signature, `""` when there is none; `amount` is atomic and only set by
    schemes that meter.
    """

    success: bool
    transaction: str = ""
    network: str = ""
    payer: str | None = None
    amount: AtomicText | None = None
    error_reason: str | None = None
    error_message: str | None = None
    extensions: JsonObject = Field(default_factory=dict)
    extra: JsonObject = Field(default_factory=dict)

    @classmethod
    def settled(cls, transaction: str, network: str, payer: str | None, amount: int | None = None) -> Receipt:
        """Money moved in `transaction`; `amount` says how much where the scheme meters, and 0 without a transaction
        that nothing was due."""
        text = None if amount is None else str(amount)
        return cls(success=True, transaction=transaction, network=network, payer=payer, amount=text)

    @classmethod
    def refused(
        cls, reason: str, message: str, network: str, payer: str | None = None, *, proven: bool = False
    ) -> Receipt:
        """No money moved. With `proven` none ever will, which is said in `extra`, for a seller whose facilitator may
        be one that says "failed" without knowing (fault A09)."""
        return cls(
            success=False,
            network=network,
            payer=payer,
            error_reason=reason,
            error_message=message[:500] or None,
            extra={"proven": True} if proven else {},
        )

    @classmethod
    def pending(cls, transaction: str, network: str, payer: str | None, message: str = "") -> Receipt:
        """A transaction may still land; ask again with the same payment."""
        text = message or "the transaction was sent and is not decided yet"
        return cls(
            success=False,
            transaction=transaction,
            network=network,
            payer=payer,
            error_reason=PENDING,
            error_message=text,
        )

    @property
    def proven(self) -> bool:
        """Whether a refusal says expressly that nothing was broadcast, or that what was is dead."""
        return self.extra.get("proven") is True

    @property
    def outcome(self) -> Outcome:
        """One of three. A failure that names a transaction is pending: a foreign facilitator's "failed" is no proof
        that what it broadcast is dead (faults A03, A09)."""
        if self.success:
            return Outcome.SETTLED
        return Outcome.PENDING if self.transaction or self.error_reason == PENDING else Outcome.REFUSED

    def as_json(self) -> dict[str, Any]:
        """The v2 object."""
        body = super().as_json()
        return {name: member for name, member in body.items() if not (name in ("extensions", "extra") and not member)}

    def as_v1(self) -> dict[str, Any]:
        """The v1 object."""
        return v1.receipt_out(self.as_json())

    def as_header(self, version: int = 2) -> tuple[str, str]:
        """Header name and value in the dialect of the payment that this receipt answers."""
        if version == 1:
            return X_PAYMENT_RESPONSE, encode_header(self.as_v1())
        return PAYMENT_RESPONSE, encode_header(self.as_json())


def parse_receipt(value: object) -> Receipt:
    """A receipt from its JSON object. Raises `MalformedError("invalid_settlement")`, also when `success` is no JSON
    boolean. A success without a transaction (unless the amount is zero) or with an error reason is doubt: it comes
    back as pending (fault A03)."""
    members = dict(require_object(value, code=CODE))
    if isinstance(members.get("network"), str):
        members["network"] = networks.to_caip2(members["network"])
    for optional in ("transaction", "network"):
        if members.get(optional) is None:
            members[optional] = ""
    if isinstance(members["transaction"], str) and members["transaction"].strip() in ("", "0x"):
        members["transaction"] = ""
    receipt = read_model(Receipt, members, code=CODE)
    doubt = _doubt(receipt) if receipt.success else ""
    if doubt:
        return receipt.model_copy(update={"success": False, "error_reason": PENDING, "error_message": doubt})
    return receipt


def _doubt(receipt: Receipt) -> str:
    """Why a success is not believed, or `""`."""
    if receipt.error_reason:
        return f"success together with the error {receipt.error_reason[:200]!r}"
    if not receipt.transaction and receipt.amount != "0":
        return "success without a transaction"
    return ""


def read_receipt(headers: Pairs) -> Receipt | None:
    """The receipt in a response's headers, v2 or v1, or None. Raises `MalformedError("invalid_settlement")`."""
    pairs = list(headers)
    for name in (PAYMENT_RESPONSE, X_PAYMENT_RESPONSE):
        value = only(pairs, name, code=CODE)
        if value is not None:
            return parse_receipt(decode_header(value, code=CODE))
    return None

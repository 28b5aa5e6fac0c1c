"""What a facilitator's word about a settlement is worth (faults A03, A09, A10, E12).

A facilitator in this process proves its successes, and says which of its refusals are proven: what it could not settle
now may still be submitted by anybody while it lives (fault A11). Any other may answer "failed" after it has broadcast,
and "success" without having done anything, so once a payment was handed to it, its word counts like this:

| It says | The chain, where we have a witness | Without a witness |
|---|---|---|
| success | checked when it is dear, and by sample: unseen is withheld | believed when it names what was asked for |
| refused, for terms of the payment that never change | settled, if the chain says so; else refused | refused |
| refused, and our own protocol says "proven" | settled, if the chain says so; else refused | refused |
| refused, for anything else | settled or dead as the chain says; else pending | pending while the payment could land |
| pending, or nothing at all | settled or dead as the chain says; else pending | pending |

"Anything else" is all that depends on a chain or on the facilitator's settings: a balance, a nonce, a simulation. A
facilitator that is asked for the second time says exactly that about a payment which it has settled the first time.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from types import MappingProxyType

from x402 import networks
from x402.errors import X402Error
from x402.evidence import Verdict, Witness, Witnesses
from x402.gateway.policy import Policy, units_of
from x402.lifecycle import Entry, Outcome, Subject
from x402.ports import Clock
from x402.schemes import exact_svm_reasons as svm
from x402.stages import Refused, Settled
from x402.telemetry import Telemetry
from x402.wire.facilitation import Facilitator
from x402.wire.receipt import Receipt

EXPIRY_MARGIN_SECONDS = 120
"""How long after `validBefore` no block can take an authorization any more, whatever a node's clock says."""
BLOCKHASH_SECONDS = 300
"""How long after it was presented a Solana transaction is dead by any clock; its blockhash serves 60 to 90 seconds."""
EARLIER_SECONDS = 3600
"""How long before a claim a stranger may have submitted an authorization; no offer lives longer (fault A11)."""
WITNESS_SECONDS = 2.0
"""How long one request waits for the chain to show a transfer that is on its way."""

NEVER_SENT: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        networks.EIP155: frozenset(
            {
                "invalid_payload",
                "unsupported_payload_type",
                "network_mismatch",
                "invalid_exact_evm_network_mismatch",
                "missing_eip712_domain",
                "invalid_exact_evm_missing_eip712_domain",
                "invalid_exact_evm_recipient_mismatch",
                "invalid_exact_evm_payload_recipient_mismatch",
                "invalid_exact_evm_authorization_value",
                "invalid_exact_evm_payload_authorization_value",
                "invalid_exact_evm_payload_authorization_value_mismatch",
                "invalid_upto_evm_scheme",
                "invalid_upto_evm_network_mismatch",
                "invalid_permit2_spender",
                "invalid_permit2_recipient_mismatch",
                "invalid_permit2_payload_format",
                "permit2_token_mismatch",
                "invalid_upto_evm_payload_settlement_exceeds_amount",
            }
        ),
        networks.SOLANA: frozenset(
            {
                svm.NETWORK_MISMATCH,
                svm.MISSING_FEE_PAYER,
                svm.NOT_DECODED,
                svm.FEE_PAYER_MISMATCH,
                svm.SIGNATURE,
                svm.INSTRUCTION_COUNT,
                svm.COMPUTE_LIMIT,
                svm.COMPUTE_PRICE,
                svm.NO_TRANSFER,
                svm.FEE_PAYER_TRANSFERS,
                svm.MINT,
                svm.RECIPIENT,
                svm.AMOUNT,
                svm.MEMO_MISMATCH,
                *svm.UNKNOWN_INSTRUCTION,
                svm.UNKNOWN_OPTIONAL,
            }
        ),
    }
)
"""Reasons that prove that nothing was broadcast, by network family: they speak of what was signed and of what was
asked, which no settlement, block, balance or setting can change, and every facilitator looks at them before it
broadcasts (protocol §2.4, §4.4). An EVM signature is none of them: a wallet's own code may change its mind (D05)."""


class Belief:
    """Weighs a facilitator's answers about payments that were handed to it.

    `witnesses` are asked where there are any. `key` makes the sample one that no facilitator can foresee.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        witnesses: Witnesses | None = None,
        policy: Policy | None = None,
        telemetry: Telemetry | None = None,
        key: bytes = b"",
    ) -> None:
        self.witnesses: Witnesses = witnesses or {}
        self._clock = clock
        self._policy = policy or Policy()
        self._telemetry = telemetry or Telemetry()
        self._key = key or secrets.token_bytes(16)

    async def verdict(self, facilitator: Facilitator, entry: Entry, receipt: Receipt) -> Verdict:
        """Settled, refused, or None while nobody can know; never raises."""
        said = _said(entry, receipt)
        if in_process(facilitator) and (receipt.proven or not isinstance(said, Refused)):
            return said
        if isinstance(said, Settled):
            return await self._checked(entry, said)
        shown = await self._ask(entry, receipt.transaction)
        if shown is not None:
            return shown
        return said if said is not None and self._stands(entry, receipt) else None

    async def look(self, facilitator: Facilitator, entry: Entry) -> Verdict:
        """What the chain says of a payment that a foreign facilitator was handed before; None without a witness."""
        return None if in_process(facilitator) else await self._ask(entry, "")

    async def _checked(self, entry: Entry, said: Settled) -> Verdict:
        subject = entry.subject
        if subject.network not in self.witnesses or not self._is_looked_up(subject):
            return said
        shown = await self._ask(entry, said.transaction)
        if isinstance(shown, Settled):
            if shown.amount not in (None, entry.amount):
                # Another amount was taken than was asked for: the books say what moved, and somebody should know (B16).
                self._emit("sale.facilitator_lied", subject)
            return shown
        self._emit("sale.facilitator_lied" if shown is not None else "sale.facilitator_unproven", subject)
        return shown

    def _is_looked_up(self, subject: Subject) -> bool:
        if subject.amount >= units_of(self._policy.check_above, subject.network, subject.asset):
            return True
        draw = hashlib.sha256(self._key + subject.pay_id.encode()).digest()
        return int.from_bytes(draw[:8], "big") % 100 < self._policy.check_percent

    def _stands(self, entry: Entry, receipt: Receipt) -> bool:
        """Whether a refusal is to be believed although no chain confirms it."""
        family = entry.subject.network.partition(":")[0]
        reason = receipt.error_reason or ""
        if family == networks.SOLANA:
            reason = svm.canonical(reason)
        if reason in NEVER_SENT[family] or receipt.proven:
            return True
        return entry.subject.network not in self.witnesses and self._clock() >= dead_at(entry)

    async def _ask(self, entry: Entry, transaction: str) -> Verdict:
        subject = entry.subject
        witness = self.witnesses.get(subject.network)
        if witness is None:
            return None
        try:
            shown = await witness.judge(
                subject,
                (transaction,) if transaction else (),
                since=entry.created_at - (EARLIER_SECONDS if entry.subject.expires_at else 0),
                timeout=WITNESS_SECONDS,
            )
            if isinstance(shown, Settled) and not await self._is_deep(witness, subject, shown):
                return None
        except X402Error:
            self._emit("sale.witness_unavailable", subject)
            return None
        return shown

    async def _is_deep(self, witness: Witness, subject: Subject, settled: Settled) -> bool:
        """Whether a transfer lies as deep as its amount asks for (fault A16)."""
        required = self._policy.required(subject.amount, subject.network, subject.asset)
        if required <= 1:
            return True
        standing = await witness.standing(subject, settled)
        return standing is not None and (standing.final or standing.confirmations >= required)

    def _emit(self, name: str, subject: Subject) -> None:
        self._telemetry.emit(name, network=subject.network, amount_units=subject.amount)


def in_process(facilitator: Facilitator) -> bool:
    """Whether a facilitator is our own and in this process; whatever does not say so is foreign."""
    return getattr(facilitator, "in_process", False) is True


def dead_at(entry: Entry) -> int:
    """The unix second from which no block can take a payment any more, as far as a seller's clock can tell."""
    expires_at = entry.subject.expires_at
    return expires_at + EXPIRY_MARGIN_SECONDS if expires_at else entry.created_at + BLOCKHASH_SECONDS


def is_account(network: str, one: str, other: str) -> bool:
    """Whether two spellings name one account; EVM addresses have two cases."""
    return one.lower() == other.lower() if network.startswith(networks.EIP155 + ":") else one == other


def _said(entry: Entry, receipt: Receipt) -> Verdict:
    """What the facilitator claims; a success about something else, or about another amount, is no claim (A03, B16)."""
    subject = entry.subject
    if receipt.outcome is Outcome.REFUSED:
        reason = receipt.error_reason or "settlement_refused"
        return Refused(reason, receipt.error_message or f"the settlement was refused: {reason}")
    if receipt.outcome is not Outcome.SETTLED or not receipt.transaction:
        return None
    if networks.to_caip2(receipt.network) != subject.network:
        return None
    if receipt.payer is not None and not is_account(subject.network, receipt.payer, subject.payer):
        return None
    if entry.due is not None and receipt.amount not in (None, str(entry.due)):
        return None
    return Settled(receipt.transaction)

"""What a chain proves about one payment, whoever asks: the buyer, the seller, or the facilitator.

A payment is settled when the chain shows that its money moved, whoever sent the transaction, and refused when the chain
proves that it never will. Whatever lies between is None: absence is never a verdict, and neither is silence (faults
A10, A11, A23, E01). Nothing here writes anything down, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from x402.lifecycle import Subject
from x402.stages import Refused, Settled

Verdict = Settled | Refused | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How well a transfer stands: the blocks from its own to the newest, both included, 0 when the chain proves that it
    is gone; and whether no reorganisation reaches it any more."""

    confirmations: int
    final: bool = False

    @property
    def gone(self) -> bool:
        """A reorganisation undid it (fault A16)."""
        return self.confirmations == 0


class Witness(Protocol):
    """One network, asked about payments. Every method raises `UnavailableError` when the chain can't be asked.

    A payment is named by its `Subject`, whose `record` holds the payment and the requirement as they were presented
    (`schemes.memory.recall`).
    """

    network: str

    async def judge(
        self,
        subject: Subject,
        transactions: Sequence[str] = (),
        *,
        last_valid: int = 0,
        since: int = 0,
        timeout: float = 0.0,
    ) -> Verdict:
        """What became of a payment: settled, provably dead, or None when neither is proven after `timeout` seconds.

        `transactions` are the ids under which it may have landed; a payment that somebody else settled is found
        without them. What is known narrows the search: `last_valid` as in `Intended`, and `since`, the unix second
        before which nothing of this payment can be on chain.
        """
        ...

    async def spent_by(self, subject: Subject, *, since: int = 0) -> Verdict:
        """What has used up this payment by now: the transfer that settled it, whoever submitted it; a refusal when it
        was taken back, landed in vain, or died unused; None when nothing has, as far as the node that answered knows.

        Raises `UnavailableError` also when the node can't tell.
        """
        ...

    async def standing(self, subject: Subject, settled: Settled) -> Standing | None:
        """How well a settled transfer stands by now; None when the node that answered can't know."""
        ...

    async def balance(self, owner: str, asset: str) -> int:
        """What an account holds of a token, in atomic units."""
        ...


Witnesses = Mapping[str, Witness]
"""Who may be asked, by CAIP-2 network."""

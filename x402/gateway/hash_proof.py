"""Payments that were made before they were presented: `network:transaction` (aimo §2.2, dialect 2; off by default).

The gateway reads the transfer from its own node and makes a payment of it, which then goes the way of every other: one
claim by its transaction, settled before it is served, the same answer again for the same request. In place of a
facilitator stands the chain, and it is asked twice: when the payment is presented, and when it is to be settled.

A transfer can't be refused any more once it is made. What it exceeds the price by is credited to its payer; one that is
too low, too old or bound to nothing is not taken, and stays a gift: clients should pay by `PAYMENT-SIGNATURE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from x402 import networks
from x402.errors import MisconfiguredError, PendingError, RefusedError, X402Error
from x402.evidence import Standing, Verdict
from x402.evidence.transfers import Transfer, Transfers
from x402.gateway.policy import Policy
from x402.gateway.terms import Seller, Terms, asset_on
from x402.lifecycle import Subject
from x402.ports import Clock
from x402.schemes import sign_in, subject
from x402.schemes.memory import recall
from x402.stages import Refused, Settled
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Facilitation, Supported, Verification
from x402.wire.hash_proof import BINDING, MEMO_DIGITS, SCHEME, HashProof, binding_text
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

_GONE_BLOCKS = 300
"""So far behind the final block a transfer that is not shown will not land any more."""
_GONE = ("transfer_gone", "a chain reorganisation undid this transfer for good")
_ASKED = "asked"
"""Member of a requirement's extra: the price, where more was paid."""


class HashProofs:
    """One seller's look-up of transfers; in a payment's life it stands where a facilitator does (`Facilitator`).

    `nodes` are the seller's own, by CAIP-2 network. A transfer is taken for
    `policy.hash_proof_seconds` after its block.
    """

    name = SCHEME
    in_process = True
    """What it says of a payment it has read from the chain itself."""

    def __init__(self, nodes: Mapping[str, Transfers], seller: Seller, policy: Policy, clock: Clock) -> None:
        self._nodes = nodes
        self._seller = seller
        self._policy = policy
        self._clock = clock

    async def present(self, proof: HashProof, request_digest: str) -> Payment:
        """The payment that a transfer is, once it lies deep enough and is bound to this very request.

        Raises `PendingError` while the chain does not show it, or not deep enough; `RefusedError` when it is another
        transfer, or bound to another request; `UnavailableError` when the node can't be asked.
        """
        found = await self._find(proof.network, proof.transaction)
        _check_bound(found, proof, request_digest)
        facts = {
            "transaction": found.transaction, "payer": found.payer, "asset": found.asset, "payTo": found.payee,
            "amount": str(found.amount), "time": found.time, "block": found.block,
        }  # fmt: skip
        return Payment.of(self._accepted(proof.network, found.amount), facts)

    def requirement(self, payment: Payment, terms: Terms) -> Requirement:
        """What a new payment pays for. Raises `RefusedError` when it is too low or too old."""
        paid, asset = int(payment.payload["amount"]), asset_on(payment.network)
        asked = terms.units(asset)
        if paid < asked:
            raise RefusedError(
                "invalid_payment_amount", "the transfer is lower than the price",
                details={"required": str(asked), "received": str(paid), "unit": "atomic"},
            )  # fmt: skip
        if payment.payload["time"] < self._clock() - self._policy.hash_proof_seconds:
            raise RefusedError(
                "transfer_too_old", f"a transfer is taken for {self._policy.hash_proof_seconds} seconds after its block"
            )
        return self._accepted(payment.network, paid, {"paymentFlow": "upfront", _ASKED: str(asked)})

    async def verify(self, payment: Payment, requirement: Requirement) -> Verification:
        """Valid: `present` has read it from the chain for this very request."""
        return Verification.valid(str(payment.payload["payer"]))

    async def settle(self, payment: Payment, requirement: Requirement) -> Receipt:
        """Settled when the chain shows the very same transfer again, refused once it is gone for good (fault A16), and
        pending until then: it was there a moment ago."""
        facts = payment.payload
        transaction, payer = str(facts["transaction"]), str(facts["payer"])
        try:
            found = await self._find(payment.network, transaction)
        except X402Error as error:
            if await self._is_gone(payment):
                return Receipt.refused(*_GONE, payment.network, payer, proven=True)
            return Receipt.pending(transaction, payment.network, payer, error.message)
        if (found.payer, str(found.amount)) != (payer, facts["amount"]):
            return Receipt.pending(transaction, payment.network, payer, "the chain shows another transfer by now")
        return Receipt.settled(transaction, payment.network, payer)

    async def supported(self) -> Supported:
        """Nothing that could be offered: it takes what was paid unasked."""
        return Supported()

    async def judge(self, subject: Subject, transactions: Sequence[str] = ()) -> Verdict:
        """As `evidence.Witness.judge`, for the watch over what was settled."""
        if not transactions:
            return None
        try:
            found = await self._find(subject.network, transactions[0])
        except (PendingError, RefusedError):
            return Refused(*_GONE) if await self._is_gone(recall(subject).payment) else None
        return Settled(found.transaction, found.block)

    async def standing(self, subject: Subject, settled: Settled) -> Standing | None:
        """As `evidence.Witness.standing`: gone is what is absent long after its block became final."""
        return await self._standing(subject.network, settled.transaction, settled.block)

    async def _standing(self, network: str, transaction: str, block: int) -> Standing | None:
        # The final block is asked for first, so that a node which lags behind can't be the reason.
        final = await self._node(network).finalized()
        try:
            return (await self._find(network, transaction, any_depth=True)).standing
        except (PendingError, RefusedError):
            return Standing(0) if final > block + _GONE_BLOCKS else None

    async def _is_gone(self, payment: Payment) -> bool:
        """Whether a transfer that was read in some block will not land any more; False where nobody can tell."""
        facts = payment.payload
        if "block" not in facts:
            # Written down by a version that did not note it.
            return False
        try:
            standing = await self._standing(payment.network, str(facts["transaction"]), int(facts["block"]))
        except X402Error:
            return False
        return standing is not None and standing.gone

    async def _find(self, network: str, transaction: str, *, any_depth: bool = False) -> Transfer:
        node = self._node(network)
        found = await node.find(transaction, self._seller.pay_to[network], asset_on(network))
        required = self._policy.required(found.amount, network, found.asset)
        if not (any_depth or found.standing.final or found.standing.confirmations >= required):
            raise PendingError("the transfer does not lie deep enough yet", transaction=transaction)
        return found

    def _node(self, network: str) -> Transfers:
        if network not in self._nodes or network not in self._seller.pay_to:
            raise RefusedError("invalid_payment_requirements", f"no transfer on {network} is taken here")
        return self._nodes[network]

    def _accepted(self, network: str, amount: int, extra: Mapping[str, Any] | None = None) -> Requirement:
        return Requirement(
            scheme=SCHEME, network=network, amount=amount, asset=asset_on(network).address,
            pay_to=self._seller.pay_to[network], max_timeout_seconds=self._seller.max_timeout_seconds,
            extra=dict(extra or {}),
        )  # fmt: skip


def hash_proofs_of(
    nodes: Mapping[str, Transfers], seller: Seller, policy: Policy, clock: Clock, *, credits: bool
) -> HashProofs | None:
    """None unless the policy takes them. Raises `MisconfiguredError` without a node for every network, or without
    accounts, in which what is paid too much is kept for its payer."""
    if not policy.hash_proof_seconds:
        return None
    missing = [network for network in seller.pay_to if network not in nodes]
    if missing:
        raise MisconfiguredError("no_node", f"X402_HASH_PROOF: set the RPC URL of {', '.join(missing)} as well")
    if not credits:
        raise MisconfiguredError("no_accounts", "X402_HASH_PROOF: set X402_ACCOUNTS=1 as well")
    return HashProofs(nodes, seller, policy, clock)


def is_hash_proof(payment: Payment) -> bool:
    """Whether a payment was made of a transfer, by `HashProofs.present`."""
    return payment.scheme == SCHEME


def is_of_hash_proof(found: Subject) -> bool:
    """The same of a remembered payment."""
    return recall(found).requirement.scheme == SCHEME


def identity_of_transfer(payment: Payment) -> str:
    """One transfer is one payment, whatever request it is presented with."""
    return f"{payment.network}:{SCHEME}:{payment.payload['transaction']}"


def subject_of(payment: Payment, requirement: Requirement, *, fingerprint: str = "") -> Subject:
    """`schemes.subject.subject_of`, and the same for a payment that was made of a transfer."""
    if payment.scheme != SCHEME or requirement.scheme != SCHEME:
        return subject.subject_of(payment, requirement, fingerprint=fingerprint)
    facts = payment.payload
    record = {"facilitation": Facilitation(payment=payment, requirement=requirement).as_json(), "proof": ""}
    return Subject(
        pay_id=identity_of_transfer(payment), network=requirement.network, asset=str(facts["asset"]),
        payer=str(facts["payer"]), payee=str(facts["payTo"]), amount=int(facts["amount"]), fingerprint=fingerprint,
        record=record,
    )  # fmt: skip


def asked_of(requirement: Requirement) -> int | None:
    """The price, in atomic units, where a transfer may have paid more; None for every other payment."""
    asked = requirement.extra.get(_ASKED) if requirement.scheme == SCHEME else None
    return None if asked is None else int(asked)


def _check_bound(found: Transfer, proof: HashProof, request_digest: str) -> None:
    """A transaction is public: only its payer may say what it was for. Its memos are signed by the payer as well."""
    named = request_digest[:MEMO_DIGITS].encode()
    if not proof.binding and any(memo.strip() == named for memo in found.memos):
        return
    family = networks.get(proof.network).family
    text = binding_text(proof.network, found.transaction, request_digest)
    if not proof.binding or sign_in.signer(family, found.payer, text, proof.binding) != found.payer:
        raise RefusedError(
            "unbound_transfer",
            f"the transfer's payer has not bound it to this request, by a memo or by {BINDING}",
        )

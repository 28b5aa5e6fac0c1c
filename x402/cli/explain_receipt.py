"""What sellers and facilitators answer, in words: receipts, verifications, and what a facilitator supports."""

from __future__ import annotations

from typing import Any

from x402 import networks
from x402.cli.explanation import Explanation, Section, compact, title_of
from x402.lifecycle import Outcome
from x402.wire.facilitation import parse_supported, parse_verification
from x402.wire.receipt import parse_receipt

_OUTCOMES = {
    Outcome.SETTLED: "the money moved",
    Outcome.REFUSED: "no money moved, says the seller",
    Outcome.PENDING: "not decided: the transaction may still land, so present the same payment again",
}


def explain_receipt(message: dict[str, Any]) -> Explanation:
    """The content of `PAYMENT-RESPONSE`, or the answer of `/settle`. Raises `MalformedError("invalid_settlement")`."""
    receipt = parse_receipt(message)
    words = _OUTCOMES[receipt.outcome]
    facts = [("outcome", f"{receipt.outcome}: {words}")]
    if receipt.network:
        facts.append(("on", title_of(receipt.network)))
    if receipt.transaction:
        facts.append(("transaction", receipt.transaction))
        network = networks.find(receipt.network)
        link = network.transaction_url(receipt.transaction) if network else ""
        if link:
            facts.append(("look at it", link))
    if receipt.payer:
        facts.append(("paid by", receipt.payer))
    if receipt.amount is not None:
        facts.append(("atomic amount", receipt.amount))
    if receipt.error_reason:
        facts.append(("reason", receipt.error_reason))
    if receipt.error_message:
        facts.append(("said", receipt.error_message))
    for name, members in (("extra", receipt.extra), ("extensions", receipt.extensions)):
        if members:
            facts.append((name, compact(members)))
    problems = () if receipt.network else ("it does not name a network",)
    return Explanation(
        "receipt",
        f"A receipt: {words}.",
        (Section("Receipt", tuple(facts), problems),),
        ("a receipt is the seller's word; the chain is the proof",) if receipt.success else (),
        dict(message),
    )


def explain_verification(message: dict[str, Any]) -> Explanation:
    """The answer of `/verify`. Raises `MalformedError("invalid_verification")`."""
    verification = parse_verification(message)
    words = "the payment would settle now" if verification.is_valid else "the payment breaks a rule"
    facts = [("valid", "yes" if verification.is_valid else "no")]
    for name, value in (
        ("reason", verification.invalid_reason),
        ("said", verification.invalid_message),
        ("payer", verification.payer),
    ):
        if value:
            facts.append((name, value))
    return Explanation(
        "verification",
        f"A facilitator's verification: {words}. No money moved by it.",
        (Section("Verification", tuple(facts)),),
        message=dict(message),
    )


def explain_supported(message: dict[str, Any]) -> Explanation:
    """The answer of `/supported`. Raises `MalformedError("invalid_supported")`."""
    supported = parse_supported(message)
    sections = [
        Section(
            f"Kind {index}",
            (
                ("version", f"x402 v{kind.version}"),
                ("scheme", kind.scheme),
                ("on", title_of(networks.to_caip2(kind.network))),
                *((("extra", compact(kind.extra)),) if kind.extra else ()),
            ),
        )
        for index, kind in enumerate(supported.kinds, 1)
    ]
    signers = tuple((pattern, ", ".join(addresses)) for pattern, addresses in supported.signers.items())
    if signers:
        sections.append(Section("Signers", signers))
    problems = () if supported.kinds else ("it settles nothing at the moment",)
    return Explanation(
        "supported", f"A facilitator settles {len(supported.kinds)} kinds.", tuple(sections), problems, dict(message)
    )

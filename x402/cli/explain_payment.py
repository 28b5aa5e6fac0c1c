"""Payments in words: who pays whom how much, until when, and whether the signature is the payer's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from solders.pubkey import Pubkey
from solders.signature import Signature

from x402 import networks
from x402.cli.explanation import Explanation, Section, compact, deadline, money, title_of
from x402.errors import MalformedError, RefusedError
from x402.schemes import exact_svm_layout, subject, upto_evm
from x402.schemes.evm_payment import EvmPayment
from x402.schemes.evm_scheme import evm_scheme
from x402.wire.challenge import Requirement
from x402.wire.facilitation import parse_facilitation
from x402.wire.payment import Payment, parse_payment

_TRANSFER_CHECKED = 12
_BEARER = "whoever holds this text can present it until it has been taken or has expired; keep it private"


@dataclass(frozen=True, slots=True)
class _Read:
    """What the signed bytes of a payment say."""

    summary: str
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...] = ()


def explain_payment(message: dict[str, Any], *, now: int) -> Explanation:
    """The content of `PAYMENT-SIGNATURE` or `X-PAYMENT`. Raises `MalformedError("invalid_payload")`."""
    payment = parse_payment(message)
    read = _signed(payment, payment.accepted, now)
    return Explanation(
        "payment",
        f"A payment (x402 version {payment.version}): {read.summary}",
        (_envelope(payment), Section("Signed", read.facts, read.problems)),
        (_BEARER,),
        dict(message),
    )


def explain_facilitation(message: dict[str, Any], *, now: int) -> Explanation:
    """The body of `/verify` and `/settle`. Raises `MalformedError`."""
    asked = parse_facilitation(message)
    requirement = asked.requirement
    read = _signed(asked.payment, requirement, now)
    wanted = (
        ("pay", money(requirement.amount, requirement.network, requirement.asset)),
        ("on", title_of(requirement.network)),
        ("to", requirement.pay_to),
    )
    try:
        subject.subject_of(asked.payment, requirement)
        problems: tuple[str, ...] = ()
    except (RefusedError, MalformedError) as error:
        problems = (f"the payment does not meet it: {error.message}",)
    return Explanation(
        "facilitation",
        f"A request to a facilitator: verify or settle that {read.summary}",
        (_envelope(asked.payment), Section("Signed", read.facts, read.problems), Section("Required", wanted, problems)),
        (_BEARER,),
        dict(message),
    )


def _envelope(payment: Payment) -> Section:
    facts = [("version", f"x402 v{payment.version}"), ("scheme", payment.scheme), ("on", title_of(payment.network))]
    if payment.resource is not None:
        facts.append(("for", payment.resource.url))
    if payment.accepted is not None:
        offer = payment.accepted
        facts.append(("accepts", f"{money(offer.amount, offer.network, offer.asset)} to {offer.pay_to}"))
    facts += [(f"extension {name}", compact(extension)) for name, extension in payment.extensions.items()]
    return Section("Payment", tuple(facts))


def _signed(payment: Payment, offer: Requirement | None, now: int) -> _Read:
    network = networks.find(payment.network)
    metered = payment.scheme == upto_evm.SCHEME
    if network is None or (payment.scheme != "exact" and not (metered and network.family == networks.EIP155)):
        where = f"{payment.scheme} on {payment.network}"
        return _Read(f"{where}, which cannot be read here.", (("payload", compact(payment.payload)),))
    asset = network.asset(offer.asset) if offer is not None else network.usd if network.assets else None
    if asset is None:
        return _Read("in a token that is not known.", (("payload", compact(payment.payload)),), ("unknown asset",))
    try:
        if network.family == networks.EIP155:
            return _authorization(evm_scheme(payment.scheme).read_payload(payment.payload, asset), offer, now)
        return _transaction(payment.payload, network)
    except (RefusedError, MalformedError) as error:
        return _Read("which is broken.", (("payload", compact(payment.payload)),), (error.message,))


def _authorization(signed: EvmPayment, offer: Requirement | None, now: int) -> _Read:
    asset = signed.asset
    problems = []
    if signed.valid_before <= now:
        problems.append("it has expired: no chain takes it any more")
    if signed.valid_after > now:
        problems.append("it is not valid yet")
    if offer is not None and (signed.amount != offer.amount or signed.payee.lower() != offer.pay_to.lower()):
        problems.append("what was signed is not what `accepted` says")
    recovered = signed.recovered
    if recovered == signed.payer:
        proof = "the payer's own"
    elif len(signed.signature) == 65:
        maker = f"made by {recovered}" if recovered else "made by no key at all"
        proof = f"{maker}: a forgery, unless the payer is a contract that accepts it"
        problems.append("the signature is not the payer's key's")
    else:
        proof = "of a smart wallet: only the chain can check it"
    amount = money(signed.amount, asset.network, asset.address)
    metered = "at most " if signed.sender else ""
    return _Read(
        f"{signed.payer} pays {metered}{amount} to {signed.payee}.",
        (
            ("from", signed.payer),
            ("to", signed.payee),
            ("amount", metered + amount),
            *((("settled by", signed.sender),) if signed.sender else ()),
            ("valid until", deadline(signed.valid_before, now)),
            ("signature", proof),
            ("pay id", signed.pay_id),
        ),
        tuple(problems),
    )


def _transaction(payload: Mapping[str, Any], network: networks.Network) -> _Read:
    transaction = exact_svm_layout.decode(payload)
    message = exact_svm_layout.message_of(transaction)
    for step in exact_svm_layout.instructions_of(message):
        programs = (networks.TOKEN_PROGRAM, networks.TOKEN_2022_PROGRAM)
        if step.program in programs and len(step.data) == 10 and step.data[0] == _TRANSFER_CHECKED:
            break
    else:
        raise MalformedError("invalid_payload", "the transaction moves no token")
    if len(step.accounts) != 4:
        raise MalformedError("invalid_payload", "the transfer does not name four accounts")
    _, mint, destination, payer = step.accounts
    units = int.from_bytes(step.data[1:9], "little")
    signed = exact_svm_layout.signed_bytes(message)
    keys = [str(key) for key in message.account_keys]
    signer = keys.index(payer)
    own = transaction.signatures[signer] if signer < len(transaction.signatures) else Signature.default()
    genuine = own.verify(Pubkey.from_string(payer), signed)
    amount = money(units, network.id, mint)
    return _Read(
        f"{payer} pays {amount} into {destination}.",
        (
            ("from", payer),
            ("to token account", destination),
            ("amount", amount),
            ("valid until", "its blockhash dies: about 60 to 90 seconds after it was fetched"),
            ("blockhash", str(message.recent_blockhash)),
            ("network fee paid by", keys[0]),
            ("signature", "the payer's own" if genuine else "missing or not the payer's"),
            ("pay id", exact_svm_layout.message_id(signed, network.id)),
        ),
        () if genuine else ("the payer's signature is missing or wrong",),
    )

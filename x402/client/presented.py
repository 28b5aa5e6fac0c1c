"""A payment of the journal as the witnesses of the chains know payments, and the witness to ask about it."""

from __future__ import annotations

from dataclasses import replace

from x402 import networks
from x402.client.record import Earlier, Record
from x402.errors import DeclinedError, MalformedError, UnavailableError
from x402.evidence import Witness
from x402.lifecycle import Subject
from x402.ports import Chains
from x402.schemes import exact_svm_layout, upto_evm
from x402.schemes.subject import subject_of
from x402.stages import Exposed
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment, read_payment

_TIMEOUT_SECONDS = 300
"""Stands in an offer that is put together again, and decides nothing there."""


def presented(record: Record) -> Subject:
    """The payment that was presented for a row, by the very bytes.

    Raises `MalformedError`, `RefusedError` or `DeclinedError` when they can't be read, or are another payment's.
    """
    return _presented(record.header_name, record.header, record.entry.subject)


def all_presented(record: Record) -> list[Subject]:
    """The same, with those before it that had the same nonce; the latest first. Raises as `presented`."""
    subject = record.entry.subject
    before = (*_as_noted_once(record), *record.earlier)
    return [
        presented(record),
        *(
            _presented(one.header_name, one.header, replace(subject, amount=one.amount, payee=one.payee))
            for one in reversed(before)
        ),
    ]


def _as_noted_once(record: Record) -> tuple[Earlier, ...]:
    """What an older version wrote down of them: only headers, and only until it heard of a refusal."""
    stage, found = record.entry.stage, []
    known = {one.header for one in record.earlier}
    for header in stage.earlier if isinstance(stage, Exposed) else ():
        if header in known:
            continue
        payment = read_payment([(record.header_name, header)])
        offer = None if payment is None else payment.accepted
        if offer is not None:
            found.append(Earlier(record.header_name, header, offer.amount, offer.pay_to))
    return tuple(found)


def _presented(header_name: str, header: str, subject: Subject) -> Subject:
    if networks.get(subject.network).asset(subject.asset) is None:
        raise DeclinedError("unknown_asset", f"{subject.asset} on {subject.network} is not a known asset")
    payment = read_payment([(header_name, header)])
    if payment is None:
        raise MalformedError("invalid_payload", "the journal holds no payment in this row")
    found = subject_of(payment, _offer(payment, subject))
    if found.pay_id != subject.pay_id:
        raise MalformedError("invalid_payload", "the journal holds another payment than it says")
    return found


async def witness_of(network: str, chains: Chains) -> Witness:
    """Who tells about payments on a network, through a node that is proven to serve it (fault D14).

    Raises `UnavailableError`, also when no node is known, and `MisconfiguredError("wrong_chain")`.
    """
    # Imported where a chain is asked: a buyer who only pays loads none of it.
    from x402.evidence.evm import EvmWitness
    from x402.evidence.svm import SvmWitness

    known = networks.get(network)
    evm, svm = chains.evm.get(known.id), chains.svm.get(known.id)
    if evm is not None:
        await evm.check_chain_id()
        return EvmWitness(known.id, evm)
    if svm is not None:
        await svm.check_cluster(known.id)
        return SvmWitness(known.id, svm)
    raise UnavailableError("no_node", f"no node of {known.title} is known that could tell")


def _offer(payment: Payment, subject: Subject) -> Requirement:
    """The offer that a payment took, as far as it matters to whether it was paid."""
    network = networks.get(subject.network)
    if network.family == networks.SOLANA:
        extra = {"feePayer": str(exact_svm_layout.decode(payment.payload).message.account_keys[0])}
    else:
        asset = network.asset(subject.asset) or network.usd
        extra = {"name": asset.eip712_name, "version": asset.eip712_version}
        if payment.scheme == upto_evm.SCHEME:
            extra["assetTransferMethod"] = upto_evm.TRANSFER_METHOD
    return Requirement(
        scheme=payment.scheme,
        network=payment.network,
        amount=subject.amount,
        asset=subject.asset,
        pay_to=subject.payee,
        max_timeout_seconds=_TIMEOUT_SECONDS,
        extra=extra,
    )

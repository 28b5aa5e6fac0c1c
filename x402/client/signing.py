"""From a challenge to a signed payment that is written down: choose, hold, sign, in this order."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from x402 import networks
from x402.client import choose as choosing
from x402.client.allowance import Allowances, asked_of, question, read_answer
from x402.client.budget import cap_per_call
from x402.client.choose import Buyer, Choice
from x402.client.draft import ENTROPY_BYTES, blockhash_question, draft, needs_blockhash, read_blockhash
from x402.client.effects import Ask, Journey, Terms, Wanted, do
from x402.client.owner import Call
from x402.client.record import Record
from x402.client.trust import host_of, listed, remembered
from x402.client.verdict import Reply
from x402.errors import DeclinedError, UnavailableError
from x402.schemes import approval_sponsoring, gas_sponsoring
from x402.wire.challenge import Challenge


def sign(
    wanted: Wanted,
    terms: Terms,
    call: Call,
    challenge: Challenge,
    url: str,
    dead: Record | None = None,
    entropy: bytes | None = None,
) -> Journey[Record]:
    """Choose, hold, sign, and write down: in this order, and nothing leaves before the last is on the disk.

    After a payment of this call that is `dead`, its terms hold: neither dearer nor to somebody else (fault B06).
    """
    journal, host = terms.journal, host_of(wanted.url)
    buyer = buyer_of(wanted, terms)
    if not is_this_machine(wanted.url):
        known = yield from do(partial(journal.payees, host))
        if dead is not None:
            known = known or frozenset(remembered(dead.entry.subject))
        buyer = replace(buyer, known=known)
    allowances = yield from _allowances(challenge, terms)
    buyer = replace(buyer, allowances=allowances, sponsored=gas_sponsoring.is_offered(challenge.extensions))
    choice = choosing.choose(challenge, buyer, terms.policy)
    if dead is not None and choice.usd > dead.usd:
        raise _dearer(choice, dead)
    blockhash = ""
    if needs_blockhash(choice):
        answer: Reply = yield Ask(_node(choice, terms), blockhash_question())
        blockhash = read_blockhash(answer.status, answer.body)
    payment = draft(
        choice, challenge, terms.wallet,
        now=terms.clock(), lifetime_seconds=terms.policy.lifetime_seconds,
        entropy=entropy or terms.entropy(ENTROPY_BYTES),
        blockhash=blockhash, allowances=allowances, fingerprint=wanted.fingerprint,
        record=_remember(wanted, choice, challenge, url),
    )  # fmt: skip
    pay_id, limits, breaker = payment.subject.pay_id, terms.limits, terms.breaker
    hold = partial(journal.hold, host=host, usd=choice.usd, limits=limits, call=call, breaker=breaker)
    try:
        yield from do(partial(hold, payment.subject))
    except DeclinedError as error:
        # What was signed as a maximum counts whole until the chain shows what was taken of it.
        if error.code != "budget_exceeded" or not (yield from do(terms.confirm)):
            raise
        yield from do(partial(hold, payment.subject))

    def expose() -> Record:
        signed = payment.sign()
        return journal.expose(pay_id, signed.header_name, signed.as_header())

    return (yield from do(expose))


def sign_over(
    wanted: Wanted, terms: Terms, challenge: Challenge, record: Record, entropy: bytes
) -> Journey[Record | None]:
    """Sign other terms with the nonce of a payment that was not taken, so that the chain lets one of both pay at most.

    None on a chain that has no nonce to share; then nothing is signed. `entropy` is what the first one was made of.
    """
    subject, journal, host = record.entry.subject, terms.journal, host_of(wanted.url)
    network = networks.get(subject.network)
    if network.family != networks.EIP155:
        return None
    asset = network.asset(subject.asset)
    same = (
        offer for offer in challenge.accepts if offer.network == subject.network and network.asset(offer.asset) == asset
    )
    buyer = buyer_of(wanted, terms)
    if not is_this_machine(wanted.url):
        known = yield from do(partial(journal.payees, host))
        buyer = replace(buyer, known=known or frozenset(remembered(subject)))
    allowances = yield from _allowances(challenge, terms)
    buyer = replace(buyer, allowances=allowances, sponsored=gas_sponsoring.is_offered(challenge.extensions))
    choice = choosing.choose(challenge.model_copy(update={"accepts": tuple(same)}), buyer, terms.policy)
    payment = draft(
        choice, challenge, terms.wallet,
        now=terms.clock(), lifetime_seconds=terms.policy.lifetime_seconds, entropy=entropy, allowances=allowances,
        fingerprint=wanted.fingerprint, record=dict(subject.record),
    )  # fmt: skip
    if payment.subject.pay_id != subject.pay_id:
        return None
    yield from do(partial(journal.hold_more, subject.pay_id, host=host, usd=choice.usd, limits=terms.limits))

    def replaced() -> Record:
        signed = payment.sign()
        return journal.replace(payment.subject, signed.header_name, signed.as_header())

    return (yield from do(replaced))


def _dearer(choice: Choice, dead: Record) -> DeclinedError:
    return DeclinedError(
        "price_raised",
        f"the first payment of this call was ${dead.usd} and never taken; now ${choice.usd} is asked for it. Make the"
        " call again if that is right",
        details={"first": str(dead.usd), "asked": str(choice.usd)},
    )


def buyer_of(wanted: Wanted, terms: Terms) -> Buyer:
    """What `choose` must know of the wallet and the call."""
    parts, wallet = urlsplit(wanted.url), terms.wallet
    return Buyer(
        addresses={networks.EIP155: wallet.evm_address, networks.SOLANA: wallet.svm_address},
        host=host_of(wanted.url),
        secure=choosing.is_secure(parts.scheme.lower(), (parts.hostname or "").lower()),
        testnet_only=wallet.testnet_only,
        cap=cap_per_call(terms.policy.max_per_call, terms.limits.per_call, default=choosing.DEFAULT_CAP),
    )


def _allowances(challenge: Challenge, terms: Terms) -> Journey[Allowances]:
    """What Permit2 may move of the wallet's, where an offer needs it and a node can be asked."""
    offer, payer = asked_of(challenge), terms.wallet.evm_address
    if offer is None or not payer or offer.scheme not in terms.policy.schemes:
        return {}
    network = networks.get(offer.network)
    url = terms.evm_rpc.get(network.id) or terms.evm_rpc.get("")
    if not url:
        return {}
    approves = terms.policy.approvals is True and approval_sponsoring.is_offered(challenge.extensions)
    answer: Reply = yield Ask(url, question(offer, payer, account=approves))
    known, asset = read_answer(answer.status, answer.body), network.asset(offer.asset)
    if known is None or asset is None:
        return {}
    if not gas_sponsoring.is_offered(challenge.extensions):
        # The seller takes no permit, so none is signed.
        known = replace(known, permit_nonce=None)
    return {(network.id, asset.address): known}


def _node(choice: Choice, terms: Terms) -> str:
    network = networks.get(choice.requirement.network)
    url = terms.svm_rpc.get(network.id) or terms.svm_rpc.get("") or network.rpc_url
    if not url:
        raise UnavailableError("blockhash_unavailable", f"no node is known for {network.title}: set X402_SVM_RPC_URL")
    return url


def is_this_machine(url: str) -> bool:
    """Whether nobody stands between us and the seller, whose devnet has other addresses at every start."""
    return choosing.is_secure("", (urlsplit(url).hostname or "").lower())


def _remember(wanted: Wanted, choice: Choice, challenge: Challenge, url: str) -> dict[str, Any]:
    """What the journal keeps besides: what was bought, without the query, whom other offers would have paid, and where
    a redirect led, if one did."""
    bought = wanted.url.partition("?")[0].partition("#")[0]
    record: dict[str, Any] = {"method": wanted.method.upper(), "url": bought, "price": str(choice.amount)}
    if choice.requirement.scheme != choosing.EXACT:
        record["scheme"] = choice.requirement.scheme
    payees = [[payee.address, payee.network, payee.asset] for payee in listed(challenge)]
    if len(payees) > 1:
        record["payees"] = payees
    return record if url == wanted.url else record | {"at": url}

"""Challenges and quotes in words: who wants how much, for what, and whether our own client would pay it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from x402 import networks, signed_quote
from x402.cli import tariff
from x402.cli.explanation import Explanation, Section, compact, deadline, money, span, title_of, usd
from x402.client.allowance import Allowance
from x402.client.choose import AUTHORIZATION, UPFRONT, Buyer, Policy, choose
from x402.errors import DeclinedError, MalformedError
from x402.signed_quote import SignedQuote
from x402.wire.challenge import Challenge, Requirement, parse_challenge

_FLOWS = {
    AUTHORIZATION: "the money is taken after the answer was made, before it is released",
    UPFRONT: "the money is taken first, then the answer is streamed",
}
_LONG_SECONDS = 3600
_EXPLAINED_EXTRAS = frozenset({"paymentFlow", "quote", "feePayer", "name", "version", "recentBlockhash", "memo"})
_ANYBODY = Buyer(
    addresses={
        networks.EIP155: "0x000000000000000000000000000000000000dEaD",
        networks.SOLANA: "1nc1nerator11111111111111111111111111111111",
    },
    host="",
    secure=True,
    cap=Decimal(10**30),
)
"""A buyer with every key and no limit, so that whatever it declines is the offer's own fault."""


def explain_challenge(message: dict[str, Any], *, now: int) -> Explanation:
    """A 402's challenge, v1 or v2. Raises `MalformedError("invalid_payment_required")`."""
    challenge = parse_challenge(message)
    offers = [_offer(index, offer, challenge, now) for index, offer in enumerate(challenge.accepts, 1)]
    for unreadable in challenge.unreadable:
        offers.append(Section(f"Offer {unreadable.index + 1}", (), (f"cannot be read: {unreadable.reason}",)))
    count = len(challenge.accepts)
    cheapest = _cheapest(challenge)
    summary = f"A challenge (402, x402 version {challenge.version}): pay {cheapest} by {_ways(count)}, and ask again."
    return Explanation("challenge", summary, (_whole(challenge), *offers), tuple(_problems(challenge)), dict(message))


def explain_quote_token(token: str, *, now: int) -> Explanation:
    """A signed quote. Raises `MalformedError("invalid_quote")`."""
    signed = signed_quote.peek(token)
    problems = () if signed.expires_at > now else ("the quote has expired; ask for a new one",)
    facts = (*_quote_facts(signed, now), ("bound to request", signed.request_digest))
    return Explanation(
        "quote",
        f"A signed quote: {signed.quote.model} costs at most {usd(signed.quote.bound)}.",
        (Section("Quote", facts, problems),),
        ("its signature can only be checked by the seller who made it",),
        tariff.as_json(signed.quote),
    )


def _whole(challenge: Challenge) -> Section:
    facts = [("version", f"x402 v{challenge.version}")]
    if challenge.error:
        facts.append(("said", challenge.error))
    if challenge.resource is not None:
        facts.append(("for", challenge.resource.url))
        if challenge.resource.description:
            facts.append(("described as", challenge.resource.description))
    for name, extension in challenge.extensions.items():
        facts.append((f"extension {name}", compact(extension)))
    return Section("Challenge", tuple(facts))


def _offer(index: int, offer: Requirement, challenge: Challenge, now: int) -> Section:
    problems = []
    flow = offer.extra.get("paymentFlow", AUTHORIZATION)
    facts = [
        ("pay", ("at most " if offer.scheme == "upto" else "") + money(offer.amount, offer.network, offer.asset)),
        ("on", title_of(offer.network)),
        ("to", offer.pay_to),
        ("scheme", offer.scheme),
        ("flow", f"{flow}: {_FLOWS.get(str(flow), 'not known here')}"),
        ("signature lives", f"{span(offer.max_timeout_seconds)} at most"),
    ]
    if "feePayer" in offer.extra:
        facts.append(("network fee paid by", str(offer.extra["feePayer"])))
    if isinstance(offer.extra.get("recentBlockhash"), str):
        facts.append(("recent blockhash", offer.extra["recentBlockhash"]))
    rest = {name: value for name, value in offer.extra.items() if name not in _EXPLAINED_EXTRAS}
    if rest:
        facts.append(("extra", compact(rest)))
    if offer.max_timeout_seconds > _LONG_SECONDS:
        problems.append(f"a signature that lives {span(offer.max_timeout_seconds)} can be taken long after the answer")
    token = offer.extra.get("quote")
    if token is not None:
        quoted, wrong = _quoted(token, offer, now)
        facts += quoted
        problems += wrong
    try:
        choose(Challenge(accepts=(offer,)), _with_allowance(offer), Policy(mainnet=True, allow_http=True))
    except DeclinedError as error:
        said = error.details["offers"][0]
        problems.append(f"our client would not pay it: {said['reason']}")
    return Section(f"Offer {index}", tuple(facts), tuple(problems))


def _with_allowance(offer: Requirement) -> Buyer:
    """Somebody who has allowed Permit2 whatever an offer may ask for."""
    network = networks.find(offer.network)
    asset = None if network is None else network.asset(offer.asset)
    known = {} if asset is None else {(asset.network, asset.address): Allowance(asset.largest)}
    return replace(_ANYBODY, allowances=known)


def _quoted(token: object, offer: Requirement, now: int) -> tuple[list[tuple[str, str]], list[str]]:
    try:
        signed = signed_quote.peek(str(token))
    except MalformedError:
        return [("quote", compact(token))], ["the quote is not one that can be read here"]
    problems = []
    if signed.quote.bound != offer.amount:
        problems.append(f"the quote says {usd(signed.quote.bound)}, the offer asks for {offer.amount} atomic units")
    if signed.expires_at <= now:
        problems.append("the quote has expired; ask for a new one")
    return _quote_facts(signed, now), problems


def _quote_facts(signed: SignedQuote, now: int) -> list[tuple[str, str]]:
    quote = signed.quote
    facts = [("model", quote.model)]
    facts += [("quote" if not index else "", line) for index, line in enumerate(tariff.sentences(quote))]
    facts.append(("answer limited to", f"{quote.output_tokens:,} tokens" + _times(quote.choices)))
    facts.append(("price list", quote.price_list))
    facts.append(("quote expires", deadline(signed.expires_at, now)))
    return facts


def _times(choices: int) -> str:
    return f", {choices} times" if choices > 1 else ""


def _problems(challenge: Challenge) -> list[str]:
    problems = []
    if not challenge.accepts:
        problems.append("there is no offer that can be read, so there is no way to pay")
    known = [networks.find(offer.network) for offer in challenge.accepts]
    kinds = {network.testnet for network in known if network is not None}
    if len(kinds) > 1:
        problems.append("offers of real money and of play money stand side by side; a seller should never mix them")
    if challenge.resource is None:
        problems.append("it does not say what is sold (resource)")
    return problems


def _cheapest(challenge: Challenge) -> str:
    prices = []
    for offer in challenge.accepts:
        network = networks.find(offer.network)
        asset = network.asset(offer.asset) if network else None
        if asset is not None:
            prices.append((Decimal(offer.amount).scaleb(-asset.decimals), asset.symbol))
    if not prices:
        return "an amount that cannot be told"
    price, symbol = min(prices)
    return f"{tariff.plain(price)} {symbol}"


def _ways(count: int) -> str:
    return "its one offer" if count == 1 else f"one of {count} offers" if count else "no offer at all"

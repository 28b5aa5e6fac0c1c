"""What sellers have announced of their prices, so that the next payment goes with the first request.

A buyer who was once asked to pay knows to whom, in what, and by which tariff (`x402.tariff`); it prices its next
request with the seller's own functions and offers itself the challenge that it would be sent. Caps, budgets and pins
see no difference. All of this is in memory and may be forgotten: then one ordinary 402 is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from x402 import networks, tariff
from x402.chat_order import chat_order, variant_of
from x402.errors import MalformedError
from x402.money import Amount
from x402.tariff import EXTENSION, Tariff
from x402.wire.challenge import Challenge, Requirement
from x402.wire.strict import parse_object

KNOWN_MAX = 256
MARGIN_SECONDS = 10
"""So long before its end a tariff is not used any more: our clock and the seller's may differ."""
_FRESH = frozenset({"quote", "recentBlockhash", "lastValidBlockHeight"})
"""Members of an offer's `extra` that are made anew for every challenge."""
_NOT_ECHOED = frozenset({EXTENSION, "sign-in-with-x", "offer-receipt"})
_BODY_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Known:
    challenge: Challenge
    tariff: Tariff
    token: str


class Ahead:
    """Remembers announcements by request line, model and manner of answer; safe to share between calls.

    `wanted` below is a request: its method, its URL and its body.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[object, ...], _Known] = OrderedDict()

    def learn(self, method: str, url: str, body: bytes, challenge: Challenge) -> None:
        """Remember what a challenge announces; one that announces nothing, or nothing readable, is forgotten."""
        key = _key(method, url, _members(body))
        entry = challenge.extensions.get(EXTENSION)
        info = entry.get("info") if isinstance(entry, Mapping) else None
        token = info.get("tariff") if isinstance(info, Mapping) else None
        try:
            said = tariff.peek(token) if isinstance(token, str) else None
        except MalformedError:
            said = None
        if said is None or not isinstance(token, str) or challenge.version != 2:
            self._known.pop(key, None)
            return
        self._known[key] = _Known(_lasting(challenge), said, token)
        self._known.move_to_end(key)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def forget(self, method: str, url: str, body: bytes) -> None:
        """A seller did not take what was paid ahead."""
        self._known.pop(_key(method, url, _members(body)), None)

    def challenge(self, method: str, url: str, body: bytes) -> Challenge | None:
        """The challenge that a request would be answered with, priced by ourselves; None when it has to be asked."""
        members = _members(body)
        known = self._known.get(_key(method, url, members))
        if known is None or self._clock() >= known.tariff.expires_at - MARGIN_SECONDS:
            return None
        try:
            usd = known.tariff.flat
            if usd is None:
                model = known.tariff.model
                if model is None or members is None:
                    return None
                usd = known.tariff.quote(chat_order(members, model)).usd
            offers = tuple(_priced(offer, usd, known.token) for offer in known.challenge.accepts)
        except (MalformedError, TypeError, KeyError, ValueError, AttributeError):
            # The seller says what is wrong with it, in its own words.
            return None
        return known.challenge.model_copy(update={"accepts": offers})


def _key(method: str, url: str, members: Mapping[str, Any] | None) -> tuple[object, ...]:
    """Requests that are priced alike: a query changes no tariff, another model or a stream does."""
    line = (method.upper(), url.partition("#")[0].partition("?")[0])
    return (
        line
        if members is None
        else (*line, str(members.get("model")), members.get("stream") is True, variant_of(members))
    )


def _members(body: bytes) -> Mapping[str, Any] | None:
    if not body.lstrip().startswith(b"{"):
        return None
    try:
        return parse_object(body, limit=_BODY_LIMIT)
    except MalformedError:
        return None


def _lasting(challenge: Challenge) -> Challenge:
    """A challenge without what was made for one request alone."""
    extensions = {name: value for name, value in challenge.extensions.items() if name not in _NOT_ECHOED}
    return challenge.model_copy(
        update={"accepts": tuple(map(_without_fresh, challenge.accepts)), "extensions": extensions, "unreadable": ()}
    )


def _without_fresh(offer: Requirement) -> Requirement:
    extra = {name: value for name, value in offer.extra.items() if name not in _FRESH}
    return offer.model_copy(update={"extra": extra})


def _priced(offer: Requirement, usd: Any, token: str) -> Requirement:
    """An offer at a price of ours. Raises `MalformedError` for an asset or a price that does not fit."""
    known = networks.find(offer.network)
    asset = None if known is None else known.asset(offer.asset)
    if asset is None:
        raise MalformedError("invalid_price", f"{offer.asset} on {offer.network} is not a known asset")
    units = Amount.of(usd, asset).units
    return offer.model_copy(update={"amount": units, "extra": {**offer.extra, "tariff": token}})

"""What is on sale at the moment: the price file, and beside it what registered providers offer.

The file is read again when it changes, when a dated price begins, and when it is asked for (SIGHUP). A file that cannot
be read changes nothing but a fact for the operator. Quotes that are out keep their price: they carry it themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path

from x402.errors import MisconfiguredError
from x402.gateway.inference.catalogue import Catalogue, Model, Provider, join
from x402.gateway.inference.selection import SHARING_FACTOR, cost
from x402.ports import Clock
from x402.price import ModelPrice
from x402.telemetry import Telemetry

LOOK_SECONDS = 2.0
"""How often the file's time is looked at."""

Offers = Callable[[], Sequence[Model]]
"""The models of registered providers, each with its one provider."""


class Shelf:
    """Keeps one catalogue up to date. `read` reads the operator's own list, at a unix second."""

    def __init__(
        self,
        catalogue: Catalogue,
        read: Callable[[int], Catalogue],
        *,
        clock: Clock,
        path: Path | None = None,
        offers: Offers = tuple,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.catalogue = catalogue
        self._read = read
        self._clock = clock
        self._path = path
        self._offers = offers
        self._telemetry = telemetry or Telemetry()
        self._seen = _stamp(path)
        # The catalogue itself is what is sold, which is more than what is listed.
        self._listed = copy(catalogue)
        self._again = asyncio.Event()

    def ask(self) -> None:
        """Have everything read again soon, as SIGHUP does."""
        self._again.set()

    def refill(self) -> None:
        """Sell the list that was read last, and what registered providers offer now."""
        self.catalogue.restock(with_offers(self._listed, self._offers()))

    async def look(self, *, again: bool = False) -> bool:
        """Read the list again if there is a reason to; whether another list is sold now."""
        now, stamp = self._clock(), await asyncio.to_thread(_stamp, self._path)
        due = 0 < self._listed.changes_at <= now
        if not (again or due or stamp != self._seen):
            return False
        self._seen = stamp
        try:
            self._listed = await asyncio.to_thread(self._read, now)
        except (MisconfiguredError, OSError, UnicodeError) as error:
            self._telemetry.emit("prices.refused", reason=str(error)[:200])
            return False
        self.refill()
        self._telemetry.emit("prices.changed", version=self._listed.prices.version)
        return True

    async def wait(self, seconds: float) -> bool:
        """Wait so long, or until somebody asks for the list to be read; whether somebody did."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._again.wait()
        asked = self._again.is_set()
        self._again.clear()
        return asked


def with_offers(listed: Catalogue, offers: Iterable[Model]) -> Catalogue:
    """The operator's own list with the offers of others beside it.

    A name that several share is priced so that any of them may serve, so nobody is let into a name whose price, or
    whose limits, it would worsen, and nobody takes a name that means something else here: such an offer is bought by
    its direct name only.
    """
    shared = {model.id: model for model in listed.models}
    alone: list[Model] = []
    for offer in sorted(offers, key=lambda model: (cost(model.price), model.providers[0].id)):
        known = shared.get(offer.id)
        if known is None and not listed.means(offer.id):
            shared[offer.id] = replace(offer, own=False)
        elif known is None:
            alone.append(_directly(offer))
        elif offer.providers[0].id in {provider.id for provider in known.providers}:
            # The operator's own word about a provider comes first.
            continue
        elif _harmless(known, offer.providers[0], own=offer.id in {model.id for model in listed.models}):
            shared[offer.id] = join(known, offer)
        else:
            alone.append(_directly(offer))
    return Catalogue(
        [*shared.values(), *alone],
        version=listed.prices.version,
        fee_percent=listed.prices.fee_percent,
        rules=listed.rules,
        changes_at=listed.changes_at,
    )


def _directly(offer: Model) -> Model:
    """An offer that is bought by its direct name only."""
    endpoint = offer.providers[0].endpoint
    return replace(offer, id=endpoint, own=False, price=replace(offer.price, model=endpoint))


def _harmless(known: Model, offer: Provider, *, own: bool) -> bool:
    base, new = known.price, offer.price
    times = 1 if own else SHARING_FACTOR
    first = base if own else known.providers[0].price
    rates = ("prompt", "completion", "image", "request")
    dear = any(getattr(new, rate).atomic > times * getattr(first, rate).atomic for rate in rates)
    return not dear and _is_as_wide(base, new)


def _is_as_wide(base: ModelPrice, new: ModelPrice) -> bool:
    """Whether a quote for both may count as much as one for the first alone."""
    for name in ("context_length", "max_output_tokens"):
        ours, theirs = getattr(base, name), getattr(new, name)
        if theirs is not None and (ours is None or theirs < ours):
            return False
    return (
        new.default_output_tokens >= base.default_output_tokens
        and new.tokenizer_factor <= base.tokenizer_factor
        and new.image_tokens <= base.image_tokens
    )


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

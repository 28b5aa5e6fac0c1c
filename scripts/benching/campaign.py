"""Everything that is measured, by the names of the subcommands; quick or whole, alone or beside the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benching import booking, facilitating, selling, shapes, signing, soaking, solana, stages, starting
from benching.figures import OURS, Figure, tell
from benching.stage import CONTENDERS, Chain, Contender, facilitator


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: `quick` for a look of some minutes, `peers` beside the official SDKs."""

    quick: bool = False
    peers: bool = False

    def of(self, whole: int) -> int:
        """So many, or an eighth of it."""
        return max(whole // 8, 16) if self.quick else whole

    @property
    def rounds(self) -> int:
        """How often; the round in the middle is told."""
        return 1 if self.quick else 3

    def contenders(self, *, selling: bool = False) -> Sequence[Contender]:
        """Who takes part; with `selling` those who have a paywall."""
        return [one for one in CONTENDERS if one.who == OURS or (self.peers and (one.seller or not selling))]


def _verify(scale: Scale, chain: Chain) -> Iterator[Figure]:
    for one in scale.contenders():
        tell(f"verify: {one.who}")
        ours = one.who == OURS
        yield from facilitating.verify(one, chain, count=scale.of(4000 if ours else 300), rounds=scale.rounds)
        far = scale.of(2000) if ours else 96
        yield from facilitating.verify_far(one, chain, count=far, at_once=64 if ours else 32, calls=True)


def _settle(scale: Scale, chain: Chain) -> Iterator[Figure]:
    for one in scale.contenders():
        tell(f"settle: {one.who}")
        ours = one.who == OURS
        with facilitator(one, chain, chain.url) as running:
            yield from facilitating.settle(running, one, chain, count=scale.of(960 if ours else 96))
            yield from facilitating.race(running, one, chain)
            if ours:
                yield from facilitating.settle(running, one, chain, count=scale.of(800), at_once=100, row="settle-many")
        # One settlement a block is what the asynchronous Python SDK does: a few tell as much. Ours has many to a block,
        # and the first of them wait for one that is on its way already.
        count = scale.of(2048) if ours else 32 if one.who != "python-async" else 8
        with facilitator(one, chain, chain.url) as running:
            at_once = 256 if ours else 32
            yield from facilitating.settle_by_clock(running, one, chain, count=count, at_once=at_once)


def _client(scale: Scale, chain: Chain) -> Iterator[Figure]:
    yield from signing.ours(seconds=0.1 if scale.quick else 1.0)
    yield from selling.round_trips(chain)
    if scale.peers:
        yield from signing.peers()


def _paywall(scale: Scale, chain: Chain) -> Iterator[Figure]:
    for one in scale.contenders(selling=True):
        tell(f"paywall: {one.who}")
        yield from selling.paywall(one, chain, count=scale.of(2000 if one.who == OURS else 400), rounds=scale.rounds)


def _end_to_end(scale: Scale, chain: Chain) -> Iterator[Figure]:
    for one in scale.contenders(selling=True):
        tell(f"end to end: {one.who}")
        yield from selling.end_to_end(one, chain, count=scale.of(320 if one.who == OURS else 96))


def _import(scale: Scale, chain: Chain) -> Iterator[Figure]:
    yield from starting.imports(scale.rounds * 3, peers=scale.peers)
    for one in scale.contenders():
        tell(f"start: {one.who}")
        yield from starting.ready(one, chain, rounds=scale.rounds)


def _ledger(scale: Scale, chain: Chain) -> Iterator[Figure]:
    yield from booking.ledger(count=scale.of(8000), rounds=scale.rounds)
    yield from booking.growth(step=scale.of(4000), count=scale.of(4000))


def _shapes(scale: Scale, chain: Chain) -> Iterator[Figure]:
    contenders = [one for one in scale.contenders() if one.who != "python-async"]
    yield from shapes.over_concurrency(contenders, chain, count=scale.of(400))
    yield from shapes.over_latency(contenders, chain, count=scale.of(400))
    yield from shapes.over_batches(chain)


def _stream(scale: Scale, chain: Chain) -> Iterator[Figure]:
    yield from selling.streams(chain, count=scale.of(80))


def _solana(scale: Scale, chain: Chain) -> Iterator[Figure]:
    yield from solana.solana(count=scale.of(1600), peers=scale.peers)


def _stages(scale: Scale, chain: Chain) -> Iterator[Figure]:
    yield from stages.stages(chain, count=scale.of(400))


def _soak(scale: Scale, chain: Chain) -> Iterator[Figure]:
    yield from soaking.soak(chain, payments=2000 if scale.quick else 100_000)


MEASURES: dict[str, Callable[[Scale, Chain], Iterator[Figure]]] = {
    "verify": _verify,
    "settle": _settle,
    "client": _client,
    "paywall": _paywall,
    "end-to-end": _end_to_end,
    "ledger": _ledger,
    "import": _import,
    "stream": _stream,
    "solana": _solana,
    "shapes": _shapes,
    "stages": _stages,
    "soak": _soak,
}
"""By the name of the subcommand."""

LONG = {"soak"}
"""What `all` and `peers` leave out unless it is quick: it takes a quarter of an hour and more."""


@contextmanager
def chain() -> Iterator[Chain]:
    """The chain that all measures share."""
    with Chain() as opened:
        yield opened


def measure(names: Sequence[str], scale: Scale, heard: Callable[[str, list[Figure]], None]) -> list[Figure]:
    """Measure what is named, one after the other; `heard` is told what came of each."""
    figures: list[Figure] = []
    with chain() as opened:
        for name in names:
            found = list(MEASURES[name](scale, opened))
            figures += found
            heard(name, found)
    return figures

"""What a call wants, what it needs done on its way, and with what it pays: the words that `flow.journey` is told in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from x402.client.ahead import Ahead
from x402.client.breaker import Breaker
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.client.journal import Journal
from x402.client.record import Record
from x402.client.wallet import Wallet


@dataclass(frozen=True, slots=True)
class Wanted:
    """The request that the caller made. `url` is absolute; `paid` says that the caller attached a payment itself."""

    method: str
    url: str = field(repr=False)
    body: bytes = field(repr=False)
    paid: bool = False

    @property
    def fingerprint(self) -> str:
        """What makes two requests the same, whoever pays: method, URL and body."""
        parts = (self.method.upper(), self.url.partition("#")[0], hashlib.sha256(self.body).hexdigest())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Send:
    """Send the wanted request to `url` with these fields added. The answer is a `Reply`.

    When `payment` is set, the request carries money: its headers must not survive a redirect.
    """

    url: str = field(repr=False)
    payment: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """Post JSON to a chain's node. The answer is a `Reply`."""

    url: str = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Do:
    """Work that may block on a disk or a signer. The answer is what `work` returns."""

    work: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Wait:
    """Let so much time pass. The answer is nothing."""

    seconds: float


Effect = Send | Ask | Do | Wait
T = TypeVar("T")
Journey = Generator[Effect, Any, T]


def do(work: Callable[[], T]) -> Journey[T]:
    """The step that does some work."""
    result: T = yield Do(work)
    return result


@dataclass(frozen=True, slots=True)
class Terms:
    """With what, and within which bounds, a client pays. `clock` gives unix seconds, `entropy(n)` n random bytes.

    `svm_rpc` and `evm_rpc` are node URLs by CAIP-2 network; `""` stands for every network that is not named. `confirm`
    asks the chain what was taken of payments that were signed as a maximum, books that, and returns how many it has
    found. `prove` asks the chain
    what became of a payment, writes down what it proves, and returns the row as it then is; without a chain it stays
    as it was. It raises nothing but `UnavailableError("journal_unavailable")`. `ahead` remembers announced prices;
    without it every payment waits for its 402. With `sign_in_when_asked` a 402 that offers a sign-in is answered by one
    first, where that host was paid before (`client.invitation`). `patience_seconds` bounds how long a call waits for
    others of the same wallet that are in its way at the seller.
    """

    wallet: Wallet
    policy: Policy
    limits: Limits
    journal: Journal
    clock: Callable[[], int]
    entropy: Callable[[int], bytes]
    svm_rpc: Mapping[str, str]
    evm_rpc: Mapping[str, str] = field(default_factory=dict)
    confirm: Callable[[], int] = field(default=lambda: 0)
    breaker: Breaker = field(default_factory=Breaker)
    ahead: Ahead | None = None
    sign_in_when_asked: bool = False
    prove: Callable[[Record], Record] = field(default=lambda record: record)
    patience_seconds: int = 20

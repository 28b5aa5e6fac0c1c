"""One sale: the request that is priced, what its handler is told about the payment, and what is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from x402.billing import Metered
from x402.discount import Discount
from x402.errors import X402Error
from x402.gateway.terms import Flow
from x402.quote import request_digest
from x402.wire.challenge import Requirement
from x402.wire.headers import values
from x402.wire.receipt import Receipt
from x402.wire.strict import parse_json

HeaderPairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PaidRequest:
    """What a price function sees. `target` is the raw path and query, `path_params` what the route took from it.

    Header values are the client's claims: a price or payee made from them is the client's to choose (fault B19).
    """

    method: str
    target: str = field(repr=False)
    headers: HeaderPairs = field(repr=False)
    body: bytes = field(repr=False)
    path_params: Mapping[str, Any] = field(default_factory=dict)
    peer: str = ""
    """The IP address that asks, as far as trusted proxies tell (`gateway.operations.peers`); empty when unknown."""
    url: str = ""
    """The canonical address of what is asked for, as the operator knows it and never as the request does."""

    @cached_property
    def digest(self) -> str:
        """The fingerprint that binds a payment to this very request (fault B02)."""
        return request_digest(self.method, self.target, self.body)

    @property
    def route(self) -> str:
        """Method and path, the query apart: what a price is announced for (`x402.tariff`)."""
        return f"{self.method.upper()} {self.target.partition('?')[0]}"

    def header(self, name: str) -> str | None:
        """The first value of a header field, or None."""
        return next(iter(values(self.headers, name)), None)

    def json(self) -> Any:
        """The body as strict JSON. Raises `MalformedError("invalid_json")`, which answers the request with 400."""
        return parse_json(self.body, limit=max(len(self.body), 1))


@dataclass(slots=True)
class Sale:
    """What a handler may know about the payment that it serves: `request.state.payment`, `scope["x402"]`.

    `receipt` is None while the money has not moved: always so in the flow `authorization`. `amount` is atomic.
    """

    pay_id: str
    payer: str
    payee: str
    network: str
    asset: str
    amount: int
    flow: Flow
    requirement: Requirement
    receipt: Receipt | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    metered: Metered | None = None
    """What the request has used so far; a handler that knows sets it as often as it learns more."""
    settle: Callable[[], Awaitable[Receipt]] | None = None
    """Takes what is metered by now, once: for a handler of a stream in the flow `metered`, before its last event."""
    account: str = ""
    """Who is billed, as CAIP-10; empty where no accounts are kept."""
    credits: bool = False
    """Whether what is paid and not used goes to the payer's account."""
    discount: Discount | None = None
    """What the payer gets off whatever is metered; the till applies it, no handler does."""
    request_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    """What stays with the bill: the request's `metadata` and `user` (aimo rows 29, 31)."""
    latency_ms: int = 0
    first_token_ms: int | None = None

    def sold(self) -> dict[str, Any]:
        """What is kept with the answer, so that a restart writes the same bill."""
        members: dict[str, Any] = {name: getattr(self, name) for name in _KEPT}
        members["metered"] = None if self.metered is None else asdict(self.metered)
        members["discount"] = None if self.discount is None else self.discount.as_json()
        return members

    def recall(self, sold: Mapping[str, Any]) -> None:
        """Take up what `sold` told."""
        for name in _KEPT:
            if name in sold:
                setattr(self, name, sold[name])
        if sold.get("metered") is not None:
            self.metered = Metered(**sold["metered"])
        if "discount" in sold:
            self.discount = None if sold["discount"] is None else Discount.of(sold["discount"])

    def reduced(self, metered: Metered) -> Metered:
        """The same answer less the payer's discount; the platform's fee shrinks with it."""
        if self.discount is None:
            return metered
        charged, fee = metered.charged, metered.fee
        return replace(metered, charged=charged - self.discount.off(charged), fee=fee - self.discount.off(fee))

    def note(self, **members: Any) -> None:
        """Add JSON-able members to `extra` of the receipt, such as what the request really cost.

        In the flow `upfront` the receipt leaves before the handler knows anything, so there it changes nothing.
        """
        self.notes.update(members)


_KEPT = ("request_id", "tags", "latency_ms", "first_token_ms")


class Sink(Protocol):
    """Where a handler's answer goes: once `start`, then any number of `write`."""

    async def start(self, status: int, headers: HeaderPairs) -> None: ...

    async def write(self, chunk: bytes) -> None: ...


Handler = Callable[[Sale, Sink], Awaitable[None]]


class Chunks(Protocol):
    """A body in pieces, to be closed by whoever reads it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to the client. `receipt` travels as a header in the dialect of the payment's `version`."""

    status: int
    headers: HeaderPairs
    chunks: Chunks
    receipt: Receipt | None = None
    version: int = 2
    live: bool = False
    """Whether the reply ends when its reader hangs up, because what is not read is not charged."""


class Whole:
    """A body in one piece, to be read as often as wanted."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.body:
            yield self.body

    async def aclose(self) -> None:
        """Nothing is held."""


class Refusal(Exception):
    """An error that ends a sale, together with what the chain or the facilitator said about the money."""

    def __init__(self, error: X402Error, receipt: Receipt | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.receipt = receipt

"""How often a gateway is asked: per key, per wallet, per address, and how many quotes one address leaves open.

AiMo rows 56 to 58. The counts stand in this process, or in Redis when replicas share them. A store that is away lets
requests pass and is told as the fact `limits.unavailable`: limits spare work, they guard no money.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from x402.errors import MisconfiguredError, Moved, X402Error
from x402.gateway.accounts import Credential, Holder
from x402.gateway.operations.peers import Network, household, is_in, read_address
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import HeaderPairs, PaidRequest
from x402.telemetry import Telemetry

FREE_TIER = "free"
_MINUTE = 60
_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What an operator allows. `tiers` are requests a minute by name, 0 being any number; `free` is for whoever has no
    tier. `open_quotes` and `quotes_per_hour` count what one address asks for and does not pay (0: any number).
    """

    tiers: Mapping[str, int] = field(default_factory=lambda: {FREE_TIER: 100, "pro": 1000, "enterprise": 0})
    open_quotes: int = 10
    quotes_per_hour: int = 100
    quote_seconds: int = 300
    exempt: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if FREE_TIER not in self.tiers or any(count < 0 for count in self.tiers.values()):
            raise MisconfiguredError("invalid_settings", f"X402_TIERS: name {FREE_TIER}, and numbers from 0")

    def of(self, tier: str) -> int:
        """Requests a minute of a tier; an unknown one is `free`."""
        return self.tiers.get(tier, self.tiers[FREE_TIER])


@dataclass(frozen=True, slots=True)
class Standing:
    """How somebody stands in a window: how often, how often still, and the unix second in which it is all new."""

    limit: int
    remaining: int
    reset_at: int

    @property
    def headers(self) -> HeaderPairs:
        """As the old site documents them (aimo row 56)."""
        told = {"Limit": self.limit, "Remaining": self.remaining, "Reset": self.reset_at}
        return tuple((f"X-RateLimit-{name}", str(value)) for name, value in told.items())


class Limits:
    """Counts requests and open quotes. `store` is `memory://`, or `redis://host:port` where replicas share.

    Raises `MisconfiguredError` for another one, and when the client of Redis is not installed.
    """

    def __init__(
        self, pace: Pace | None = None, *, store: str = "memory://", telemetry: Telemetry | None = None
    ) -> None:
        self.pace = pace or Pace()
        self._store = _store(store)
        self._counts = SlidingWindowCounterRateLimiter(self._store)
        self._telemetry = telemetry or Telemetry()

    def is_exempt(self, peer: str) -> bool:
        """Whether an address is not counted, such as the operator's own."""
        return is_in(read_address(peer), self.pace.exempt)

    async def hit(self, kind: str, name: str, per_minute: int) -> Standing | None:
        """Count one request of somebody; None when nobody counts. Raises `ApiProblem` 429."""
        if per_minute == 0:
            return None
        item = RateLimitItemPerMinute(per_minute)
        try:
            within = await self._counts.hit(item, kind, name)
            window = await self._counts.get_window_stats(item, kind, name)
        except StorageError:
            self._away()
            return None
        standing = Standing(per_minute, window.remaining, math.ceil(window.reset_time))
        if not within:
            self._telemetry.emit("limits.refused", reason=kind)
            raise TooMany(kind, f"at most {per_minute} requests a minute", replace_remaining(standing), _MINUTE // 2)
        return standing

    async def quoted(self, peer: str) -> None:
        """An unpaid quote goes out to an address. Raises `ApiProblem` 429 when it has too many (aimo row 58)."""
        who, pace = household(peer), self.pace
        try:
            if pace.quotes_per_hour:
                hourly = RateLimitItemPerHour(pace.quotes_per_hour)
                if not await self._counts.hit(hourly, "quotes", who):
                    raise self._no_quote(f"at most {pace.quotes_per_hour} quotes an hour", _HOUR // 4)
            if pace.open_quotes and await self._store.get(_open(who)) >= pace.open_quotes:
                words = f"at most {pace.open_quotes} quotes may wait for their payment; pay one, or wait"
                raise self._no_quote(words, pace.quote_seconds // 4)
            await self._store.incr(_open(who), pace.quote_seconds)
        except StorageError:
            self._away()

    async def paid(self, peer: str) -> None:
        """A quote of an address was paid, and waits no longer."""
        name = _open(household(peer))
        try:
            if await self._store.get(name) > 0:
                await self._store.incr(name, self.pace.quote_seconds, amount=-1)
        except StorageError:
            self._away()

    def _no_quote(self, words: str, seconds: int) -> ApiProblem:
        self._telemetry.emit("limits.refused", reason="quotes")
        return TooMany("quotes", words, None, max(1, seconds))

    def _away(self) -> None:
        self._telemetry.emit("limits.unavailable", reason="store")


class TooMany(ApiProblem):
    """A 429, with how its caller stands."""

    def __init__(self, kind: str, words: str, standing: Standing | None, retry_after_seconds: int) -> None:
        super().__init__(
            429,
            "rate_limit_exceeded",
            words,
            kind="rate_limit_error",
            retry_after_seconds=retry_after_seconds,
            details={"per": kind},
        )
        self.standing = standing

    def beside_a_payment(self) -> TooMany:
        """The same for a request that brings a payment, which an earlier request may have settled."""
        self.moved = Moved.UNKNOWN
        return self


class Paced:
    """A credential whose holders are counted, each wallet for itself: an address may have many, and a wallet many."""

    def __init__(self, credential: Credential, limits: Limits) -> None:
        self._credential = credential
        self._limits = limits

    async def holder(self, request: PaidRequest) -> Holder | None:
        """As the credential says. Raises `ApiProblem` 429 as well."""
        found = await self._credential.holder(request)
        if found is not None and not found.key_id and not self._limits.is_exempt(request.peer):
            await self._limits.hit("wallet", found.account, self._limits.pace.of(FREE_TIER))
        return found


def tiers_of(stated: str) -> dict[str, int]:
    """Tiers from text such as `free=100,pro=1000,enterprise=0`. Raises `MisconfiguredError`."""
    tiers: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in stated.split(","))):
        name, _, count = part.partition("=")
        if not name.strip() or not count.strip().isdigit() or not count.isascii():
            raise MisconfiguredError("invalid_settings", f"X402_TIERS: {part!r} is not NAME=REQUESTS_A_MINUTE")
        tiers[name.strip()] = int(count)
    return tiers or dict(Pace().tiers)


def replace_remaining(standing: Standing) -> Standing:
    """Whoever is refused has nothing left."""
    return Standing(standing.limit, 0, standing.reset_at)


def standing_of(error: X402Error) -> Standing | None:
    """How the caller stands whom an error refuses."""
    return error.standing if isinstance(error, TooMany) else None


def _open(who: str) -> str:
    return f"x402/open-quotes/{who}"


def _store(url: str) -> Storage:
    if url in ("", "memory://"):
        return MemoryStorage(wrap_exceptions=True)
    if not url.startswith(("redis://", "rediss://")):
        raise MisconfiguredError(
            "invalid_settings", "X402_RATE_STORE: memory://, redis://host:port or rediss://host:port"
        )
    try:
        made = storage_from_string(f"async+{url}", implementation="redispy", wrap_exceptions=True)
    except ConfigurationError as error:
        raise MisconfiguredError(
            "extra_missing", "limits in Redis need the extra redis: pip install 'x402-engine[redis]'"
        ) from error
    assert isinstance(made, Storage)
    return made

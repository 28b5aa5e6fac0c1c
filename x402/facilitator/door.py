"""The door of a facilitator: who asks, from where, and how often, before a body is read or a node is asked.

Faults E06 and G01: a facilitator spends its own money for whoever may call `/settle`, and its nodes' time for whoever
may call `/verify`. Nothing here looks at a payment.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache

from x402.errors import DeniedError, LimitedError, Mender, Moved
from x402.facilitator.callers import Caller, Callers

_MINUTE = 60
_IPV6_HOUSEHOLD = 64


class Door:
    """Lets callers in. `callers` None is open to anybody, who is then known by address; `requests_per_minute` None
    counts nobody; `origins` are those whose pages may ask from a browser."""

    def __init__(
        self,
        callers: Callers | None = None,
        *,
        requests_per_minute: int | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        self.callers = callers
        self.origins = tuple(origins)
        self._pace = requests_per_minute
        self._hit = None if callers is None and requests_per_minute is None else _counter()

    async def admit(self, what: str, *, authorizations: Sequence[str], origins: Sequence[str], host: str) -> Caller:
        """Who asks for `what` (`verify`, `settle`), by the values of these headers and the peer's address.

        Raises `DeniedError` for a browser, `UnidentifiedError` for an unknown key, `LimitedError` for who asks too
        often.
        """
        if any(origin not in self.origins for origin in origins):
            raise DeniedError("origin_refused", "pages in a browser are not served here")
        if self.callers is None:
            caller = Caller(f"at {_household(host)}", requests_per_minute=self._pace)
        else:
            caller = self.callers.identify(authorizations)
        await self._count(what, caller)
        return caller

    async def _count(self, what: str, caller: Caller) -> None:
        pace = caller.requests_per_minute or self._pace
        if pace is None or self._hit is None or await self._hit(pace, what, caller.name):
            return
        # An earlier request may have settled the very payment that is asked about now.
        moved = Moved.UNKNOWN if what == "settle" else Moved.NO
        raise LimitedError(
            "too_many_requests",
            f"{caller.name} asked to {what} more than {pace} times a minute",
            moved=moved,
            mender=Mender.CALLER,
            retry_after_seconds=_MINUTE // 2 if pace > 1 else _MINUTE,
        )


def _counter() -> Callable[[int, str, str], Awaitable[bool]]:
    """Counts one more request by somebody for something, and says whether that is within so many a minute."""
    # A door without a pace is open sooner for not waiting for this library.
    from limits import RateLimitItemPerMinute
    from limits.aio.storage import MemoryStorage
    from limits.aio.strategies import SlidingWindowCounterRateLimiter

    counts = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def hit(pace: int, what: str, name: str) -> bool:
        return await counts.hit(RateLimitItemPerMinute(pace), what, name)

    return hit


@lru_cache(maxsize=4096)
def _household(host: str) -> str:
    """An IPv4 address, or the /64 that one subscriber gets of IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64] or "an unknown address"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_HOUSEHOLD), strict=False))
    return str(address)

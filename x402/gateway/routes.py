"""Prices on route objects: whichever path leads to a priced handler, the guard stands in front of it (fault F01).

A Starlette or FastAPI app is asked for its own routes, mounts and included routers too, and the guard is put into the
route object that serves. Nothing here compares request paths, so there is no spelling of a path that a router
understands and the guard does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from x402.errors import MisconfiguredError
from x402.gateway.asgi import App, Receive, Scope, Send
from x402.gateway.counter import PriceRule
from x402.gateway.route_keys import RouteKey, template_segments

PRICE_MARK = "x402_price"
"""Attribute of a route's dependency that carries its price."""
_GUARDED = "x402_guarded"

Guard = Callable[[App, PriceRule, Scope, Receive, Send], Awaitable[None]]
"""What stands before a handler: the handler as an app, its price, and the ASGI call."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A route object as it can be reached: `methods` None is all of them; `loose` objects cannot be guarded."""

    route: Any
    segments: tuple[str, ...]
    methods: frozenset[str] | None
    marks: tuple[PriceRule, ...] = ()
    loose: bool = False

    @property
    def name(self) -> str:
        return "/" + "/".join(self.segments)


@dataclass(slots=True)
class _Prices:
    """What is asked at one route object, the most particular key first."""

    route: Any
    keyed: list[tuple[RouteKey | None, PriceRule]] = field(default_factory=list)

    def of(self, method: str) -> PriceRule:
        wanted = "GET" if method == "HEAD" else method
        for key, rule in self.keyed:
            if key is None or key.method in (None, wanted):
                return rule
        # A method that no key names runs the same handler, and does not run it for nothing (fault F02).
        return self.keyed[0][1]


def attach(app: Any, routes: Mapping[RouteKey, PriceRule], guard: Guard) -> list[PriceRule]:
    """Put the guard before every route that a key or a dependency prices; returns all prices.

    Raises `MisconfiguredError` for a key that names no route, for a route that is reached under a priced and an
    unpriced path, and for one that cannot be guarded.
    """
    priced: dict[int, _Prices] = {}
    places = list(_places(app.routes))
    used: set[RouteKey] = set()
    for place in places:
        keyed = _keyed(place, routes)
        used |= {key for key, _ in keyed if key is not None}
        _admit(place, keyed, priced)
    unused = [key.text for key in routes if key not in used]
    if unused:
        raise MisconfiguredError("unknown_route", f"priced, but not in the app: {', '.join(unused)}")
    for place in places:
        if id(place.route) in priced and not _keyed(place, routes):
            raise MisconfiguredError(
                "half_priced_route", f"{place.name} is served by a priced route under another path; price both"
            )
    for prices in priced.values():
        _install(prices, guard)
    return [rule for prices in priced.values() for _, rule in prices.keyed]


def _keyed(place: _Place, routes: Mapping[RouteKey, PriceRule]) -> list[tuple[RouteKey | None, PriceRule]]:
    found: list[tuple[RouteKey | None, PriceRule]] = [(None, mark) for mark in place.marks]
    keys = [key for key in routes if key.covers_template(place.segments) and key.covers_method(place.methods)]
    # A key for the route itself counts, and only without one the wildcards above it.
    exact = [key for key in keys if not key.wild] or keys
    exact.sort(key=lambda key: (key.method is None, -len(key.segments)))
    found += [(key, routes[key]) for key in exact]
    if not found:
        loose = [key for key in routes if key.wild and key.touches_template(place.segments)]
        if loose and any(key.covers_method(place.methods) for key in loose):
            raise MisconfiguredError(
                "ambiguous_route",
                f"{loose[0].text} covers only a part of {place.name}; price that route by its own key",
            )
    if place.marks and len(found) > 1:
        raise MisconfiguredError("ambiguous_route", f"{place.name} is priced twice, by a key and by a dependency")
    return found


def _admit(place: _Place, keyed: list[tuple[RouteKey | None, PriceRule]], priced: dict[int, _Prices]) -> None:
    if not keyed:
        return
    if place.loose:
        raise MisconfiguredError(
            "unguardable_route", f"{place.name} is in an included router; add it to the app itself to price it"
        )
    known = priced.get(id(place.route))
    if known is None:
        priced[id(place.route)] = _Prices(place.route, keyed)
    elif [rule for _, rule in known.keyed] != [rule for _, rule in keyed]:
        raise MisconfiguredError("ambiguous_route", f"{place.name} is one route with two prices; define it twice")


def _places(routes: Iterable[Any], prefix: tuple[str, ...] = ()) -> Iterator[_Place]:
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            for context in route.effective_route_contexts():
                yield from _included(context, prefix)
        elif hasattr(route, "host") or hasattr(route, "path"):
            yield from _direct(route, prefix)


def _direct(route: Any, prefix: tuple[str, ...]) -> Iterator[_Place]:
    segments = prefix + (() if hasattr(route, "host") else template_segments(route.path))
    if not hasattr(route, "endpoint"):
        inner = list(getattr(route, "routes", None) or ())
        if inner:
            yield from _places(inner, segments)
        else:
            yield _Place(route, (*segments, "*"), None)
        return
    yield _Place(route, segments, _methods(route), _marks(getattr(route, "dependant", None)))


def _included(context: Any, prefix: tuple[str, ...]) -> Iterator[_Place]:
    original = context.original_route
    if hasattr(original, "dependant") and hasattr(original, "methods"):
        segments = prefix + template_segments(context.path)
        yield _Place(original, segments, frozenset(context.methods), _marks(context.dependant))
        return
    effective = getattr(context, "starlette_route", None)
    if effective is not None:
        # FastAPI makes these objects anew whenever its routes change, so a guard in them would be lost.
        for place in _direct(effective, prefix):
            yield _Place(place.route, place.segments, place.methods, loose=True)


def _methods(route: Any) -> frozenset[str] | None:
    if not hasattr(route, "methods"):
        return frozenset({"GET"})
    return frozenset(route.methods) if route.methods else None


def _marks(dependant: Any) -> tuple[PriceRule, ...]:
    if dependant is None:
        return ()
    own = getattr(dependant.call, PRICE_MARK, None)
    nested = [mark for inner in dependant.dependencies for mark in _marks(inner)]
    return (*(() if own is None else (own,)), *nested)


def _install(prices: _Prices, guard: Guard) -> None:
    route = prices.route
    if getattr(route, _GUARDED, False):
        raise MisconfiguredError("ambiguous_route", f"{route.path} is guarded by two paywalls")
    served = route.handle

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        methods = getattr(route, "methods", None)
        if scope["type"] == "http" and methods and scope["method"] not in methods:
            # The router refuses this method; the handler does not run.
            await served(scope, receive, send)
            return
        await guard(served, prices.of(scope.get("method", "GET")), scope, receive, send)

    route.handle = handle
    setattr(route, _GUARDED, True)

"""Route keys such as `GET /report`: which routes of an app they name, and which paths they cover.

Grammar (protocol §7.2): an optional method, a path in which `{p}`, `:p` and `[p]` stand for one segment, and `*` for
anything; a trailing `/*` covers the bare prefix too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from x402.errors import MisconfiguredError

_KEY = re.compile(r"(?:(?P<method>[A-Z]+|\*)[ ]+)?(?P<path>/\S*|\*)", re.ASCII)
_PARAMETER = re.compile(r"\{[^/{}]+\}|:[A-Za-z_][A-Za-z0-9_]*|\[[^/\[\]]+\]", re.ASCII)
_ONE, _ANY = "{}", "*"


@dataclass(frozen=True, slots=True)
class RouteKey:
    """One key of the paywall's `routes`; `method` None means every method."""

    text: str
    method: str | None
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> RouteKey:
        """Raises `MisconfiguredError("invalid_route")`."""
        match = _KEY.fullmatch(text.strip())
        if match is None:
            raise MisconfiguredError("invalid_route", f'{text!r}: a route looks like "GET /report" or "/files/*"')
        method = match["method"]
        path = match["path"]
        segments = template_segments(path if path.startswith("/") else f"/{path}")
        return cls(text, None if method in (None, "*") else method, segments)

    @property
    def wild(self) -> bool:
        """Whether the key covers more than one template."""
        return _ANY in "".join(self.segments)

    def covers_template(self, segments: tuple[str, ...]) -> bool:
        """Whether every path of a route's template falls under this key."""
        return _covers(self.segments, segments)

    def touches_template(self, segments: tuple[str, ...]) -> bool:
        """Whether some path could fall under both."""
        return _overlap(self.segments, segments)

    def covers_method(self, methods: frozenset[str] | None) -> bool:
        """Whether a route that serves `methods` (None: all) is meant; GET includes HEAD."""
        return self.method is None or methods is None or self.method in methods

    def covers_path(self, path: str) -> bool:
        """Whether a request path, in any of its spellings, falls under this key (fault F01)."""
        pattern = _pattern(self.segments)
        return any(pattern.fullmatch(spelling) is not None for spelling in spellings(path))


@lru_cache
def _pattern(segments: tuple[str, ...]) -> re.Pattern[str]:
    parts: list[str] = []
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment == _ANY and last:
            parts.append("(?:/.*)?")
        else:
            pieces = [re.escape(piece).replace(re.escape(_ONE), "[^/]+") for piece in segment.split(_ANY)]
            parts.append("/" + ".*?".join(pieces))
    return re.compile("".join(parts) or "/", re.IGNORECASE | re.DOTALL)


def template_segments(template: str) -> tuple[str, ...]:
    """A path template in one spelling: parameters become `{}`, a parameter that takes slashes becomes `*`."""
    template = re.sub(r"\{[^/{}]+:path\}", _ANY, template)
    return tuple(_PARAMETER.sub(_ONE, segment) for segment in template.split("/") if segment)


def spellings(path: str) -> frozenset[str]:
    """A request path as any router might read it: decoded once or twice, without doubled or trailing slashes, dot
    segments and `;` parameters, with backslashes as slashes. More is guarded than need be, never less."""
    decoded = unquote(path)
    found = {path, decoded, unquote(decoded)}
    found |= {spelling.replace("\\", "/") for spelling in found}
    found |= {re.sub(r";[^/]*", "", spelling) for spelling in found}
    return frozenset(_plain(spelling) for spelling in found)


def _plain(path: str) -> str:
    segments: list[str] = []
    for segment in path.partition("?")[0].partition("#")[0].split("/"):
        if segment == "..":
            segments = segments[:-1]
        elif segment.strip() not in ("", "."):
            segments.append(segment.strip())
    return "/" + "/".join(segments)


def _covers(key: tuple[str, ...], template: tuple[str, ...]) -> bool:
    if not key:
        return not template
    if key == (_ANY,):
        return True
    if not template:
        return False
    head = key[0]
    if head in (_ONE, _ANY):
        fits = template[0] != _ANY
    else:
        fits = head.lower() == template[0].lower()
    return fits and _covers(key[1:], template[1:])


def _overlap(key: tuple[str, ...], template: tuple[str, ...]) -> bool:
    if key == (_ANY,) or template == (_ANY,):
        return True
    if not key or not template:
        return key == template
    one, other = key[0], template[0]
    if one == _ANY or other == _ANY:
        return True
    open_ended = any(mark in segment for segment in (one, other) for mark in (_ONE, _ANY))
    return (open_ended or one.lower() == other.lower()) and _overlap(key[1:], template[1:])

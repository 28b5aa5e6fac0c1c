"""A node's URL, which often holds an API key: in its path, its query, or before the host (fault E03).

The key is kept out of our messages, which never quote the URL, and of what nodes and proxies answer, which may. The
HTTP library that asks nodes writes no line about a request.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

MASK = "***"
_SHORTEST = 8
"""Shorter parts of a path, such as `v2` or `rpc`, are no keys."""


def secrets_of(url: str) -> tuple[str, ...]:
    """What in a URL may be a key, longest first."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ()
    words = {parts.username or "", parts.password or "", *parts.path.split("/")}
    words |= {value for _, value in parse_qsl(parts.query)}
    return tuple(sorted((word for word in words if len(word) >= _SHORTEST), key=len, reverse=True))


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """A text without them."""
    for word in secrets:
        text = text.replace(word, MASK)
    return text

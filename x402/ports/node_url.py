"""A node's URL, which often holds an API key: in its path, its query, or before the host (fault E03).

The key is kept out of three places: our messages, which never quote the URL; what nodes and proxies answer, which may;
and the log lines of the HTTP library, which do.
"""

from __future__ import annotations

import logging
from urllib.parse import parse_qsl, urlsplit

MASK = "***"
_SHORTEST = 8
"""Shorter parts of a path, such as `v2` or `rpc`, are no keys."""

_hidden: set[str] = set()


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


class _Scrubber(logging.Filter):
    """Scrubs the URLs of our nodes from the HTTP library's lines, which name every request at level INFO."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _hidden and isinstance(record.args, tuple):
            secrets = tuple(sorted(_hidden, key=len, reverse=True))
            record.args = tuple(
                value if isinstance(value, int) else scrub(str(value), secrets) for value in record.args
            )
        return True


_scrubber = _Scrubber()


def hide(secrets: tuple[str, ...]) -> None:
    """Keep these words out of the HTTP library's log lines, in this process."""
    _hidden.update(secrets)
    logger = logging.getLogger("httpx")
    if _scrubber not in logger.filters:
        logger.addFilter(_scrubber)

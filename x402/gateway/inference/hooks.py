"""Where an operator's own rules come in: what may be asked, and what a model's name means (aimo row 100).

Both are off. They are called before a price is asked, so that nobody pays for what is refused, and again when the
request is served, so they have to give the same answer both times. They must not block: what takes long belongs into a
service of its own, in front of the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Screen(Protocol):
    """Judges requests, such as a content filter."""

    def objection(self, members: Mapping[str, Any]) -> str:
        """Why a request is not answered, in words for its sender; `""` when it is. `members` is its JSON."""
        ...


class Pins(Protocol):
    """Says which version of a model a name means, such as one that is being tried out on some requests.

    For names that always mean the same, `aliases` in the price file suffice.
    """

    def model(self, name: str) -> str:
        """The name to use; the same when there is nothing to say."""
        ...

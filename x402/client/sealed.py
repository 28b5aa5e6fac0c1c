"""Request headers whose payment does not survive a copy (fault B05).

httpx and httpx2 build each redirected request from a copy of the headers of the one before, and strip `Authorization`
only. A payment is a bearer instrument as well, and an `auth=` object never sees the hops of a redirect. So the payment
is attached to one request: whoever reads these headers sees it, whoever copies them gets them without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast


def seal(headers: Any, payment: Iterable[tuple[str, str]]) -> Any:
    """Headers of the same library with `payment` added, which a copy leaves out."""
    sealed = _class_for(cast(Any, type(headers)))(headers)
    whole = type(headers)(headers)
    whole.update(list(payment))
    sealed.whole = whole
    sealed.secret = frozenset(name.lower() for name, _ in payment)
    return sealed


@lru_cache(maxsize=8)
def _class_for(library: Hashable) -> Any:
    return type("SealedHeaders", (_Sealed, cast("type[Any]", library)), {})


class _Sealed:
    """Mixed into `Headers`: its own list has no payment, which is what copies take; everything else reads `whole`."""

    whole: Any
    secret: frozenset[str]

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return cast("list[tuple[bytes, bytes]]", self.whole.raw)

    def keys(self) -> Any:
        return self.whole.keys()

    def values(self) -> Any:
        return self.whole.values()

    def items(self) -> Any:
        return self.whole.items()

    def multi_items(self) -> Any:
        return self.whole.multi_items()

    def get_list(self, key: str, split_commas: bool = False) -> Any:
        return self.whole.get_list(key, split_commas)

    def __getitem__(self, key: str) -> str:
        return cast(str, self.whole[key])

    def __contains__(self, key: object) -> bool:
        return key in self.whole

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)

    def __setitem__(self, key: str, value: str) -> None:
        if key.lower() not in self.secret:
            cast(Any, super()).__setitem__(key, value)
        self.whole[key] = value

    def __delitem__(self, key: str) -> None:
        with suppress(KeyError):
            cast(Any, super()).__delitem__(key)
        del self.whole[key]

    def update(self, headers: Any = None) -> None:
        for name, value in type(self.whole)(headers).items():
            self[name] = value

    def __repr__(self) -> str:
        shown = [(name, "[secure]" if name.lower() in self.secret else value) for name, value in self.items()]
        return f"SealedHeaders({shown!r})"

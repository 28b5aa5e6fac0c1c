"""Extensions of a challenge: the client echoes them, and the server sees that nothing was altered.

Source: protocol page §6.1 (echo rule), §6.3 (`payment-identifier`), §6.7 (`builder-code`). Pure functions on JSON.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from x402.errors import MalformedError
from x402.wire.strict import require_object

ECHO_MISMATCH = "extension_echo_mismatch"
"""The canonical reason for a payment whose echo is `altered`."""

PAYMENT_IDENTIFIER = "payment-identifier"
BUILDER_CODE = "builder-code"
DYNAMIC: Mapping[str, frozenset[str]] = {
    "sign-in-with-x": frozenset({"nonce", "issuedAt", "expirationTime"}),
    "offer-receipt": frozenset({"offers"}),
}
"""Members of `info` that a server makes anew for each challenge, so that an older echo may differ in them."""

_PAYMENT_ID = re.compile(r"[a-zA-Z0-9_-]{16,128}", re.ASCII)


def echo(server_extensions: Mapping[str, Any], additions: Mapping[str, Any]) -> dict[str, Any]:
    """The `extensions` of a payment: everything that the server advertised, and what the client adds to it.

    Objects are merged; where both sides say something about the same leaf, the server's word stands. `builder-code`
    is special: service codes of both sides are kept, the client's first, and only the server may name an app code.
    Neither argument is changed.
    """
    if not server_extensions and not additions:
        return {}
    merged = _merge(server_extensions, additions)
    info = _info(merged.get(BUILDER_CODE))
    if info:
        codes = [*_codes(additions), *_codes(server_extensions)]
        if codes:
            info["s"] = list(dict.fromkeys(codes))
        if "a" not in _info(server_extensions.get(BUILDER_CODE)):
            info.pop("a", None)
        merged[BUILDER_CODE]["info"] = info
    return merged


def altered(advertised: Mapping[str, Any], echoed: Mapping[str, Any]) -> str | None:
    """Where an echo contradicts what was advertised, such as `"builder-code.info.a"`, or None when it does not.

    Only extensions on both sides are compared, and of them only `info`: it may have grown, but whatever was
    advertised must still be there unchanged, `DYNAMIC` members apart. An advertised null may be absent.
    """
    for key, sent in echoed.items():
        if key == BUILDER_CODE and "a" in _info(sent) and "a" not in _info(advertised.get(key)):
            return f"{key}.info.a"
        if key not in advertised:
            continue
        expected = {
            name: member for name, member in _info(advertised[key]).items() if name not in DYNAMIC.get(key, frozenset())
        }
        actual = _info(sent)
        if key == BUILDER_CODE and expected.get("s") is not None:
            if not set(_codes(advertised)) <= set(_codes(echoed)):
                return f"{key}.info.s"
            del expected["s"]
        difference = _lost(expected, actual, f"{key}.info")
        if difference is not None:
            return difference
    return None


def payment_identifier(extensions: Mapping[str, Any]) -> str | None:
    """The client's own id of a payment, or None when it gives none.

    Raises `MalformedError("invalid_payload")` for an id outside its grammar (16 to 128 of A-Z a-z 0-9 _ -), and for
    none where the echoed extension says that one is required.
    """
    entry = extensions.get(PAYMENT_IDENTIFIER)
    if entry is None:
        return None
    members = require_object(entry, code="invalid_payload", name=PAYMENT_IDENTIFIER)
    info = require_object(members.get("info", {}), code="invalid_payload", name=f"{PAYMENT_IDENTIFIER}.info")
    identifier = info.get("id")
    if identifier is None and info.get("required") is not True:
        return None
    if not isinstance(identifier, str) or _PAYMENT_ID.fullmatch(identifier) is None:
        raise MalformedError(
            "invalid_payload", f"{PAYMENT_IDENTIFIER}.info.id: 16 to 128 letters, digits, hyphens and underscores"
        )
    return identifier


def _merge(server: Mapping[str, Any], client: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(server))
    for name, member in client.items():
        if name not in server:
            merged[name] = copy.deepcopy(member)
        elif isinstance(server[name], Mapping) and isinstance(member, Mapping):
            merged[name] = _merge(server[name], member)
    return merged


def _info(entry: Any) -> dict[str, Any]:
    """A copy of the `info` of an extension; empty when the entry has no such object."""
    info = entry.get("info") if isinstance(entry, Mapping) else None
    return dict(info) if isinstance(info, Mapping) else {}


def _codes(extensions: Mapping[str, Any]) -> list[str]:
    """The service codes of `builder-code`, which may be written as one string."""
    codes = _info(extensions.get(BUILDER_CODE)).get("s")
    listed = [codes] if isinstance(codes, str) else codes
    return [code for code in listed if isinstance(code, str)] if isinstance(listed, list) else []


def _lost(expected: Mapping[str, Any], actual: Mapping[str, Any], path: str) -> str | None:
    """The first member of `expected` that `actual` lacks or contradicts."""
    for name, member in expected.items():
        where = f"{path}.{name}"
        if name not in actual:
            if member is not None:
                return where
        elif isinstance(member, Mapping) and isinstance(actual[name], Mapping):
            deeper = _lost(member, actual[name], where)
            if deeper is not None:
                return deeper
        elif not _same(member, actual[name]):
            return where
    return None


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON values: `1` and `1.0` are one number, `1` and `true` are not one value."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(member, right[name]) for name, member in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)

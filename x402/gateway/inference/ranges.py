"""Checks of single request members, before anybody is asked to pay (aimo rows 20-33)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from x402.errors import MalformedError
from x402.gateway.problem import ApiProblem
from x402.wire.strict import parse_object

REQUEST_LIMIT = 16 * 1024 * 1024
"""Bytes of a request. The operator's own limit, `X402_BODY_LIMIT`, comes first."""
STRUCTURE_LIMIT = 2**20
"""Brackets, braces and commas in a request: a large one is large by its images, not by what has to be taken apart."""
TAGS_LIMIT = 64
TAGS_BYTES_LIMIT = 4096

Check = Callable[[str, Any], None]
"""Raises `ApiProblem` 400 that names the member, unless its value will do."""


def refused(param: str, message: str, *, code: str = "invalid_request", status: int = 400) -> ApiProblem:
    """A request that its sender must mend."""
    return ApiProblem(status, code, message, kind="invalid_request_error", param=param)


def read_members(body: bytes, checks: Mapping[str, Check]) -> dict[str, Any]:
    """The JSON object in a body, known members checked. Raises `ApiProblem` 400 that names the member in the wrong."""
    if sum(body.count(mark) for mark in (b",", b"{", b"[")) > STRUCTURE_LIMIT:
        raise refused("", "the request body has too many parts")
    try:
        members = parse_object(body, limit=REQUEST_LIMIT, code="invalid_request")
    except MalformedError as error:
        raise refused("", f"the request body: {error.message}") from error
    for name, check in checks.items():
        value = members.get(name)
        if value is not None:
            check(name, value)
    model = members.get("model")
    if not isinstance(model, str) or not 1 <= len(model) <= 128:
        raise refused("model", "model: a name of 1 to 128 characters is required")
    return members


def out_of_range(name: str, wanted: str) -> NoReturn:
    """Raise for a member that is there and cannot be meant."""
    raise refused(name, f"{name}: {wanted} is required", code="invalid_value")


def number(least: int, most: int) -> Check:
    """Any number in a range."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            out_of_range(name, f"a number from {least} to {most}")

    return check


def integer(least: int, most: int) -> Check:
    """A whole number in a range."""

    def check(name: str, value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            out_of_range(name, f"a whole number from {least} to {most}")

    return check


def kind(wanted: type, words: str) -> Check:
    """A JSON type; `words` say which."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, wanted):
            out_of_range(name, words)

    return check


def one_of(*choices: str) -> Check:
    """One of a few words."""

    def check(name: str, value: Any) -> None:
        if value not in choices:
            out_of_range(name, f"one of {', '.join(choices)}")

    return check


def tags_of(members: Mapping[str, Any]) -> dict[str, str]:
    """The request's `metadata` and `user`, as they stay with its bill (aimo rows 29, 31). Raises `ApiProblem` 400."""
    tags: dict[str, str] = {}
    for name, value in (members.get("metadata") or {}).items():
        if value is not None:
            tags[name] = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    if members.get("user"):
        tags["user"] = members["user"]
    if (
        len(tags) > TAGS_LIMIT
        or sum(len(name) + len(value.encode()) for name, value in tags.items()) > TAGS_BYTES_LIMIT
    ):
        out_of_range("metadata", f"at most {TAGS_LIMIT} entries of {TAGS_BYTES_LIMIT} bytes in all, with the user,")
    return tags

"""The strict codecs below every message: JSON and base64 that have exactly one reading (faults E04, F07, F08).

Whatever cannot be read raises `MalformedError`; nothing else ever leaves these functions, whatever the input.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from x402.errors import MalformedError
from x402.wire.nesting import decode

HEADER_LIMIT = 16 * 1024
"""Largest header value that is read, in characters."""
BODY_LIMIT = 64 * 1024
"""Largest JSON body of a challenge, verify or settle message, in bytes."""
DEPTH_LIMIT = 20
"""Levels of nesting that are read."""
DIGIT_LIMIT = 78
"""Digits of a number that are read: as many as 2^256 has."""

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)


class _Refusal(ValueError):
    """Raised inside the JSON hooks; never leaves this module."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refusal("a member name occurs twice")
    return members


def _constant(name: str) -> NoReturn:
    raise _Refusal(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGIT_LIMIT:
        raise _Refusal(f"an integer has more than {DIGIT_LIMIT} digits")
    return int(digits)


def _fraction(text: str) -> float:
    if len(text) > DIGIT_LIMIT:
        raise _Refusal(f"a number has more than {DIGIT_LIMIT} digits")
    value = float(text)
    if not math.isfinite(value):
        raise _Refusal("a number is too large")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer, parse_float=_fraction
)

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _inspect(value: Any, depth: int) -> None:
    """Raise unless `value` is made of encodable text and nests at most `depth` levels."""
    if depth == 0 and isinstance(value, dict | list):
        raise _Refusal("nested too deeply")
    if isinstance(value, str):
        if not value.isascii():
            value.encode()
    elif isinstance(value, dict):
        for name, member in value.items():
            _inspect(name, depth)
            _inspect(member, depth - 1)
    elif isinstance(value, list):
        for member in value:
            _inspect(member, depth - 1)


def _is_plain(text: str, depth: int) -> bool:
    """Whether a JSON text has nothing that `_inspect` looks for: too few brackets to nest too deeply, and no character
    beyond ASCII, written out or escaped."""
    return text.isascii() and "\\u" not in text and text.count("{") + text.count("[") <= depth


def parse_json(
    data: bytes | str, *, limit: int = BODY_LIMIT, depth: int = DEPTH_LIMIT, code: str = "invalid_json"
) -> Any:
    """One JSON value, read strictly: no duplicate members, NaN, lone surrogates, deep nesting or giant integers.

    Raises `MalformedError(code)` with the reason in words.
    """
    try:
        # Characters are counted before they are encoded, so that refusing a huge text costs nothing.
        raw = data.encode() if isinstance(data, str) and len(data) <= limit else data
        if len(raw) > limit:
            raise MalformedError(code, f"larger than {limit} bytes", details={"limit": limit})
        text = raw if isinstance(raw, str) else raw.decode()
        value = decode(text, _DECODER.decode)
        if not _is_plain(text, depth):
            _inspect(value, depth)
    except UnicodeError as error:
        raise MalformedError(code, "the text is not valid UTF-8") from error
    except ValueError as error:
        raise MalformedError(code, f"not acceptable JSON: {str(error)[:200]}") from error
    return value


def parse_object(
    data: bytes | str, *, limit: int = BODY_LIMIT, depth: int = DEPTH_LIMIT, code: str = "invalid_json"
) -> dict[str, Any]:
    """Like `parse_json`, but the value must be an object."""
    value = parse_json(data, limit=limit, depth=depth, code=code)
    if not isinstance(value, dict):
        raise MalformedError(code, "the JSON is not an object")
    return value


def require_object(value: object, *, code: str, name: str = "message") -> Mapping[str, Any]:
    """`value` itself when it is a JSON object; raises `MalformedError(code)` that calls it `name` otherwise."""
    if not isinstance(value, Mapping):
        raise MalformedError(code, f"{name}: an object is required")
    return value


def dump_json(value: Any) -> str:
    """Compact ASCII JSON: every reader of base64 headers, browsers' `atob` included, gets the same text from it."""
    return _ENCODER.encode(value)


def decode_base64(text: str, *, code: str = "invalid_base64") -> bytes:
    """Bytes of canonical standard-alphabet base64. Missing padding is tolerated; anything else is refused.

    Two different texts never give the same bytes, padding apart, so a text is no way around a seen-it-already
    check (faults A05, F07).
    """
    if _BASE64.fullmatch(text) is None:
        raise MalformedError(code, "not standard base64 (A-Z a-z 0-9 + / and at most two = at the end)")
    bare = text.rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    if len(text) != len(bare) and text != padded:
        raise MalformedError(code, "the base64 padding is wrong")
    try:
        data = binascii.a2b_base64(padded)
    except binascii.Error as error:
        raise MalformedError(code, "not base64") from error
    if base64.b64encode(data).decode() != padded:
        raise MalformedError(code, "the base64 has stray bits at its end")
    return data


class WireModel(BaseModel):
    """What crosses the network: camelCase outside, frozen inside; unknown members are ignored, nulls are absent."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore", strict=True, allow_inf_nan=False
    )

    def as_json(self) -> dict[str, Any]:
        """The canonical JSON object; absent members are left out, never null (fault F18)."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def dump_model(model: WireModel, *, without: Collection[str] = ()) -> str:
    """A model's members but those `without`, as `dump_json` writes the object: in one step, a third of the work."""
    return model.model_dump_json(by_alias=True, exclude_none=True, ensure_ascii=True, exclude=set(without))


Model = TypeVar("Model", bound=WireModel)


def read_model(model: type[Model], value: Any, *, code: str) -> Model:
    """A model from parsed JSON. Raises `MalformedError(code)` that names the first member in the wrong.

    Only the names of the wire are read: `pay_to` beside `payTo` is an unknown member, not a second spelling (F18).
    """
    try:
        return model.model_validate(value, context=FROM_WIRE, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80] or "message"
        raise MalformedError(code, f"{where}: {first['msg']}", details={"member": where}) from error
    except MalformedError as error:
        raise MalformedError(code, error.message) from error


FROM_WIRE: dict[str, bool] = {"wire": True}
"""Validation context of everything that arrives: numbers are then only accepted in their wire form."""

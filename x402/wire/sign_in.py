"""Sign-In-With-X: the text that a wallet signs to say who it is, and the header that carries it. Pure text, no keys.

Two dialects are spoken, and a header of either is read (aimo §2.8, protocol page §6.2; CAIP-122, EIP-4361):

- AiMo: the header holds `{message, signature}`; the message names its chain by the whole CAIP-2 id, and only the
  expiry is a time that must be there;
- x402: the header holds the fields, and the message is written again from them; it names the chain by the CAIP-2
  reference, and has a nonce and the time of issue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from x402 import networks
from x402.errors import MalformedError
from x402.wire.headers import decode_header, encode_header
from x402.wire.strict import WireModel, read_model

CODE = "invalid_siwx"
RESOURCE_LIMIT = 16

_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_OPENING = re.compile(r"(\S+) wants you to sign in with your (\S+) account:")
_ACCOUNTS = {networks.EIP155: "Ethereum", networks.SOLANA: "Solana"}


class Dialect(StrEnum):
    """How a sign-in is written."""

    AIMO = "aimo"
    X402 = "x402"


def _one_line(text: str) -> str:
    if _CONTROL.search(text) is not None:
        raise MalformedError(CODE, "a field of a sign-in is one line without control characters")
    return text


def _instant(text: str) -> str:
    seconds(text)
    return text


def _chain(text: str) -> str:
    networks.parse_caip2(text)
    return text


Line = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_one_line)]
Instant = Annotated[str, Field(max_length=40), AfterValidator(_instant)]
"""RFC 3339 text, kept letter by letter because it was signed so; `seconds` reads it."""


class SignIn(WireModel):
    """What a wallet says about itself. `chain_id` is CAIP-2, `domain` the host that is asked, with its port."""

    domain: Line
    address: Line
    uri: Line
    version: Literal["1"] = "1"
    chain_id: Annotated[str, AfterValidator(_chain)]
    nonce: Line | None = None
    issued_at: Instant | None = None
    expiration_time: Instant | None = None
    not_before: Instant | None = None
    request_id: Line | None = None
    statement: Line | None = None
    resources: Annotated[list[Line], Field(max_length=RESOURCE_LIMIT)] | None = None

    @property
    def family(self) -> str:
        """`eip155` or `solana`."""
        return self.chain_id.partition(":")[0]

    @property
    def account(self) -> str:
        """Whose it claims to be, as CAIP-10: one wallet on two chains is two accounts (aimo §2.8)."""
        return f"{self.chain_id}:{self.address}"

    def message(self, dialect: Dialect) -> str:
        """The text that is signed."""
        whose = _ACCOUNTS.get(self.family) or self.family.capitalize()
        lines = [f"{self.domain} wants you to sign in with your {whose} account:", self.address, ""]
        if self.statement is not None:
            lines += [self.statement, ""]
        elif dialect is Dialect.X402 and self.family == networks.EIP155:
            lines.append("")  # EIP-4361 keeps the empty statement's line.
        chain = self.chain_id if dialect is Dialect.AIMO else self.chain_id.partition(":")[2]
        stated = (
            ("URI", self.uri), ("Version", self.version), ("Chain ID", chain), ("Nonce", self.nonce),
            ("Issued At", self.issued_at), ("Expiration Time", self.expiration_time),
            ("Not Before", self.not_before), ("Request ID", self.request_id),
        )  # fmt: skip
        lines += [f"{name}: {value}" for name, value in stated if value is not None]
        if self.resources:
            lines += ["Resources:", *(f"- {resource}" for resource in self.resources)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class SignedSignIn:
    """A sign-in with its signature, which nobody has checked yet.

    `message` is the text that was signed. `signature` is as it was sent: base58 for Solana, hex with or without `0x`
    for EVM networks (aimo §2.8: both spellings are found).
    """

    sign_in: SignIn
    message: str
    signature: str
    dialect: Dialect

    def as_header(self) -> str:
        """The value of `SIGN-IN-WITH-X`."""
        if self.dialect is Dialect.AIMO:
            return encode_header({"message": self.message, "signature": self.signature})
        kind = "eip191" if self.sign_in.family == networks.EIP155 else "ed25519"
        return encode_header(self.sign_in.as_json() | {"type": kind, "signature": self.signature})


def signed(sign_in: SignIn, signature: str, dialect: Dialect = Dialect.AIMO) -> SignedSignIn:
    """A sign-in and the signature over its `message(dialect)`."""
    return SignedSignIn(sign_in, sign_in.message(dialect), signature, dialect)


def read_header(value: str) -> SignedSignIn:
    """The sign-in in a `SIGN-IN-WITH-X` header, of either dialect. Raises `MalformedError("invalid_siwx")`.

    Nothing in it is believed: whoever takes it for true checks domain, times, nonce and signature.
    """
    members = decode_header(value.strip(), code=CODE)
    signature = members.get("signature")
    if not isinstance(signature, str) or not 1 <= len(signature) <= 4096:
        raise MalformedError(CODE, "signature: text is required")
    text = members.get("message")
    if text is None:
        return signed(_fields(members), signature, Dialect.X402)
    if not isinstance(text, str):
        raise MalformedError(CODE, "message: text is required")
    return SignedSignIn(read_message(text), text, signature, Dialect.AIMO)


def read_message(text: str) -> SignIn:
    """The fields of a message, in the spelling of either dialect. Raises `MalformedError("invalid_siwx")`.

    Strict: the text must be exactly what its own fields are written as, so nothing hides between the lines.
    """
    lines = iter(text.split("\n"))
    opening = _OPENING.fullmatch(next(lines))
    if opening is None:
        raise MalformedError(CODE, "the message does not begin with `<domain> wants you to sign in with your`")
    fields: dict[str, Any] = {"domain": opening[1], "address": next(lines, "")}
    rest = list(lines)
    if len(rest) >= 3 and rest[0] == rest[2] == "" and rest[1]:
        fields["statement"] = rest[1]
        rest = rest[2:]
    fields |= _stated(line for line in rest if line)
    namespace = next((name for name, whose in _ACCOUNTS.items() if whose == opening[2]), opening[2].lower())
    chain = str(fields.get("chainId", ""))
    sign_in = _fields(fields | {"chainId": chain if ":" in chain else f"{namespace}:{chain}"})
    if text not in (sign_in.message(Dialect.AIMO), sign_in.message(Dialect.X402), _without_gap(sign_in)):
        raise MalformedError(CODE, "the message is not laid out as CAIP-122 lays it out")
    return sign_in


def seconds(instant: str) -> int:
    """An RFC 3339 time as unix seconds, fractions cut off. Raises `MalformedError("invalid_siwx")`."""
    match = _INSTANT.fullmatch(instant)
    if match is None:
        raise MalformedError(CODE, "a time is written as 2026-01-31T12:00:00Z")
    offset = "+00:00" if match[2] in "Zz" else match[2]
    try:
        return int(datetime.fromisoformat(match[1].upper() + offset).timestamp())
    except (OverflowError, ValueError):
        raise MalformedError(CODE, "a time of the sign-in is in no calendar") from None


def instant(unix_seconds: int) -> str:
    """Unix seconds as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_LABELS = {
    "URI": "uri", "Version": "version", "Chain ID": "chainId", "Nonce": "nonce", "Issued At": "issuedAt",
    "Expiration Time": "expirationTime", "Not Before": "notBefore", "Request ID": "requestId",
}  # fmt: skip


def _stated(lines: Iterator[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines:
        if line == "Resources:":
            found["resources"] = [resource.removeprefix("- ") for resource in lines]
            break
        label, _, value = line.partition(": ")
        if label not in _LABELS or not value:
            raise MalformedError(CODE, f"the message has a line that means nothing: {line[:80]!r}")
        found[_LABELS[label]] = value
    return found


def _fields(members: dict[str, Any]) -> SignIn:
    return read_model(SignIn, members, code=CODE)


def _without_gap(sign_in: SignIn) -> str:
    """AiMo's layout with the short chain id, as wallets write it that know the one and not the other."""
    reference = f"\nChain ID: {sign_in.chain_id.partition(':')[2]}\n"
    return sign_in.message(Dialect.AIMO).replace(f"\nChain ID: {sign_in.chain_id}\n", reference)

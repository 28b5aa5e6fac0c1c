"""AiMo's own four paths for keys that a wallet issues to itself (aimo §2.6): the server only packs and checks bytes.

GET|POST {base}/keys/metadata_bytes   what the wallet has to sign, as a list of bytes
POST     {base}/keys/generate         {"payload": {version, wallet, signer, signature, metadata}} → {"secret_key"}
POST     {base}/keys/verify           {"secret_key"} → {"result", "reason", "payload"}
POST     {base}/keys/revoke           {signer, signature, secret_key}, the signature being over the key's text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from solders.pubkey import Pubkey
from solders.signature import Signature

from x402.errors import MalformedError, X402Error
from x402.gateway.accounts.keys import KeyRing, digest_of, unknown_key
from x402.gateway.accounts.signed_key import OURS, THEIRS, KeyTerms, Scope, SignedKey, from_base58
from x402.gateway.api.asked import asked, members_of
from x402.gateway.problem import ApiProblem
from x402.ports import Clock
from x402.ports.keys import KeyTaken

DAYS_90_MS = 90 * 86_400 * 1000
"""How long a key lives that says nothing, as in AiMo's own `keygen`."""


def add_signed_keys(app: FastAPI, base: str, keys: Callable[[], KeyRing], *, clock: Clock) -> None:
    """Put the paths on an app."""

    async def metadata_bytes(request: Request) -> JSONResponse:
        """What the wallet signs: 32 bytes for layout 1, a text for layout 2 (`"version": 2`, with `signer`)."""
        members = members_of(await asked(request))
        key = _unsigned(_object(members, "payload") or members, clock)
        return JSONResponse(list(key.message(keys().gateway)))

    async def generate(request: Request) -> JSONResponse:
        """Pack a key that the wallet has signed. Nothing of it is kept here."""
        payload = _object(members_of(await asked(request)), "payload")
        if not payload:
            raise _wrong("payload", "payload is an object")
        key = _unsigned(payload, clock).signed_with(_signature(payload.get("signature")))
        if not key.is_signed(keys().gateway):
            raise unknown_key("the wallet has not signed these terms for this gateway")
        return JSONResponse({"secret_key": str(key)})

    async def verify(request: Request) -> JSONResponse:
        """Whether a key holds now, and what it says."""
        text = _text(members_of(await asked(request)), "secret_key")
        try:
            key = keys().signed_key(text)
        except X402Error as error:
            return JSONResponse({"result": False, "reason": error.message, "payload": None})
        reason = await _reason(keys(), text, key, clock)
        return JSONResponse({"result": reason is None, "reason": reason, "payload": key and _told(key)})

    async def revoke(request: Request) -> JSONResponse:
        """End a key for good; only the wallet that issued it can."""
        members = members_of(await asked(request))
        text, signer = _text(members, "secret_key"), _text(members, "signer")
        key = keys().signed_key(text)
        if key is None or key.signer != signer:
            raise unknown_key("this wallet has issued no such key")
        if not Signature(_signature(members.get("signature"))).verify(Pubkey.from_string(signer), text.encode()):
            raise unknown_key("the signature is not over the text of the key")
        record = keys().record_of(key)
        with suppress(KeyTaken):
            await keys().book.add(record, actor=record.account)
        await keys().book.revoke(record.key_id, actor=record.account)
        return JSONResponse({"result": True})

    routes: Any = (("metadata_bytes", metadata_bytes, ["GET", "POST"]), ("generate", generate, ["POST"]),
                   ("verify", verify, ["POST"]), ("revoke", revoke, ["POST"]))  # fmt: skip
    for path, endpoint, methods in routes:
        for method in methods:
            app.add_api_route(f"{base}/keys/{path}", endpoint, methods=[method], tags=["keys"], response_model=None)


async def _reason(ring: KeyRing, text: str, key: SignedKey | None, clock: Clock) -> str | None:
    """Why a key does not hold; None when it does."""
    record = await ring.book.find(digest_of(text) if key is None else ring.record_of(key).digest)
    if key is None and record is None:
        return "this key is not known here"
    if record is not None and record.revoked_at:
        return "this key was revoked"
    now = clock()
    ends_at = key.terms.ends_at_ms // 1000 + 1 if key is not None else record.expires_at if record is not None else 0
    if 0 < ends_at <= now:
        return "this key has expired"
    return None


def _unsigned(payload: Mapping[str, Any], clock: Clock) -> SignedKey:
    """The key that a payload describes, its signature left out."""
    version = payload.get("version", THEIRS)
    if version not in (THEIRS, OURS) or payload.get("wallet", "solana") != "solana":
        raise _wrong("version", f"layouts {THEIRS} and {OURS} are known, for the wallet solana")
    metadata = _object(payload, "metadata") or payload
    tag, signer = payload.get("tag", "dev"), payload.get("signer", "")
    if not isinstance(tag, str) or not tag.isascii() or not tag.isalnum() or tag == "v2" or len(tag) > 16:
        raise _wrong("tag", "a tag is 1 to 16 letters or digits, and not v2")
    if version == THEIRS and not signer:
        # Layout 1 signs the terms alone.
        signer = str(Pubkey(bytes(32)))
    try:
        terms = KeyTerms(
            created_at_ms=metadata.get("created_at", clock() * 1000),
            valid_for_ms=metadata.get("valid_for", DAYS_90_MS),
            usage_limit=metadata.get("usage_limit", 0),
            scopes=_scopes(metadata.get("scopes", [Scope.CHAT]), version),
        )
        key = SignedKey(tag=tag, version=version, signer=signer, terms=terms)
        if len(from_base58(signer)) != 32:
            raise _wrong("signer", "signer is a Solana address")
    except MalformedError as error:
        raise _wrong("metadata", error.message) from error
    except TypeError:
        raise _wrong("signer", "signer is a Solana address") from None
    return key


def _scopes(named: Any, version: int) -> frozenset[Scope]:
    known = {str(scope): scope for scope in Scope if version == OURS or scope is Scope.CHAT}
    if not isinstance(named, list) or not named or not all(name in known for name in named):
        raise _wrong("scopes", f"scopes are a list of {', '.join(known)}")
    return frozenset(known[name] for name in named)


def _signature(stated: Any) -> bytes:
    """64 bytes, written in base58, in hex or as a list."""
    with suppress(MalformedError, ValueError, TypeError):
        if isinstance(stated, list):
            raw = bytes(stated)
        elif isinstance(stated, str):
            raw = bytes.fromhex(stated) if len(stated) == 128 else from_base58(stated)
        else:
            raw = b""
        if len(raw) == 64:
            return raw
    raise _wrong("signature", "signature is 64 bytes: base58, hex, or a list of numbers")


def _told(key: SignedKey) -> dict[str, Any]:
    return {
        "version": key.version,
        "wallet": "solana",
        "signer": key.signer,
        "signature": str(Signature(key.signature)),
        "metadata": {
            "created_at": key.terms.created_at_ms,
            "valid_for": key.terms.valid_for_ms,
            "usage_limit": key.terms.usage_limit,
            "scopes": [str(scope) for scope in Scope if scope in key.terms.scopes],
        },
    }


def _object(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = members.get(name)
    return value if isinstance(value, dict) else {}


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 1024:
        raise _wrong(name, f"{name} is text")
    return value


def _wrong(param: str, words: str) -> ApiProblem:
    return ApiProblem(400, "invalid_value", words, param=param)

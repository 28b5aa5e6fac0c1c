"""Keys over HTTP: a wallet makes, lists, rotates and revokes those that it pays for (aimo rows 13, 14, 17, 18).

    POST   {base}/keys                  a new key, shown this once
    GET    {base}/keys                  the wallet's keys, never their text
    GET    {base}/keys/{id}/events      who changed it, and when
    POST   {base}/keys/{id}/rotate      another text; the old one is good for a while
    DELETE {base}/keys/{id}             the end of it

All of these take a sign-in, or a key with the scope `keys`. AiMo's node has four more, which `signed_keys` serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from x402.errors import MalformedError
from x402.gateway.accounts import Credential, Holder
from x402.gateway.accounts.keys import INFERENCE, KeyRing, KeyWish, no_such_key
from x402.gateway.accounts.signed_key import Scope
from x402.gateway.api.asked import asked, members_of, signed_in
from x402.gateway.problem import ApiProblem
from x402.money import parse_atomic
from x402.ports.keys import ApiKey

OVERLAP_SECONDS = 86_400
_MEMBERS = {"name", "scopes", "addresses", "expires_in", "usage_limit", "spend_limit", "signed_only"}


def add_keys(app: FastAPI, base: str, keys: Callable[[], KeyRing], *credentials: Credential) -> None:
    """Put the paths on an app; `credentials` are the wallet's sign-in, and keys."""

    async def create(request: Request) -> JSONResponse:
        """Make a key that this wallet's balance pays for. Its text is in this answer and nowhere else."""
        request_ = await asked(request)
        holder = await signed_in(request_, *credentials)
        text, key = await keys().issue(_wish(members_of(request_), holder), actor=holder.account)
        return _no_store({"key": text, **shown(key)}, 201)

    async def listed(request: Request) -> JSONResponse:
        """The keys that this wallet's balance pays for."""
        holder = await signed_in(await asked(request), *credentials)
        found = await keys().book.keys_of(holder.account)
        return _no_store({"object": "list", "data": [shown(key) for key in found]})

    async def events(request: Request) -> JSONResponse:
        """What happened to a key, in order."""
        key = await _own(request)
        told = [
            {"at": one.at, "event": one.event, "actor": one.actor, "details": dict(one.details)}
            for one in await keys().book.trail(key.key_id)
        ]
        return _no_store({"object": "list", "data": told})

    async def rotate(request: Request) -> JSONResponse:
        """Another text for a key; its limits and counts stay. The old text is good for `overlap_seconds` more."""
        request_ = await asked(request)
        key = await _own(request)
        overlap = _whole(members_of(request_), "overlap_seconds", OVERLAP_SECONDS)
        text, fresh = await keys().rotate(key.key_id, overlap_seconds=min(overlap, 30 * 86_400), actor=key.account)
        return _no_store({"key": text, **shown(fresh)})

    async def revoke(request: Request) -> JSONResponse:
        """End a key at once and for good."""
        key = await _own(request)
        await keys().book.revoke(key.key_id, actor=key.account)
        return _no_store({"id": key.key_id, "revoked": True})

    async def _own(request: Request) -> ApiKey:
        holder = await signed_in(await asked(request), *credentials)
        key = await keys().book.get(request.path_params["key_id"])
        if key is None or key.account != holder.account:
            raise no_such_key()
        return key

    routes: Any = (
        ("", create, "POST"),
        ("", listed, "GET"),
        ("/{key_id}/events", events, "GET"),
        ("/{key_id}/rotate", rotate, "POST"),
        ("/{key_id}", revoke, "DELETE"),
    )
    for path, endpoint, method in routes:
        app.add_api_route(f"{base}/keys{path}", endpoint, methods=[method], tags=["keys"], response_model=None)


def shown(key: ApiKey) -> dict[str, Any]:
    """A key as its owner sees it."""
    return {
        "id": key.key_id,
        "object": "api_key",
        "name": key.name,
        "hint": key.hint,
        "account": key.account,
        "scopes": sorted(key.scopes),
        "addresses": list(key.addresses),
        "tier": key.tier,
        "created_at": key.created_at,
        "expires_at": key.expires_at or None,
        "usage_limit": key.usage_limit or None,
        "uses": key.uses,
        "spend_limit": None if key.spend_limit is None else str(key.spend_limit),
        "signed_only": key.signed_only,
        "revoked_at": key.revoked_at or None,
    }


def _wish(members: Any, holder: Holder) -> KeyWish:
    unknown = sorted(set(members) - _MEMBERS)
    if unknown:
        raise ApiProblem(400, "invalid_request", f"{unknown[0]!r} means nothing here", param=unknown[0])
    name, signed_only = members.get("name", ""), members.get("signed_only", False)
    if not isinstance(name, str) or type(signed_only) is not bool:
        raise ApiProblem(400, "invalid_value", "name is text, signed_only true or false", param="name")
    named = _texts(members, "scopes")
    scopes = INFERENCE if named is None else frozenset(_scope(text) for text in named)
    # A key makes none that may do more than itself.
    if holder.key_id and not {str(scope) for scope in scopes} <= holder.scopes:
        raise ApiProblem(403, "insufficient_scope", "a key can't make a key with scopes that it lacks itself")
    return KeyWish(
        account=holder.account,
        name=name,
        scopes=scopes,
        addresses=tuple(_texts(members, "addresses") or ()),
        lifetime_seconds=_whole(members, "expires_in", 0),
        usage_limit=_whole(members, "usage_limit", 0),
        spend_limit=_units(members.get("spend_limit")),
        signed_only=signed_only,
    )


def _scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        raise ApiProblem(400, "invalid_value", f"scopes are {', '.join(Scope)}", param="scopes") from None


def _texts(members: Any, name: str) -> list[str] | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ApiProblem(400, "invalid_value", f"{name} is a list of texts", param=name)
    return value


def _whole(members: Any, name: str, default: int) -> int:
    value = members.get(name, default)
    if type(value) is not int or value < 0:
        raise ApiProblem(400, "invalid_value", f"{name} is a whole number from 0", param=name)
    return value


def _units(value: Any) -> int | None:
    if value is None:
        return None
    try:
        return parse_atomic(str(value) if type(value) is int else value)
    except (MalformedError, TypeError):
        words = "spend_limit is atomic USDC: a million to the dollar"
        raise ApiProblem(400, "invalid_value", words, param="spend_limit") from None


def _no_store(body: dict[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(body, status, {"Cache-Control": "no-store"})

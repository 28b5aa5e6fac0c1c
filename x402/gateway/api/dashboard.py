"""The dashboard over HTTP: one page without a build step or anything from elsewhere, behind a wallet's sign-in.

GET     /operator             the page; it holds no figures
GET     /operator/message     what a wallet has to sign, for `?account=`
POST    /operator/session     a sign-in for a cookie; only wallets of X402_OPERATORS
DELETE  /operator/session     the end of it
GET     /operator/overview    the figures, for `?hours=`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from x402 import networks
from x402.errors import MalformedError
from x402.gateway.accounts import Credential
from x402.gateway.api.asked import asked, paywall_of, signed_in
from x402.gateway.api.listings import providers
from x402.gateway.inference.router import Router
from x402.gateway.operations.dashboard import HOURS, step_of, view
from x402.gateway.operations.session import COOKIE, Sessions
from x402.gateway.problem import ApiProblem
from x402.ports import Clock
from x402.ports.overview import Glance
from x402.wire.sign_in import Dialect, SignIn, instant

MESSAGE_SECONDS = 300
"""How long a wallet may take to sign."""
_SAFE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_FILES = {"": ("dashboard.html", "text/html; charset=utf-8"), "/dashboard.css": ("dashboard.css", "text/css"),
          "/dashboard.js": ("dashboard.js", "text/javascript")}  # fmt: skip


def add_dashboard(
    app: FastAPI,
    sessions: Sessions,
    sign_in: Credential,
    glance: Callable[[], Glance],
    router: Router,
    *,
    clock: Clock,
    secure: bool,
) -> None:
    """Put the paths on an app; `secure` cookies travel over HTTPS alone."""

    async def message(request: Request) -> JSONResponse:
        """The text that a wallet signs to sign in, good once and for five minutes."""
        return JSONResponse({"message": _message(request, clock())}, headers=_SAFE)

    async def begin(request: Request) -> Response:
        """Begin a session for a wallet that may look."""
        holder = await signed_in(await asked(request), sign_in)
        if not sessions.operators:
            raise ApiProblem(403, "no_operators", "nobody may look: X402_OPERATORS names no wallet")
        if not sessions.may_look(holder.account):
            raise ApiProblem(403, "no_operator", f"{holder.account} is not among those who may look (X402_OPERATORS)")
        reply = Response(status_code=204, headers=_SAFE)
        reply.set_cookie(
            COOKIE, sessions.begin(holder.account), max_age=sessions.seconds, path="/operator", secure=secure,
            httponly=True, samesite="strict",
        )  # fmt: skip
        return reply

    async def end(request: Request) -> Response:
        """End the session in this browser."""
        reply = Response(status_code=204, headers=_SAFE)
        reply.delete_cookie(COOKIE, path="/operator", secure=secure, httponly=True, samesite="strict")
        return reply

    async def overview(request: Request) -> JSONResponse:
        """How the gateway did in the last hours, for whoever has a session."""
        if sessions.account(request.cookies.get(COOKIE, "")) is None:
            raise ApiProblem(401, "session_ended", "sign in to look")
        stated = request.query_params.get("hours", "24")
        if stated not in map(str, HOURS):
            raise ApiProblem(400, "invalid_value", f"hours is one of {', '.join(map(str, HOURS))}", param="hours")
        now, hours = clock(), int(stated)
        step = step_of(hours)
        # Points begin at whole steps, so that a bar does not change its time from one look to the next.
        since = (now // step + 1) * step - hours * 3600
        seen = await glance().overview(since, step)
        checks = await paywall_of(request).checks()
        data: Mapping[str, Any] = view(seen, now=now, hours=hours, checks=checks, providers=providers(router))
        return JSONResponse(dict(data), headers=_SAFE)

    for path, (name, kind) in _FILES.items():
        app.add_api_route(f"/operator{path}", _file(name, kind), methods=["GET"], include_in_schema=False)
    routes: Any = (("message", message, "GET"), ("session", begin, "POST"), ("session", end, "DELETE"),
                   ("overview", overview, "GET"))  # fmt: skip
    for path, endpoint, method in routes:
        app.add_api_route(f"/operator/{path}", endpoint, methods=[method], response_model=None, include_in_schema=False)


def _file(name: str, kind: str) -> Callable[[], Any]:
    content = resources.files("x402.gateway.operations").joinpath("page", name).read_bytes()

    async def serve() -> Response:
        return Response(content, media_type=kind, headers=_SAFE)

    return serve


def _message(request: Request, now: int) -> str:
    """A sign-in with a nonce of ours, for the account that asks."""
    members = paywall_of(request).members
    if members is None:
        raise ApiProblem(404, "not_offered", "this gateway keeps no accounts, so nobody signs in")
    stated = request.query_params.get("account", "")
    network, _, address = stated.rpartition(":")
    if network == "solana":
        # A browser's wallet does not say on which cluster it is.
        network = networks.SOLANA_MAINNET
    info = members.extensions(paywall_of(request).url_of(request.scope))["sign-in-with-x"]["info"]
    try:
        sign_in = SignIn(
            domain=info["domain"], uri=info["uri"], nonce=info["nonce"], issued_at=info["issuedAt"], address=address,
            chain_id=network, expiration_time=instant(now + MESSAGE_SECONDS),
            statement="Look at the gateway's dashboard.",
        )  # fmt: skip
    except (MalformedError, ValueError) as error:
        words = "account is CAIP-10, such as eip155:8453:0x…"
        raise ApiProblem(400, "invalid_value", words, param="account") from error
    return sign_in.message(Dialect.X402)

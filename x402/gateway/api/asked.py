"""A request to a path that costs nothing, as the credentials read it, and its JSON body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from x402.gateway import asgi
from x402.gateway.accounts import Credential, Holder
from x402.gateway.paywall import Paywall
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest
from x402.wire.strict import parse_object

BODY_LIMIT = 64 * 1024


async def asked(request: Request) -> PaidRequest:
    """The request with its body, which is read once however often this is called. Raises `ApiProblem` 413."""
    known = getattr(request.state, "asked", None)
    if isinstance(known, PaidRequest):
        return known
    paywall = getattr(request.app.state, "paywall", None)
    body = await asgi.read_body(request.scope, request.receive, limit=BODY_LIMIT)
    read = request.state.asked = PaidRequest(
        request.method,
        asgi.target_of(request.scope),
        asgi.headers_of(request.scope),
        body,
        request.path_params,
        peer=asgi.peer_of(request.scope),
        url="" if paywall is None else paywall.url_of(request.scope),
    )
    return read


def paywall_of(request: Request) -> Paywall:
    """The gateway's paywall, which every request passes."""
    paywall: Paywall = request.app.state.paywall
    return paywall


class SignIn:
    """The wallet's sign-in of the gateway that a request came to, as the paywall checks it."""

    def __init__(self, paywall: Callable[[], Paywall]) -> None:
        self._paywall = paywall

    async def holder(self, request: PaidRequest) -> Holder | None:
        """Who signed in; None without the header. Raises `ApiProblem` 401."""
        members = self._paywall().members
        return None if members is None else await members.desk.holder(request)


def members_of(request: PaidRequest) -> Mapping[str, Any]:
    """The body as a JSON object; an absent one is empty. Raises `MalformedError` 400."""
    return parse_object(request.body, limit=BODY_LIMIT) if request.body.strip() else {}


async def signed_in(request: PaidRequest, *credentials: Credential) -> Holder:
    """Who asks, by the first credential that is there. Raises `ApiProblem` 401 when there is none."""
    for credential in credentials:
        holder = await credential.holder(request)
        if holder is not None:
            return holder
    raise ApiProblem(
        401, "sign_in_required", "say who you are with the header SIGN-IN-WITH-X", kind="authentication_error"
    )

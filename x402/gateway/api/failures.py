"""Whatever goes wrong outside a sale, in the shape of its profile: unknown paths, wrong methods, our own errors."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from x402.errors import Mender, Moved, X402Error
from x402.gateway import asgi
from x402.gateway.api.profiles import envelope_of
from x402.gateway.problem import ApiProblem
from x402.gateway.replies import error_reply


def add_failures(app: FastAPI) -> None:
    """Answer every error of the app in its reader's shape."""
    app.add_exception_handler(X402Error, _ours)
    app.add_exception_handler(HTTPException, _of_the_web)
    app.add_exception_handler(Exception, _unexpected)


def answer(request: Request, error: X402Error) -> Response:
    """An error as a response of the request's profile."""
    envelope = envelope_of(asgi.target_of(request.scope), asgi.headers_of(request.scope))
    status, headers, body = error_reply(error, envelope=envelope)
    return Response(body, status, dict(headers))


async def _ours(request: Request, error: Exception) -> Response:
    if not isinstance(error, X402Error):
        raise error
    return answer(request, error)


async def _of_the_web(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    words = {404: "there is nothing at this path", 405: "this path does not take this method"}
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "invalid_request")
    problem = ApiProblem(error.status_code, code, words.get(error.status_code, str(error.detail)))
    response = answer(request, problem)
    response.headers.update(error.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    # The server logs the error itself; its text may hold what belongs to nobody outside.
    words = "something went wrong here; if a payment was sent, send the very same request again"
    return answer(
        request,
        ApiProblem(500, "internal_error", words, kind="server_error", mender=Mender.OPERATOR, moved=Moved.UNKNOWN),
    )

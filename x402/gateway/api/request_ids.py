"""One id for each request: the caller's `X-Request-ID`, or one of ours, in every answer and in every log line."""

from __future__ import annotations

import re
import secrets

from x402.gateway import asgi
from x402.telemetry import request_id
from x402.wire.headers import REQUEST_ID

_REQUEST_ID = re.compile(r"[!-~]{1,128}", re.ASCII)
_RAW = REQUEST_ID.lower().encode()


class RequestIds:
    """Gives every HTTP request an `X-Request-ID`, the caller's own when it sent a sensible one (aimo row 59)."""

    def __init__(self, app: asgi.App) -> None:
        self.app = app

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == _RAW]
        known = stated[0] if len(stated) == 1 and _REQUEST_ID.fullmatch(stated[0]) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = known
        if stated != [known]:
            # Whoever looks at the request further in finds one id, and it is the one that the answer carries.
            others = [pair for pair in scope["headers"] if pair[0].lower() != _RAW]
            scope = {**scope, "headers": [*others, (_RAW, known.encode())]}

        async def named(message: asgi.Message) -> None:
            if message["type"] == "http.response.start":
                others = [(name, value) for name, value in message["headers"] if name.lower() != _RAW]
                message["headers"] = [*others, (_RAW, known.encode())]
            await send(message)

        told = request_id.set(known)
        try:
            await self.app(scope, receive, named)
        finally:
            request_id.reset(told)

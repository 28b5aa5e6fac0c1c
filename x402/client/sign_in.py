"""The seat that says who one is and pays nothing: for questions about an account, such as its balance (row 16)."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import httpx
import httpx2

from x402.client.identity import NONCE_BYTES, Identity
from x402.client.sealed import seal
from x402.wire.headers import SIGN_IN_WITH_X


class SignInAuth(httpx.Auth, httpx2.Auth):
    """Signs each request in, in httpx and httpx2, blocking and not. A redirect never carries the sign-in along."""

    def __init__(
        self,
        identity: Identity,
        *,
        clock: Callable[[], int] = lambda: int(time.time()),
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.identity = identity
        self._clock = clock
        self._entropy = entropy

    def introduction(self, url: str, headers: Any) -> tuple[tuple[str, str], ...]:
        """What is added to a request: the sign-in, unless the caller attached one."""
        if SIGN_IN_WITH_X in headers:
            return ()
        header = self.identity.header(url, now=self._clock(), entropy=self._entropy(NONCE_BYTES))
        return ((SIGN_IN_WITH_X, header),)

    def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """The blocking seat, under the name by which either library knows a flow without I/O of its own."""
        return self.sync_auth_flow(request)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """The seat in a blocking client."""
        yield self._introduced(request)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """The seat in an asynchronous client."""
        yield self._introduced(request)

    def _introduced(self, request: Any) -> Any:
        request.headers = seal(request.headers, self.introduction(str(request.url), request.headers))
        return request

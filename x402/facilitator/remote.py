"""A facilitator behind a URL; the same interface as the one in this process.

The difference between "nothing was handed over" and "nobody knows" decides whether a payer is charged twice: a
connection that was never made raises `UnavailableError`, everything after it is a pending receipt (faults A03, A09).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from x402.errors import MalformedError, MisconfiguredError, UnavailableError
from x402.wire.challenge import Requirement
from x402.wire.facilitation import (
    Facilitation,
    Supported,
    Verification,
    parse_supported,
    parse_verification,
)
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt, parse_receipt
from x402.wire.strict import BODY_LIMIT, parse_object

SETTLE_TIMEOUT_SECONDS = 150.0
"""Longer than any facilitator waits for a receipt, so that its answer is not cut off (peers wait up to 120 s)."""


class RemoteFacilitator:
    """Implements `wire.facilitation.Facilitator` over HTTP.

    `headers` go with every request, for facilitators that authenticate their callers. Redirects are never followed:
    a payment is a bearer instrument (fault B05). Raises `MisconfiguredError` for a URL that is not HTTP.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        client: httpx.AsyncClient | None = None,
        timeout_seconds: float = 20.0,
        settle_timeout_seconds: float = SETTLE_TIMEOUT_SECONDS,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise MisconfiguredError("invalid_facilitator_url", "a facilitator's URL begins with http:// or https://")
        self._url = url.rstrip("/")
        self._headers = dict(headers or {})
        self._client = client or httpx.AsyncClient(follow_redirects=False, trust_env=False)
        self._timeout = timeout_seconds
        self._settle_timeout = settle_timeout_seconds

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def verify(self, payment: Payment, requirement: Requirement) -> Verification:
        body = Facilitation(payment=payment, requirement=requirement).as_json()
        try:
            response = await self._post("verify", body, self._timeout)
            return parse_verification(parse_object(response.content, limit=BODY_LIMIT))
        except (httpx.HTTPError, OSError) as error:
            raise self._unavailable(error) from None
        except MalformedError as error:
            raise UnavailableError(
                "facilitator_unreadable", f"the facilitator's answer to verify can't be read: {error.message}"
            ) from error

    async def settle(self, payment: Payment, requirement: Requirement) -> Receipt:
        body = Facilitation(payment=payment, requirement=requirement).as_json()
        try:
            response = await self._post("settle", body, self._settle_timeout)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise self._unavailable(error) from None
        except (httpx.HTTPError, OSError) as error:
            return self._doubt(requirement, f"the facilitator did not answer ({type(error).__name__})")
        try:
            receipt = parse_receipt(parse_object(response.content, limit=BODY_LIMIT))
        except MalformedError as error:
            return self._doubt(requirement, f"the facilitator's answer can't be read: {error.message}")
        if receipt.success and receipt.network not in ("", requirement.network):
            return self._doubt(requirement, f"the facilitator speaks of another network ({receipt.network[:60]})")
        return receipt.model_copy(update={"network": requirement.network})

    async def supported(self) -> Supported:
        try:
            response = await self._client.get(f"{self._url}/supported", headers=self._headers, timeout=self._timeout)
            return parse_supported(parse_object(response.content, limit=BODY_LIMIT))
        except (httpx.HTTPError, OSError) as error:
            raise self._unavailable(error) from None
        except MalformedError as error:
            raise UnavailableError(
                "facilitator_unreadable", f"the facilitator's answer to supported can't be read: {error.message}"
            ) from error

    async def _post(self, verb: str, body: dict[str, Any], timeout: float) -> httpx.Response:
        return await self._client.post(f"{self._url}/{verb}", json=body, headers=self._headers, timeout=timeout)

    def _unavailable(self, error: Exception) -> UnavailableError:
        return UnavailableError("facilitator_unavailable", f"the facilitator did not answer ({type(error).__name__})")

    def _doubt(self, requirement: Requirement, message: str) -> Receipt:
        return Receipt.pending("", requirement.network, None, message)

"""A facilitator behind a URL; the same interface as the one in this process.

The difference between "nothing was handed over" and "nobody knows" decides whether a payer is charged twice: a
connection that was never made raises `UnavailableError`, everything after it is a pending receipt (faults A03, A09).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from x402 import networks
from x402.errors import MalformedError, Mender, MisconfiguredError, RefusedError, UnavailableError
from x402.facilitator.line import ClientLine, Line, NoAnswer, NotReached, PooledLine
from x402.schemes.subject import payer_of
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

_JSON = {"Content-Type": "application/json"}
_EVM_HASH = re.compile(r"0x(?!0{64})[0-9a-fA-F]{64}", re.ASCII)
_SVM_SIGNATURE = re.compile(r"[1-9A-HJ-NP-Za-km-z]{64,88}", re.ASCII)

SETTLE_TIMEOUT_SECONDS = 150.0
"""Longer than any facilitator waits for a receipt, so that its answer is not cut off (peers wait up to 120 s)."""


class RemoteFacilitator:
    """Implements `wire.facilitation.Facilitator` over HTTP.

    `api_key` goes with every request, as `Authorization: Bearer`, and so do `headers`, for facilitators that want to
    know who asks (fault E06). Redirects are never followed: a payment is a bearer instrument (fault B05). Raises
    `MisconfiguredError` for a URL that is not HTTP.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        headers: Mapping[str, str] | None = None,
        client: httpx.AsyncClient | None = None,
        timeout_seconds: float = 20.0,
        settle_timeout_seconds: float = SETTLE_TIMEOUT_SECONDS,
    ) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MisconfiguredError("invalid_facilitator_url", "a facilitator's URL begins with http:// or https://")
        self._url = url.rstrip("/")
        self._headers = {**({"Authorization": f"Bearer {api_key}"} if api_key else {}), **(headers or {})}
        self._posting = {**_JSON, **self._headers}
        self._line: Line = ClientLine(client) if client is not None else PooledLine()
        self._timeout = timeout_seconds
        self._settle_timeout = settle_timeout_seconds

    @property
    def name(self) -> str:
        """Where it is, without what may be secret in its URL."""
        parts = urlsplit(self._url)
        where = parts.hostname or ""
        return f"{parts.scheme}://{where}{f':{parts.port}' if parts.port else ''}{parts.path}"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._line.aclose()

    async def verify(self, payment: Payment, requirement: Requirement) -> Verification:
        try:
            status, body = await self._hand_over("verify", payment, requirement, self._timeout)
            _check_entry(status)
            return parse_verification(parse_object(body, limit=BODY_LIMIT))
        except (NotReached, NoAnswer) as error:
            raise _unavailable(error) from None
        except MalformedError as error:
            raise UnavailableError(
                "facilitator_unreadable", f"the facilitator's answer to verify can't be read: {error.message}"
            ) from error

    async def settle(self, payment: Payment, requirement: Requirement) -> Receipt:
        try:
            status, body = await self._hand_over("settle", payment, requirement, self._settle_timeout)
        except NotReached as error:
            raise _unavailable(error) from None
        except NoAnswer as error:
            return _doubt(requirement, f"the facilitator did not answer ({error})")
        try:
            receipt = parse_receipt(parse_object(body, limit=BODY_LIMIT))
        except MalformedError as error:
            words = f"the facilitator's answer (HTTP {status}) can't be read: {error.message}"
            return _doubt(requirement, words)
        doubt = _unbelievable(receipt, payment, requirement) if receipt.success else ""
        if doubt:
            return _doubt(requirement, doubt)
        if receipt.network == requirement.network:
            return receipt
        return receipt.model_copy(update={"network": requirement.network})

    async def supported(self) -> Supported:
        try:
            _, body = await self._line.carry(
                f"{self._url}/supported", None, self._headers, timeout=self._timeout, limit=BODY_LIMIT
            )
            return parse_supported(parse_object(body, limit=BODY_LIMIT))
        except (NotReached, NoAnswer) as error:
            raise _unavailable(error) from None
        except MalformedError as error:
            raise UnavailableError(
                "facilitator_unreadable", f"the facilitator's answer to supported can't be read: {error.message}"
            ) from error

    async def _hand_over(
        self, verb: str, payment: Payment, requirement: Requirement, timeout: float
    ) -> tuple[int, bytes]:
        content = Facilitation(payment=payment, requirement=requirement).as_text().encode()
        return await self._line.carry(f"{self._url}/{verb}", content, self._posting, timeout=timeout, limit=BODY_LIMIT)


def _unavailable(error: Exception) -> UnavailableError:
    return UnavailableError("facilitator_unavailable", f"the facilitator did not answer ({error})")


def _doubt(requirement: Requirement, message: str) -> Receipt:
    return Receipt.pending("", requirement.network, None, message)


def _check_entry(status: int) -> None:
    """Raise `UnavailableError`, for our operator to mend, when the facilitator does not let us in. Only before a
    payment is claimed: of one that was settled before, a closed door says nothing."""
    if status in (401, 403):
        raise UnavailableError(
            "facilitator_denied",
            f"the facilitator does not serve us (HTTP {status}): is X402_FACILITATOR_API_KEY the key it "
            "gave us, and does it know the account that we are paid at?",
            mender=Mender.SELLER,
        )


def _unbelievable(receipt: Receipt, payment: Payment, requirement: Requirement) -> str:
    """Why a success can't be about this payment, or `""` (fault A03)."""
    evm = requirement.network.startswith(networks.EIP155)
    if receipt.network not in ("", requirement.network):
        return f"the facilitator speaks of another network ({receipt.network[:60]})"
    if receipt.transaction and (_EVM_HASH if evm else _SVM_SIGNATURE).fullmatch(receipt.transaction) is None:
        return "the facilitator names a transaction that can't be one"
    try:
        payer = payer_of(payment, requirement)
    except RefusedError:
        return ""
    stated = receipt.payer or payer
    if stated != payer and not (evm and stated.lower() == payer.lower()):
        return f"the facilitator speaks of another payer ({stated[:60]})"
    return ""

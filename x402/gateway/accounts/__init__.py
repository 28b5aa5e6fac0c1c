"""Callers who are known: who signs in, what an account holds, and what a key may spend.

A payment needs none of this. A request brings its credentials in this order: a payment, a sign-in, a bearer key,
nothing (aimo §1.7); the first that is present decides, and a bad one is an error, never treated as absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from x402.gateway.sale import PaidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who is to be charged for a request that brings no payment.

    `account` is CAIP-10 (`eip155:8453:0x…`, `solana:5eykt…:<address>`), or `key:<id>` for a key whose credit the
    operator has granted. `spend_limit` is what the key may spend in all its life, in atomic USDC: the account's
    book counts; None is no limit of its own.
    """

    account: str
    key_id: str = ""
    scopes: frozenset[str] = frozenset()
    spend_limit: int | None = None


class Credential(Protocol):
    """One way to say who one is."""

    async def holder(self, request: PaidRequest) -> Holder | None:
        """Who sent a request; None when it brings no credential of this kind. Raises `ApiProblem` 401 or 403 for one
        that does not hold."""
        ...

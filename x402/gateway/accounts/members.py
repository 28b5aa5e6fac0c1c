"""Callers who are known: by which credential, what they may spend, and what their balance pays for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from x402.errors import MisconfiguredError
from x402.gateway.accounts import Credential, Holder
from x402.gateway.accounts.discounts import Discounts
from x402.gateway.accounts.sign_in import SignInDesk
from x402.gateway.accounts.tab import Tab
from x402.gateway.accounts.withdrawals import Withdrawals
from x402.gateway.refund import Refunds
from x402.gateway.register import Register
from x402.gateway.sale import PaidRequest
from x402.gateway.terms import Seller
from x402.ports import Ledger
from x402.ports.accounts import Accounts

ANSWER_LIMIT = 8 * 1024 * 1024


@dataclass(slots=True)
class Members:
    """What a gateway that keeps accounts has beside its till. `credentials` are asked in their order, and the first
    that a request brings decides (aimo §1.7)."""

    book: Accounts
    tab: Tab
    desk: SignInDesk
    withdrawals: Withdrawals
    credentials: Sequence[Credential]

    async def holder(self, request: PaidRequest) -> Holder | None:
        """Who sent a request; None when it brings no credential. Raises `ApiProblem` for a bad one, which is never
        treated as absent."""
        for credential in self.credentials:
            holder = await credential.holder(request)
            if holder is not None:
                return holder
        return None

    def extensions(self, url: str) -> Mapping[str, Any]:
        """What a 402 offers beside payments."""
        return self.desk.offer(url)

    async def reconcile(self) -> None:
        """End what processes left behind when they died, and go on with withdrawals."""
        await self.tab.reconcile()
        await self.withdrawals.reconcile()


def members_of(
    register: Register,
    seller: Seller,
    accounts: bool | Accounts,
    refunds: Refunds | None,
    *,
    timeout_seconds: float,
) -> Members | None:
    """Those whom a seller knows, with a wallet's sign-in as the first credential. Their `accounts` are in the seller's
    ledger (True) or in a book of their own; None without any. Raises `MisconfiguredError` for a ledger without a book.
    """
    if accounts is False:
        return None
    book = _book_of(register.ledger) if accounts is True else accounts
    desk = SignInDesk(
        book,
        clock=register.clock,
        key=seller.quote_keys[0],
        chains=tuple(seller.pay_to),
        max_seconds=register.policy.sign_in_max_seconds,
    )
    register.discounts = Discounts(book, register.policy.promotions.discounts, register.clock)
    tab = Tab(register, book, answer_limit=ANSWER_LIMIT, timeout_seconds=timeout_seconds)
    payments = None if refunds is None else refunds.payments
    return Members(book, tab, desk, Withdrawals(book, payments, seller.pay_to), [desk])


def _book_of(ledger: Ledger) -> Accounts:
    from x402.ports.account_book import SqlAccounts
    from x402.ports.ledger import SqlLedger

    if not isinstance(ledger, SqlLedger):
        raise MisconfiguredError("no_accounts", "accounts are kept in a ledger of ours only; give their book")
    return SqlAccounts(ledger)

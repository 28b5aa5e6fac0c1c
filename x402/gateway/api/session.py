"""The balance of a wallet: filled by an ordinary payment, looked at, and paid out again (aimo rows 16, 78, 84).

    POST {base}/session/deposit              pay the amount that you name; it is yours to spend
    GET  {base}/session/balance              what you have
    GET  {base}/session/statement            how it came to be, entry by entry
    POST {base}/session/withdraw             send it back to your wallet
    GET  {base}/session/withdrawals/{id}     what became of that

All but the deposit take a sign-in, or a key; a deposit is its own credential, and belongs to whoever pays it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from x402.billing import Metered
from x402.errors import MalformedError
from x402.gateway.accounts.charge import name_of
from x402.gateway.accounts.credits import DEPOSIT
from x402.gateway.accounts.members import Members
from x402.gateway.api.asked import asked, members_of, signed_in
from x402.gateway.counter import PriceRule
from x402.gateway.policy import Policy
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest, Sale
from x402.gateway.terms import Flow, Terms
from x402.money import parse_atomic, parse_price, show_units
from x402.ports.accounts import AccountEntry, Balance, Withdrawal

_DECIMALS = 6
_PAGE = 100
_AMOUNTS = ("amount", "amount_usd", "amount_micro_usdc")


def add_session(app: FastAPI, base: str, policy: Policy) -> dict[str, PriceRule]:
    """Put the paths on an app; returns the price of the deposit, for the paywall."""

    async def deposit(request: Request) -> JSONResponse:
        """Pay what you name, and have it on your balance. Without a payment: 402 with the offers."""
        sale: Sale = request.scope["x402"]
        sale.metered = Metered(model="", endpoint=DEPOSIT, complete=True)
        return _no_store({"caip_account_id": sale.account, "network": sale.network, "payment_id": sale.pay_id})

    async def balance(request: Request) -> JSONResponse:
        """What the account holds that signs in."""
        members, holder = await _holder(request)
        return _no_store(balance_json(await members.book.balance(holder)))

    async def statement(request: Request) -> JSONResponse:
        """Every movement of the account, newest first; `before` is the `seq` of the last one that you know."""
        members, holder = await _holder(request)
        limit, before = _count(request, "limit", _PAGE), _count(request, "before", 0)
        entries = await members.book.statement(holder, limit=min(max(1, limit), _PAGE), before=before)
        return _no_store({"object": "list", "data": [_entry_json(entry) for entry in entries]})

    async def withdraw(request: Request) -> JSONResponse:
        """Send an amount, or all of it, back to the wallet. An `Idempotency-Key` makes it one withdrawal."""
        members, holder = await _holder(request)
        wanted = await asked(request)
        body = members_of(wanted)
        units = amount_of(body) if any(name in body for name in _AMOUNTS) else None
        return _no_store(_withdrawal_json(await members.withdrawals.ask(holder, units, name_of(wanted))))

    async def withdrawal(request: Request) -> JSONResponse:
        """What became of a withdrawal."""
        members, holder = await _holder(request)
        found = await members.book.withdrawal(request.path_params["id"])
        if found is None or found.account != holder:
            raise ApiProblem(404, "no_such_withdrawal", "this account has no such withdrawal")
        return _no_store(_withdrawal_json(found))

    routes: Any = (
        ("deposit", deposit, "POST"),
        ("balance", balance, "GET"),
        ("statement", statement, "GET"),
        ("withdraw", withdraw, "POST"),
        ("withdrawals/{id}", withdrawal, "GET"),
    )
    for path, endpoint, method in routes:
        app.add_api_route(f"{base}/session/{path}", endpoint, methods=[method], tags=["session"], response_model=None)
    return {f"POST {base}/session/deposit": lambda request: deposit_terms(request, policy)}


def deposit_terms(request: PaidRequest, policy: Policy) -> Terms:
    """What a deposit costs: what it is to be. Raises `ApiProblem` 400 for none, or too much at once."""
    units = amount_of(members_of(request))
    if units > policy.deposit_max * 10**_DECIMALS:
        raise _wrong(f"a deposit is at most {policy.deposit_max} US dollars")
    price = show_units(units, _DECIMALS)
    return Terms(price=price, flow=Flow.AUTHORIZATION, on_chain=True, description="A deposit to your balance")


def amount_of(body: Mapping[str, Any]) -> int:
    """The amount in a body, in atomic USDC: dollars as text, or atomic units. Raises `ApiProblem` 400."""
    stated = [name for name in _AMOUNTS if body.get(name) is not None]
    if len(stated) != 1:
        raise _wrong('name one amount: {"amount": "5.00"} in US dollars, or {"amount_micro_usdc": 5000000}')
    value = body[stated[0]]
    try:
        if stated[0] == "amount_micro_usdc":
            units = parse_atomic(str(value) if type(value) is int else value)
        else:
            number, coin = parse_price(str(value) if type(value) is int else value)
            exact = number.scaleb(_DECIMALS)
            units = int(exact)
            if units != exact or coin not in ("", "USD", "USDC"):
                raise _wrong("an amount is in US dollars, with at most six digits behind its point")
    except (MalformedError, TypeError, ValueError) as error:
        raise _wrong('an amount is text such as "5.00", never a fraction without quotes') from error
    if not 0 < units < 2**62:
        raise _wrong("an amount is more than nothing")
    return units


def balance_json(balance: Balance) -> dict[str, Any]:
    """A balance as AiMo's SDK reads it (aimo §2.8), and what else there is to know."""
    return {
        "caip_account_id": balance.account,
        "balance_micro_usdc": balance.units,
        "balance_usd": show_units(balance.units, _DECIMALS),
        "reserved_micro_usdc": balance.reserved,
        "withdrawable_micro_usdc": balance.withdrawable,
    }


async def _holder(request: Request) -> tuple[Members, str]:
    members: Members = request.app.state.paywall.members
    holder = await signed_in(await asked(request), *members.credentials)
    return members, holder.account


def _entry_json(entry: AccountEntry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "at": entry.at,
        "kind": str(entry.kind),
        "micro_usdc": entry.units,
        "reserved_micro_usdc": entry.held,
        "reference": entry.reference,
    }


def _withdrawal_json(withdrawal: Withdrawal) -> dict[str, Any]:
    return {
        "id": withdrawal.id,
        "object": "withdrawal",
        "caip_account_id": withdrawal.account,
        "amount_micro_usdc": withdrawal.units,
        "amount_usd": show_units(withdrawal.units, _DECIMALS),
        "state": str(withdrawal.state),
        "transaction": withdrawal.transaction or None,
        "created_at": withdrawal.created_at,
        "updated_at": withdrawal.updated_at,
    }


def _count(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ApiProblem(400, "invalid_value", f"{name} is a whole number", param=name)
    return int(text)


def _wrong(words: str) -> ApiProblem:
    return ApiProblem(400, "invalid_amount", words, param="amount")


def _no_store(body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body, headers={"Cache-Control": "no-store"})

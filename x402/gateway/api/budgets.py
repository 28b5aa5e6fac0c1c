"""An account's budget over HTTP (aimo row 82): `GET`, `PUT` and `DELETE {base}/billing/budget`.

    PUT {"period": "day" | "month", "limit": "5000000", "thresholds": [50, 80, 100]}

Amounts are atomic USDC. What is spent is read from the bills; thresholds are told by the webhook topic
`budget.threshold`. All three take a sign-in, or a key: reading needs the scope `billing`, changing needs `keys`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from x402.errors import MalformedError
from x402.gateway.accounts import Credential
from x402.gateway.api.asked import asked, members_of, signed_in
from x402.gateway.operations.budgets import PERCENTS, Budgets, wanted_budget
from x402.gateway.problem import ApiProblem
from x402.money import parse_atomic


def add_budgets(app: FastAPI, base: str, budgets: Callable[[], Budgets], *credentials: Credential) -> None:
    """Put the paths on an app."""

    async def show(request: Request) -> JSONResponse:
        """How much of the budget is spent, and what it comes to at the end of its period if it goes on so."""
        holder = await signed_in(await asked(request), *credentials)
        budget = await budgets().book.get(holder.account)
        if budget is None:
            raise ApiProblem(404, "no_budget", "this account has set no budget")
        return _no_store((await budgets().spending(budget)).as_json())

    async def put(request: Request) -> JSONResponse:
        """Set the budget, or set it anew: then its thresholds are told again."""
        asked_ = await asked(request)
        holder = await signed_in(asked_, *credentials)
        members = members_of(asked_)
        limit = _units(members.get("limit"))
        percents = members.get("thresholds", list(PERCENTS))
        budget = wanted_budget(holder.account, members.get("period", "month"), limit, percents)
        await budgets().book.put(budget)
        return _no_store((await budgets().spending(budget)).as_json())

    async def remove(request: Request) -> JSONResponse:
        """Have no budget any more."""
        holder = await signed_in(await asked(request), *credentials)
        return _no_store({"removed": await budgets().book.remove(holder.account)})

    routes: Any = ((show, "GET"), (put, "PUT"), (remove, "DELETE"))
    for endpoint, method in routes:
        app.add_api_route(f"{base}/billing/budget", endpoint, methods=[method], tags=["billing"], response_model=None)


def _units(stated: Any) -> Any:
    try:
        return parse_atomic(stated) if isinstance(stated, str) else stated
    except MalformedError:
        return None


def _no_store(body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body, headers={"Cache-Control": "no-store"})

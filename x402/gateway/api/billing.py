"""What an account has bought: sums, receipts and balance, as JSON or as a table (aimo rows 9, 77, 81, 82).

    GET {base}/billing/usage       sums by day, model, provider, endpoint, key or way of paying
    GET {base}/billing/receipts    one row per answer, newest first, page by page
    GET {base}/billing/balance     what is left

All of them take a sign-in or a key, and show one account only. `?format=csv` or `Accept: text/csv` makes a table.
`?since=` and `?until=` are unix seconds or dates such as 2026-01-31 (UTC; `until` is not included).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from x402 import networks
from x402.billing import Bill
from x402.gateway.accounts.members import Members
from x402.gateway.api.asked import asked, signed_in
from x402.gateway.api.session import balance_json
from x402.gateway.problem import ApiProblem
from x402.money import show_units
from x402.ports.accounts import GROUPS, BillFilter, BillSum

PAGE = 1000
_DECIMALS = 6
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would run."""
_OPEN_GROUPS = tuple(name for name in GROUPS if name not in ("account", "outcome"))
_SUMS = ("bills", "prompt_tokens", "completion_tokens", "images", "quoted", "charged", "fee", "credited")
_RECEIPT = (
    "id", "at", "account", "paid_by", "model", "provider", "endpoint", "prompt_tokens", "completion_tokens", "images",
    "quoted", "charged", "fee", "credited", "charged_usd", "network", "transaction", "explorer", "request_id",
    "outcome", "key_id", "latency_ms",
)  # fmt: skip


def add_billing(app: FastAPI, base: str) -> None:
    """Put the paths on an app."""

    async def usage(request: Request) -> Response:
        """What was used and what it came to, in all or by group; amounts are atomic USDC."""
        members, wanted = await _wanted(request)
        by = [name for name in request.query_params.get("group_by", "").split(",") if name]
        unknown = sorted(set(by) - set(_OPEN_GROUPS))
        if unknown:
            raise _wrong("group_by", f"group_by is any of {', '.join(_OPEN_GROUPS)}, separated by commas")
        rows = [_sum_json(by, one) for one in await members.book.sums(wanted, by)]
        if _is_table(request):
            return _table("usage", [*by, *_SUMS, "charged_usd"], rows)
        return _no_store({"object": "list", "account": wanted.account, "group_by": by, "data": rows})

    async def receipts(request: Request) -> Response:
        """One receipt per answer: units, price, fee, network, transaction, payer and credit."""
        members, wanted = await _wanted(request)
        limit = _count(request, "limit", 100)
        if not 1 <= limit <= PAGE:
            raise _wrong("limit", f"limit is from 1 to {PAGE}")
        found = await members.book.bills(wanted, limit=limit + 1, before=_cursor(request))
        page, more = found[:limit], len(found) > limit
        rows = [receipt_json(bill) for bill in page]
        after = f"{page[-1].at}.{page[-1].bill_id}" if more else None
        if _is_table(request):
            response = _table("receipts", list(_RECEIPT), rows)
            if after is not None:
                response.headers["X-Next-Cursor"] = after
            return response
        return _no_store({"object": "list", "data": rows, "has_more": more, "next_cursor": after})

    async def balance(request: Request) -> Response:
        """What is left on the account."""
        members, wanted = await _wanted(request)
        row = balance_json(await members.book.balance(wanted.account))
        return _table("balance", list(row), [row]) if _is_table(request) else _no_store(row)

    for path, endpoint in (("usage", usage), ("receipts", receipts), ("balance", balance)):
        app.add_api_route(f"{base}/billing/{path}", endpoint, methods=["GET"], tags=["billing"], response_model=None)


def receipt_json(bill: Bill) -> dict[str, Any]:
    """A receipt as its owner sees it. Amounts are atomic USDC as digits; `charged_usd` is for people."""
    used = bill.metered
    return {
        "id": bill.bill_id,
        "object": "receipt",
        "at": bill.at,
        "account": bill.account,
        "paid_by": str(bill.paid_by),
        "model": used.model,
        "provider": used.provider,
        "endpoint": used.endpoint,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "images": used.images,
        "quoted": str(bill.quoted),
        "charged": str(used.charged),
        "fee": str(used.fee),
        "credited": str(bill.credited),
        "charged_usd": show_units(used.charged, _DECIMALS),
        "network": bill.network or None,
        "transaction": bill.transaction or None,
        "explorer": _explorer(bill),
        "request_id": bill.request_id or None,
        "outcome": bill.outcome,
        "key_id": bill.key_id or None,
        "latency_ms": bill.latency_ms,
        "first_token_ms": bill.first_token_ms,
        "tags": dict(bill.tags),
    }


def _explorer(bill: Bill) -> str | None:
    known = networks.find(bill.network) if bill.network and bill.transaction else None
    return (known.transaction_url(bill.transaction) or None) if known is not None else None


def _sum_json(by: Sequence[str], one: BillSum) -> dict[str, Any]:
    group: dict[str, Any] = dict(zip(by, one.group, strict=True))
    if "day" in group:
        group["day"] = date.fromordinal(date(1970, 1, 1).toordinal() + int(group["day"])).isoformat()
    counted = {name: getattr(one, name) for name in _SUMS[:4]}
    amounts = {name: str(getattr(one, name)) for name in _SUMS[4:]}
    return group | counted | amounts | {"charged_usd": show_units(one.charged, _DECIMALS)}


async def _wanted(request: Request) -> tuple[Members, BillFilter]:
    """The bills of whoever asks; a key sees its own."""
    members: Members = request.app.state.paywall.members
    holder = await signed_in(await asked(request), *members.credentials)
    query = request.query_params
    return members, BillFilter(
        account=holder.account,
        key_id=holder.key_id or query.get("key_id", ""),
        model=query.get("model", ""),
        provider=query.get("provider", ""),
        since=_when(request, "since", 0),
        until=_when(request, "until", 2**62),
    )


def _when(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise _wrong(name, f"{name} is a unix second, or a date such as 2026-01-31") from None
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _count(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _wrong(name, f"{name} is a whole number")
    return int(text) if text else default


def _cursor(request: Request) -> tuple[int, str] | None:
    """Second and id of the last receipt that is known, as an earlier page told them."""
    text = request.query_params.get("cursor", "")
    if not text:
        return None
    second, _, bill_id = text.partition(".")
    if not (second.isascii() and second.isdigit() and len(second) < 19 and 0 < len(bill_id) <= 300):
        raise _wrong("cursor", "cursor is what the page before named as next_cursor")
    return int(second), bill_id


def _is_table(request: Request) -> bool:
    form = request.query_params.get("format", "").lower()
    if form not in ("", "csv", "json"):
        raise _wrong("format", "format is json or csv")
    return form == "csv" or (not form and "text/csv" in request.headers.get("accept", ""))


def _table(name: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> Response:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([_cell(row.get(column)) for column in columns])
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(out.getvalue(), media_type="text/csv", headers=headers)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _wrong(param: str, words: str) -> ApiProblem:
    return ApiProblem(400, "invalid_value", words, param=param)


def _no_store(body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body, headers={"Cache-Control": "no-store"})

"""Ratings by those who paid: `POST {base}/ratings`, and what they come to in the list of models (aimo row 72)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from x402.errors import MalformedError
from x402.gateway.accounts.members import Members
from x402.gateway.api.asked import asked, members_of, signed_in
from x402.gateway.inference.router import Router
from x402.gateway.problem import ApiProblem
from x402.ports import Clock
from x402.ports.ledger import SqlLedger
from x402.ports.ratings import STARS_MAX, Rating, RatingSum, SqlRatings

FRESH_SECONDS = 30.0
"""How old the sums in a list may be."""


class Ratings:
    """The ratings of an app's models; none are kept without a ledger of ours, and without accounts."""

    def __init__(self, app: FastAPI, router: Router, clock: Clock) -> None:
        self._app = app
        self._router = router
        self._clock = clock
        self._sums: Mapping[str, RatingSum] = {}
        self._read_at: float | None = None

    async def of_models(self) -> Mapping[str, RatingSum]:
        """What all ratings come to, by model; at most `FRESH_SECONDS` old."""
        book = self._book()
        if book is not None and (self._read_at is None or time.monotonic() - self._read_at > FRESH_SECONDS):
            self._read_at, self._sums = time.monotonic(), await book.sums()
        return self._sums

    async def rate(self, request: Request) -> Response:
        """Rate an answer that the caller paid for: `{"bill_id": ..., "rating": 1 to 5}`. The last word counts."""
        book, members = self._book(), self._members()
        if book is None or members is None:
            raise ApiProblem(404, "not_found", "this gateway keeps no ratings")
        said = await asked(request)
        holder = await signed_in(said, *members.credentials)
        wish = members_of(said)
        stars, bill_id = wish.get("rating"), wish.get("bill_id")
        if type(stars) is not int or not 1 <= stars <= STARS_MAX:
            raise _wrong("rating", f"rating: a whole number from 1 to {STARS_MAX} is required")
        bill = await members.book.bill(bill_id) if isinstance(bill_id, str) else None
        if bill is None or bill.account != holder.account:
            raise ApiProblem(404, "bill_not_found", "you have no bill of this id", param="bill_id")
        if not bill.metered.charged:
            raise _wrong("bill_id", "bill_id: only an answer that was paid for can be rated")
        model, provider = self._model(bill.metered.model), bill.metered.provider
        rating = Rating(
            bill_id=bill.bill_id,
            account=bill.account,
            model=model,
            provider=provider,
            stars=stars,
            paid=bill.metered.charged,
            at=self._clock(),
        )
        await book.rate(rating)
        self._read_at = None
        body = {"object": "rating", "bill_id": bill.bill_id, "model": model, "provider": provider, "rating": stars}
        return JSONResponse(body, 201, headers={"Cache-Control": "no-store"})

    def _model(self, name: str) -> str:
        """The model's own name: what one provider is asked for directly counts for the model."""
        try:
            return self._router.catalogue.resolve(name).name
        except MalformedError:
            # It is not on sale any more.
            return name

    def _members(self) -> Members | None:
        paywall: Any = getattr(self._app.state, "paywall", None)
        return None if paywall is None else paywall.members

    def _book(self) -> SqlRatings | None:
        paywall: Any = getattr(self._app.state, "paywall", None)
        ledger = None if paywall is None else paywall.till.register.ledger
        return SqlRatings(ledger) if isinstance(ledger, SqlLedger) else None


def rating_json(known: RatingSum | None) -> dict[str, Any] | None:
    """A model's ratings: how many, their average, and the average in which each dollar counts once."""
    if known is None:
        return None
    mean, weighed = Decimal(known.stars) / known.count, Decimal(known.weighed) / known.paid
    return {"count": known.count, "average": f"{mean:.2f}", "average_by_spend": f"{weighed:.2f}"}


def _wrong(param: str, words: str) -> ApiProblem:
    return ApiProblem(400, "invalid_value", words, kind="invalid_request_error", param=param)

"""A price on a FastAPI route: `sale: Annotated[Sale, Depends(paid("$0.01"))]`."""

from __future__ import annotations

from starlette.requests import Request

from x402.errors import MisconfiguredError
from x402.gateway.counter import PriceRule
from x402.gateway.routes import PRICE_MARK
from x402.gateway.sale import Sale

FREE_MARK = "x402_free"
"""Member of the scope of a request that a price function called `FREE`."""


class _PaidDependency:
    """What `paid` returns: the guard reads its price from the route, the handler gets the `Sale`."""

    def __init__(self, price: PriceRule) -> None:
        setattr(self, PRICE_MARK, price)

    async def __call__(self, request: Request) -> Sale | None:
        if "x402" in request.scope:
            return request.scope["x402"]  # type: ignore[no-any-return]
        if request.scope.get(FREE_MARK):
            return None
        raise MisconfiguredError("no_paywall", "this route has a price, and no Paywall guards the app")


def paid(price: PriceRule) -> _PaidDependency:
    """A FastAPI dependency that puts a price on its route: `sale: Annotated[Sale, Depends(paid("$0.01"))]`.

    The app's `Paywall` takes the payment; without one, every request fails. The handler gets None for a request that
    a price function called `FREE`.
    """
    return _PaidDependency(price)

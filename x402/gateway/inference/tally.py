"""What one answer has used so far, and what that comes to: `sale.metered`, told anew as often as more is known.

The upstream's own `usage` is the truth (design D11). Until it comes, and where it never does, what passes by is
counted: a token for every started four bytes of a chunk's text, so never less than one for a chunk that says something.
The charge never exceeds the quote, whatever is reported (fault B17), and an answer that says nothing costs nothing
(aimo row 86).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from x402.billing import Metered
from x402.gateway.sale import Sale
from x402.price import ModelPrice
from x402.quote import Charge, Item, Quote, Usage, add_up

BYTES_PER_TOKEN = 4
SPARE_TOKENS = 16


@dataclass(slots=True)
class Tally:
    """The bill of one answer while it is made. `said` counts tokens until `usage` is known."""

    quoted: Quote
    endpoint: str
    sale: Sale | None = None
    provider: str = ""
    said: int = 0
    usage: Usage | None = None
    void: bool = False
    at: ModelPrice | None = None
    """The price of who serves, where several could have: it is charged when it is lower than the quoted one."""
    cut: Callable[[int], int] | None = None
    """What an answer that was there already costs of its first charge."""

    @property
    def used(self) -> Usage:
        """The upstream's count, or ours: the prompt by a quarter of its bound in bytes."""
        if self.usage is not None:
            return self.usage
        prompt = next((line.units for line in self.quoted.lines if line.item is Item.PROMPT), 0)
        images = next((line.units for line in self.quoted.lines if line.item is Item.IMAGE), 0)
        return Usage(-(-prompt // BYTES_PER_TOKEN), self.said, images)

    @property
    def charge(self) -> Charge:
        """What is owed by now."""
        if self.void or (self.usage is None and not self.said):
            return Charge.zero(self.quoted.bound)
        charge = self.quoted.actual(self.used, self.at)
        return charge if self.cut is None else replace(charge, total=self.cut(charge.total))

    @property
    def most(self) -> int | None:
        """How much may be said, in tokens as they are counted here, where what is said is what is paid for (scheme
        `upto`): our count may be twice the model's own."""
        if self.sale is None or self.sale.settle is None:
            return None
        bound = next((line.units for line in self.quoted.lines if line.item is Item.COMPLETION), None)
        return None if bound is None else 2 * bound + SPARE_TOKENS

    def hear(self, said: int = 0, usage: Usage | None = None) -> None:
        """More was said, or the upstream has told its count."""
        self.said += said
        self.usage = usage or self.usage
        self.tell()

    def nothing(self) -> None:
        """The answer says nothing, so nothing is owed for it."""
        self.void = True
        self.tell()

    def tell(self) -> None:
        """Write what is known into the sale."""
        if self.sale is not None:
            self.sale.metered = self.metered()

    def metered(self) -> Metered:
        """The bill as it stands."""
        used, charge = self.used, self.charge
        return Metered(
            model=self.quoted.model,
            provider=self.provider,
            endpoint=self.endpoint,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            images=used.images,
            charged=charge.total,
            fee=max(0, charge.total - add_up(line for line in charge.lines if line.item is not Item.FEE)),
            complete=self.void or self.usage is not None,
        )

    def as_json(self) -> dict[str, Any]:
        """The receipt's line about the price: what was quoted and paid, what the usage comes to, what was not needed.

        All in atomic USDC.
        """
        used, charge = self.used, self.charge
        discount = None if self.sale is None else self.sale.discount
        if discount is not None:
            charge = replace(charge, total=charge.total - discount.off(charge.total))
        line = charge_json(self.quoted, charge.total, self.sale)
        if self.usage is not None:
            line["usage"] = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens}
            if used.images:
                line["usage"]["images"] = used.images
        if self.cut is not None:
            line["cached"] = True
        if charge.over:
            line["over"] = [str(item) for item in charge.over]
        if self.sale is not None and self.sale.account:
            # Who is charged; with `credits` what was not needed is there to be spent.
            line["account"] = self.sale.account
            if self.sale.credits:
                line["credited"] = str(charge.unused)
        return line


def charge_json(quoted: Quote, actual: int, sale: Sale | None) -> dict[str, Any]:
    """What every receipt says of a price: `actual` is what is charged, the payer's discount taken off."""
    line: dict[str, Any] = {
        "model": quoted.model,
        "quoted": str(quoted.bound),
        "actual": str(actual),
        "unused": str(quoted.bound - actual),
        "prices": quoted.price_list,
    }
    if sale is not None and sale.discount is not None:
        line["discount"] = sale.discount.as_json()
    return line


def tokens_in(text: Any) -> int:
    """How many tokens a piece of an answer counts for, by its bytes: 0 only for nothing."""
    if not isinstance(text, str) or not text:
        return 0
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)


def tokens_of(message: Any) -> int:
    """The same of a message, or of a stream's delta: everything in it that the model has said."""
    if not isinstance(message, dict):
        return 0
    total = sum(tokens_in(message.get(name)) for name in ("content", "reasoning_content", "reasoning", "refusal"))
    calls = message.get("tool_calls")
    for call in [*(calls if isinstance(calls, list) else ()), message]:
        function = call.get("function_call" if call is message else "function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            total += tokens_in(function.get("name")) + tokens_in(function.get("arguments"))
    return total

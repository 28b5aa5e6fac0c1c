"""Money as integers of atomic units; decimals exist only at the edge, floats nowhere (faults B07, F09-F11).

An `Asset` pins what the wire must never decide: decimals and the EIP-712 domain. An `Amount` is a count of
its atomic units (6 decimals for USDC: 1_000_000 units = 1 USDC).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from functools import total_ordering

from x402.errors import MalformedError

_ATOMIC = re.compile(r"0|[1-9][0-9]{0,77}", re.ASCII)
_PRICE = re.compile(r"\$?[ ]*([0-9]+(?:\.[0-9]+)?)(?:[ ]+([A-Za-z][A-Za-z0-9.]{0,11}))?", re.ASCII)
_UINT256_MAX = 2**256 - 1
_DIGITS_BEYOND_ANY_ASSET = 100

EXACT_CONTEXT = Context(prec=120)
"""Wide enough that no sum, product or shift of prices is ever rounded on the way."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One token on one network, with everything that is pinned about it.

    `transfer_method` is `eip3009`, `permit2` or `spl`. `eip712_name` and `eip712_version` are empty on Solana;
    `token_program` is empty on EVM networks.
    """

    network: str
    address: str
    symbol: str
    decimals: int
    transfer_method: str
    eip712_name: str = ""
    eip712_version: str = ""
    token_program: str = ""

    @property
    def largest(self) -> int:
        """The largest atomic amount that the token can express: u64 on Solana, uint256 elsewhere."""
        return 2**64 - 1 if self.transfer_method == "spl" else _UINT256_MAX


@total_ordering
@dataclass(frozen=True, slots=True, eq=True)
class Amount:
    """A count of atomic units of one asset. Never negative, never a float, never mixed with another asset."""

    units: int
    asset: Asset

    def __post_init__(self) -> None:
        if type(self.units) is not int:
            raise TypeError(f"an amount is an int of atomic units, not {type(self.units).__name__}")
        if not 0 <= self.units <= self.asset.largest:
            raise ValueError(f"{self.units} does not fit {self.asset.symbol} on {self.asset.network}")

    @classmethod
    def of(cls, price: str | int | Decimal, asset: Asset) -> Amount:
        """The exact amount of a price in whole coins, such as `"$0.01"`, `"1.50 USDC"` or `Decimal("0.01")`.

        Raises `MalformedError` for what is no price, for another ticker than the asset's, and for a price finer
        than the asset's smallest unit; `TypeError` for a float.
        """
        number, ticker = parse_price(price)
        if ticker not in ("", "USD", asset.symbol.upper()):
            raise MalformedError("invalid_price", f"the price is in {ticker}, the asset is {asset.symbol}")
        units = _units(number, asset.decimals)
        if units is None:
            smallest = f"1e-{asset.decimals}"
            raise MalformedError(
                "invalid_price", f"the price is finer than the smallest unit of {asset.symbol} ({smallest})"
            )
        if units > asset.largest:
            raise MalformedError("invalid_price", f"the price is more than {asset.symbol} can express")
        return cls(units, asset)

    @property
    def decimal(self) -> Decimal:
        """The amount in whole coins."""
        return Decimal(self.units).scaleb(-self.asset.decimals, EXACT_CONTEXT)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.units + self._same(other).units, self.asset)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.units - self._same(other).units, self.asset)

    def __lt__(self, other: Amount) -> bool:
        return self.units < self._same(other).units

    def __str__(self) -> str:
        return f"{show_units(self.units, self.asset.decimals)} {self.asset.symbol}"

    def _same(self, other: Amount) -> Amount:
        if not isinstance(other, Amount) or other.asset != self.asset:
            raise TypeError("amounts of different assets are not comparable")
        return other


def parse_atomic(text: object) -> int:
    """Read an atomic amount by the one grammar that every party shares: `0` or digits without a leading zero.

    ASCII only, at most 78 digits, at most 2^256-1. Raises `MalformedError("invalid_amount")` for everything else,
    numbers included: on the wire an amount is a string (fault F09).
    """
    if not isinstance(text, str) or _ATOMIC.fullmatch(text) is None:
        raise MalformedError("invalid_amount", 'an atomic amount is a string of ASCII digits such as "10000"')
    value = int(text)
    if value > _UINT256_MAX:
        raise MalformedError("invalid_amount", "the amount does not fit 256 bits")
    return value


def parse_price(price: str | int | Decimal) -> tuple[Decimal, str]:
    """Split a price in whole coins into its number and upper-case ticker (`""` when none is named).

    `"$0.01"`, `"0.01"`, `"1.50 USDC"`, `Decimal("0.01")` and `1` are prices. Negative numbers, exponents and signs
    are not. A float raises `TypeError`: write `"0.1"`, not `0.1` (fault F10).
    """
    if isinstance(price, float | bool):
        raise TypeError(f'a price is a string or a Decimal, never a {type(price).__name__}: write "0.1", not 0.1')
    if isinstance(price, int | Decimal):
        number = Decimal(price)
        if not number.is_finite() or number < 0:
            raise MalformedError("invalid_price", "a price is a finite, non-negative number")
        return number, ""
    match = _PRICE.fullmatch(price.strip(" ")) if isinstance(price, str) and len(price) <= 96 else None
    if match is None:
        raise MalformedError("invalid_price", 'a price looks like "$0.01" or "0.01 USDC"')
    try:
        return Decimal(match[1]), (match[2] or "").upper()
    except InvalidOperation as error:
        raise MalformedError("invalid_price", "the price is no number") from error


def _units(number: Decimal, decimals: int) -> int | None:
    """The number in units of `10**-decimals`, exactly, or None when it is finer than that; giants become too large."""
    _, digits, exponent = number.as_tuple()
    coefficient = int("".join(map(str, digits)))
    if not isinstance(exponent, int) or coefficient == 0:
        return 0
    shift = exponent + decimals
    if shift >= 0:
        return coefficient * int(10 ** min(shift, _DIGITS_BEYOND_ANY_ASSET))
    if -shift > len(digits):
        return None
    divisor = int(10**-shift)
    whole, rest = divmod(coefficient, divisor)
    return None if rest else whole


def round_up(amount: Decimal) -> int:
    """The next whole atomic unit at or above `amount`: the only rounding there is, and it favours the seller."""
    return int(amount.to_integral_value(ROUND_CEILING, EXACT_CONTEXT))


def show_units(units: int, decimals: int) -> str:
    """Atomic units as a plain decimal string without an exponent: `show_units(10_000, 6) == "0.01"`."""
    sign, digits = ("-", -units) if units < 0 else ("", units)
    whole, fraction = divmod(digits, 10**decimals)
    tail = f"{fraction:0{decimals}d}".rstrip("0") if decimals else ""
    return f"{sign}{whole}.{tail}" if tail else f"{sign}{whole}"

"""Curves as SVG, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 320, 64, 44, 40, 120
NAME = 14
"""Height of a name beside a curve."""
COLOURS = ("#2f6fde", "#d9822b", "#5aa02c", "#a855b8")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#8884;stroke-width:1}"
    ".title{font-weight:600;font-size:14px}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)

Curve = Sequence[tuple[float, float]]


def curves(title: str, x: str, y: str, drawn: Mapping[str, Curve]) -> str:
    """One picture of some curves over a logarithmic x axis; `x` and `y` are the titles of the axes."""
    places = sorted({at for curve in drawn.values() for at, _ in curve})
    top = _round_up(max(value for curve in drawn.values() for _, value in curve))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>',
        f'<text x="8" y="{TOP - 8}">{escape(y)}</text>',
    ]
    for step in range(5):
        value = top * step / 4
        height = _y(value, top)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{value:,.{0 if top >= 4 else 2}f}</text>'
        )
    parts += [
        f'<text x="{_x(at, places):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{at:g}</text>' for at in places
    ]
    named_at = _apart(_y(curve[-1][1], top) for curve in drawn.values())
    for number, ((name, curve), height) in enumerate(zip(drawn.items(), named_at, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{_x(at, places):.1f},{_y(value, top):.1f}" for at, value in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        place = f'x="{_x(curve[-1][0], places) + 8:.1f}" y="{height + 4:.1f}"'
        parts.append(f'<text {place} style="fill:{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _x(at: float, places: Sequence[float]) -> float:
    low, high = (math.log1p(places[0]), math.log1p(places[-1]))
    share = (math.log1p(at) - low) / (high - low) if high > low else 0.0
    return LEFT + share * (WIDTH - RIGHT - LEFT)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP)


def _apart(heights: Iterable[float]) -> list[float]:
    """The heights of names, moved up so far that none stands on another."""
    wanted = list(heights)
    lowest = float(HEIGHT)
    for index in sorted(range(len(wanted)), key=lambda index: -wanted[index]):
        wanted[index] = lowest = min(wanted[index], lowest - NAME)
    return wanted


def _round_up(value: float) -> float:
    """The next number with one digit, so that the axis ends at something readable."""
    scale = 10 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return float(math.ceil(value / scale) * scale)

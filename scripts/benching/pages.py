"""`docs/performance.md` and its pictures, written from one run's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benching.figures import Figure, short
from benching.plot import curves

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- figures: scripts/bench peers --write-docs -->", "<!-- end of figures -->"

PICTURES = (
    ("over-concurrency", "verify-over-concurrency.svg", "Verifies a second, over concurrency", "at once", "/s"),
    ("over-latency", "verify-over-latency.svg", "Verifies a second, over the node's latency", "milliseconds", "/s"),
    ("gas", "gas-over-batches.svg", "Gas of one payment, over the payments at once", "payments at once", "gas"),
)


def write(figures: Sequence[Figure], lines: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Put the figures between the marks of the page, and draw its pictures."""
    page = DOCS / "performance.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    pictures = list(_pictures(figures))
    content = "\n".join([_about(about), "", *_table(lines), "", *pictures, "", *_growth(figures), *_stages(figures)])
    page.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}", encoding="utf-8")


def _about(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    return (
        f"Measured on {about['date']}, {about['system']}, {about['cores']} cores that chain, load and contender share, "
        f"Python {about['python']}, commit {about['commit']}; {versions}."
    )


def _table(lines: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    yield "| figure | unit | Python SDK | TypeScript SDK | ours | ratio to the best peer | goal | |"
    yield "|---|---|--:|--:|--:|--:|---|---|"
    for line in lines:
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.1f}x"
        values = " | ".join(short(line[who]) for who in ("python", "typescript", "ours"))
        verdict = {True: "met", False: "**missed**", None: ""}[line["met"]]
        yield f"| {line['figure']} | {line['unit']} | {values} | {ratio} | {line['goal']} | {verdict} |"


def _pictures(figures: Sequence[Figure]) -> Iterable[str]:
    for row, file, title, x, y in PICTURES:
        drawn: dict[str, list[tuple[float, float]]] = {}
        for figure in figures:
            if figure.row == row:
                drawn.setdefault(figure.who, []).append((float(figure.notes["at"]), figure.value))
        if drawn:
            (DOCS / file).write_text(curves(title, x, y, drawn), encoding="utf-8")
            yield f"![{title}]({file})"


def _growth(figures: Sequence[Figure]) -> Iterable[str]:
    grown = [figure for figure in figures if figure.row.startswith("claims-") and "-x" in figure.row]
    if not grown:
        return
    yield "| the ledger has | claims a second |"
    yield "|---|--:|"
    for figure in grown:
        what, size = next(iter(figure.notes.items()))
        yield f"| {size:,} {what} | {short(figure.value)} |"


def _stages(figures: Sequence[Figure]) -> Iterable[str]:
    for row, title in (("verify-stage", "one verify on Base"), ("settle-stage", "one settle on Base")):
        mine = [figure for figure in figures if figure.row == row]
        if not mine:
            continue
        yield ""
        yield f"| {title}, one request at a time | microseconds of processor | share |"
        yield "|---|--:|--:|"
        for figure in mine:
            yield f"| {figure.notes['stage']} | {short(figure.value)} | {figure.notes['share']} |"

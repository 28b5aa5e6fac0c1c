"""The matrix for people: as a table on a terminal, and as the page `docs/interop.md`."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from tests.interop.install import SOURCES, find_node
from tests.interop.matrix import Outcome

PAID = "µUSDC"
HEAD = ("Client", "Server", "Facilitator", "Network", "x402", PAID, "Result")

_PAGE = """\
# Paying and being paid by software nobody here wrote

This page is written by `scripts/interop --write-docs`, the last time on {day}: **{green} of {all} cells are green**.
A test compares its rows with the cells of the matrix; the same cells run in `scripts/test`.

```sh
scripts/test tests/interop     # makes the environment, installs the official SDKs, runs every cell as a test
scripts/interop                # the table on a terminal, with the environment that scripts/test made
scripts/interop --json --cells "x402-fetch*solana"
```

Each cell is one purchase over HTTP on local chains: a Solana VM and an EVM with Base Sepolia's chain id, the same that
`x402 devnet up` runs. Every official party is a process of its own; ours have a port each and share one process. A
cell is green only if all of this holds:

- the buyer has the right answer, and the seller's replies were 402 and then 200 (402, 503, 200 where it says so);
- the payment came in the header of the version that the cell names, and our clients signed no second one;
- the receipt names the network, the payer, and a transaction that the chain knows and that did not fail;
- the buyer has less, and the seller more, by exactly the price that was asked, and no facilitator's USDC moved.

A cell that fails stays in the table, with the reason. The column µUSDC is what left the buyer, in millionths of a
dollar.

{table}

## What the names mean

- **official Python**, **official TypeScript**: the x402 foundation's SDKs, each in an environment of its own
  (`tests/interop/install.py`), each party a process of its own (`tests/interop/peers/`). Their 2.x clients prefer the
  v2 challenge wherever they see one, so in the v1 cells they don't get to see it.
- **official x402-fetch 1.x**: the client of the first generation, which knows nothing of v2.
- **openai SDK**: the stock SDK with its default retries, the synchronous one over `httpx.Client(auth=X402Auth(...))`,
  the asynchronous one over `httpx2.AsyncClient(auth=X402Auth(...))`.
- **ours, 503 at first**: no block is made until the gateway has answered 503 with the settlement pending. The SDK
  sends its request again by itself; the same signature is presented again, and the answer comes.
- **our Paywall on FastAPI**: the five-line seller in `tests/interop/five_lines.py`.

The control group, official parts among themselves on the same chains, is in `tests/interop/test_peers.py`.

## Versions

{versions}
"""


def versions() -> dict[str, str]:
    """What was run, by name: the pinned peers, and the libraries of this environment."""
    found = {"Python": platform.python_version()}
    node = subprocess.run([*find_node().node, "--version"], capture_output=True, text=True, timeout=30, check=True)
    found["Node.js"] = node.stdout.strip().removeprefix("v")
    for name in ("openai", "httpx", "httpx2"):
        found[f"{name} (ours)"] = version(name)
    return found | pins()


def pins() -> dict[str, str]:
    """The exact versions of the peers."""
    lines = (SOURCES / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {f"{name} (official Python)": at for name, at in pinned.items()} | {
        f"{name} (npm)": at for name, at in json.loads((SOURCES / "package.json").read_text())["dependencies"].items()
    }


def row(outcome: Outcome) -> tuple[str, ...]:
    """An outcome under `HEAD`."""
    cell = outcome.cell
    verdict = "green" if outcome.ok else f"RED: {outcome.reason}"
    names = (str(cell.client), str(cell.server), str(cell.facilitator), cell.where, f"v{cell.version}")
    return *names, str(outcome.paid), verdict


def table(outcomes: Sequence[Outcome]) -> Table:
    """The matrix for a terminal."""
    drawn = Table(
        box=SIMPLE_HEAD, caption=summary(outcomes), caption_justify="left", header_style="bold", pad_edge=False
    )
    for name in HEAD:
        drawn.add_column(name, overflow="fold", justify="right" if name == PAID else "left")
    for outcome in outcomes:
        drawn.add_row(*(escape(text) for text in row(outcome)), style="green" if outcome.ok else "red")
    return drawn


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many are green, in words."""
    green = sum(outcome.ok for outcome in outcomes)
    return f"interop matrix: {green} of {len(outcomes)} cells are green"


def page(outcomes: Sequence[Outcome], day: date, used: Mapping[str, str]) -> str:
    """The text of `docs/interop.md`."""
    return _PAGE.format(
        day=day.isoformat(),
        green=sum(outcome.ok for outcome in outcomes),
        all=len(outcomes),
        table=_markdown(HEAD, [row(outcome) for outcome in outcomes]),
        versions=_markdown(("What", "Version"), list(used.items())),
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())

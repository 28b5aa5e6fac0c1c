"""What it costs to import this package, and to start a facilitator: time until it answers, and memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benching.figures import OURS, Figure
from benching.stage import ROOT, Chain, Contender, facilitator, memory_mb
from tests.interop.install import install_python

PROGRAMS = {
    "bare python": "pass",
    "import x402": "import x402",
    "x402.Requirement (wire models)": "from x402 import Requirement",
    "x402.X402Auth (paying client)": "from x402 import X402Auth",
}


def milliseconds(command: Sequence[str], program: str, folder: Path) -> float:
    """Wall time of a fresh interpreter that runs a program."""
    begun = time.perf_counter()
    subprocess.run([*command, "-c", program], check=True, cwd=folder)
    return (time.perf_counter() - begun) * 1000


def above_bare(command: Sequence[str], programs: Mapping[str, str], rounds: int, folder: Path) -> dict[str, float]:
    """The median of each program above that of a bare interpreter, all in turn, so that a drift moves all alike."""
    samples: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            samples[name].append(milliseconds(command, program, folder))
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {name: medians[name] - medians["bare python"] for name in programs if name != "bare python"}


def imports(rounds: int, *, peers: bool) -> list[Figure]:
    """Milliseconds above a bare interpreter."""
    ours = above_bare([sys.executable], PROGRAMS, rounds, ROOT)
    figures = [Figure("import", OURS, ours["import x402"], "ms", {name: round(ms, 1) for name, ms in ours.items()})]
    if peers:
        # The official SDK owns the same import name, so it must see neither this folder nor our PYTHONPATH.
        interpreter = install_python()
        programs = {name: PROGRAMS[name] for name in ("bare python", "import x402")}
        theirs = above_bare([str(interpreter), "-E", "-s"], programs, rounds, interpreter.parent)
        figures.append(Figure("import", "python", theirs["import x402"], "ms"))
    return figures


def ready(contender: Contender, chain: Chain, *, rounds: int) -> list[Figure]:
    """Seconds from the start of a facilitator to its first answer, and its memory then."""
    seconds, megabytes = [], []
    for _ in range(rounds):
        with facilitator(contender, chain, chain.url) as running:
            seconds.append(running.ready_seconds)
            megabytes.append(memory_mb(running.pid))
    return [
        Figure("ready", contender.who, statistics.median(seconds), "s"),
        Figure("memory-fresh", contender.who, statistics.median(megabytes), "MB"),
    ]

"""Coverage-guided fuzzing with atheris: a child process whose input grows towards code that it has not run yet.

Run as a program it is that child, `guided` starts it and reads what it found. The first byte of an input chooses the
target, so that one corpus serves them all.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

SCRIPTS = Path(__file__).resolve().parents[1]
PREFIXES = ("wire.", "chain.svm-", "message.chat", "message.quote", "message.meter", "message.events", "message.pasted")
STRUCTURED = frozenset({"wire.payment-pairs", "wire.extensions", "chain.svm-payload"})
"""Targets that read plain bytes by code that can be traced; the doors are too slow and too stateful for it, and what
is `STRUCTURED` wants inputs of a shape that only its own maker keeps."""
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED = re.compile(r"cov: (\d+)")
_SLACK_SECONDS = 120
_LARGEST_INPUT = 8192


@dataclass(frozen=True)
class Guided:
    """What a guided run did: inputs run, edges covered, and the findings as (target, input)."""

    executed: int
    covered: int
    findings: tuple[tuple[str, bytes], ...]
    words: str


def available() -> str:
    """Why atheris can't run here, or `""`."""
    if find_spec("atheris") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return f"atheris is not installed for Python {version}: pip install atheris, where a wheel exists"
    return ""


def guided(seconds: int, seed: int) -> Guided:
    """Let atheris look for `seconds`. The child's own words come along when it did not run to its end."""
    with TemporaryDirectory(prefix="x402-atheris-") as place:
        corpus, found = Path(place) / "corpus", Path(place) / "found"
        corpus.mkdir()
        found.mkdir()
        options = [f"-max_total_time={seconds}", f"-seed={seed or 1}", f"-max_len={_LARGEST_INPUT}", "-timeout=5"]
        options += ["-print_final_stats=1", f"-artifact_prefix={found}/", str(corpus)]
        paths = os.pathsep.join([str(SCRIPTS.parent), str(SCRIPTS)])
        ran = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), *options],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + _SLACK_SECONDS,
            check=False,
        )
        told = ran.stdout + ran.stderr
        inputs = [path.read_bytes() for path in sorted(found.iterdir())]
    executed, covered = _EXECUTED.findall(told), _COVERED.findall(told)
    findings = tuple((chosen(data), data[1:]) for data in inputs if data)
    return Guided(
        int(executed[-1]) if executed else 0,
        int(covered[-1]) if covered else 0,
        findings,
        told[-4_000:] if ran.returncode else "",
    )


def plain_targets() -> Sequence[str]:
    """The targets that coverage can lead, by name."""
    from fuzzing import chain_targets, message_targets, wire_targets

    every = [*wire_targets.TARGETS, *chain_targets.TARGETS, *message_targets.TARGETS]
    return [target.name for target in every if target.name.startswith(PREFIXES) and target.name not in STRUCTURED]


def chosen(data: bytes) -> str:
    """The target that an input of the child is for."""
    names = plain_targets()
    return names[data[0] % len(names)]


def child(arguments: list[str]) -> None:
    """Fuzz until the time is up or something breaks; never returns."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["x402"]):
        from fuzzing import chain_targets, message_targets, wire_targets
    from fuzzing import seeds

    every = {one.name: one for one in (*wire_targets.TARGETS, *chain_targets.TARGETS, *message_targets.TARGETS)}
    targets = [every[name] for name in plain_targets()]
    corpus = Path(arguments[-1])
    for number in range(len(targets)):
        for known in seeds.corpus():
            data = bytes([number]) + known
            (corpus / hashlib.sha256(data).hexdigest()[:24]).write_bytes(data)

    def one_input(data: bytes) -> None:
        if not data:
            return
        target = targets[data[0] % len(targets)]
        try:
            target.run(data[1:])
        except target.refusals:
            return

    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    child(sys.argv[1:])

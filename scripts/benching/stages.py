"""Where the processor time of a verify and of a settle goes, stage by stage, one request at a time."""

from __future__ import annotations

import asyncio
import tempfile

import httpx

from benching.figures import OURS, Figure
from benching.stage import Chain, Running, cpu_seconds, facilitator_settings, pid_of, posts, program, wait_for
from benching.wire import drive

REST = "server, event loop, telemetry, writing the answer"


def stages(chain: Chain, *, count: int) -> list[Figure]:
    """Microseconds of each stage, the largest first; what no stage accounts for is a row of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="x402-bench-") as folder,
        program(["-m", "benching.metered"], facilitator_settings(chain, chain.url, folder)) as url,
    ):
        wait_for(f"{url}/ready")
        running = Running(url, pid_of(url), 0.0)
        return [figure for path in ("verify", "settle") for figure in _stages(running, chain, path, count)]


def _stages(running: Running, chain: Chain, path: str, count: int) -> list[Figure]:
    _spend(running, chain, path, 16)
    _told(running)
    whole = _spend(running, chain, path, count)
    parts = {name: seconds for name, seconds in _told(running).items() if seconds > 0}
    parts[REST] = max(0.0, whole - sum(parts.values()))
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return [
        Figure(f"{path}-stage", OURS, seconds / count * 1e6, "us", {"stage": name, "share": f"{seconds / whole:.0%}"})
        for name, seconds in ordered
    ]


def _spend(running: Running, chain: Chain, path: str, count: int) -> float:
    """Processor seconds of so many requests."""
    bodies = chain.bodies(count)
    before = cpu_seconds(running.pid)
    load = asyncio.run(drive(running.url, posts(f"/{path}", bodies), 1))
    assert load.count(lambda reply: reply.status == 200) == count
    return cpu_seconds(running.pid) - before


def _told(running: Running) -> dict[str, float]:
    told: dict[str, float] = httpx.get(f"{running.url}/stages", trust_env=False).raise_for_status().json()
    return told

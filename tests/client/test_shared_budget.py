"""One budget, several processes, some of them killed: real processes that pay through the real seat (fault B12)."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from x402.client.audit import audit
from x402.client.budget import Limits
from x402.client.journal import Journal
from x402.stages import State

BUDGET = 10
"""How many payments of a cent the budget allows."""

BUYER = """
    import sys, threading
    import httpx
    from tests.client.seller import EVM_KEY, asks, delivers, paying
    from x402.client.auth import X402Auth
    from x402.client.budget import Limits
    from x402.client.wallet import Wallet
    from x402.errors import DeclinedError
    journal, log, name, calls, hangs = sys.argv[1:]

    def answer(request):
        done = asks()
        if paying(request):
            with open(log, "a") as lines:
                lines.write(request.headers["PAYMENT-SIGNATURE"] + "\\n")
            if hangs == "hangs":
                threading.Event().wait()
            done = delivers()
        return httpx.Response(done.status, headers=done.headers, content=done.body)

    auth = X402Auth(Wallet(evm=EVM_KEY), limits=Limits(per_day="0.10"), journal=journal)

    def call(number):
        with httpx.Client(transport=httpx.MockTransport(answer), auth=auth) as client:
            try:
                client.get(f"https://{name}.test/{number}")
            except DeclinedError as error:
                assert error.code == "budget_exceeded", error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(int(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("done", flush=True)
"""


@contextmanager
def buyers(path: Path, *how: tuple[str, int, str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that make calls at once: the host's name, how many, and whether its answers never come."""
    code = textwrap.dedent(BUYER)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path / "journal.sqlite"), str(path / "log"), name, str(calls), hangs],
            stdout=subprocess.PIPE, text=True,
        )
        for name, calls, hangs in how
    ]  # fmt: skip
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def ended_well(process: subprocess.Popen[str]) -> bool:
    return process.communicate(timeout=60)[0] == "done\n"


def signatures(path: Path) -> list[str]:
    log = path / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_B12_a_hundred_calls_of_five_processes_share_a_budget_of_ten(tmp_path: Path) -> None:
    with buyers(tmp_path, *((f"host{number}", 20, "answers") for number in range(5))) as running:
        assert all(ended_well(process) for process in running)
    paid = signatures(tmp_path)
    assert len(paid) == len(set(paid)) == BUDGET


@pytest.mark.parametrize("hanging", [1, 3])
def test_B12_killed_midway_they_leave_no_room_that_is_not_there(tmp_path: Path, hanging: int) -> None:
    how = [(f"hanging{number}", hanging, "hangs") for number in range(3)]
    with buyers(tmp_path, *how) as running:
        deadline = time.monotonic() + 30
        while len(signatures(tmp_path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.wait()
    lost = len(signatures(tmp_path))
    assert 3 <= lost <= BUDGET
    with buyers(tmp_path, *((f"later{number}", 30, "answers") for number in range(2))) as running:
        assert all(ended_well(process) for process in running)
    paid = signatures(tmp_path)
    assert len(set(paid)) <= BUDGET

    journal = Journal(tmp_path / "journal.sqlite", clock=lambda: int(time.time()))
    assert audit(journal.records(), Limits(per_day="0.10")) == []
    stands = Counter(record.state for record in journal.records())
    # What was only held by the dead was given back, so that the rest could be spent to the cent.
    assert stands[State.EXPOSED] + stands[State.SETTLED] == BUDGET
    assert set(paid) <= {record.header for record in journal.records()}
    assert stands[State.HELD] == 0
    journal.close()

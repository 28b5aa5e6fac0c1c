"""`x402 usage`, `balance` and `deposit`: what was spent, and money that lies with a seller."""

from __future__ import annotations

import json
from decimal import Decimal

from tests.cli.conftest import LiveTown, run


def test_what_was_spent_is_shown_by_seller(live_town: LiveTown) -> None:
    empty = run("usage")
    assert (empty.exit_code, "nothing was paid" in empty.stdout) == (0, True)
    for number in range(2):
        asked = run("chat", f"Hello {number}", "--model", "demo/echo-1", "--max-tokens", "5", **live_town.environment)
        assert asked.exit_code == 0, asked.output
    (row,) = json.loads(run("usage", "--json").stdout)["spent"]
    assert (row["payments"], row["settled"], row["hour"]) == (2, 2, row["total"])
    assert Decimal(row["total"]) > 0
    shown = run("usage")
    assert row["host"] in shown.stdout
    assert row["total"] in shown.stdout

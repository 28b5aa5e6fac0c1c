"""Databases that the ledger is tested on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ports.ledgers import url


@pytest.fixture(params=["sqlite"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger."""
    return url(tmp_path)

"""Databases that the gateway's books are tested on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ports.ledgers import url
from tests.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger."""
    if request.param == "sqlite":
        return url(tmp_path)
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()

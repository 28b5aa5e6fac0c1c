"""The databases that ledgers are played on: SQLite files, or a real PostgreSQL started for the purpose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PARTIES = ("gateway", "facilitator")


@contextmanager
def database(engine: str, folder: Path) -> Iterator[Mapping[str, str]]:
    """The URLs of the gateways' ledger and of the facilitators', by party. `engine` is `sqlite` or `postgres`."""
    if engine == "sqlite":
        yield {party: f"sqlite:///{folder / party}.sqlite" for party in PARTIES}
        return
    from tests.postgres import Postgres

    server = Postgres()
    try:
        yield {party: server.database() for party in PARTIES}
    finally:
        server.stop()

"""What tests of several rooms share: one pair of real chains and one PostgreSQL for the whole session."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.chains import EvmWorld, SvmWorld
from tests.postgres import Postgres
from tests.unblocked import unblocked

LONG = {"simulation", "journey", "scripts", "interop", "tests"}
"""Folders whose files take long: those of whole programs, of many runs, and of the pages."""

# How quick a machine is proves nothing about the code. Under CI hypothesis takes the same cases in every run.
settings.register_profile("x402", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("x402")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts programs or plays for minutes comes first, so that no process is left alone with it in the end."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


def pytest_collection_finish() -> None:
    """All that was imported lasts as long as the process: tests that collect garbage need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def held_up(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """No loop is held up in any test; but the simulator plays whole programs on one thread, on purpose."""
    if request.path.parent.name == "simulation":
        yield []
        return
    with unblocked() as calls:
        yield calls
    assert calls == [], "code of ours held up an event loop with these calls"


@pytest.fixture(scope="session")
def evm_devnet() -> Iterator[EvmWorld]:
    """A real EVM with the USDC token, shared by all tests: use accounts of your own."""
    with EvmWorld() as world:
        yield world


@pytest.fixture(scope="session")
def svm_devnet() -> Iterator[SvmWorld]:
    """A real Solana VM with the USDC mint, shared by all tests: use accounts of your own."""
    with SvmWorld() as world:
        yield world


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, shared by all tests: use databases of your own."""
    server = Postgres()
    yield server
    server.stop()

"""Fixtures of the client's tests: every seat, a wallet with known keys, a clock moved by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from solders.keypair import Keypair

from x402.client.auth import X402Auth
from x402.client.journal import Journal
from x402.client.wallet import Wallet

from .seller import EVM_KEY, SEATS, Chain, Clock, Seat


@pytest.fixture(params=SEATS, ids=str)
def seat(request: pytest.FixtureRequest) -> Seat:
    value: Seat = request.param
    return value


@pytest.fixture
def wallet() -> Wallet:
    return Wallet(evm=EVM_KEY, svm=str(Keypair.from_seed(bytes(range(32)))))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, journal or URL of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith(("X402_", "AIMO_", "EVM_", "SVM_", "SOLANA_", "BLOCKRUN_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def auth(wallet: Wallet, clock: Clock, chain: Chain) -> X402Auth:
    journal = Journal(":memory:", clock=clock)
    return X402Auth(wallet, journal=journal, clock=clock, prove=chain.into(journal))

"""The shops and the ledger of the facilitator's tests."""

from __future__ import annotations

from tests.facilitator.conftest import evm, ledger, svm

__all__ = ["evm", "ledger", "svm"]

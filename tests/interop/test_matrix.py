"""The interop matrix: every cell is one purchase, right to the unit on the chain."""

from __future__ import annotations

import pytest

from tests.interop.matrix import CELLS, Cell, run
from tests.interop.town import Town

# The first run on a machine installs the peers, which takes minutes.
pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_cell(cell: Cell, town: Town) -> None:
    outcome = run(cell, town)
    assert outcome.reason == ""
    assert outcome.paid > 0

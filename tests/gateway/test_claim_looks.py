"""How often a payer is looked at who pays for several things at once (fault A08)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.payments import EvmPayer, evm_requirement
from x402.errors import UnavailableError
from x402.gateway import claim
from x402.gateway.policy import Policy
from x402.ports import NoRoom
from x402.telemetry import Telemetry


@pytest.mark.parametrize(("doubts", "looks"), [(0, 1), (1, 2), (2, 3), (9, 3)])
async def test_A08_a_doubt_is_looked_into_three_times_in_new_seconds(
    monkeypatch: pytest.MonkeyPatch, doubts: int, looks: int
) -> None:
    """What is certain is said at once, and what is doubtful after the third look as well."""
    seconds = [0]

    async def wait(units: int) -> None:
        seconds.append(seconds[-1] + units)

    async def full(*_: Any) -> Any:
        raise NoRoom("total", 2, 1, doubtful=len(seconds) <= doubts)

    monkeypatch.setattr(claim, "sleep", wait)
    monkeypatch.setattr(claim.Claims, "_claim", full)
    ledger: Any = None
    claims, offer = claim.Claims(ledger, lambda: seconds[-1], Policy(), {}, Telemetry()), evm_requirement()
    facilitators: Any = None
    with pytest.raises(UnavailableError, match="wait for their settlement"):
        await claims.claim(facilitators, EvmPayer().pay(offer), offer, fingerprint="")
    assert seconds == list(range(looks))

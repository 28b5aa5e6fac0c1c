"""What the facilitator's keys hold for fees, watched in the background: too little, and too much (faults E07, E08).

`/supported` and readiness are answered from what was seen last, so that no request costs a call to a node. A network
whose keys are empty leaves `/supported` at the next look; a key that holds more than it should is an alarm, since what
a hot key holds is what a thief gets.
"""

from __future__ import annotations

from collections.abc import Mapping

from x402.facilitator.settle import LocalFacilitator
from x402.telemetry import Telemetry
from x402.wire.facilitation import Supported


class Tank:
    """The last look at every rail. `ceilings` are in wei or lamports by CAIP-2 network; a network without is not
    watched for holding too much."""

    def __init__(self, facilitator: LocalFacilitator, ceilings: Mapping[str, int] | None = None) -> None:
        self._facilitator = facilitator
        self._ceilings = dict(ceilings or {})
        self._alarms: set[tuple[str, str, str]] = set()
        self.supported: Supported | None = None
        """What could be settled at the last look; None before the first."""

    @property
    def _telemetry(self) -> Telemetry:
        return self._facilitator.telemetry

    async def look(self) -> Supported:
        """Ask every rail what it can settle, and raise or end alarms by what its keys hold."""
        self.supported = await self._facilitator.supported()
        for rail in self._facilitator.rails.values():
            ceiling = self._ceilings.get(rail.network)
            for address, balance in rail.balances.items():
                self._telemetry.emit("signer.balance", network=rail.network, signer=address, balance=balance)
                self._alarm("signer.balance_low", rail.network, address, balance, balance < rail.reserve)
                self._alarm(
                    "signer.balance_high", rail.network, address, balance, ceiling is not None and balance > ceiling
                )
        return self.supported

    def _alarm(self, name: str, network: str, address: str, balance: int, on: bool) -> None:
        """One fact when an alarm begins, and none while it lasts."""
        alarm = (name, network, address)
        if on and alarm not in self._alarms:
            self._telemetry.emit(name, network=network, signer=address, balance=balance)
        (self._alarms.add if on else self._alarms.discard)(alarm)

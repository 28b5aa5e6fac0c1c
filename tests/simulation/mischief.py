"""What the world does by itself: strangers who submit first, payers who change their minds, reorganisations."""

from __future__ import annotations

import httpx

from tests.simulation.evm_chain import REORG_DEPTH_MAX, THIEF, Included
from tests.simulation.faults import Fate
from tests.simulation.invariants import Watchman
from tests.simulation.parties import Cast
from tests.simulation.people import SHOP, STRANGER, keys
from tests.simulation.permits import give_up_call
from tests.simulation.scenarios import EVM
from tests.simulation.token import cancel_call, transfer_call
from tests.simulation.wire import Exchange
from x402.lifecycle import Party
from x402.networks import PERMIT2
from x402.ports import NotSent
from x402.schemes import exact_evm, upto_evm
from x402.schemes.exact_evm import SignedAuthorization
from x402.schemes.upto_evm import SignedPermit
from x402.wire.payment import read_payment

_BOOTY = 99
"""What thieves want; nobody buys it."""


class Mischief:
    """Hooks into one run; does nothing in calm weather."""

    def __init__(self, cast: Cast, watchman: Watchman) -> None:
        self._cast, self._world = cast, cast.world
        self._watchman = watchman
        self._seen: set[str] = set()
        cast.network.on_request.append(self._requested)
        cast.evm.on_included.append(self._included)
        if cast.world.happens("fee.spike", cast.world.weather.fee_spike):
            start = cast.world.chance.uniform(0, 20)
            cast.world.later(start, lambda: cast.evm.spike(cast.world.chance.uniform(10, 60), 40))

    def _requested(self, exchange: Exchange) -> None:
        """A payment is seen on its way, once."""
        if not exchange.payment or not exchange.request.url.host.endswith(SHOP) or exchange.payment in self._seen:
            return
        self._seen.add(exchange.payment)
        headers = exchange.headers
        weather, world = self._world.weather, self._world
        soon = world.chance.uniform(0.0, 4.0)
        if world.happens("thief", weather.thief):
            world.later(soon, lambda: self._steal(headers))
        if self._cast.scenario.network != EVM:
            if world.happens("drain", weather.drain):
                world.later(soon, lambda: self._cast.svm.spend_elsewhere(keys().buyer.svm_address))
            return
        header = exchange.payment
        if world.happens("stranger", weather.stranger):
            self._submit_once_claimed(header)
        elif world.happens("stranger.early", weather.early_stranger):
            world.later(soon, lambda: self._submit(header))
        elif world.happens("cancel", weather.cancel):
            world.later(soon, lambda: self._cancel(header))
        elif world.happens("drain", weather.drain):
            world.later(soon, self._drain)

    def _steal(self, headers: list[tuple[bytes, bytes]]) -> None:
        """A payment that was seen on its way is presented for something else (faults A07, B01)."""
        request = httpx.Request("GET", f"https://{SHOP}/goods/{_BOOTY}", headers=headers)
        self._cast.network.deliver(Exchange(self._cast.network, request, b"", fate=Fate.FINE, twin=True))

    def _submit_once_claimed(self, header: str) -> None:
        """As soon as the seller has verified and claimed the payment, or never."""
        pay_id, world = self._watchman.identity(header), self._world

        def look() -> None:
            if pay_id in self._watchman.rows(Party.GATEWAY):
                world.later(world.chance.uniform(0.0, 2.0), lambda: self._submit(header))
            elif not world.over and not world.fair():
                world.later(0.5, look)

        look()

    def _submit(self, header: str) -> None:
        """A stranger submits the payment from an account of its own (fault A11)."""
        signed = self._signed(header)
        self._admit(STRANGER, signed.calldata(), to=signed.contract)

    def _cancel(self, header: str) -> None:
        """The payer takes it back, with the contract that remembers it (fault A01)."""
        signed = self._signed(header)
        if isinstance(signed, SignedPermit):
            self._admit(signed.payer, give_up_call(signed.permit.nonce), to=PERMIT2)
        else:
            self._admit(signed.payer, cancel_call(signed.payer, signed.authorization.nonce))

    def _drain(self) -> None:
        """The payer spends all its money elsewhere (fault A08)."""
        payer = keys().buyer.evm_address
        balance = self._cast.evm.latest().token.balances.get(payer, 0)
        if balance:
            self._admit(payer, transfer_call(THIEF, balance))

    def _admit(self, sender: str, call: bytes, *, to: str = "") -> None:
        evm = self._cast.evm
        try:
            evm.admit(evm.foreign(sender, evm.pending_count(sender), call, to=to))
        except NotSent as error:
            self._world.note(f"mischief failed: {error}")

    def _signed(self, header: str) -> SignedAuthorization | SignedPermit:
        payment = read_payment([("PAYMENT-SIGNATURE", header)])
        assert payment is not None
        if payment.scheme == upto_evm.SCHEME:
            return upto_evm.read_payload(payment.payload, self._cast.evm.asset)
        return exact_evm.read_payload(payment.payload, self._cast.evm.asset)

    def _included(self, included: Included) -> None:
        """Some blocks are undone, sometimes with the payer's money going elsewhere instead (fault A16)."""
        world = self._world
        if included.transaction.sender == STRANGER or not world.happens("reorg", world.weather.reorg):
            return
        depth = world.chance.randint(1, REORG_DEPTH_MAX)
        robbed = keys().buyer.evm_address if world.chance.random() < 0.3 else ""
        delay = world.chance.uniform(0.1, 2.0 * depth)
        world.later(delay, lambda: self._cast.evm.reorganise(depth, rob=robbed))

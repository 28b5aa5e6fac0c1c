"""A seller that lies, on real chains: it refuses what it was shown, and submits it at the worst moment (fault A23).

Whatever the moment, one logical call is debited once at most; and when the first payment is proven dead, the call is
paid for anew, so that the guard doesn't refuse everything.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.facilitator.world import EvmShop, SvmShop, submit, transfer_call
from x402.client.auth import X402Auth
from x402.client.journal import Journal
from x402.client.proof import Proof, by_network
from x402.client.wallet import Wallet
from x402.errors import UnavailableError, X402Error
from x402.networks import BASE_SEPOLIA
from x402.ports import NotSent
from x402.schemes import exact_svm
from x402.stages import State
from x402.wire.challenge import Challenge, Requirement, Resource
from x402.wire.payment import Payment, read_payment

from .seller import Answer, Clock, Seller, paying, timeout
from .test_resolve import expose, land, past

URL = "https://seller.test/good"
LIFETIME_SECONDS = 60
STRIKES = ("before", "after", "both")


class Liar:
    """A seller that answers the first payment with silence and everything else with a 402, and keeps what it sees."""

    def __init__(self, auth: X402Auth, offer: Requirement, strike: Callable[[Payment], Awaitable[None]]) -> None:
        self.auth, self.offer, self.strike = auth, offer, strike
        self.seller = Seller(self._answer)

    def _answer(self, request: Any) -> Answer:
        if paying(request) and len(self.seller.signatures) == 1 and len(self.seller.seen) == 2:
            return timeout()
        challenge = Challenge(resource=Resource(url=URL), accepts=(self.offer,))
        return Answer(402, {"PAYMENT-REQUIRED": challenge.as_header()}, b"{}")

    def call(self) -> str:
        """One call; the code of what it ended in."""
        with httpx.Client(transport=httpx.MockTransport(self.seller), auth=self.auth) as client:
            try:
                client.get(URL)
            except X402Error as error:
                return error.code
            except httpx.ReadTimeout:
                return "lost"
        return ""

    async def submit_all(self) -> None:
        """Take every payment that was ever shown, as far as the chain lets it."""
        for header in self.seller.signatures:
            payment = read_payment([("PAYMENT-SIGNATURE", header)])
            assert payment is not None
            await self.strike(payment)


@pytest.mark.parametrize("strikes", STRIKES)
@pytest.mark.parametrize("late", [-50, -20, 0, 1, 10, 45])
async def test_A23_evm_one_call_is_debited_once(evm_devnet: EvmWorld, late: int, strikes: str) -> None:
    """`late` is how many seconds after its expiry the first payment is submitted."""
    world, clock = await EvmShop.open(evm_devnet), Clock()
    offer = world.offer.model_copy(update={"max_timeout_seconds": LIFETIME_SECONDS})
    journal = Journal(":memory:", clock=clock)
    wallet = Wallet(evm="0x" + world.payer.key.to_hex())
    auth = X402Auth(wallet, journal=journal, clock=clock, evm_rpc=evm_devnet.url)
    stranger = "0x" + secrets.token_hex(20)

    async def strike(payment: Payment) -> None:
        if (await world.chain.call(offer.asset, transfer_call(payment), sender=stranger)).succeeded:
            await submit(world, transfer_call(payment))

    liar = Liar(auth, offer, strike)
    clock.now = int(time.time()) - LIFETIME_SECONDS - late
    await evm_devnet.request("evm_mine")
    assert liar.call() == "lost"
    if strikes != "after":
        await liar.submit_all()
    landed = await world.received() > 0
    assert landed is (late < 0 and strikes != "after")

    clock.now = int(time.time()) + 3600
    for _ in range(2):
        liar.call()
        if strikes != "before":
            await liar.submit_all()
    dead = late > 30
    assert len(liar.seller.signatures) == (2 if dead else 1)
    assert await world.received() in (0, offer.amount)
    # The control: the second payment, made once the first was dead, could be taken.
    await liar.submit_all()
    assert await world.received() == (offer.amount if dead or late < 0 else 0)


@pytest.mark.parametrize("strikes", STRIKES)
@pytest.mark.parametrize("slots", [0, 100, 149, 152, 200])
async def test_A23_svm_one_call_is_debited_once(svm_devnet: SvmWorld, slots: int, strikes: str) -> None:
    """`slots` is how much later than its blockhash the first payment is submitted."""
    world, clock = await SvmShop.open(svm_devnet), Clock()
    auth = X402Auth(
        Wallet(svm=str(world.payer.keypair)), journal=Journal(":memory:", clock=clock), clock=clock,
        svm_rpc=svm_devnet.url,
    )  # fmt: skip

    async def offer() -> Requirement:
        hint = exact_svm.offer_extra(world.signer.address, blockhash=await world.chain.blockhash())
        return world.offer.model_copy(update={"extra": hint})

    async def strike(payment: Payment) -> None:
        try:
            await land(world, payment)
        except (NotSent, UnavailableError, AssertionError):
            return

    liar = Liar(auth, await offer(), strike)
    clock.now = int(time.time()) - 400
    assert liar.call() == "lost"
    await svm_devnet.advance(slots)
    if strikes != "after":
        await liar.submit_all()
    landed = await world.received() > 0

    clock.now, liar.offer = int(time.time()), await offer()
    for _ in range(2):
        liar.call()
        if strikes != "before":
            await liar.submit_all()
    # Between 101 and 199 the blockhash dies on its own, while the test goes on.
    signatures = len(liar.seller.signatures)
    assert signatures in ((1,) if landed or slots <= 100 else (2,) if slots == 200 else (1, 2))
    await liar.submit_all()
    taken = await world.received()
    assert taken in ((world.offer.amount,) if slots <= 100 or signatures == 2 else (0, world.offer.amount))


async def test_A23_a_call_asks_the_chain_on_a_thread_of_its_own(evm_devnet: EvmWorld) -> None:
    """Also where an event loop runs already, as here; a node that is away, or none at all, proves nothing."""
    world, journal = await EvmShop.open(evm_devnet), Journal(":memory:", clock=past(700))
    dead = replace(world.payer.authorize(world.offer), valid_before=int(time.time()) - 200)
    pay_id = expose(journal, world.payer.sign(world.offer, dead), world.offer)
    record = journal.find(pay_id)
    assert record is not None
    await evm_devnet.request("evm_mine")
    for away in ("http://127.0.0.1:9", ""):
        proof = Proof(journal, evm_rpc={BASE_SEPOLIA: away}, svm_rpc={}, clock=lambda: 0)
        assert proof(replace(record, host="127.0.0.1")).state is State.EXPOSED
    here = Proof(journal, evm_rpc=by_network(evm_devnet.url), svm_rpc={}, clock=lambda: 0)
    assert here(record).state is State.RELEASED

"""What was paid ahead, signed over and then refused: a seller may settle the first of both all the same (A23, B11)."""

from __future__ import annotations

import time
from decimal import Decimal

import httpx
import pytest

from tests.chains import EvmWorld
from tests.client.seller import URL, Seller, asks, delivers
from tests.client.test_resolve import ask
from tests.facilitator.world import EvmShop, submit, transfer_call
from x402 import tariff
from x402.client.auth import X402Auth
from x402.client.wallet import Wallet
from x402.errors import UnpaidError
from x402.stages import State
from x402.tariff import EXTENSION, Tariff
from x402.wire.headers import PAYMENT_SIGNATURE
from x402.wire.payment import read_payment


async def test_A23_B11_what_was_paid_ahead_and_taken_after_all_is_not_given_back(evm_devnet: EvmWorld) -> None:
    """It sells once at a cent, announces that price, and then asks for two."""
    world = await EvmShop.open(evm_devnet)
    until = int(time.time()) + 9000
    announced = Tariff(route="POST /api/v1/chat/completions", expires_at=until, flat=Decimal("0.01"))
    extensions = {EXTENSION: {"info": {"tariff": tariff.sign(announced, key=b"a key for quotes")}}}
    cheap, dear = (world.offer.model_copy(update={"amount": amount}) for amount in (10_000, 20_000))
    seller = Seller(
        asks(cheap, extensions=extensions), delivers(),
        asks(dear, error="invalid_tariff", extensions=extensions), asks(dear, error="nope"),
    )  # fmt: skip
    auth = X402Auth(Wallet(evm="0x" + world.payer.key.to_hex(), testnet_only=True), journal=":memory:")
    async with httpx.AsyncClient(transport=httpx.MockTransport(seller), auth=auth) as client:
        assert (await client.post(URL, content=b"a")).status_code == 200
        with pytest.raises(UnpaidError):
            await client.post(URL, content=b"b")
    shown = [header for header in seller.payments if header]
    assert len(shown) == 3
    payment = read_payment([(PAYMENT_SIGNATURE, shown[1])])
    assert payment is not None
    assert len(auth.journal.unresolved()) == 1
    await submit(world, transfer_call(payment))
    found = await ask(auth.journal, evm=world.chain)
    assert found.record.state is State.SETTLED, found.words

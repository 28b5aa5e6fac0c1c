"""Somebody who presents signed payments by hand: the same one to two gateways at once, or two of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx

from tests.simulation.parties import Cast, Purchase
from tests.simulation.people import SHOP, keys
from tests.simulation.wire import SimulatedTransport
from x402.client.choose import Buyer, Policy, choose
from x402.client.draft import draft
from x402.wire.challenge import BalanceEmpty, read_challenge

_TRIES = 6
_BEGIN_SECONDS = 2.0


def present(cast: Cast, begin: Callable[[], None]) -> None:
    """Sign one payment for each purchase, call `begin`, and present them to both gateways at once."""
    cast.world.loop.create_task(_present(cast, begin), context=cast.world.within(cast.world.live("client")))


async def _present(cast: Cast, begin: Callable[[], None]) -> None:
    await asyncio.sleep(1.0)
    client = httpx.AsyncClient(transport=SimulatedTransport(cast.network), trust_env=False, timeout=30.0)
    headers = [await _signed(cast, client, purchase) for purchase in cast.purchases]
    await asyncio.sleep(_BEGIN_SECONDS)
    begin()
    targets = [(cast.purchases[index % len(headers)], headers[index % len(headers)], index) for index in range(2)]
    await asyncio.gather(*(_ask(cast, client, purchase, header, index) for purchase, header, index in targets))


async def _signed(cast: Cast, client: httpx.AsyncClient, purchase: Purchase) -> tuple[str, str]:
    answer = await client.get(f"https://{SHOP}{purchase.path}")
    challenge = read_challenge(answer.headers.multi_items(), answer.content)
    assert not isinstance(challenge, BalanceEmpty)
    wallet = keys().buyer
    buyer = Buyer({"eip155": wallet.evm_address, "solana": wallet.svm_address}, SHOP, secure=True)
    choice = choose(challenge, buyer, Policy())
    now, entropy = cast.world.clock(), cast.world.entropy(32)
    payment = draft(choice, challenge, wallet, now=now, lifetime_seconds=600, entropy=entropy).sign()
    return payment.header_name, payment.as_header()


async def _ask(cast: Cast, client: httpx.AsyncClient, purchase: Purchase, header: tuple[str, str], index: int) -> None:
    """One request to one gateway, and again until there is an answer; afterwards any gateway will do."""
    host = f"{('gateway', 'gateway2')[index]}.{SHOP}"
    for _ in range(_TRIES):
        try:
            response = await client.get(f"https://{host}{purchase.path}", headers=[header])
        except httpx.HTTPError as error:
            purchase.words.append(type(error).__name__)
        else:
            purchase.words.append(str(response.status_code))
            if response.status_code == 200:
                purchase.served = True
                return
        cast.world.note(f"presented {purchase.number}: {purchase.words[-1]}")
        await asyncio.sleep(3.0)
        host = SHOP

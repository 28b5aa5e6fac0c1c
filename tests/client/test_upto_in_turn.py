"""Scheme upto where something comes between: another call, an approval that is missing, a receipt that comes late."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.chains import EvmWorld
from tests.client.metered import Counter, open_counter
from x402.client.auth import X402Auth
from x402.client.body import Arrival
from x402.client.choose import Policy
from x402.client.flow import receipt_of
from x402.errors import DeclinedError, UnpaidError
from x402.schemes import approval_sponsoring, gas_sponsoring
from x402.settings import ClientSettings
from x402.stages import State
from x402.wire.receipt import Receipt


@pytest.fixture
async def counter(evm_devnet: EvmWorld) -> AsyncIterator[Counter]:
    async with open_counter(evm_devnet) as counter:
        yield counter


@pytest.fixture
async def sponsored(evm_devnet: EvmWorld) -> AsyncIterator[Counter]:
    async with open_counter(evm_devnet, approvals=True) as counter:
        yield counter


async def test_an_approval_is_signed_where_no_permit_is_taken(sponsored: Counter) -> None:
    auth = sponsored.auth(policy=Policy(schemes=("upto", "exact"), approvals=True))
    async with sponsored.client(auth) as client:
        response = await client.get("/note?units=300")
        assert response.status_code == 200, response.text
        assert await sponsored.shop.received() == 300
        # The approval holds for the next one, which brings none.
        assert (await client.get("/note?units=200")).status_code == 200
    second, first = sorted((record.header for record in auth.journal.records()), key=len)
    (sent, not_sent) = (json.loads(base64.b64decode(header))["extensions"] for header in (first, second))
    assert approval_sponsoring.is_signed(sent)
    assert not gas_sponsoring.is_signed(sent)
    assert not approval_sponsoring.is_signed(not_sent)
    assert await sponsored.shop.received() == 500


async def test_no_approval_is_signed_unless_it_is_wanted(sponsored: Counter) -> None:
    async with sponsored.client(sponsored.auth()) as client:
        with pytest.raises(DeclinedError) as refused:
            await client.get("/note?units=300")
    assert refused.value.code == "permit2_allowance_required"
    assert await sponsored.shop.received() == 0
    wanted = ClientSettings.read(sign_approvals=True, journal=":memory:")
    assert X402Auth(sponsored.wallet, settings=wanted).terms.policy.approvals is True
    assert X402Auth(sponsored.wallet, settings=wanted, policy=Policy(approvals=False)).terms.policy.approvals is False


async def test_two_calls_at_once_of_a_wallet_without_allowance_are_both_paid(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permit of each pays for one alone, so the second call waits, and signs what the first has made of date."""
    state, waits = counter.app.state, []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        state.gate.set()
        await first

    auth = counter.auth()
    async with counter.client(auth) as client:
        first = asyncio.create_task(client.get("/note?units=300&slow=true"))
        await state.started.wait()
        monkeypatch.setattr("x402.client.auth.anyio.sleep", sleep)
        second = await client.get("/note?units=200")
        assert second.status_code == 200, second.text
        assert (await first).status_code == 200
    assert (waits, await counter.shop.received(), await counter.shop.sent()) == ([2], 500, 2)
    headers = [json.loads(base64.b64decode(record.header)) for record in auth.journal.records()]
    nonces = [sent["extensions"][gas_sponsoring.EXTENSION]["info"]["nonce"] for sent in headers]
    assert nonces == ["0", "1"]
    assert [record.state for record in auth.journal.records()] == [State.SETTLED] * 2


async def test_who_has_no_patience_is_told_what_to_do(counter: Counter) -> None:
    auth = counter.auth()
    auth.terms = replace(auth.terms, patience_seconds=0)
    async with counter.client(auth) as client:
        first = asyncio.create_task(client.get("/note?units=300&slow=true"))
        await counter.app.state.started.wait()
        with pytest.raises(UnpaidError, match="x402 approve") as refused:
            await client.get("/note?units=200")
        assert refused.value.code == "over_committed"
        counter.app.state.gate.set()
        assert (await first).status_code == 200
    assert await counter.shop.received() == 300


async def test_A10_the_receipt_in_a_stream_closes_its_payment(counter: Counter) -> None:
    """Whoever reads it, and with whatever program: nothing is left for `x402 resolve`."""
    heard: list[Receipt] = []
    auth = counter.auth(on_receipt=heard.append)
    async with counter.client(auth) as client, client.stream("GET", "/story?units=300") as response:
        assert receipt_of(response) is None
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                break
    (record,) = auth.journal.records()
    assert (record.state, record.entry.amount, record.open) == (State.SETTLED, 300, False)
    assert [receipt.amount for receipt in heard] == ["300"]
    assert auth.journal.unresolved() == []
    assert await counter.shop.received() == 300


@pytest.mark.parametrize("size", [1, 2, 7, 15, 16, 17, 40, 1000])
def test_a_receipt_is_found_wherever_the_chunks_break(size: int) -> None:
    found: list[str] = []
    body = b'data: {"a": ": x402-receipt no"}\n\n: x402-receipt e30=\n\ndata: [DONE]\n\n'
    for text in (
        body,
        b": x402-receipt e30=\n" + body[:20],
        body.replace(b"e30=", b"A" * 20_000),
        b": x402-receipt e3",
    ):
        arrival = Arrival(*[lambda: None] * 3, late=found.append)
        for start in range(0, len(text), size):
            arrival.see(text[start : start + size])
        arrival.end(exhausted=True)
    assert [one for one in found if len(one) < 20_000] == ["e30=", "e30="]

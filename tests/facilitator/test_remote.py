"""A facilitator behind a URL: what is believed, what is doubted, what was never handed over. Faults A03, A09, B05."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.facilitator.serving import ready, serving
from tests.facilitator.world import EvmShop, SvmShop, facilitator
from tests.payments import EvmPayer, as_version_1, evm_requirement
from x402.errors import MisconfiguredError, UnavailableError
from x402.facilitator.remote import RemoteFacilitator
from x402.lifecycle import Outcome
from x402.networks import BASE_SEPOLIA
from x402.ports.ledger import SqlLedger
from x402.wire.facilitation import Verification
from x402.wire.receipt import Receipt

URL = "http://facilitator.example/x402/"
PAYER = EvmPayer()
OFFER = evm_requirement()
PAYMENT = PAYER.pay(OFFER)
HASH = "0x" + "ab" * 32
GOOD = {"success": True, "transaction": HASH, "network": BASE_SEPOLIA, "payer": PAYER.address}


def remote(handle: Any, **how: Any) -> RemoteFacilitator:
    """A facilitator whose HTTP is a function, a response, or an exception."""

    def answer(request: httpx.Request) -> httpx.Response:
        if isinstance(handle, Exception):
            raise handle
        if isinstance(handle, httpx.Response):
            return handle
        response: httpx.Response = handle(request)
        return response

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return RemoteFacilitator(URL, client=client, **how)


def says(**members: Any) -> httpx.Response:
    """A JSON answer."""
    return httpx.Response(200, json=members)


async def settled(answer: Any) -> Receipt:
    """What our client makes of an answer to settle."""
    return await remote(answer).settle(PAYMENT, OFFER)


async def test_the_same_interface_as_in_process(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    async with serving(party) as client:
        await ready(client)
        there = RemoteFacilitator("http://facilitator", client=client)
        assert await there.supported() == await party.supported()
        for shop, payment in ((evm, evm.pay()), (svm, await svm.pay())):
            for spoken in (payment, as_version_1(payment)):
                assert await there.verify(spoken, shop.offer) == await party.verify(spoken, shop.offer)
                assert await there.settle(spoken, shop.offer) == await party.settle(spoken, shop.offer)
        refused = await there.settle(EvmPayer().pay(evm.offer), evm.offer)
        assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "invalid_exact_evm_insufficient_balance")


async def test_A03_control_a_well_formed_success_is_believed() -> None:
    for spelling in (GOOD, GOOD | {"network": "base-sepolia"}, GOOD | {"payer": PAYER.address.lower()}):
        assert await settled(says(**spelling)) == Receipt.settled(HASH, BASE_SEPOLIA, str(spelling["payer"]))
    bare = {name: GOOD[name] for name in ("success", "transaction", "network")}
    assert (await settled(says(**bare))).outcome is Outcome.SETTLED
    assert (await settled(says(**GOOD, unknown={"member": 1}, errorReason=None))).success


@pytest.mark.parametrize(
    "answer",
    [
        says(),
        says(**GOOD | {"success": "true"}),
        says(**GOOD | {"success": 1}),
        says(**GOOD | {"success": None}),
        says(**GOOD | {"transaction": ""}),
        says(**GOOD | {"transaction": None}),
        says(**GOOD | {"transaction": "0x"}),
        says(**GOOD | {"transaction": "0x" + "00" * 32}),
        says(**GOOD | {"transaction": "0x" + "ab" * 31}),
        says(**GOOD | {"transaction": "yes"}),
        says(**GOOD | {"transaction": 7}),
        says(**GOOD | {"network": "eip155:8453"}),
        says(**GOOD | {"network": "base"}),
        says(**GOOD | {"network": "solana-devnet"}),
        says(**GOOD | {"payer": OFFER.pay_to}),
        says(**GOOD | {"errorReason": "insufficient_funds"}),
        httpx.Response(200, text="<html>ok</html>"),
        httpx.Response(200, content=b'{"success":true,"transaction":"0xab'),
        httpx.Response(200, json=[GOOD]),
        httpx.Response(200, content=b'{"success":false,"success":true}'),
        httpx.Response(204),
        httpx.Response(402),
        httpx.Response(400, json={"error": "bad request"}),
        httpx.Response(500, json={"error": "boom"}),
        httpx.Response(502, text="bad gateway"),
        httpx.Response(200, content=b" " * 70_000 + b"{}"),
    ],
)
async def test_A03_anything_less_is_doubt_and_never_settled(answer: httpx.Response) -> None:
    receipt = await settled(answer)
    assert receipt.outcome is Outcome.PENDING
    assert receipt.network == BASE_SEPOLIA
    assert receipt.error_message


async def test_refusals_are_believed_on_any_status() -> None:
    no = {"success": False, "errorReason": "insufficient_funds", "transaction": "", "network": BASE_SEPOLIA}
    for status in (200, 400, 402):
        receipt = await settled(httpx.Response(status, json=no))
        assert (receipt.outcome, receipt.error_reason) == (Outcome.REFUSED, "insufficient_funds")
    for doubt in ({"transaction": HASH}, {"errorReason": "settlement_pending"}):
        assert (await settled(says(**no | doubt))).outcome is Outcome.PENDING


async def test_verifications_are_read_on_any_status() -> None:
    for status in (200, 400, 402):
        there = remote(httpx.Response(status, json={"isValid": False, "invalidReason": "insufficient_funds"}))
        assert (await there.verify(PAYMENT, OFFER)).invalid_reason == "insufficient_funds"
    assert await remote(says(isValid=True, payer="0x1")).verify(PAYMENT, OFFER) == Verification.valid("0x1")


@pytest.mark.parametrize(
    "answer",
    [
        says(),
        says(isValid="true"),
        says(isValid=1),
        httpx.Response(200, text="yes"),
        httpx.Response(500, json={"detail": "boom"}),
        httpx.Response(204),
        httpx.Response(307, headers={"location": "http://elsewhere.example/"}),
    ],
)
async def test_A03_a_verification_that_cannot_be_read_is_none(answer: httpx.Response) -> None:
    with pytest.raises(UnavailableError):
        await remote(answer).verify(PAYMENT, OFFER)


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.RemoteProtocolError, OSError]
)
async def test_A09_silence_after_the_request_is_pending(error: type[Exception]) -> None:
    assert (await settled(error("canary"))).outcome is Outcome.PENDING
    assert "canary" not in str((await settled(error("canary"))).error_message)
    with pytest.raises(UnavailableError):
        await remote(error("canary")).verify(PAYMENT, OFFER)


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
async def test_A09_what_was_never_handed_over_is_unavailable(error: type[Exception]) -> None:
    for work in ("verify", "settle"):
        with pytest.raises(UnavailableError) as unavailable:
            await getattr(remote(error("canary")), work)(PAYMENT, OFFER)
        assert unavailable.value.code == "facilitator_unavailable"
        assert "canary" not in str(unavailable.value)
    with pytest.raises(UnavailableError):
        await remote(error("canary")).supported()


async def test_A09_a_slow_facilitator_is_pending_and_a_dead_port_is_unavailable() -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        await asyncio.sleep(5)
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    slow = RemoteFacilitator(f"http://127.0.0.1:{port}", timeout_seconds=0.2, settle_timeout_seconds=0.2)
    assert (await slow.settle(PAYMENT, OFFER)).outcome is Outcome.PENDING
    with pytest.raises(UnavailableError):
        await slow.verify(PAYMENT, OFFER)
    server.close()
    with pytest.raises(UnavailableError):
        await slow.settle(PAYMENT, OFFER)
    await slow.aclose()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_B05_a_payment_is_never_carried_elsewhere(status: int) -> None:
    asked: list[str] = []

    def redirect(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(status, headers={"location": "http://thief.example/settle"})

    assert (await remote(redirect).settle(PAYMENT, OFFER)).outcome is Outcome.PENDING
    assert asked == ["facilitator.example"]


async def test_urls_headers_and_bodies() -> None:
    requests: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return says(**GOOD, isValid=True, kinds=[])

    there = remote(note, headers={"authorization": "Bearer t"})
    await there.verify(PAYMENT, OFFER)
    await there.settle(as_version_1(PAYMENT), OFFER)
    await there.supported()
    assert [str(request.url) for request in requests] == [URL + verb for verb in ("verify", "settle", "supported")]
    assert all(request.headers["authorization"] == "Bearer t" for request in requests)
    assert b'"x402Version":1' in requests[1].content.replace(b" ", b"")


@pytest.mark.parametrize("url", ["", "facilitator.example", "ftp://x", "http://", "http://[::1", "file:///etc/passwd"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(MisconfiguredError):
        RemoteFacilitator(url)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from([HASH, BASE_SEPOLIA]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*GOOD, "errorReason", "errorMessage", "amount", "extra", "isValid", "kinds", "signers"]),
            inner,
            max_size=7,
        )
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(JSON | st.binary(max_size=40), st.sampled_from([200, 302, 400, 402, 500]))
def test_whatever_a_facilitator_answers(junk: Any, status: int) -> None:
    async def ask() -> None:
        content = {"content": junk} if isinstance(junk, bytes) else {"json": junk}
        there = remote(httpx.Response(status, **content))
        receipt = await there.settle(PAYMENT, OFFER)
        if receipt.success:
            assert receipt.transaction == HASH
            assert receipt.network == BASE_SEPOLIA
        others = await asyncio.gather(there.verify(PAYMENT, OFFER), there.supported(), return_exceptions=True)
        for other in others:
            assert not isinstance(other, BaseException) or isinstance(other, UnavailableError)

    asyncio.run(ask())

"""The facilitator over HTTP: decided is 200, unreadable is 400, and never a 500. Faults D14, E02, E04, F13, G01."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from solders.keypair import Keypair

from tests.facilitator.serving import body, ready, serving
from tests.facilitator.world import EvmShop, Meddled, SvmShop, facilitator, unreachable
from tests.payments import EvmPayer, as_version_1, evm_requirement, with_payload
from x402.errors import MisconfiguredError
from x402.facilitator import reconcile, service
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.service import create_app, unix_now
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Outcome
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET, to_v1
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.settings import FacilitatorSettings
from x402.wire.facilitation import parse_verification
from x402.wire.receipt import parse_receipt

KEY = "44" * 32


async def test_both_versions_on_both_chains(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    async with serving(party) as client:
        for shop, payment in ((evm, evm.pay()), (svm, await svm.pay())):
            for spoken in (payment, as_version_1(payment)):
                before = await shop.received()
                posted = body(spoken, shop.offer)
                assert posted["x402Version"] == spoken.version
                verified = await client.post("/verify", json=posted)
                settled = await client.post("/settle", json=posted)
                assert (verified.status_code, settled.status_code) == (200, 200)
                receipt = parse_receipt(settled.json())
                assert receipt.outcome is Outcome.SETTLED
                assert receipt.network == shop.offer.network
                first = spoken.version == 2
                assert settled.json()["network"] == (shop.offer.network if first else to_v1(shop.offer.network))
                assert parse_verification(verified.json()).is_valid is first
                assert await shop.received() - before == (1000 if first else 0)


async def test_no_is_an_answer(evm: EvmShop, ledger: SqlLedger) -> None:
    async with serving(facilitator([evm.rail(ledger)], ledger)) as client:
        bad = with_payload(evm.pay(), signature="0x" + "11" * 64 + "1b")
        poor = EvmPayer().pay(evm.offer)
        for payment, offer, reason in (
            (bad, evm.offer, "invalid_exact_evm_signature"),
            (poor, evm.offer, "invalid_exact_evm_insufficient_balance"),
            (evm.pay(), evm_requirement(network="eip155:1"), "invalid_network"),
            (evm.pay(), evm_requirement(scheme="upto"), "invalid_upto_evm_scheme"),
            (evm.pay(), evm_requirement(scheme="escrow"), "unsupported_scheme"),
            (with_payload(evm.pay(), authorization="?"), evm.offer, "invalid_payload"),
        ):
            verified = await client.post("/verify", json=body(payment, offer))
            settled = await client.post("/settle", json=body(payment, offer))
            assert (verified.status_code, settled.status_code) == (200, 200)
            assert (verified.json()["isValid"], verified.json()["invalidReason"]) == (False, reason)
            assert verified.json()["invalidMessage"]
            assert (settled.json()["success"], settled.json()["errorReason"]) == (False, reason)
            assert settled.json()["transaction"] == ""
            assert parse_receipt(settled.json()).outcome is Outcome.REFUSED
    assert await evm.sent() == 0


async def test_G01_what_is_wrong_offline_asks_no_node(evm: EvmShop, ledger: SqlLedger) -> None:
    evm.chain.rpc.requests = 0
    party = facilitator([evm.rail(ledger)], ledger)
    offer = evm.offer.model_copy(update={"amount": 999})
    for _ in range(20):
        assert not (await party.verify(evm.pay(), offer)).is_valid
        assert not (await party.settle(evm.pay(), offer)).success
        assert not (await party.verify(evm.pay(lifetime=1), evm.offer)).is_valid
    assert evm.chain.rpc.requests == 0


@pytest.fixture
async def client(evm: EvmShop, ledger: SqlLedger) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(facilitator([evm.rail(ledger)], ledger)) as client:
        yield client


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"hello",
    "no object": b"[]",
    "null": b"null",
    "empty": b"{}",
    "no requirement": b'{"paymentPayload":{}}',
    "null members": b'{"paymentPayload":null,"paymentRequirements":null}',
    "wrong kinds": b'{"paymentPayload":[],"paymentRequirements":7}',
    "version": b'{"x402Version":3,"paymentPayload":{},"paymentRequirements":{}}',
    "twice": b'{"x402Version":2,"x402Version":1}',
    "nan": b'{"x402Version":NaN}',
    "utf-8": b'{"x":"\xff"}',
    "surrogate": b'{"x":"\\ud800"}',
    "deep": b'{"x":' * 5000 + b"1" + b"}" * 5000,
    "digits": b'{"x":' + b"9" * 5000 + b"}",
    "large": b'{"x":"' + b"a" * 70_000 + b'"}',
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_E04_what_cannot_be_read_is_400_with_a_reason(client: httpx.AsyncClient, what: str) -> None:
    for path in ("/verify", "/settle"):
        answer = await client.post(path, content=MALFORMED[what])
        assert answer.status_code == 400
        said = answer.json()
        assert said["code"]
        assert said["error"] == said["message"] != ""
        assert (said["mender"], said["moneyMoved"]) == ("caller", "no")


async def test_E04_a_body_is_counted_while_it_arrives(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 1
            yield b" " * 1024

    answer = await client.post("/settle", content=endless())
    assert (answer.status_code, answer.json()["code"]) == (400, "body_too_large")


@pytest.mark.parametrize(("path", "status"), [("/", 404), ("/settle/", 307), ("/VERIFY", 404), ("/settle", 405)])
async def test_other_routes_and_methods(client: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await client.get(path)).status_code == status


HONEST = body(EvmPayer().pay(evm_requirement()), evm_requirement())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=16), inner, max_size=3),
    max_leaves=6,
)


def _paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for name, member in value.items():
            found += _paths(member, (*path, name))
    return found


def _with(value: Any, path: tuple[str, ...], junk: Any) -> Any:
    if not path:
        return junk
    return value | {path[0]: _with(value[path[0]], path[1:], junk)}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_paths(HONEST)), JSON, st.sampled_from(["/verify", "/settle"]))
def test_one_member_of_junk_is_never_a_500(path: tuple[str, ...], junk: Any, route: str) -> None:
    """No chain behind it: what passes all offline rules is 503, which nothing here should be but the honest body."""

    async def post() -> None:
        async with SqlLedger() as ledger:
            nowhere = Meddled(object(), **dict.fromkeys(("code", "call"), unreachable))
            nowhere.instead["check_chain_id"] = unreachable
            rail = EvmRail(BASE_SEPOLIA, nowhere, [EvmSigner(KEY)], unix_now)
            app = create_app(FacilitatorSettings.read(), facilitator=facilitator([rail], ledger))
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://facilitator") as client:
                answer = await client.post(route, content=json.dumps(_with(HONEST, path, junk)))
        assert answer.status_code in (200, 400, 503)
        if answer.status_code == 200:
            assert answer.json().get("isValid", answer.json().get("success")) is False

    asyncio.run(post())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_junk_bodies_are_400(junk: bytes) -> None:
    async def post() -> None:
        async with SqlLedger() as ledger:
            app = create_app(FacilitatorSettings.read(), facilitator=facilitator([], ledger))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://f") as client:
                assert (await client.post("/settle", content=junk)).status_code == 400

    asyncio.run(post())


# What a node or a ledger that is away means.


async def test_E02_nothing_decided_is_503(evm: EvmShop, ledger: SqlLedger) -> None:
    rail = evm.rail(ledger, Meddled(evm.chain, call=unreachable))
    async with serving(facilitator([rail], ledger)) as client:
        for path in ("/verify", "/settle"):
            answer = await client.post(path, json=body(evm.pay(), evm.offer))
            assert (answer.status_code, answer.json()["moneyMoved"]) == (503, "no")
            assert answer.headers["retry-after"]


async def test_E02_a_blind_ledger_is_pending_not_refused(evm: EvmShop, ledger: SqlLedger) -> None:
    for broken in ({"find": unreachable}, {"intend": unreachable}):
        async with serving(facilitator([evm.rail(ledger)], Meddled(ledger, **broken))) as client:
            answer = await client.post("/settle", json=body(evm.pay(), evm.offer))
            if answer.status_code == 200:
                assert parse_receipt(answer.json()).outcome is Outcome.PENDING
            else:
                assert (answer.status_code, answer.json()["moneyMoved"]) == (503, "no")
    assert await evm.sent() == 0


# Operation.


async def test_supported_health_ready_metrics_and_description(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    async with serving(facilitator([evm.rail(ledger), svm.rail()], ledger)) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        answer = await ready(client)
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "problems": {}})
        supported = (await client.get("/supported")).json()
        assert [(kind["x402Version"], kind["network"]) for kind in supported["kinds"]] == [
            (2, BASE_SEPOLIA),
            (2, BASE_SEPOLIA),
            (1, "base-sepolia"),
            (2, SOLANA_DEVNET),
            (1, "solana-devnet"),
        ]
        assert "extra" not in supported["kinds"][0]
        assert supported["kinds"][1]["extra"] == {"facilitatorAddress": evm.signer.address}
        assert supported["extensions"] == ["eip2612GasSponsoring"]
        assert supported["kinds"][3]["extra"] == {"feePayer": svm.signer.address}
        assert supported["signers"] == {"eip155:*": [evm.signer.address], "solana:*": [svm.signer.address]}
        assert (await client.get("/metrics")).headers["content-type"].startswith("text/plain")
        described = (await client.get("/openapi.json")).json()
        assert described["paths"].keys() == {"/verify", "/settle", "/supported", "/health", "/ready", "/metrics"}
        assert described["paths"]["/verify"]["post"]["summary"] == "Would this payment settle?"
        for page in ("/docs", "/redoc"):
            assert "/openapi.json" in (await client.get(page)).text


async def test_E02_a_ledger_that_cannot_write_is_not_ready_until_it_can(
    evm: EvmShop, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_PING_SECONDS", 0.05)
    meddled = Meddled(ledger, take_open=unreachable)
    async with serving(facilitator([evm.rail(ledger)], meddled)) as client:
        assert (await client.get("/health")).status_code == 200
        answer = await client.get("/ready")
        assert answer.status_code == 503
        assert "chains" in answer.json()["problems"], "nothing was reconciled yet"
        meddled.instead.clear()
        assert (await ready(client)).status_code == 200
        for broken in (unreachable, _for_ever):
            meddled.instead["ping"] = broken
            answer = await client.get("/ready")
            assert (answer.status_code, list(answer.json()["problems"])) == (503, ["ledger"])
            assert (await client.get("/health")).status_code == 200
            meddled.instead.clear()
            assert (await ready(client)).status_code == 200


async def test_a_service_that_lost_a_part_is_not_ready(
    evm: EvmShop, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defect(*_: Any, **__: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(reconcile, "watch", defect)
    async with serving(facilitator([evm.rail(ledger)], ledger)) as client:
        answer = await ready(client, 503)
        for _ in range(100):
            if list(answer.json()["problems"]) == ["process"]:
                break
            await asyncio.sleep(0.01)
            answer = await client.get("/ready")
        assert list(answer.json()["problems"]) == ["process"]


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def test_D14_a_node_of_another_chain_is_never_ready(evm: EvmShop, ledger: SqlLedger) -> None:
    wrong = EvmRail(BASE_SEPOLIA, RpcEvmChain(evm.world.url, 8453), [evm.signer], unix_now)
    async with serving(facilitator([wrong], ledger)) as client:
        await asyncio.sleep(0.3)
        answer = await client.get("/ready")
        assert answer.status_code == 503
        assert "expected 8453" in answer.json()["problems"]["chains"]
        assert (await client.post("/settle", json=body(evm.pay(), evm.offer))).status_code == 503


async def test_the_service_from_settings_alone(evm: EvmShop, svm: SvmShop, tmp_path: Any) -> None:
    spare = Keypair()
    await svm.world.fund(str(spare.pubkey()), 0, 10**9)
    await evm.world.fund(EvmSigner(KEY).address, 0, 10**18)
    members: dict[str, Any] = {
        "evm_private_key": SecretStr(KEY),
        "svm_private_key": SecretStr(str(spare)),
        "evm_rpc_url": evm.world.url,
        "svm_rpc_url": svm.world.url,
        "ledger": f"sqlite:///{tmp_path / 'ledger.sqlite'}",
    }
    payment = evm.pay()
    async with serving(**members) as client:
        assert (await ready(client)).status_code == 200
        first = (await client.post("/settle", json=body(payment, evm.offer))).json()
        assert first["success"] is True
        page = (await client.get("/metrics")).text
        assert f'x402_facts_total{{fact="settle.settled",network="{BASE_SEPOLIA}",reason=""}} 1.0' in page
        assert KEY not in page
    async with serving(**members) as client:
        assert (await client.post("/settle", json=body(payment, evm.offer))).json() == first


async def test_metrics_of_a_facilitator_that_was_given(evm: EvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger)], ledger)
    async with serving(party) as client:
        assert (await client.post("/settle", json=body(evm.pay(), evm.offer))).json()["success"] is True
        assert 'fact="settle.settled"' in (await client.get("/metrics")).text


def test_a_ledger_of_another_kind_is_refused_before_anything_starts() -> None:
    with pytest.raises(MisconfiguredError, match="SQLite"):
        SqlLedger("mysql://somewhere/else")

"""Secrets have canaries here: keys, URLs with keys, signed payments, prompts. None of them is ever seen outside.

Faults E03, G06, G09, invariant I9. Everything that a process shows is caught: logs of every library at every level,
standard output and error, facts, metrics, replies, texts and tracebacks of errors, and the `repr` of every object of
ours that is alive in the middle of the work. A canary that is not where it belongs fails the test; each test also
shows that it would be found.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from pydantic import SecretStr
from solders.keypair import Keypair
from structlog.testing import capture_logs

from tests.chains import EvmWorld
from tests.facilitator.serving import body, serving
from tests.facilitator.world import EvmShop, Meddled, facilitator
from tests.overheard import ANSWER, PROMPT, QUOTE_KEY, UPSTREAM_KEY, Air, Street, heard
from tests.payments import EvmPayer, evm_requirement
from x402.errors import UnavailableError
from x402.facilitator.callers import new_key
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.lifecycle import Party
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.ports.node_url import scrub, secrets_of
from x402.ports.svm import RpcSvmChain
from x402.schemes import eip712
from x402.settings import FacilitatorSettings, describe

CANARY = "canary0123456789abcdef"


@pytest.fixture
def air(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Iterator[Air]:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as structured:
        yield Air(caplog, capsys, structured)


KEYED_URLS = [
    f"http://127.0.0.1:{{port}}/v2/{CANARY}",
    f"http://127.0.0.1:{{port}}/rpc?apikey={CANARY}",
    f"http://user:{CANARY}@127.0.0.1:{{port}}/",
    f"http://{CANARY}:x@127.0.0.1:{{port}}/",
]


@pytest.mark.parametrize("url", KEYED_URLS)
async def test_E03_a_key_in_the_url_of_a_dead_node(air: Air, url: str, tmp_path: Path) -> None:
    """Port 9 answers nobody: every route of the service fails because of its nodes."""
    members: dict[str, Any] = {
        "evm_private_key": SecretStr("4d" * 32),
        "svm_private_key": SecretStr(str(Keypair())),
        "evm_rpc_url": url.format(port=9),
        "svm_rpc_url": url.format(port=9),
        "ledger": f"sqlite:///{tmp_path / 'ledger.sqlite'}",
    }
    offer = evm_requirement()
    async with serving(**members) as client:
        for path in ("/verify", "/settle"):
            answer = await client.post(path, json=body(EvmPayer().pay(offer), offer))
            assert answer.status_code == 503
            air.seen += [answer.text, str(answer.headers)]
        for path in ("/supported", "/ready", "/health", "/metrics", "/openapi.json"):
            air.seen.append((await client.get(path)).text)
        air.look()
    settings = FacilitatorSettings.read(**members)
    air.seen += [repr(settings), str(settings), str(describe(settings)), repr(RpcEvmChain(url.format(port=9), 1).rpc)]
    assert heard(air, CANARY, "4d" * 32) == []


@pytest.mark.parametrize("url", KEYED_URLS)
async def test_E03_a_key_in_the_url_of_a_node_that_repeats_it(air: Air, url: str) -> None:
    """Nodes and their proxies answer with the key, as an error of JSON-RPC and as a page."""
    told = f"project {CANARY} exceeded its quota at {url.format(port=9)}"
    answers = [
        (200, json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": told}})),
        (200, json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "reverted " + told}})),
        (403, told),
        (0, ""),
    ]
    for status, text in answers:

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int = status, text: str = text
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if status:
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        evm, svm = RpcEvmChain(url.format(port=port), 1), RpcSvmChain(url.format(port=port))
        for work in (evm.block_number(), svm.block_height(), evm.send(b"raw", "0x"), evm.call("0x" + "11" * 20, b"")):
            try:
                air.seen.append(repr(await work))
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not show the key
                air.fails(error)
        await evm.aclose()
        await svm.aclose()
        server.close()
    assert heard(air, CANARY) == []


def test_control_what_a_key_in_a_url_is() -> None:
    assert secrets_of(f"https://base.example/v2/{CANARY}?k={CANARY}x&v=2") == (CANARY + "x", CANARY)
    assert secrets_of("https://base.example:8545/rpc/v2") == ()
    assert secrets_of("http://[") == ()
    assert scrub(f"a {CANARY} b", (CANARY,)) == "a *** b"


def test_control_a_canary_in_the_air_is_heard(air: Air, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("anything").debug("%s", CANARY)
    assert heard(air, CANARY) == [CANARY]
    print(CANARY * 2)
    assert heard(air, CANARY * 2) == [CANARY * 2]


@pytest.fixture
async def evm(evm_devnet: EvmWorld) -> AsyncIterator[EvmShop]:
    shop = await EvmShop.open(evm_devnet)
    yield shop
    await shop.chain.aclose()


@pytest.fixture
async def ledger() -> AsyncIterator[SqlLedger]:
    async with SqlLedger() as memory:
        yield memory


async def test_G09_a_payment_on_its_way_is_in_no_repr(air: Air, evm: EvmShop, ledger: SqlLedger) -> None:
    """Held by a facilitator whose node loses it: in the ledger's rows, in flights, in errors."""
    payment = evm.pay()
    signature = str(payment.payload["signature"])[2:]

    async def lost(*_: Any) -> None:
        air.look()
        raise UnavailableError("rpc_unavailable", "timeout")

    party = facilitator([evm.rail(ledger, Meddled(evm.chain, send=lost))], ledger, 0.2)
    async with serving(party, supported_seconds=300) as client:
        for _ in range(2):
            answer = await client.post("/settle", json=body(payment, evm.offer))
            air.seen += [answer.text, (await client.get("/metrics")).text]
        entries = await ledger.unresolved(Party.FACILITATOR)
        air.seen += [repr(entries), repr(payment), str(payment), repr(body), repr(copy.deepcopy(payment))]
        air.look()
    assert len(entries) == 1
    assert len(air.seen) > 50
    raw = getattr(entries[0].stage, "raw", b"")
    assert raw
    assert heard(air, signature, signature[:64], raw.hex(), repr(raw)[2:60]) == []


def test_G09_what_signs_or_pays_is_never_pickled() -> None:
    things = [EvmSigner(secrets.token_hex(32)), SvmSigner(Keypair()), EvmPayer().pay(evm_requirement())]
    for thing in things:
        with pytest.raises(TypeError):
            pickle.dumps(thing)
    key, digest = new_key()
    assert key not in digest


def ask(model: str = "gpt-4o-mini", **members: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20, **members}


async def test_E03_G06_G09_a_sale_from_end_to_end_shows_nothing(
    air: Air, evm: EvmShop, ledger: SqlLedger, tmp_path: Path
) -> None:
    """A sale, a model that fails and quotes, a request that can't be read, and a buyer who can't pay."""
    street = Street(air, evm, ledger, tmp_path)
    buyer = eip712.address_of(PrivateKey(bytes.fromhex(street.wallet_key)).public_key)
    await evm.world.fund(buyer, 50_000)
    path = f"/api/v1/chat/completions?q={PROMPT}"
    async with street.open() as client:
        sold = await client.post(path, json=ask())
        assert sold.status_code == 200, sold.text
        assert ANSWER in sold.text
        street.model_status = 500
        failed = await client.post(path, json=ask(n=1))
        street.model_status = 200
        unread = await client.post(path, json=ask(max_tokens=-1))
        unknown = await client.post(path, json=ask(model="none/such"))
        for answer in (failed, unread, unknown):
            assert answer.status_code >= 400
            air.seen += [answer.text, str(answer.headers)]
        air.look()
        air.seen.append(sold.headers["payment-response"])
    payments = street.payments()
    assert len(payments) >= 2
    assert await evm.received() > 0

    keys = [street.wallet_key, street.keys[0], QUOTE_KEY, UPSTREAM_KEY, evm.signer._key.secret.hex()]
    assert heard(air, PROMPT, *keys, *payments) == []

    # G06: neither the facilitator nor the chain learns what was asked; G09: each key goes to its one reader.
    wires = {name: "".join(f"{url} {sent!r} {headers.raw!r}" for url, sent, headers in tap.requests)
             for name, tap in street.taps.items()}  # fmt: skip
    assert PROMPT not in wires["settler"]
    assert PROMPT in wires["model"], "the control: the prompt did go where it belongs"
    assert [name for name, wire in wires.items() if UPSTREAM_KEY in wire] == ["model"]
    assert [name for name, wire in wires.items() if street.keys[0] in wire] == ["settler"]
    assert not any(key in wire for key in (street.wallet_key, QUOTE_KEY) for wire in wires.values())

"""Secrets have canaries here: keys, URLs with keys, signed payments, prompts. None of them is ever seen outside.

Faults E03, G06, G09, invariant I9. Everything that a process shows is caught: logs of every library at every level,
standard output and error, facts, metrics, replies, texts and tracebacks of errors, and the `repr` of every object of
ours that is alive in the middle of the work. A canary that is not where it belongs fails the test; each test also
shows that it would be found.
"""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import secrets
import traceback
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from solders.keypair import Keypair
from structlog.testing import capture_logs

from tests.chains import EvmWorld
from tests.facilitator.serving import body, serving
from tests.facilitator.world import EvmShop, Meddled, facilitator
from tests.payments import EvmPayer, evm_requirement
from x402.errors import UnavailableError
from x402.facilitator.callers import new_key
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.lifecycle import Party
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.ports.node_url import scrub, secrets_of
from x402.ports.svm import RpcSvmChain
from x402.settings import FacilitatorSettings, describe

CANARY = "canary0123456789abcdef"


@dataclass
class Air:
    """Everything that can be seen or heard from outside."""

    logs: pytest.LogCaptureFixture
    prints: pytest.CaptureFixture[str]
    structured: list[Any]
    seen: list[str] = field(default_factory=list)

    def look(self) -> None:
        """The `repr` of every object of ours that is alive now, inside whatever is going on."""
        for one in gc.get_objects():
            if str(type(one).__module__).startswith("x402."):
                self.seen.append(repr(one))

    def fails(self, error: BaseException) -> None:
        """An error as it would be printed, and as it would be reported."""
        self.seen += [str(error), repr(error), *traceback.format_exception(error)]

    def everything(self) -> str:
        lines = [record.getMessage() + str(record.exc_text) for record in self.logs.records]
        printed = self.prints.readouterr()
        self.seen += [printed.out, printed.err]
        return "\n".join([*self.seen, *lines, *map(str, self.structured)])


@pytest.fixture
def air(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Iterator[Air]:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as structured:
        yield Air(caplog, capsys, structured)


def heard(air: Air, *canaries: str) -> list[str]:
    """Which canaries are anywhere in the air."""
    text = air.everything().lower()
    return [canary for canary in canaries if canary.lower() in text]


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
        "evm_private_key": SecretStr("44" * 32),
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
    assert heard(air, CANARY, "44" * 32) == []


@pytest.mark.parametrize("url", KEYED_URLS)
async def test_E03_a_key_in_the_url_of_a_node_that_repeats_it(air: Air, url: str) -> None:
    """Nodes and their proxies answer with the key, as an error of JSON-RPC and as a page."""
    told = f"project {CANARY} exceeded its quota at {url.format(port=9)}"
    answers: list[Any] = [
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": told}}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "reverted " + told}}),
        httpx.Response(403, text=told),
        httpx.ReadTimeout(told),
        httpx.ConnectError(told),
    ]
    for answer in answers:

        def reply(request: httpx.Request, answer: Any = answer) -> httpx.Response:
            if isinstance(answer, Exception):
                raise answer
            return httpx.Response(answer.status_code, content=answer.content)

        client = httpx.AsyncClient(transport=httpx.MockTransport(reply))
        evm, svm = RpcEvmChain(url.format(port=9), 1), RpcSvmChain(url.format(port=9))
        evm.rpc._client = svm.rpc._client = client
        for work in (evm.block_number(), svm.block_height(), evm.send(b"raw", "0x"), evm.call("0x" + "11" * 20, b"")):
            try:
                air.seen.append(repr(await work))
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not show the key
                air.fails(error)
        await client.aclose()
    assert any("HTTP Request" in line.getMessage() for line in air.logs.records), "httpx names what it asks"
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

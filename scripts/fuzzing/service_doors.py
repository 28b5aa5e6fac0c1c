"""The facilitator's service, asked over ASGI: a real `LocalFacilitator` with real rails, whose nodes talk nonsense.

Every answer is decided, pending or 503; none is HTTP 500, whatever the body, whatever the node (faults A14, E01, E02).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fuzzing import seeds
from fuzzing.case import Broken, Target
from fuzzing.gateway_doors import check
from fuzzing.node_targets import EVM_SAYS, SVM_SAYS, Node, wounded_answers
from fuzzing.tape import Tape, maul
from fuzzing.wire_targets import OBJECTS, wounded_text
from fuzzing.wires import Exchange, ask
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.rail import Rail
from x402.facilitator.service import create_app
from x402.facilitator.settle import LocalFacilitator
from x402.facilitator.signer import EvmSigner, SvmSigner
from x402.facilitator.svm_rail import SvmRail
from x402.ports.evm import RpcEvmChain
from x402.ports.ledger import SqlLedger
from x402.ports.svm import RpcSvmChain
from x402.settings import FacilitatorSettings

SETTLE_SECONDS = 1.0
"""How long a settlement waits for its node, in the hurried seconds of `hurry`: nodes here answer at once or never."""

_TEXTS = OBJECTS["facilitation"][1]
_EVM_KEY = "07" * 32


class Service:
    """The service's app, on nodes that a case makes talk."""

    def __init__(self, ledger: SqlLedger) -> None:
        self.evm, self.svm = Node(EVM_SAYS), Node(SVM_SAYS)
        rails: list[Rail] = [
            EvmRail(seeds.EVM, RpcEvmChain("", 84532, rpc=self.evm.rpc), [EvmSigner(_EVM_KEY)], _now),
            SvmRail(seeds.SVM, RpcSvmChain("", rpc=self.svm.rpc), [SvmSigner(seeds.SPONSOR)], _now),
        ]
        self.facilitator = LocalFacilitator(rails, ledger, settle_timeout_seconds=SETTLE_SECONDS)
        self.app = create_app(FacilitatorSettings.model_construct(), facilitator=self.facilitator)

    def hear(self, evm: dict[str, Any], svm: dict[str, Any]) -> None:
        """What the nodes have other words for."""
        self.evm.nonsense, self.svm.nonsense = evm, svm

    async def close(self) -> None:
        """Let go of the nodes."""
        for node in (self.evm, self.svm):
            await node.rpc.aclose()


def _now() -> int:
    return seeds.NOW


def _facilitation(nonce: int, network: str) -> bytes:
    offer = seeds.evm_offer() if network == seeds.EVM else seeds.svm_offer()
    payment = seeds.payment(offer, nonce)
    message = {"x402Version": 2, "paymentPayload": payment.as_json(), "paymentRequirements": offer.as_json()}
    return json.dumps(message).encode()


def targets(service: Service) -> list[Target]:
    """The service's doors."""

    def make_body(tape: Tape) -> bytes:
        body = wounded_text(tape, _TEXTS).encode(errors="surrogatepass")
        if tape.below(8) == 0:
            body = maul(body, tape) if tape.below(4) else b'{"a":' * 9_000 + body + b" " * 40_000
        path = tape.choose(["/verify", "/verify", "/settle"])
        if tape.below(30) == 0:
            path = tape.choose(["/supported", "/settle/", "/VERIFY", "/verify?x=%zz", "/", "/metrics", "/ready"])
        method = "POST" if tape.below(30) else tape.choose(["GET", "PUT", "", "OPTIONS"])
        headers = [("content-type", "application/json")]
        if tape.below(20) == 0:
            headers.append((tape.choose(["content-length", "transfer-encoding"]), tape.choose(["-1", "x", "9" * 99])))
        return Exchange(method, path, headers, body).dump()

    async def run_body(data: bytes) -> bool:
        service.hear({}, {})
        sent = Exchange.load(data)
        return check(await ask(service.app, sent, pieces=1 + len(data) % 3), f"{sent.method} {sent.path[:60]}")

    def make_node(tape: Tape) -> bytes:
        nonce = (4 << 100) + sum(tape.below(2**16) << (16 * part) for part in range(5))
        network, verb = tape.choose([seeds.EVM, seeds.SVM]), tape.choose(["/verify", "/settle", "/settle"])
        says = EVM_SAYS if network == seeds.EVM else SVM_SAYS
        return json.dumps([verb, network, nonce, wounded_answers(tape, says)]).encode()

    async def run_node(data: bytes) -> bool:
        verb, network, nonce, nonsense = json.loads(data)
        service.hear(*((nonsense, {}) if network == seeds.EVM else ({}, nonsense)))
        sent = Exchange("POST", verb, [("content-type", "application/json")], _facilitation(nonce, network))
        heard = await ask(service.app, sent)
        served = check(heard, f"{verb} while the node talks nonsense")
        told = heard.json()
        if heard.status == 200 and not isinstance(told.get("isValid" if verb == "/verify" else "success"), bool):
            raise Broken(f"an undecided answer: {told}")
        return served

    return [
        Target("facilitator.body", make_body, run_body, 8),
        Target("facilitator.node", make_node, run_node, 2),
    ]


@asynccontextmanager
async def open_service(place: Path) -> AsyncIterator[Service]:
    """The service, on a ledger in the folder `place`."""
    async with SqlLedger(f"sqlite:///{place / 'facilitator.sqlite'}", clock=lambda: seeds.NOW) as ledger:
        service = Service(ledger)
        yield service
        await service.close()

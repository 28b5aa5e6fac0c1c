"""The gateway's app, asked over ASGI: whatever arrives, no answer is HTTP 500, and nothing is served without proof.

The model server and, where a case says so, the facilitator are peers that talk nonsense (faults A03, E04, F05-F11).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from fuzzing import seeds
from fuzzing.case import Broken, Target
from fuzzing.message_targets import EVENTS, USAGE, wounded_stream
from fuzzing.tape import Tape, damage, fresh, junk, maul, tear
from fuzzing.wire_targets import OBJECTS, wounded_text
from fuzzing.wires import Exchange, Heard, Mouth, Said, ask
from x402.devnet.model import demo_catalogue
from x402.errors import RefusedError
from x402.facilitator.remote import RemoteFacilitator
from x402.gateway.app import create_app
from x402.gateway.inference.upstream import UpstreamClient, UpstreamFailed
from x402.gateway.recording import BrokenOff
from x402.ports.ledger import SqlLedger
from x402.schemes import exact_evm_rules
from x402.schemes.subject import subject_of
from x402.settings import GatewaySettings
from x402.wire.challenge import Requirement, parse_challenge
from x402.wire.facilitation import Supported, Verification, parse_supported
from x402.wire.headers import PAYMENT_REQUIRED, PAYMENT_SIGNATURE, X_PAYMENT, decode_header
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt

PATH = "/api/v1/chat/completions"
_JSON = ("content-type", "application/json")
_HASH = re.compile(r"0x(?!0{64})[0-9a-f]{64}", re.ASCII | re.IGNORECASE)
_ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "You said: hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
_REFUSED = (400, 402, 404, 405, 409, 410, 413, 415, 422, 431, 502, 503)
"""Every status that says no; 500 is not among them."""


class Honest:
    """A facilitator that judges by the rules and settles at once."""

    async def verify(self, payment: Payment, requirement: Requirement) -> Verification:
        """By every rule that needs no chain."""
        try:
            subject = subject_of(payment, requirement)
            if requirement.network == seeds.EVM:
                signed = exact_evm_rules.check(payment, requirement, now=seeds.NOW)
                exact_evm_rules.judge_signature(signed, b"")
        except RefusedError as error:
            return Verification.invalid(error.code, error.message)
        return Verification.valid(subject.payer)

    async def settle(self, payment: Payment, requirement: Requirement) -> Receipt:
        """The money moves, in a transaction named after the payment."""
        subject = subject_of(payment, requirement)
        name = "0x" + subject.pay_id[-64:] if requirement.network == seeds.EVM else "5" * 88
        return Receipt.settled(name, requirement.network, subject.payer)

    async def supported(self) -> Supported:
        """Both networks."""
        return parse_supported(seeds.SUPPORTED[0])


class Counters:
    """Two gateways on one ledger: one with an honest facilitator, one whose facilitator says what a case says."""

    def __init__(self, ledger: SqlLedger) -> None:
        self.model = Mouth()
        self.facilitator = Mouth()
        remote = RemoteFacilitator("http://facilitator.test", client=self.facilitator.client())
        self.app = self._gateway(ledger, Honest())
        self.doubtful = self._gateway(ledger, remote)
        self._offers: dict[int, tuple[Requirement, ...]] = {}

    def _gateway(self, ledger: SqlLedger, facilitator: Any) -> Any:
        return create_app(
            GatewaySettings.model_construct(quote_key=SecretStr("fuzz" * 8)),
            catalogue=demo_catalogue("http://model.test/v1"),
            facilitator=facilitator,
            pay_to={seeds.EVM: seeds.EVM_SELLER, seeds.SVM: str(seeds.SELLER.pubkey())},
            ledger=ledger,
            public_url="https://gateway.example",
            upstream=UpstreamClient(self.model.client()),
            clock=lambda: seeds.NOW,
        )

    async def open(self) -> None:
        """Learn what the chats cost; the clock stands still and the quote's key stays, so that cases replay."""
        self.facilitator.say(Said(200, [], json.dumps(seeds.SUPPORTED[0]).encode()))
        for index, chat in enumerate(seeds.CHATS[:2]):
            for app in (self.app, self.doubtful):
                heard = await ask(app, Exchange("POST", PATH, [_JSON], json.dumps(chat).encode()))
                challenge = parse_challenge(decode_header(heard.header(PAYMENT_REQUIRED.lower()) or ""))
                self._offers[index] = challenge.accepts

    def header(self, chat: int, network: str, nonce: int, version: int = 2) -> tuple[str, str]:
        """A header that pays for a chat."""
        offer = next(one for one in self._offers[chat] if one.network == network)
        payment = seeds.payment(offer, nonce, version=version)
        return payment.header_name, payment.as_header()

    def payment(self, chat: int, network: str, nonce: int, version: int = 2) -> dict[str, Any]:
        """The same payment as JSON."""
        offer = next(one for one in self._offers[chat] if one.network == network)
        return seeds.payment(offer, nonce, version=version).as_json()

    async def drain(self) -> None:
        """Let the sales end that are still at work."""
        for app in (self.app, self.doubtful):
            await app.state.paywall.till.drain(5)


def _nonce(tape: Tape, door: int) -> int:
    """A number of its own for each payment, and for each door, so that no case presents another's payment."""
    return (door << 100) + sum(tape.below(2**16) << (16 * part) for part in range(5))


def _body(chat: int) -> bytes:
    return json.dumps(seeds.CHATS[chat]).encode()


def _wounded_exchange(tape: Tape) -> bytes:
    body = wounded_text(tape, seeds.texts(seeds.CHATS)).encode(errors="surrogatepass")
    path = tape.choose([PATH, PATH, PATH, "/api/alpha/chat/completions"])
    headers = [_JSON]
    match tape.below(10):
        case 0:
            path = tape.choose([PATH + "/", PATH.upper(), PATH + "?a=%zz", "//" + PATH, PATH + "%00", "/api/v1/models",
                                "/health", "/metrics", "/ready", "/docs", "/", "/%2e" + PATH, PATH + "#"])  # fmt: skip
        case 1:
            name = tape.choose(["content-type", "content-length", "transfer-encoding", "x-request-id", "accept",
                                "x-preferred-network", "origin", "host", "expect", "authorization"])  # fmt: skip
            value = tape.choose(["", "x", "9" * 400, "-1", "chunked", "é", "\x00", "a" * 9000, "base", "solana:*"])
            headers.append((name, value))
        case 2:
            headers.append((tape.choose([PAYMENT_SIGNATURE, X_PAYMENT]), str(junk(tape))[:20_000]))
    method = tape.choose(["POST"] * 12 + ["GET", "PUT", "OPTIONS", "HEAD", "DELETE", "TRACE", "", "POST\x00"])
    return Exchange(method, path, headers, body).dump()


def check(heard: Heard, case: str) -> bool:
    """Whether an answer serves; raises `Broken` for 500, and for a refusal that doesn't say why (promise 7)."""
    if heard.status >= 500 and heard.status not in _REFUSED:
        raise Broken(f"HTTP {heard.status} to {case}: {heard.body[:300]!r}")
    if heard.status in (400, 402, 409, 503) and heard.body:
        error = heard.json().get("error", heard.json().get("ready"))
        if not isinstance(error, str | bool) and not (error["code"] and error["message"]):
            raise Broken(f"HTTP {heard.status} to {case} without a reason")
    return heard.status < 300


def targets(counters: Counters) -> list[Target]:
    """The gateway's doors, around the gateways of `open_counters`."""

    def make_payment(tape: Tape) -> bytes:
        nonce, chat, version = _nonce(tape, 1), tape.below(2), 1 + tape.below(2)
        network = tape.choose([seeds.EVM, seeds.EVM, seeds.SVM])
        message = counters.payment(chat, network, nonce, version)
        if tape.below(6):
            message = damage(message, tape)
        value = seeds.encoded(json.dumps(message))
        if tape.below(8) == 0:
            value = tear(value, tape)
        name = X_PAYMENT if version == 1 else PAYMENT_SIGNATURE
        headers = [_JSON, (name, value)]
        if tape.below(12) == 0:
            headers.append((tape.choose([X_PAYMENT, PAYMENT_SIGNATURE]), value))
        body = _body(chat) if tape.below(8) else _body(1 - chat)
        return Exchange("POST", PATH, headers, body).dump()

    async def run_request(data: bytes) -> bool:
        _say_well(counters.model)
        sent = Exchange.load(data)
        return check(await ask(counters.app, sent, pieces=1 + len(data) % 3), f"{sent.method} {sent.path[:60]}")

    def make_model(tape: Tape) -> bytes:
        nonce, stream, free = _nonce(tape, 2), bool(tape.below(2)), tape.below(3) == 0
        headers = [("content-type", tape.choose(["text/event-stream"] * 9 + ["application/json", "", "text/html"]))]
        if stream:
            body = wounded_stream(tape)
        else:
            headers = [("content-type", "application/json")]
            body = json.dumps(damage(fresh(json.dumps(_ANSWER)), tape)).encode()
            body = maul(body, tape) if tape.below(5) == 0 else body
        status = tape.choose([200] * 12 + [201, 204, 301, 400, 413, 422, 429, 500, 503, 999])
        said = Said(status, headers, body, breaks=tape.below(10) == 0)
        paid = [] if free else [counters.header(int(stream), seeds.EVM, nonce)]
        chat = seeds.CHATS[2] | {"stream": stream} if free else seeds.CHATS[int(stream)]
        return json.dumps([said.dump(), [_JSON, *paid], json.dumps(chat)]).encode()

    async def run_model(data: bytes) -> bool:
        said, headers, body = json.loads(data)
        counters.model.say(Said.load(said))
        sent = Exchange("POST", PATH, [(name, value) for name, value in headers], body.encode())
        return check(
            await ask(counters.app, sent, breaks=(BrokenOff, UpstreamFailed)), "a request that the model spoils"
        )

    def make_doubt(tape: Tape) -> bytes:
        header = counters.header(0, seeds.EVM, _nonce(tape, 3), 1 + tape.below(2))
        verdict = Said(200, [], json.dumps(seeds.VERIFICATIONS[0]).encode())
        told = [verdict, _settled(tape)]
        at = tape.below(8) == 0
        told[0 if at else 1] = _nonsense(tape, OBJECTS["verification" if at else "receipt"][1])
        return json.dumps([[one.dump() for one in told], [_JSON, header]]).encode()

    async def run_doubt(data: bytes) -> bool:
        (verdict, receipt), headers = json.loads(data)
        said = {"/verify": Said.load(verdict), "/settle": Said.load(receipt)}
        fallback = Said(200, [], json.dumps(seeds.SUPPORTED[0]).encode())
        counters.facilitator.reply(lambda request: said.get(request.url.path, fallback).response())
        _say_well(counters.model)
        sent = Exchange("POST", PATH, [(name, value) for name, value in headers], _body(0))
        served = check(await ask(counters.doubtful, sent), "a payment that the facilitator doubts")
        if served and not _proves(said["/settle"]):
            raise Broken(f"served for {said['/settle'].body[:300]!r}")
        return served

    return [
        Target("gateway.request", _wounded_exchange, run_request, 10),
        Target("gateway.payment", make_payment, run_request, 10),
        Target("gateway.model", make_model, run_model, 4),
        Target("gateway.facilitator", make_doubt, run_doubt, 4),
    ]


def _say_well(model: Mouth) -> None:
    def answer(request: Any) -> Any:
        streams = json.loads(request.content).get("stream") is True
        body = b"".join(EVENTS) if streams else json.dumps(_ANSWER).encode()
        kind = "text/event-stream" if streams else "application/json"
        return Said(200, [("content-type", kind)], body).response()

    model.reply(answer)


def _settled(tape: Tape) -> Said:
    receipt = {
        "success": True,
        "transaction": f"0x{_nonce(tape, 1):064x}",
        "network": seeds.EVM,
        "payer": seeds.EVM_PAYER,
    }
    return Said(200, [_JSON], json.dumps(receipt).encode())


def _nonsense(tape: Tape, texts: list[str]) -> Said:
    body = wounded_text(tape, texts).encode(errors="surrogatepass")
    if tape.below(5) == 0:
        whole: list[bytes] = [b"", b"{}", b"<html>no</html>", b'{"success":true}', b'{"success":"true"}', b"null"]
        body = tape.choose([*whole, b'{"success":true,"transaction":""}', body[: len(body) // 2], b"\xff" * 70_000])
    status = tape.choose([200] * 10 + [204, 301, 400, 402, 404, 409, 422, 429, 500, 502, 503])
    return Said(status, [_JSON], body, breaks=tape.below(12) == 0)


def _proves(said: Said) -> bool:
    """An oracle of its own for fault A03: only a whole and consistent success lets anything be served."""
    try:
        told = json.loads(said.body)
    except ValueError:
        return False
    if said.breaks or not isinstance(told, dict) or told.get("success") is not True or told.get("errorReason"):
        return False
    known = told.get("network") in (seeds.EVM, "base-sepolia", "", None)
    payer = str(told.get("payer") or seeds.EVM_PAYER).lower() == seeds.EVM_PAYER.lower()
    return known and payer and (_HASH.fullmatch(str(told.get("transaction"))) is not None or told.get("amount") == "0")


@asynccontextmanager
async def open_counters(place: Path) -> AsyncIterator[Counters]:
    """The gateways, on a ledger in the folder `place`."""
    async with SqlLedger(f"sqlite:///{place / 'gateway.sqlite'}", clock=lambda: seeds.NOW) as ledger:
        counters = Counters(ledger)
        await counters.open()
        yield counters
        await counters.drain()

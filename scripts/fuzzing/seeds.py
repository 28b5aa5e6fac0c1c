"""Valid messages to be damaged: one of each kind and dialect, really signed, by keys that are worth nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import coincurve
from solders.keypair import Keypair

from x402 import networks
from x402.schemes import eip712, exact_evm, exact_svm
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
EVM, SVM = networks.BASE_SEPOLIA, networks.SOLANA_DEVNET
EVM_KEY = coincurve.PrivateKey(bytes([3] * 32))
EVM_PAYER = eip712.address_of(EVM_KEY.public_key)
SVM_PAYER, SPONSOR, SELLER, STRANGER = (Keypair.from_seed(bytes([seed] * 32)) for seed in (4, 9, 7, 5))
EVM_SELLER = eip712.checksum("0x" + "5e" * 20)
MANAGED = frozenset({str(SPONSOR.pubkey())})
BLOCKHASH = "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"
NOW = 1_800_000_000
CENT = 10_000


def evm_offer() -> Requirement:
    """A cent of USDC on Base Sepolia."""
    return Requirement(
        scheme="exact",
        network=EVM,
        amount=CENT,
        asset=networks.get(EVM).usd.address,
        pay_to=EVM_SELLER,
        max_timeout_seconds=60,
        extra={"name": "USDC", "version": "2"},
    )


def svm_offer() -> Requirement:
    """A cent of USDC on Solana devnet."""
    return Requirement(
        scheme="exact",
        network=SVM,
        amount=CENT,
        asset=networks.get(SVM).usd.address,
        pay_to=str(SELLER.pubkey()),
        max_timeout_seconds=60,
        extra={"feePayer": str(SPONSOR.pubkey())},
    )


def evm_payload(offer: Requirement, nonce: int = 1, now: int = NOW) -> dict[str, Any]:
    """A signed EIP-3009 authorization for an offer."""
    authorization = exact_evm.build(
        offer, EVM_PAYER, now=now, nonce=nonce.to_bytes(32, "big"), lifetime_seconds=offer.max_timeout_seconds
    )
    return exact_evm.payload(authorization, exact_evm.payable_asset(offer), lambda digest: eip712.sign(EVM_KEY, digest))


def svm_transaction(offer: Requirement, nonce: int = 1) -> bytes:
    """A partially signed transfer for an offer."""
    unsigned = exact_svm.build(offer, str(SVM_PAYER.pubkey()), BLOCKHASH, nonce.to_bytes(16, "big"))
    return exact_svm.sign(unsigned, lambda message: bytes(SVM_PAYER.sign_message(message)))


def payment(offer: Requirement, nonce: int = 1, *, version: int = 2, now: int = NOW) -> Payment:
    """A payment that takes an offer."""
    if offer.network == SVM:
        payload: dict[str, Any] = exact_svm.payload(svm_transaction(offer, nonce))
    else:
        payload = evm_payload(offer, nonce, now)
    if version == 1:
        return Payment(version=1, scheme="exact", network=offer.network, payload=payload)
    return Payment.of(offer, payload)


OFFER: dict[str, Any] = evm_offer().as_json() | {"extra": {"name": "USDC", "version": "2", "decimals": [6, {"a": 1}]}}
OLD_OFFER: dict[str, Any] = {
    "scheme": "exact",
    "network": "base-sepolia",
    "maxAmountRequired": "10000",
    "resource": "https://api.example.com/report",
    "description": "the report",
    "mimeType": "application/json",
    "outputSchema": None,
    "payTo": EVM_SELLER,
    "maxTimeoutSeconds": 60,
    "asset": networks.get(EVM).usd.address,
    "extra": '{"name":"USDC","version":"2"}',
}
RESOURCE = {"url": "https://api.example.com/report", "description": "d", "mimeType": "m", "tags": ["a", "b"]}
EXTENSIONS = {
    "payment-identifier": {"info": {"required": True, "id": "pay_0123456789abcdef"}},
    "builder-code": {"info": {"a": "app", "s": ["one", "two"]}},
    "k": {"info": {"a": [1]}},
}
CHALLENGES: list[dict[str, Any]] = [
    {"x402Version": 2, "error": "pay", "resource": RESOURCE, "accepts": [OFFER, OFFER], "extensions": EXTENSIONS},
    {"x402Version": 2, "error": "pay", "resource": RESOURCE, "accepts": [svm_offer().as_json(), OFFER]},
    {"x402Version": 1, "error": "pay", "accepts": [OLD_OFFER, OLD_OFFER]},
    {"accepts": [{"network": "base", "maxAmountRequired": "1", "payTo": "p", "maxTimeoutSeconds": 1, "asset": "a"}]},
    {"error": {"message": "Insufficient balance", "type": "insufficient_balance", "code": 402, "details": {"a": "1"}}},
]
NEW_PAYMENTS: list[dict[str, Any]] = [
    payment(evm_offer()).as_json() | {"resource": RESOURCE, "extensions": EXTENSIONS},
    payment(svm_offer()).as_json(),
]
OLD_PAYMENTS: list[dict[str, Any]] = [payment(offer, version=1).as_json() for offer in (evm_offer(), svm_offer())]
RECEIPTS: list[dict[str, Any]] = [
    {"success": True, "transaction": "0x" + "12" * 32, "network": EVM, "payer": EVM_PAYER, "amount": "5"},
    {"success": True, "transaction": "5" * 88, "network": SVM, "payer": str(SVM_PAYER.pubkey()), "extra": {"a": 1}},
    {"success": False, "errorReason": "insufficient_funds", "errorMessage": "m", "transaction": "", "network": "base"},
    {"success": False, "errorReason": "settlement_pending", "transaction": "0x" + "12" * 32, "network": EVM},
]
FACILITATIONS: list[dict[str, Any]] = [
    {"x402Version": 2, "paymentPayload": NEW_PAYMENTS[0], "paymentRequirements": evm_offer().as_json()},
    {"x402Version": 2, "paymentPayload": NEW_PAYMENTS[1], "paymentRequirements": svm_offer().as_json()},
    {"x402Version": 1, "paymentPayload": OLD_PAYMENTS[0], "paymentRequirements": OLD_OFFER},
]
VERIFICATIONS: list[dict[str, Any]] = [
    {"isValid": True, "payer": EVM_PAYER, "extra": {"a": 1}},
    {"isValid": False, "invalidReason": "insufficient_funds", "invalidMessage": "m", "payer": EVM_PAYER},
]
SUPPORTED: list[dict[str, Any]] = [
    {
        "kinds": [
            {"x402Version": 2, "scheme": "exact", "network": SVM, "extra": {"feePayer": str(SPONSOR.pubkey())}},
            {"x402Version": 2, "scheme": "exact", "network": EVM},
            {"x402Version": 1, "scheme": "exact", "network": "base"},
        ],
        "extensions": ["bazaar"],
        "signers": {"eip155:*": [EVM_SELLER], "solana:*": [str(SPONSOR.pubkey())]},
    }
]
GOODS: list[dict[str, Any]] = [
    {"model": "demo/embed-1", "input": "hello", "encoding_format": "base64", "dimensions": 8},
    {"model": "demo/embed-1", "input": [[1, 2, 3], "four"], "metadata": {"a": 1}, "user": "me"},
    {"model": "demo/picture-1", "prompt": "a sunset", "n": 2, "size": "1024x1024", "quality": "hd"},
]
CHATS: list[dict[str, Any]] = [
    {"model": "demo/echo-1", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20},
    {
        "model": "demo/story-1",
        "messages": [
            {"role": "system", "content": "be brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "42"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}
        ],
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 1,
        "n": 2,
        "seed": 7,
        "stop": ["end"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "metadata": {"a": "b"},
        "provider": {"order": ["demo"]},
        "max_completion_tokens": 30,
    },
    {"model": "demo/free-1", "messages": [{"role": "user", "content": "hello"}], "stream": True},
]


def _text(message: Any) -> str:
    return json.dumps(message)


def texts(messages: list[dict[str, Any]]) -> list[str]:
    """The messages as JSON texts, from which `tape.fresh` makes copies."""
    return [_text(message) for message in messages]


def encoded(text: str) -> str:
    """A header's value: base64 of a JSON text, which may hold lone surrogates."""
    return base64.b64encode(text.encode(errors="surrogatepass")).decode()


@cache
def recorded() -> dict[str, list[str]]:
    """The conformance vectors of `fixtures/` as JSON texts, by header name in lower case; AiMo's bodies as `body`."""
    found: dict[str, list[str]] = {}
    for vector in json.loads((FIXTURES / "headers.json").read_text())["vectors"]:
        found.setdefault(vector["input"]["header"].lower(), []).append(_text(vector["expected"]["decodedJson"]))
    bodies = json.loads((FIXTURES / "aimo.json").read_text())["cases"]
    found["body"] = [_text(case["body"]) for case in bodies]
    return found


def corpus() -> Iterator[bytes]:
    """Everything above and all of `fixtures/` as inputs for a fuzzer that starts from files."""
    for messages in (CHALLENGES, NEW_PAYMENTS, OLD_PAYMENTS, RECEIPTS, FACILITATIONS, VERIFICATIONS, SUPPORTED, CHATS):
        for text in texts(messages):
            yield text.encode()
            yield encoded(text).encode()
    for dialect in recorded().values():
        for text in dialect:
            yield text.encode()
            yield encoded(text).encode()
    yield svm_transaction(svm_offer())
    signed = json.loads((FIXTURES / "svm_exact.json").read_text())
    yield base64.b64decode(signed["version1"]["transaction"])

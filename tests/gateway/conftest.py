"""A small town for the gateway: a real ledger, real signatures, and a bank in place of facilitator and chain."""

from __future__ import annotations

import asyncio
import base64
import json
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from coincurve import PrivateKey
from fastapi import FastAPI
from solders.keypair import Keypair

from x402 import networks
from x402.devnet.model import create_app as create_model
from x402.devnet.model import demo_catalogue
from x402.errors import RefusedError
from x402.gateway.app import create_app
from x402.gateway.inference.upstream import UpstreamClient
from x402.gateway.paywall import Paywall
from x402.lifecycle import Entry, Party
from x402.ports.ledger import SqlLedger
from x402.schemes import exact_evm, exact_svm, upto_evm
from x402.schemes.eip712 import checksum, keccak
from x402.schemes.evm_scheme import evm_scheme
from x402.schemes.subject import subject_of
from x402.settings import GatewaySettings
from x402.wire.challenge import Challenge, Requirement, parse_challenge
from x402.wire.facilitation import Kind, Supported, Verification
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt, read_receipt

EVM, SVM = networks.BASE_SEPOLIA, networks.SOLANA_DEVNET
SELLER_EVM = checksum("0x" + "5e" * 20)
SELLER_SVM = str(Keypair.from_seed(bytes([7] * 32)).pubkey())
FEE_PAYER = str(Keypair.from_seed(bytes([9] * 32)).pubkey())
SETTLER = checksum("0x" + "fa" * 20)
PAY_TO = {EVM: SELLER_EVM, SVM: SELLER_SVM}
NOW = 1_800_000_000

Settling = Callable[[Payment, Requirement], Awaitable[Receipt]]


@dataclass
class Bank:
    """Facilitator and chain in one: verifies by signature, and moves the money of each payment once.

    `script` holds what the next settlements do instead of telling the truth.
    """

    balances: dict[str, int] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    script: list[Callable[[str, Receipt], Receipt | Awaitable[Receipt]]] = field(default_factory=list)
    verdicts: list[Verification | Exception] = field(default_factory=list)
    kinds: Supported | Exception | None = None
    asked: list[str] = field(default_factory=list)
    in_process: bool = True
    clock: Callable[[], int] = lambda: 0
    payers: dict[str, str] = field(default_factory=dict)
    payees: dict[str, tuple[str, int]] = field(default_factory=dict)

    async def verify(self, payment: Payment, requirement: Requirement) -> Verification:
        self.asked.append("verify")
        if self.verdicts:
            verdict = self.verdicts.pop(0)
            if isinstance(verdict, Exception):
                raise verdict
            return verdict
        try:
            subject = subject_of(payment, requirement)
            scheme = evm_scheme(requirement.scheme)
            if requirement.network == EVM and scheme.read_offered(payment, requirement).recovered != subject.payer:
                raise RefusedError("invalid_exact_evm_signature", "signature")
        except RefusedError as error:
            return Verification.invalid(error.code, error.message)
        if (subject.amount, subject.payee) != (requirement.amount, requirement.pay_to):
            return Verification.invalid("invalid_payment", "amount or payee")
        if subject.pay_id in self.moved:
            return Verification.invalid("nonce_already_used", "used")
        return Verification.valid(subject.payer, balance=self.balances.get(subject.payer, 10**9))

    async def settle(self, payment: Payment, requirement: Requirement) -> Receipt:
        self.asked.append("settle")
        subject = replace(subject_of(payment, requirement), amount=requirement.amount)
        self.payers[subject.pay_id], self.payees[subject.pay_id] = subject.payer, (subject.payee, subject.amount)
        if self.balances.get(subject.payer, 10**9) < subject.amount and subject.pay_id not in self.moved:
            truth = Receipt.refused(
                "insufficient_funds", "the balance is too low", subject.network, subject.payer, proven=True
            )
        elif 0 < subject.expires_at <= self.clock() and subject.pay_id not in self.moved:
            truth = Receipt.refused(
                "payment_expired", "the authorization expired", subject.network, subject.payer, proven=True
            )
        else:
            transaction = self.moved.get(subject.pay_id) or f"0x{keccak(subject.pay_id.encode()).hex()}"
            metered = subject.amount if requirement.scheme == "upto" else None
            truth = Receipt.settled(transaction, subject.network, subject.payer, metered)
        if self.script:
            told = self.script.pop(0)(subject.pay_id, truth)
            return await told if isinstance(told, Awaitable) else told
        await asyncio.sleep(0)
        return self.move(subject.pay_id, truth)

    def move(self, pay_id: str, truth: Receipt) -> Receipt:
        if truth.success:
            self.moved[pay_id] = truth.transaction
        return truth

    async def supported(self) -> Supported:
        self.asked.append("supported")
        if isinstance(self.kinds, Exception):
            raise self.kinds
        return self.kinds or Supported(
            kinds=(
                Kind(version=2, scheme="exact", network=EVM, extra={"name": "Evil Coin", "features": {"a": 1}}),
                Kind(version=2, scheme="upto", network=EVM, extra={"facilitatorAddress": SETTLER}),
                Kind(version=2, scheme="exact", network=SVM, extra={"feePayer": FEE_PAYER}),
            ),
            extensions=("eip2612GasSponsoring",),
            signers={"solana:*": [FEE_PAYER], "eip155:*": [SETTLER]},
        )


@dataclass
class Payer:
    """Signs payments, each with another nonce."""

    key: PrivateKey = field(default_factory=lambda: PrivateKey(bytes([3] * 32)))
    keypair: Keypair = field(default_factory=lambda: Keypair.from_seed(bytes([4] * 32)))
    signed: int = 0

    @property
    def address(self) -> str:
        return checksum("0x" + keccak(self.key.public_key.format(compressed=False)[1:])[-20:].hex())

    def pay(
        self,
        challenge: Challenge,
        network: str = EVM,
        *,
        scheme: str = "exact",
        version: int = 2,
        lifetime: int = 300,
        now: int = NOW,
    ) -> dict[str, str]:
        """The header that pays one offer of a challenge."""
        offer = next(offer for offer in challenge.accepts if (offer.network, offer.scheme) == (network, scheme))
        return self.header(self.payment(offer, challenge, version=version, lifetime=lifetime, now=now))

    def payment(
        self, offer: Requirement, challenge: Challenge, *, version: int = 2, lifetime: int = 300, now: int = NOW
    ) -> Payment:
        payload = self.payload(offer, lifetime=lifetime, now=now)
        if version == 1:
            return Payment(version=1, scheme="exact", network=offer.network, payload=payload)
        return Payment.of(offer, payload, resource=challenge.resource)

    def payload(self, offer: Requirement, *, lifetime: int = 300, now: int = NOW) -> dict[str, Any]:
        self.signed += 1
        if offer.scheme == "upto":
            permit = upto_evm.build(
                offer, self.address, now=now, nonce=self.signed.to_bytes(32, "big"), lifetime_seconds=lifetime
            )
            return upto_evm.payload(permit, upto_evm.payable_asset(offer), self.sign)
        if offer.network == SVM:
            bare = exact_svm.build(
                offer, str(self.keypair.pubkey()), "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM", b"%032x" % self.signed
            )
            return exact_svm.payload(exact_svm.sign(bare, lambda message: bytes(self.keypair.sign_message(message))))
        authorization = exact_evm.build(
            offer, self.address, now=now, nonce=self.signed.to_bytes(32, "big"), lifetime_seconds=lifetime
        )
        return exact_evm.payload(authorization, exact_evm.payable_asset(offer), self.sign)

    def sign(self, digest: bytes) -> bytes:
        """With the EVM key."""
        signature = self.key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([signature[64] + 27])

    @staticmethod
    def header(payment: Payment) -> dict[str, str]:
        return {payment.header_name: payment.as_header()}


@dataclass
class Shop:
    """A paid app with everything around it."""

    app: FastAPI
    bank: Bank
    ledger: SqlLedger
    payer: Payer
    runs: list[str] = field(default_factory=list)
    now: int = NOW
    strict: bool = True
    client: httpx.AsyncClient = field(init=False)
    paywall: Paywall = field(init=False)
    gateway: FastAPI = field(init=False)

    def open(self, routes: Mapping[str, Any] | None = None, app: Any = None, **options: Any) -> httpx.AsyncClient:
        """Put the paywall before the app (again, as after a restart) and return a client."""
        given: dict[str, Any] = {"pay_to": PAY_TO, "facilitator": self.bank, "ledger": self.ledger}
        given["answer_keys"] = [b"a key for answers"]
        inner = self.app if app is None else app
        self.bank.clock = lambda: self.now
        self.paywall = Paywall(inner, routes=routes, clock=lambda: self.now, **(given | options))
        transport = httpx.ASGITransport(self.paywall, raise_app_exceptions=self.strict)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://shop.test")
        return self.client

    async def challenge(self, path: str = "/report", method: str = "GET", **options: Any) -> Challenge:
        response = await self.client.request(method, path, **options)
        assert response.status_code == 402, response.text
        return challenge_of(response)

    async def entry(self) -> Entry:
        """The only payment that the gateway has in its ledger and that is not resolved."""
        (entry,) = await self.ledger.unresolved(Party.GATEWAY)
        return entry


def challenge_of(response: httpx.Response) -> Challenge:
    return parse_challenge(json.loads(base64.b64decode(response.headers["payment-required"])))


def receipt_of(response: httpx.Response) -> Receipt:
    receipt = read_receipt(response.headers.multi_items())
    assert receipt is not None, response.headers
    return receipt


@pytest.fixture
async def ledger() -> AsyncIterator[SqlLedger]:
    async with SqlLedger("sqlite://", clock=lambda: NOW) as ledger:
        yield ledger


@pytest.fixture
async def shop(ledger: SqlLedger) -> AsyncIterator[Shop]:
    shop = Shop(FastAPI(), Bank(), ledger, Payer())

    @shop.app.get("/report")
    async def report(q: str = "") -> dict[str, str]:
        shop.runs.append(f"report {q}")
        return {"report": f"secret {len(shop.runs)}"}

    @shop.app.get("/free")
    async def free() -> dict[str, str]:
        return {"free": "yes"}

    yield shop
    await shop.paywall.till.drain(5)


@pytest.fixture
async def make(shop: Shop) -> AsyncIterator[Callable[..., httpx.AsyncClient]]:
    """Builds a gateway over a model server, the demo's unless another is given."""
    shop.open()
    clients: list[httpx.AsyncClient] = []

    def build(model: Any = None, settings: GatewaySettings | None = None, **options: Any) -> httpx.AsyncClient:
        upstream = httpx.ASGITransport(model or create_model(), raise_app_exceptions=False)
        given: dict[str, Any] = {
            "catalogue": demo_catalogue("http://model.test/v1"),
            "facilitator": shop.bank,
            "pay_to": PAY_TO,
            "ledger": shop.ledger,
            "public_url": "https://gateway.example",
            "upstream": UpstreamClient(httpx.AsyncClient(transport=upstream)),
            "clock": lambda: shop.now,
        }
        app = create_app(settings or GatewaySettings.model_construct(), **(given | options))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://gateway.test")
        shop.gateway = app
        clients.append(client)
        return client

    yield build
    for client in clients:
        await client.aclose()


@pytest.fixture
def town() -> Any:
    """The names of this file, for tests that cannot import it."""
    return types.SimpleNamespace(**globals())

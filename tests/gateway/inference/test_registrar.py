"""Rows 87 and 90, fault E05: providers that register themselves, with whatever they may try on the way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from solders.keypair import Keypair

from tests.gateway.inference.providers import Providers, stock
from tests.gateway.inference.test_conformance import good
from x402.errors import MalformedError
from x402.gateway.inference.offer import read_offer, read_signed, signing_text
from x402.gateway.inference.provider_key import seal, unseal
from x402.gateway.inference.registrar import Admission, House, Registrar
from x402.gateway.inference.shelf import Shelf
from x402.gateway.inference.upstream import UpstreamClient
from x402.gateway.problem import ApiProblem
from x402.ports.ledger import SqlLedger
from x402.ports.provider_book import SqlProviders
from x402.ports.providers import RegisteredProvider, Standing
from x402.ports.public_web import PublicWeb
from x402.schemes import eip712
from x402.schemes.sign_in import evm_digest

NOW = 1_800_000_000
DOMAIN = "gateway.example"
EVM, SVM = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
KEY = PrivateKey(bytes([5] * 32))
KEYPAIR = Keypair.from_seed(bytes([6] * 32))
EVM_ADDRESS = eip712.address_of(KEY.public_key)
SVM_ADDRESS = str(KEYPAIR.pubkey())


def document(**members: Any) -> dict[str, Any]:
    model = {"name": "m", "context_length": 8192, "pricing": {"prompt": 1.5, "completion": "2"}}
    whole = {"name": "Two", "base_url": "https://two.test/v1", "api_key": "sk-two", "models": [model], "issued_at": NOW}
    return {name: value for name, value in (whole | members).items() if value is not ...}


def envelope(content: Any, *, network: str = EVM, domain: str = DOMAIN, **changes: Any) -> bytes:
    text = content if isinstance(content, str) else json.dumps(content)
    account = f"{network}:{EVM_ADDRESS if network == EVM else SVM_ADDRESS}"
    message = signing_text(domain, account, text)
    if network == EVM:
        signature = "0x" + eip712.sign(KEY, evm_digest(message)).hex()
    else:
        signature = str(KEYPAIR.sign_message(message.encode()))
    return json.dumps({"document": text, "account": account, "signature": signature} | changes).encode()


@dataclass
class Office:
    """A registrar with a real ledger; the providers' servers are reached through the real guard."""

    ledger: SqlLedger
    servers: Providers
    addresses: dict[str, str] = field(default_factory=lambda: {"two.test": "1.1.1.1"})
    now: int = NOW

    def open(self, admission: Admission = Admission.OPEN, secret: bytes = b"s" * 32) -> Registrar:
        async def resolve(host: str, port: int) -> list[str]:
            return [self.addresses[host]]

        inner = httpx.ASGITransport(self.by_host, raise_app_exceptions=False)
        client = UpstreamClient(public=httpx.AsyncClient(transport=PublicWeb(inner, resolve=resolve)))
        house = House(domain=DOMAIN, admission=admission, secrets=[secret])
        return Registrar(SqlProviders(self.ledger), client, house, clock=lambda: self.now)

    async def by_host(self, scope: Any, receive: Any, send: Any) -> None:
        # The connection goes to a number; which server it is stands in the Host header, as on the Internet.
        host = dict(scope["headers"])[b"host"].decode()
        await self.servers({**scope, "server": (host, 443), "headers": scope["headers"]}, receive, send)


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with SqlLedger("sqlite://", clock=lambda: NOW) as ledger:
        yield Office(ledger, Providers({"two": good}))


async def registered(registrar: Registrar, body: bytes) -> RegisteredProvider:
    taken = await registrar.submit(body)
    await registrar.drain()
    known = await registrar.book.provider(taken.id)
    assert known is not None
    return known


@pytest.mark.parametrize(("network", "id"), [(EVM, EVM_ADDRESS), (SVM, SVM_ADDRESS)])
async def test_row_087_a_signed_document_is_examined_and_sold(office: Office, network: str, id: str) -> None:
    registrar = office.open()
    catalogue = stock({"a": "9"}, a="context_length = 8192")
    shelf = Shelf(catalogue, lambda now: catalogue, clock=lambda: NOW, offers=registrar.offers)
    registrar.on_change = shelf.refill
    assert (await registrar.submit(envelope(document(), network=network))).standing is Standing.PENDING
    assert registrar.offers() == ()
    await registrar.drain()
    known = await registrar.book.provider(id)
    assert known is not None
    assert (known.standing, known.account, known.reason) == (Standing.ACTIVE, f"{network}:{id}", "")
    direct = catalogue.resolve(f"{id}:m")
    assert str(direct.price.prompt) == "1.5"
    assert [provider.id for provider in catalogue.resolve("m").providers] == ["a", id]
    upstream = direct.providers[0].upstream
    assert upstream is not None
    assert (upstream.api_key, upstream.guarded) == ("sk-two", True)


async def test_row_087_a_server_that_fails_the_check_is_refused_with_the_reason(office: Office) -> None:
    office.servers.answers["two"] = lambda asked: httpx_error()
    registrar = office.open()
    known = await registered(registrar, envelope(document()))
    assert known.standing is Standing.REFUSED
    assert "stream: no answer: HTTP 500" in known.reason
    assert registrar.offers() == ()


def httpx_error() -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse({}, 500)


async def test_row_090_rates_change_at_once_and_anything_else_is_examined_again(office: Office) -> None:
    registrar = office.open()
    await registered(registrar, envelope(document()))
    asked = len(office.servers.asked)
    dearer = document(issued_at=NOW + 1)
    dearer["models"][0]["pricing"] = {"prompt": "3", "completion": "4"}
    assert (await registrar.submit(envelope(dearer))).standing is Standing.ACTIVE
    assert (len(office.servers.asked), str(registrar.offers()[0].price.prompt)) == (asked, "3")
    moved = document(issued_at=NOW + 2, api_key="sk-other")
    assert (await registrar.submit(envelope(moved))).standing is Standing.PENDING
    assert registrar.offers() == (), "it is not sold while nobody has looked"
    await registrar.drain()
    assert len(registrar.offers()) == 1
    assert len(office.servers.asked) > asked


async def test_row_090_a_provider_withdraws(office: Office) -> None:
    registrar = office.open()
    await registered(registrar, envelope(document()))
    known = await registered(registrar, envelope(document(issued_at=NOW + 1, withdrawn=True)))
    assert (known.standing, registrar.offers()) == (Standing.DEPRECATED, ())


async def test_a_document_that_is_sent_again_changes_nothing(office: Office) -> None:
    registrar = office.open()
    first = envelope(document())
    await registered(registrar, first)
    await registered(registrar, envelope(document(issued_at=NOW + 1, withdrawn=True)))
    with pytest.raises(ApiProblem) as caught:
        await registrar.submit(first)
    assert (caught.value.status_code, caught.value.code) == (409, "stale_document")
    assert registrar.offers() == ()


async def test_whom_the_operator_has_to_let_in(office: Office) -> None:
    registrar = office.open(Admission.REVIEW)
    known = await registered(registrar, envelope(document()))
    assert (known.standing, registrar.offers()) == (Standing.CHECKED, ())
    await registrar.book.mark(known.id, Standing.ACTIVE)
    await registrar.refresh()
    assert len(registrar.offers()) == 1
    with pytest.raises(ApiProblem) as caught:
        await office.open(Admission.OFF).submit(envelope(document()))
    assert caught.value.status_code == 403


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "http://two.test/v1"}, "base_url"),
        ({"base_url": "https://127.0.0.1:8080/v1"}, "base_url"),
        ({"base_url": "https://two.test:22/"}, "base_url"),
        ({"base_url": "https://user@two.test/"}, "base_url"),
        ({"base_url": 7}, "base_url"),
        ({"issued_at": NOW - 301}, "issued_at"),
        ({"issued_at": NOW + 301}, "issued_at"),
        ({"issued_at": "now"}, "issued_at"),
        ({"api_key": "a\nb"}, "api_key"),
        ({"api_key": 7}, "api_key"),
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"models": []}, "models"),
        ({"models": [7]}, "models[0]"),
        ({"models": [{"name": "m"}]}, "models[0]"),
        ({"models": [{"name": "m", "pricing": {"prompt": 0, "completion": 0}}]}, "more than 0"),
        ({"models": [{"name": "m", "pricing": {"prompt": 1}}]}, "prompt and completion together"),
        ({"models": [{"name": "m", "pricing": {"prompt": 1, "completion": 1}, "params": {}}]}, "models[0]"),
        ({"models": [{"name": "m", "input_price": 1}]}, "input_price and output_price together"),
        ({"models": [{"name": "m", "input_price": 1, "output_price": 1}] * 2}, "two of one name"),
        ({"models": [{"name": f"{SVM_ADDRESS}:m", "input_price": 1, "output_price": 1}]}, "that provider's"),
        ({"format": "soap"}, "format is one of"),
        ({"surprise": 1}, "unknown member surprise"),
        ({"withdrawn": "no"}, "withdrawn"),
    ],
)
async def test_a_document_that_is_wrong_says_where(office: Office, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiProblem) as caught:
        await office.open().submit(envelope(document(**changes)))
    assert (caught.value.status_code, caught.value.code) == (400, "invalid_provider")
    assert words in caught.value.message
    assert await SqlProviders(office.ledger).providers() == []


async def test_nobody_signs_for_another_or_for_another_gateway(office: Office) -> None:
    registrar = office.open()
    other = "eip155:84532:0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199"
    for body in (
        envelope(document(), account=other),
        envelope(document(), domain="evil.example"),
        envelope(document(), document=json.dumps(document(name="Three"))),
        envelope(document(), account=f"eip155:8453:{EVM_ADDRESS}"),
        envelope(document(), signature="0x00"),
        envelope(document(), network=SVM, signature="1111"),
        envelope(document(), account="nowhere:0x"),
        b"{}",
        b"junk",
    ):
        with pytest.raises(ApiProblem) as caught:
            await registrar.submit(body)
        assert (caught.value.status_code, caught.value.code) == (400, "invalid_provider")


async def test_a_document_cannot_reach_into_the_operators_environment(office: Office) -> None:
    """`std::env::NAME` belongs to the operator's own file; from a stranger it is only a text."""
    registrar = office.open()
    await registered(registrar, envelope(document(api_key="std::env::X402_REFUND_EVM_PRIVATE_KEY")))
    upstream = registrar.offers()[0].providers[0].upstream
    assert upstream is not None
    assert upstream.api_key == "std::env::X402_REFUND_EVM_PRIVATE_KEY"


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_E05_a_name_that_leads_inside_is_refused_at_the_check(office: Office, address: str) -> None:
    office.addresses["two.test"] = address
    known = await registered(office.open(), envelope(document()))
    assert known.standing is Standing.REFUSED
    assert office.servers.asked == []


async def test_E05_a_name_that_leads_inside_later_is_refused_at_connect(office: Office) -> None:
    registrar = office.open()
    await registered(registrar, envelope(document()))
    upstream = registrar.offers()[0].providers[0].upstream
    assert upstream is not None
    before = len(office.servers.asked)
    office.addresses["two.test"] = "169.254.169.254"
    with pytest.raises(Exception, match="NotPublic"):
        await registrar._client.open(upstream, {"model": "m", "messages": [], "max_tokens": 1})
    assert len(office.servers.asked) == before


async def test_row_098_a_key_is_never_written_down_in_clear(office: Office, tmp_path: Any) -> None:
    path = tmp_path / "ledger.sqlite"
    async with SqlLedger(f"sqlite:///{path}", clock=lambda: NOW) as ledger:
        office.ledger = ledger
        await registered(office.open(), envelope(document(api_key="sk-very-secret-canary")))
        known = await SqlProviders(ledger).provider(EVM_ADDRESS)
        assert known is not None
        assert "canary" not in repr(known)
        other = office.open(secret=b"t" * 32)
        await other.refresh()
        assert other.offers() == (), "without the secret it is not sold, and nothing breaks"
    assert b"canary" not in path.read_bytes()


async def test_what_was_pending_when_the_process_died_is_examined_at_the_next_start(office: Office) -> None:
    registrar = office.open()
    await registrar.submit(envelope(document()))
    await registrar.close()
    again = office.open()
    await again.resume()
    await again.drain()
    assert len(again.offers()) == 1


async def test_row_087_aimos_registration_prices_are_atomic_usdc_per_token(office: Office) -> None:
    registrar = office.open()
    model = {"name": "deepseek-chat-v3", "input_price": 1000, "output_price": 2000}
    await registered(registrar, envelope(document(models=[model]), network=SVM))
    (offer,) = registrar.offers()
    assert offer.providers[0].endpoint == f"{SVM_ADDRESS}:deepseek-chat-v3"
    assert (int(offer.price.prompt.atomic), int(offer.price.completion.atomic)) == (1000, 2000)


@given(st.text(max_size=40), st.binary(min_size=16, max_size=40), st.binary(min_size=16, max_size=40))
def test_a_sealed_key_opens_for_its_provider_alone(key: str, secret: bytes, other: bytes) -> None:
    sealed = seal(key, "p", [secret])
    assert unseal(sealed, "p", [other, secret]) == key
    if key:
        assert key not in sealed or len(key) < 4
        assert unseal(sealed, "q", [secret]) is None
        assert other == secret or unseal(sealed, "p", [other]) is None


@given(st.binary(max_size=200), st.text(max_size=80))
def test_no_bytes_make_the_readers_raise_anything_else(body: bytes, text: str) -> None:
    read: Callable[[], Any]
    for read in (
        lambda: read_signed(body, domain=DOMAIN),
        lambda: read_signed(json.dumps({"document": text, "account": text, "signature": text}).encode(), domain=DOMAIN),
        lambda: read_offer(text, "p", now=NOW),
        lambda: read_offer(json.dumps(document(base_url=text, name=text)), "p", now=NOW),
    ):
        with suppress(MalformedError):
            read()

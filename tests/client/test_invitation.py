"""The sign-in that a foreign seller's 402 offers: given when the caller wants it, to a host that was paid, and for that
host alone (protocol page §6.2; faults B04, B05)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from eth_account import Account as EthAccount
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from tests.client.seller import EVM_KEY, NOW, URL, Answer, Clock, Seat, Seller, asks, challenge, delivers, paying
from x402 import networks
from x402.client.auth import X402Auth
from x402.client.invitation import EXTENSION, sign_in
from x402.client.journal import Journal
from x402.client.wallet import Wallet
from x402.errors import DeclinedError
from x402.schemes.sign_in import signer
from x402.wire.sign_in import Dialect, instant, read_header

HOST = "seller.test"
HEADER = "sign-in-with-x"
NONCE = "0123456789abcdef0123456789abcdef"
EVM_CHAIN = {"chainId": networks.BASE_SEPOLIA, "type": "eip191"}
SVM_CHAIN = {"chainId": networks.SOLANA_DEVNET, "type": "ed25519"}


def offered(chains: Any = (EVM_CHAIN,), **info: Any) -> dict[str, Any]:
    """What a seller says of signing in, with changes to its `info`."""
    stated = {"domain": HOST, "uri": URL, "version": "1", "nonce": NONCE, "issuedAt": instant(NOW), "resources": [URL]}
    stated = {name: value for name, value in (stated | info).items() if value is not None}
    return {EXTENSION: {"info": stated, "supportedChains": list(chains), "schema": {}}}


def members_only(extensions: dict[str, Any], let_in: Answer | None = None) -> Callable[[Any], Answer]:
    """A seller that lets in who has paid or signs in, and asks everybody else for money."""

    def step(request: Any) -> Answer:
        if paying(request):
            return delivers()
        if HEADER in request.headers:
            return let_in or Answer(200)
        return asks(extensions=extensions)

    return step


@pytest.fixture
def asked(wallet: Wallet, clock: Clock) -> X402Auth:
    journal = Journal(":memory:", clock=clock)
    return X402Auth(wallet, journal=journal, clock=clock, sign_in_when_asked=True, prove=lambda record: record)


def signed_in(seller: Seller) -> list[dict[str, Any]]:
    """The sign-ins that were ever shown."""
    headers = [seen.headers[HEADER] for seen in seller.seen if HEADER in seen.headers]
    return [json.loads(base64.b64decode(header)) for header in headers]


def test_who_has_paid_signs_in_and_pays_no_more(seat: Seat, asked: X402Auth) -> None:
    seller = Seller(members_only(offered()))
    first = seat.call(asked, seller)
    assert (first.status_code, len(seller.signatures), signed_in(seller)) == (200, 1, []), "nobody is known yet"
    second = seat.call(asked, seller, content=b'{"model":"other"}')
    assert (second.status_code, len(seller.signatures), len(seller.seen)) == (200, 1, 4)
    assert [HEADER in seen.headers for seen in seller.seen] == [False, False, False, True]
    (shown,) = signed_in(seller)
    assert (shown["domain"], shown["uri"], shown["nonce"], shown["type"]) == (HOST, URL, NONCE, "eip191")
    assert len(asked.journal.history()) == 1


def test_the_words_are_those_of_eip_4361_and_another_library_reads_the_signature(asked: X402Auth) -> None:
    seat, seller = (
        Seat(*_httpx()),
        Seller(members_only(offered(statement="Come in", expirationTime=instant(NOW + 300)))),
    )
    seat.call(asked, seller)
    seat.call(asked, seller, content=b"{}")
    header = next(seen.headers[HEADER] for seen in seller.seen if HEADER in seen.headers)
    read = read_header(header)
    address = asked.terms.wallet.evm_address
    assert read.message == (
        f"{HOST} wants you to sign in with your Ethereum account:\n{address}\n\nCome in\n\nURI: {URL}\nVersion: 1\n"
        f"Chain ID: 84532\nNonce: {NONCE}\nIssued At: {instant(NOW)}\nExpiration Time: {instant(NOW + 300)}\n"
        f"Resources:\n- {URL}"
    )
    assert EthAccount.recover_message(encode_defunct(text=read.message), signature=read.signature) == address


def test_without_being_told_to_nobody_signs_in(seat: Seat, auth: X402Auth) -> None:
    seller = Seller(members_only(offered()))
    for content in (b"{}", b'{"other":1}'):
        assert seat.call(auth, seller, content=content).status_code == 200
    assert (len(seller.signatures), signed_in(seller)) == (2, [])


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_sign_in_that_does_not_help_is_followed_by_one_payment(seat: Seat, asked: X402Auth, status: int) -> None:
    refusal = asks(extensions=offered()) if status == 402 else Answer(status, {}, b"{}")
    seller = Seller(members_only(offered(), refusal))
    for content in (b"{}", b'{"other":1}'):
        assert seat.call(asked, seller, content=content).status_code == 200
    assert (len(seller.signatures), len(signed_in(seller))) == (2, 1)
    assert len(seller.seen) == 2 + 3


def test_an_error_after_the_sign_in_is_the_answer_and_costs_nothing(seat: Seat, asked: X402Auth) -> None:
    seller = Seller(members_only(offered(), Answer(500, {}, b"{}")))
    seat.call(asked, seller)
    assert seat.call(asked, seller, content=b'{"other":1}').status_code == 500
    assert len(seller.signatures) == 1


@pytest.mark.parametrize(
    "info",
    [
        {"domain": "elsewhere.test"}, {"domain": f"{HOST}.evil.test"}, {"domain": f"{HOST}:444"},
        {"uri": "https://elsewhere.test/api"}, {"uri": "http://seller.test/api/v1"}, {"uri": "urn:x"},
        {"uri": f"https://{HOST}@elsewhere.test/"}, {"nonce": None}, {"issuedAt": None}, {"issuedAt": "yesterday"},
        {"issuedAt": instant(NOW - 7200)}, {"expirationTime": instant(NOW + 86_400)}, {"expirationTime": instant(NOW)},
        {"statement": "two\nlines"}, {"version": "2"}, {"resources": "one"}, {"domain": 7},
    ],
)  # fmt: skip
def test_B05_no_other_origins_words_and_nothing_lasting_is_signed(asked: X402Auth, info: dict[str, Any]) -> None:
    seat, seller = Seat(*_httpx()), Seller(members_only(offered(**info)))
    for content in (b"{}", b'{"other":1}'):
        assert seat.call(asked, seller, content=content).status_code == 200
    assert (signed_in(seller), len(seller.signatures)) == ([], 2), "it is paid as ever"


@pytest.mark.parametrize(
    "chains",
    [[], "x", [7], [{}], [{"chainId": networks.BASE_SEPOLIA}], [{"chainId": "eip155:x", "type": "ed25519"}],
     [SVM_CHAIN], [{**EVM_CHAIN, "signatureScheme": "eip1271"}], [{"chainId": "cosmos:hub", "type": "eip191"}]],
)  # fmt: skip
def test_only_an_account_that_has_paid_this_host_says_who_it_is(asked: X402Auth, chains: Any) -> None:
    seat, seller = Seat(*_httpx()), Seller(members_only(offered(chains)))
    for content in (b"{}", b'{"other":1}'):
        assert seat.call(asked, seller, content=content).status_code == 200
    assert (signed_in(seller), len(seller.signatures)) == ([], 2)


def test_B05_what_was_paid_elsewhere_opens_nothing_here(asked: X402Auth) -> None:
    seat, seller = Seat(*_httpx()), Seller(members_only(offered()))
    seat.call(asked, seller)
    other = f"https://other.test{URL.removeprefix('https://seller.test')}"
    stranger = Seller(members_only(offered(domain="other.test", uri=other)))
    assert seat.call(asked, stranger, other).status_code == 200
    assert (signed_in(stranger), len(stranger.signatures)) == ([], 1)


def test_B05_the_sign_in_does_not_survive_a_redirect(seat: Seat, asked: X402Auth) -> None:
    away = Answer(307, {"Location": "https://elsewhere.test/"}, b"")
    seller = Seller(members_only(offered(), away))
    seat.call(asked, seller)
    with pytest.raises(DeclinedError, match="wants to be paid"):
        seat.call(asked, seller, content=b'{"other":1}', follow_redirects=True)
    hops = [seen for seen in seller.seen if "elsewhere.test" in seen.url]
    assert hops
    assert not any(HEADER in seen.headers for seen in hops)


@pytest.mark.parametrize(("url", "chain", "signs"), [
    ("http://seller.test/x", networks.BASE, False), ("http://seller.test/x", networks.BASE_SEPOLIA, True),
    ("https://seller.test/x", networks.BASE, True), ("http://127.0.0.1:9/x", networks.BASE, True),
])  # fmt: skip
def test_B04_real_money_signs_in_over_tls_only(wallet: Wallet, url: str, chain: str, *, signs: bool) -> None:
    host = url.split("/")[2]
    offer = challenge(extensions=offered([{"chainId": chain, "type": "eip191"}], domain=host, uri=url))
    paid = {(networks.BASE, str(wallet.evm_address))}
    assert (sign_in(offer, url, wallet, paid, now=NOW) is not None) is signs


def test_a_solana_account_signs_in_with_its_own_key(wallet: Wallet) -> None:
    offer = challenge(extensions=offered([EVM_CHAIN, SVM_CHAIN]))
    paid = {(networks.SOLANA_DEVNET, wallet.address(networks.SOLANA_DEVNET))}
    header = sign_in(offer, URL, wallet, paid, now=NOW)
    assert header is not None
    read = read_header(header)
    assert (read.dialect, read.sign_in.chain_id) == (Dialect.X402, networks.SOLANA_DEVNET)
    assert read.message.splitlines()[2:4] == ["", f"URI: {URL}"]
    address = wallet.address(networks.SOLANA_DEVNET)
    assert signer("solana", address, read.message, read.signature) == address
    assert sign_in(offer, URL, Wallet(evm=EVM_KEY), paid, now=NOW) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["info", "supportedChains", "domain", "uri", "nonce", "statement", "resources", ""]))
def test_whatever_a_seller_offers_it_gets_its_own_words_signed_or_none(value: Any, where: str) -> None:
    wallet = Wallet(evm=EVM_KEY)
    extension = offered()[EXTENSION]
    if where in ("info", "supportedChains"):
        extension[where] = value
    elif where:
        extension["info"][where] = value
    offer = replace_extensions({EXTENSION: extension if where else value})
    header = sign_in(offer, URL, wallet, {(networks.BASE_SEPOLIA, str(wallet.evm_address))}, now=NOW)
    if header is not None:
        read = read_header(header)
        assert (read.sign_in.domain.lower(), read.sign_in.uri) == (HOST, URL)


def replace_extensions(extensions: dict[str, Any]) -> Any:
    return challenge().model_copy(update={"extensions": extensions})


def _httpx() -> tuple[Any, bool]:
    import httpx

    return httpx, True

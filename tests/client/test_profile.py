"""Profiles by name: address, credential, model names, dialect and envelope (aimo rows 37, 62-65)."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from x402 import networks
from x402.client.auth import X402Auth
from x402.client.chat import Chat
from x402.client.envelope import Envelope
from x402.client.identity import Identity, identity_of
from x402.client.profile import BETA_SIWX, DEVNET_KEY, DEVNET_X402, LEGACY, OURS, PROFILES, ModelForm, form_of, profile
from x402.client.wallet import Wallet
from x402.errors import ApiError, DeclinedError, MalformedError, MisconfiguredError
from x402.schemes import eip712
from x402.schemes.sign_in import evm_digest, evm_signature
from x402.wire.sign_in import Dialect, read_header, seconds

from .seller import Answer, Seat, Seller, challenge, delivers, offer, paying, read_payment

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
DIRECT = f"{Keypair.from_seed(bytes([5] * 32)).pubkey()}:deepseek-chat-v3"
PLAIN = {"id": "c", "choices": [{"message": {"content": "Hi"}}]}
DONE = delivers(json.dumps(PLAIN).encode())


def both(request: Any) -> Answer:
    """A 402 in both versions at once, as our gateway writes it, until it is paid."""
    if paying(request):
        return DONE
    asked = challenge(offer())
    return Answer(402, {"PAYMENT-REQUIRED": asked.as_header()}, json.dumps(asked.as_v1()).encode())


def caller(seller: Any, name: str, **options: Any) -> Chat:
    return Chat(profile=name, http_client=httpx.Client(transport=httpx.MockTransport(seller)), **options)


def test_row_062_devnet_key_sends_the_key_and_never_pays(wallet: Wallet) -> None:
    seller = Seller(Answer(200, body=json.dumps(PLAIN).encode()), both)
    chat = caller(seller, "devnet-key", api_key="aimo-sk-v2-abc")
    assert chat.create(model="openai/gpt-4o", messages=MESSAGES).text == "Hi"
    assert seller.seen[0].url == "https://devnet.aimo.network/api/v1/chat/completions"
    assert seller.seen[0].headers["authorization"] == "Bearer aimo-sk-v2-abc"
    with pytest.raises(ApiError) as raised:
        chat.create(model=DIRECT, messages=MESSAGES)
    assert raised.value.payment_required is not None
    assert seller.signatures == set()


def test_row_062_a_profile_that_needs_a_key_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("devnet-key", "legacy"):
        with pytest.raises(MisconfiguredError, match="X402_API_KEY"):
            Chat(profile=name)
    monkeypatch.setenv("AIMO_API_KEY", "k")
    monkeypatch.setenv("X402_EVM_PRIVATE_KEY", "0x" + "11" * 32)
    assert Chat(profile="legacy").auth is None


def test_row_063_devnet_x402_pays_in_version_1_without_a_credential(wallet: Wallet) -> None:
    seller = Seller(both)
    chat = caller(seller, "devnet-x402", wallet=wallet, journal=":memory:")
    assert chat.create(model=DIRECT, messages=MESSAGES).text == "Hi"
    assert seller.seen[0].url == "https://devnet.aimo.network/api/alpha/chat/completions"
    assert not {"authorization", "sign-in-with-x"} & seller.seen[0].headers.keys()
    payment = read_payment(seller.seen[1].headers["x-payment"])
    assert (payment["x402Version"], payment["network"]) == (1, "base-sepolia")
    with pytest.raises(MisconfiguredError, match="takes no API key"):
        Chat(profile="devnet-x402", api_key="k")


def test_row_063_control_without_a_preference_the_same_402_is_paid_in_version_2(wallet: Wallet) -> None:
    seller = Seller(both)
    caller(seller, "ours", base_url="https://a.test/v1", wallet=wallet, journal=":memory:").create(
        model="m", messages=MESSAGES
    )
    assert read_payment(seller.seen[1].headers["payment-signature"])["x402Version"] == 2


@pytest.mark.parametrize("chain", ["", networks.SOLANA_DEVNET, "84532"])
def test_row_064_beta_signs_in_and_pays_when_its_balance_is_empty(chain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMO_PRIVATE_KEY", "0x" + "11" * 32)
    if chain == networks.SOLANA_DEVNET:
        monkeypatch.setenv("AIMO_PRIVATE_KEY", str(Keypair.from_seed(bytes(range(32)))))
        monkeypatch.setenv("X402_EVM_PRIVATE_KEY", "0x" + "11" * 32)
    monkeypatch.setenv("AIMO_CHAIN_ID", chain)
    wallet = Wallet.from_env()
    seller = Seller(Answer(200, body=json.dumps(PLAIN).encode()), both)
    chat = caller(seller, "beta-siwx", wallet=wallet, journal=":memory:")
    assert chat.create(model="gpt-4o", messages=MESSAGES).text == "Hi"
    asked = seller.seen[0]
    assert asked.url == "https://beta.aimo.network/api/v1/chat/completions"
    shown = read_header(asked.headers["sign-in-with-x"])
    assert (shown.sign_in.domain, shown.sign_in.uri) == ("beta.aimo.network", asked.url)
    assert shown.sign_in.chain_id == (chain if ":" in chain else networks.BASE_SEPOLIA)
    assert 0 < seconds(shown.sign_in.expiration_time or "") - seconds(shown.sign_in.issued_at or "") <= 300
    if shown.sign_in.family == networks.EIP155:
        signer = eip712.recover(evm_digest(shown.message), evm_signature(shown.signature))
        assert signer == shown.sign_in.address == wallet.evm_address
    else:
        key = Pubkey.from_string(shown.sign_in.address)
        assert Signature.from_string(shown.signature).verify(key, shown.message.encode())
    assert chat.create(model="gpt-4o", messages=[*MESSAGES, *MESSAGES]).text == "Hi"
    again, paid = seller.seen[1:]
    assert again.headers["sign-in-with-x"] != asked.headers["sign-in-with-x"], "each request has a nonce of its own"
    assert read_payment(paid.headers["payment-signature"])["x402Version"] == 2
    assert "sign-in-with-x" not in paid.headers


def test_row_065_legacy_sends_the_key_and_unwraps(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = {"success": True, "data": PLAIN, "meta": {"request_id": "req_7", "provider": "openai"}}
    seller = Seller(Answer(200, body=json.dumps(wrapped).encode()))
    monkeypatch.setenv("AIMO_API_KEY", "your_api_key_here")
    answer = caller(seller, "legacy").create(model="gpt-4", messages=MESSAGES)
    assert (answer.text, answer.request_id) == ("Hi", "req_7")
    assert seller.seen[0].url == "https://api.aimo.network/v1/chat/completions"
    monkeypatch.setenv("AIMO_BASE_URL", "https://elsewhere.test/v1/")
    caller(seller, "legacy").create(model="gpt-4", messages=MESSAGES)
    assert seller.seen[1].url == "https://elsewhere.test/v1/chat/completions"


@pytest.mark.parametrize(
    ("body", "name", "unwrapped"),
    [
        ({"success": True, "data": PLAIN}, "legacy", True),
        ({"success": True, "data": PLAIN}, "ours", True),
        ({"success": True, "data": PLAIN}, "beta-siwx", False),
        ({"success": True, **PLAIN}, "legacy", True),
        ({"data": PLAIN}, "legacy", False),
        (PLAIN, "legacy", True),
    ],
)
def test_row_037_an_answer_is_unwrapped_only_when_it_has_success_and_data(
    wallet: Wallet, body: dict[str, Any], name: str, unwrapped: bool
) -> None:
    seller = Seller(Answer(200, body=json.dumps(body).encode()))
    options: dict[str, Any] = {"api_key": "k"} if name == "legacy" else {"wallet": wallet, "journal": ":memory:"}
    answer = caller(seller, name, base_url="https://a.test/v1", **options).create(model="gpt-4", messages=MESSAGES)
    assert (answer.text == "Hi") is unwrapped


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (DIRECT, ModelForm.DIRECT),
        (DIRECT.replace("deepseek", "vendor/deepseek"), ModelForm.DIRECT),
        ("openai/gpt-4o", ModelForm.VENDOR),
        ("deepseek/deepseek-r1:free", ModelForm.VENDOR),
        ("gpt-4o", ModelForm.BARE),
        ("llama3:8b", ModelForm.BARE),
        ("", ModelForm.BARE),
    ],
)
def test_row_020_a_model_is_named_in_one_of_three_forms(model: str, form: ModelForm) -> None:
    assert form_of(model) is form
    OURS.check_model(model)


def test_row_020_a_name_in_a_form_that_a_profile_does_not_know_is_refused_before_anything_is_sent() -> None:
    for known, wrong, right in (
        (DEVNET_KEY, "gpt-4o", DIRECT),
        (DEVNET_X402, "gpt-4o", DIRECT),
        (BETA_SIWX, DIRECT, "gpt-4o"),
        (LEGACY, DIRECT, "gpt-4"),
    ):
        known.check_model(right)
        with pytest.raises(MalformedError, match=known.name):
            known.check_model(wrong)
    seller = Seller(Answer(200))
    with pytest.raises(MalformedError):
        caller(seller, "legacy", api_key="k").create(model=DIRECT, messages=MESSAGES)
    assert seller.seen == []


@given(st.text(max_size=80))
def test_every_name_has_a_form(model: str) -> None:
    assert form_of(model) in ModelForm


def test_an_address_is_joined_as_text() -> None:
    for base in ("https://a.test/api/v1", "https://a.test/api/v1/"):
        assert OURS.url("chat/completions", base) == OURS.url("/chat/completions", base)
        assert OURS.url("models", base) == "https://a.test/api/v1/models"


def test_profiles_by_name() -> None:
    assert profile("legacy") is LEGACY
    assert profile(LEGACY) is LEGACY
    assert {known.envelope for known in PROFILES.values()} == set(Envelope)
    with pytest.raises(MisconfiguredError, match="devnet-key, devnet-x402, beta-siwx, legacy"):
        profile("alpha")


def test_the_environment_names_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X402_PROFILE", "legacy")
    monkeypatch.setenv("AIMO_API_KEY", "k")
    assert Chat().profile is LEGACY


def test_a_price_is_asked_as_nobody(wallet: Wallet) -> None:
    """Who is known might be charged for the answer instead of being told its price."""
    seller = Seller(both)
    quoted = caller(seller, "ours", base_url="https://a.test/v1", api_key="k").quote(model="m", messages=MESSAGES)
    assert len(quoted.offers) == 1
    chat = caller(seller, "beta-siwx", wallet=wallet, journal=":memory:")
    assert len(chat.quote(model="m", messages=MESSAGES).offers) == 1
    assert all(not {"authorization", "sign-in-with-x"} & seen.headers.keys() for seen in seller.seen)


def test_a_sign_in_is_not_carried_along_by_a_redirect(seat: Seat, wallet: Wallet) -> None:
    seller = Seller(Answer(307, {"Location": "https://other.test/v1/chat/completions"}), Answer(200))
    auth = X402Auth(wallet, journal=":memory:", sign_in=True)
    seat.call(auth, seller, "https://a.test/v1/chat/completions", follow_redirects=True)
    assert ["sign-in-with-x" in seen.headers for seen in seller.seen] == [True, False]
    seller = Seller(Answer(307, {"Location": "https://other.test/v1/x"}), Answer(200))
    seat.call(auth.sign_in, seller, "https://a.test/v1/x", method="GET", content=None, follow_redirects=True)
    assert ["sign-in-with-x" in seen.headers for seen in seller.seen] == [True, False]


def test_the_placeholder_of_the_openai_package_is_no_credential(seat: Seat, wallet: Wallet) -> None:
    auth = X402Auth(wallet, journal=":memory:")
    for sent, arrives in (("Bearer x402", False), ("Bearer x4020", True)):
        seller = Seller(Answer(200))
        seat.call(auth, seller, headers={"Authorization": sent})
        assert ("authorization" in seller.seen[0].headers) is arrives


def test_a_sign_in_of_the_callers_own_is_left_alone(wallet: Wallet, seat: Seat) -> None:
    seller = Seller(Answer(200))
    seat.call(X402Auth(wallet, journal=":memory:", sign_in=True), seller, headers={"Sign-In-With-X": "mine"})
    assert seller.seen[0].headers["sign-in-with-x"] == "mine"


def test_a_chain_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wallet = Wallet(evm="0x" + "11" * 32)
    assert identity_of(wallet, "base").account == f"{networks.BASE}:{wallet.evm_address}"
    assert identity_of(wallet, mainnet=True).chain_id == networks.BASE
    assert identity_of(Wallet(svm=str(Keypair()))).chain_id == networks.SOLANA_DEVNET
    for wrong in ("solana-devnet", "nonsense", "-1", "cosmos:hub"):
        with pytest.raises(MisconfiguredError) as raised:
            identity_of(wallet, wrong)
        assert raised.value.code == "invalid_chain"


def test_B04_a_sign_in_that_is_worth_real_money_is_not_sent_over_plain_http(seat: Seat, wallet: Wallet) -> None:
    for chain, url, sent in (
        (networks.BASE, "http://a.test/v1", False),
        ("eip155:424242", "http://a.test/v1", False),
        (networks.BASE, "https://a.test/v1", True),
        (networks.BASE, "http://127.0.0.1:4021/v1", True),
        (networks.BASE_SEPOLIA, "http://a.test/v1", True),
    ):
        auth = X402Auth(wallet, journal=":memory:", sign_in=Identity(wallet, chain))
        for one in (auth, auth.sign_in):
            seller = Seller(Answer(200))
            if sent:
                seat.call(one, seller, url)
                assert "sign-in-with-x" in seller.seen[0].headers
            else:
                with pytest.raises(DeclinedError, match="insecure_transport"):
                    seat.call(one, seller, url)
                assert seller.seen == []


def test_a_stated_domain_and_the_other_dialect(wallet: Wallet) -> None:
    who = Identity(wallet, networks.BASE_SEPOLIA, domain="public.test", dialect=Dialect.X402, statement="Hello")
    shown = read_header(who.header("http://u:p@127.0.0.1:8080/a?b=c#d", now=60, entropy=bytes(16)))
    assert (shown.sign_in.domain, shown.sign_in.uri) == ("public.test", "http://127.0.0.1:8080/a")
    assert shown.dialect is Dialect.X402
    assert json.loads(base64.b64decode(shown.as_header()))["type"] == "eip191"
    assert eip712.recover(evm_digest(shown.message), evm_signature(shown.signature)) == wallet.evm_address

"""Who signs in: both dialects, both families, and everything that makes a sign-in worthless. Fault G07, aimo row 16."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.gateway.accounts.wallets import EVM, HOST, SVM, Signer
from tests.gateway.test_pay_ahead import CHAT, Buyer, chat
from x402.billing import EntryKind, Posting
from x402.wire.headers import SIGN_IN_WITH_X
from x402.wire.sign_in import Dialect, instant

PUBLIC = f"https://{HOST}"


@pytest.fixture
async def client(metered: Any) -> Any:
    """The shop under its public name, and plenty on the account of both its payer's wallets."""
    client = metered.open(public_url=PUBLIC, flow="authorization")
    for network in (EVM, SVM):
        account = metered.account(network)
        posting = Posting(account=account, kind=EntryKind.DEPOSIT, reference=network, units=10**6)
        await metered.book.post(posting)
    return client


def decoded(header: dict[str, str]) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(base64.b64decode(header[SIGN_IN_WITH_X]))
    return members


def encoded(members: dict[str, Any]) -> dict[str, str]:
    return {SIGN_IN_WITH_X: base64.b64encode(json.dumps(members).encode()).decode()}


async def offered(metered: Any) -> dict[str, Any]:
    challenge = await metered.shop.challenge("/text", "POST")
    extension: dict[str, Any] = challenge.extensions["sign-in-with-x"]
    return extension


@pytest.mark.parametrize("name", ["SIGN-IN-WITH-X", "Sign-In-With-X", "sign-in-with-x"])
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_row_016_aimos_header_opens_the_account_of_its_wallet(
    client: Any, metered: Any, network: str, name: str
) -> None:
    (value,) = Signer().header(metered.shop.now, network).values()
    # Without a nonce it may be sent again until it expires (documented).
    for calls in (1, 2):
        answer = await client.post("/text", headers={name: value})
        assert answer.status_code == 200, answer.text
        assert (await metered.balance(network)).units == 10**6 - calls * 7000
    other = SVM if network == EVM else EVM
    assert (await metered.balance(other)).units == 10**6


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_row_016_the_sign_in_that_a_402_offers_is_answered_once(client: Any, metered: Any, network: str) -> None:
    extension = await offered(metered)
    assert extension["info"]["domain"] == HOST
    assert extension["info"]["uri"] == f"{PUBLIC}/text"
    assert {chain["chainId"]: chain["type"] for chain in extension["supportedChains"]} == {
        EVM: "eip191",
        SVM: "ed25519",
    }
    header = Signer().answer(extension, network)
    assert (await client.post("/text", headers=header)).status_code == 200
    again = await client.post("/text", headers=header)
    assert (again.status_code, again.json()["error"]["code"]) == (401, "invalid_siwx_nonce")
    fresh = again.json()["error"]["details"]["extensions"]["sign-in-with-x"]
    assert (await client.post("/text", headers=Signer().answer(fresh, network))).status_code == 200


async def test_row_016_hex_is_read_with_and_without_0x_and_a_lower_case_address_is_the_same_account(
    client: Any, metered: Any
) -> None:
    members = decoded(Signer().header(metered.shop.now))
    bare = encoded(members | {"signature": members["signature"].removeprefix("0x")})
    assert (await client.post("/text", headers=bare)).status_code == 200
    lower = Signer().header(metered.shop.now, address=Signer().address(EVM).lower())
    assert (await client.post("/text", headers=lower)).status_code == 200
    assert (await metered.balance()).units == 10**6 - 2 * 7000


async def test_one_wallet_on_two_chains_is_two_accounts(client: Any, metered: Any) -> None:
    answer = await client.post("/text", headers=Signer().header(metered.shop.now, "eip155:8453"))
    assert answer.status_code == 402
    assert answer.json()["details"]["account"] == f"eip155:8453:{Signer().address(EVM)}"
    assert (await metered.balance()).units == 10**6


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another host": ({"domain": "evil.example"}, "invalid_siwx_domain_mismatch"),
    "another port": ({"domain": f"{HOST}:8080"}, "invalid_siwx_domain_mismatch"),
    "a host that ends alike": ({"domain": f"x{HOST}"}, "invalid_siwx_domain_mismatch"),
    "another origin": ({"uri": "https://evil.example/api/v1"}, "invalid_siwx_uri_mismatch"),
    "no address": ({"uri": "urn:x"}, "invalid_siwx_uri_mismatch"),
    "a broken address": ({"uri": "https://["}, "invalid_siwx_uri_mismatch"),
    "no expiry": ({"expiration_time": None}, "invalid_siwx_expiration_time"),
    "not yet": ({"not_before": instant(1_800_000_500)}, "invalid_siwx_not_yet_valid"),
    "from the future": ({"issued_at": instant(1_800_000_500)}, "invalid_siwx_issued_at_in_future"),
    "another chain family": ({"chain_id": "cosmos:hub-4"}, "invalid_siwx_unsupported_chain"),
    "a nonce without end": ({"nonce": "n" * 129}, "invalid_siwx_nonce"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_row_016_a_sign_in_for_elsewhere_or_another_time_is_401_with_a_fresh_one(
    client: Any, metered: Any, wrong: str
) -> None:
    changes, code = WRONG[wrong]
    header = Signer().header(metered.shop.now, **changes)
    answer = await client.post("/text", headers=header)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
    assert answer.json()["error"]["moneyMoved"] == "no"
    fresh = answer.json()["error"]["details"]["extensions"]["sign-in-with-x"]
    assert (await client.post("/text", headers=Signer().answer(fresh))).status_code == 200
    assert (await metered.balance()).units == 10**6 - 7000


@pytest.mark.parametrize(
    ("life", "status", "code"),
    [
        (0, 401, "invalid_siwx_expired"), (-1, 401, "invalid_siwx_expired"), (1, 200, ""), (3600, 200, ""),
        (3660, 200, ""), (3661, 401, "invalid_siwx_expiration_time"), (10**8, 401, "invalid_siwx_expiration_time"),
    ],
)  # fmt: skip
async def test_G07_a_sign_in_lives_an_hour_at_most(
    client: Any, metered: Any, life: int, status: int, code: str
) -> None:
    answer = await client.post("/text", headers=Signer().header(metered.shop.now, life=life))
    assert answer.status_code == status
    assert not code or answer.json()["error"]["code"] == code


async def test_G07_a_sign_in_that_was_overheard_ends_with_its_time(client: Any, metered: Any) -> None:
    header = Signer().header(metered.shop.now, life=60)
    metered.shop.now += 59
    assert (await client.post("/text", headers=header)).status_code == 200
    metered.shop.now += 1
    assert (await client.post("/text", headers=header)).status_code == 401


async def test_G07_an_offered_sign_in_is_answered_within_five_minutes(client: Any, metered: Any) -> None:
    header = Signer().answer(await offered(metered))
    late = Signer().answer(await offered(metered))
    metered.shop.now += 300
    assert (await client.post("/text", headers=header)).status_code == 200
    metered.shop.now += 1
    answer = await client.post("/text", headers=late)
    assert answer.json()["error"]["code"] == "invalid_siwx_issued_at_too_old"
    # A younger time beside the old nonce does not help.
    touched = Signer().answer(await offered(metered), issued_at=instant(metered.shop.now + 301))
    metered.shop.now += 301
    answer = await client.post("/text", headers=touched)
    assert answer.json()["error"]["code"] == "invalid_siwx_nonce"


@pytest.mark.parametrize("nonce", ["0" * 32, "ff" * 16, "not hex", "ab", None])
async def test_G07_only_nonces_of_ours_are_answered_in_the_dialect_of_x402(
    client: Any, metered: Any, nonce: str | None
) -> None:
    answer = await client.post("/text", headers=Signer().answer(await offered(metered), nonce=nonce))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_siwx_nonce")


async def test_G07_a_nonce_that_a_client_of_aimo_chose_is_used_once(client: Any, metered: Any) -> None:
    header = Signer().header(metered.shop.now, nonce="my own word")
    assert (await client.post("/text", headers=header)).status_code == 200
    assert (await client.post("/text", headers=header)).json()["error"]["code"] == "invalid_siwx_nonce"


@pytest.mark.parametrize("network", [EVM, SVM])
@pytest.mark.parametrize("dialect", list(Dialect))
async def test_G07_nobody_signs_in_as_somebody_else(client: Any, metered: Any, network: str, dialect: Dialect) -> None:
    other = Signer()
    other.key, other.keypair = type(other.key)(bytes([9] * 32)), type(other.keypair).from_seed(bytes([9] * 32))
    mine = Signer().address(network)
    if dialect is Dialect.AIMO:
        header = other.header(metered.shop.now, network, address=mine)
    else:
        header = other.answer(await offered(metered), network, address=mine)
    answer = await client.post("/text", headers=header)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_siwx_signature")
    # Nor with words that were put in later.
    members = decoded(Signer().header(metered.shop.now, network))
    members["message"] = members["message"].replace("2027-01", "2028-01", 1)
    if "2028" in members["message"]:
        assert (await client.post("/text", headers=encoded(members))).status_code == 401
    assert (await metered.balance(network)).units == 10**6


@pytest.mark.parametrize(
    "value",
    ["", "x", "e30=", base64.b64encode(b"[]").decode(), base64.b64encode(b'{"message":1,"signature":"x"}').decode(),
     base64.b64encode(b'{"message":"hello","signature":"0x00"}').decode(), "A" * 100_000],
)  # fmt: skip
async def test_row_016_what_is_no_sign_in_is_401_and_never_taken_for_none(
    client: Any, metered: Any, value: str
) -> None:
    answer = await client.post("/text", headers={SIGN_IN_WITH_X: value})
    assert answer.status_code == 401
    assert "payment-required" not in answer.headers
    twice = await client.post("/text", headers=[(SIGN_IN_WITH_X, value), (SIGN_IN_WITH_X, value)])
    assert twice.status_code == 401


@pytest.mark.parametrize("signature", ["0x", "0x" + "00" * 65, "00" * 64, "zz", "1" * 88, "0x" + "ff" * 65])
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_row_016_a_signature_that_is_none_is_401(client: Any, metered: Any, network: str, signature: str) -> None:
    members = decoded(Signer().header(metered.shop.now, network))
    answer = await client.post("/text", headers=encoded(members | {"signature": signature}))
    assert answer.status_code == 401
    assert answer.json()["error"]["code"].startswith("invalid_siwx")


async def test_a_payment_goes_before_a_sign_in(client: Any, metered: Any) -> None:
    """Credentials count in this order: payment, sign-in, bearer, none (aimo §1.7)."""
    header = (await metered.pay()) | encoded({"message": "nonsense", "signature": "x"})
    assert (await client.post("/text", headers=header)).status_code == 200
    assert len(metered.shop.bank.moved) == 1


async def test_G02_a_flood_of_offered_nonces_costs_no_row(client: Any, metered: Any) -> None:
    nonces = {(await offered(metered))["info"]["nonce"] for _ in range(50)}
    assert len(nonces) == 50
    assert all(len(nonce) == 32 for nonce in nonces)

    def count(connection: Any) -> int:
        from sqlalchemy import func, select

        from x402.ports.schema import sign_in_nonces

        return int(connection.execute(select(func.count()).select_from(sign_in_nonces)).scalar_one())

    assert await metered.shop.ledger.run(count) == 0
    await client.post("/text", headers=Signer().answer(await offered(metered)))
    assert await metered.shop.ledger.run(count) == 1


async def test_row_016_a_client_that_was_asked_signs_in_and_spends_what_it_did_not_use(
    make: Any, shop: Any, town: Any
) -> None:
    """Our own 402 offers the sign-in as any seller's does: what a bound left over pays the next answer."""
    buyer = Buyer(shop, sign_in_when_asked=True)
    async with buyer.at(make(public_url="http://gateway.test")) as client:
        paid = await client.post(CHAT, json=chat(max_tokens=900))
        assert (paid.status_code, buyer.requests(), len(shop.bank.moved)) == (200, 2, 1)
        again = await client.post(CHAT, json=chat(max_tokens=5))
        assert (again.status_code, buyer.requests(), len(shop.bank.moved)) == (200, 2, 1), "nothing was paid"
        assert "X-402-Bill" in again.headers
        dear = await client.post(CHAT, json=chat(max_tokens=4000))
        assert (dear.status_code, buyer.requests(), len(shop.bank.moved)) == (200, 3, 2), "it was not enough"

"""Keys as credentials: what each may do is enforced, counted and written down. AiMo rows 13, 14, 17, 18, 19."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.keypair import Keypair
from sqlalchemy import text

from tests.gateway.accounts.keychain import CHAT, GATEWAY, NOW, SVM, Hour, asking, issued_by, ring_on
from x402.errors import MalformedError, MisconfiguredError
from x402.gateway.accounts.keys import KeyRing, KeyWish, scope_of
from x402.gateway.accounts.signed_key import KEY_BYTES, OURS, THEIRS, Scope, from_base58, read_signed_key, to_base58
from x402.gateway.problem import ApiProblem
from x402.gateway.sealed import Seal
from x402.ports.ledger import SqlLedger
from x402.wire.request_signature import read_request_signature, sign_request

WALLET = Keypair.from_seed(bytes([5] * 32))


@pytest.fixture
def clock() -> Hour:
    return Hour()


@pytest.fixture
async def ledger(clock: Hour) -> AsyncIterator[SqlLedger]:
    async with SqlLedger("sqlite://", clock=clock) as ledger:
        yield ledger


@pytest.fixture
def ring(ledger: SqlLedger, clock: Hour) -> KeyRing:
    return ring_on(ledger, clock)


async def refused(ring: KeyRing, authorization: str, status: int, code: str, **request: str) -> None:
    with pytest.raises(ApiProblem) as caught:
        await ring.holder(asking(authorization, **request))  # type: ignore[arg-type]
    assert (caught.value.status_code, caught.value.code) == (status, code)


async def test_row_013_a_bearer_key_says_who_pays(ring: KeyRing, ledger: SqlLedger) -> None:
    key, record = await ring.issue(KeyWish(account="eip155:84532:0xabc", spend_limit=500), actor="test")
    holder = await ring.holder(asking(f"Bearer {key}"))
    assert holder is not None
    assert (holder.account, holder.key_id, holder.spend_limit) == ("eip155:84532:0xabc", record.key_id, 500)
    assert await ring.holder(asking(None)) is None
    await refused(ring, f"Bearer {key}x", 401, "invalid_api_key")
    await refused(ring, f"Basic {key}", 401, "invalid_api_key")
    rows = await ledger.run(lambda connection: str(connection.execute(text("SELECT * FROM api_keys")).all()))
    assert key not in rows
    assert key[11:] not in rows, "only the digest of a key is kept"


async def test_row_014_every_spelling_of_a_key_is_known(ring: KeyRing) -> None:
    key, _ = await ring.issue(KeyWish(), actor="test")
    assert key.startswith("aimo-sk-v2-")
    assert len(from_base58(key.removeprefix("aimo-sk-v2-"))) == 32
    for tag in ("dev", "prod"):
        holder = await ring.holder(asking(f"Bearer {issued_by(WALLET, tag=tag)}"))
        assert holder is not None
        assert holder.account == f"{SVM}:{WALLET.pubkey()}"
    opaque, _ = await ring.issue(KeyWish(text="an-opaque-key-of-the-old-site"), actor="test")
    assert await ring.holder(asking(f"Bearer {opaque}")) is not None
    assert await ring.holder(asking("Bearer what-an-openai-client-sends")) is None, "no key of ours, so no credential"


async def test_row_014_a_signed_key_is_good_here_and_under_its_own_tag_alone(ring: KeyRing) -> None:
    key = issued_by(WALLET)
    assert len(key.packed()) == KEY_BYTES
    assert read_signed_key("dev", str(key).split("-", 3)[3]) == key
    elsewhere = issued_by(WALLET, gateway="https://other.example")
    tampered = replace(key, terms=replace(key.terms, usage_limit=7))
    for wrong in (elsewhere, replace(key, tag="prod"), tampered, replace(key, version=THEIRS)):
        await refused(ring, f"Bearer {wrong}", 401, "invalid_api_key")


async def test_row_014_aimos_own_layout_is_read_and_accepted_only_where_allowed(
    ring: KeyRing, ledger: SqlLedger, clock: Hour
) -> None:
    key = issued_by(WALLET, version=THEIRS)
    assert key.message(GATEWAY) == key.packed()[98:], "layout 1 signs its last 32 bytes and nothing else"
    assert ring.signed_key(str(key)) == key
    await refused(ring, f"Bearer {key}", 401, "invalid_api_key")
    assert await ring_on(ledger, clock, theirs=True).holder(asking(f"Bearer {key}")) is not None
    bits = key.packed()[:129] + b"\x02"
    with pytest.raises(MalformedError, match="scopes that are not known"):
        read_signed_key("dev", to_base58(bits))
    assert read_signed_key("dev", to_base58(bits[:50])) is None
    assert read_signed_key("dev", "0OIl") is None


async def test_row_017_scope_and_expiry_are_enforced(ring: KeyRing, clock: Hour) -> None:
    key, _ = await ring.issue(KeyWish(scopes=frozenset({Scope.CHAT}), lifetime_seconds=60), actor="test")
    bearer = f"Bearer {key}"
    assert await ring.holder(asking(bearer)) is not None
    await refused(ring, bearer, 403, "insufficient_scope", target="/api/v1/embeddings")
    await refused(ring, bearer, 403, "insufficient_scope", target="/v1/images/generations?x=1")
    await refused(ring, bearer, 403, "insufficient_scope", target="/api/v1/keys/key_1/rotate")
    assert await ring.holder(asking(bearer, target="/api/v1/models")) is not None
    clock.now += 60
    await refused(ring, bearer, 401, "api_key_expired")


async def test_row_017_signed_keys_have_times_that_count(ring: KeyRing, clock: Hour) -> None:
    good = f"Bearer {issued_by(WALLET, valid_for_ms=10_000)}"
    assert await ring.holder(asking(good)) is not None
    future = issued_by(WALLET, created_at_ms=(NOW + 3600) * 1000)
    await refused(ring, f"Bearer {future}", 401, "invalid_api_key")
    await refused(ring, f"Bearer {issued_by(WALLET, valid_for_ms=2**40)}", 401, "invalid_api_key")
    clock.now += 11
    await refused(ring, good, 401, "api_key_expired")


async def test_row_018_a_usage_limit_has_one_last_use(ring: KeyRing) -> None:
    key, record = await ring.issue(KeyWish(usage_limit=5), actor="test")
    signed = issued_by(WALLET, usage_limit=5)
    for text_ in (key, str(signed)):
        tries = [ring.holder(asking(f"Bearer {text_}")) for _ in range(20)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        told = [one.code for one in outcomes if isinstance(one, ApiProblem)]
        assert len([one for one in outcomes if not isinstance(one, BaseException)]) == 5
        assert told == ["usage_limit_reached"] * 15
    known = await ring.book.get(record.key_id)
    assert known is not None
    assert known.uses == 5


@pytest.mark.parametrize(
    ("peer", "inside"),
    [
        ("192.0.2.77", True), ("::ffff:192.0.2.77", True), ("2001:db8::1", True), ("192.0.3.1", False),
        ("2001:db9::1", False), ("", False), ("unknown", False),
    ],
)  # fmt: skip
async def test_row_018_a_key_is_used_from_its_addresses_only(ring: KeyRing, peer: str, inside: bool) -> None:
    key, _ = await ring.issue(KeyWish(addresses=("192.0.2.0/24", "2001:db8::/32")), actor="test")
    if inside:
        assert await ring.holder(asking(f"Bearer {key}", peer=peer)) is not None
    else:
        await refused(ring, f"Bearer {key}", 403, "address_refused", peer=peer)


async def test_row_018_rotation_keeps_limits_and_the_old_text_for_a_while(ring: KeyRing, clock: Hour) -> None:
    key, record = await ring.issue(KeyWish(usage_limit=3), actor="test")
    await ring.holder(asking(f"Bearer {key}"))
    fresh, same = await ring.rotate(record.key_id, overlap_seconds=100, actor="test")
    assert same.key_id == record.key_id
    for text_ in (key, fresh):
        assert await ring.holder(asking(f"Bearer {text_}")) is not None
    await refused(ring, f"Bearer {fresh}", 403, "usage_limit_reached")
    clock.now += 100
    await refused(ring, f"Bearer {key}", 401, "invalid_api_key")
    await ring.book.revoke(record.key_id, actor="test", reason="lost")
    await refused(ring, f"Bearer {fresh}", 401, "api_key_revoked")
    with pytest.raises(ApiProblem, match="was revoked"):
        await ring.rotate(record.key_id, overlap_seconds=0, actor="test")
    trail = await ring.book.trail(record.key_id)
    assert [one.event for one in trail] == ["created", "rotated", "revoked"]
    assert trail[2].details == {"reason": "lost"}
    assert all(fresh not in str(one) and key not in str(one) for one in trail)


async def test_row_018_a_revoked_signed_key_stays_revoked(ring: KeyRing) -> None:
    key = issued_by(WALLET)
    record = ring.record_of(key)
    await ring.book.add(record, actor=record.account)
    assert await ring.holder(asking(f"Bearer {key}")) is not None
    assert await ring.book.revoke(record.key_id, actor=record.account)
    assert not await ring.book.revoke(record.key_id, actor=record.account)
    await refused(ring, f"Bearer {key}", 401, "api_key_revoked")


async def test_row_019_a_signed_request_never_sends_its_key(ring: KeyRing, clock: Hour) -> None:
    key, record = await ring.issue(KeyWish(signed_only=True), actor="test")
    claim = sign_request(record.key_id, key, "POST", CHAT, b'{"n":1}', at=NOW, nonce="a" * 16)
    assert key not in claim.as_header()
    assert await ring.holder(asking(claim.as_header(), body=b'{"n":1}')) is not None
    await refused(ring, claim.as_header(), 401, "stale_signature", body=b'{"n":1}')  # type: ignore[arg-type]
    await refused(ring, f"Bearer {key}", 401, "signature_required")
    for changed in ({"body": b'{"n":2}'}, {"target": "/api/v1/embeddings"}, {"method": "GET"}):
        fresh = sign_request(record.key_id, key, "POST", CHAT, b'{"n":1}', at=NOW, nonce="b" * 16)
        await refused(ring, fresh.as_header(), 401, "invalid_request_signature", **({"body": b'{"n":1}'} | changed))
    for late in (-301, 301):
        stale = sign_request(record.key_id, key, "POST", CHAT, b"{}", at=NOW + late, nonce="c" * 16)
        await refused(ring, stale.as_header(), 401, "stale_signature")
    forged = sign_request(record.key_id, "another key", "POST", CHAT, b"{}", at=NOW, nonce="d" * 16)
    await refused(ring, forged.as_header(), 401, "invalid_request_signature")
    with pytest.raises(MalformedError):
        read_request_signature("key=x,t=1")


async def test_row_098_the_secret_of_a_signing_key_is_sealed_at_rest(ledger: SqlLedger, clock: Hour) -> None:
    key, record = await ring_on(ledger, clock).issue(KeyWish(signed_only=True), actor="test")
    claim = sign_request(record.key_id, key, "POST", CHAT, b"{}", at=NOW, nonce="a" * 16)
    stranger = ring_on(ledger, clock, keys=(b"another key here",))
    await refused(stranger, claim.as_header(), 401, "invalid_request_signature")
    rotated = ring_on(ledger, clock, keys=(b"another key here", b"k" * 16))
    assert await rotated.holder(asking(claim.as_header())) is not None
    with pytest.raises(MisconfiguredError, match="X402_ANSWER_KEY"):
        await ring_on(ledger, clock, keys=()).issue(KeyWish(signed_only=True), actor="test")
    seal = Seal([b"k" * 16])
    sealed = seal.seal("one", b"secret")
    assert b"secret" not in sealed
    assert (seal.open("one", sealed), seal.open("two", sealed), seal.open("one", sealed[:-1])) == (
        b"secret",
        None,
        None,
    )


async def test_two_rings_on_one_database_share_the_last_use(ledger_url: str) -> None:
    clock = Hour()
    async with SqlLedger(ledger_url, clock=clock) as first, SqlLedger(ledger_url, clock=clock) as second:
        rings = [ring_on(first, clock), ring_on(second, clock)]
        key, _ = await rings[0].issue(KeyWish(usage_limit=3), actor="test")
        tries = [rings[at % 2].holder(asking(f"Bearer {key}")) for at in range(12)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert len([one for one in outcomes if not isinstance(one, BaseException)]) == 3


@given(st.binary(max_size=140))
def test_base58_reads_what_it_writes(raw: bytes) -> None:
    assert from_base58(to_base58(raw)) == raw


@given(st.text(max_size=250))
def test_any_text_is_a_signed_key_or_not_and_nothing_else(text_: str) -> None:
    try:
        key = read_signed_key("dev", text_)
    except MalformedError:
        return
    assert key is None or key.version in (THEIRS, OURS)


@pytest.mark.parametrize(
    ("target", "scope"),
    [
        (CHAT, Scope.CHAT), ("/v1/inference", Scope.CHAT), ("/api/v1/embeddings/", Scope.EMBEDDINGS),
        ("/api/v1/images/generations", Scope.IMAGES), ("/api/v1/billing/usage?format=csv", Scope.BILLING),
        ("/api/v1/session/balance", Scope.BILLING), ("/api/v1/session/withdraw", Scope.KEYS),
        ("/api/v1/keys", Scope.KEYS), ("/api/v1/models/a", None), ("/api/v1/batch", Scope.CHAT),
    ],
)  # fmt: skip
def test_a_path_needs_one_scope(target: str, scope: Scope | None) -> None:
    assert scope_of(target) is scope


@pytest.mark.parametrize(
    "wish",
    [
        {"name": "x" * 101}, {"name": "a\nb"}, {"scopes": frozenset()}, {"addresses": ("1.2.3",)}, {"usage_limit": -1},
        {"spend_limit": -1}, {"text": "short"}, {"lifetime_seconds": 2**40},
    ],
)  # fmt: skip
def test_what_no_key_can_be_is_said(wish: dict[str, object]) -> None:
    with pytest.raises(ApiProblem) as caught:
        KeyWish(**wish)  # type: ignore[arg-type]
    assert caught.value.status_code == 400

"""API keys as credentials: what each may do is checked on every request, and counted (aimo rows 13, 14, 17-19).

    aimo-sk-v2-<base58 of 32 random bytes>     made here, shown once, known afterwards by its SHA-256 alone
    aimo-sk-<tag>-<base58 of 130 bytes>        issued by a wallet to itself; see `signed_key`
    anything else                              a key from elsewhere that the operator has entered

An expired, revoked or exhausted key is an error and never treated as none at all.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from x402.errors import MalformedError, Mender
from x402.gateway.accounts import Holder
from x402.gateway.accounts.signed_key import CODE, OURS, Scope, SignedKey, read_signed_key, to_base58
from x402.gateway.problem import ApiProblem
from x402.gateway.sale import PaidRequest
from x402.gateway.sealed import Seal
from x402.ports import Clock
from x402.ports.keys import ApiKey, Fresh, KeyBook, KeyTaken
from x402.wire.headers import values
from x402.wire.request_signature import LIFETIME_SECONDS, SCHEME, read_request_signature, signing_secret

PREFIX = "aimo-sk-"
"""How keys of this house begin. Stock OpenAI clients always send some bearer, so one that does not begin so, and that
nobody has entered, says nothing about who asks (aimo row 14)."""
SKEW_SECONDS = 60
SIGNED_LIFETIME_MS = 366 * 86_400 * 1000
"""How long a key that its wallet has issued may live at most."""
KEYS_PER_ACCOUNT = 100
_AUTHORIZATION = "Authorization"
_BEARER = re.compile(r"[Bb]earer +([!-~]{1,512})", re.ASCII)
_SCOPES = (
    (re.compile(r"/(embeddings)$"), Scope.EMBEDDINGS),
    (re.compile(r"/images/[a-z]+$"), Scope.IMAGES),
    (re.compile(r"/(billing/(?!budget)[a-z]+|session/balance)$"), Scope.BILLING),
    (re.compile(r"/(keys|session|webhooks|billing/budget)(/.*)?$"), Scope.KEYS),
    (re.compile(r"/(models|providers)(/.*)?$|/estimate$"), None),
)
"""What a path needs, by its end; everything else is answered by a model, and needs `completion_model`."""


INFERENCE = frozenset({Scope.CHAT, Scope.EMBEDDINGS, Scope.IMAGES})
"""What a key may do that says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    """A key that somebody wants. Times in seconds, 0 is never or unlimited; `spend_limit` in atomic USDC.

    Raises `ApiProblem` 400 for what can't be.
    """

    account: str = ""
    name: str = ""
    scopes: frozenset[Scope] = INFERENCE
    addresses: tuple[str, ...] = ()
    tier: str = ""
    lifetime_seconds: int = 0
    usage_limit: int = 0
    spend_limit: int | None = None
    signed_only: bool = False
    text: str = ""
    """A key from elsewhere, to be known here as it is."""

    def __post_init__(self) -> None:
        if len(self.name) > 100 or not self.name.isprintable():
            raise _wrong("name", "a name is at most 100 printable characters")
        if not self.scopes:
            raise _wrong("scopes", f"name at least one of {', '.join(Scope)}")
        if not 0 <= self.lifetime_seconds <= 10 * 366 * 86_400 or not 0 <= self.usage_limit < 2**63:
            raise _wrong("expires_in", "times and counts are whole numbers from 0, and no key lives ten years")
        if self.spend_limit is not None and not 0 <= self.spend_limit < 2**63:
            raise _wrong("spend_limit", "a spend limit is a number of atomic units from 0")
        if self.text and not re.fullmatch(r"[!-~]{16,512}", self.text, re.ASCII):
            raise _wrong("key", "a key from elsewhere has 16 to 512 visible characters")
        with_bits = [address for address in self.addresses if _network(address) is None]
        if with_bits or len(self.addresses) > 50:
            raise _wrong("addresses", f"addresses are IP networks such as 192.0.2.0/24, not {with_bits[:1]}")


class KeyRing:
    """A gateway's keys.

    `gateway` is the origin that keys signed by wallets must name, and `network` the Solana network on which such
    wallets hold their accounts. `theirs` accepts keys of AiMo's own layout, which any node may reuse elsewhere.
    """

    def __init__(
        self, book: KeyBook, *, clock: Clock, seal: Seal, gateway: str, network: str, theirs: bool = False
    ) -> None:
        self.book = book
        self.gateway = gateway.rstrip("/")
        self._clock = clock
        self._seal = seal
        self._network = network
        self._theirs = theirs

    @property
    def now(self) -> int:
        """Unix seconds, by this ring's clock."""
        return self._clock()

    async def issue(self, wish: KeyWish, *, actor: str) -> tuple[str, ApiKey]:
        """A new key: its text, which is told this once, and its record. Raises `ApiProblem`."""
        text = wish.text or f"aimo-sk-v2-{to_base58(secrets.token_bytes(32))}"
        key_id, now = f"key_{secrets.token_hex(8)}", self._clock()
        account = wish.account or f"key:{key_id}"
        if len(await self.book.keys_of(account, limit=KEYS_PER_ACCOUNT)) >= KEYS_PER_ACCOUNT:
            raise ApiProblem(409, "too_many_keys", f"an account has at most {KEYS_PER_ACCOUNT} keys")
        fresh = self._fresh(key_id, text, keep_secret=wish.signed_only)
        key = ApiKey(
            key_id=key_id,
            digest=fresh.digest,
            account=account,
            name=wish.name,
            hint=fresh.hint,
            scopes=frozenset(str(scope) for scope in wish.scopes),
            addresses=wish.addresses,
            tier=wish.tier,
            created_at=now,
            expires_at=now + wish.lifetime_seconds if wish.lifetime_seconds else 0,
            usage_limit=wish.usage_limit,
            spend_limit=wish.spend_limit,
            signing=fresh.signing,
            signed_only=wish.signed_only,
        )
        try:
            await self.book.add(key, actor=actor)
        except KeyTaken as error:
            raise ApiProblem(409, "key_exists", "this key is known here already") from error
        return text, key

    async def rotate(self, key_id: str, *, overlap_seconds: int, actor: str) -> tuple[str, ApiKey]:
        """Another text for a key, whose limits and counts stay. Raises `ApiProblem` 404 or 409."""
        known = await self.book.get(key_id)
        if known is None:
            raise no_such_key()
        text = f"aimo-sk-v2-{to_base58(secrets.token_bytes(32))}"
        fresh = self._fresh(key_id, text, keep_secret=known.signed_only)
        if not await self.book.rotate(key_id, fresh, overlap_seconds=overlap_seconds, actor=actor):
            raise ApiProblem(409, "key_ended", "this key was revoked or has expired; make a new one")
        return text, await self.book.get(key_id) or known

    async def holder(self, request: PaidRequest) -> Holder | None:
        """Who sent a request, by its `Authorization`; the use is counted. Raises `ApiProblem` 401 or 403."""
        stated = list(values(request.headers, _AUTHORIZATION))
        if not stated:
            return None
        scheme, _, credentials = stated[0].strip().partition(" ")
        if len(stated) > 1 or scheme.lower() not in ("bearer", SCHEME.lower()):
            raise unknown_key(f"one Authorization header, of the scheme Bearer or {SCHEME}")
        if scheme.lower() == SCHEME.lower():
            return await self._signed(credentials, request)
        match = _BEARER.fullmatch(stated[0].strip())
        if match is None:
            raise unknown_key("Authorization: Bearer is followed by a key")
        return await self._borne(match[1], request)

    async def known(self, authorizations: Sequence[str]) -> ApiKey | None:
        """The record of a bearer key, or of one that signs, by whatever a request states; nothing is counted."""
        if len(authorizations) != 1:
            return None
        scheme, _, credentials = authorizations[0].strip().partition(" ")
        if scheme.lower() == "bearer":
            return await self.book.find(digest_of(credentials.strip()))
        with suppress(MalformedError):
            if scheme.lower() == SCHEME.lower():
                return await self.book.get(read_request_signature(credentials).key_id)
        return None

    def signed_key(self, text: str) -> SignedKey | None:
        """A key of 130 bytes whose signature holds here, whatever its age; None for text of another kind.

        Raises `ApiProblem` 401 for one that does not hold.
        """
        parts = text.split("-", 3)
        if len(parts) != 4 or parts[:2] != ["aimo", "sk"] or parts[2] == "v2":
            return None
        try:
            key = read_signed_key(parts[2], parts[3])
        except MalformedError as error:
            raise unknown_key(error.message) from error
        if key is not None and key.version == OURS and not self.gateway:
            raise unknown_key("this gateway has no public URL that a wallet could name in a key")
        if key is not None and not key.is_signed(self.gateway):
            raise unknown_key("the key is not signed by its wallet for this gateway")
        return key

    async def _borne(self, text: str, request: PaidRequest) -> Holder | None:
        signed = self.signed_key(text)
        if signed is not None:
            return await self._self_issued(signed, request)
        used = await self.book.use(digest_of(text), lambda key: self._check(key, request, signed=False))
        if used is None and text.startswith(PREFIX):
            raise unknown_key("this key is not known here")
        return None if used is None else _holder(used)

    async def _signed(self, credentials: str, request: PaidRequest) -> Holder:
        try:
            claim = read_request_signature(credentials)
        except MalformedError as error:
            raise unknown_key(error.message, code=error.code) from error
        key, now = await self.book.get(claim.key_id), self._clock()
        secret = None if key is None else self._seal.open(_purpose(key.key_id), key.signing)
        if key is None or secret is None or not claim.matches(secret, request.method, request.target, request.body):
            raise unknown_key("the signature is not this request's", code="invalid_request_signature")
        if abs(claim.at - now) > LIFETIME_SECONDS:
            raise unknown_key("the request was signed too long ago, or by a wrong clock", code="stale_signature")
        if not await self.book.spend_signature(claim.digest, claim.at + LIFETIME_SECONDS):
            raise unknown_key("this signature was used before; sign anew", code="stale_signature")
        used = await self.book.use(key.digest, lambda found: self._check(found, request, signed=True))
        if used is None:
            raise unknown_key("this key is not known here")
        return _holder(used)

    async def _self_issued(self, signed: SignedKey, request: PaidRequest) -> Holder:
        """A key that its wallet has issued: only one that has a limit, or was revoked, has a row in the book."""
        if signed.version != OURS and not self._theirs:
            raise unknown_key("keys of layout 1 are good at any node, and not accepted here; issue one of layout 2")
        now_ms, terms = self._clock() * 1000, signed.terms
        if terms.created_at_ms > now_ms + SKEW_SECONDS * 1000 or terms.valid_for_ms > SIGNED_LIFETIME_MS:
            raise unknown_key("the key begins in the future, or lives for more than a year")
        if terms.ends_at_ms < now_ms:
            raise _expired()
        record = self.record_of(signed)
        used = await self.book.use(record.digest, lambda key: self._check(key, request, signed=False))
        if used is None and terms.usage_limit:
            if len(await self.book.keys_of(record.account, limit=KEYS_PER_ACCOUNT)) >= KEYS_PER_ACCOUNT:
                raise _denied("too_many_keys", f"a wallet has at most {KEYS_PER_ACCOUNT} keys with a limit here")
            with suppress(KeyTaken):
                await self.book.add(record, actor=record.account)
            used = await self.book.use(record.digest, lambda key: self._check(key, request, signed=False))
        if used is None:
            self._check(record, request, signed=False)
        return _holder(used or record)

    def record_of(self, signed: SignedKey) -> ApiKey:
        """What the book says, or would say, of a key that its wallet has issued."""
        raw, terms = signed.packed(), signed.terms
        digest = hashlib.sha256(raw).hexdigest()
        return ApiKey(
            key_id=f"wallet_{digest[:32]}",
            digest=digest,
            account=f"{self._network}:{signed.signer}",
            name=f"issued by {signed.signer}",
            hint=_hint(str(signed)),
            scopes=frozenset(str(scope) for scope in terms.scopes),
            created_at=terms.created_at_ms // 1000,
            # The last millisecond counts, so the second in which it lies does.
            expires_at=terms.ends_at_ms // 1000 + 1,
            usage_limit=terms.usage_limit,
        )

    def _check(self, key: ApiKey, request: PaidRequest, *, signed: bool) -> None:
        now = self._clock()
        if key.revoked_at:
            raise unknown_key("this key was revoked", code="api_key_revoked")
        if 0 < key.expires_at <= now:
            raise _expired()
        if key.signed_only and not signed:
            raise unknown_key(f"this key signs its requests ({SCHEME}), it is not sent", code="signature_required")
        if key.addresses and not _inside(request.peer, key.addresses):
            raise _denied("address_refused", f"this key is not used from {request.peer or 'an unknown address'}")
        scope = scope_of(request.target, request.method)
        if scope is not None and scope not in key.scopes:
            raise _denied("insufficient_scope", f"this key lacks the scope {scope}", details={"scope": str(scope)})
        if 0 < key.usage_limit <= key.uses:
            raise _denied("usage_limit_reached", f"this key was used {key.uses} times, which is its limit")

    def _fresh(self, key_id: str, text: str, *, keep_secret: bool) -> Fresh:
        sealed = self._seal.seal(_purpose(key_id), signing_secret(text)) if keep_secret else b""
        return Fresh(digest_of(text), _hint(text), sealed)


def digest_of(text: str) -> str:
    """Under what the book knows a key."""
    return hashlib.sha256(text.encode()).hexdigest()


def scope_of(target: str, method: str = "POST") -> Scope | None:
    """The scope that a path needs; None when any key will do."""
    path = target.partition("?")[0].rstrip("/")
    if method == "GET" and path.endswith("/billing/budget"):
        return Scope.BILLING
    return next((scope for ending, scope in _SCOPES if ending.search(path)), Scope.CHAT)


def no_such_key() -> ApiProblem:
    """Neither tells whether somebody else has such a key."""
    return ApiProblem(404, "key_not_found", "you have no key of this id")


def unknown_key(words: str, *, code: str = CODE) -> ApiProblem:
    """A 401 for a key that does not hold."""
    return ApiProblem(401, code, words, kind="authentication_error", mender=Mender.CALLER)


def _expired() -> ApiProblem:
    return unknown_key("this key has expired", code="api_key_expired")


def _denied(code: str, words: str, *, details: dict[str, str] | None = None) -> ApiProblem:
    return ApiProblem(403, code, words, kind="permission_error", mender=Mender.CALLER, details=details)


def _wrong(param: str, words: str) -> ApiProblem:
    return ApiProblem(400, "invalid_value", words, param=param)


def _holder(key: ApiKey) -> Holder:
    return Holder(account=key.account, key_id=key.key_id, scopes=key.scopes, spend_limit=key.spend_limit)


def _hint(text: str) -> str:
    return f"{text[:11]}…{text[-4:]}"


def _purpose(key_id: str) -> str:
    return f"request signing {key_id}"


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _inside(peer: str, networks: Sequence[str]) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    known = (_network(text) for text in networks)
    return any(network is not None and address in network for network in known)

"""The thin caller: ask a model, pay for the answer, get the answer with its receipt.

    chat = Chat("https://gateway.example/api/v1", wallet=Wallet.from_env())
    print(chat.create(model="demo", messages=[{"role": "user", "content": "Hello"}]).text)

`Chat` blocks, `AsyncChat` does not; both carry out the same steps (`line`). For everything else use the `openai`
package with `X402Auth`, see `auth`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import anyio
import httpx

from x402.client.answers import Answer, Completion, ModelList, Quotation
from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.chat_stream import TRANSPORT_ERRORS, AsyncChatStream, ChatStream, broken
from x402.client.choose import Policy, dollar_text
from x402.client.identity import Identity
from x402.client.journal import Journal
from x402.client.line import Exchange, Line, Steps, Wait
from x402.client.profile import Credential, Profile
from x402.client.profile import profile as named
from x402.client.wallet import Wallet
from x402.errors import MisconfiguredError, Moved, PendingError
from x402.settings import ClientSettings, secret
from x402.wire.receipt import Receipt

PATIENCE_SECONDS = 60.0
"""How long, in all, a pending payment or an answer in work is waited for before the caller is told."""
_TIMEOUT = httpx.Timeout(300, connect=10)

T = TypeVar("T")


class _Caller:
    """What both callers are made of.

    `profile` says how the seller is spoken to (`x402.client.profile`). `base_url` ends before `/chat/completions`; the
    environment's when absent, or else the profile's own. Without `wallet`, `auth` or `http_client` the environment's
    wallet pays, unless an API key does or the profile knows keys only. With `sign_in` (True, or who on which chain) a
    balance with the seller is spent first, and the wallet pays when it is empty; unsaid, the profile decides. An
    `http_client` of httpx or httpx2 is used as it is, its own `auth` included when none is given here.
    `patience_seconds` bounds waits for pending payments.

    Raises `MisconfiguredError` for what is missing or contradicts the profile.
    """

    _client_type: ClassVar[type[Any]]

    def __init__(
        self,
        base_url: str | None = None,
        *,
        profile: str | Profile | None = None,
        wallet: Wallet | None = None,
        auth: X402Auth | None = None,
        policy: Policy | None = None,
        limits: Limits | None = None,
        journal: Journal | str | Path | None = None,
        sign_in: Identity | bool | None = None,
        api_key: str | None = None,
        http_client: Any = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        settings = ClientSettings.read()
        known = named(profile or settings.profile)
        url = base_url or settings.base_url or known.base
        if not url.startswith(("http://", "https://")):
            raise MisconfiguredError("no_base_url", "name the seller's URL, or set X402_BASE_URL")
        key = _key(known, api_key, secret(settings.api_key), required=auth is None and http_client is None)
        bare = wallet is None and auth is None and http_client is None and not known.needs_key
        if bare and not key and settings.has_wallet:
            wallet = Wallet.from_env(settings)
        if wallet is not None and auth is None:
            who = known.signs_in if sign_in is None else sign_in
            terms = replace(policy or Policy(), version=policy.version if policy and policy.version else known.version)
            auth = X402Auth(wallet, policy=terms, limits=limits, journal=journal, sign_in=who, settings=settings)
        if auth is None and isinstance(own := getattr(http_client, "auth", None), X402Auth):
            auth = own
        self.auth = auth
        bearer = {"Authorization": f"Bearer {key}"} if key else {}
        charged = bool(bearer) or (auth is not None and auth.sign_in is not None)
        self._line = Line(
            url, patience_seconds, {"Accept": "application/json, text/event-stream"}, bearer, known,
            partial(secrets.token_hex, 16) if charged else str,
        )  # fmt: skip
        self._owned = http_client is None
        self._http: Any = self._client_type(timeout=_TIMEOUT) if http_client is None else http_client

    @property
    def profile(self) -> Profile:
        """How the seller is spoken to."""
        return self._line.profile

    def _request(self, step: Exchange) -> Any:
        return self._http.build_request(step.method, step.url, headers=step.headers, content=step.content or None)

    def _how(self, step: Exchange) -> dict[str, Any]:
        """Without an `auth` of ours the client's own stays in force, unless nobody is to be known."""
        how: dict[str, Any] = {"stream": step.stream}
        if not step.known:
            how["auth"] = None
        elif self.auth is not None:
            how["auth"] = self.auth if step.pay else self.auth.sign_in
            if step.pay and step.network:
                how["auth"] = self.auth.on(step.network)
        return how

    def _deposit(self, amount: Decimal | str | int) -> Steps[Answer]:
        # What is paid in on another chain would lie in another account than the one that signs in.
        identity = self.auth.sign_in.identity if self.auth is not None and self.auth.sign_in is not None else None
        network = identity.chain_id if identity is not None else ""
        return self._line.order("session/deposit", {"amount": dollar_text(amount)}, network=network)

    def _withdraw(self, amount: Decimal | str | int | None) -> Steps[Answer]:
        return self._line.tell("session/withdraw", {} if amount is None else {"amount": dollar_text(amount)})

    def _note(self, response: Any, receipt: Receipt) -> None:
        if self.auth is not None:
            self.auth.note_receipt(response, receipt)


class Chat(_Caller):
    """A model seller, called and paid for one answer at a time; blocking."""

    _client_type = httpx.Client

    def create(self, *, model: str, messages: Any, **params: Any) -> Completion:
        """A whole answer. `params` are those of an OpenAI chat completion.

        Raises `ApiError` for the seller's errors, `DeclinedError`, `UnpaidError` or `PendingError` for the payment's,
        `UnavailableError` when the seller can't be reached.
        """
        return self._drive(self._line.create(model, messages, params))

    def stream(self, *, model: str, messages: Any, **params: Any) -> ChatStream:
        """The answer chunk by chunk. Raises as `create`, here or on the way."""
        return ChatStream(self._drive(self._line.open_stream(model, messages, params)), self._note)

    def models(self, **filters: Any) -> ModelList:
        """What can be bought, or what `filters` leave of it, such as `free=True` (aimo row 72). Raises as `create`."""
        return self._drive(self._line.models(filters))

    def quote(self, *, model: str, messages: Any, **params: Any) -> Quotation:
        """What an answer would cost; asks and does not pay. Raises as `create`."""
        return self._drive(self._line.quote(model, messages, params))

    def images(self, *, model: str, prompt: str, **params: Any) -> Answer:
        """Images made from a prompt: `answer.data[0].url` (aimo row 6). Raises as `create`."""
        return self._drive(self._line.order("images/generations", {"model": model, "prompt": prompt, **params}))

    def embeddings(self, *, model: str, input: Any, **params: Any) -> Answer:
        """Vectors of texts: `answer.data[0].embedding` (aimo row 7). Raises as `create`."""
        return self._drive(self._line.order("embeddings", {"model": model, "input": input, **params}))

    def balance(self) -> Answer:
        """What the wallet that signs in has with the seller: `balance_micro_usdc`, atomic USDC. Raises as `create`."""
        return self._drive(self._line.ask("session/balance", {}))

    def deposit(self, amount: Decimal | str | int) -> Answer:
        """Pay `amount` US dollars into that balance, on the chain that signs in and within the limits of any call.

        Raises as `create`.
        """
        return self._drive(self._deposit(amount))

    def withdraw(self, amount: Decimal | str | int | None = None) -> Answer:
        """Have `amount` US dollars of that balance, or all of it, sent back to the wallet. Raises as `create`."""
        return self._drive(self._withdraw(amount))

    def usage(self, **filters: Any) -> Answer:
        """What was used and what it cost, as the seller has it in its books (aimo row 9). Raises as `create`."""
        return self._drive(self._line.ask("billing/usage", filters))

    def close(self) -> None:
        """Close the HTTP client, unless it was given."""
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drive(self, steps: Steps[T]) -> T:
        advance: Callable[[], Exchange | Wait] = lambda: next(steps)  # noqa: E731 - replaced in the loop
        while True:
            try:
                step = advance()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                done = self._carry_out(step)
            except PendingError as error:
                advance = partial(steps.throw, error)
            else:
                advance = partial(steps.send, done)

    def _carry_out(self, step: Exchange | Wait) -> Any:
        if isinstance(step, Wait):
            return time.sleep(step.seconds)
        try:
            response = self._http.send(self._request(step), **self._how(step))
            if step.stream and response.status_code >= 300:
                response.read()
        except TRANSPORT_ERRORS as error:
            raise broken(error, Moved.UNKNOWN if step.pay and self.auth is not None else Moved.NO) from error
        return response


class AsyncChat(_Caller):
    """A model seller, called and paid for one answer at a time; asynchronous."""

    _client_type = httpx.AsyncClient

    async def create(self, *, model: str, messages: Any, **params: Any) -> Completion:
        """As `Chat.create`."""
        return await self._drive(self._line.create(model, messages, params))

    async def stream(self, *, model: str, messages: Any, **params: Any) -> AsyncChatStream:
        """As `Chat.stream`; await it, then iterate."""
        return AsyncChatStream(await self._drive(self._line.open_stream(model, messages, params)), self._note)

    async def models(self, **filters: Any) -> ModelList:
        """As `Chat.models`."""
        return await self._drive(self._line.models(filters))

    async def quote(self, *, model: str, messages: Any, **params: Any) -> Quotation:
        """As `Chat.quote`."""
        return await self._drive(self._line.quote(model, messages, params))

    async def images(self, *, model: str, prompt: str, **params: Any) -> Answer:
        """As `Chat.images`."""
        return await self._drive(self._line.order("images/generations", {"model": model, "prompt": prompt, **params}))

    async def embeddings(self, *, model: str, input: Any, **params: Any) -> Answer:
        """As `Chat.embeddings`."""
        return await self._drive(self._line.order("embeddings", {"model": model, "input": input, **params}))

    async def balance(self) -> Answer:
        """As `Chat.balance`."""
        return await self._drive(self._line.ask("session/balance", {}))

    async def deposit(self, amount: Decimal | str | int) -> Answer:
        """As `Chat.deposit`."""
        return await self._drive(self._deposit(amount))

    async def withdraw(self, amount: Decimal | str | int | None = None) -> Answer:
        """As `Chat.withdraw`."""
        return await self._drive(self._withdraw(amount))

    async def usage(self, **filters: Any) -> Answer:
        """As `Chat.usage`."""
        return await self._drive(self._line.ask("billing/usage", filters))

    async def aclose(self) -> None:
        """Close the HTTP client, unless it was given."""
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _drive(self, steps: Steps[T]) -> T:
        advance: Callable[[], Exchange | Wait] = lambda: next(steps)  # noqa: E731 - replaced in the loop
        while True:
            try:
                step = advance()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                done = await self._carry_out(step)
            except PendingError as error:
                advance = partial(steps.throw, error)
            else:
                advance = partial(steps.send, done)

    async def _carry_out(self, step: Exchange | Wait) -> Any:
        if isinstance(step, Wait):
            return await anyio.sleep(step.seconds)
        try:
            response = await self._http.send(self._request(step), **self._how(step))
            if step.stream and response.status_code >= 300:
                await response.aread()
        except TRANSPORT_ERRORS as error:
            raise broken(error, Moved.UNKNOWN if step.pay and self.auth is not None else Moved.NO) from error
        return response


def _key(profile: Profile, stated: str | None, found: str, *, required: bool) -> str:
    """The key to send: the one that was stated, or the environment's where the profile knows keys."""
    if Credential.KEY not in profile.credentials:
        if stated:
            raise MisconfiguredError("key_not_used", f"{profile.name} takes no API key: a wallet pays there")
        return ""
    key = found if stated is None else stated
    if not key and profile.needs_key and required:
        raise MisconfiguredError("no_api_key", f"{profile.name} is opened by an API key: set X402_API_KEY")
    return key

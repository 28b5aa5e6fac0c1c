"""Telling others what becomes of payments: signed, at least once, in order for each payment (aimo row 10, fault E05).

Messages are those of the Standard Webhooks specification: `webhook-id`, `webhook-timestamp` and `webhook-signature`
(`v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`), whose secret is `whsec_` and base64. `webhook-attempt`
counts from 1, and `webhook-redelivery: true` says that an earlier attempt may have arrived.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from x402.errors import MisconfiguredError, UnavailableError
from x402.gateway.problem import ApiProblem
from x402.gateway.sealed import Seal
from x402.ports import Clock
from x402.ports.courier import Courier, Undelivered, check_hook
from x402.ports.deliveries import Delivery, DeliveryBook, Happening, Message, Webhook
from x402.stages import State
from x402.telemetry import Fact, Telemetry

BACKOFF_SECONDS = (5, 30, 120, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400)
"""How long to wait after the first failure, the second, and so on; after the last one a delivery is given up."""
LEASE_SECONDS = 60
AT_ONCE = 16
WEBHOOKS_PER_ACCOUNT = 10
SECRET_PREFIX = "whsec_"
TOPICS = (
    *(f"payment.{str(state).lower()}" for state in State),
    "budget.threshold",
    "webhook.test",
)
_IDLE_SECONDS = 5.0
_GATHER_SECONDS = 0.2
_GONE = 410


class Webhooks:
    """The webhooks of a gateway, and what carries its messages to them."""

    def __init__(
        self, book: DeliveryBook, courier: Courier, *, clock: Clock, seal: Seal, telemetry: Telemetry | None = None
    ) -> None:
        self.book = book
        self._courier = courier
        self._clock = clock
        self._seal = seal
        self._telemetry = telemetry or Telemetry()
        self._news = asyncio.Event()

    async def register(
        self, url: str, *, account: str, topics: Sequence[str] = ("*",), secret: str = "", inside: bool = False,
        webhook_id: str = "",
    ) -> tuple[str, Webhook]:  # fmt: skip
        """A new webhook and its secret, which is told this once. Raises `MalformedError` or `ApiProblem`."""
        check_hook(url, inside=inside)
        unknown = [topic for topic in topics if not any(_covers(topic, known) for known in TOPICS)]
        if unknown or not topics:
            raise ApiProblem(
                400, "invalid_value", f"topics are {', '.join(TOPICS)}, or such as payment.*", param="topics"
            )
        if account and len(await self.book.webhooks(account)) >= WEBHOOKS_PER_ACCOUNT:
            raise ApiProblem(409, "too_many_webhooks", f"an account has at most {WEBHOOKS_PER_ACCOUNT} webhooks")
        webhook_id = webhook_id or f"wh_{secrets.token_hex(8)}"
        text = secret or SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        sealed = self._seal.seal(_purpose(webhook_id), signing_key(text))
        webhook = Webhook(
            webhook_id=webhook_id,
            url=url,
            secret=sealed,
            account=account,
            topics=tuple(topics),
            inside=inside,
            created_at=self._clock(),
        )
        await self.book.add(webhook)
        return text, webhook

    async def test(self, webhook: Webhook) -> None:
        """Have a message of the topic `webhook.test` sent to one webhook."""
        data = {"webhook": webhook.webhook_id, "words": "If you can read this, and its signature holds, all is well."}
        message = Message(
            topic="webhook.test",
            subject=webhook.webhook_id,
            account=webhook.account,
            body=_body("webhook.test", self._clock(), data),
        )
        await self.book.announce(message, only=webhook.webhook_id)
        self._news.set()

    async def announce(self, topic: str, *, account: str, data: dict[str, Any]) -> None:
        """Tell of something that is no change of a payment."""
        body = _body(topic, self._clock(), data)
        await self.book.announce(Message(topic=topic, subject=account, account=account, body=body))
        self._news.set()

    def hear(self, fact: Fact) -> None:
        """An observer: a payment has moved, so there is something to tell."""
        if fact.name.startswith("sale."):
            self._news.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            with suppress(UnavailableError):
                while await self.step():
                    pass
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._news.wait()
                # Payments come first: what happens while one is answered is told together.
                await asyncio.sleep(_GATHER_SECONDS)
            self._news.clear()

    async def step(self) -> int:
        """Share out what happened, and try once what is due; how many were tried. Raises `UnavailableError`."""
        while await self.book.fan_out(told):
            pass
        taken = await self.book.take(LEASE_SECONDS, AT_ONCE)
        await asyncio.gather(*(self._deliver(delivery, webhook) for delivery, webhook in taken))
        return len(taken)

    async def _deliver(self, delivery: Delivery, webhook: Webhook) -> None:
        key = self._seal.open(_purpose(webhook.webhook_id), webhook.secret)
        status, reason = 0, "the webhook's secret can't be read with today's key"
        if key is not None:
            headers = headers_of(delivery, key, self._clock())
            try:
                body = delivery.body.encode()
                status = await self._courier.post(webhook.url, headers, body, inside=webhook.inside)
                reason = f"status {status}"
            except Undelivered as error:
                reason = str(error)
        if 200 <= status < 300:
            await self.book.arrived(delivery.delivery_id, status)
            self._telemetry.emit("webhook.arrived", attempts=delivery.attempts)
            return
        given_up = status == _GONE or delivery.attempts > len(BACKOFF_SECONDS)
        due_at = None if given_up else self._clock() + BACKOFF_SECONDS[delivery.attempts - 1]
        await self.book.failed(delivery.delivery_id, status=status, error=reason, due_at=due_at)
        self._telemetry.emit("webhook.given_up" if given_up else "webhook.failed", reason=reason)


def told(what: Happening) -> Message:
    """An event of a payment as a message. What it says stands on the chain, or is about the payment alone."""
    topic = f"payment.{what.state.lower()}"
    data = {
        "payment": what.pay_id,
        "event": what.event,
        "state": what.state,
        "network": what.network,
        "asset": what.asset,
        "amount": what.amount,
        "payer": what.payer,
        "payee": what.payee,
    }
    for name in ("transaction", "reason"):
        if isinstance(what.stage.get(name), str) and what.stage[name]:
            data[name] = what.stage[name]
    account = f"{what.network}:{what.payer}"
    return Message(topic=topic, subject=what.pay_id, account=account, body=_body(topic, what.at, data))


def headers_of(delivery: Delivery, key: bytes, now: int) -> dict[str, str]:
    """The headers of one attempt."""
    signed = f"{delivery.delivery_id}.{now}.{delivery.body}".encode()
    signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    headers = {
        "content-type": "application/json",
        "user-agent": "x402-gateway",
        "webhook-id": delivery.delivery_id,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{signature}",
        "webhook-attempt": str(delivery.attempts),
    }
    return headers | ({"webhook-redelivery": "true"} if delivery.attempts > 1 else {})


def signing_key(secret: str) -> bytes:
    """The bytes behind `whsec_…`. Raises `MisconfiguredError` for anything else, and for fewer than 24."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not 24 <= len(key) <= 64:
        raise MisconfiguredError(
            "invalid_webhook_secret", f"a webhook's secret is {SECRET_PREFIX} and the base64 of 24 to 64 bytes"
        )
    return key


def _covers(wish: str, topic: str) -> bool:
    return wish == topic or (wish.endswith("*") and topic.startswith(wish[:-1]))


def _body(topic: str, at: int, data: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"type": topic, "timestamp": when, "data": data}, separators=(",", ":"))


def _purpose(webhook_id: str) -> str:
    return f"webhook {webhook_id}"

"""Webhooks over HTTP: an account says where it wants to be told of its own payments (aimo row 10).

    POST   {base}/webhooks                      {"url", "topics"?} → the webhook and its secret, shown this once
    GET    {base}/webhooks                      the account's own
    DELETE {base}/webhooks/{id}
    POST   {base}/webhooks/{id}/test            sends a message of the topic webhook.test
    GET    {base}/webhooks/{id}/deliveries      the newest deliveries, and what became of them
    POST   {base}/webhooks/{id}/deliveries/{delivery}/redeliver

All take a sign-in, or a key with the scope `keys`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from x402.gateway.accounts import Credential
from x402.gateway.api.asked import asked, members_of, signed_in
from x402.gateway.operations.webhooks import Webhooks
from x402.gateway.problem import ApiProblem
from x402.ports.deliveries import Delivery, Webhook


def add_webhooks(app: FastAPI, base: str, hooks: Callable[[], Webhooks], *credentials: Credential) -> None:
    """Put the paths on an app."""

    async def create(request: Request) -> JSONResponse:
        """Have this account's payments told at a URL, which must be on the public Internet."""
        asked_ = await asked(request)
        holder = await signed_in(asked_, *credentials)
        members = members_of(asked_)
        url, topics = members.get("url"), members.get("topics", ["*"])
        if not isinstance(url, str):
            raise ApiProblem(400, "invalid_value", "url is text", param="url")
        if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics):
            raise ApiProblem(400, "invalid_value", "topics is a list of texts", param="topics")
        secret, webhook = await hooks().register(url, account=holder.account, topics=topics)
        return _no_store({"secret": secret, **shown(webhook)}, 201)

    async def listed(request: Request) -> JSONResponse:
        """The account's webhooks, without their secrets."""
        holder = await signed_in(await asked(request), *credentials)
        return _no_store(
            {"object": "list", "data": [shown(one) for one in await hooks().book.webhooks(holder.account)]}
        )

    async def remove(request: Request) -> JSONResponse:
        """Tell nothing more there; what is on its way is dropped."""
        webhook = await _own(request)
        await hooks().book.remove(webhook.webhook_id)
        return _no_store({"id": webhook.webhook_id, "removed": True})

    async def test(request: Request) -> JSONResponse:
        """Send a message that says nothing, to see whether it arrives."""
        webhook = await _own(request)
        await hooks().test(webhook)
        return _no_store({"id": webhook.webhook_id, "sent": "webhook.test"}, 202)

    async def deliveries(request: Request) -> JSONResponse:
        """The newest deliveries to one webhook."""
        webhook = await _own(request)
        found = await hooks().book.listed(webhook_id=webhook.webhook_id)
        return _no_store({"object": "list", "data": [told(one) for one in found]})

    async def redeliver(request: Request) -> JSONResponse:
        """Send a delivery once more."""
        webhook = await _own(request)
        wanted = request.path_params["delivery_id"]
        known = {one.delivery_id for one in await hooks().book.listed(webhook_id=webhook.webhook_id, limit=1000)}
        if wanted not in known or not await hooks().book.again(wanted):
            raise ApiProblem(404, "delivery_not_found", "this webhook has no delivery of that id")
        return _no_store({"id": wanted, "due": True}, 202)

    async def _own(request: Request) -> Webhook:
        holder = await signed_in(await asked(request), *credentials)
        mine = await hooks().book.webhooks(holder.account)
        found = next((one for one in mine if one.webhook_id == request.path_params["webhook_id"]), None)
        if found is None:
            raise ApiProblem(404, "webhook_not_found", "you have no webhook of this id")
        return found

    one = "/{webhook_id}"
    routes: Any = (
        ("", create, "POST"), ("", listed, "GET"), (one, remove, "DELETE"), (f"{one}/test", test, "POST"),
        (f"{one}/deliveries", deliveries, "GET"), (f"{one}/deliveries/{{delivery_id}}/redeliver", redeliver, "POST"),
    )  # fmt: skip
    for path, endpoint, method in routes:
        app.add_api_route(f"{base}/webhooks{path}", endpoint, methods=[method], tags=["webhooks"], response_model=None)


def shown(webhook: Webhook) -> dict[str, Any]:
    """A webhook as its owner sees it."""
    return {
        "id": webhook.webhook_id,
        "object": "webhook",
        "url": webhook.url,
        "topics": list(webhook.topics),
        "created_at": webhook.created_at,
    }


def told(delivery: Delivery) -> dict[str, Any]:
    """A delivery as its receiver sees it."""
    return {
        "id": delivery.delivery_id,
        "object": "delivery",
        "topic": delivery.topic,
        "subject": delivery.subject,
        "state": str(delivery.state),
        "attempts": delivery.attempts,
        "due_at": delivery.due_at or None,
        "status": delivery.status or None,
        "error": delivery.error or None,
        "created_at": delivery.created_at,
    }


def _no_store(body: dict[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(body, status, {"Cache-Control": "no-store"})

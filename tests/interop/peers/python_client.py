"""The official Python SDK's httpx client: asks for one URL, pays for it, prints what came of it as JSON.

Environment
    TARGET_URL, METHOD (GET), BODY (JSON text)
    NETWORK          the only network to pay on: CAIP-2, or the v1 name when X402_VERSION is 1
    X402_VERSION     2, or 1 to answer the challenge as a client that predates the v2 header
    EVM_PRIVATE_KEY  0x-hex;  SVM_PRIVATE_KEY  base58 of 64 bytes;  SVM_RPC_URL
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from importlib.metadata import version
from typing import Any

import httpx
from eth_account import Account
from x402.http.clients import x402_httpx_transport
from x402.http.clients.httpx import PaymentError
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.svm import KeypairSigner
from x402.mechanisms.svm.exact import register_exact_svm_client

from x402 import x402Client

RECEIPT_HEADERS = ("payment-response", "x-payment-response")


class Wire(httpx.AsyncHTTPTransport):
    """The plain transport under the paying one; remembers each exchange."""

    def __init__(self, hide_v2: bool) -> None:
        super().__init__()
        self.hide_v2 = hide_v2
        self.exchanges: list[dict[str, Any]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        paid_with = [n for n in ("payment-signature", "x-payment") if n in request.headers]
        refusal = await refusal_of(response)
        self.exchanges.append({"status": response.status_code, "paidWith": paid_with, "refusal": refusal})
        if self.hide_v2:
            response.headers.pop("payment-required", None)
        return response


def paying_client() -> x402Client:
    """An SDK client that holds the wallets named in the environment and pays on NETWORK only."""
    client = x402Client()
    if key := os.environ.get("EVM_PRIVATE_KEY"):
        register_exact_evm_client(client, EthAccountSigner(Account.from_key(key)))
    if key := os.environ.get("SVM_PRIVATE_KEY"):
        rpc_url = os.environ.get("SVM_RPC_URL")
        register_exact_svm_client(client, KeypairSigner.from_base58(key), rpc_url=rpc_url)
    if network := os.environ.get("NETWORK"):
        client.register_policy(lambda _version, offers: [o for o in offers if o.network == network])
    return client


async def refusal_of(response: httpx.Response) -> str | None:
    """Why the server refused: the `error` of a v2 challenge, else the text of the body."""
    if response.status_code < 400:
        return None
    if challenge := response.headers.get("payment-required"):
        stated: str | None = json.loads(base64.b64decode(challenge)).get("error")
        return stated
    return (await response.aread())[:500].decode(errors="replace")


def receipt_of(response: httpx.Response) -> dict[str, Any] | None:
    """The decoded settlement response, whichever version's header carries it."""
    for name in RECEIPT_HEADERS:
        if value := response.headers.get(name):
            decoded: dict[str, Any] = json.loads(base64.b64decode(value))
            return decoded
    return None


async def main() -> None:
    wire = Wire(hide_v2=os.environ.get("X402_VERSION", "2") == "1")
    result: dict[str, Any] = {"sdk": f"x402 (Python) {version('x402')}", "ok": False}
    body = os.environ.get("BODY")
    try:
        transport = x402_httpx_transport(paying_client(), wire)
        async with httpx.AsyncClient(transport=transport, timeout=60) as http:
            response = await http.request(
                os.environ.get("METHOD", "GET"),
                os.environ["TARGET_URL"],
                json=None if body is None else json.loads(body),
            )
            text = response.text
        result |= {"ok": response.is_success, "status": response.status_code, "body": text[:20_000]}
        result |= {"receipt": receipt_of(response)}
    except (PaymentError, httpx.HTTPError) as error:
        result["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(result | {"exchanges": wire.exchanges}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())

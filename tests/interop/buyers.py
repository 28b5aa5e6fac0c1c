"""How each client of the matrix buys: an official one in a process of its own, ours and the openai SDK's in this."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2
import openai

from tests.interop.cells import OPENAI, Cell, Client, Facilitator
from tests.interop.goods import Goods, read_answer
from tests.interop.launch import Peer, ask
from tests.interop.town import Party, Town
from x402 import Limits, X402Auth, networks
from x402.client.choose import Policy
from x402.settings import ClientSettings

CALL_SECONDS_MAX = 60
PAYMENT_HEADERS = {1: "x-payment", 2: "payment-signature"}

_PEERS = {
    Client.PYTHON: Peer.PYTHON_CLIENT,
    Client.FETCH: Peer.FETCH_CLIENT,
    Client.FETCH_V1: Peer.FETCH_V1_CLIENT,
}


@dataclass(frozen=True)
class Purchase:
    """What a client has to show: the answer, the decoded receipt, and how it went on the wire.

    `statuses` are those of the replies in order; `paid_with` names the payment headers that were sent. `signatures`
    counts the different payments that were presented, where the client is in this process. `reason` says in words
    why there is no answer, and is empty if there is one.
    """

    reason: str
    answer: str = ""
    receipt: Mapping[str, Any] | None = None
    statuses: tuple[int, ...] = ()
    paid_with: frozenset[str] = frozenset()
    signatures: int | None = None


def buy(cell: Cell, goods: Goods, town: Town, buyer: Party) -> Purchase:
    """Buys the goods as the cell's client does.

    Raises `PeerError`, `InstallError`, and what the libraries of our own seats raise.
    """
    if cell.client in _PEERS:
        return _by_peer(cell, goods, town, buyer)
    till = _Witness(cell, town, goods.url)
    auth = _auth(cell, town, buyer)
    if cell.client not in OPENAI:
        answer = _by_us(cell, goods, auth, till)
    elif cell.client in (Client.OPENAI, Client.OPENAI_STREAM):
        answer = _by_openai(goods, auth, till)
    else:
        answer = asyncio.run(_by_openai_async(goods, auth, till))
    receipt = auth.last_receipt
    reason = "" if till.statuses[-1] == 200 else f"HTTP {till.statuses[-1]}: {answer[:300]}"
    signed = len(auth.journal.history())
    if len(till.payments) != signed:
        reason = reason or f"the journal knows {signed} payments, {len(till.payments)} were presented"
    return Purchase(
        reason=reason,
        answer=answer,
        receipt=None if receipt is None else receipt.as_json(),
        statuses=tuple(till.statuses),
        paid_with=frozenset(till.paid_with),
        signatures=len(till.payments),
    )


def _by_peer(cell: Cell, goods: Goods, town: Town, buyer: Party) -> Purchase:
    network = cell.network if cell.version == 2 else networks.to_v1(cell.network)
    wanted = {"TARGET_URL": goods.url, "METHOD": goods.method, "NETWORK": network, "X402_VERSION": str(cell.version)}
    if goods.body is not None:
        wanted["BODY"] = json.dumps(goods.body)
    verdict = ask(_PEERS[cell.client], wanted | buyer.keys | town.nodes)
    return Purchase(
        reason=verdict.reason,
        answer=read_answer(cell, verdict.body) if verdict.ok else "",
        receipt=verdict.receipt,
        statuses=tuple(exchange.status for exchange in verdict.exchanges),
        paid_with=frozenset(name for exchange in verdict.exchanges for name in exchange.paid_with),
    )


def _auth(cell: Cell, town: Town, buyer: Party) -> X402Auth:
    return X402Auth(
        buyer.wallet,
        policy=Policy(networks=(cell.network,), mainnet=False),
        limits=Limits(per_call="0.10"),
        journal=":memory:",
        svm_rpc=town.nodes["SVM_RPC_URL"],
        settings=ClientSettings.model_construct(),
    )


@dataclass
class _Witness:
    """Sees every reply of the seller before the client does. Hides the v2 challenge from a client that is to pay in
    v1, and lets a stalled chain go on once somebody has been told to wait."""

    cell: Cell
    town: Town
    url: str
    statuses: list[int] = field(default_factory=list)
    payments: set[str] = field(default_factory=set)
    paid_with: set[str] = field(default_factory=set)

    def see(self, response: Any) -> None:
        """The hook of a blocking client."""
        if str(response.request.url) != self.url:
            return  # The client asks a Solana node for a blockhash on the way.
        self.statuses.append(response.status_code)
        for name in PAYMENT_HEADERS.values():
            if payment := response.request.headers.get(name):
                self.paid_with.add(name)
                self.payments.add(payment)
        if self.cell.version == 1:
            response.headers.pop("payment-required", None)
        if response.status_code == 503 and self.cell.facilitator is Facilitator.OURS_STALLED:
            self.town.resume()

    async def see_async(self, response: Any) -> None:
        """The hook of an asynchronous client."""
        await asyncio.to_thread(self.see, response)


def _by_us(cell: Cell, goods: Goods, auth: X402Auth, till: _Witness) -> str:
    hooks = {"response": [till.see]}
    with httpx.Client(auth=auth, event_hooks=hooks, timeout=CALL_SECONDS_MAX, trust_env=False) as client:
        response = client.request(goods.method, goods.url, json=goods.body)
        return read_answer(cell, response.text) if response.is_success else response.text


def _by_openai(goods: Goods, auth: X402Auth, till: _Witness) -> str:
    """The SDK as it comes, default retries included, on httpx."""
    hooks = {"response": [till.see]}
    # The SDK works with httpx as well, and its annotations name httpx2 only.
    http: Any = httpx.Client(auth=auth, event_hooks=hooks, timeout=CALL_SECONDS_MAX, trust_env=False)
    with openai.OpenAI(base_url=f"{goods.base}/api/v1", api_key="none", http_client=http) as sdk:
        answer = sdk.chat.completions.create(**_wanted(goods))
        if isinstance(answer, openai.Stream):
            return "".join(_delta(chunk) for chunk in answer)
        return answer.choices[0].message.content or ""


async def _by_openai_async(goods: Goods, auth: X402Auth, till: _Witness) -> str:
    """The same, asynchronous and on httpx2, which the SDK uses by itself."""
    hooks = {"response": [till.see_async]}
    http = httpx2.AsyncClient(auth=auth, event_hooks=hooks, timeout=CALL_SECONDS_MAX, trust_env=False)
    async with openai.AsyncOpenAI(base_url=f"{goods.base}/api/v1", api_key="none", http_client=http) as sdk:
        answer = await sdk.chat.completions.create(**_wanted(goods))
        if isinstance(answer, openai.AsyncStream):
            return "".join([_delta(chunk) async for chunk in answer])
        return answer.choices[0].message.content or ""


def _wanted(goods: Goods) -> dict[str, Any]:
    assert goods.body is not None
    return goods.body


def _delta(chunk: Any) -> str:
    return "".join(choice.delta.content or "" for choice in chunk.choices)

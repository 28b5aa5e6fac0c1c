"""Many at once over several processes that share one ledger: one payment everywhere, one balance many times, one key.

Each race returns what went wrong in words; an empty list is the acquittal. Sums are checked against the chains.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.live import customer
from tests.live.chain_facts import Chains
from tests.live.village import Village
from tests.payments import EvmPayer, SvmPayer, evm_requirement
from x402.lifecycle import Outcome
from x402.networks import BASE_SEPOLIA
from x402.wire.challenge import Challenge, Requirement, read_challenge
from x402.wire.facilitation import Facilitation
from x402.wire.payment import Payment
from x402.wire.receipt import Receipt, parse_receipt

TIMEOUT_SECONDS = 120.0
CHAT = "/api/v1/chat/completions"
UNIT = 1000
"""What one settlement of `settles` moves, in atomic USDC."""
ATTEMPTS = 4
AGAIN = 10
"""One settlement in this many is asked of a second facilitator at the same moment."""


@dataclass
class Field:
    """A village whose services run, and connections to it."""

    village: Village
    chains: Chains
    http: httpx.AsyncClient = field(
        default_factory=lambda: httpx.AsyncClient(
            timeout=TIMEOUT_SECONDS, trust_env=False, limits=httpx.Limits(max_connections=600)
        )
    )

    async def fund(self, address: str, usdc: int) -> None:
        """Atomic USDC from the faucet; a Solana account gets lamports for its rent as well."""
        fuel = 0 if address.startswith("0x") else 10**9
        (await self.http.post(f"{self.village.urls.model}/fund", json={address: (usdc, fuel)})).raise_for_status()

    async def runs(self, names: Sequence[str]) -> int:
        """How often the model has worked for these calls."""
        told = (await self.http.get(f"{self.village.urls.model}/runs")).json()
        return sum(told.get(name, 0) for name in names)

    async def blockhash(self) -> str:
        """A recent one."""
        answer = await asyncio.to_thread(self.chains.svm.ask, "getLatestBlockhash")
        return str(answer["value"]["blockhash"])

    async def received(self, network: str) -> int:
        """The seller's atomic USDC on a network."""
        return (await asyncio.to_thread(self.chains.received))[network]


def _body(name: str, *, stream: bool) -> bytes:
    asked: dict[str, Any] = {"model": customer.MODEL, "messages": [{"role": "user", "content": name}]}
    return json.dumps(asked | ({"stream": True} if stream else {})).encode()


async def _offer(played: Field, body: bytes, network: str) -> Requirement:
    url = f"{played.village.url_of(played.village.gateways[0])}{CHAT}"
    unpaid = await played.http.post(url, content=body)
    challenge = read_challenge(unpaid.headers.multi_items(), unpaid.content)
    assert isinstance(challenge, Challenge), unpaid.text
    return next(one for one in challenge.accepts if one.network == network)


async def _sign(played: Field, payer: EvmPayer | SvmPayer, offer: Requirement) -> Payment:
    if isinstance(payer, EvmPayer):
        return payer.pay(offer)
    return payer.pay(offer, await played.blockhash())


async def _pay(played: Field, gateway: str, body: bytes, payment: Payment) -> httpx.Response:
    headers = {payment.header_name: payment.as_header(), "Content-Type": "application/json"}
    return await played.http.post(f"{played.village.url_of(gateway)}{CHAT}", content=body, headers=headers)


def _spread(names: Sequence[str], count: int) -> list[str]:
    return [names[number % len(names)] for number in range(count)]


async def identical(
    played: Field, count: int, network: str, *, stream: bool, between: Callable[[], None] = lambda: None
) -> list[str]:
    """The same payment with the same request, `count` times at once over all gateways, and once more at each of them
    after `between` (faults A04, A06, A07)."""
    name = f"identical/{secrets.token_hex(8)}"
    body = _body(name, stream=stream)
    offer = await _offer(played, body, network)
    payer: EvmPayer | SvmPayer = EvmPayer() if network == BASE_SEPOLIA else SvmPayer()
    await played.fund(payer.address, 10 * offer.amount)
    payment = await _sign(played, payer, offer)
    before = await played.received(network)
    gateways = _spread(played.village.gateways, count)
    replies = await asyncio.gather(*(_pay(played, gateway, body, payment) for gateway in gateways))
    wrong = await _served_once(played, replies, [name])
    await asyncio.to_thread(between)
    later = [await _pay(played, gateway, body, payment) for gateway in played.village.gateways]
    whole = {reply.content for reply in (*replies, *later) if reply.status_code == 200}
    if len(whole) != 1 or any(reply.status_code != 200 for reply in later):
        statuses = [reply.status_code for reply in later]
        wrong.append(f"{name}: {len(whole)} different answers; sent again later: {statuses}")
    if await played.runs([name]) != 1:
        wrong.append(f"{name}: the model worked {await played.runs([name])} times in the end")
    moved = await played.received(network) - before
    if moved != offer.amount:
        wrong.append(f"{name}: {moved} units moved, the price is {offer.amount}")
    return wrong


async def _served_once(played: Field, replies: Sequence[httpx.Response], names: Sequence[str]) -> list[str]:
    statuses = Counter(reply.status_code for reply in replies)
    wrong = []
    if not statuses[200] or set(statuses) - {200, 409}:
        told = next((reply.text[:300] for reply in replies if reply.status_code not in (200, 409)), "")
        wrong.append(f"{names[0]}: answered {dict(statuses)} {told}")
    if any(reply.status_code == 409 and "Retry-After" not in reply.headers for reply in replies):
        wrong.append(f"{names[0]}: a 409 that does not say when to come again")
    if await played.runs(names) != 1:
        wrong.append(f"{names[0]}: the model worked {await played.runs(names)} times")
    return wrong


async def over_commit(played: Field, count: int, network: str, affordable: int = 1) -> list[str]:
    """`count` payments at once out of a balance that covers `affordable` of them (fault A08)."""
    names = [f"over/{secrets.token_hex(8)}" for _ in range(count)]
    bodies = [_body(name, stream=False) for name in names]
    offers = [await _offer(played, body, network) for body in bodies]
    payer: EvmPayer | SvmPayer = EvmPayer() if network == BASE_SEPOLIA else SvmPayer()
    price = offers[0].amount
    await played.fund(payer.address, affordable * price)
    payments = [await _sign(played, payer, offer) for offer in offers]
    before = await played.received(network)
    gateways = _spread(played.village.gateways, count)
    jobs = zip(gateways, bodies, payments, strict=True)
    replies = await asyncio.gather(*(_pay(played, *job) for job in jobs))
    statuses = Counter(reply.status_code for reply in replies)
    runs, moved = await played.runs(names), await played.received(network) - before
    wrong = []
    if statuses[200] != affordable or set(statuses) - {200, 402}:
        told = next((reply.text[:300] for reply in replies if reply.status_code not in (200, 402)), "")
        wrong.append(f"{names[0]}: a balance for {affordable}, answered {dict(statuses)} {told}")
    if runs > affordable:
        wrong.append(f"{names[0]}: a balance for {affordable}, and the model worked {runs} times")
    if moved != statuses[200] * price:
        wrong.append(f"{names[0]}: {moved} units moved for {statuses[200]} answers at {price}")
    return wrong


async def settles(played: Field, count: int) -> list[str]:
    """`count` settlements at once over all facilitators and their keys: all succeed, nonces gap-free (D01, E11)."""
    village = played.village
    payers = [EvmPayer() for _ in range(min(count, 20))]
    for payer in payers:
        await played.fund(payer.address, UNIT * count)
    offer = evm_requirement(village.seller.address(BASE_SEPOLIA), UNIT)
    payments = [payers[number % len(payers)].pay(offer) for number in range(count)]
    before = await played.received(BASE_SEPOLIA)
    mined = {one.signer: one.mined for one in await asyncio.to_thread(played.chains.signed, village.signers)}
    facilitators = _spread(village.facilitators, count)
    jobs = [_settle(played, where, payment, offer) for where, payment in zip(facilitators, payments, strict=True)]
    others = _spread(village.facilitators[::-1], count)
    twice = [_settle(played, others[number], payments[number], offer) for number in range(0, count, AGAIN)]
    receipts = await asyncio.gather(*jobs, *twice)
    wrong = [f"not settled: {receipt}" for receipt in receipts if receipt.outcome is not Outcome.SETTLED][:4]
    for number, receipt in zip(range(0, count, AGAIN), receipts[count:], strict=True):
        if receipt.transaction != receipts[number].transaction:
            wrong.append(f"two transactions for one payment: {receipt} and {receipts[number]}")
    moved = await played.received(BASE_SEPOLIA) - before
    if moved != UNIT * count:
        wrong.append(f"{moved} units moved, {UNIT * count} were signed")
    signed = await asyncio.to_thread(played.chains.signed, village.signers)
    sent, named = sum(one.mined - mined[one.signer] for one in signed), {receipt.transaction for receipt in receipts}
    if sent != len(named):
        # Payments share transactions, and each of those is somebody's receipt.
        wrong.append(f"{sent} transactions were mined, and receipts name {len(named)}")
    if any(one.mined != one.with_waiting for one in signed):
        wrong.append(f"transactions are left waiting: {signed}")
    return wrong


async def _settle(played: Field, facilitator: str, payment: Payment, offer: Requirement) -> Receipt:
    """The facilitator's last word: what is pending is asked again, as a gateway would."""
    asked = Facilitation(payment=payment, requirement=offer).as_json()
    for _ in range(ATTEMPTS):
        answer = await played.http.post(f"{played.village.url_of(facilitator)}/settle", json=asked)
        receipt = parse_receipt(answer.raise_for_status().json())
        if receipt.outcome is not Outcome.PENDING:
            break
    return receipt

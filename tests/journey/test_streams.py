"""Money in every way there is, at once, and out again: chain, ledgers, bills and accounts agree to the unit.

X402_STREAMS=200 plays the streams at full size.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from x402.billing import Bill, Metered, PaidBy
from x402.cli.app import app
from x402.client.approval import UNLIMITED, approve
from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.client.journal import IN_MEMORY, Journal
from x402.devnet.model import STORY
from x402.devnet.town import FUEL_WEI, Town
from x402.devnet.town_parties import NETWORKS, Role
from x402.gateway.inference.earnings import PayoutLimits, pay_out, preview
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET, get
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import BillFilter, Payout
from x402.ports.evm import RpcEvmChain
from x402.ports.provider_book import SqlProviders
from x402.ports.providers import RegisteredProvider
from x402.settings import ClientSettings

STREAMS = int(os.environ.get("X402_STREAMS", "40"))
LOOKS = 200
"""How often is looked, 50 ms apart, whether all that is under way has come to its end."""
ASK: dict[str, Any] = {
    "model": STORY,
    "messages": [{"role": "user", "content": "Say something short."}],
    "stream": True,
    "max_tokens": 24,
}
HOLDERS = {
    BASE_SEPOLIA: ("exact on Base", "balance"),
    SOLANA_DEVNET: ("exact on Solana", "balance on Solana"),
}
"""By network: who pays there, and who spends what lies with the seller."""
WAYS = ("exact on Base", "exact on Solana", "upto", "balance")


class Customers:
    """The town's buyer, once for each way to pay, with one journal."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.journal = Journal(IN_MEMORY, clock=lambda: int(time.time()))
        self.exit = AsyncExitStack()
        self.ways: dict[str, httpx.AsyncClient] = {}

    async def open(self) -> None:
        """Sign in and, once, let Permit2 take what `upto` is paid with: permits in payments go one after another."""
        await self._approve()
        policies = {
            "exact on Base": (Policy(networks=(BASE_SEPOLIA,), schemes=("exact",), mainnet=False), False),
            "exact on Solana": (Policy(networks=(SOLANA_DEVNET,), mainnet=False), False),
            "upto": (Policy(networks=(BASE_SEPOLIA,), schemes=("upto",), mainnet=False), False),
            "balance": (Policy(networks=(BASE_SEPOLIA,), schemes=("exact",), mainnet=False), True),
            "balance on Solana": (Policy(networks=(SOLANA_DEVNET,), mainnet=False), True),
        }
        for way, (policy, sign_in) in policies.items():
            auth = X402Auth(
                self.town.parties.buyer,
                policy=policy,
                limits=Limits(per_call="10", per_day="1000"),
                journal=self.journal,
                svm_rpc=self.town.urls.svm_rpc,
                evm_rpc=self.town.urls.evm_rpc,
                sign_in=sign_in,
                settings=ClientSettings.model_construct(
                    chain_id=SOLANA_DEVNET if way == "balance on Solana" else BASE_SEPOLIA
                ),
            )
            client = httpx.AsyncClient(auth=auth, trust_env=False, timeout=120, limits=httpx.Limits(max_connections=64))
            self.ways[way] = await self.exit.enter_async_context(client)

    async def _approve(self) -> None:
        town, network = self.town, get(BASE_SEPOLIA)
        buyer = town.parties.buyer
        await town.evm.fund(buyer.address(BASE_SEPOLIA), 0, FUEL_WEI)
        chain = RpcEvmChain(town.urls.evm_rpc, network.chain_id)
        try:
            assert (await approve(buyer, chain, network, UNLIMITED, mainnet=False)).now > 0
        finally:
            await chain.aclose()

    async def stream(self, way: str, words: str = "") -> str:
        """One paid stream, read to its end; what it said."""
        ask = {**ASK, "messages": [{"role": "user", "content": words or "Say something short."}]}
        url = f"{self.town.urls.chat}/chat/completions"
        async with self.ways[way].stream("POST", url, json=ask) as answer:
            text = (await answer.aread()).decode()
        assert (answer.status_code, text.rstrip().endswith("data: [DONE]")) == (200, True), text[-500:]
        return text

    async def session(self, way: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask for something of the account's."""
        url = f"{self.town.urls.chat}/session/{path}"
        client = self.ways[way]
        answer = await (client.get(url) if body is None else client.post(url, json=body))
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def reconcile(self) -> None:
        """Have the gateway go on with what it owes, as it does every few seconds."""
        await self.town.shop.state.paywall.members.reconcile()

    @property
    def book(self) -> SqlAccounts:
        return SqlAccounts(self.town.gateway_ledger)


@pytest.fixture
async def customers() -> AsyncIterator[Customers]:
    async with Town(engine="py-evm") as town:
        customers = Customers(town)
        async with customers.exit:
            await customers.open()
            yield customers


async def audited(customers: Customers) -> dict[str, Any]:
    """What `x402 ledger audit` says of the gateway's ledger, the chains asked too."""
    urls = customers.town.urls
    nodes = [f"{BASE_SEPOLIA}={urls.evm_rpc}", f"{SOLANA_DEVNET}={urls.svm_rpc}"]
    place = str(customers.town.directory / "gateway.sqlite")
    asked = ["ledger", "audit", place, "--json", *(word for node in nodes for word in ("--rpc-url", node))]
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    told: dict[str, Any] = json.loads(result.stdout)
    assert (result.exit_code, told["violations"], told["agrees"]) == (0, [], True), result.output
    return told


async def settled(customers: Customers) -> None:
    """Wait until seller and facilitator have nothing under way."""
    for _ in range(LOOKS):
        if not await _under_way(customers):
            return
        await asyncio.sleep(0.05)
    pytest.fail("something is still under way")


async def _under_way(customers: Customers) -> int:
    unresolved = (await customers.town.sums(customers.journal)).unresolved
    return unresolved["gateway"] + unresolved["facilitator"]


async def test_I5_I13_streams_paid_in_every_way_at_once_leave_chain_and_books_equal(customers: Customers) -> None:
    """What the seller got on chain is what was billed and what accounts still hold, to the unit."""
    town = customers.town
    before = await town.balances()
    await customers.session("balance", "deposit", {"amount": "2.00"})
    for way in WAYS:
        await customers.stream(way)
    count = STREAMS // len(WAYS)
    begun = time.perf_counter()
    texts = await asyncio.gather(*(customers.stream(way, f"Story {n}") for n in range(count) for way in WAYS))
    seconds = time.perf_counter() - begun
    assert len(texts) == count * len(WAYS)
    await settled(customers)
    after, sums = await town.balances(), await town.sums(customers.journal)
    received = {network: after.usdc[Role.SELLER, network] - before.usdc[Role.SELLER, network] for network in NETWORKS}
    paid = {network: before.usdc[Role.BUYER, network] - after.usdc[Role.BUYER, network] for network in NETWORKS}
    assert received == paid == sums.gateway == sums.facilitator
    told = await audited(customers)
    assert told["obligations"] == []
    for account in told["chain"]:
        assert account["ledger_units"] == account["chain_units"] == received[account["network"]]
    sold = await _charged(customers)
    held = int(told["accounts"]["units"]) - int(told["accounts"]["gifts"])
    assert sum(received.values()) == sold + held > 0
    print(f"\n{len(texts)} streams in {seconds:.1f} s; received {received}, sold {sold}, held {held}")


async def test_row_084_a_balance_goes_back_to_the_wallet_by_a_real_transfer(customers: Customers) -> None:
    """Paid in, spent in part, and the rest paid back, on both chains; then nothing is left to pay."""
    town = customers.town
    for network, (_, way) in HOLDERS.items():
        before, billed = await town.balances(), await _charged(customers)
        await customers.session(way, "deposit", {"amount": "0.50"})
        await customers.stream(way)
        spent = await _charged(customers) - billed
        assert spent > 0
        assert (await town.balances()).usdc[Role.BUYER, network] == before.usdc[Role.BUYER, network] - 500_000
        done = await customers.session(way, "withdraw", {})
        for _ in range(LOOKS):
            if done["state"] == Payout.PAID:
                break
            await asyncio.sleep(0.05)
            await customers.reconcile()
            done = await customers.session(way, f"withdrawals/{done['id']}")
        assert (done["state"], bool(done["transaction"])) == (Payout.PAID, True)
        assert done["amount_micro_usdc"] == 500_000 - spent
        after = await town.balances()
        assert after.usdc[Role.BUYER, network] == before.usdc[Role.BUYER, network] - spent
        assert after.usdc[Role.SELLER, network] == before.usdc[Role.SELLER, network] + spent
        await customers.reconcile()
        assert (await town.balances()).usdc == after.usdc
        assert (await customers.session(way, "balance"))["balance_micro_usdc"] == 0
    await audited(customers)


async def test_row_077_what_a_payment_did_not_use_pays_the_next_answer(customers: Customers) -> None:
    """A bound is paid, the rest is credited, and the same wallet spends it by signing in: nothing more is paid."""
    town = customers.town
    for network, (pays, spends) in HOLDERS.items():
        billed = await _charged(customers)
        await customers.stream(pays)
        await settled(customers)
        paid = (await town.balances()).usdc[Role.SELLER, network]
        credit = (await customers.session(spends, "balance"))["balance_micro_usdc"]
        assert 0 < credit == paid - (await _charged(customers) - billed)
        ask = {**ASK, "stream": False, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
        answer = await customers.ways[spends].post(f"{town.urls.chat}/chat/completions", json=ask)
        assert answer.status_code == 200, answer.text
        left = (await customers.session(spends, "balance"))["balance_micro_usdc"]
        assert left < credit
        assert left == paid - (await _charged(customers) - billed)
        assert (await town.balances()).usdc[Role.SELLER, network] == paid
    await audited(customers)


@pytest.mark.parametrize("network", NETWORKS)
async def test_row_083_a_provider_is_paid_by_a_real_transfer_and_only_once(customers: Customers, network: str) -> None:
    """A dry run moves nothing; two batches, and two looks at what is open, are one transfer."""
    town = customers.town
    await customers.session(HOLDERS[network][1], "deposit", {"amount": "1"})
    # The buyer's wallet stands for the provider's: it has an account for the token on either chain.
    wallet = town.parties.buyer.address(network)
    providers, until = SqlProviders(town.gateway_ledger), int(time.time())
    offer = RegisteredProvider(id=wallet, account=f"{network}:{wallet}", offer="{}", issued_at=1)
    assert await providers.register(offer)
    metered = Metered(model=STORY, provider=wallet, charged=90_000, complete=True)
    bill = Bill(bill_id="sold", at=until - 10, account="payer", paid_by=PaidBy.BALANCE, metered=metered, earned=80_000)
    assert await customers.book.add(bill)
    # What the bill says was sold elsewhere: the deposit alone is the depositor's, and the audit would miss it.
    seller = town.parties.address(Role.SELLER, network)
    await (town.evm if network == BASE_SEPOLIA else town.svm).fund(seller, 80_000, 0)
    before = (await town.balances()).usdc
    limits = PayoutLimits(ledger=town.gateway_ledger, per_day=10**6, now=until)
    (due,) = await preview(providers, customers.book, until=until, bonus_percent=0, limits=limits)
    await customers.reconcile()
    assert (due.earned.units, (await town.balances()).usdc) == (80_000, before)
    (made,) = await pay_out(providers, customers.book, until=until, bonus_percent=0, limits=limits)
    assert (made.earned, made.payout) == (due.earned, due.payout)
    for _ in range(2):
        await customers.reconcile()
    assert await pay_out(providers, customers.book, until=until, bonus_percent=0, limits=limits) == []
    done = await customers.book.withdrawal(made.earned.payout_id)
    assert done is not None
    assert (done.state, bool(done.transaction)) == (Payout.PAID, True)
    after = (await town.balances()).usdc
    assert after[Role.BUYER, network] - before[Role.BUYER, network] == 80_000
    assert before[Role.SELLER, network] - after[Role.SELLER, network] == 80_000
    await audited(customers)


async def _charged(customers: Customers) -> int:
    return sum(one.charged for one in await customers.book.sums(BillFilter()))

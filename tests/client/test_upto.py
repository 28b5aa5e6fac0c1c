"""Paying for what was used: the client's side of scheme upto, on the real chain (faults B16, B13, B11)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.chains import EvmWorld
from tests.client.metered import MAXIMUM, Counter, open_counter
from tests.payments import evm_asset, upto_requirement
from x402.client import allowance
from x402.client.allowance import Account, Allowance
from x402.client.approval import UNLIMITED, approve, units_of
from x402.client.budget import Limits
from x402.client.choose import Buyer, Policy, choose
from x402.client.flow import receipt_of
from x402.client.record import Finding
from x402.client.wallet import Wallet
from x402.errors import DeclinedError, UnavailableError
from x402.networks import BASE, BASE_SEPOLIA, get
from x402.ports.evm import RpcEvmChain
from x402.schemes import gas_sponsoring
from x402.stages import Settled, State
from x402.wire.challenge import Challenge, Requirement

PAYER = "0x" + "aa" * 20
KEY = (BASE_SEPOLIA, evm_asset().address)


@pytest.fixture
async def counter(evm_devnet: EvmWorld) -> AsyncIterator[Counter]:
    async with open_counter(evm_devnet) as counter:
        yield counter


async def test_B16_a_wallet_without_gas_pays_what_it_used(counter: Counter) -> None:
    auth = counter.auth()
    async with counter.client(auth) as client:
        response = await client.get("/note?units=300")
        assert response.status_code == 200, response.text
        receipt = receipt_of(response)
        assert receipt is not None
        assert (receipt.amount, await counter.shop.received()) == ("300", 300)
        (record,) = auth.journal.records()
        assert isinstance(record.entry.stage, Settled)
        assert (record.entry.amount, record.entry.subject.amount, record.usd) == (300, MAXIMUM, Decimal("0.01"))
        # The first permit is used up, so the next payment brings another.
        assert (await client.get("/note?units=200")).status_code == 200
        assert await counter.shop.received() == 500


async def test_an_allowance_that_is_there_needs_no_permit(counter: Counter) -> None:
    await counter.shop.approve()
    auth = counter.auth()
    async with counter.client(auth) as client:
        assert (await client.get("/note?units=7")).status_code == 200
    (record,) = auth.journal.records()
    sent = record.header
    assert "upto" in record.entry.subject.record["scheme"]
    assert gas_sponsoring.EXTENSION not in sent
    assert await counter.shop.received() == 7


async def test_B11_a_maximum_counts_whole_until_the_chain_shows_what_was_taken(counter: Counter) -> None:
    await counter.shop.approve()
    auth = counter.auth(limits=Limits(per_day="0.015"))
    async with counter.client(auth) as client:
        assert (await client.get("/note?units=300")).status_code == 200
        assert auth.journal.spent(86_400) == Decimal("0.01")
        # A second maximum does not fit beside the first; the chain shows that only a part of that was taken.
        assert (await client.get("/note?units=400")).status_code == 200
        (first, second) = auth.journal.records()
        assert first.check is not None
        assert first.check.finding is Finding.CONFIRMED
        assert (first.usd, second.usd) == (Decimal("0.0003"), Decimal("0.01"))
        assert auth.journal.spent(86_400) == Decimal("0.0103")
    silent = replace(auth.terms, confirm=lambda: 0)
    auth.terms = silent
    async with counter.client(auth) as client:
        with pytest.raises(DeclinedError, match="limit"):
            await client.get("/note?units=500")


async def test_B16_a_receipt_that_names_less_than_was_taken_is_found_out(counter: Counter) -> None:
    await counter.shop.approve()
    auth = counter.auth()
    async with counter.client(auth) as client:
        response = await client.get("/note?units=900")
    receipt = receipt_of(response)
    assert receipt is not None
    (record,) = auth.journal.records()
    lie = receipt.model_copy(update={"amount": "1"})
    with auth.journal._transaction() as db:
        db.execute("UPDATE payments SET stage = ?", (f'{{"transaction": "{receipt.transaction}", "amount": 1}}',))
    auth.journal.conclude(record.pay_id, receipt=lie)
    assert auth.terms.confirm() == 1
    (found,) = auth.journal.records()
    assert found.check is not None
    assert found.check.finding is Finding.DISPUTED
    assert (found.entry.amount, found.usd) == (900, Decimal("0.0009"))


async def test_what_used_nothing_stays_reserved_until_it_is_dead(counter: Counter) -> None:
    auth = counter.auth()
    async with counter.client(auth) as client:
        response = await client.get("/note?units=0")
        receipt = receipt_of(response)
        assert receipt is not None
        assert (receipt.success, receipt.transaction, receipt.amount) == (True, "", "0")
    (record,) = auth.journal.records()
    assert (record.state, record.open) == (State.EXPOSED, False)
    assert await counter.shop.sent() == 0


async def test_without_a_node_exact_is_paid(counter: Counter) -> None:
    auth = counter.auth(evm_rpc="")
    async with counter.client(auth) as client:
        response = await client.get("/note?units=1")
    assert response.status_code == 200
    (record,) = auth.journal.records()
    assert "scheme" not in record.entry.subject.record
    assert await counter.shop.received() == MAXIMUM


def test_a_node_that_says_gas_is_dear_costs_no_more_than_the_cap() -> None:
    assert Account(0, 10**15, 10**15).fees == (allowance.FEE_MAX, allowance.FEE_MAX)
    assert Account(0, 10**6, 10**5).fees == (2 * 10**6, 10**5)


def buyer(**members: Any) -> Buyer:
    return Buyer({"eip155": PAYER}, "shop.test", secure=True, **members)


def offers(*schemes: str, **members: Any) -> Challenge:
    made = []
    for scheme in schemes:
        offer = upto_requirement("0x" + "fa" * 20, "0x" + "5e" * 20, MAXIMUM, **members)
        exact = offer.model_copy(update={"scheme": "exact", "extra": {"name": "USDC", "version": "2"}})
        made.append(exact if scheme == "exact" else offer)
    return Challenge(accepts=tuple(made))


def chosen(challenge: Challenge, who: Buyer, *schemes: str) -> Requirement:
    return choose(challenge, who, Policy(schemes=schemes or ("exact", "upto"))).requirement


def test_the_scheme_is_chosen_by_price_then_by_preference() -> None:
    rich = buyer(allowances={KEY: Allowance(UNLIMITED)})
    both = offers("exact", "upto")
    assert chosen(both, rich).scheme == "exact"
    assert chosen(both, rich, "upto", "exact").scheme == "upto"
    assert chosen(both, rich, "exact").scheme == "exact"
    cheaper = Challenge(accepts=(both.accepts[0], both.accepts[1].model_copy(update={"amount": 9})))
    assert chosen(cheaper, rich).scheme == "upto"
    # What is taken before the answer is the less protective way, whatever is preferred.
    upfront = both.accepts[0].model_copy(update={"extra": {**both.accepts[0].extra, "paymentFlow": "upfront"}})
    assert chosen(Challenge(accepts=(upfront, both.accepts[1])), rich).scheme == "upto"


@pytest.mark.parametrize(
    ("who", "code"),
    [
        (buyer(), "permit2_allowance_unknown"),
        (buyer(allowances={KEY: Allowance(MAXIMUM - 1)}), "permit2_allowance_required"),
        (buyer(allowances={KEY: Allowance(0, None)}, sponsored=True), "permit2_allowance_required"),
        (buyer(allowances={KEY: Allowance(0, 3)}, sponsored=True), ""),
        (buyer(allowances={KEY: Allowance(0, None, Account(0, 1, 1))}), ""),
        (buyer(allowances={KEY: Allowance(MAXIMUM)}), ""),
        (buyer(allowances={KEY: Allowance(UNLIMITED)}, cap=Decimal("0.001")), "price_above_limit"),
    ],
)
def test_an_offer_is_taken_only_when_the_chain_would(who: Buyer, code: str) -> None:
    try:
        found = chosen(offers("upto"), who).scheme
    except DeclinedError as error:
        found = error.code
    assert found == (code or "upto")


def test_who_has_not_approved_is_told_how() -> None:
    with pytest.raises(DeclinedError, match="x402 approve --network base-sepolia"):
        chosen(offers("upto"), buyer(allowances={KEY: Allowance(0)}))


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"assetTransferMethod": "eip3009"}, "unsupported_transfer_method"),
        ({"facilitatorAddress": "nobody"}, "unpayable_offer"),
        ({"facilitatorAddress": None}, "unpayable_offer"),
        ({"name": "Fake"}, "eip712_domain_mismatch"),
        ({"paymentFlow": "escrow"}, "unknown_payment_flow"),
    ],
)
def test_B04_an_offer_that_is_none_is_declined(extra: dict[str, Any], code: str) -> None:
    good = offers("upto").accepts[0]
    bad = good.model_copy(update={"extra": {**good.extra, **extra}})
    with pytest.raises(DeclinedError) as refused:
        chosen(Challenge(accepts=(bad,)), buyer(allowances={KEY: Allowance(UNLIMITED)}))
    assert refused.value.code == code


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"[1]", b'[{"id":0,"result":"0x"}]', b'[{"id":0,"error":{}}]', b"[" * 3000]
)
def test_a_node_that_says_nothing_knows_no_allowance(body: bytes) -> None:
    assert allowance.read_answer(200, body) is None
    assert allowance.read_answer(500, b'[{"id":0,"result":"0x' + b"0" * 64 + b'"}]') is None


async def test_approve_is_sent_once(evm_devnet: EvmWorld) -> None:
    network, wallet = get(BASE_SEPOLIA), Wallet.new(testnet_only=True)
    chain = RpcEvmChain(evm_devnet.url, network.chain_id)
    with pytest.raises(UnavailableError):
        await approve(wallet, chain, network, UNLIMITED, mainnet=False)
    await evm_devnet.fund(wallet.evm_address, 0, 10**18)
    done = await approve(wallet, chain, network, units_of("25", network), mainnet=False)
    assert (done.before, done.now, bool(done.transaction)) == (0, 25_000_000, True)
    again = await approve(wallet, chain, network, units_of("25", network), mainnet=False)
    assert (again.now, again.transaction) == (25_000_000, "")
    with pytest.raises(DeclinedError):
        await approve(wallet, chain, get(BASE), 1, mainnet=True)
    await chain.aclose()

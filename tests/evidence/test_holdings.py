"""What a seller owes his payers, against what his wallets hold: real chains, the real command, both ledgers (I14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.cli.conftest import run
from tests.evidence.test_books import audited
from tests.facilitator.world import EvmShop, SvmShop, facilitator
from tests.payments import EvmPayer, SvmPayer
from tests.postgres import Postgres
from x402.billing import Booking, EntryKind, Posting
from x402.lifecycle import Event, Party, begin
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports.account_book import SqlAccounts
from x402.ports.accounts import Payout, Reservation, Withdrawal
from x402.ports.ledger import SqlLedger
from x402.schemes.subject import subject_of
from x402.stages import Claimed, Delivered, Owed, Settled, Settling
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

SHOP = Party.GATEWAY
ELSEWHERE = EvmPayer().address


class Seller:
    """A seller with keys on both chains, who is paid for real and remembers it in one ledger."""

    def __init__(self, place: str, evm: EvmShop, svm: SvmShop) -> None:
        self.place, self.evm, self.svm = place, evm, svm
        self.evm_wallet, self.svm_wallet = EvmPayer(), SvmPayer()
        evm.offer = evm.offer.model_copy(update={"pay_to": self.evm_wallet.address})
        svm.offer = svm.offer.model_copy(update={"pay_to": self.svm_wallet.address})

    async def settle(self, payment: Payment, offer: Requirement) -> str:
        async with SqlLedger("sqlite://") as memory:
            done = await facilitator([self.evm.rail(memory), self.svm.rail()], memory).settle(payment, offer)
        assert done.success, done
        return done.transaction

    async def sold(self, unused: int) -> None:
        """One payment of 1000 units on each chain, of which `unused` are credited to the payer."""
        await self.svm.world.open_usdc_account(self.svm_wallet.address)
        for payment, offer in ((self.evm.pay(), self.evm.offer), (await self.svm.pay(), self.svm.offer)):
            subject, transaction = subject_of(payment, offer), await self.settle(payment, offer)
            account = f"{subject.network}:{subject.payer}"
            credit = Posting(account=account, kind=EntryKind.CREDIT, reference=subject.pay_id, units=unused)
            async with SqlLedger(self.place) as ledger:
                await ledger.begin(begin(SHOP, subject, Claimed()))
                await ledger.advance(SHOP, subject.pay_id, Event.SUBMIT, Settling())
                await ledger.advance(SHOP, subject.pay_id, Event.SETTLE, Settled(transaction))
                booking = Booking(postings=(credit,))
                await ledger.advance(SHOP, subject.pay_id, Event.DELIVER, Delivered(transaction), booking=booking)

    async def moves_away(self, units: int) -> None:
        """The seller pays somebody else out of the wallet that he is paid at."""
        evm = self.evm.offer.model_copy(update={"pay_to": ELSEWHERE, "amount": units})
        await self.settle(self.evm_wallet.pay(evm), evm)
        svm = self.svm.offer.model_copy(update={"pay_to": self.svm.payer.address, "amount": units})
        await self.settle(self.svm_wallet.pay(svm, (await self.svm.chain.blockhash()).hash), svm)

    async def audit(self) -> tuple[int, dict[str, Any]]:
        return await asyncio.to_thread(audited, self.place, self.evm, self.svm)


@pytest.fixture
async def seller(
    request: pytest.FixtureRequest, tmp_path: Path, evm_devnet: EvmWorld, svm_devnet: SvmWorld
) -> AsyncIterator[Seller]:
    place = f"sqlite:///{tmp_path / 'shop.sqlite'}"
    if getattr(request, "param", "") == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        place = server.database()
    evm, svm = await EvmShop.open(evm_devnet), await SvmShop.open(svm_devnet)
    yield Seller(place, evm, svm)
    await evm.chain.aclose()
    await svm.chain.aclose()


@pytest.mark.parametrize("seller", ["sqlite", "postgresql"], indirect=True)
async def test_I14_a_seller_who_moved_away_what_he_owes_is_found_on_both_chains(seller: Seller) -> None:
    await seller.sold(unused=600)
    code, told = await seller.audit()
    assert (code, told["violations"]) == (0, [])
    assert [(one["network"], one["owed_units"], one["held_units"]) for one in told["cover"]] == [
        (BASE_SEPOLIA, 600, 1000), (SOLANA_DEVNET, 600, 1000),
    ]  # fmt: skip
    await seller.moves_away(400)
    code, told = await seller.audit()
    assert (code, told["agrees"]) == (0, True), "what he has earned is his"
    await seller.moves_away(1)
    code, told = await seller.audit()
    assert (code, [one["invariant"] for one in told["violations"]]) == (1, ["I14", "I14"])
    words = told["violations"][0]["words"]
    assert "600 units" in words
    assert f"{seller.evm_wallet.address.lower()} holds 599: 1 are missing" in words


async def test_I14_the_wallet_that_holds_the_rest_is_named_and_read_as_well(seller: Seller) -> None:
    await seller.sold(unused=600)
    await seller.moves_away(700)
    nodes = ["--rpc-url", f"{BASE_SEPOLIA}={seller.evm.world.url}"]
    short = await asyncio.to_thread(run, "ledger", "audit", seller.place, *nodes)
    assert short.exit_code == 1
    assert "0.0006 USDC owed to payers, 0.0003 USDC in 1 wallets" in short.stdout
    named = [*nodes, "--wallet", f"base-sepolia={ELSEWHERE}"]
    whole = await asyncio.to_thread(run, "ledger", "audit", seller.place, *named)
    assert whole.exit_code == 0, whole.output
    nonsense = await asyncio.to_thread(run, "ledger", "audit", seller.place, *nodes, "--wallet", "base-sepolia=me")
    assert nonsense.exit_code == 2


async def test_I14_gifts_are_no_debt_and_what_is_reserved_asked_for_or_unserved_is(seller: Seller) -> None:
    await seller.sold(unused=600)
    account = f"{BASE_SEPOLIA}:{subject_of(seller.evm.pay(), seller.evm.offer).payer}"
    unserved = seller.evm.pay()
    subject, transaction = subject_of(unserved, seller.evm.offer), await seller.settle(unserved, seller.evm.offer)
    async with SqlLedger(seller.place) as ledger:
        book = SqlAccounts(ledger)
        await book.post(Posting(account=account, kind=EntryKind.GRANT, reference="welcome", units=5000))
        await book.post(Posting(account="key:k1", kind=EntryKind.GRANT, reference="theirs", units=9000))
        await book.reserve(Reservation(id="open", account=account, units=300), lease_seconds=600)
        asked, _ = await book.withdraw(Withdrawal(id="asked", account=account, units=200), lease_seconds=600)
        await ledger.begin(begin(SHOP, subject, Claimed()))
        await ledger.advance(SHOP, subject.pay_id, Event.SUBMIT, Settling())
        await ledger.advance(SHOP, subject.pay_id, Event.SETTLE, Settled(transaction))
        await ledger.advance(SHOP, subject.pay_id, Event.FAIL, Owed(transaction, "the model was away"))
    _, told = await seller.audit()
    evm, _ = told["cover"]
    assert (evm["owed_units"], evm["leaving_units"], evm["held_units"]) == (600 + 1000, 0, 2000)
    async with SqlLedger(seller.place) as ledger:
        sent = Withdrawal(id="asked", account=account, units=200, state=Payout.SENT, header="h", attempt=1)
        assert await SqlAccounts(ledger).move(sent, was=asked)
    _, told = await seller.audit()
    evm, _ = told["cover"]
    assert (evm["owed_units"], evm["leaving_units"], evm["held_units"]) == (1400, 200, 2000)

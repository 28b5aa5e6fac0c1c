"""What was paid and never answered goes back: once, to the payer, exactly, and whatever dies on the way (fault G10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from solders.keypair import Keypair

from tests.gateway.chain_view import nodes_of
from tests.gateway.debts import AFTER, BLOCKHASH, EVM, PRICE, SVM, Work, pending, refusing
from x402.errors import MisconfiguredError, UnavailableError
from x402.gateway.policy import Policy
from x402.gateway.purse import Purse
from x402.gateway.reconcile import Reconciler
from x402.gateway.refund import refunds_of
from x402.gateway.register import Register
from x402.lifecycle import Party
from x402.stages import Owed, Refunded, Refunding, State
from x402.wire.receipt import Receipt


@pytest.fixture
def work(shop: Any) -> Work:
    return Work(shop)


@pytest.mark.parametrize("network", [EVM, SVM])
async def test_G10_what_is_owed_goes_back_once_and_exactly(work: Work, network: str) -> None:
    shop = work.shop
    client = work.open()
    header = await work.owe(client, network)
    pay_id = (await shop.entry()).subject.pay_id
    shop.now += AFTER - 1
    await work.reconcile()
    assert work.refunds == []
    shop.now += 1
    for _ in range(3):
        await work.reconcile()
    (refund,) = work.refunds
    assert await work.stage(pay_id) == Refunded(shop.bank.moved[pay_id], shop.bank.moved[refund])
    payer = shop.payer.address if network == EVM else str(shop.payer.keypair.pubkey())
    assert shop.bank.payees[refund] == (payer, PRICE)
    # Nothing is made for it any more, and a new payment is welcome.
    work.broken = False
    again = await client.get("/work", headers=header)
    assert (again.status_code, again.json()["error"]) == (402, "payment_refunded")
    fresh = shop.payer.pay(await shop.challenge("/work"), network, now=shop.now)
    assert (await client.get("/work", headers=fresh)).json() == {"work": "done"}


async def test_G10_control_an_answer_that_comes_in_time_is_not_paid_back(work: Work) -> None:
    client = work.open()
    header = await work.owe(client)
    work.broken = False
    assert (await client.get("/work", headers=header)).json() == {"work": "done"}
    work.shop.now += 10 * AFTER
    await work.reconcile()
    assert work.refunds == []


async def test_G10_without_a_wallet_nothing_is_paid_back(work: Work) -> None:
    client = work.open(purse=None)
    await work.owe(client)
    work.shop.now += 100 * AFTER
    assert await work.reconcile() == 0
    assert (await work.shop.entry()).state is State.OWED


async def test_G10_while_a_refund_is_under_way_no_answer_is_made(work: Work) -> None:
    shop = work.shop
    client = work.open()
    header = await work.owe(client)
    shop.now += AFTER
    shop.bank.script = [pending]
    assert await work.reconcile() == 1
    assert (await shop.entry()).state is State.REFUNDING
    work.broken = False
    waiting = await client.get("/work", headers=header)
    assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "2")
    assert b"done" not in waiting.content
    await work.reconcile()
    assert len(work.refunds) == 1


async def test_G10_a_day_has_a_cap(work: Work) -> None:
    shop = work.shop
    client = work.open(policy=Policy(refund_per_day=Decimal("0.015")))
    challenge = await shop.challenge("/work")
    for _ in range(3):
        await client.get("/work", headers=shop.payer.pay(challenge))
    shop.now += AFTER
    for day in range(1, 4):
        for _ in range(3):
            await work.reconcile()
        assert len(work.refunds) == day
        shop.now += 86_400
    assert await shop.ledger.unresolved(Party.GATEWAY) == []


@pytest.mark.parametrize("network", [EVM, SVM])
@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("lost", [True, False])
async def test_G10_a_lost_reply_pays_back_once(work: Work, network: str, in_process: bool, lost: bool) -> None:
    """The facilitator's answer to the refund is lost, or a refusal that proves nothing, after the money moved."""
    shop = work.shop
    shop.bank.in_process = in_process
    client = work.open()
    await work.owe(client, network)
    pay_id = (await shop.entry()).subject.pay_id
    shop.now += AFTER

    def broken(refund_id: str, truth: Receipt) -> Receipt:
        shop.bank.move(refund_id, truth)
        if lost or in_process:
            raise TimeoutError
        return Receipt.refused("transaction_failed", "said too early", truth.network, truth.payer)

    shop.bank.script = [broken]
    for _ in range(5):
        await work.reconcile()
        shop.now += 700
    assert len(work.refunds) == 1
    assert (await work.stage(pay_id)).refund == shop.bank.moved[work.refunds[0]]


async def test_G10_an_empty_wallet_pays_later_and_once(work: Work) -> None:
    """On an EVM network other bytes are signed only once those before have expired."""
    shop = work.shop
    client = work.open()
    await work.owe(client)
    pay_id = (await shop.entry()).subject.pay_id
    shop.now += AFTER
    shop.bank.script = [refusing] * 3
    assert await work.reconcile() == 1
    first = await work.stage(pay_id)
    shop.now += 100
    await work.reconcile()
    assert await work.stage(pay_id) == first
    shop.now += 1000
    await work.reconcile()
    second = await work.stage(pay_id)
    assert isinstance(second, Refunding)
    assert (second.attempt, second.header != first.header) == (2, True)
    await work.reconcile()
    assert len(work.refunds) == 1


@pytest.mark.parametrize("proven", [True, False])
async def test_G10_on_solana_another_refund_waits_for_the_proof_that_the_first_is_dead(
    work: Work, proven: bool
) -> None:
    shop = work.shop
    shop.bank.in_process = False
    client = work.open()
    await work.owe(client, SVM)
    pay_id = (await shop.entry()).subject.pay_id
    shop.now += AFTER
    shop.bank.script = [pending] * 3
    await work.reconcile()
    first = await work.stage(pay_id)
    if proven:
        work.views[1].dead.add(first.pay_id)
    shop.now += 100_000
    await work.reconcile()
    assert ((await work.stage(pay_id)).attempt) == (2 if proven else 1)
    shop.bank.script = []
    await work.reconcile()
    assert len(work.refunds) == 1


async def test_G10_without_a_witness_every_evm_attempt_shares_one_nonce(work: Work) -> None:
    """A foreign facilitator says that a refund failed, for ever, and it may have settled any of them."""
    shop = work.shop
    shop.bank.in_process = False
    client = work.open(nodes=None, purse=Purse(evm="0x" + "77" * 32))
    await work.owe(client)
    pay_id = (await shop.entry()).subject.pay_id
    shop.now += AFTER
    shop.bank.script = [refusing] * 4
    identities = set()
    for _ in range(4):
        await work.reconcile()
        identities.add((await work.stage(pay_id)).pay_id)
        shop.now += 1000
    assert len(identities) == 1
    assert (await work.stage(pay_id)).attempt > 1


class Dying:
    """A part that dies before or after its n-th call; what follows is never done."""

    def __init__(self, part: Any, fuse: list[int], *, after: bool) -> None:
        self._part, self._fuse, self._after = part, fuse, after
        self.in_process = True

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._part, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._fuse[0] <= 0:
                raise asyncio.CancelledError
            self._fuse[0] -= 1
            if self._fuse[0] == 0 and not self._after:
                raise asyncio.CancelledError
            result = await method(*args, **kwargs)
            if self._fuse[0] == 0:
                raise asyncio.CancelledError
            return result

        return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("network", [EVM, SVM])
async def test_G10_a_crash_at_every_step_pays_back_once(work: Work, network: str, after: bool) -> None:
    shop, real = work.shop, work.shop.ledger
    crashes = 0
    client = work.open(policy=Policy(refund_per_day=Decimal(100)))
    for step in range(1, 40):
        await work.owe(client, network)
        pay_id = (await shop.entry()).subject.pay_id
        before = len(work.refunds)
        shop.now += AFTER
        fuse = [step]
        register = Register(
            Dying(shop.bank, fuse, after=after),
            Dying(real, fuse, after=after),
            clock=lambda: shop.now,
            policy=Policy(refund_per_day=Decimal(100)),
            witnesses={view.network: view for view in work.views},
            answer_keys=[b"a key for answers"],
        )
        kinds = shop.paywall.counter.offers.kinds
        blockhashes = nodes_of(*work.views, blockhash=BLOCKHASH).blockhashes
        try:
            await Reconciler(register, refunds_of(register, work.purse, kinds, blockhashes)).run()
        except asyncio.CancelledError:
            crashes += 1
        register.leases.stop()
        # The process starts again on the same disk, once the lease of the dead one has ended.
        await real.end_lease(Party.GATEWAY, pay_id)
        for _ in range(2):
            await work.reconcile()
        assert len(work.refunds) == before + 1, f"step {step}"
        assert isinstance(await work.stage(pay_id), Refunded)
        if fuse[0] > 0:
            break
    else:
        pytest.fail("the refund never went through")
    assert crashes >= 6


async def test_G10_a_ledger_that_cannot_write_sends_nothing(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = work.shop
    client = work.open()
    await work.owe(client)
    shop.now += AFTER

    async def full(*_: Any) -> Any:
        raise UnavailableError("ledger_unavailable", "disk full")

    with monkeypatch.context() as broken:
        broken.setattr(shop.ledger, "advance", full)
        assert await work.reconcile() == 1
    assert work.refunds == []
    assert isinstance((await shop.entry()).stage, Owed)
    await work.reconcile()
    assert len(work.refunds) == 1


def test_the_purse_shows_no_key() -> None:
    purse = Purse(evm="0x" + "77" * 32, svm=str(Keypair.from_seed(bytes([8] * 32))))
    assert "7777" not in repr(purse) + str(vars(purse))
    with pytest.raises(TypeError):
        purse.__reduce_ex__(2)
    for wrong in ({"evm": "77"}, {"evm": "0x" + "00" * 32}, {"svm": "abc"}, {"svm": "[1,2]"}, {"svm": "0OIl"}):
        with pytest.raises(MisconfiguredError, match="PRIVATE_KEY"):
            Purse(**wrong)


async def test_solana_refunds_need_a_node(shop: Any) -> None:
    purse = Purse(svm=str(Keypair.from_seed(bytes([8] * 32))))
    with pytest.raises(MisconfiguredError, match="X402_SVM_RPC_URL"):
        shop.open(purse=purse)
    shop.open(purse=Purse(evm="77" * 32))

"""Refunds at the edges: the day's cap to the second, debts that are not due, races, missing keys (fault G10)."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from solders.keypair import Keypair

from tests.gateway.debts import AFTER, BLOCKHASH, Work, pending
from x402.errors import MisconfiguredError
from x402.gateway.policy import Policy
from x402.gateway.purse import Purse
from x402.lifecycle import UnlawfulEvent
from x402.telemetry import Fact, Telemetry


@pytest.fixture
def work(shop: Any) -> Work:
    return Work(shop)


async def test_G10_the_cap_is_a_days_to_the_second_and_is_told(work: Work) -> None:
    shop = work.shop
    seen: list[Fact] = []
    client = work.open(policy=Policy(refund_per_day=Decimal("0.015")), telemetry=Telemetry([seen.append]))
    shop.now = 21_000 * 86_400 - AFTER
    for _ in range(3):
        await client.get("/work", headers=shop.payer.pay(await shop.challenge("/work"), now=shop.now))
    shop.now += AFTER
    assert await work.reconcile() == 2
    assert [fact.name for fact in seen].count("sale.refund_capped") == 2
    assert [fact.name for fact in seen].count("sale.refunded") == len(work.refunds) == 1
    shop.now += 86_399
    await work.reconcile()
    assert len(work.refunds) == 1
    shop.now += 1
    await work.reconcile()
    assert len(work.refunds) == 2


async def test_G10_what_is_not_due_or_not_owed_any_more_is_no_business_of_refunds(work: Work) -> None:
    shop = work.shop
    await work.owe(work.open())
    entry = await shop.entry()
    refunds = shop.paywall.till.reconciler.refunds
    assert await refunds.pay_back(entry) is True
    shop.now += AFTER
    assert await refunds.pay_back(entry) is True
    assert len(work.refunds) == 1
    assert await refunds.pay_back(replace(entry, stage=await work.stage(entry.subject.pay_id))) is True
    assert len(work.refunds) == 1


async def test_G10_who_loses_a_race_for_a_debt_gives_the_days_cap_back(work: Work) -> None:
    """Another replica has begun the refund: what this one reserved of the cap is free again."""
    shop = work.shop
    await work.owe(work.open(policy=Policy(refund_per_day=Decimal("0.02"))))
    stale = await shop.entry()
    shop.now += AFTER
    refunds = shop.paywall.till.reconciler.refunds
    await refunds.pay_back(stale)
    for _ in range(3):
        with pytest.raises(UnlawfulEvent):
            await refunds.pay_back(stale)
    header = shop.payer.pay(await shop.challenge("/work"), now=shop.now)
    assert (await shop.client.get("/work", headers=header)).status_code == 502
    shop.now += AFTER
    await work.reconcile()
    assert len(work.refunds) == 2


async def test_G10_a_refund_under_way_is_told(work: Work) -> None:
    shop = work.shop
    seen: list[Fact] = []
    await work.owe(work.open(telemetry=Telemetry([seen.append])))
    shop.now += AFTER
    shop.bank.script = [pending]
    await work.reconcile()
    assert "sale.refund_pending" in [fact.name for fact in seen]


async def test_G10_a_purse_without_a_key_signs_nothing_there(shop: Any) -> None:
    shop.open({"GET /report": "$0.01"})
    evm, svm = (await shop.challenge()).accepts
    with pytest.raises(MisconfiguredError, match="no EVM key"):
        Purse(svm=str(Keypair.from_seed(bytes([8] * 32)))).pay_evm(evm, now=shop.now, nonce=bytes(32))
    with pytest.raises(MisconfiguredError, match="no Solana key"):
        Purse(evm="77" * 32).pay_svm(svm, blockhash=BLOCKHASH, memo=bytes(16))


class PanicException(BaseException):
    """Named as what Rust libraries raise, which is no Exception."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_G10_only_a_bad_key_is_called_one(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the library, whose panics no text brings about on demand."""

    class Broken:
        raises: type[BaseException] = PanicException

        @classmethod
        def from_base58_string(cls, text: str) -> None:
            raise cls.raises(text)

    monkeypatch.setattr("x402.gateway.purse.Keypair", Broken)
    with pytest.raises(MisconfiguredError, match="X402_REFUND_SVM_PRIVATE_KEY"):
        Purse(svm="abc")
    Broken.raises = error
    with pytest.raises(error):
        Purse(svm="abc")


async def test_G10_a_refund_lives_five_minutes(shop: Any) -> None:
    shop.open({"GET /report": "$0.01"})
    evm, _ = (await shop.challenge()).accepts
    payment = Purse(evm="77" * 32).pay_evm(evm, now=shop.now, nonce=bytes(32))
    assert int(payment.payload["authorization"]["validBefore"]) == shop.now + 300

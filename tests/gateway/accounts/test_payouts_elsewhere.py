"""Open withdrawals that can't be paid from here, such as a payout to a provider on another network: they wait (G10)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.gateway.accounts.test_withdrawal_bounds import Between, told
from tests.gateway.accounts.test_withdrawals import Payer
from tests.gateway.accounts.wallets import EVM, SVM, Signer
from tests.gateway.chain_view import nodes_of
from x402.billing import EntryKind, Posting
from x402.gateway.purse import Purse
from x402.ports.accounts import Payout, Withdrawal
from x402.telemetry import Fact, Telemetry

MAINNET, SOLANA_MAINNET = "eip155:8453", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
PERMIT2_ONLY, UNKNOWN = "eip155:4326", "eip155:424242"


async def asked(payer: Payer, network: str, id: str, units: int) -> Withdrawal:
    """What is asked for and not signed yet, as `x402 payouts` leaves it for the gateway."""
    account = payer.account(network)
    await payer.book.post(Posting(account=account, kind=EntryKind.DEPOSIT, reference=id, units=units))
    begun, won = await payer.book.withdraw(Withdrawal(id=id, account=account, units=units), lease_seconds=0)
    assert won
    return begun


@pytest.fixture
def facts() -> list[Fact]:
    return []


@pytest.fixture
def payer(shop: Any, facts: list[Fact]) -> Payer:
    """A seller on Base Sepolia and on Solana's devnet, with a refund wallet for both."""
    payer = Payer(shop)
    payer.open(telemetry=Telemetry([facts.append]))
    return payer


@pytest.mark.parametrize("network", [MAINNET, SOLANA_MAINNET, PERMIT2_ONLY, UNKNOWN])
async def test_G10_nothing_is_signed_where_the_seller_does_not_sell_and_the_others_are_paid(
    payer: Payer, facts: list[Fact], network: str
) -> None:
    """The wallet has the same key on main and test networks: only what is sold on tells them apart."""
    waits = await asked(payer, network, "payout-1", 500_000)
    payer.shop.now += 1
    await asked(payer, EVM, "payout-2", 100_000)
    assert await payer.withdrawals.reconcile() == 1
    assert payer.paid_out == [(Signer().address(EVM), 100_000)]
    assert payer.shop.bank.asked.count("settle") == 1
    assert told(facts) == [("balance.withdrawal_delayed", 500_000), ("balance.withdrawn", 100_000)]
    stands = await payer.book.withdrawal("payout-1")
    assert stands is not None
    assert (stands.state, stands.header, stands.updated_at) == (Payout.ASKED, "", waits.updated_at)


async def test_G10_what_the_wallet_does_not_cover_waits_for_a_wallet_that_does(payer: Payer, facts: list[Fact]) -> None:
    whole, payer.purse = payer.purse, Purse(evm="0x" + "77" * 32)
    payer.open(nodes=nodes_of(*payer.views), telemetry=Telemetry([facts.append]))
    await asked(payer, SVM, "payout-1", 500_000)
    payer.shop.now += 1
    await asked(payer, EVM, "payout-2", 100_000)
    assert await payer.withdrawals.reconcile() == 1
    assert payer.paid_out == [(Signer().address(EVM), 100_000)]
    assert told(facts) == [("balance.withdrawal_delayed", 500_000), ("balance.withdrawn", 100_000)]
    payer.purse = whole
    payer.open()
    payer.shop.now += 11
    assert await payer.withdrawals.reconcile() == 0
    assert payer.paid_out[1:] == [(Signer().address(SVM), 500_000)]


async def test_G10_an_error_that_nobody_foresaw_delays_one_and_the_others_are_paid(
    payer: Payer, facts: list[Fact], caplog: pytest.LogCaptureFixture
) -> None:
    await asked(payer, EVM, "payout-1", 500_000)
    payer.shop.now += 1
    await asked(payer, EVM, "payout-2", 100_000)
    payer.open(Between(payer.book, "move", _broken("0xkey")), telemetry=Telemetry([facts.append]))
    with caplog.at_level(logging.ERROR):
        assert await payer.withdrawals.reconcile() == 1
    assert payer.paid_out == [(Signer().address(EVM), 100_000)]
    assert told(facts) == [("balance.withdrawal_delayed", 500_000), ("balance.withdrawn", 100_000)]
    assert [record.getMessage() for record in caplog.records] == ["a withdrawal could not go on: KeyError"]
    assert "0xkey" not in caplog.text
    payer.shop.now += 11
    assert await payer.withdrawals.reconcile() == 0
    assert len(payer.paid_out) == 2


def _broken(secret: str) -> Callable[[], Awaitable[object]]:
    async def broken() -> None:
        raise KeyError(secret)

    return broken

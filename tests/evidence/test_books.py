"""A facilitator's books against real chains, by the real command: to the unit, and fair to income from elsewhere."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.cli.conftest import run
from tests.facilitator.world import EvmShop, SvmShop, cancel_call, facilitator, submit, transfer_call
from x402.chain import Log
from x402.errors import UnavailableError
from x402.evidence.books import Books, EvmIncome
from x402.lifecycle import Event, Party, begin
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.ports.ledger import SqlLedger
from x402.ports.ledger_reading import read_ledger
from x402.schemes.subject import subject_of
from x402.stages import Intended, Refused

ME = Party.FACILITATOR


@pytest.fixture
async def evm(evm_devnet: EvmWorld) -> AsyncIterator[EvmShop]:
    shop = await EvmShop.open(evm_devnet)
    yield shop
    await shop.chain.aclose()


@pytest.fixture
async def svm(svm_devnet: SvmWorld) -> AsyncIterator[SvmShop]:
    shop = await SvmShop.open(svm_devnet)
    yield shop
    await shop.chain.aclose()


def audited(place: str, *shops: EvmShop | SvmShop) -> tuple[int, dict[str, Any]]:
    """The exit code and what the command says."""
    nodes = [f"{BASE_SEPOLIA if isinstance(shop, EvmShop) else SOLANA_DEVNET}={shop.world.url}" for shop in shops]
    result = run("ledger", "audit", place, "--json", *(word for node in nodes for word in ("--rpc-url", node)))
    told: dict[str, Any] = json.loads(result.stdout)
    return result.exit_code, told


def forge(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as raw, raw:
        for statement in statements:
            assert raw.execute(statement).rowcount > 0, statement


async def sold(file: Path, evm: EvmShop, svm: SvmShop, count: int = 3) -> None:
    """A facilitator settles that many payments on each chain."""
    async with SqlLedger(f"sqlite:///{file}") as ledger:
        party = facilitator([evm.rail(ledger), svm.rail()], ledger)
        for _ in range(count):
            assert (await party.settle(evm.pay(), evm.offer)).success
            assert (await party.settle(await svm.pay(), svm.offer)).success


async def test_I5_the_books_agree_with_the_chains_to_the_unit(tmp_path: Path, evm: EvmShop, svm: SvmShop) -> None:
    file = tmp_path / "ledger.sqlite"
    await sold(file, evm, svm)
    code, told = await asyncio.to_thread(audited, str(file), evm, svm)
    assert (code, told["agrees"], told["violations"]) == (0, True, [])
    assert {(one["network"], one["ledger_units"], one["chain_units"]) for one in told["chain"]} == {
        (BASE_SEPOLIA, 3000, 3000), (SOLANA_DEVNET, 3000, 3000),
    }  # fmt: skip
    assert [one["differences"] for one in told["chain"]] == [[], []]
    shown = await asyncio.to_thread(
        run, "ledger", "audit", str(file), "--rpc-url", f"{BASE_SEPOLIA}={evm.world.url}"
    )  # fmt: skip
    assert "ledger 0.003 USDC, chain 0.003 USDC" in shown.stdout


async def test_I5_what_the_ledger_invents_is_found(tmp_path: Path, evm: EvmShop, svm: SvmShop) -> None:
    file = tmp_path / "ledger.sqlite"
    await sold(file, evm, svm, 1)
    for network in (BASE_SEPOLIA, SOLANA_DEVNET):
        row = f"WHERE pay_id LIKE '{network}%'"
        # Rows and events agree with each other, and only the chain knows better.
        change = f'SET stage = replace(stage, \'"transaction":"\', \'"transaction":"9\') {row}'
        forge(file, f"UPDATE payments {change}", f"UPDATE events {change}")
    code, told = await asyncio.to_thread(audited, str(file))
    assert (code, told["violations"]) == (0, [])
    code, told = await asyncio.to_thread(audited, str(file), evm, svm)
    assert code == 1
    # What the ledger calls paid is not there; what is there is, by its authorization, a payment of another transaction.
    assert {one["invariant"] for one in told["violations"]} == {"I5"}
    for account in told["chain"]:
        assert sorted((one["ledger_units"], one["chain_units"]) for one in account["differences"]) == [
            (0, 1000), (1000, 0),
        ]  # fmt: skip
        assert (account["ledger_units"], account["chain_units"]) == (1000, 1000)


async def test_I5_a_payment_that_the_ledger_calls_refused_and_the_chain_paid(tmp_path: Path, evm: EvmShop) -> None:
    async with SqlLedger(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as ledger:
        paid, open_still, cancelled = evm.pay(), evm.pay(), evm.pay()
        for nonce, payment in enumerate((paid, open_still, cancelled)):
            stage = Intended(f"0x{nonce}", b"raw", 2**40, "0xsender", nonce)
            await ledger.begin(begin(ME, subject_of(payment, evm.offer), stage))
        for payment in (paid, cancelled):
            pay_id = subject_of(payment, evm.offer).pay_id
            await ledger.advance(ME, pay_id, Event.REFUSE, Refused("expired", "words"))
    await submit(evm, transfer_call(paid))
    await submit(evm, transfer_call(open_still))
    await submit(evm, cancel_call(evm.payer, cancelled))
    code, told = await asyncio.to_thread(audited, str(tmp_path / "ledger.sqlite"), evm)
    assert code == 1
    assert [one["pay_id"] for one in told["violations"]] == [subject_of(paid, evm.offer).pay_id]
    (account,) = told["chain"]
    assert (account["ledger_units"], account["chain_units"]) == (0, 2000)
    words = {one["pay_id"]: one["words"] for one in account["differences"]}
    assert "says refused" in words[subject_of(paid, evm.offer).pay_id]
    assert "still says intended" in words[subject_of(open_still, evm.offer).pay_id]


async def test_I5_income_from_elsewhere_is_listed_and_no_violation(
    tmp_path: Path, evm: EvmShop, svm: SvmShop
) -> None:  # fmt: skip
    file = tmp_path / "ledger.sqlite"
    await sold(file, evm, svm, 1)
    transaction = await submit(evm, transfer_call(evm.pay()))
    await svm.world.fund(svm.offer.pay_to, 77)
    code, told = await asyncio.to_thread(audited, str(file), evm, svm)
    assert (code, told["agrees"]) == (0, True)
    sums = {one["network"]: (one["ledger_units"], one["chain_units"]) for one in told["chain"]}
    assert sums == {BASE_SEPOLIA: (1000, 2000), SOLANA_DEVNET: (1000, 1077)}
    (difference,) = next(one["differences"] for one in told["chain"] if one["network"] == BASE_SEPOLIA)
    assert (difference["transaction"], difference["pay_id"], difference["wrong"]) == (transaction, "", False)


async def test_I5_what_is_paid_while_the_books_are_read_is_not_unaccounted_for(tmp_path: Path, evm: EvmShop) -> None:
    file = tmp_path / "ledger.sqlite"
    async with SqlLedger(f"sqlite:///{file}") as ledger:
        party = facilitator([evm.rail(ledger)], ledger)
        assert (await party.settle(evm.pay(), evm.offer)).success
        reader, books = EvmIncome(BASE_SEPOLIA, evm.chain), Books()
        await reader.mark()
        assert (await party.settle(evm.pay(), evm.offer)).success
        with read_ledger(str(file)) as snapshot:
            assert len(list(books.read(snapshot.histories()))) == 2
        assert books.networks == {BASE_SEPOLIA}
        assert (await party.settle(evm.pay(), evm.offer)).success
        (account,) = await books.compare({BASE_SEPOLIA: reader})
    assert (account.ledger_units, account.chain_units, account.differences) == (2000, 2000, [])


async def test_D14_a_node_of_another_chain_accuses_nobody(tmp_path: Path, evm: EvmShop, svm: SvmShop) -> None:
    file = tmp_path / "ledger.sqlite"
    await sold(file, evm, svm, 1)
    for node, code in ((f"eip155:8453={evm.world.url}", 0), (f"{BASE_SEPOLIA}={svm.world.url}", 7),
                       ("nowhere", 2), ("eip155:1=ftp://node.test", 2)):  # fmt: skip
        result = await asyncio.to_thread(run, "ledger", "audit", str(file), "--rpc-url", node)
        assert result.exit_code == code, (node, result.output)


async def test_rows_that_name_no_account_are_judged_all_the_same(tmp_path: Path, evm: EvmShop, svm: SvmShop) -> None:
    file = tmp_path / "ledger.sqlite"
    await sold(file, evm, svm, 1)
    forge(file, "UPDATE payments SET payee = 'nobody'")
    code, told = await asyncio.to_thread(audited, str(file), evm, svm)
    assert code == 1
    assert {one["chain_units"] for one in told["chain"]} == {0}


async def test_E01_a_node_that_says_nonsense_is_no_evidence(evm: EvmShop) -> None:
    class Garbled:
        async def block_number(self) -> int:
            return 5

        async def logs(self, *_: object) -> Any:
            return [("0xtx", Log(evm.offer.asset, (), "nonsense"))]

    garbled: Any = Garbled()
    with pytest.raises(UnavailableError):
        await EvmIncome(BASE_SEPOLIA, garbled).income(evm.offer.asset, evm.offer.pay_to, 0)

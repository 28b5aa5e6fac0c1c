"""fund, pay, verify and settle as people run them, as processes against the local devnet."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.scripts.conftest import Street
from x402.client.wallet import Wallet
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.wire.facilitation import parse_facilitation

SCRIPTS = Path(__file__).parents[2] / "scripts"
CENT = 10_000
NETWORKS = pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])


@dataclass
class Ran:
    """How a script ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Person:
    """Somebody with an own wallet file, journal and shell."""

    home: Path
    wallet: Wallet
    street: Street

    async def run(self, script: str, *words: str, typed: str = "", **variables: str) -> Ran:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SCRIPTS / script),
            *words,
            cwd=self.home,
            env={
                **kept,
                "HOME": str(self.home),
                "X402_WALLET_FILE": str(self.home / "wallet.toml"),
                "X402_JOURNAL": str(self.home / "journal.sqlite"),
                **variables,
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(child.communicate(typed.encode()), 60)
        assert b"Traceback" not in err, err.decode()
        return Ran(child.returncode or 0, out.decode(), err.decode())


@pytest.fixture
async def person(tmp_path: Path, street: Street, evm_devnet: EvmWorld, svm_devnet: SvmWorld) -> Person:
    wallet = Wallet.new(testnet_only=True)
    wallet.save(tmp_path / "wallet.toml")
    await evm_devnet.fund(wallet.evm_address, usdc=5 * CENT)
    await svm_devnet.fund(wallet.svm_address, usdc=5 * CENT)
    return Person(tmp_path, wallet, street)


async def test_fund_shows_both_balances_and_where_more_comes_from(person: Person, street: Street) -> None:
    told = await person.run("fund", *street.nodes, "--json")
    assert told.code == 0, told
    rows = {row["network"]: row for row in told.json["accounts"]}
    assert {row["usdcAtomic"] for row in rows.values()} == {5 * CENT}
    assert rows[BASE_SEPOLIA]["address"] == person.wallet.evm_address
    assert rows[SOLANA_DEVNET]["usdc"] == "0.050000"
    assert rows[SOLANA_DEVNET]["gasFaucet"] == "https://faucet.solana.com"
    Wallet.new().save(person.home / "poor.toml")
    poor = await person.run("fund", *street.nodes, "--wallet", "poor.toml")
    assert poor.code == 1
    assert poor.out.count("https://faucet.circle.com") == 2


async def test_fund_gives_from_the_faucet_of_a_local_devnet(person: Person, street: Street) -> None:
    Wallet.new().save(person.home / "poor.toml")
    given = await person.run(
        "fund", "--local", *street.nodes, "--wallet", "poor.toml", "--usdc", "2.5", "--gas", "--json"
    )
    assert given.code == 0, given
    assert [row["usdcAtomic"] for row in given.json["accounts"]] == [2_500_000, 2_500_000]
    assert [row["gas"] for row in given.json["accounts"]] == ["0.1 ETH", "0.1 SOL"]
    again = await person.run("fund", "--local", *street.nodes, "--wallet", "poor.toml", "--usdc", "2.5", "--json")
    assert [row["usdcAtomic"] for row in again.json["accounts"]] == [5_000_000, 5_000_000]
    dead = await person.run("fund", "--evm-rpc", "http://127.0.0.1:9", "--svm-rpc", street.svm_rpc)
    assert (dead.code, "Base Sepolia: the node did not answer" in dead.err) == (7, True)
    swapped = await person.run("fund", "--evm-rpc", street.svm_rpc, "--svm-rpc", street.evm_rpc, "--json")
    assert swapped.code in (3, 7)
    public = await person.run("fund", *street.nodes, "--usdc", "1")
    assert (public.code, "--local" in public.err) == (2, True)


@NETWORKS
async def test_pay_pays_once_and_shows_the_receipt(
    person: Person, street: Street, network: str, evm_devnet: EvmWorld, svm_devnet: SvmWorld
) -> None:
    paid = await person.run("pay", f"{street.shop}/report", *street.nodes, "--network", network, "--json")
    assert paid.code == 0, paid
    assert (paid.json["status"], paid.json["body"]) == (200, "all is well")
    assert (paid.json["receipt"]["outcome"], paid.json["receipt"]["network"]) == ("settled", network)
    assert paid.json["receipt"]["transaction"] in paid.json["receipt"]["explorer"]
    held = await (
        evm_devnet.usdc(person.wallet.evm_address)
        if network == BASE_SEPOLIA
        else svm_devnet.usdc(person.wallet.svm_address)
    )
    assert held == 4 * CENT


async def test_pay_keeps_to_its_limits(person: Person, street: Street) -> None:
    free = await person.run("pay", f"{street.shop}/free", *street.nodes)
    assert (free.code, "nothing was paid" in free.out) == (0, True)
    dear = await person.run("pay", f"{street.shop}/report", *street.nodes, "--max", "0.009", "--json")
    assert dear.code == 4
    assert dear.json["error"]["moneyMoved"] == "no"
    gone = await person.run("pay", "http://127.0.0.1:9/report", *street.nodes)
    assert (gone.code, "No money moved" in gone.err) == (7, True)
    junk = await person.run("pay", "no-url", *street.nodes)
    assert junk.code == 2


@NETWORKS
async def test_a_signed_payment_is_verified_and_settled_once(person: Person, street: Street, network: str) -> None:
    signed = await person.run("pay", f"{street.shop}/report", *street.nodes, "--network", network, "--sign-only")
    assert signed.code == 0, signed
    assert "not sent" in signed.err
    (person.home / "payment.json").write_text(signed.out)
    at = ("--facilitator", street.facilitator)
    verified = await person.run("verify", "-", *at, typed=signed.out)
    assert (verified.code, verified.out.startswith("valid: 10000 atomic units")) == (0, True), verified
    first = await person.run("settle", "payment.json", *at, "--json")
    assert (first.code, first.json["outcome"]) == (0, "settled"), first
    header = parse_facilitation(json.loads(signed.out)).payment.as_header()
    second = await person.run("settle", header, *at, "--json")
    assert second.json["transaction"] == first.json["transaction"]
    spent = await person.run("verify", header, *at)
    assert spent.code == 5, spent
    assert spent.out.startswith("invalid: ")


@NETWORKS
async def test_verify_and_settle_in_their_own_process(person: Person, street: Street, network: str) -> None:
    signed = await person.run("pay", f"{street.shop}/report", *street.nodes, "--network", network, "--sign-only")
    keyless = await person.run("verify", signed.out.strip(), *street.nodes)
    assert (keyless.code, "X402_FACILITATOR" in keyless.err) == (3, True)
    verified = await person.run("verify", signed.out.strip(), *street.nodes, "--json", **street.facilitator_keys)
    assert (verified.code, verified.json["isValid"]) == (0, True), verified
    settled = await person.run("settle", signed.out.strip(), *street.nodes, "--json", **street.facilitator_keys)
    assert (settled.code, settled.json["outcome"]) == (0, "settled"), settled
    assert (person.home / "x402-facilitator.sqlite").exists()


async def test_real_money_is_refused_by_every_script(person: Person, street: Street) -> None:
    signed = await person.run("pay", f"{street.shop}/report", *street.nodes, "--sign-only")
    body = json.loads(signed.out)
    body["paymentRequirements"]["network"] = body["paymentPayload"]["accepted"]["network"] = "eip155:8453"
    real = json.dumps(body)
    for words in (
        ("fund", "--network", "base"),
        ("pay", f"{street.shop}/report", "--network", "solana"),
        ("verify", real, "--facilitator", street.facilitator),
        ("settle", real, "--facilitator", street.facilitator),
        ("pay", f"{street.shop}/report", "--mainnet", "--sign-only"),
    ):
        refused = await person.run(*words)
        assert (refused.code, "mainnet_refused" in refused.err) == (3, True), (words, refused)


async def test_junk_is_told_in_words(person: Person, street: Street) -> None:
    at = ("--facilitator", street.facilitator)
    junk = ("", "{", "%%%", '{"x402Version":2}', '{"x402Version":1,"scheme":"exact"}', "x" * 5000)
    for number, payment in enumerate(junk):
        told = await person.run(("verify", "settle")[number % 2], payment, *at, "--json")
        assert told.code == 2, (payment, told)
        assert told.json["error"]["moneyMoved"] == "no"

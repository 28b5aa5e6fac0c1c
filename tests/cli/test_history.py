"""`x402 history` and `x402 resolve`: what a person sees of the journal, and what the chains of a real town decide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import LiveTown, run
from tests.payments import EvmPayer, evm_requirement
from x402.client.auth import X402Auth
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.client.journal import Journal
from x402.client.owner import Call
from x402.client.wallet import Wallet
from x402.lifecycle import Event
from x402.schemes.subject import subject_of
from x402.stages import Refused, Settled
from x402.wire.receipt import Receipt

CENT = Decimal("0.01")
TRANSACTION = "0x" + "ab" * 32


def journal(ago: int = 0) -> Journal:
    """The journal that the commands read, written by a clock that is behind."""
    return Journal(os.environ["X402_JOURNAL"], clock=lambda: int(time.time()) - ago)


def expose(memory: Journal, host: str = "seller.example", expires_in: int = 600) -> str:
    """A payment that was presented, and of which nothing was heard again."""
    payer, offer, call = EvmPayer(), evm_requirement(amount=10_000), Call()
    authorization = replace(payer.authorize(offer), valid_before=int(time.time()) + expires_in)
    payment = payer.sign(offer, authorization)
    subject = subject_of(payment, offer, fingerprint=host)
    memory.hold(subject, host=host, usd=CENT, limits=Limits(), call=call)
    memory.expose(subject.pay_id, payment.header_name, payment.as_header())
    memory.leave(call)
    return subject.pay_id


def told(*arguments: str, code: int = 0, **environment: str) -> dict[str, Any]:
    """What a command prints for programs."""
    result = run(*arguments, "--json", **environment)
    assert result.exit_code == code, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_without_a_journal_there_is_nothing_and_none_is_made() -> None:
    assert told("history") == {"payments": [], "reserved": "0", "day": "0"}
    assert told("resolve") == {"payments": [], "reserved": "0"}
    assert "no payment here" in run("history").stdout
    assert "every payment has a known outcome" in run("resolve").stdout
    assert not Path(os.environ["X402_JOURNAL"]).exists()


def test_every_payment_with_its_state_and_receipt() -> None:
    memory = journal()
    paid, refused, released, local = (
        expose(memory, host) for host in ("a.example", "b.example", "c.example", "127.0.0.1:4021")
    )
    for pay_id in (paid, local):
        memory.conclude(pay_id, event=Event.SETTLE, stage=Settled(TRANSACTION), answered=True)
    memory.conclude(refused, event=Event.REFUSE, stage=Refused("too_late", "too late"))
    memory.release(released, "expired unused")
    lines = run("history").stdout
    for words in (
        "a.example  0.01 USDC on Base Sepolia",
        "settled: paid",
        f"https://sepolia.basescan.org/tx/{TRANSACTION}",
        "refused by the seller, not proven dead (too_late)",
        "no money moved (expired unused)",
        "$0.03 spent or reserved in the last day; $0.01 reserved without a known outcome",
        "x402 resolve",
    ):
        assert words in lines, lines
    assert lines.count("basescan") == 1, "no explorer knows a transaction of a devnet"

    shown = told("history")
    by_host = {one["host"]: one for one in shown["payments"]}
    assert by_host["a.example"] | {"createdAt": 0, "updatedAt": 0} == by_host["a.example"] | {
        "createdAt": 0, "updatedAt": 0, "payId": paid, "state": "settled", "amount": "10000", "usd": "0.01",
        "transaction": TRANSACTION, "reserved": "0", "answered": True,
    }  # fmt: skip
    assert by_host["127.0.0.1:4021"]["link"] == ""
    assert (by_host["b.example"]["reserved"], shown["reserved"], shown["day"]) == ("0.01", "0.01", "0.03")
    assert [one["host"] for one in told("history", "--limit", "2")["payments"]] == ["127.0.0.1:4021", "c.example"]
    assert [one["payId"] for one in told("history", "--host", "c.example")["payments"]] == [released]
    assert [one["payId"] for one in told("history", "--open")["payments"]] == [refused]


def test_no_header_of_a_payment_is_shown() -> None:
    memory = journal()
    record = memory.find(expose(memory))
    assert record is not None
    for command in (
        ("history",),
        ("history", "--json"),
        ("resolve", "--json", "--rpc", "base-sepolia=http://127.0.0.1:9"),
    ):
        output = run(*command).output
        assert "seller.example" in output
        assert record.header[:40] not in output


def test_a_settled_payment_without_its_answer_says_so() -> None:
    memory = journal()
    memory.conclude(expose(memory), event=Event.SETTLE, stage=Settled(TRANSACTION))
    assert "the same call fetches it" in run("history").stdout


def test_the_chain_decides_and_not_the_seller(live_town: LiveTown) -> None:
    dead = expose(journal(1000), "127.0.0.1:1", expires_in=-400)
    alive = expose(journal(), "127.0.0.1:2")
    node = f"base-sepolia={live_town.urls['evm_rpc']}"
    mine(live_town)
    shown = told("resolve", "--rpc", node)
    found = {one["payId"]: one for one in shown["payments"]}
    assert (found[dead]["state"], found[dead]["resolved"]) == ("released", True)
    assert (found[alive]["state"], found[alive]["resolved"]) == ("exposed", False)
    assert "may still take it" in found[alive]["found"]
    assert shown["reserved"] == "0.01"
    assert told("history", "--open")["payments"][0]["payId"] == alive
    lines = run("resolve", X402_EVM_RPC_URL=live_town.urls["evm_rpc"])
    assert lines.exit_code == 0
    assert "may still take it" in lines.stdout
    assert "$0.01 reserved" in lines.stdout


@pytest.mark.parametrize("network", ["base-sepolia", "solana-devnet"])
def test_a_payment_that_was_taken_in_silence_becomes_settled(live_town: LiveTown, network: str) -> None:
    class Deaf(httpx.BaseTransport):
        """Loses every answer to a payment."""

        def __init__(self) -> None:
            self.real = httpx.HTTPTransport()

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = self.real.handle_request(request)
            if "PAYMENT-SIGNATURE" not in request.headers:
                return response
            response.read()
            raise httpx.ReadTimeout("lost", request=request)

    memory = journal()
    auth = X402Auth(
        Wallet.from_file(live_town.buyer["walletFile"]),
        policy=Policy(networks=(network,)),
        journal=memory,
        svm_rpc=live_town.urls["svm_rpc"],
    )
    question = {"model": "demo/echo-1", "messages": [{"role": "user", "content": network}], "max_tokens": 5}
    with httpx.Client(auth=auth, transport=Deaf(), timeout=30) as client, pytest.raises(httpx.ReadTimeout):
        client.post(live_town.urls["chat"] + "/chat/completions", json=question)
    [before] = told("history")["payments"]
    assert (before["state"], before["transaction"]) == ("exposed", "")
    url = live_town.urls["evm_rpc" if network == "base-sepolia" else "svm_rpc"]
    [after] = told("resolve", "--rpc", f"{network}={url}")["payments"]
    assert (after["state"], after["words"].partition(",")[0]) == ("settled", "paid")
    assert after["transaction"]
    assert after["reserved"] == "0"


def test_B13_check_marks_a_forged_receipt_for_everybody_to_see(live_town: LiveTown) -> None:
    memory = journal(1000)
    pay_id = expose(memory, "127.0.0.1:1", expires_in=-400)
    receipt = Receipt.settled(TRANSACTION, "eip155:84532", None)
    memory.conclude(pay_id, event=Event.SETTLE, stage=Settled(TRANSACTION), receipt=receipt, answered=True)
    assert told("history")["payments"][0]["check"] is None
    mine(live_town)
    node = f"base-sepolia={live_town.urls['evm_rpc']}"
    [forged] = told("history", "--check", "--rpc", node, code=1)["payments"]
    assert (forged["state"], forged["check"]["finding"]) == ("settled", "receipt_disputed")
    lines = run("history")
    assert lines.exit_code == 1
    assert "receipt_disputed: the transaction that the receipt names did not make the transfer" in lines.stdout


def test_B13_a_true_receipt_is_confirmed(live_town: LiveTown) -> None:
    wallet, policy = Wallet.from_file(live_town.buyer["walletFile"]), Policy(networks=("base-sepolia",))
    question = {"model": "demo/echo-1", "messages": [{"role": "user", "content": "true"}], "max_tokens": 5}
    with httpx.Client(auth=X402Auth(wallet, policy=policy, journal=journal()), timeout=30) as client:
        assert client.post(live_town.urls["chat"] + "/chat/completions", json=question).status_code == 200
    node = f"base-sepolia={live_town.urls['evm_rpc']}"
    [one] = told("history", "--check", "--rpc", node)["payments"]
    assert one["check"]["finding"] == "confirmed"
    assert "confirmed: the transaction of the receipt made the transfer" in run("history").stdout


def test_E01_receipts_stay_unchecked_while_the_node_is_away() -> None:
    memory = journal()
    receipt = Receipt.settled(TRANSACTION, "eip155:84532", None)
    memory.conclude(expose(memory), event=Event.SETTLE, stage=Settled(TRANSACTION), receipt=receipt, answered=True)
    [one] = told("history", "--check", "--rpc", "base-sepolia=http://127.0.0.1:9", code=7)["payments"]
    assert one["check"] is None
    assert "not checked:" in run("history", "--check", "--rpc", "base-sepolia=http://127.0.0.1:9").stdout


def test_A23_what_is_given_up_is_presented_no_more_and_still_counts() -> None:
    pay_id = expose(journal())
    shown = told("resolve", "--give-up", pay_id, "--rpc", "base-sepolia=http://127.0.0.1:9", code=7)
    assert (shown["payments"][0]["answered"], shown["reserved"]) == (False, "0.01")
    assert journal().recall("seller.example", Call()) is None
    assert run("resolve", "--give-up", "nothing").exit_code == 2


def test_B04_a_person_accepts_another_address_of_a_seller() -> None:
    assert told("trust", "Seller.example") == {"host": "seller.example", "payees": []}
    assert "has not answered a payment yet" in run("trust", "seller.example").stdout
    address = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
    assert told("trust", "seller.example", address)["payees"] == [{"address": address, "network": ""}]
    assert f"{address} on any network" in run("trust", "seller.example").stdout
    for spelling in ("Seller.Example:443", "https://seller.example/v1"):
        assert told("trust", spelling)["payees"] == [{"address": address, "network": ""}]
    assert run("trust", "*.example", address).exit_code == 2
    solana = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"
    assert len(told("trust", "seller.example", solana)["payees"]) == 2
    assert run("trust", "seller.example", "0x12").exit_code == 2
    assert run("trust", "seller.example", "nobody").exit_code == 2


def test_a_node_that_does_not_answer_is_told_by_the_exit_code() -> None:
    expose(journal())
    shown = told("resolve", "--rpc", "base-sepolia=http://127.0.0.1:9", code=7)
    [one] = shown["payments"]
    assert (one["state"], one["error"]["code"], shown["reserved"]) == ("exposed", "rpc_unavailable", "0.01")


def test_public_nodes_are_not_asked_about_a_seller_on_this_machine() -> None:
    expose(journal(), "127.0.0.1:4021")
    [one] = told("resolve", code=7)["payments"]
    assert one["error"]["code"] == "no_node"


@pytest.mark.parametrize("typed", ["http://127.0.0.1:9", "base=", "base=ftp://x", "nowhere=http://127.0.0.1:9"])
def test_a_node_is_named_by_network_and_url(typed: str) -> None:
    result = run("resolve", "--rpc", typed)
    assert result.exit_code == 2
    assert "No money moved" in result.stderr


def test_resolve_needs_neither_a_database_nor_a_chain_library() -> None:
    expose(journal())
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from x402.cli.app import app\n"
        "result = CliRunner().invoke(app, ['resolve', '--rpc', 'base-sepolia=http://127.0.0.1:9'])\n"
        "assert result.exit_code == 7, result.output\n"
        "print([name for name in ('web3', 'sqlalchemy', 'eth_account', 'solana', 'fastapi') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def mine(town: LiveTown) -> None:
    """A block now, so that the chain's clock is not behind."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "evm_mine", "params": []}
    assert "error" not in httpx.post(town.urls["evm_rpc"], json=call).json()

"""What is wrong makes a cell red, with the reason in words; each check of `run` is seen to fail here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.interop import matrix
from tests.interop.buyers import Purchase
from tests.interop.cells import CELLS, Cell, Client, Facilitator, Server, matching
from tests.interop.goods import Goods, read_answer
from tests.interop.launch import PeerError
from tests.interop.matrix import run
from tests.interop.town import Party, Town
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

CHEAP = Cell(Client.OURS, Server.GATEWAY, Facilitator.OURS, BASE_SEPOLIA)


def test_control_what_is_changed_here_is_green_unchanged(town: Town) -> None:
    assert run(CHEAP, town).reason == ""


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("price", 1, "the price was 1 atomic USDC, "),
        ("answer", "something else", "the answer is 'You said: "),
    ],
)
def test_wrong_goods_are_red(member: str, value: Any, reason: str, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    order = matrix.order

    def changed(cell: Cell, town: Town) -> Goods:
        return replace(order(cell, town), **{member: value})

    monkeypatch.setattr(matrix, "order", changed)
    assert run(CHEAP, town).reason.startswith(reason)


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("statuses", (402, 402, 200), "the replies were (402, 402, 200)"),
        ("paid_with", frozenset({"x-payment"}), "paid with ['x-payment']"),
        ("signatures", 2, "2 payments were signed"),
        ("receipt", None, "without a receipt"),
        ("receipt", {"success": False, "transaction": "0x" + "11" * 32}, "names no settlement"),
        ("receipt", {"success": True, "transaction": "0x" + "11" * 32}, "knows no transaction 0x11"),
        ("receipt", {"success": True, "network": SOLANA_DEVNET}, "names the network solana:"),
        ("receipt", {"success": True, "payer": "somebody"}, "names the payer somebody"),
    ],
)
def test_wrong_purchases_are_red(
    member: str, value: Any, reason: str, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    buy = matrix.buy

    def changed(cell: Cell, goods: Goods, town: Town, buyer: Party) -> Purchase:
        purchase = buy(cell, goods, town, buyer)
        changes: dict[str, Any] = {member: value}
        if isinstance(value, dict):
            changes[member] = {**(purchase.receipt or {}), **value}
        return replace(purchase, **changes)

    monkeypatch.setattr(matrix, "buy", changed)
    assert reason in run(CHEAP, town).reason


def test_a_facilitator_that_takes_money_is_red(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(town.third_parties, Facilitator.PYTHON, town.seller)
    assert "the facilitators' USDC moved by" in run(CHEAP, town).reason


@pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
@pytest.mark.parametrize("client", [Client.OURS, Client.PYTHON])
@pytest.mark.timeout(900)
def test_a_poor_buyer_is_red_and_told_why(client: Client, network: str, town: Town) -> None:
    outcome = run(replace(CHEAP, client=client, network=network), town, buyer=Party.named("pauper"))
    assert not outcome.ok
    assert "insufficient" in outcome.reason or "simulation_failed" in outcome.reason
    assert outcome.paid == 0


def test_a_peer_that_does_not_start_is_red(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    def server(cell: Cell) -> str:
        raise PeerError("it wrote: port taken")

    monkeypatch.setattr(town, "server", server)
    assert run(CHEAP, town).reason == "PeerError: it wrote: port taken"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data: {}\n\n", "no end"),
        ("data: [DONE]\n\n", "without a receipt"),
        (": x402-receipt e30=\n\ndata: {}\n\ndata: [DONE]\n\n", "choices"),
    ],
)
def test_a_stream_without_end_receipt_or_choices_is_no_answer(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_answer(replace(CHEAP, server=Server.GATEWAY_STREAM), text)


def test_the_matrix_covers_what_was_promised() -> None:
    assert len(CELLS) == len(set(CELLS)) >= 16
    for network in (BASE_SEPOLIA, SOLANA_DEVNET):
        for client in (Client.PYTHON, Client.FETCH):
            assert Cell(client, Server.GATEWAY, Facilitator.OURS, network) in CELLS
        for server in (Server.FASTAPI, Server.EXPRESS):
            assert Cell(Client.OURS, server, Facilitator.OURS, network) in CELLS
        assert Cell(Client.OURS, Server.GATEWAY, Facilitator.PYTHON, network) in CELLS
        assert Cell(Client.FETCH_V1, Server.GATEWAY_ALPHA, Facilitator.OURS, network, 1) in CELLS
    assert {cell.client for cell in CELLS} == set(Client)


def test_cells_are_found_by_part_of_the_name_and_by_wildcards() -> None:
    assert matching("") == list(CELLS)
    assert {cell.version for cell in matching("v1")} == {1}
    assert {cell.network for cell in matching("OPENAI*Base-Sepolia")} == {BASE_SEPOLIA}
    assert len(matching("x402-fetch*alpha*> ours*solana")) == 1
    assert matching("no such cell") == []

"""Rows that differ in one column only: what is done to one of them is done to no other. Faults D01, D02, E11.

The neighbours sort before and after it, so that a filter that compares in one direction takes some of them along.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from tests.ports.ledgers import ME, NETWORK, signing, subject
from x402.lifecycle import Entry, Event, Party, begin
from x402.ports import NonceBook
from x402.ports.ledger import SqlLedger
from x402.stages import Claimed, Held, Intended, Refused, Stage

NETWORKS = ("eip155:1", NETWORK, "eip155:9")
SENDERS = ("0xa", "0xsender", "0xz")
BEGINNINGS: dict[Party, Stage] = {Party.CLIENT: Held(), Party.GATEWAY: Claimed()}


async def intended_by(ledger: SqlLedger, name: str, network: str, sender: str) -> int:
    """The nonce of a payment that one key on one network settles."""
    theirs = replace(subject(f"{name} {network} {sender}"), network=network)
    entry, _ = await ledger.intend(theirs, sender, 0, signing(theirs.pay_id, sender=sender))
    assert isinstance(entry.stage, Intended)
    assert entry.stage.nonce is not None
    return entry.stage.nonce


async def test_D02_a_nonce_comes_back_to_its_own_key_and_network(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        for name, expected in (("first", 0), ("second", 1)):
            for network, sender in product(NETWORKS, SENDERS):
                assert await intended_by(ledger, name, network, sender) == expected
        await ledger.advance(ME, f"first {NETWORK} 0xsender", Event.REFUSE, Refused("a", "b"))
        await ledger.return_nonce(NETWORK, "0xsender", 0)
        for network, sender in product(NETWORKS, SENDERS):
            ours = (network, sender) == (NETWORK, "0xsender")
            assert await ledger.nonces(network, sender) == NonceBook(2, frozenset({1} if ours else {0, 1}))
            if not ours:
                assert not await ledger.withdraw_nonce(network, sender, 0)
                assert await intended_by(ledger, "third", network, sender) == 2
        assert await intended_by(ledger, "third", NETWORK, "0xsender") == 0


@pytest.mark.parametrize("networks", [NETWORKS, NETWORKS[::-1]])
async def test_D01_each_network_counts_from_its_own_first_nonce(ledger_url: str, networks: tuple[str, ...]) -> None:
    async with SqlLedger(ledger_url) as ledger:
        for network in networks:
            assert [await intended_by(ledger, name, network, "0xsender") for name in ("a", "b")] == [0, 1]


async def test_D02_one_gap_is_withdrawn_and_the_next_is_handed_out(ledger_url: str) -> None:
    async with SqlLedger(ledger_url) as ledger:
        for name in ("a", "b", "c"):
            await intended_by(ledger, name, NETWORK, "0xsender")
            await ledger.advance(ME, f"{name} {NETWORK} 0xsender", Event.REFUSE, Refused("a", "b"))
        for nonce in (0, 1, 2):
            await ledger.return_nonce(NETWORK, "0xsender", nonce)
        assert await ledger.withdraw_nonce(NETWORK, "0xsender", 1)
        assert not await ledger.withdraw_nonce(NETWORK, "0xsender", 1)
        assert [await intended_by(ledger, name, NETWORK, "0xsender") for name in ("d", "e", "f")] == [0, 2, 3]


def memory(party: Party, name: str) -> Entry:
    return begin(party, subject(name), BEGINNINGS.get(party) or Intended("0xtx", b"", 9, "0xsender"))


@pytest.mark.parametrize("party", Party)
async def test_E11_a_lease_is_of_one_row(ledger_url: str, party: Party) -> None:
    rows = list(product(Party, ("oay", "pay", "qay")))
    async with SqlLedger(ledger_url, clock=lambda: 7) as mine, SqlLedger(ledger_url, clock=lambda: 7) as theirs:
        for owner, name in rows:
            assert (await mine.begin(memory(owner, name)))[1]
        assert await theirs.lease(party, "pay", 60)
        for owner, name in rows:
            assert await mine.lease(owner, name, 60) == ((owner, name) != (party, "pay"))
        # Who does not hold it gives nothing back, and who does gives back this one alone.
        await mine.end_lease(party, "pay")
        assert not await mine.lease(party, "pay", 60)
        await theirs.end_lease(party, "pay")
        assert await mine.lease(party, "pay", 60)
        await mine.end_lease(party, "pay")
        for owner, name in rows:
            assert await theirs.lease(owner, name, 60) == ((owner, name) == (party, "pay"))


# A client's payments are in its journal, so no index helps to find its open rows here.
@pytest.mark.parametrize("party", [Party.GATEWAY, Party.FACILITATOR])
async def test_E11_open_rows_are_taken_from_one_party(ledger_url: str, party: Party) -> None:
    async with SqlLedger(ledger_url, clock=lambda: 7) as mine, SqlLedger(ledger_url, clock=lambda: 7) as theirs:
        for owner in Party:
            await mine.begin(memory(owner, "pay"))
        assert [(one.party, one.subject.pay_id) for one in await mine.take_open(party, 60)] == [(party, "pay")]
        assert await theirs.take_open(party, 60) == []
        for owner in (Party.GATEWAY, Party.FACILITATOR):
            assert len(await theirs.take_open(owner, 60)) == (owner is not party)

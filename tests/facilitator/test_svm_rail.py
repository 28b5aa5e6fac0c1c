"""What the Solana rail promises until bytes leave: offer, check, price, sign, write down, send (A09, A23, C06, D14).

The node is scripted, so that each moment comes; the ledger, the payments and the keys are real.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.facilitator.script import ME
from tests.facilitator.svm_desk import AWAY, HEIGHT, LIFETIME_BLOCKS, NOW, Desk
from tests.nodes import SvmNode, SvmSale
from tests.payments import as_version_1
from tests.schemes import exact_svm_forge
from x402.chain import SvmAccount, SvmSimulation
from x402.errors import Mender, MisconfiguredError, RefusedError, UnavailableError
from x402.facilitator.rail import Checked
from x402.facilitator.signer import SvmSigner
from x402.facilitator.svm_rail import Lamports, SvmChecked, SvmRail
from x402.networks import SOLANA_DEVNET
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.schemes import exact_svm, exact_svm_reasons
from x402.schemes.exact_svm_rules import SvmLimits
from x402.stages import Intended, Settled


@pytest.fixture
def desk(ledger: SqlLedger) -> Desk:
    return Desk(ledger)


# Being there.


def test_a_rail_without_a_key_is_refused() -> None:
    with pytest.raises(MisconfiguredError, match="at least one key") as refused:
        SvmRail(SOLANA_DEVNET, SvmNode(), [], lambda: NOW)
    assert refused.value.code == "no_signer"


async def test_D14_nothing_is_judged_before_the_node_has_proved_its_network(desk: Desk) -> None:
    desk.node.away.add("check_cluster")
    with pytest.raises(UnavailableError):
        await desk.check()
    assert desk.node.asked == [("check_cluster", SOLANA_DEVNET)]
    desk.node.away.clear()
    await desk.check()
    assert desk.node.asked[0] == ("check_cluster", SOLANA_DEVNET)
    # Once is enough.
    await desk.check()
    assert desk.node.heard("check_cluster") == []
    started = Desk(desk.ledger)
    await started.rail.start()
    assert started.node.asked == [("check_cluster", SOLANA_DEVNET)]
    await started.check()
    assert started.node.heard("check_cluster") == []
    await started.rail.aclose()
    assert started.node.heard("aclose") == [()]


async def test_E08_the_first_key_that_has_its_reserve_is_offered(desk: Desk) -> None:
    first, second = desk.rail.signers()
    assert [key.address for key in desk.keys] == [first, second]
    desk.node.accounts_by[first] = SvmAccount("", 999_999, b"")
    assert await desk.rail.kinds() == ()
    assert desk.rail.balances == {first: 999_999, second: 0}
    desk.node.accounts_by[second] = SvmAccount("", 1_000_000, b"")
    (kind,) = await desk.rail.kinds()
    assert (kind.scheme, kind.network, kind.extra) == ("exact", SOLANA_DEVNET, exact_svm.offer_extra(second))
    desk.node.accounts_by[first] = SvmAccount("", 1_000_000, b"")
    assert [kind.extra for kind in await desk.rail.kinds()] == [exact_svm.offer_extra(first)]
    thrifty = SvmRail(SOLANA_DEVNET, desk.node, desk.keys, lambda: NOW, lamports=Lamports(1_000_001))
    assert await thrifty.kinds() == ()
    desk.node.away.add("accounts")
    assert await desk.rail.kinds() == ()
    assert desk.rail.extensions == ()


# Checking.


async def test_a_check_asks_for_everything_at_once(desk: Desk) -> None:
    sale, transfer = desk.sale, desk.sale.signed.transfer
    await desk.check()
    checked = await desk.check()
    assert checked.subject == sale.subject == desk.rail.read(sale.payment, sale.offer).subject
    assert (checked.balance, checked.signed, checked.height) == (5000, sale.signed, 0)
    unsigned = b"\x02" + bytes(64) + sale.signed.payer_signature + transfer.message
    questions = [("simulate", unsigned, False), ("accounts", transfer.destination, transfer.source)]
    assert desk.node.asked == questions
    # Where settling follows, the height is asked for along with it.
    assert (await desk.check(settling=True)).height == HEIGHT
    assert desk.node.asked == [*questions, ("block_height",)]


async def test_what_the_simulation_says_is_refused_in_its_words(desk: Desk) -> None:
    desk.node.simulation = SvmSimulation('{"InstructionError":[2,{"Custom":1}]}')
    with pytest.raises(RefusedError) as refused:
        await desk.check()
    assert refused.value.code == exact_svm_reasons.INSUFFICIENT_FUNDS
    assert refused.value.details == {"payer": desk.sale.payer.address}
    assert refused.value.mender is Mender.PAYER
    # Who lacks the account that is to be paid is told before.
    del desk.node.accounts_by[desk.sale.signed.transfer.destination]
    with pytest.raises(RefusedError) as refused:
        await desk.check(settling=True)
    assert refused.value.code == exact_svm_reasons.DESTINATION_MISSING


async def test_C06_what_breaks_a_limit_is_refused_without_a_question(ledger: SqlLedger) -> None:
    desk = Desk(ledger, limits=SvmLimits(compute_limit=1))
    with pytest.raises(RefusedError):
        await desk.check()
    assert desk.node.asked == []


async def test_who_sponsors_nothing_here_is_refused(desk: Desk) -> None:
    desk.sale = SvmSale(desk.node)
    with pytest.raises(RefusedError):
        await desk.check()


async def test_C10_version_1_knows_no_memo(desk: Desk) -> None:
    """Its equal payments collide, and the seller's claim tells them apart."""
    rail = SvmRail(SOLANA_DEVNET, desk.node, [SvmSigner(exact_svm_forge.SPONSOR)], lambda: NOW)
    seller = exact_svm_forge.SELLER
    desk.sale.hold(str(exact_svm_forge.account(seller)), str(seller.pubkey()), 0)
    silent = exact_svm_forge.paying(exact_svm_forge.transaction(exact_svm_forge.steps()[:3]))
    with pytest.raises(RefusedError) as refused:
        await rail.check(silent, exact_svm_forge.offer())
    assert refused.value.code == exact_svm_reasons.MEMO_COUNT
    assert (await rail.check(as_version_1(silent), exact_svm_forge.offer())).balance == 0


# What it costs.


async def test_the_fee_is_what_the_transfer_bids(desk: Desk) -> None:
    checked = await desk.check()
    assert await desk.rail.fee(checked) == desk.sale.signed.transfer.fee == 10_001
    # What was only read is checked again.
    assert await desk.rail.fee(desk.rail.read(desk.sale.payment, desk.sale.offer)) == 10_001
    assert await desk.rail.fee(replace(checked, signed=None)) == 10_001


async def test_the_cost_is_known_once_it_was_judged_and_else_asked_for(desk: Desk) -> None:
    assert await desk.rail.cost(desk.sale.name) is None
    landed = desk.sale.land()
    desk.node.asked.clear()
    assert await desk.rail.cost(desk.sale.name) == 10_001
    assert desk.node.asked == [("transaction", desk.sale.name)]
    # A node that does not tell is none that says that it was free.
    desk.node.transactions[desk.sale.name] = replace(landed, fee=0)
    assert await desk.rail.cost(desk.sale.name) is None
    desk.sale.land()
    desk.sale.status()
    assert isinstance(await desk.decided(), Settled)
    desk.node.asked.clear()
    assert await desk.rail.cost(desk.sale.name, 3) == 10_001
    assert desk.node.asked == []


# Signing and sending.


async def test_what_settles_is_written_down_before_anything_leaves(desk: Desk) -> None:
    entry, won = await desk.rail.intend(await desk.check(settling=True), desk.ledger)
    assert won
    assert entry.subject == desk.sale.subject
    last_valid = HEIGHT + LIFETIME_BLOCKS
    assert entry.stage == Intended(desk.sale.name, desk.sale.raw, last_valid, desk.keys[0].address, signed_at=NOW)
    assert await desk.ledger.find(ME, entry.subject.pay_id) == entry
    assert (desk.node.heard("send"), desk.node.heard("block_height")) == ([], [()])
    again, won = await desk.rail.intend(await desk.check(settling=True), desk.ledger)
    assert (again, won) == (entry, False)


async def test_A23_who_has_seen_no_height_asks_before_it_signs(desk: Desk) -> None:
    checked = await desk.check()
    desk.node.height = 7_000
    entry, _ = await desk.rail.intend(checked, desk.ledger)
    assert isinstance(entry.stage, Intended)
    assert entry.stage.last_valid == 7_000 + LIFETIME_BLOCKS
    for kind in (Checked, SvmChecked):
        other = Desk(desk.ledger)
        bare = kind(other.sale.subject, other.sale.payment, other.sale.offer)
        entry, _ = await other.rail.intend(bare, desk.ledger)
        assert isinstance(entry.stage, Intended)
        assert entry.stage.last_valid == HEIGHT + LIFETIME_BLOCKS


async def test_A09_a_send_that_nobody_answered_is_no_refusal(desk: Desk) -> None:
    _, stage = await desk.intended()
    for refusal in (None, AWAY):
        desk.node.refusal = refusal
        await desk.rail.submit(stage)
    assert desk.node.heard("send") == [(desk.sale.raw, desk.sale.name)] * 2
    desk.node.refusal = NotSent("Blockhash not found")
    with pytest.raises(NotSent):
        await desk.rail.submit(stage)


async def test_no_other_bytes_can_pay(desk: Desk) -> None:
    entry, stage = await desk.intended()
    assert await desk.rail.replace(entry, stage, desk.ledger) is None
    await desk.rail.heal(desk.ledger)
    assert desk.node.asked == []


async def test_A11_nobody_else_can_settle_it(desk: Desk) -> None:
    """Its fee payer signs it last."""
    assert not desk.rail.is_open_to_all(desk.sale.subject)

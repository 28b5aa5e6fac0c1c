"""The keys that send: whose turn it is, what is bid and signed, and which nonces are mended (D01-D03, D05, E08, E11).

The chain and the keys are scripted, so that each number can be seen; the ledger is real.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.facilitator.script import ME, offer_and_payment
from tests.ports.ledgers import signing, subject
from x402.chain import CallResult, EvmFees
from x402.errors import MisconfiguredError, UnavailableError
from x402.facilitator.evm_sender import EvmSender, Gas
from x402.lifecycle import Entry, Event
from x402.networks import MULTICALL3
from x402.ports import NotSent
from x402.ports.ledger import SqlLedger
from x402.schemes import multicall
from x402.schemes.eip1559 import EvmTransaction
from x402.schemes.subject import subject_of
from x402.stages import Intended, Refused

NETWORK = "eip155:84532"
GWEI = 10**9
TOKEN, OTHER = "0x" + "22" * 20, "0x" + "33" * 20
ORACLE = "0x420000000000000000000000000000000000000F"


@dataclass
class Chain:
    """Says what a test wants, and remembers what it was sent and asked."""

    chain_id: int = 84532
    balances: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    bid: EvmFees = field(default_factory=lambda: EvmFees(10 * GWEI, GWEI))
    oracle: CallResult = field(default_factory=lambda: CallResult(True, (7).to_bytes(32, "big")))
    sent: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    refusal: Exception | None = None

    async def balance(self, address: str) -> int:
        return self.balances.get(address, 10**18)

    async def transaction_count(self, address: str) -> int:
        self.asked.append(("count", address))
        return self.counts.get(address, 0)

    async def fees(self) -> EvmFees:
        return self.bid

    async def call(self, to: str, data: bytes, **_: Any) -> CallResult:
        self.asked.append((to, data))
        return self.oracle

    async def send(self, raw: bytes, transaction: str) -> None:
        self.sent.append(transaction)
        if self.refusal is not None:
            raise self.refusal


class Key:
    """Shows what it was asked to sign: the bytes name the sender and the nonce."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.mark = ""
        """What ends the name of everything that it signs."""
        self.signed: list[EvmTransaction] = []

    def sign_transaction(self, transaction: EvmTransaction) -> tuple[str, bytes]:
        self.signed.append(transaction)
        return f"{self.address}:{transaction.nonce}{self.mark}", b"raw"


@dataclass
class Signed:
    """What a scheme reads from a payment, as far as a sender looks at it."""

    contract: str = TOKEN
    data: bytes = b"call"
    signature: bytes = bytes(65)
    more_gas: int = 0
    valid_before: int = 999
    sender: str = ""

    def calldata(self) -> bytes:
        return self.data


@dataclass
class Pool:
    """A sender over scripted keys."""

    chain: Any
    keys: Any
    gas: Gas
    now: int = 1000

    def __post_init__(self) -> None:
        self.sender = EvmSender(NETWORK, self.chain, self.keys, lambda: self.now, self.gas)


def pool(*addresses: str, gas: Gas | None = None) -> Pool:
    keys: list[Any] = [Key(address) for address in addresses or ("a", "b", "c")]
    chain: Any = Chain()
    return Pool(chain, keys, gas or Gas())


def test_a_network_without_a_key_is_refused() -> None:
    chain: Any = Chain()
    with pytest.raises(MisconfiguredError, match="at least one key"):
        EvmSender(NETWORK, chain, [], lambda: 0, Gas())


def test_D01_keys_take_turns() -> None:
    made = pool()
    assert made.sender.addresses == ["a", "b", "c"]
    assert [made.sender.next() for _ in range(4)] == ["a", "b", "c", "a"]
    assert made.sender.able() == ["b", "c", "a"]
    assert made.sender.take_turn("c") == "c"
    assert made.sender.able() == ["b", "a", "c"]
    assert (made.sender.knows("a"), made.sender.knows("d")) == (True, False)


async def test_E08_a_key_below_the_reserve_is_passed_over_until_it_has_more() -> None:
    made = pool(gas=Gas(reserve=100))
    made.chain.balances = {"a": 99, "b": 100, "c": 101}
    assert await made.sender.balances() == {"a": 99, "b": 100, "c": 101}
    assert (made.sender.able(), made.sender.next(), made.sender.next(), made.sender.next()) == (["b", "c"], *"bcb")
    made.chain.balances = {"a": 0, "b": 0, "c": 0}
    await made.sender.balances()
    # Who can pay nothing at all is asked all the same: a node says no, and the payment waits.
    assert made.sender.able() == ["a", "c", "b"]
    made.chain.balances = {"a": 100, "b": 0, "c": 0}
    await made.sender.balances()
    assert made.sender.able() == ["a"]


@pytest.mark.parametrize(
    ("words", "left"), [("Insufficient Funds for gas", ["b", "c"]), ("nonce too low", ["a", "b", "c"])]
)
async def test_D01_a_key_that_a_node_refused_is_asked_for_its_nonce_again(
    ledger: SqlLedger, words: str, left: list[str]
) -> None:
    made = pool()
    for _ in range(2):
        assert await made.sender.count("a", ledger) == 0
    assert made.chain.asked == [("count", "a")]
    made.chain.counts = {"a": 5}
    made.sender.distrust("a", words)
    assert made.sender.able() == left
    assert await made.sender.count("a", ledger) == 5
    made.sender.distrust("never used", words)


async def test_what_a_rollup_charges_is_asked_every_half_a_minute() -> None:
    made = pool()
    for later, asked in ((0, 1), (0, 1), (29, 1), (1, 2), (-1, 3)):
        made.now += later
        assert await made.sender.data_fee() == 7
        assert len(made.chain.asked) == asked
    to, data = made.chain.asked[0]
    assert (to, data[4:]) == (ORACLE, (500).to_bytes(32, "big"))


@pytest.mark.parametrize(
    "oracle",
    [CallResult(False, (7).to_bytes(32, "big")), CallResult(True, b"7" * 31), CallResult(True, b"7" * 33)],
)
async def test_where_no_contract_says_what_data_costs_it_costs_nothing(oracle: CallResult) -> None:
    made = pool()
    made.chain.oracle = oracle
    assert await made.sender.data_fee() == 0


@pytest.mark.parametrize(
    ("asked", "bid"),
    [
        (EvmFees(10, 2), (10, 2)),
        (EvmFees(100, 2), (100, 2)),
        (EvmFees(101, 2), (100, 2)),
        (EvmFees(500, 400), (100, 100)),
        (EvmFees(5, 9), (5, 5)),
    ],
)
def test_D03_nothing_is_bid_above_the_cap(asked: EvmFees, bid: tuple[int, int]) -> None:
    assert pool(gas=Gas(max_fee=100)).sender.bid(asked) == bid


@pytest.mark.parametrize(
    ("before", "asked", "raised"),
    [
        ((80, 8), EvmFees(1, 1), (90, 9)),
        ((81, 9), EvmFees(1, 1), (92, 11)),
        ((80, 8), EvmFees(95, 1), (95, 9)),
        ((80, 8), EvmFees(1, 50), (90, 50)),
        ((80, 8), EvmFees(1, 99), (90, 90)),
        ((80, 8), EvmFees(100, 1), (100, 9)),
        ((80, 8), EvmFees(101, 1), None),
        ((89, 8), EvmFees(1, 1), None),
    ],
)
def test_D03_a_bid_is_raised_by_an_eighth_or_to_what_is_asked_now(
    before: tuple[int, int], asked: EvmFees, raised: tuple[int, int] | None
) -> None:
    assert pool(gas=Gas(max_fee=100)).sender.raised(before, asked) == raised


def test_D05_a_signature_that_is_no_keys_gets_a_wallets_gas() -> None:
    gas = Gas(limit=10, wallet_limit=40, bundle=35)
    signed: Any = Signed
    assert [gas.of(signed(signature=bytes(length))) for length in (64, 65, 66)] == [40, 10, 40]
    assert gas.of(signed(more_gas=5)) == 15
    assert (gas.shares_max, Gas(limit=10, bundle=9).shares_max, Gas(limit=10, bundle=20).shares_max) == (3, 1, 2)


def test_one_payment_is_called_directly_and_several_through_multicall() -> None:
    made = pool("a", gas=Gas(limit=10, wallet_limit=40))
    one: Any = Signed()
    wallet: Any = Signed(OTHER, b"data", bytes(100), 5, 888)
    made.now = 1234
    alone = made.sender.signing("a", (9, 3), one)(6)
    assert alone == Intended("a:6", b"raw", 999, "a", 6, 1, (), 1234, (9, 3), 1)
    assert made.keys[0].signed[0] == EvmTransaction(84532, 6, TOKEN, 10, 9, 3, b"call")
    again = made.sender.signing("a", (9, 3), one, alone)(7)
    assert (again.attempt, again.earlier, again.transactions) == (2, ("a:6",), ("a:7", "a:6"))
    third = made.sender.signing("a", (9, 3), one, again)(8)
    assert (third.attempt, third.earlier) == (3, ("a:6", "a:7"))
    subjects = [subject("one"), subject("two")]
    both = made.sender.signing_together("a", (9, 3), {"one": one, "two": wallet})(9, subjects)
    assert [(each.transaction, each.last_valid, each.shares, each.attempt) for each in both] == [
        ("a:9", 999, 2, 1), ("a:9", 888, 2, 1),
    ]  # fmt: skip
    calls = multicall.aggregate3([(TOKEN, b"call"), (OTHER, b"data")])
    assert made.keys[0].signed[-1] == EvmTransaction(84532, 9, MULTICALL3, 10 + 40 + 5, 9, 3, calls)


def test_one_bundle_is_outbid_for_all_that_still_wait_for_it() -> None:
    made = pool("a", gas=Gas(limit=10))
    waiting = []
    for attempt in (1, 2):
        offer, payment = offer_and_payment()
        stage = Intended("0xold", b"raw", 999, "a", 5, attempt, (), 0, (8, 2), 2)
        waiting.append(Entry(ME, subject_of(payment, offer), stage))
    refused = replace(waiting[0], stage=Refused("expired", "late"))
    better = made.sender.signing_again("a", (9, 3))(5, [*waiting, refused])
    assert [(one.transaction, one.attempt, one.earlier, one.shares, one.bid) for one in better] == [
        ("a:5", 2, ("0xold",), 3, (9, 3)), ("a:5", 3, ("0xold",), 3, (9, 3)), ("a:5", 1, (), 3, (9, 3)),
    ]  # fmt: skip
    assert [one.last_valid for one in better[:2]] == [entry.subject.expires_at for entry in waiting]


def test_what_a_settlement_may_cost_unless_its_operator_says_otherwise() -> None:
    assert Gas() == Gas(160_000, 400_000, 10_000_000, 500 * GWEI, 10**13, 20, 12)


async def held(ledger: SqlLedger, *nonces: int) -> None:
    """Open settlements of key a that hold these nonces; the others up to the highest were given back or lost."""
    for nonce in range(max(nonces) + 1):
        name = f"pay{nonce}"
        await ledger.intend(subject(name), "a", 0, signing(name, sender="a"))
        if nonce not in nonces:
            await held_no_more(ledger, name)


async def test_D02_a_gap_below_a_held_nonce_is_filled_and_one_above_is_handed_out_again(ledger: SqlLedger) -> None:
    """Of five nonces the chain has the first; the second and the last are nobody's, the others are in the air."""
    made = pool("a")
    await held(ledger, 2, 3)
    await ledger.intend(subject("last"), "a", 0, signing("last", sender="a"))
    made.chain.counts = {"a": 1}
    await held_no_more(ledger, "last")
    await made.sender.heal(ledger)
    assert made.chain.sent == ["a:1"]
    (filler,) = made.keys[0].signed
    assert filler == EvmTransaction(84532, 1, "a", 21_000, 10 * GWEI, GWEI)
    # Once is enough: who was told to fill it is the only one.
    await made.sender.heal(ledger)
    assert made.chain.sent.count("a:1") >= 1
    entry, _ = await ledger.intend(subject("next"), "a", 1, signing("next", sender="a"))
    assert isinstance(entry.stage, Intended)
    assert entry.stage.nonce == 4


async def held_no_more(ledger: SqlLedger, name: str) -> None:
    await ledger.advance(ME, name, Event.REFUSE, Refused("never_sent", "gone"))


async def test_D02_what_the_chain_has_or_a_settlement_holds_is_left_alone(ledger: SqlLedger) -> None:
    made = pool("a", "b")
    await held(ledger, 1, 2)
    made.chain.counts = {"a": 1}
    await made.sender.heal(ledger)
    assert (made.chain.sent, made.chain.asked) == ([], [("count", "a"), ("count", "b")])
    # And what was counted is known from then on.
    assert await made.sender.count("a", ledger) == 1
    assert len(made.chain.asked) == 2


@pytest.mark.parametrize("refusal", [NotSent("already known"), UnavailableError("rpc_unavailable", "away")])
async def test_D02_a_filler_that_does_not_arrive_is_left_to_the_next_round(
    ledger: SqlLedger, refusal: Exception
) -> None:
    made = pool("a")
    await held(ledger, 1)
    made.chain.refusal = refusal
    await made.sender.heal(ledger)
    assert made.chain.sent == ["a:0"]
    made.chain.refusal = None
    await made.sender.heal(ledger)
    assert made.chain.sent == ["a:0", "a:0"]


async def test_D02_a_nonce_that_nobody_waits_above_is_handed_out_again_and_not_filled(ledger: SqlLedger) -> None:
    made = pool("a")
    await ledger.intend(subject("only"), "a", 0, signing("only", sender="a"))
    await held_no_more(ledger, "only")
    await made.sender.heal(ledger)
    assert made.chain.sent == []
    entry, _ = await ledger.intend(subject("next"), "a", 0, signing("next", sender="a"))
    assert isinstance(entry.stage, Intended)
    assert entry.stage.nonce == 0

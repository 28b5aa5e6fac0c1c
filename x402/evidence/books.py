"""A party's books against what the chain shows: each payee's income, transaction by transaction (invariant I5).

The chain is asked for everything that a payee got since the ledger's first payment, and the two sums differ by exactly
what is listed. Money that the ledger counts and the chain does not show is a violation; so is money on chain for a
payment that the ledger calls unpaid. A payee may have income from elsewhere: that is listed and no violation.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from solders.pubkey import Pubkey

from x402 import networks
from x402.errors import UnavailableError
from x402.evidence import evm, svm
from x402.lifecycle import Party
from x402.ports import EvmChain, SvmChain
from x402.ports.audit import PAID, Violation
from x402.ports.ledger_text import History, amount_of, transactions_of
from x402.schemes import exact_evm, exact_svm_layout
from x402.schemes.eip712 import address_word
from x402.schemes.evm_payment import TRANSFER_TOPIC
from x402.stages import State

SKEW_SECONDS = 600
"""How far the clock of whoever wrote the ledger may have been off; only where is looked depends on it."""
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_WINDOW_BLOCKS = 2_000
_PAGE = 1000
_AT_ONCE = 8
_UNPAID = frozenset({State.REFUSED, State.RELEASED})
_LOOKUP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Income:
    """What one transaction brought a payee, in atomic units. `late` when it may be younger than the ledger's copy."""

    transaction: str
    units: int
    late: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A transaction about which ledger and chain disagree; `wrong` when only a defect explains it."""

    transaction: str
    pay_id: str
    ledger_units: int
    chain_units: int
    words: str
    wrong: bool


@dataclass(slots=True)
class Account:
    """A payee's income on one network in one asset, by a party's ledger and by the chain, in atomic units."""

    party: str
    network: str
    asset: str
    payee: str
    ledger_units: int = 0
    chain_units: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def violations(self) -> list[Violation]:
        """The differences that are no honest ledger's."""
        return [Violation("I5", self.party, one.pay_id, one.words) for one in self.differences if one.wrong]


class IncomeReader(Protocol):
    """Reads from one network what a payee got. Raises `UnavailableError`."""

    async def mark(self) -> None:
        """Remember how far the chain is: what comes later may be missing in a ledger that is read after this."""
        ...

    async def income(self, asset: str, payee: str, since: int) -> Sequence[Income]:
        """Every transaction that brought the payee some of an asset since a unix second."""
        ...

    async def authorized(self, asset: str, transaction: str) -> Sequence[str]:
        """The ids of the payments that a transaction makes, as far as it tells them."""
        ...

    async def balance(self, asset: str, owner: str) -> int:
        """What a wallet holds now, in atomic units."""
        ...


class EvmIncome:
    """`IncomeReader` by `Transfer` events."""

    def __init__(self, network: str, chain: EvmChain) -> None:
        self._network, self._chain = network, chain
        self._mark: int | None = None

    async def mark(self) -> None:
        self._mark = await self._chain.block_number()

    async def income(self, asset: str, payee: str, since: int) -> Sequence[Income]:
        if not _ADDRESS.fullmatch(payee):
            return []
        topics = (TRANSFER_TOPIC, None, "0x" + address_word(payee).hex())
        height = await self._chain.block_number()
        mark = height if self._mark is None else min(self._mark, height)
        found = await self._between(asset, topics, mark + 1, height, late=True)
        last = mark
        while True:
            first = max(0, last - _WINDOW_BLOCKS + 1)
            found += await self._between(asset, topics, first, last)
            if first == 0 or await self._chain.time_of(first) < since - SKEW_SECONDS:
                return found
            last = first - 1

    async def authorized(self, asset: str, transaction: str) -> Sequence[str]:
        receipt = await self._chain.receipt(transaction, timeout=_LOOKUP_SECONDS)
        used = [log.topics for log in receipt.logs if log.address.lower() == asset.lower()] if receipt else []
        return [
            f"{self._network}:{asset}:0x{topics[1][-40:]}:{topics[2]}".lower()
            for topics in used
            if len(topics) == 3 and topics[0].lower() == exact_evm.AUTHORIZATION_USED_TOPIC
        ]

    async def balance(self, asset: str, owner: str) -> int:
        return await evm.balance_of(self._chain, asset, owner) if _ADDRESS.fullmatch(owner) else 0

    async def _between(
        self, asset: str, topics: Sequence[str | None], first: int, last: int, *, late: bool = False
    ) -> list[Income]:
        logs = await self._chain.logs(asset, topics, first, last) if first <= last else ()
        return [Income(transaction, _units(log.data), late) for transaction, log in logs]


class SvmIncome:
    """`IncomeReader` by the balances around each transaction of the payee's token account."""

    def __init__(self, network: str, chain: SvmChain) -> None:
        self._network, self._chain = network, chain
        self._mark: int | None = None

    async def mark(self) -> None:
        self._mark = await self._chain.finalized()

    async def income(self, asset: str, payee: str, since: int) -> Sequence[Income]:
        known = networks.get(self._network).asset(asset)
        if known is None or not _is_key(payee):
            return []
        account = exact_svm_layout.token_account(payee, asset, known.token_program)
        found: list[Income] = []
        for signature in await self._signatures(account, since):
            found += await self._brought(signature, account)
        return found

    async def authorized(self, asset: str, transaction: str) -> Sequence[str]:
        # A Solana payment's id is a digest of its message, which a transaction's balances don't tell.
        return []

    async def balance(self, asset: str, owner: str) -> int:
        known = networks.get(self._network).asset(asset)
        if known is None or not _is_key(owner):
            return 0
        return await svm.balance_of(self._chain, self._network, asset, owner)

    async def _signatures(self, account: str, since: int) -> list[str]:
        found: list[str] = []
        before = ""
        while True:
            page = await self._chain.signatures_of(account, limit=_PAGE, before=before)
            for one in page:
                if one.time is not None and one.time < since - SKEW_SECONDS:
                    return found
                found.append(one.signature)
            if len(page) < _PAGE:
                return found
            before = page[-1].signature

    async def _brought(self, signature: str, account: str) -> list[Income]:
        landed = await self._chain.transaction(signature)
        if landed is None or landed.error is not None:
            return []
        late = self._mark is not None and landed.slot > self._mark
        changes = [one.after - one.before for one in landed.balances if one.account == account]
        return [Income(signature, change, late) for change in changes if change > 0]


_Place = tuple[str, str, str, str]
"""Party, network, asset and payee."""


@dataclass(slots=True)
class _Claims:
    """What a ledger says about one payee: what was paid by which transaction, and what may be."""

    since: int
    paid: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    named: dict[str, str] = field(default_factory=dict)
    """Every transaction that any state of a payment named, with the payment's id."""
    states: dict[str, State] = field(default_factory=dict)


class Books:
    """What a ledger says, gathered history by history, to be compared with the chain."""

    def __init__(self) -> None:
        self._claims: dict[_Place, _Claims] = {}

    def read(self, histories: Iterable[History]) -> Iterable[History]:
        """Hand the histories on, and remember what they say."""
        for history in histories:
            self._remember(history)
            yield history

    @property
    def networks(self) -> frozenset[str]:
        """The networks of all payments."""
        return frozenset(place[1] for place in self._claims)

    async def compare(self, readers: Mapping[str, IncomeReader]) -> Sequence[Account]:
        """Every payee's account on the networks that can be read. Raises `UnavailableError`."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(place: _Place) -> Account:
            async with gate:
                return await _account(place, self._claims[place], readers[place[1]])

        return await asyncio.gather(*(one(place) for place in sorted(self._claims) if place[1] in readers))

    def _remember(self, history: History) -> None:
        row = history.payment
        if row is None or row.party not in (Party.GATEWAY, Party.FACILITATOR) or row.state not in set(State):
            return
        network, asset, payee = (str(row.constants[name]) for name in ("network", "asset", "payee"))
        amount = amount_of(row)
        claims = self._claims.setdefault((row.party, network, asset, payee), _Claims(row.created_at))
        claims.since = min(claims.since, row.created_at)
        claims.states[row.pay_id] = State(row.state)
        for stage in (row.stage, *(event.stage for event in history.events)):
            for transaction in transactions_of(stage):
                claims.named.setdefault(_spelled(network, transaction), row.pay_id)
        if row.state in PAID and amount.isascii() and amount.isdigit():
            for transaction in transactions_of(row.stage)[:1]:
                claims.paid[_spelled(network, transaction)] += int(amount)
                claims.named[_spelled(network, transaction)] = row.pay_id


async def _account(place: _Place, claims: _Claims, reader: IncomeReader) -> Account:
    _, network, asset, payee = place
    got: defaultdict[str, int] = defaultdict(int)
    for one in await reader.income(asset, payee, claims.since):
        transaction = _spelled(network, one.transaction)
        if not one.late or transaction in claims.paid:
            got[transaction] += one.units
    account = Account(*place, ledger_units=sum(claims.paid.values()), chain_units=sum(got.values()))
    for transaction in sorted(claims.paid.keys() | got.keys()):
        ledger_units, chain_units = claims.paid.get(transaction, 0), got.get(transaction, 0)
        if ledger_units == chain_units:
            continue
        pay_id = claims.named.get(transaction, "")
        if ledger_units:
            words = f"the ledger has {ledger_units} units by {transaction}, and the chain shows {chain_units}"
            account.differences.append(Difference(transaction, pay_id, ledger_units, chain_units, words, True))
            continue
        candidates = [pay_id] if pay_id else await reader.authorized(asset, transaction)
        pay_id = next((one for one in candidates if one in claims.states), "")
        account.differences.append(_unknown(transaction, pay_id, chain_units, claims.states.get(pay_id)))
    return account


def _unknown(transaction: str, pay_id: str, units: int, state: State | None) -> Difference:
    if state is None:
        words = f"{units} units by {transaction} are of no payment in this ledger"
    elif state in _UNPAID:
        words = f"the chain shows {units} units by {transaction}, and the ledger says {state}"
    else:
        words = f"{units} units by {transaction} are there, and the ledger still says {state}"
    return Difference(transaction, pay_id, 0, units, words, state in _UNPAID or state in PAID)


def _units(data: str) -> int:
    try:
        return int(data, 16)
    except ValueError as error:
        raise UnavailableError("rpc_unavailable", "the node sent a transfer without an amount") from error


def _is_key(text: str) -> bool:
    try:
        Pubkey.from_string(text)
    except ValueError:
        return False
    return True


def _spelled(network: str, transaction: str) -> str:
    return transaction.lower() if network.startswith(networks.EIP155 + ":") else transaction

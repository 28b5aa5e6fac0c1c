"""A simulated Solana cluster: slots of 0.4 s, blockhashes that die after 150 blocks, transactions that get lost.

There is no pool: a transaction lands in one of the next slots or never, and may be sent again until its blockhash is
dead. What has landed is shown two slots later, when it is confirmed.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from solders.hash import Hash
from solders.transaction import VersionedTransaction

from tests.simulation.token import Move
from tests.simulation.world import World
from x402 import networks
from x402.chain import TokenBalance
from x402.errors import RefusedError
from x402.ports import NotSent
from x402.schemes import exact_svm_layout as layout

SLOT_SECONDS = 0.4
GENESIS_SLOT = 300_000
SKIPPED_SLOTS = 20_000
"""How far block heights are behind slots, as on the real cluster."""
LIFETIME_BLOCKS = 150
CONFIRMED_AFTER = 2
FINAL_AFTER = 32


@dataclass(frozen=True, slots=True)
class SvmPayment:
    """A transaction of scheme `exact`, read from its bytes. `memo` is as text."""

    signature: str
    signatures: tuple[str, ...]
    fee_payer: str
    payer: str
    source: str
    destination: str
    amount: int
    memo: str
    blockhash: str
    message: bytes
    genuine: bool


@dataclass(frozen=True, slots=True)
class Landed:
    """A transaction in a block; `before` are the balances of source and destination, `after` those of everybody."""

    payment: SvmPayment
    slot: int
    error: str | None
    before: tuple[int, int]
    after: dict[str, int]
    move: Move | None


@lru_cache(maxsize=4096)
def read_payment(raw: bytes) -> SvmPayment:
    """The payment in signed bytes. Raises `ValueError` for anything else."""
    try:
        transaction = layout.read_transaction(raw)
        message = layout.message_of(transaction)
        steps = layout.instructions_of(message)
    except RefusedError as error:
        raise ValueError(error.message) from error
    transfer = next((step for step in steps if step.data[:1] == bytes([layout.TRANSFER_CHECKED])), None)
    if transfer is None or len(transfer.accounts) < 4:
        raise ValueError("no transfer in it")
    memo = next((step.data for step in steps if step.program == layout.MEMO), b"")
    signatures = tuple(str(signature) for signature in transaction.signatures)
    return SvmPayment(
        signature=signatures[0],
        signatures=signatures,
        fee_payer=str(message.account_keys[0]),
        payer=transfer.accounts[3],
        source=transfer.accounts[0],
        destination=transfer.accounts[2],
        amount=struct.unpack("<Q", transfer.data[1:9])[0],
        memo=f"[{len(memo)}] {memo.decode()}",
        blockhash=str(message.recent_blockhash),
        message=layout.signed_bytes(message),
        genuine=all(_verified(transaction)),
    )


def _verified(transaction: VersionedTransaction) -> list[bool]:
    return transaction.verify_with_results()


class SimulatedSvm:
    """One cluster. `usdc` are the token balances at the beginning by owner, `lamports` those of fee payers."""

    def __init__(self, world: World, network: str, usdc: Mapping[str, int], lamports: Mapping[str, int]) -> None:
        self.world = world
        self.network = networks.get(network)
        self.asset = self.network.usd
        self.owners = {self.account_of(owner): owner for owner in usdc}
        self.genesis = {self.account_of(owner): units for owner, units in usdc.items()}
        self.lamports = dict(lamports)
        self.history: list[Landed] = []
        self.moves_ever: list[tuple[str, Move]] = []
        self.undone: set[str] = set()
        self.on_landed: list[Callable[[Landed], None]] = []
        self._hashes: dict[str, int] = {}
        self._queue: dict[str, SvmPayment] = {}
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._armed = False

    def account_of(self, owner: str) -> str:
        """The owner's token account."""
        return layout.token_account(owner, self.asset.address, self.asset.token_program)

    def slot(self) -> int:
        """The newest slot."""
        return GENESIS_SLOT + int(self.world.loop.time() / SLOT_SECONDS)

    def height(self) -> int:
        """The newest block's height."""
        return self.slot() - SKIPPED_SLOTS

    def blockhash(self, slot: int) -> tuple[str, int]:
        """The blockhash of a slot and the last height at which it serves."""
        text = str(Hash(hashlib.sha256(f"slot {slot}".encode()).digest()))
        last = slot - SKIPPED_SLOTS + LIFETIME_BLOCKS
        self._hashes[text] = last
        return text, last

    def is_alive(self, blockhash: str) -> bool:
        """Whether a transaction may still use it."""
        return self.height() <= self._hashes.get(blockhash, -1)

    def balances(self, slot: int) -> dict[str, int]:
        """Atomic units by token account, in the eyes of a node that has confirmed the slots up to `slot`."""
        for landed in reversed(self.history):
            if landed.slot <= slot:
                return landed.after
        return self.genesis

    def find(self, signature: str, slot: int) -> Landed | None:
        """A transaction in a slot up to `slot`."""
        for landed in self.history:
            if landed.payment.signature == signature and landed.slot <= slot:
                return landed
        return None

    def problem(self, payment: SvmPayment, slot: int) -> str | None:
        """The error that a simulation of it gives, as JSON text, or None."""
        if any(one.payment.message == payment.message and one.slot <= slot for one in self.history):
            # A cluster remembers messages, whoever's signature is missing.
            return '"AlreadyProcessed"'
        if not self.is_alive(payment.blockhash):
            return '"BlockhashNotFound"'
        if self.balances(slot).get(payment.source, 0) < payment.amount:
            return '{"InstructionError":[2,{"Custom":1}]}'
        return None

    def submit(self, raw: bytes, *, forwarded: bool = True) -> None:
        """Take signed bytes after a preflight; lost on the way unless `forwarded`. Raises `NotSent`."""
        payment = read_payment(raw)
        if not payment.genuine:
            raise NotSent("Transaction signature verification failure")
        problem = self.problem(payment, self.slot())
        if problem == '"AlreadyProcessed"':
            return
        if problem is not None:
            raise NotSent(problem, ours="BlockhashNotFound" in problem)
        if not forwarded:
            self.world.note(f"the cluster loses {payment.signature[:8]}")
            return
        self._queue[payment.signature] = payment
        if not self._armed:
            self._armed = True
            self.world.later(SLOT_SECONDS, self._make_slot)

    def _make_slot(self) -> None:
        self._armed = False
        waiting, self._queue = self._queue, {}
        for payment in waiting.values():
            if self.find(payment.signature, self.slot()) is None and self.is_alive(payment.blockhash):
                self._land(payment)

    def _land(self, payment: SvmPayment) -> None:
        balances = self.history[-1].after if self.history else self.genesis
        source, destination = (balances.get(one, 0) for one in (payment.source, payment.destination))
        error, move, after = None, None, balances
        if source < payment.amount:
            error = '{"InstructionError":[2,{"Custom":1}]}'
        else:
            after = {**balances, payment.source: source - payment.amount}
            after[payment.destination] = destination + payment.amount
            move = Move(payment.payer, self.owners.get(payment.destination, ""), payment.amount, payment.message)
            self.moves_ever.append((payment.signature, move))
        self.lamports[payment.fee_payer] = self.lamports.get(payment.fee_payer, 0) - 10_000
        landed = Landed(payment, self.slot(), error, (source, destination), after, move)
        self.history.append(landed)
        self.world.note(f"slot {landed.slot} has {payment.signature[:8]} {'paid' if move else 'failed'}")
        for told in self.on_landed:
            told(landed)
        for arrival in self._waiting.pop(payment.signature, []):
            delay = CONFIRMED_AFTER * SLOT_SECONDS + self.world.latency("read")
            self.world.later(delay, lambda arrival=arrival: None if arrival.done() else arrival.set_result(None))  # type: ignore[misc]

    def spend_elsewhere(self, owner: str) -> None:
        """The owner moves all its money away, in a transaction of its own."""
        account = self.account_of(owner)
        balances = self.history[-1].after if self.history else self.genesis
        if balances.get(account, 0):
            self.genesis = {**self.genesis, account: 0}
            for landed in self.history:
                landed.after[account] = 0

    async def wait_for(self, signature: str, seconds: float) -> None:
        """Until the transaction is confirmed, or `seconds` are over."""
        arrival: asyncio.Future[None] = self.world.loop.create_future()
        self._waiting.setdefault(signature, []).append(arrival)
        timer = self.world.later(seconds, lambda: None if arrival.done() else arrival.set_result(None))
        try:
            await arrival
        finally:
            timer.cancel()

    def token_balances(self, landed: Landed) -> tuple[TokenBalance, ...]:
        """What a landed transaction did to the two token accounts."""
        payment = landed.payment
        shown = zip((payment.source, payment.destination), landed.before, strict=True)
        return tuple(
            TokenBalance(one, self.owners.get(one, ""), self.asset.address, before, _after(landed, one, before))
            for one, before in shown
        )


def _after(landed: Landed, account: str, before: int) -> int:
    if landed.error is not None:
        return before
    return before - landed.payment.amount if account == landed.payment.source else before + landed.payment.amount

"""The Solana devnet's bank: LiteSVM with slots, a window of blockhashes, and the cluster's landing rules.

LiteSVM executes transactions with the real runtime and the real SPL programs, but knows a single blockhash and no
time. This bank adds what a cluster adds: slots that pass with the clock, blockhashes that die after 150 blocks,
a status cache that refuses a message twice, and failed transactions that land and pay their fee.

Everything is confirmed and finalized in the slot in which it lands; there are no forks, leaders or durable nonces.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from solders.account import Account
from solders.address_lookup_table_account import AddressLookupTable
from solders.clock import Clock
from solders.hash import Hash
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, InnerInstruction, TransactionMetadata

from x402.devnet.svm.encoding import base58_encode
from x402.devnet.svm.history import History, Json, Landed, pack
from x402.devnet.svm.tokens import token_account, token_balances

MAX_AGE_BLOCKS = 150
"""How many blocks a blockhash stays usable after its own (Solana's MAX_PROCESSING_AGE)."""

FIRST_SLOT = 1_000
"""Slots run ahead of block heights, as on a cluster with skipped slots, so that no client can confuse the two."""

SLOTS_PER_EPOCH = 432_000


@dataclass(frozen=True, slots=True)
class Execution:
    """What running a transaction gave; `error` is the JSON form of a `TransactionError`, `fee` is in lamports."""

    error: Json
    logs: Sequence[str] = ()
    units: int = 0
    fee: int = 0
    return_data: Json = None
    inner: Sequence[Json] = ()
    accounts: dict[Pubkey, Account] = field(default_factory=dict)


@dataclass(slots=True)
class _Block:
    """The height of a live blockhash, and the messages that were processed under it."""

    height: int
    processed: set[Hash] = field(default_factory=set)


class Bank:
    """One chain in memory. Not thread-safe: call it from the event loop, a call takes about 0.1 ms.

    `slot_ms` is the length of a slot in milliseconds; 0 freezes the clock, so that only `advance` moves it.
    `history` bounds the number of landed transactions that are remembered.
    """

    def __init__(self, *, slot_ms: int = 400, history: int = 200_000) -> None:
        if slot_ms < 0 or history < 1:
            raise ValueError("slot_ms must not be negative and history must be positive")
        # Age, duplicates and signatures are checked here: LiteSVM knows one blockhash only, and switching its
        # signature check per call would mutate shared state.
        svm = LiteSVM().with_blockhash_check(False).with_sigverify(False)
        self.svm = svm.with_transaction_history(0)
        self.slot_ms = slot_ms
        self.history = History(history)
        self.on_slot: list[Callable[[int], None]] = []
        self.on_landed: list[Callable[[Landed, dict[Pubkey, Account | None]], None]] = []
        self._started_ns = time.monotonic_ns()
        self._jumped = 0
        self._token_accounts: dict[Pubkey, set[Pubkey]] = {}
        self._blocks: dict[Hash, _Block] = {}
        self.height = 0
        self.latest_blockhash = Hash.default()
        self.tick()

    @property
    def slot(self) -> int:
        return self.height + FIRST_SLOT

    def tick(self) -> int:
        """Catch up with the clock and return the current slot."""
        passed = 0
        if self.slot_ms:
            passed = (time.monotonic_ns() - self._started_ns) // (self.slot_ms * 1_000_000)
        height = 1 + self._jumped + passed
        if height != self.height:
            self._open_block(height)
        return self.slot

    def advance(self, slots: int) -> int:
        """Jump ahead by `slots` and return the new slot. Raises ValueError for a negative number."""
        if slots < 0:
            raise ValueError("slots only go forward")
        self._jumped += slots
        return self.tick()

    def _open_block(self, height: int) -> None:
        self.height = height
        self.latest_blockhash = Hash(os.urandom(32))
        self._blocks[self.latest_blockhash] = _Block(height)
        for blockhash, block in tuple(self._blocks.items()):
            if height <= block.height + MAX_AGE_BLOCKS:
                break
            del self._blocks[blockhash]
        clock = self.svm.get_clock()
        self.svm.set_clock(
            Clock(
                slot=self.slot,
                epoch_start_timestamp=clock.epoch_start_timestamp,
                epoch=self.slot // SLOTS_PER_EPOCH,
                leader_schedule_epoch=self.slot // SLOTS_PER_EPOCH + 1,
                unix_timestamp=int(time.time()),
            )
        )
        for listener in tuple(self.on_slot):
            listener(self.slot)

    def is_live(self, blockhash: Hash) -> bool:
        """Whether a transaction with this blockhash may still land."""
        return blockhash in self._blocks

    def last_valid_height(self, blockhash: Hash) -> int:
        """The last block height at which a live blockhash is accepted. Raises KeyError for an unknown one."""
        return self._blocks[blockhash].height + MAX_AGE_BLOCKS

    def admission_error(self, message: Message | MessageV0) -> str | None:
        """Why the cluster would not even run this message: `BlockhashNotFound` or `AlreadyProcessed`."""
        block = self._blocks.get(message.recent_blockhash)
        if block is None:
            return "BlockhashNotFound"
        # The cluster's status cache is keyed by message, so a second signature over it is the same transaction.
        return "AlreadyProcessed" if message.hash() in block.processed else None

    def simulate(self, transaction: VersionedTransaction, *, any_blockhash: bool = False) -> Execution:
        """Run without effect and without looking at signatures. `any_blockhash` skips age and duplicate checks."""
        self.tick()
        if not any_blockhash and (refusal := self.admission_error(message_of(transaction))):
            return Execution(refusal)
        result = self.svm.simulate_transaction(transaction)
        if isinstance(result, FailedTransactionMetadata):
            return _execution(result.meta(), json.loads(result.to_json())["err"])
        return _execution(result.meta(), None, dict(result.post_accounts()))

    def submit(self, transaction: VersionedTransaction) -> Landed | None:
        """Hand a transaction to the leader. None means that it never lands: bad signature, dead blockhash,
        duplicate, or a fee payer who cannot pay. Nothing is retried later."""
        self.tick()
        if self.admission_error(message_of(transaction)) or not all(transaction.verify_with_results()):
            return None
        done = self._execute(transaction, failed_too=True)
        return done if isinstance(done, Landed) else None

    def submit_if_good(self, transaction: VersionedTransaction) -> Landed | Execution:
        """A node's preflight and its leader in one, for a transaction whose signatures were verified a moment ago:
        what succeeds has landed, and what fails has no effect at all and tells how it failed."""
        self.tick()
        refusal = self.admission_error(message_of(transaction))
        return Execution(refusal) if refusal else self._execute(transaction, failed_too=False)

    def _execute(self, transaction: VersionedTransaction, *, failed_too: bool) -> Landed | Execution:
        message = message_of(transaction)
        loaded = self.lookups(message)
        addresses = [*message.account_keys, *loaded[0], *loaded[1]]
        programs = {key for i, key in enumerate(message.account_keys) if message.is_key_called_as_program(i)}
        before = self._snapshot(addresses, programs)
        result = self.svm.send_transaction(transaction)
        if isinstance(result, FailedTransactionMetadata):
            execution = _execution(result.meta(), json.loads(result.to_json())["err"])
            payer, paid_from = addresses[0], before[addresses[0]]
            # All that a failed transaction changes is what its fee payer holds.
            if paid_from is None or self.svm.get_account(payer) == paid_from:
                return execution
            if not failed_too:
                self.svm.set_account(payer, paid_from)
                return execution
        else:
            execution = _execution(result, None)
        after = self._snapshot(addresses, programs)
        meta = self._meta(execution, addresses, programs, before, after, loaded)
        self._blocks[message.recent_blockhash].processed.add(message.hash())
        landed = Landed(
            signature=str(transaction.signatures[0]),
            slot=self.slot,
            block_time=self.svm.get_clock().unix_timestamp,
            error=execution.error,
            raw=bytes(transaction),
            packed_meta=pack(meta),
            addresses=self.history.shared(addresses),
        )
        self.history.add(landed)
        changed = {key: after[key] for key in landed.addresses if key not in programs and after[key] != before[key]}
        self._note_token_accounts(changed)
        for listener in tuple(self.on_landed):
            listener(landed, changed)
        return landed

    def account(self, address: Pubkey) -> Account | None:
        """The account, or None where a cluster would say that there is none."""
        account = self.svm.get_account(address)
        return account if account is not None and (account.lamports or account.data) else None

    def token_accounts(self, owner: Pubkey) -> list[tuple[Pubkey, Account]]:
        """The token accounts that `owner` holds, as far as they came to be by transactions."""
        held = ((key, self.svm.get_account(key)) for key in sorted(self._token_accounts.get(owner, ()), key=bytes))
        return [
            (key, account)
            for key, account in held
            if account is not None and (state := token_account(account)) is not None and state.owner == owner
        ]

    def _note_token_accounts(self, changed: dict[Pubkey, Account | None]) -> None:
        for key, account in changed.items():
            state = token_account(account)
            if state is not None:
                self._token_accounts.setdefault(state.owner, set()).add(key)

    def lookups(self, message: Message | MessageV0) -> tuple[list[Pubkey], list[Pubkey]]:
        """The writable and the read-only addresses that a message loads from lookup tables."""
        writable: list[Pubkey] = []
        readonly: list[Pubkey] = []
        if isinstance(message, Message):
            return writable, readonly
        for lookup in message.address_table_lookups:
            account = self.svm.get_account(lookup.account_key)
            if account is None:
                continue
            try:
                table = AddressLookupTable.deserialize(account.data).addresses
            except ValueError:
                continue
            writable += [table[i] for i in lookup.writable_indexes if i < len(table)]
            readonly += [table[i] for i in lookup.readonly_indexes if i < len(table)]
        return writable, readonly

    def _snapshot(self, addresses: Sequence[Pubkey], programs: set[Pubkey]) -> dict[Pubkey, Account | None]:
        # The programs are left out: their code is large, and running them does not change them.
        return {key: None if key in programs else self.svm.get_account(key) for key in addresses}

    def _meta(
        self,
        execution: Execution,
        addresses: Sequence[Pubkey],
        programs: set[Pubkey],
        before: dict[Pubkey, Account | None],
        after: dict[Pubkey, Account | None],
        loaded: tuple[list[Pubkey], list[Pubkey]],
    ) -> dict[str, Json]:
        def lamports(state: dict[Pubkey, Account | None]) -> list[Json]:
            return [
                self.svm.get_balance(k) or 0 if k in programs else account.lamports if (account := state[k]) else 0
                for k in addresses
            ]

        return {
            "err": execution.error,
            "status": {"Ok": None} if execution.error is None else {"Err": execution.error},
            "fee": execution.fee,
            "preBalances": lamports(before),
            "postBalances": lamports(after),
            "preTokenBalances": token_balances(self.svm, [before[k] for k in addresses]),
            "postTokenBalances": token_balances(self.svm, [after[k] for k in addresses]),
            "innerInstructions": execution.inner,
            "logMessages": execution.logs,
            "loadedAddresses": {
                "writable": [str(k) for k in loaded[0]],
                "readonly": [str(k) for k in loaded[1]],
            },
            "computeUnitsConsumed": execution.units,
            "returnData": execution.return_data,
        }


def message_of(transaction: VersionedTransaction) -> Message | MessageV0:
    """The message of a legacy or v0 transaction. Raises ValueError for a version that clusters do not run yet."""
    message = transaction.message
    if not isinstance(message, Message | MessageV0):
        raise ValueError("only legacy and version 0 transactions are supported")
    return message


def _execution(meta: TransactionMetadata, error: Json, accounts: dict[Pubkey, Account] | None = None) -> Execution:
    returned = meta.return_data()
    return Execution(
        error=error,
        logs=meta.logs(),
        units=meta.compute_units_consumed(),
        fee=meta.fee(),
        return_data={
            "programId": str(returned.program_id),
            "data": [base64.b64encode(bytes(returned.data)).decode(), "base64"],
        }
        if returned.data
        else None,
        inner=[
            {"index": index, "instructions": [_inner(instruction) for instruction in group]}
            for index, group in enumerate(meta.inner_instructions())
            if group
        ],
        accounts=accounts or {},
    )


def _inner(inner: InnerInstruction) -> Json:
    instruction = inner.instruction()
    return {
        "programIdIndex": instruction.program_id_index,
        "accounts": list(instruction.accounts),
        "data": base58_encode(instruction.data),
        "stackHeight": inner.stack_height(),
    }

"""Chains that show what a test has put there, for moments that no real chain comes to on demand.

Both remember what they were asked, in order. Methods that are named in `away` raise `UnavailableError`, and what is to
come later is held back by an event in `later`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from solders.hash import Hash
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from tests.payments import EvmPayer, SvmPayer, evm_requirement, svm_requirement, upto_requirement
from x402.chain import (
    Blockhash,
    CallResult,
    EvmCall,
    EvmFees,
    EvmReceipt,
    Log,
    SvmAccount,
    SvmLanded,
    SvmListed,
    SvmSimulation,
    SvmStatus,
    SvmTransaction,
    TokenBalance,
)
from x402.errors import UnavailableError
from x402.evidence.svm import transfer_of
from x402.facilitator.signer import SvmSigner
from x402.networks import MULTICALL3, TOKEN_PROGRAM, UPTO_PERMIT2_PROXY
from x402.schemes import exact_svm_settlement, multicall
from x402.schemes.eip712 import uint256
from x402.schemes.evm_payment import TRANSFER_TOPIC, EvmPayment, balance_call, topic_of
from x402.schemes.evm_scheme import evm_scheme
from x402.schemes.subject import subject_of

BLOCK_SECONDS = 2


@dataclass
class _Node:
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    away: set[str] = field(default_factory=set)
    later: dict[str, asyncio.Event] = field(default_factory=dict)
    refusal: Exception | None = None
    """What the next transactions that are sent hear."""

    def _ask(self, name: str, *about: Any) -> None:
        self.asked.append((name, *about))
        if name in self.away:
            raise UnavailableError("rpc_unavailable", "the node did not answer")

    async def _held_back(self, transaction: str) -> None:
        """Until it may come; who stops waiting is remembered."""
        if transaction in self.later:
            try:
                await self.later[transaction].wait()
            except asyncio.CancelledError:
                self.asked.append(("given up", transaction))
                raise

    def heard(self, name: str) -> list[tuple[Any, ...]]:
        """What was asked by one method."""
        return [tuple(about) for asked, *about in self.asked if asked == name]

    async def aclose(self) -> None:
        self._ask("aclose")

    async def send(self, raw: bytes, transaction: str) -> None:
        self._ask("send", raw, transaction)
        if self.refusal is not None:
            raise self.refusal


@dataclass
class EvmNode(_Node):
    """An EVM network. `second` is the time of the block `height`, and blocks are two seconds apart."""

    chain_id: int = 84532
    height: int = 5_000
    second: int = 0
    final: int = 0
    receipts: dict[str, EvmReceipt] = field(default_factory=dict)
    calls: dict[str, EvmCall] = field(default_factory=dict)
    events: list[tuple[str, int, Log]] = field(default_factory=list)
    """With their transactions and blocks."""
    says: dict[tuple[str, bytes], CallResult] = field(default_factory=dict)
    """By contract and calldata; a word of zero for all others."""
    codes: dict[str, bytes] = field(default_factory=dict)
    wei: dict[str, int] = field(default_factory=dict)
    bid: EvmFees = field(default_factory=lambda: EvmFees(100, 10))

    async def check_chain_id(self) -> None:
        self._ask("check_chain_id")

    async def code(self, address: str) -> bytes:
        self._ask("code", address)
        return self.codes.get(address, b"")

    async def call(
        self, to: str, data: bytes, *, sender: str = "", gas: int = 0, block: int | None = None
    ) -> CallResult:
        self._ask("call", to, data, sender, gas, block)
        return self.says.get((to, data), CallResult(True, bytes(32)))

    async def balance(self, address: str) -> int:
        self._ask("balance", address)
        return self.wei.get(address, 0)

    async def transaction_count(self, address: str) -> int:
        self._ask("transaction_count", address)
        return 0

    async def fees(self) -> EvmFees:
        return self.bid

    async def knows(self, transaction: str) -> bool:
        self._ask("knows", transaction)
        return False

    def next_block(self) -> float | None:
        return None

    async def transaction(self, transaction: str) -> EvmCall | None:
        self._ask("transaction", transaction)
        return self.calls.get(transaction)

    async def receipt(self, transaction: str, *, timeout: float) -> EvmReceipt | None:
        self._ask("receipt", transaction, timeout)
        await self._held_back(transaction)
        return self.receipts.get(transaction)

    async def logs(
        self, address: str, topics: Sequence[str | None], from_block: int, to_block: int | None = None
    ) -> Sequence[tuple[str, Log]]:
        self._ask("logs", address, tuple(topics), from_block, to_block)
        assert to_block is not None
        return [
            (transaction, log)
            for transaction, block, log in self.events
            if log.address == address and log.topics[: len(topics)] == tuple(topics) and from_block <= block <= to_block
        ]

    async def time_of(self, block: int) -> int:
        self._ask("time_of", block)
        assert 0 <= block <= self.height
        return self.second - BLOCK_SECONDS * (self.height - block)

    async def now(self) -> int:
        self._ask("now")
        return self.second

    async def block_number(self) -> int:
        self._ask("block_number")
        return self.height

    async def finalized(self) -> int:
        self._ask("finalized")
        return self.final


def listed(*answers: CallResult) -> bytes:
    """What `aggregate3` returns for these."""
    heads: list[bytes] = []
    tails: list[bytes] = []
    for answer in answers:
        heads.append(uint256(32 * len(answers) + sum(map(len, tails))))
        body = uint256(len(answer.data)) + answer.data + bytes(-len(answer.data) % 32)
        tails.append(uint256(int(answer.succeeded)) + uint256(64) + body)
    return b"".join((uint256(32), uint256(len(answers)), *heads, *tails))


class EvmSale:
    """One signed payment, and ways to put on a node what became of it."""

    def __init__(self, node: EvmNode, scheme: str = "exact", *, lifetime: int = 600, facilitator: str = "") -> None:
        self.node, self.payer = node, EvmPayer()
        if scheme == "exact":
            self.offer = evm_requirement()
            self.payment = self.payer.pay(self.offer, lifetime=lifetime)
        else:
            self.offer = upto_requirement(facilitator or EvmPayer().address)
            self.payment = self.payer.pay_up_to(self.offer, lifetime=lifetime)
        self.subject = subject_of(self.payment, self.offer)
        self.signed: EvmPayment = evm_scheme(scheme).read(self.payment, self.offer)
        node.second = node.second or self.signed.valid_before - 500

    def calls(self) -> list[tuple[str, bytes]]:
        """What is asked before it settles: the payer's balance, and the settlement itself."""
        return [
            (self.signed.asset.address, balance_call(self.signed.payer)),
            (self.signed.contract, self.signed.calldata()),
        ]

    def pass_check(self, units: int = 5000) -> None:
        """The network's Multicall3 says that it would settle, and that its payer holds so much."""
        bundle = MULTICALL3, multicall.aggregate3(self.calls())
        self.node.says[bundle] = CallResult(True, listed(CallResult(True, uint256(units)), CallResult(True)))

    def spend(self) -> None:
        """The contract remembers that the payment was used up or taken back."""
        nonce = int(self.payment.payload.get("permit2Authorization", {}).get("nonce", 0))
        self.say_spent(uint256(1 << (nonce & 0xFF)))

    def say_spent(self, data: bytes, *, succeeded: bool = True) -> None:
        """What a node answers when asked whether the payment is spent."""
        self.node.says[self.signed.spent_call()] = CallResult(succeeded, data)

    def land(self, name: str, block: int, *, units: int = 1000, succeeded: bool = True, emits: bool = True) -> None:
        """A transaction of these bytes is in a block. Its events are there if it `succeeded` and `emits`; it moved
        another amount than was signed if `units` says so."""
        asset, signed = self.signed.asset.address, self.signed
        moved = Log(
            asset, (TRANSFER_TOPIC, topic_of(signed.payer), topic_of(signed.payee)), "0x" + uint256(units).hex()
        )
        shown = (moved,) if signed.named_in_call else (Log(asset, signed.used.topics, "0x"), moved)
        logs: tuple[Log, ...] = shown if succeeded and emits else ()
        self.node.receipts[name] = EvmReceipt(name, succeeded, block, logs, fee=700)
        self.node.calls[name] = EvmCall(UPTO_PERMIT2_PROXY, signed.calldata())
        self.node.events += [(name, block, log) for log in logs]

    def cancel(self, name: str, block: int, data: str = "0x") -> None:
        """The payer took the payment back in a block; `data` is that of the event."""
        given_up = self.signed.given_up
        log = Log(given_up.address, given_up.topics, data)
        self.node.receipts[name] = EvmReceipt(name, True, block, (log,))
        self.node.events.append((name, block, log))


@dataclass
class SvmNode(_Node):
    """A Solana cluster, whose clock shows `second`."""

    height: int = 1_000
    second: int = 0
    final: int = 0
    accounts_by: dict[str, SvmAccount] = field(default_factory=dict)
    statuses: dict[str, SvmStatus] = field(default_factory=dict)
    transactions: dict[str, SvmTransaction] = field(default_factory=dict)
    listed: list[SvmListed] = field(default_factory=list)
    simulation: SvmSimulation = field(default_factory=lambda: SvmSimulation(None))
    valid: bool = True

    async def check_cluster(self, network: str) -> None:
        self._ask("check_cluster", network)

    async def blockhash(self) -> Blockhash:
        self._ask("blockhash")
        return Blockhash(str(Hash.default()), self.height + 150)

    async def block_height(self) -> int:
        self._ask("block_height")
        return self.height

    async def is_blockhash_valid(self, blockhash: str) -> bool:
        self._ask("is_blockhash_valid", blockhash)
        return self.valid

    async def accounts(self, addresses: Sequence[str]) -> Sequence[SvmAccount | None]:
        self._ask("accounts", *addresses)
        return [self.accounts_by.get(address) for address in addresses]

    async def simulate(self, raw: bytes, *, verify_signatures: bool) -> SvmSimulation:
        self._ask("simulate", raw, verify_signatures)
        return self.simulation

    async def status(self, signature: str, *, timeout: float) -> SvmStatus | None:
        self._ask("status", signature, timeout)
        return self.statuses.get(signature)

    async def transaction(self, signature: str) -> SvmTransaction | None:
        self._ask("transaction", signature)
        return self.transactions.get(signature)

    async def landed(self, signature: str) -> SvmLanded | None:
        self._ask("landed", signature)
        return None

    async def finalized(self) -> int:
        self._ask("finalized")
        return self.final

    async def signatures_of(self, address: str, *, limit: int = 1000, before: str = "") -> Sequence[SvmListed]:
        self._ask("signatures_of", address, limit, before)
        names = [one.signature for one in self.listed]
        start = names.index(before) + 1 if before else 0
        return self.listed[start : start + limit]


_CLOCK = "SysvarC1ock11111111111111111111111111111111"


class SvmSale:
    """One partially signed transfer, and ways to put on a node what became of it. `name` is its transaction's id, and
    `raw` the bytes that its fee payer has signed too."""

    def __init__(self, node: SvmNode, sponsor: SvmSigner | None = None, *, second: int = 1_800_000_000) -> None:
        self.node, self.payer, self.sponsor = node, SvmPayer(), sponsor or SvmSigner(Keypair())
        self.seller = str(Keypair().pubkey())
        self.offer = svm_requirement(self.seller, self.sponsor.address)
        self.payment = self.payer.pay(self.offer, str(Hash.new_unique()))
        self.subject = subject_of(self.payment, self.offer)
        self.signed = transfer_of(self.subject)
        message = exact_svm_settlement.message_to_sign(self.signed)
        self.name, self.raw = exact_svm_settlement.cosign(self.signed, self.sponsor.sign_message(message))
        self.show_time(second)
        self.hold(self.signed.transfer.source, self.payer.address, 5000)
        self.hold(self.signed.transfer.destination, self.seller, 0)

    def show_time(self, second: int, data: bytes | None = None) -> None:
        """The cluster's clock; `data` stands in its account instead, if there is any."""
        known = bytes(32) + second.to_bytes(8, "little", signed=True)
        self.node.accounts_by[_CLOCK] = SvmAccount("", 1, known if data is None else data)

    def hold(self, account: str, owner: str, units: int) -> None:
        """A token account with atomic units in it."""
        mint = Pubkey.from_string(self.signed.transfer.mint)
        data = bytes(mint) + bytes(Pubkey.from_string(owner)) + units.to_bytes(8, "little") + bytes(93)
        self.node.accounts_by[account] = SvmAccount(TOKEN_PROGRAM, 1, data[:108] + b"\x01" + data[109:])

    def status(self, *, error: str | None = None, confirmation: str = "confirmed") -> None:
        """What a node says of its transaction's signature."""
        self.node.statuses[self.name] = SvmStatus(70, confirmation, error)

    def land(self, *, error: str | None = None, units: int = 1000) -> SvmTransaction:
        """Its transaction is in a block, and moved so much."""
        transfer = self.signed.transfer
        moved = TokenBalance(transfer.destination, self.seller, transfer.mint, 0, units)
        signatures = self.name, str(Signature(self.signed.payer_signature))
        landed = SvmTransaction(self.name, 70, error, (moved,), signatures, fee=10_001)
        self.node.transactions[self.name] = landed
        return landed

    def list(self, time: int | None = None, name: str = "", memo: str | None = None) -> None:
        """The payer's account lists a transaction, this one's if no `name` is given."""
        known = self.signed.transfer.memos[0].decode() if memo is None else memo
        self.node.listed.append(SvmListed(name or self.name, time, known))

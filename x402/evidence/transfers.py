"""A transfer that somebody made with a transaction of his own, read back from the chain (aimo §2.2, dialect 2).

Only what no payment of another scheme can look like is one: on EVM networks a call of the token's `transfer`, which no
authorization or permit is settled by; on Solana a transfer whose authority pays the fee itself, which `exact` forbids.
So a payment that was settled for one request can't be presented again as a transfer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from solders.transaction import VersionedTransaction

from x402.errors import PendingError, RefusedError, UnavailableError
from x402.evidence import Standing
from x402.evidence.horizon import horizon_of
from x402.money import Asset
from x402.ports import EvmChain, SvmChain
from x402.schemes.eip712 import address_word, checksum, keccak
from x402.schemes.evm_payment import TRANSFER_TOPIC
from x402.schemes.exact_svm_layout import MEMO, TRANSFER_CHECKED, token_account

_TRANSFER = keccak(b"transfer(address,uint256)")[:4]
_TRANSFER_LENGTH = 4 + 32 + 32
_SVM_TRANSFER = 3
_FINAL_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer of one asset to one payee; `amount` atomic, `time` the unix second of its block, `memos` its texts."""

    transaction: str
    payer: str
    payee: str
    asset: str
    amount: int
    block: int
    time: int
    standing: Standing
    memos: tuple[bytes, ...] = ()


class Transfers(Protocol):
    """One network, asked for transfers to a payee in the network's dollar.

    Raises `PendingError` for a transaction that the node does not show, or not yet; `RefusedError` for one that failed
    or is no such transfer; `UnavailableError` when the node can't be asked.
    """

    async def find(self, transaction: str, payee: str, asset: Asset) -> Transfer: ...

    async def finalized(self) -> int:
        """The highest block, or slot, that no reorganisation reaches any more."""
        ...


@dataclass(frozen=True, slots=True)
class EvmTransfers:
    """Implements `Transfers`; `prove` as in `gateway.nodes.Proven`."""

    chain: EvmChain
    prove: Callable[[], Awaitable[None]]

    async def finalized(self) -> int:
        return await self.chain.finalized()

    async def find(self, transaction: str, payee: str, asset: Asset) -> Transfer:
        await self.prove()
        horizon = await horizon_of(self.chain)
        receipt = await self.chain.receipt(transaction, timeout=0)
        call = None if receipt is None else await self.chain.transaction(transaction)
        if receipt is None or call is None:
            raise _unseen(transaction)
        if not receipt.succeeded:
            raise _failed()
        wanted, token = _TRANSFER + address_word(payee), asset.address.lower()
        called = call.to.lower() == token and len(call.data) == _TRANSFER_LENGTH
        logs = [one for one in receipt.logs if one.address.lower() == token and one.topics[:1] == (TRANSFER_TOPIC,)]
        if not called or not call.data.startswith(wanted) or len(logs) != 1 or len(logs[0].topics) != 3:
            raise _other("a single call of the token's transfer, to the seller")
        sender, receiver = (bytes.fromhex(topic.removeprefix("0x")) for topic in logs[0].topics[1:])
        amount = int(logs[0].data, 16)
        if receiver != address_word(payee) or sender == receiver or amount != int.from_bytes(call.data[36:], "big"):
            raise _other("a single call of the token's transfer, to the seller")
        if horizon.height < receipt.block:
            raise _unseen(transaction)
        return Transfer(
            transaction=transaction,
            payer=checksum("0x" + sender[-20:].hex()),
            payee=payee,
            asset=asset.address,
            amount=amount,
            block=receipt.block,
            time=await self.chain.time_of(receipt.block),
            standing=horizon.over(receipt.block),
        )


@dataclass(frozen=True, slots=True)
class SvmTransfers:
    """Implements `Transfers`; only instructions of the transaction itself count, none of a program's own."""

    chain: SvmChain
    prove: Callable[[], Awaitable[None]]

    async def finalized(self) -> int:
        return await self.chain.finalized()

    async def find(self, transaction: str, payee: str, asset: Asset) -> Transfer:
        await self.prove()
        status = await self.chain.status(transaction, timeout=0)
        landed = None if status is None else await self.chain.landed(transaction)
        if status is None or landed is None or landed.time is None:
            raise _unseen(transaction)
        if landed.error is not None or status.error is not None:
            raise _failed()
        payer, amount, memos = _svm_transfer(landed.raw, transaction, payee, asset)
        final = status.confirmation == "finalized"
        return Transfer(
            transaction=transaction,
            payer=payer,
            payee=payee,
            asset=asset.address,
            amount=amount,
            block=landed.slot,
            time=landed.time,
            standing=Standing(_FINAL_DEPTH if final else 1, final),
            memos=memos,
        )


def _svm_transfer(raw: bytes, transaction: str, payee: str, asset: Asset) -> tuple[str, int, tuple[bytes, ...]]:
    """Who paid how much, and the memos beside it."""
    try:
        signed = VersionedTransaction.from_bytes(raw)
    except ValueError as error:
        raise UnavailableError("rpc_unavailable", "the node sent a transaction that can't be read") from error
    if not signed.signatures or str(signed.signatures[0]) != transaction:
        raise UnavailableError("rpc_unavailable", "the node sent another transaction than asked for")
    keys = [str(key) for key in signed.message.account_keys]
    destination = token_account(payee, asset.address, asset.token_program)
    found, memos = [], []
    for one in signed.message.instructions:
        # What lies in a lookup table is no program that moves this token, and no account of the seller's.
        program = keys[one.program_id_index] if one.program_id_index < len(keys) else ""
        accounts = [keys[index] if index < len(keys) else "" for index in bytes(one.accounts)]
        data = bytes(one.data)
        if program == MEMO:
            memos.append(data)
        elif program == asset.token_program and len(data) >= 9 and data[0] in (_SVM_TRANSFER, TRANSFER_CHECKED):
            at = 1 if data[0] == _SVM_TRANSFER else 2
            if len(accounts) > at + 1 and accounts[at] == str(destination):
                found.append((accounts[0], accounts[at + 1], int.from_bytes(data[1:9], "little")))
    if len(found) != 1:
        raise _other("one transfer to the seller's token account")
    source, payer, amount = found[0]
    if payer != keys[0] or payer == payee or source == str(destination):
        raise _other("a transfer whose sender pays the network's fee itself")
    return payer, amount, tuple(memos)


def _unseen(transaction: str) -> PendingError:
    return PendingError(
        "the chain does not show this transaction yet: send the very same request again", transaction=transaction
    )


def _failed() -> RefusedError:
    return RefusedError("transaction_failed", "this transaction failed on chain, and moved nothing")


def _other(wanted: str) -> RefusedError:
    return RefusedError("not_a_transfer", f"this transaction is no payment that is taken by its id; wanted is {wanted}")

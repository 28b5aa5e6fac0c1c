"""An EVM network over JSON-RPC: what `ports.EvmChain` promises, with fixed layouts and shared round trips."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from x402.chain import CallResult, EvmCall, EvmFees, EvmReceipt, Log, revert_text
from x402.errors import MisconfiguredError, UnavailableError
from x402.ports import NotSent
from x402.ports.block_clock import BlockClock
from x402.ports.rpc import JsonRpc, RpcError
from x402.ports.watch import Watch

_FEES_LIFETIME_SECONDS = 2.0

_REFUSALS = (
    "insufficient funds",
    "intrinsic gas",
    "underpriced",
    "gas limit",
    "less than block base fee",
    "fee cap",
    "invalid sender",
    "invalid signature",
    "chain id",
    "rlp",
    "nonce too high",
    "reverted",
)
_KNOWN_ALREADY = ("already known", "known transaction", "already imported", "alreadyknown")


class RpcEvmChain:
    """One EVM network behind one node. `min_gas_price` (wei) lifts the bid on networks that answer zero."""

    def __init__(self, url: str, chain_id: int, *, timeout_seconds: float = 10.0, rpc: JsonRpc | None = None) -> None:
        self.chain_id = chain_id
        self.rpc = rpc or JsonRpc(url, timeout_seconds=timeout_seconds)
        self._blocks = BlockClock()
        self._receipts: Watch[EvmReceipt] = Watch(self._fetch_receipts, expected=self.next_block)
        self._fees: tuple[float, EvmFees] | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        await self.rpc.aclose()

    async def check_chain_id(self) -> None:
        served = _quantity(await self._ask("eth_chainId"))
        if served != self.chain_id:
            raise MisconfiguredError("wrong_chain", f"the node serves chain {served}, expected {self.chain_id}")

    async def code(self, address: str) -> bytes:
        return _bytes(await self._ask("eth_getCode", address, "latest"))

    async def call(
        self, to: str, data: bytes, *, sender: str = "", gas: int = 0, block: int | None = None
    ) -> CallResult:
        request: dict[str, Any] = {"to": to, "data": "0x" + data.hex()}
        if sender:
            request["from"] = sender
        if gas:
            request["gas"] = hex(gas)
        try:
            return CallResult(
                True, _bytes(await self.rpc.call("eth_call", request, "latest" if block is None else hex(block)))
            )
        except RpcError as error:
            if error.code == 3 or "revert" in error.message.lower() or "out of gas" in error.message.lower():
                return CallResult(False, revert=_revert_text(error))
            raise _unavailable(error) from error

    async def balance(self, address: str) -> int:
        return _quantity(await self._ask("eth_getBalance", address, "latest"))

    async def transaction_count(self, address: str) -> int:
        return _quantity(await self._ask("eth_getTransactionCount", address, "pending"))

    async def fees(self) -> EvmFees:
        if self._fees is not None and self._fees[0] > time.monotonic():
            return self._fees[1]
        block, tip = await asyncio.gather(
            self._ask("eth_getBlockByNumber", "latest", False), self._ask("eth_maxPriorityFeePerGas")
        )
        priority = _quantity(tip)
        base = _quantity(_member(block, "baseFeePerGas"))
        fees = EvmFees(max_fee=2 * base + priority, priority_fee=priority)
        self._fees = (time.monotonic() + _FEES_LIFETIME_SECONDS, fees)
        return fees

    async def send(self, raw: bytes, transaction: str) -> None:
        try:
            await self.rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
        except RpcError as error:
            message = error.message.lower()
            if any(words in message for words in _KNOWN_ALREADY):
                return
            if "nonce too low" in message:
                # A used nonce is no refusal when it was used by these very bytes.
                if not await self.knows(transaction):
                    raise NotSent(error.message[:300], ours=True) from error
                return
            if any(words in message for words in _REFUSALS):
                raise NotSent(error.message[:300], ours="reverted" not in message) from error
            raise _unavailable(error) from error

    async def knows(self, transaction: str) -> bool:
        return await self._ask("eth_getTransactionByHash", transaction) is not None

    async def transaction(self, transaction: str) -> EvmCall | None:
        found = await self._ask("eth_getTransactionByHash", transaction)
        if found is None:
            return None
        return EvmCall(str(_member(found, "to") or ""), _bytes(_member(found, "input")))

    async def receipt(self, transaction: str, *, timeout: float) -> EvmReceipt | None:
        return await self._receipts.wait(transaction, timeout)

    def next_block(self) -> float | None:
        return self._blocks.expected(time.monotonic())

    async def logs(
        self, address: str, topics: Sequence[str | None], from_block: int, to_block: int | None = None
    ) -> Sequence[tuple[str, Log]]:
        last = "latest" if to_block is None else hex(to_block)
        query = {"address": address, "topics": list(topics), "fromBlock": hex(from_block), "toBlock": last}
        found = await self._ask("eth_getLogs", query)
        if not isinstance(found, list):
            raise UnavailableError("rpc_unavailable", "the node's log list is no list")
        return [(str(_member(log, "transactionHash")), _log(log)) for log in found]

    async def now(self) -> int:
        return _quantity(_member(await self._ask("eth_getBlockByNumber", "latest", False), "timestamp"))

    async def time_of(self, block: int) -> int:
        return _quantity(_member(await self._ask("eth_getBlockByNumber", hex(block), False), "timestamp"))

    async def block_number(self) -> int:
        return _quantity(await self._share("eth_blockNumber"))

    async def finalized(self) -> int:
        return _quantity(_member(await self._share("eth_getBlockByNumber", "finalized", False), "number"))

    async def _ask(self, method: str, *params: Any) -> Any:
        try:
            return await self.rpc.call(method, *params)
        except RpcError as error:
            raise _unavailable(error) from error

    async def _share(self, method: str, *params: Any) -> Any:
        try:
            return await self.rpc.share(method, *params)
        except RpcError as error:
            raise _unavailable(error) from error

    async def _fetch_receipts(self, transactions: list[str]) -> Sequence[EvmReceipt | UnavailableError | None]:
        asked_at = time.monotonic()
        replies = await asyncio.gather(
            *(self._ask("eth_getTransactionReceipt", transaction) for transaction in transactions),
            return_exceptions=True,
        )
        found = [_found(transaction, reply) for transaction, reply in zip(transactions, replies, strict=True)]
        for receipt in found:
            if isinstance(receipt, EvmReceipt):
                self._blocks.seen(receipt.block, asked_at)
        if None in found:
            self._blocks.absent(asked_at)
        return found


def _found(transaction: str, reply: Any) -> EvmReceipt | UnavailableError | None:
    if isinstance(reply, BaseException):
        if not isinstance(reply, UnavailableError):
            raise reply
        return reply
    try:
        # A receipt without a block is one of a transaction that is still pending.
        return None if reply is None or _member(reply, "blockNumber") is None else _receipt(transaction, reply)
    except UnavailableError as error:
        return error


def _unavailable(error: RpcError) -> UnavailableError:
    return UnavailableError("rpc_unavailable", f"the node refused a request (code {error.code})")


def _quantity(value: Any) -> int:
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise UnavailableError("rpc_unavailable", "the node sent no hex quantity where one belongs")


def _bytes(value: Any) -> bytes:
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise UnavailableError("rpc_unavailable", "the node sent no hex data where some belongs")


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise UnavailableError("rpc_unavailable", f"the node's answer lacks {name}")
    return value[name]


def _log(value: Any) -> Log:
    try:
        address, topics, data = value["address"], value["topics"], value["data"]
    except (KeyError, TypeError):
        raise UnavailableError("rpc_unavailable", "the node sent a log without address, topics or data") from None
    if not isinstance(topics, list):
        raise UnavailableError("rpc_unavailable", "the node sent a log without topics")
    return Log(str(address), tuple(map(str, topics)), str(data))


def _receipt(transaction: str, value: dict[str, Any]) -> EvmReceipt:
    """A receipt of exactly the transaction that was asked for, in a block (fault D14)."""
    if str(_member(value, "transactionHash")).lower() != transaction.lower() or value.get("blockNumber") is None:
        raise UnavailableError("rpc_unavailable", "the node sent another transaction's receipt")
    logs = _member(value, "logs")
    if not isinstance(logs, list):
        raise UnavailableError("rpc_unavailable", "the node sent a receipt without logs")
    return EvmReceipt(
        transaction=transaction,
        succeeded=_quantity(_member(value, "status")) == 1,
        block=_quantity(value["blockNumber"]),
        logs=tuple(_log(log) for log in logs),
        fee=_fee(value),
    )


def _fee(receipt: dict[str, Any]) -> int:
    """What a transaction cost its sender in wei. Nodes that leave the price out have none to tell."""
    used, price = receipt.get("gasUsed"), receipt.get("effectiveGasPrice")
    paid = 0 if used is None or price is None else _quantity(used) * _quantity(price)
    rollup = receipt.get("l1Fee")
    return paid + (0 if rollup is None else _quantity(rollup))


def _revert_text(error: RpcError) -> str:
    """The reason in an `Error(string)` revert; else the node's message, with the selector of a custom error."""
    data = error.data.get("data") if isinstance(error.data, dict) else error.data
    try:
        raw = bytes.fromhex(data[2:]) if isinstance(data, str) and data.startswith("0x") else b""
    except ValueError:
        raw = b""
    words = revert_text(raw)
    if words is not None:
        return words
    return f"{error.message[:500]} 0x{raw[:4].hex()}" if len(raw) >= 4 else error.message[:500]

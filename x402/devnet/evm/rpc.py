"""The JSON-RPC methods of the py-evm chain: what Ethereum's clients ask, answered as go-ethereum answers.

Cheat methods have anvil's names. Methods run on the chain's thread and may take as long as the EVM takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from eth_typing import Address
from eth_utils.crypto import keccak

from . import params as read
from . import render
from .call import Call, Override, context_of, estimate, failure, perform, read_call, read_overrides
from .chain import COINBASE, TIP_WEI, Chain, Mined
from .params import METHOD_NOT_FOUND, SERVER_ERROR, RpcError, argument, optional
from .pool import TransactionRefused
from .render import data, quantity

CLIENT_VERSION = "x402-devnet/py-evm"
MAX_LOGS = 10_000
MAX_FEE_HISTORY_BLOCKS = 1024
MAX_BLOCKS_AT_ONCE = 1000
MAX_CODE_BYTES = 24_576
MAX_INTERVAL_S = 3600
MAX_CLOCK_JUMP_S = 10 * 365 * 86_400

Params = Sequence[Any]
Method = Callable[[Params], Any]


class EvmRpc:
    """The method table over one chain."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._methods: dict[str, Method] = {
            **self._chain_methods(),
            **self._account_methods(),
            **self._transaction_methods(),
            **self._cheats(),
        }

    def answer(self, method: str, params: Params) -> Any:
        """The result of one method. Raises `RpcError`, and nothing else for anything a caller can send."""
        found = self._methods.get(method)
        if found is None:
            raise RpcError(METHOD_NOT_FOUND, f"the method {method[:100]} does not exist/is not available")
        return found(params)

    def _chain_methods(self) -> dict[str, Method]:
        return {
            "web3_clientVersion": lambda _: CLIENT_VERSION,
            "web3_sha3": lambda params: data(keccak(read.data(argument(params, 0), "data"))),
            "net_version": lambda _: str(self.chain.chain_id),
            "net_listening": lambda _: True,
            "eth_chainId": lambda _: quantity(self.chain.chain_id),
            "eth_syncing": lambda _: False,
            "eth_accounts": lambda _: [],
            "eth_coinbase": lambda _: data(COINBASE),
            "eth_blockNumber": self._block_number,
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": self._block_by_hash,
            "eth_getBlockReceipts": self._block_receipts,
            "eth_gasPrice": lambda _: quantity(self.chain.next_base_fee() + TIP_WEI),
            "eth_maxPriorityFeePerGas": lambda _: quantity(TIP_WEI),
            "eth_feeHistory": self._fee_history,
            "eth_getLogs": self._logs,
        }

    def _account_methods(self) -> dict[str, Method]:
        return {
            "eth_getBalance": lambda params: quantity(self._state(params, 1).get_balance(self._account(params))),
            "eth_getCode": lambda params: data(self._state(params, 1).get_code(self._account(params))),
            "eth_getStorageAt": self._storage_at,
            "eth_getTransactionCount": self._transaction_count,
            "eth_call": self._call,
            "eth_estimateGas": self._estimate,
        }

    def _transaction_methods(self) -> dict[str, Method]:
        return {
            "eth_sendRawTransaction": self._send_raw,
            "eth_getTransactionByHash": self._transaction_by_hash,
            "eth_getTransactionReceipt": self._receipt,
        }

    def _cheats(self) -> dict[str, Method]:
        cheats: dict[str, Method] = {
            "evm_mine": self._mine,
            "evm_snapshot": lambda _: quantity(self.chain.snapshot()),
            "evm_revert": lambda params: self.chain.revert(read.number(argument(params, 0), "snapshot id")),
            "evm_increaseTime": self._increase_time,
            "evm_setAutomine": self._set_automine,
            "evm_setIntervalMining": self._set_interval,
            "anvil_mine": self._mine_several,
            "anvil_setBalance": self._set_balance,
            "anvil_setCode": self._set_code,
            "anvil_setNonce": self._set_nonce,
            "anvil_setStorageAt": self._set_storage,
        }
        return cheats | {"hardhat" + name[5:]: cheat for name, cheat in cheats.items() if name[:5] == "anvil"}

    # Blocks

    def _named_block(self, value: Any) -> Mined | None:
        name = read.block_name(value)
        if isinstance(name, bytes):
            return self.chain.by_hash(name)
        if name == "earliest":
            return self.chain.blocks[0]
        if isinstance(name, str):
            return self.chain.head
        return self.chain.blocks[name] if name <= self.chain.head.number else None

    def _block(self, params: Params, index: int) -> Mined:
        found = self._named_block(optional(params, index, "latest"))
        if found is None:
            raise RpcError(SERVER_ERROR, "header not found")
        return found

    def _block_number(self, _: Params) -> str:
        self.chain.heartbeat()
        return quantity(self.chain.head.number)

    def _block_by_number(self, params: Params) -> Any:
        name = read.block_name(argument(params, 0))
        if isinstance(name, str) and name != "earliest":
            self.chain.heartbeat()
        found = self._named_block(params[0])
        return None if found is None else render.block(found, optional(params, 1) is True)

    def _block_by_hash(self, params: Params) -> Any:
        found = self.chain.by_hash(read.data(argument(params, 0), "block hash", 32))
        return None if found is None else render.block(found, optional(params, 1) is True)

    def _block_receipts(self, params: Params) -> Any:
        found = self._named_block(argument(params, 0))
        return None if found is None else [render.receipt(found, one) for one in found.included]

    def _fee_history(self, params: Params) -> Any:
        count = read.number(argument(params, 0), "block count")
        newest = self._block(params, 1)
        percentiles = optional(params, 2, [])
        if not isinstance(percentiles, list) or len(percentiles) > 100:
            raise read.invalid("invalid reward percentiles: expected an array of at most 100 numbers")
        count = min(count, MAX_FEE_HISTORY_BLOCKS, newest.number + 1)
        blocks = self.chain.blocks[newest.number + 1 - count : newest.number + 1]
        following = self.chain.blocks[newest.number + 1 : newest.number + 2]
        next_fee = (following[0].header.base_fee_per_gas or 0) if following else self.chain.next_base_fee()
        history: dict[str, Any] = {
            "oldestBlock": quantity(newest.number + 1 - count),
            "baseFeePerGas": [quantity(one.header.base_fee_per_gas or 0) for one in blocks] + [quantity(next_fee)],
            "gasUsedRatio": [one.header.gas_used / one.header.gas_limit for one in blocks],
        }
        if percentiles:
            history["reward"] = [_rewards(one, percentiles) for one in blocks]
        return history

    def _logs(self, params: Params) -> Any:
        wanted = read.record(argument(params, 0), "filter")
        addresses, topics = read.addresses(wanted.get("address")), read.topics(wanted.get("topics"))
        if wanted.get("blockHash") is not None:
            found = self.chain.by_hash(read.data(wanted["blockHash"], "block hash", 32))
            if found is None:
                raise RpcError(SERVER_ERROR, "unknown block")
            blocks = [found]
        else:
            first, last = self._height(wanted.get("fromBlock")), self._height(wanted.get("toBlock"))
            if first > last:
                raise read.invalid("invalid block range params")
            blocks = self.chain.blocks[first : last + 1]
        logs: list[Any] = []
        for block in blocks:
            logs.extend(render.matching_logs(block, addresses, topics))
            if len(logs) > MAX_LOGS:
                raise RpcError(read.LIMIT_EXCEEDED, f"query returned more than {MAX_LOGS} results")
        return logs

    def _height(self, value: Any) -> int:
        name = read.block_name("latest" if value is None else value)
        if isinstance(name, int):
            return name
        return 0 if name == "earliest" else self.chain.head.number

    # Accounts and calls

    def _account(self, params: Params) -> Address:
        return read.address(argument(params, 0))

    def _state(self, params: Params, index: int) -> Any:
        return self.chain.state_at(self._block(params, index))

    def _storage_at(self, params: Params) -> str:
        slot = argument(params, 1)
        if isinstance(slot, str) and len(slot) == 66:
            slot = int.from_bytes(read.data(slot, "storage slot", 32), "big")
        else:
            slot = read.quantity(slot, "storage slot")
        return render.word(self._state(params, 2).get_storage(self._account(params), slot))

    def _transaction_count(self, params: Params) -> str:
        account = self._account(params)
        if optional(params, 1, "latest") == "pending":
            return quantity(self.chain.pending_nonce(account))
        return quantity(self._state(params, 1).get_nonce(account))

    def _prepared(self, params: Params) -> tuple[Any, Call, Mapping[Address, Override]]:
        call = read_call(read.record(argument(params, 0), "transaction"))
        name = optional(params, 1, "latest")
        current = isinstance(name, str) and name in read.BLOCK_TAGS - {"earliest"}
        header = context_of(self.chain, self._block(params, 1), current, free=call.max_fee_per_gas == 0)
        if call.max_fee_per_gas and call.max_fee_per_gas < (header.base_fee_per_gas or 0):
            words = f"maxFeePerGas: {call.max_fee_per_gas}, baseFee: {header.base_fee_per_gas}"
            raise RpcError(SERVER_ERROR, f"err: max fee per gas less than block base fee: {words}")
        return header, call, read_overrides(optional(params, 2, {}))

    def _call(self, params: Params) -> str:
        header, call, pretend = self._prepared(params)
        outcome = perform(self.chain, header, call, pretend)
        if outcome.error is not None:
            raise failure(outcome)
        return data(outcome.output)

    def _estimate(self, params: Params) -> str:
        header, call, pretend = self._prepared(params)
        return quantity(estimate(self.chain, header, call, pretend))

    # Transactions

    def _send_raw(self, params: Params) -> str:
        raw = read.data(argument(params, 0), "raw transaction")
        try:
            return data(self.chain.send(raw))
        except TransactionRefused as refusal:
            raise RpcError(SERVER_ERROR, str(refusal)) from refusal

    def _transaction_by_hash(self, params: Params) -> Any:
        tx_hash = read.data(argument(params, 0), "transaction hash", 32)
        found = self.chain.find(tx_hash)
        if found is not None:
            return render.transaction(found[1].signed, *found)
        waiting = self.chain.pool.get(tx_hash)
        return None if waiting is None else render.transaction(waiting, None, None)

    def _receipt(self, params: Params) -> Any:
        found = self.chain.find(read.data(argument(params, 0), "transaction hash", 32))
        return None if found is None else render.receipt(*found)

    # Cheats

    def _mine(self, params: Params) -> str:
        wanted = optional(params, 0)
        if isinstance(wanted, dict):
            wanted = wanted.get("timestamp")
        timestamp = None if wanted is None else read.number(wanted, "timestamp")
        if timestamp is not None and not 0 <= timestamp - self.chain.now() <= MAX_CLOCK_JUMP_S:
            raise read.invalid("invalid timestamp: the clock can't go back, nor further ahead than ten years")
        if timestamp is not None:
            self.chain.clock_offset_s += timestamp - self.chain.now()
        self.chain.mine()
        return "0x0"

    def _mine_several(self, params: Params) -> None:
        count = read.number(optional(params, 0, 1), "block count")
        if count > MAX_BLOCKS_AT_ONCE:
            raise read.invalid(f"invalid block count: at most {MAX_BLOCKS_AT_ONCE} at once")
        for _ in range(count):
            self.chain.mine()

    def _increase_time(self, params: Params) -> int:
        seconds = read.number(argument(params, 0), "seconds")
        if self.chain.clock_offset_s + seconds > MAX_CLOCK_JUMP_S:
            raise read.invalid("invalid seconds: the clock can't be more than ten years ahead")
        self.chain.clock_offset_s += seconds
        return self.chain.clock_offset_s

    def _set_automine(self, params: Params) -> None:
        on = argument(params, 0)
        if not isinstance(on, bool):
            raise read.invalid("invalid argument 0: expected true or false")
        self.chain.set_automine(on)

    def _set_interval(self, params: Params) -> None:
        seconds = argument(params, 0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= MAX_INTERVAL_S:
            raise read.invalid(f"invalid interval: expected seconds, at most {MAX_INTERVAL_S}")
        self.chain.automine = False
        self.chain.interval_s = seconds or None

    def _set_balance(self, params: Params) -> None:
        account, wei = self._account(params), read.number(argument(params, 1), "balance")
        self.chain.mine(lambda state: state.set_balance(account, wei))

    def _set_nonce(self, params: Params) -> None:
        account, nonce = self._account(params), read.number(argument(params, 1), "nonce")
        if nonce >= 2**64:
            raise read.invalid("invalid nonce: at most 64 bits")
        self.chain.mine(lambda state: state.set_nonce(account, nonce))

    def _set_code(self, params: Params) -> None:
        account, code = self._account(params), read.data(argument(params, 1), "code")
        if len(code) > MAX_CODE_BYTES:
            raise read.invalid(f"invalid code: at most {MAX_CODE_BYTES} bytes (EIP-170)")
        self.chain.mine(lambda state: state.set_code(account, code))

    def _set_storage(self, params: Params) -> bool:
        account = self._account(params)
        slot, value = (int.from_bytes(_word(params, index), "big") for index in (1, 2))
        self.chain.mine(lambda state: state.set_storage(account, slot, value))
        return True


def _word(params: Params, index: int) -> bytes:
    value = read.data(argument(params, index), f"argument {index}")
    if len(value) > 32:
        raise read.invalid(f"invalid argument {index}: at most 32 bytes")
    return value.rjust(32, b"\0")


def _rewards(block: Mined, percentiles: list[Any]) -> list[str]:
    """The tip per gas at each percentile of the block's gas, cheapest first (eth_feeHistory)."""
    base_fee = cast(Any, block.header).base_fee_per_gas
    tips = sorted((one.signed.tip(base_fee), one.gas_used) for one in block.included)
    rewards: list[str] = []
    for percentile in percentiles:
        if isinstance(percentile, bool) or not isinstance(percentile, (int, float)) or not 0 <= percentile <= 100:
            raise read.invalid("invalid reward percentile: expected a number from 0 to 100")
        threshold, passed, reward = block.header.gas_used * percentile / 100, 0, 0
        for tip, gas_used in tips:
            reward, passed = tip, passed + gas_used
            if passed >= threshold:
                break
        rewards.append(quantity(reward))
    return rewards

"""Running a call without mining it: eth_call and eth_estimateGas.

A call that names `latest` runs on the latest state at the chain's clock of this moment, which is what the
next block would see; the signature windows of EIP-3009 are judged by it. A call that names an older block
runs in that block's own context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from eth.abc import BlockHeaderAPI, ComputationAPI, StateAPI
from eth.exceptions import (
    ContractCreationCollision,
    InsufficientFunds,
    InvalidInstruction,
    InvalidJumpDestination,
    OutOfGas,
    Revert,
    StackDepthLimit,
    WriteProtection,
)
from eth.vm.forks.berlin.transactions import calculate_txn_intrinsic_gas_berlin
from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError
from eth_typing import Address

from . import params as read
from .chain import GAS_LIMIT, Chain, Mined
from .params import EXECUTION_REVERTED, SERVER_ERROR, RpcError

ERROR_STRING = bytes.fromhex("08c379a0")
PANIC = bytes.fromhex("4e487b71")
ESTIMATE_TOLERANCE_PERMILLE = 15
"""How much too high an estimate may be before the search stops, as go-ethereum's."""
CALL_STIPEND = 2300

PANICS = {
    0x00: "generic panic",
    0x01: "assert(false)",
    0x11: "arithmetic underflow or overflow",
    0x12: "division or modulo by zero",
    0x21: "enum overflow",
    0x22: "invalid encoded storage byte array accessed",
    0x31: "out-of-bounds array access; popping on an empty array",
    0x32: "out-of-bounds access of an array or bytesN",
    0x41: "out of memory",
    0x51: "uninitialized function",
}

_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (OutOfGas, "out of gas"),
    (InsufficientFunds, "insufficient balance for transfer"),
    (InvalidJumpDestination, "invalid jump destination"),
    (InvalidInstruction, "invalid opcode"),
    (WriteProtection, "write protection"),
    (StackDepthLimit, "max call depth exceeded"),
    (ContractCreationCollision, "contract address collision"),
)


@dataclass(frozen=True)
class Override:
    """What eth_call's third parameter pretends about an account."""

    balance_wei: int | None = None
    nonce: int | None = None
    code: bytes | None = None
    slots: Mapping[int, int] = field(default_factory=dict)
    clear_storage: bool = False


@dataclass(frozen=True)
class Call:
    """An unsigned message, shaped as py-evm's executor reads a transaction. Fees in wei per gas."""

    sender: bytes
    to: bytes
    data: bytes
    value: int
    gas: int
    max_fee_per_gas: int = 0
    max_priority_fee_per_gas: int = 0
    access_list: tuple[Any, ...] = ()
    authorization_list: tuple[Any, ...] = ()
    type_id: int = 2
    nonce: int = 0

    @cached_property
    def intrinsic_gas(self) -> int:
        """What the message costs before its first instruction."""
        return int(calculate_txn_intrinsic_gas_berlin(self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Outcome:
    """What a call came to: its output or revert data, its gas, and the error that stopped it."""

    output: bytes
    gas_used: int
    refund: int
    error: Exception | None


def context_of(chain: Chain, block: Mined, current: bool, free: bool) -> BlockHeaderAPI:
    """The header that a call runs under: the block's, at this moment if `current`; without a base fee if `free`."""
    changes: dict[str, int] = {"base_fee_per_gas": 0} if free else {}
    if current:
        changes["timestamp"] = max(chain.now(), block.header.timestamp)
    return block.header.copy(**changes)


def perform(chain: Chain, header: BlockHeaderAPI, call: Call, pretend: Mapping[Address, Override]) -> Outcome:
    """Run `call` on a throw-away state. Raises `RpcError` where the gas doesn't even pay for the message."""
    if call.gas < call.intrinsic_gas:
        words = f"err: intrinsic gas too low: have {call.gas}, want {call.intrinsic_gas} (supplied gas {call.gas})"
        raise RpcError(SERVER_ERROR, words)
    state: Any = chain.state_in(header)
    for address, override in pretend.items():
        _apply(state, address, override)
    upfront = call.gas * call.max_fee_per_gas + call.value
    if call.max_fee_per_gas and state.get_balance(call.sender) < upfront:
        raise RpcError(
            SERVER_ERROR,
            f"err: insufficient funds for gas * price + value: address 0x{call.sender.hex()} "
            f"have {state.get_balance(call.sender)} want {upfront} (supplied gas {call.gas})",
        )
    executor = state.get_transaction_executor()
    message = executor.build_evm_message(call)
    computation: ComputationAPI = executor.build_computation(message, call)
    spent = call.gas - computation.get_gas_remaining()
    refund = executor.calculate_gas_refund(computation, spent)
    floor = executor.calc_data_floor_gas(call, spent, refund)
    error = computation.error if computation.is_error else None
    return Outcome(bytes(computation.output), spent - refund + floor, refund, error)


def _apply(state: StateAPI, account: Address, override: Override) -> None:
    if override.balance_wei is not None:
        state.set_balance(account, override.balance_wei)
    if override.nonce is not None:
        state.set_nonce(account, override.nonce)
    if override.code is not None:
        state.set_code(account, override.code)
    if override.clear_storage:
        state.delete_storage(account)
    for slot, value in override.slots.items():
        state.set_storage(account, slot, value)


def revert_reason(output: bytes) -> str | None:
    """The words inside revert data, if it is an `Error(string)` or a `Panic(uint256)`."""
    try:
        if output[:4] == ERROR_STRING:
            return str(abi_decode(["string"], output[4:])[0])
        if output[:4] == PANIC:
            code = int(abi_decode(["uint256"], output[4:])[0])
            return PANICS.get(code, f"unknown panic code: 0x{code:x}")
    except (DecodingError, UnicodeDecodeError):
        return None
    return None


def failure(outcome: Outcome) -> RpcError:
    """A failed outcome as go-ethereum would answer it."""
    if isinstance(outcome.error, Revert):
        reason = revert_reason(outcome.output)
        words = "execution reverted" if reason is None else f"execution reverted: {reason}"
        return RpcError(EXECUTION_REVERTED, words, "0x" + outcome.output.hex())
    for kind, words in _FAILURES:
        if isinstance(outcome.error, kind):
            return RpcError(SERVER_ERROR, words)
    return RpcError(SERVER_ERROR, str(outcome.error) or type(outcome.error).__name__)


def estimate(chain: Chain, header: BlockHeaderAPI, call: Call, pretend: Mapping[Address, Override]) -> int:
    """The least gas limit with which `call` succeeds, to 1.5 percent above. Raises `RpcError` if none does.

    Bisection as in go-ethereum: a call may need more than it uses, because of refunds and of the 64th that
    each inner call leaves behind.
    """
    highest = min(call.gas, GAS_LIMIT)
    outcome = perform(chain, header, _with_gas(call, highest), pretend)
    if outcome.error is not None:
        if isinstance(outcome.error, OutOfGas) and highest < GAS_LIMIT:
            raise RpcError(SERVER_ERROR, f"gas required exceeds allowance ({highest})")
        raise failure(outcome)
    lowest = max(outcome.gas_used, call.intrinsic_gas) - 1
    guess = (outcome.gas_used + outcome.refund + CALL_STIPEND) * 64 // 63
    while lowest + 1 < highest:
        if (highest - lowest) * 1000 < highest * ESTIMATE_TOLERANCE_PERMILLE:
            break
        middle = guess if lowest < guess < highest else min((lowest + highest) // 2, lowest * 2)
        guess = 0
        if perform(chain, header, _with_gas(call, middle), pretend).error is None:
            highest = middle
        else:
            lowest = middle
    return highest


def _with_gas(call: Call, gas: int) -> Call:
    return Call(call.sender, call.to, call.data, call.value, gas, call.max_fee_per_gas, call.max_priority_fee_per_gas)


def read_call(sent: dict[str, Any]) -> Call:
    """A call from its JSON object. Its fees matter only where it names them."""
    body = sent.get("input") if sent.get("input") is not None else sent.get("data")
    cap = sent.get("maxFeePerGas") if sent.get("maxFeePerGas") is not None else sent.get("gasPrice")
    tip = sent.get("maxPriorityFeePerGas")
    fee_cap = 0 if cap is None else read.quantity(cap, "maxFeePerGas")
    gas = GAS_LIMIT if sent.get("gas") is None else read.quantity(sent["gas"], "gas")
    return Call(
        sender=bytes(20) if sent.get("from") is None else read.address(sent["from"], "from"),
        to=b"" if sent.get("to") is None else read.address(sent["to"], "to"),
        data=b"" if body is None else read.data(body, "input"),
        value=0 if sent.get("value") is None else read.quantity(sent["value"], "value"),
        gas=min(gas, GAS_LIMIT),
        max_fee_per_gas=fee_cap,
        max_priority_fee_per_gas=min(fee_cap, fee_cap if tip is None else read.quantity(tip, "maxPriorityFeePerGas")),
    )


def read_overrides(sent: Any) -> Mapping[Address, Override]:
    """The accounts that eth_call's third parameter changes for the length of the call."""
    return {read.address(key): _read_override(one) for key, one in read.record(sent, "state override").items()}


def _read_override(sent: Any) -> Override:
    fields = read.record(sent, "state override")
    state, difference = fields.get("state"), fields.get("stateDiff")
    if state is not None and difference is not None:
        raise read.invalid("account has both 'state' and 'stateDiff'")
    slots = read.record(state if state is not None else difference or {}, "storage override")
    balance, nonce, code = fields.get("balance"), fields.get("nonce"), fields.get("code")
    return Override(
        balance_wei=None if balance is None else read.quantity(balance, "balance"),
        nonce=None if nonce is None else read.quantity(nonce, "nonce"),
        code=None if code is None else read.data(code, "code"),
        slots={
            int.from_bytes(read.data(slot, "storage slot", 32), "big"): int.from_bytes(
                read.data(value, "storage value", 32), "big"
            )
            for slot, value in slots.items()
        },
        clear_storage=state is not None,
    )

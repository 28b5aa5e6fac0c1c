"""What a chain says, as plain data: the words in which ports report and schemes judge.

Hashes and EVM addresses are `0x` hex strings, Solana keys and signatures base58, amounts atomic units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Log:
    """One EVM event: the contract that emitted it, its topics, its data."""

    address: str
    topics: tuple[str, ...]
    data: str


@dataclass(frozen=True, slots=True)
class EvmReceipt:
    """An included EVM transaction; `succeeded` is status 1 and proves nothing about what moved (fault A15).

    `fee` is what its sender paid in wei, what a rollup charges for its data (Base's `l1Fee`) included.
    """

    transaction: str
    succeeded: bool
    block: int
    logs: tuple[Log, ...]
    fee: int = 0
    _places: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def ending_in(self, topic: str) -> Sequence[int]:
        """Where in `logs` the events are whose last topic this is (`0x` and lower case). One look at all events serves
        every payment of a long receipt."""
        if not self._places:
            for place, log in enumerate(self.logs):
                if log.topics:
                    self._places.setdefault(log.topics[-1].lower(), []).append(place)
        return self._places.get(topic, ())


@dataclass(frozen=True, slots=True)
class EvmCall:
    """What a transaction called: the contract (`""` for a creation) and its input."""

    to: str
    data: bytes


@dataclass(frozen=True, slots=True)
class EvmFees:
    """What to bid, in wei per gas (EIP-1559)."""

    max_fee: int
    priority_fee: int


@dataclass(frozen=True, slots=True)
class CallResult:
    """The result of an `eth_call`: returned bytes, or the revert's text (`""` when the node gave none)."""

    succeeded: bool
    data: bytes = b""
    revert: str = ""


@dataclass(frozen=True, slots=True)
class Blockhash:
    """A recent Solana blockhash and the last block height at which a transaction may still use it."""

    hash: str
    last_valid_block_height: int


@dataclass(frozen=True, slots=True)
class SvmSimulation:
    """The result of simulating a Solana transaction; `error` is None or the node's error as compact JSON text."""

    error: str | None
    logs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SvmStatus:
    """Where a Solana signature stands: `confirmation` is processed, confirmed or finalized."""

    slot: int
    confirmation: str
    error: str | None


@dataclass(frozen=True, slots=True)
class TokenBalance:
    """A token account's balance around a transaction, in atomic units."""

    account: str
    owner: str
    mint: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class SvmTransaction:
    """A landed Solana transaction with the token balances that it changed; `signatures` are all that it carries, `fee`
    is what its fee payer paid in lamports."""

    signature: str
    slot: int
    error: str | None
    balances: tuple[TokenBalance, ...]
    signatures: tuple[str, ...] = ()
    fee: int = 0


@dataclass(frozen=True, slots=True)
class SvmLanded:
    """A landed Solana transaction with its bytes; `time` is the block's unix second, None when the node has none."""

    slot: int
    error: str | None
    time: int | None
    raw: bytes


@dataclass(frozen=True, slots=True)
class SvmListed:
    """A transaction as a list of an account's transactions names it.

    `time` is the block's unix second, None when the node has none; `memo` are its memos, `""` when the node shows none.
    """

    signature: str
    time: int | None
    memo: str = ""


@dataclass(frozen=True, slots=True)
class SvmAccount:
    """A Solana account: owning program and raw data."""

    owner: str
    lamports: int
    data: bytes


_ERROR_STRING = bytes.fromhex("08c379a0")
_LONGEST_REASON = 500


def revert_text(data: bytes) -> str | None:
    """The words in the data of a Solidity `Error(string)` revert, or None when it is none."""
    if data[:4] != _ERROR_STRING or len(data) < 68:
        return None
    length = int.from_bytes(data[36:68], "big")
    return data[68 : 68 + min(length, _LONGEST_REASON)].decode(errors="replace")

"""What a Solana transaction costs, by the cluster's rules (base fee, SIMD-0170's default limits)."""

from __future__ import annotations

from solders.message import Message, MessageV0
from solders.pubkey import Pubkey

_COMPUTE_BUDGET = "ComputeBudget111111111111111111111111111111"
_BUILTINS = frozenset(
    {
        _COMPUTE_BUDGET,
        str(Pubkey.default()),
        "Vote111111111111111111111111111111111111111",
        "BPFLoader1111111111111111111111111111111111",
        "BPFLoader2111111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
        "LoaderV411111111111111111111111111111111111",
    }
)
_BUILTIN_UNITS, _PROGRAM_UNITS, _MAX_UNITS = 3_000, 200_000, 1_400_000
_SIGNATURE_FEE = 5_000


def priced_fee(message: Message | MessageV0) -> int:
    """The fee in lamports for a message: 5000 a signature, and the priority fee rounded up."""
    limit: int | None = None
    price = 0
    default = 0
    keys = message.account_keys
    for instruction in message.instructions:
        program = str(keys[instruction.program_id_index])
        default += _BUILTIN_UNITS if program in _BUILTINS else _PROGRAM_UNITS
        data = bytes(instruction.data)
        if program == _COMPUTE_BUDGET and len(data) >= 5 and data[0] == 2:
            limit = int.from_bytes(data[1:5], "little")
        elif program == _COMPUTE_BUDGET and len(data) >= 9 and data[0] == 3:
            price = int.from_bytes(data[1:9], "little")
    units = min(default if limit is None else limit, _MAX_UNITS)
    return _SIGNATURE_FEE * message.header.num_required_signatures + -(-units * price // 1_000_000)

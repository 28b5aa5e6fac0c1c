"""A real EVM on loopback: py-evm behind JSON-RPC, or anvil where that is installed."""

from .devnet import FAUCET_WEI, EngineName, EvmDevnet
from .faucet import CHAIN_ID, FAUCET_KEY, USDC, DevnetError

__all__ = ["CHAIN_ID", "FAUCET_KEY", "FAUCET_WEI", "USDC", "DevnetError", "EngineName", "EvmDevnet"]

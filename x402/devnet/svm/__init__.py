"""A real Solana VM on loopback: LiteSVM behind JSON-RPC and WebSocket."""

from .devnet import HOST, USDC_MINT, SvmDevnet

__all__ = ["HOST", "USDC_MINT", "SvmDevnet"]

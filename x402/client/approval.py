"""The one transaction that lets Permit2 move a wallet's tokens, for payments of scheme `upto`.

It costs the wallet gas once. Sellers whose facilitator sponsors the allowance need none of it (protocol page §2.6).
"""

from __future__ import annotations

from dataclasses import dataclass

from x402 import networks
from x402.client.wallet import Wallet
from x402.errors import DeclinedError, MalformedError, MisconfiguredError, PendingError, UnavailableError
from x402.money import Amount
from x402.ports import EvmChain, NotSent
from x402.schemes import upto_evm
from x402.schemes.eip1559 import EvmTransaction

UNLIMITED = 2**256 - 1
_GAS = 100_000
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Approval:
    """What was allowed before and is now, in atomic units; `transaction` is empty when nothing had to be done."""

    network: str
    owner: str
    before: int
    now: int
    transaction: str = ""


async def approve(wallet: Wallet, chain: EvmChain, network: networks.Network, units: int, *, mainnet: bool) -> Approval:
    """Allow Permit2 to move up to `units` of a network's dollar token; nothing is sent when it may already.

    Raises `DeclinedError("mainnet_refused")` where money is real and was not allowed, `MisconfiguredError` without a
    key or on another chain, `UnavailableError` when the node does not answer or refuses, `PendingError` when the
    transaction was sent and is in no block yet.
    """
    if not network.testnet and (wallet.testnet_only or not mainnet):
        raise DeclinedError("mainnet_refused", f"{network.title} moves real money and was not allowed")
    if not wallet.evm_address:
        raise MisconfiguredError("no_key", "the wallet has no EVM key")
    await chain.check_chain_id()
    token, owner = network.usd.address, wallet.evm_address
    before = await _allowed(chain, token, owner)
    if before >= units:
        return Approval(network.id, owner, before, before)
    fees, nonce = await chain.fees(), await chain.transaction_count(owner)
    call = upto_evm.approve_call(units)
    unsigned = EvmTransaction(network.chain_id, nonce, token, _GAS, fees.max_fee, fees.priority_fee, call)
    transaction, raw = unsigned.sign_with(wallet.sign_digest)
    try:
        await chain.send(raw, transaction)
    except NotSent as error:
        raise UnavailableError("not_sent", f"the node refused the approval, and nothing changed: {error}") from error
    receipt = await chain.receipt(transaction, timeout=_SECONDS)
    if receipt is None:
        raise PendingError("the approval was sent and is in no block yet", transaction=transaction)
    if not receipt.succeeded:
        raise UnavailableError("approval_failed", f"the token refused the approval in transaction {transaction}")
    return Approval(network.id, owner, before, await _allowed(chain, token, owner), transaction)


def units_of(text: str, network: networks.Network) -> int:
    """An amount such as `"25"` in atomic units of a network's dollar token; `"unlimited"` is all there could be.

    Raises `MalformedError` for anything else.
    """
    return UNLIMITED if text == "unlimited" else Amount.of(text, network.usd).units


async def _allowed(chain: EvmChain, token: str, owner: str) -> int:
    said = await chain.call(token, upto_evm.allowance_call(owner))
    if not said.succeeded or len(said.data) != 32:
        raise MalformedError("unknown_asset", "the token does not say what Permit2 may move")
    return int.from_bytes(said.data, "big")

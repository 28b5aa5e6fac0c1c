"""The extension `erc20ApprovalGasSponsoring`: Permit2's allowance by the payer's own transaction, which others send.

For tokens without EIP-2612: the payer signs `approve(Permit2, 2^256-1)` as an ordinary transaction of its own account
and sends it with the payment; a facilitator that offers this gives the payer the gas that is missing, hands the
transaction to a node, and settles (protocol page §2.6). What is broadcast in a payer's name is this one call and
nothing else (fault D15): every byte of it is compared with what it must be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from x402.errors import MalformedError, RefusedError
from x402.money import Asset, parse_atomic
from x402.networks import PERMIT2
from x402.schemes import upto_evm
from x402.schemes.eip712 import parse_address, recover
from x402.schemes.eip1559 import EvmTransaction, SignedTransaction, read_transaction

EXTENSION = "erc20ApprovalGasSponsoring"
VERSION = "1"
UNLIMITED = 2**256 - 1
GAS = 70_000
"""What the payer's transaction may use; `approve` of the known tokens takes less."""
GAS_MAX = 120_000
"""What a facilitator sponsors at most, whatever the payer has signed."""
_RAW = re.compile(r"0x(?:[0-9a-fA-F]{2}){1,1024}", re.ASCII)
_FORMAT = "invalid_erc20_approval_extension_format"


@dataclass(frozen=True, slots=True)
class SignedApproval:
    """The payer's transaction `approve(Permit2, units)`, `units` atomic, ready to be sent by anybody."""

    payer: str
    asset: Asset
    units: int
    signed: SignedTransaction

    @property
    def name(self) -> str:
        """The transaction's hash."""
        return self.signed.name

    @property
    def transaction(self) -> EvmTransaction:
        return self.signed.transaction

    @property
    def cost(self) -> int:
        """The most wei that its gas can cost, which the payer must hold before a node takes it."""
        return self.transaction.gas * self.transaction.max_fee


def declaration() -> dict[str, Any]:
    """What a seller advertises whose facilitator sponsors such a transaction."""
    address, number = {"type": "string", "pattern": "^0x[a-fA-F0-9]{40}$"}, {"type": "string", "pattern": "^[0-9]+$"}
    members = {
        "from": address,
        "asset": address,
        "spender": address,
        "amount": number,
        "signedTransaction": {"type": "string", "pattern": "^0x[a-fA-F0-9]+$"},
        "version": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$"},
    }
    words = "The facilitator pays the gas of your approval of Permit2, and sends it for you."
    return {
        "info": {"description": words, "version": VERSION},
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": members,
            "required": list(members),
        },
    }


def is_offered(extensions: Mapping[str, Any]) -> bool:
    """Whether a challenge offers the extension in the version that is known here."""
    return _info(extensions).get("version") == VERSION


def is_signed(extensions: Mapping[str, Any]) -> bool:
    """Whether a payment brings a transaction of the payer's, and not only the seller's words."""
    return "signedTransaction" in _info(extensions)


def sign(owner: str, asset: Asset, unsigned: EvmTransaction, signer: Callable[[bytes], bytes]) -> dict[str, Any]:
    """What the payer adds to the extension: `unsigned` as `unsigned_approval` makes it, signed by the account `owner`.

    `signer` turns the 32-byte digest into a 65-byte signature.
    """
    _, raw = unsigned.sign_with(signer)
    members = {
        "from": owner,
        "asset": asset.address,
        "spender": PERMIT2,
        "amount": str(UNLIMITED),
        "signedTransaction": "0x" + raw.hex(),
        "version": VERSION,
    }
    return {EXTENSION: {"info": members}}


def unsigned_approval(asset: Asset, chain_id: int, nonce: int, max_fee: int, priority_fee: int) -> EvmTransaction:
    """The transaction to sign: the account's next `nonce`, fees in wei per gas."""
    return EvmTransaction(
        chain_id, nonce, asset.address, GAS, max_fee, min(priority_fee, max_fee), upto_evm.approve_call(UNLIMITED)
    )


def read(
    extensions: Mapping[str, Any], asset: Asset, payer: str, maximum: int, *, chain_id: int
) -> SignedApproval | None:
    """The approval that came with a payment of at most `maximum`, or None when nothing but the seller's words did.

    Raises `RefusedError` with the first rule that is broken, in the order of protocol page §2.6 (fault D15). The
    account's nonce, the gas and what the fees are worth are the caller's to judge.
    """
    if EXTENSION not in extensions or not is_signed(extensions):
        return None
    info = _info(extensions)
    text = info["signedTransaction"]
    if not isinstance(text, str) or _RAW.fullmatch(text) is None or info.get("version") != VERSION:
        raise RefusedError(_FORMAT, f"{EXTENSION}: version {VERSION} with a signed transaction in hex is required")
    try:
        owner, token, spender = (parse_address(info.get(name)) for name in ("from", "asset", "spender"))
        units = parse_atomic(info.get("amount"))
    except MalformedError as error:
        raise RefusedError(_FORMAT, f"{EXTENSION}: {error.message}") from error
    if owner != payer:
        raise RefusedError("erc20_approval_from_mismatch", f"the approval is {owner}'s, the payment {payer}'s")
    if token != asset.address:
        raise RefusedError("erc20_approval_asset_mismatch", f"the approval is for {token}, not {asset.address}")
    if spender != PERMIT2:
        raise RefusedError("erc20_approval_spender_not_permit2", f"it lets {spender} spend, which is not Permit2")
    try:
        signed = read_transaction(bytes.fromhex(text[2:]))
    except MalformedError as error:
        raise RefusedError("erc20_approval_tx_parse_failed", error.message) from error
    _check_call(signed, asset, units, maximum, chain_id)
    _check_signer(signed, payer)
    return SignedApproval(payer, asset, units, signed)


def _check_call(signed: SignedTransaction, asset: Asset, units: int, maximum: int, chain_id: int) -> None:
    """The call, byte for byte."""
    call, wanted = signed.transaction, upto_evm.approve_call(units)
    if call.to != asset.address:
        raise RefusedError("erc20_approval_tx_wrong_target", f"the transaction calls {call.to}, not {asset.address}")
    if call.data[:4] != wanted[:4]:
        raise RefusedError("erc20_approval_tx_wrong_selector", "the transaction calls something else than approve")
    if call.data[4:36] != wanted[4:36]:
        raise RefusedError("erc20_approval_tx_wrong_spender", "the transaction lets somebody else spend than Permit2")
    if call.data != wanted or units < maximum:
        raise RefusedError(
            "erc20_approval_tx_invalid_calldata",
            f"approve(Permit2, {units}) and nothing else is required, for {maximum} atomic units",
        )
    if call.chain_id != chain_id or call.value:
        raise RefusedError(
            "erc20_approval_tx_wrong_terms", f"a transaction on chain {chain_id} that moves no coin is required"
        )


def _check_signer(signed: SignedTransaction, payer: str) -> None:
    signer = recover(signed.transaction.digest(), signed.signature)
    if signer is None:
        raise RefusedError("erc20_approval_tx_invalid_signature", "the transaction's signature is none")
    if signer != payer:
        raise RefusedError("erc20_approval_tx_signer_mismatch", f"{signer} signed the transaction, and {payer} pays")


def _info(extensions: Mapping[str, Any]) -> Mapping[str, Any]:
    entry = extensions.get(EXTENSION)
    info = entry.get("info") if isinstance(entry, Mapping) else None
    return info if isinstance(info, Mapping) else {}

"""Scheme `upto` on EVM networks: every rule that a payment must satisfy, in the order of protocol page §3.1.

`check` needs no chain. `judge_signature` and `judge_simulation` take what the chain said in one round trip. A payment
is verified for exactly what was signed, and settled for that or less (fault B16).
"""

from __future__ import annotations

from dataclasses import replace

from x402 import networks
from x402.chain import CallResult
from x402.errors import DeclinedError, MalformedError, Mender, RefusedError
from x402.money import Asset
from x402.networks import UPTO_PERMIT2_PROXY
from x402.schemes import gas_sponsoring
from x402.schemes.eip712 import keccak, parse_address
from x402.schemes.evm_payment import Funds
from x402.schemes.upto_evm import SCHEME, VALIDITY_MARGIN_SECONDS, SignedPermit, payable_asset, read_payload
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

ALLOWANCE_REQUIRED = "permit2_allowance_required"
_ERC6492_SUFFIX = "6492" * 16
_FAILED = "invalid_upto_evm_transaction_failed"

_ERRORS = {
    "AmountExceedsPermitted()": "upto_amount_exceeds_permitted",
    "UnauthorizedFacilitator()": "upto_unauthorized_facilitator",
    "Permit2612AmountMismatch()": "permit2_2612_amount_mismatch",
    "InvalidAmount(uint256)": "permit2_invalid_amount",
    "InvalidDestination()": "permit2_invalid_destination",
    "InvalidOwner()": "permit2_invalid_owner",
    "PaymentTooEarly()": "permit2_payment_too_early",
    "InvalidSignature()": "invalid_permit2_signature",
    "InvalidSignatureLength()": "invalid_permit2_signature",
    "InvalidSigner()": "invalid_permit2_signature",
    "InvalidContractSignature()": "invalid_permit2_signature",
    "SignatureExpired(uint256)": "permit2_deadline_expired",
    "InvalidNonce()": "permit2_invalid_nonce",
}
"""Errors of the proxy and of Permit2, and the reasons that they stand for."""

_REVERTS = tuple(
    (name.partition("(")[0].lower(), "0x" + keccak(name.encode())[:4].hex(), reason) for name, reason in _ERRORS.items()
)

WORDS = {
    "permit2_deadline_expired": "the permit has expired or dies too soon to settle",
    "permit2_not_yet_valid": "the permit is not valid yet",
    "permit2_invalid_nonce": "this permit was already used or given up on chain",
    ALLOWANCE_REQUIRED: "the payer has not allowed Permit2 to move so much of this token",
    "permit2_insufficient_balance": "the payer holds less USDC than the payment",
    "invalid_permit2_signature": "the signature was not made by the payer for this payment",
    "invalid_upto_evm_payload_self_transfer": "payer and seller are the same account, so nothing would move",
    _FAILED: "the transfer would revert on chain",
}


def read(payment: Payment, requirement: Requirement) -> SignedPermit:
    """The rules that never change their mind: scheme, network, shape, spender, recipient, token, and an amount that is
    no more than what was signed.

    Raises `RefusedError` with the first that is broken. They hold for a payment of last year as for one of now.
    """
    signed = _read(payment, requirement)
    if requirement.amount > signed.permit.maximum:
        raise _refusal_of(
            signed,
            "invalid_upto_evm_payload_settlement_exceeds_amount",
            f"{requirement.amount} atomic units are to be taken, and {signed.permit.maximum} were signed",
        )
    return replace(signed, amount=requirement.amount)


def check(payment: Payment, requirement: Requirement, *, now: int, settling: bool = False) -> SignedPermit:
    """All rules that need no chain; `now` is unix seconds. Raises `RefusedError` with the first that is broken.

    Unless it is `settling`, the offer's amount is the maximum, and exactly that must have been signed.
    """
    signed = read(payment, requirement) if settling else _read(payment, requirement)
    permit = signed.permit
    if permit.deadline < now + VALIDITY_MARGIN_SECONDS:
        raise _refusal_of(signed, "permit2_deadline_expired")
    if permit.valid_after > now:
        raise _refusal_of(signed, "permit2_not_yet_valid")
    if not settling and permit.maximum != requirement.amount:
        raise _refusal_of(
            signed,
            "permit2_amount_mismatch",
            f"permits {permit.maximum} atomic units, the maximum asked for is {requirement.amount}",
        )
    if signed.sponsorship is not None and signed.sponsorship.deadline < now + VALIDITY_MARGIN_SECONDS:
        raise _refusal_of(signed, "eip2612_deadline_expired", "the EIP-2612 permit has expired or dies too soon")
    return signed


def judge_signature(signed: SignedPermit, code: bytes) -> None:
    """The signature by the payer's kind of account (D06): without code ECDSA decides; with code Permit2 asks the
    account itself, so the simulation decides. Raises `RefusedError`."""
    if not code and (len(signed.signature) != 65 or signed.recovered != signed.payer):
        raise _refusal_of(signed, "invalid_permit2_signature")


def judge_simulation(signed: SignedPermit, result: CallResult, funds: Funds | None = None) -> None:
    """The payer's allowance and balance, then the outcome of simulating the settlement call.

    Raises `RefusedError` with the reason; the token's own words are lost behind Permit2's (`TRANSFER_FROM_FAILED`).
    """
    funds = funds or Funds()
    if result.succeeded:
        return
    reason = explain_revert(result.revert)
    if reason == _FAILED:
        if signed.sponsorship is None and funds.allowance is not None and funds.allowance < signed.amount:
            raise _refusal_of(signed, ALLOWANCE_REQUIRED, mender=Mender.PAYER)
        if funds.balance is not None and funds.balance < signed.amount:
            raise _refusal_of(signed, "permit2_insufficient_balance", mender=Mender.PAYER)
    raise _refusal_of(signed, reason, WORDS.get(reason) or f"the proxy refuses the settlement: {reason}")


def explain_revert(text: str) -> str:
    """The canonical reason that a revert text stands for; the generic one when it is unknown."""
    lowered = text.lower()
    for name, selector, reason in _REVERTS:
        if selector in lowered or name + "(" in lowered:
            return reason
    return _FAILED


def _read(payment: Payment, requirement: Requirement) -> SignedPermit:
    stated = payment.accepted
    if payment.scheme != SCHEME or requirement.scheme != SCHEME:
        raise RefusedError("invalid_upto_evm_scheme", f"scheme {SCHEME} is required")
    if payment.network != requirement.network or (stated is not None and stated.network != requirement.network):
        raise RefusedError(
            "invalid_upto_evm_network_mismatch", f"paid on {payment.network}, asked for on {requirement.network}"
        )
    asset = _asset(requirement)
    signature = payment.payload.get("signature")
    if isinstance(signature, str) and signature.lower().endswith(_ERC6492_SUFFIX):
        # Deploying a wallet means calling a factory that the payer chose; it is denied by default (fault D04).
        raise RefusedError("eip6492_factory_not_allowed", "payments that deploy the payer's wallet are not accepted")
    signed = read_payload(payment.payload, asset)
    permit = signed.permit
    if permit.spender != UPTO_PERMIT2_PROXY:
        raise _refusal_of(signed, "invalid_permit2_spender", f"lets {permit.spender} spend, not the x402 proxy")
    if permit.payee != _payee(requirement):
        raise _refusal_of(
            signed, "invalid_permit2_recipient_mismatch", f"pays {permit.payee}, not {requirement.pay_to}"
        )
    if permit.payee == permit.payer:
        raise _refusal_of(signed, "invalid_upto_evm_payload_self_transfer")
    if permit.token != asset.address:
        raise _refusal_of(signed, "permit2_token_mismatch", f"permits {permit.token}, not {asset.address}")
    sponsorship = gas_sponsoring.read(payment.extensions, asset, permit.payer, permit.maximum)
    return replace(signed, sponsorship=sponsorship)


def _refusal_of(signed: SignedPermit, reason: str, message: str = "", mender: Mender | None = None) -> RefusedError:
    return RefusedError(reason, message or WORDS[reason], mender=mender, details={"payer": signed.payer})


def _asset(requirement: Requirement) -> Asset:
    try:
        networks.get(requirement.network).chain_id  # noqa: B018 - the lookup itself is the check
    except MalformedError as error:
        raise RefusedError(
            "invalid_upto_evm_failed_to_get_network_config", error.message, mender=Mender.SELLER
        ) from error
    try:
        return payable_asset(requirement)
    except DeclinedError as error:
        raise RefusedError(_SELLER_REASONS[error.code], error.message, mender=Mender.SELLER) from error


_SELLER_REASONS = {
    "unknown_asset": "asset_not_deployed_contract",
    "unsupported_transfer_method": "invalid_payment_requirements",
    "eip712_domain_mismatch": "invalid_payment_requirements",
}


def _payee(requirement: Requirement) -> str:
    try:
        return parse_address(requirement.pay_to)
    except MalformedError as error:
        raise RefusedError("invalid_payment_requirements", f"payTo: {error.message}", mender=Mender.SELLER) from error

"""Scheme `exact` on EVM networks: every rule that a payment must satisfy, in the order of protocol page §2.2.

`check` needs no chain. `judge_signature` and `judge_simulation` take what the chain said, which one round trip
brings: whether the payer has code, and what happened when the very call of the settlement was simulated.
Reasons are the canonical strings of the TypeScript SDK; `canonical` understands the Python SDK's as well.
"""

from __future__ import annotations

from x402 import networks
from x402.chain import CallResult
from x402.errors import DeclinedError, MalformedError, Mender, RefusedError
from x402.money import Asset
from x402.schemes.eip712 import parse_address
from x402.schemes.evm_payment import Funds
from x402.schemes.exact_evm import SCHEME, VALIDITY_MARGIN_SECONDS, SignedAuthorization, payable_asset, read_payload
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

_ERC6492_SUFFIX = bytes.fromhex("6492") * 16

_PYTHON_SPELLINGS = {
    "unsupported_scheme": "invalid_exact_evm_scheme",
    "network_mismatch": "invalid_exact_evm_network_mismatch",
    "missing_eip712_domain": "invalid_exact_evm_missing_eip712_domain",
    "invalid_exact_evm_payload_recipient_mismatch": "invalid_exact_evm_recipient_mismatch",
    "invalid_exact_evm_payload_signature": "invalid_exact_evm_signature",
    "transaction_failed": "invalid_exact_evm_transaction_failed",
}

_REVERTS = (
    (("authorization is expired", "authorizationexpired"), "invalid_exact_evm_payload_authorization_valid_before"),
    (("not yet valid", "authorizationnotyetvalid"), "invalid_exact_evm_payload_authorization_valid_after"),
    (
        ("authorization is used", "authorizationalreadyused", "authorizationusedorcanceled"),
        "invalid_exact_evm_nonce_already_used",
    ),
    (
        ("transfer amount exceeds balance", "erc20insufficientbalance"),
        "invalid_exact_evm_insufficient_balance",
    ),
    (
        ("invalid signature", "signermismatch", "invalidsignaturev", "invalidsignatures"),
        "invalid_exact_evm_signature",
    ),
    (("blacklisted", "pausable: paused"), "asset_restricted"),
)

WORDS = {
    "invalid_exact_evm_payload_authorization_valid_before": "the authorization has expired or dies too soon to settle",
    "invalid_exact_evm_payload_authorization_valid_after": "the authorization is not valid yet",
    "invalid_exact_evm_nonce_already_used": "this authorization was already used or cancelled on chain",
    "invalid_exact_evm_insufficient_balance": "the payer holds less USDC than the payment",
    "invalid_exact_evm_payload_self_transfer": "payer and seller are the same account, so nothing would move",
    "invalid_exact_evm_signature": "the signature was not made by the payer for this payment",
    "invalid_exact_evm_transaction_simulation_failed": "the transfer would revert on chain",
    "asset_restricted": "the token is paused, or has blocked the payer or the payee",
}


def canonical(reason: str) -> str:
    """The TypeScript spelling of a reason, from either SDK's; unknown reasons are opaque and stay as they are."""
    return _PYTHON_SPELLINGS.get(reason, reason)


def read(payment: Payment, requirement: Requirement) -> SignedAuthorization:
    """The rules that never change their mind: scheme, network, domain, shape, recipient, amount.

    Raises `RefusedError` with the first that is broken. They hold for a payment of last year as for one of now.
    """
    stated = payment.accepted
    if payment.scheme != SCHEME or requirement.scheme != SCHEME:
        raise RefusedError("invalid_exact_evm_scheme", f"scheme {SCHEME} is required")
    if payment.network != requirement.network or (stated is not None and stated.network != requirement.network):
        raise RefusedError(
            "invalid_exact_evm_network_mismatch", f"paid on {payment.network}, asked for on {requirement.network}"
        )
    asset = _asset(requirement)
    signed = read_payload(_unwrapped(payment), asset)
    auth = signed.authorization
    if auth.payee != _payee(requirement):
        raise _refusal_of(
            signed, "invalid_exact_evm_recipient_mismatch", f"pays {auth.payee}, not {requirement.pay_to}"
        )
    if auth.payee == auth.payer:
        raise _refusal_of(signed, "invalid_exact_evm_payload_self_transfer")
    if auth.value != requirement.amount:
        reason = (
            "invalid_exact_evm_authorization_value"
            if payment.version == 1
            else "invalid_exact_evm_payload_authorization_value_mismatch"
        )
        raise _refusal_of(signed, reason, f"authorizes {auth.value} atomic units, the price is {requirement.amount}")
    return signed


def check(payment: Payment, requirement: Requirement, *, now: int, settling: bool = False) -> SignedAuthorization:
    """All rules that need no chain; `now` is unix seconds. Raises `RefusedError` with the first that is broken. They
    are the same for verifying and for `settling`."""
    signed = read(payment, requirement)
    auth = signed.authorization
    if auth.valid_before < now + VALIDITY_MARGIN_SECONDS:
        raise _refusal_of(signed, "invalid_exact_evm_payload_authorization_valid_before")
    if auth.valid_after >= now:
        # The contract wants block.timestamp > validAfter, so equality is not valid yet either.
        raise _refusal_of(signed, "invalid_exact_evm_payload_authorization_valid_after")
    return signed


def judge_signature(signed: SignedAuthorization, code: bytes) -> None:
    """The signature by the payer's kind of account (D06): without code ECDSA decides; with code (a contract or an
    EIP-7702 delegation) the token asks the account itself, so the simulation decides. Raises `RefusedError`."""
    if code:
        return
    if len(signed.signature) != 65:
        raise RefusedError(
            "invalid_exact_evm_payload_undeployed_smart_wallet",
            "the signature is a smart wallet's, but no wallet is deployed at the payer's address",
        )
    if signed.recovered != signed.authorization.payer:
        raise _refusal_of(signed, "invalid_exact_evm_signature")


def judge_simulation(signed: SignedAuthorization, result: CallResult, funds: Funds | None = None) -> None:
    """The outcome of simulating the settlement call. Raises `RefusedError` with the reason that the revert names, so
    that the payer's `funds` need no look of their own."""
    if not result.succeeded:
        raise _refusal_of(signed, explain_revert(result.revert))


def explain_revert(text: str) -> str:
    """The canonical reason that a revert text stands for; the generic simulation reason when it is unknown."""
    lowered = text.lower()
    for needles, reason in _REVERTS:
        if any(needle in lowered for needle in needles):
            return reason
    return "invalid_exact_evm_transaction_simulation_failed"


def _refusal_of(signed: SignedAuthorization, reason: str, message: str = "") -> RefusedError:
    return RefusedError(reason, message or WORDS[reason], details={"payer": signed.authorization.payer})


def _asset(requirement: Requirement) -> Asset:
    try:
        networks.get(requirement.network).chain_id  # noqa: B018 - the lookup itself is the check
    except MalformedError as error:
        raise RefusedError(
            "invalid_exact_evm_failed_to_get_network_config", error.message, mender=Mender.SELLER
        ) from error
    name, version = requirement.extra.get("name"), requirement.extra.get("version")
    if not isinstance(name, str) or not isinstance(version, str) or not name or not version:
        raise RefusedError(
            "invalid_exact_evm_missing_eip712_domain",
            "extra.name and extra.version of the offer are required",
            mender=Mender.SELLER,
        )
    try:
        return payable_asset(requirement)
    except DeclinedError as error:
        raise RefusedError(_SELLER_REASONS[error.code], error.message, mender=Mender.SELLER) from error


_SELLER_REASONS = {
    "unknown_asset": "asset_not_deployed_contract",
    "unsupported_transfer_method": "invalid_exact_evm_eip3009_not_supported",
    "eip712_domain_mismatch": "invalid_exact_evm_token_name_mismatch",
}


def _payee(requirement: Requirement) -> str:
    try:
        return parse_address(requirement.pay_to)
    except MalformedError as error:
        raise RefusedError("invalid_payment_requirements", f"payTo: {error.message}", mender=Mender.SELLER) from error


def _unwrapped(payment: Payment) -> dict[str, object]:
    signature = payment.payload.get("signature")
    if isinstance(signature, str) and signature.lower().endswith(_ERC6492_SUFFIX.hex()):
        # Deploying a wallet means calling a factory that the payer chose; it is denied by default (fault D04).
        raise RefusedError("eip6492_factory_not_allowed", "payments that deploy the payer's wallet are not accepted")
    return payment.payload

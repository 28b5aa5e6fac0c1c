"""A chosen offer as a payment: first the draft, whose identity and amount can be reserved, then the signed header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from x402 import networks
from x402.client.allowance import Allowances
from x402.client.choose import Choice
from x402.client.wallet import Wallet
from x402.errors import MalformedError, UnavailableError
from x402.lifecycle import Subject
from x402.schemes import approval_sponsoring, exact_evm, exact_svm, gas_sponsoring, upto_evm
from x402.wire.challenge import Challenge
from x402.wire.extensions import echo
from x402.wire.payment import Payment
from x402.wire.strict import dump_json, parse_object

ENTROPY_BYTES = 32
PAYMENT_IDENTIFIER = "payment-identifier"
_BLOCKHASH_QUESTION = {
    "jsonrpc": "2.0", "id": 1, "method": "getLatestBlockhash", "params": [{"commitment": "confirmed"}],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Draft:
    """An unsigned payment. `subject` is what is reserved for it; `sign` makes the one signature."""

    subject: Subject
    sign: Callable[[], Payment]


def needs_blockhash(choice: Choice) -> bool:
    """Whether a Solana node must be asked before the payment can be built, because the offer hints at no blockhash."""
    offer = choice.requirement
    return networks.get(offer.network).family == networks.SOLANA and exact_svm.hinted_blockhash(offer) is None


def blockhash_question() -> bytes:
    """The JSON-RPC request for a recent blockhash."""
    return dump_json(_BLOCKHASH_QUESTION).encode()


def read_blockhash(status: int, body: bytes) -> str:
    """The blockhash in a node's answer. Raises `UnavailableError("blockhash_unavailable")` for anything else."""
    try:
        value = parse_object(body)["result"]["value"]["blockhash"] if status == 200 else None
    except (MalformedError, KeyError, TypeError) as error:
        raise _no_blockhash(status) from error
    if not isinstance(value, str):
        raise _no_blockhash(status)
    return value


def draft(
    choice: Choice,
    challenge: Challenge,
    wallet: Wallet,
    *,
    now: int,
    lifetime_seconds: int,
    entropy: bytes,
    blockhash: str = "",
    allowances: Allowances | None = None,
    fingerprint: str = "",
    record: dict[str, Any] | None = None,
) -> Draft:
    """The unsigned payment for a choice.

    `now` is unix seconds, `entropy` 32 random bytes, `blockhash` the one to use when the offer hints at none; `record`
    is what the journal remembers besides. Raises an `X402Error` for an offer that cannot be built.
    """
    offer = choice.requirement
    extensions = _with_identifier(challenge.extensions, entropy)
    payload: Callable[[], dict[str, Any]]
    sponsor: Callable[[], dict[str, Any]] = dict
    if offer.scheme == upto_evm.SCHEME:
        permit = _permit(choice, wallet, now, lifetime_seconds, entropy)
        pay_id, payer, expires_at = permit.pay_id, permit.payer, permit.valid_before
        payload = partial(upto_evm.payload, permit.permit, permit.asset, wallet.sign_digest)
        sponsor = partial(_sponsorship, permit, wallet, allowances or {})
    elif networks.get(offer.network).family == networks.EIP155:
        pay_id, payer, expires_at, payload = _evm(choice, wallet, now, lifetime_seconds, entropy)
    else:
        recent = exact_svm.hinted_blockhash(offer) or blockhash
        pay_id, payer, expires_at, payload = _svm(choice, wallet, recent, entropy)
    subject = Subject(
        pay_id=pay_id,
        network=offer.network,
        asset=choice.amount.asset.address,
        payer=payer,
        payee=offer.pay_to,
        amount=offer.amount,
        expires_at=expires_at,
        fingerprint=fingerprint,
        record=record or {},
    )
    return Draft(subject, lambda: _payment(challenge, choice, payload(), echo(extensions, sponsor())))


def _permit(choice: Choice, wallet: Wallet, now: int, lifetime_seconds: int, entropy: bytes) -> upto_evm.SignedPermit:
    """The permit for a choice, which nobody has signed yet."""
    permit = upto_evm.build(
        choice.requirement, wallet.evm_address, now=now, nonce=entropy, lifetime_seconds=lifetime_seconds
    )
    return upto_evm.SignedPermit(permit, b"", choice.amount.asset, permit.maximum)


def _sponsorship(unsigned: upto_evm.SignedPermit, wallet: Wallet, allowances: Allowances) -> dict[str, Any]:
    """The EIP-2612 permit, or the approval, that goes with a payment for which Permit2's allowance is too small; else
    nothing."""
    asset, permit = unsigned.asset, unsigned.permit
    known = allowances.get((asset.network, asset.address))
    if known is None or known.units >= permit.maximum:
        return {}
    if known.permit_nonce is not None and asset.eip712_name:
        return gas_sponsoring.sign(
            permit.payer, permit.maximum, known.permit_nonce, permit.deadline, asset, wallet.sign_digest
        )
    if known.account is None:
        return {}
    chain_id = networks.get(asset.network).chain_id
    call = approval_sponsoring.unsigned_approval(asset, chain_id, known.account.nonce, *known.account.fees)
    return approval_sponsoring.sign(permit.payer, asset, call, wallet.sign_digest)


def _evm(
    choice: Choice, wallet: Wallet, now: int, lifetime_seconds: int, entropy: bytes
) -> tuple[str, str, int, Callable[[], dict[str, Any]]]:
    asset = choice.amount.asset
    authorization = exact_evm.build(
        choice.requirement, wallet.evm_address, now=now, nonce=entropy, lifetime_seconds=lifetime_seconds
    )
    pay_id = exact_evm.SignedAuthorization(authorization, b"", asset).pay_id
    return (
        pay_id,
        authorization.payer,
        authorization.valid_before,
        lambda: exact_evm.payload(authorization, asset, wallet.sign_digest),
    )


def _svm(
    choice: Choice, wallet: Wallet, blockhash: str, entropy: bytes
) -> tuple[str, str, int, Callable[[], dict[str, Any]]]:
    offer = choice.requirement
    memo = entropy[: exact_svm.MEMO_NONCE_BYTES]
    transaction = exact_svm.build(offer, wallet.svm_address, blockhash, memo)
    pay_id = exact_svm.identify(exact_svm.payload(transaction), offer.network)
    # Only the chain's block height can tell when a blockhash dies, so there is no second to name.
    return pay_id, wallet.svm_address, 0, lambda: exact_svm.payload(exact_svm.sign(transaction, wallet.sign_message))


def _payment(challenge: Challenge, choice: Choice, payload: dict[str, Any], extensions: dict[str, Any]) -> Payment:
    offer = choice.requirement
    if challenge.version == 1:
        return Payment(version=1, scheme=offer.scheme, network=offer.network, payload=payload)
    return Payment.of(offer, payload, resource=challenge.resource, extensions=extensions)


def _with_identifier(extensions: dict[str, Any], entropy: bytes) -> dict[str, Any]:
    """The challenge's extensions echoed, with an id of ours where the seller wants one (protocol page §6.3)."""
    wanted = extensions.get(PAYMENT_IDENTIFIER)
    if not isinstance(wanted, dict) or not isinstance(wanted.get("info"), dict):
        return extensions
    info = {**wanted["info"], "id": "pay_" + entropy[-16:].hex()}
    return {**extensions, PAYMENT_IDENTIFIER: {**wanted, "info": info}}


def _no_blockhash(status: int) -> UnavailableError:
    return UnavailableError(
        "blockhash_unavailable",
        f"the Solana node gave no recent blockhash (HTTP {status}); nothing was signed. Name another node in"
        " X402_SVM_RPC_URL",
    )


__all__ = [
    "ENTROPY_BYTES",
    "Draft",
    "blockhash_question",
    "draft",
    "needs_blockhash",
    "read_blockhash",
]

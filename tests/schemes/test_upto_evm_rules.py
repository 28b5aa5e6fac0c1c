"""Every rule of scheme upto on EVM networks at its bounds, and wrong on either side of equal.

A guard that compares in one direction only passes every test that is wrong in the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.payments import EvmPayer, address, as_version_1, evm_asset, upto_requirement, with_payload
from x402.chain import CallResult
from x402.errors import RefusedError
from x402.networks import BASE, SOLANA_DEVNET
from x402.schemes import eip712, gas_sponsoring, upto_evm, upto_evm_rules
from x402.schemes.evm_payment import Funds
from x402.schemes.upto_evm import VALIDITY_MARGIN_SECONDS, SignedPermit
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

NOW = 1_800_000_000
SOON = NOW + VALIDITY_MARGIN_SECONDS
PAYER = EvmPayer()
LOW, HIGH = eip712.checksum("0x" + "00" * 19 + "07"), eip712.checksum("0x" + "ff" * 20)
"""Addresses before and after every other's in the alphabet."""
OFFER = upto_requirement(address())
PERMIT = upto_evm.build(OFFER, PAYER.address, now=NOW, nonce=b"n" * 32, lifetime_seconds=300)
PAYMENT = PAYER.sign_permit(OFFER, PERMIT)
MARK = "6492" * 16
NETWORK = "invalid_upto_evm_network_mismatch"
SIGNATURE = "invalid_permit2_signature"


def reason(payment: Payment, offer: Requirement = OFFER) -> str:
    """The code with which a payment is refused, `""` when it passes."""
    try:
        upto_evm_rules.check(payment, offer, now=NOW)
    except RefusedError as refused:
        return refused.code
    return ""


def permitting(**members: Any) -> Payment:
    """An honest payment whose permit says something else."""
    return PAYER.sign_permit(OFFER, replace(PERMIT, **members))


def sponsored(deadline: int) -> Payment:
    """The payment with an EIP-2612 permit for Permit2 that ends when it is said."""
    extensions = gas_sponsoring.sign(
        PAYER.address, PERMIT.maximum, 0, deadline, evm_asset(), lambda digest: eip712.sign(PAYER.key, digest)
    )
    return PAYER.sign_permit(OFFER, PERMIT, extensions=extensions)


def test_control_an_honest_payment_passes() -> None:
    assert reason(PAYMENT) == ""
    assert upto_evm_rules.check(PAYMENT, OFFER, now=NOW).permit == PERMIT
    assert LOW < min(PAYER.address, OFFER.pay_to, evm_asset().address) < HIGH


@pytest.mark.parametrize("scheme", ["exact", "aggr_deferred", "upto2", "zzz"])
def test_schemes(scheme: str) -> None:
    other = {"scheme": scheme}
    assert reason(PAYMENT.model_copy(update=other)) == "invalid_upto_evm_scheme"
    assert reason(PAYMENT, OFFER.model_copy(update=other)) == "invalid_upto_evm_scheme"


@pytest.mark.parametrize("network", ["eip155:1", BASE, "eip155:9999999", SOLANA_DEVNET])
def test_networks(network: str) -> None:
    other = {"network": network}
    assert PAYMENT.accepted is not None
    stated = PAYMENT.accepted.model_copy(update=other)
    assert reason(PAYMENT.model_copy(update=other)) == NETWORK
    assert reason(PAYMENT.model_copy(update={"accepted": stated})) == NETWORK
    # A payment of version 1 states no offer.
    assert reason(as_version_1(PAYMENT)) == ""


@pytest.mark.parametrize("network", [SOLANA_DEVNET, "eip155:9999999"])
def test_a_network_that_has_no_such_scheme_is_the_sellers_fault(network: str) -> None:
    other = {"network": network}
    asked = OFFER.model_copy(update=other)
    paid = PAYMENT.model_copy(update=other | {"accepted": asked})
    assert reason(paid, asked) == "invalid_upto_evm_failed_to_get_network_config"


@pytest.mark.parametrize("other", [LOW, HIGH])
def test_addresses(other: str) -> None:
    assert reason(permitting(spender=other)) == "invalid_permit2_spender"
    assert reason(permitting(payee=other)) == "invalid_permit2_recipient_mismatch"
    assert reason(permitting(token=other)) == "permit2_token_mismatch"
    # Any other may be the seller.
    elsewhere = OFFER.model_copy(update={"pay_to": other})
    assert reason(PAYER.sign_permit(elsewhere, replace(PERMIT, payee=other)), elsewhere) == ""


def test_A17_the_last_and_the_first_second() -> None:
    assert reason(permitting(deadline=SOON)) == ""
    assert reason(permitting(deadline=SOON - 1)) == "permit2_deadline_expired"
    assert reason(permitting(valid_after=NOW)) == ""
    assert reason(permitting(valid_after=NOW + 1)) == "permit2_not_yet_valid"


def test_D15_the_sponsored_permit_lives_as_long_as_the_payment() -> None:
    assert reason(sponsored(SOON)) == ""
    for deadline in (SOON - 1, NOW, 0):
        assert reason(sponsored(deadline)) == "eip2612_deadline_expired"


def test_B16_unless_it_is_settled_the_amount_is_the_maximum() -> None:
    less = OFFER.model_copy(update={"amount": 999})
    with pytest.raises(RefusedError) as refused:
        upto_evm_rules.check(PAYMENT, less, now=NOW)
    assert refused.value.code == "permit2_amount_mismatch"
    assert upto_evm_rules.check(PAYMENT, less, now=NOW, settling=True).amount == 999


def test_D04_the_mark_of_a_counterfactual_wallet_is_thirty_two_bytes() -> None:
    assert reason(with_payload(PAYMENT, signature="0x" + "aa" * 67 + MARK[4:])) == ""
    assert reason(with_payload(PAYMENT, signature="0x" + "aa" * 65 + MARK)) == "eip6492_factory_not_allowed"


def judged(signed: SignedPermit, code: bytes = b"") -> str:
    """The code with which a signature is refused, `""` when it passes."""
    try:
        upto_evm_rules.judge_signature(signed, code)
    except RefusedError as refused:
        return refused.code
    return ""


def test_D06_without_code_the_payers_key_decides() -> None:
    signed = upto_evm_rules.check(PAYMENT, OFFER, now=NOW)
    assert judged(signed) == ""
    for other in (LOW, HIGH):
        assert judged(replace(signed, permit=replace(PERMIT, payer=other))) == SIGNATURE
    # With another's signature, whichever of the two sorts first.
    sorted_before: set[bool] = set()
    while len(sorted_before) < 2:
        stranger = EvmPayer()
        sorted_before.add(stranger.address < PAYER.address)
        forged = replace(signed, signature=eip712.sign(stranger.key, PERMIT.digest(84532)))
        assert judged(forged) == SIGNATURE


@pytest.mark.parametrize("size", [0, 64, 66, 130])
def test_D06_a_signature_by_a_key_has_sixty_five_bytes(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = upto_evm_rules.check(PAYMENT, OFFER, now=NOW)
    odd = replace(signed, signature=(signed.signature * 2)[:size])
    assert judged(odd) == SIGNATURE
    # Whatever could be recovered from it.
    monkeypatch.setattr(SignedPermit, "recovered", PAYER.address)
    assert judged(odd) == SIGNATURE
    assert judged(signed) == ""


def test_D06_with_code_the_account_is_asked_by_permit2() -> None:
    signed = upto_evm_rules.check(PAYMENT, OFFER, now=NOW)
    for signature in (b"", bytes(65), bytes(200)):
        assert judged(replace(signed, signature=signature), b"\x60") == ""


@pytest.mark.parametrize(
    ("revert", "code", "words"),
    [
        ("InvalidNonce()", "permit2_invalid_nonce", "already used"),
        ("InvalidOwner()", "permit2_invalid_owner", "the proxy refuses the settlement: permit2_invalid_owner"),
        ("InvalidSigner()", SIGNATURE, "not made by the payer"),
        ("0x756688fe", "permit2_invalid_nonce", "already used"),
        ("0x75668800", "permit2_insufficient_balance", "less USDC than the payment"),
    ],
)
def test_a_revert_that_says_why_is_believed_before_the_funds(revert: str, code: str, words: str) -> None:
    """Whichever of the reasons sorts first: what the contracts say is nearer than what the payer holds."""
    signed = upto_evm_rules.check(PAYMENT, OFFER, now=NOW)
    with pytest.raises(RefusedError, match=words) as refused:
        upto_evm_rules.judge_simulation(signed, CallResult(False, revert=revert), Funds(0, 1000))
    assert refused.value.code == code

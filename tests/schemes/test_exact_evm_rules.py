"""Every rule of scheme exact on EVM networks, each with its canonical reason and a payment that passes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chains import EvmWorld
from tests.payments import (
    EvmPayer,
    address,
    as_version_1,
    evm_asset,
    evm_requirement,
    with_payload,
)
from x402.chain import CallResult
from x402.errors import Mender, RefusedError
from x402.networks import BASE, SOLANA_DEVNET
from x402.ports.evm import RpcEvmChain
from x402.schemes import eip712, exact_evm, exact_evm_rules
from x402.schemes.exact_evm import SignedAuthorization
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment

NOW = 1_800_000_000
PAYER = EvmPayer()
OFFER = evm_requirement(amount=1000)
AUTH = exact_evm.build(OFFER, PAYER.address, now=NOW, nonce=b"n" * 32, lifetime_seconds=300)
PAYMENT = PAYER.sign(OFFER, AUTH)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
BEFORE = "invalid_exact_evm_payload_authorization_valid_before"
AFTER = "invalid_exact_evm_payload_authorization_valid_after"


def reason(payment: Payment, offer: Requirement = OFFER, now: int = NOW) -> str:
    """The code with which a payment is refused, `""` when it passes."""
    try:
        exact_evm_rules.check(payment, offer, now=now)
    except RefusedError as refused:
        return refused.code
    return ""


def authorized(**members: Any) -> Payment:
    """The payment with other members in its authorization, under the old signature."""
    return with_payload(PAYMENT, authorization=PAYMENT.payload["authorization"] | members)


def signed_with(**members: Any) -> SignedAuthorization:
    """The checked payment, its signature replaced."""
    signed = exact_evm_rules.check(PAYMENT, OFFER, now=NOW)
    return SignedAuthorization(signed.authorization, members.get("signature", signed.signature), signed.asset)


def judged(signed: SignedAuthorization, code: bytes = b"") -> str:
    """The code with which a signature is refused, `""` when it passes."""
    try:
        exact_evm_rules.judge_signature(signed, code)
    except RefusedError as refused:
        return refused.code
    return ""


def test_control_an_honest_payment_passes() -> None:
    signed = exact_evm_rules.check(PAYMENT, OFFER, now=NOW)
    assert signed.authorization == AUTH
    exact_evm_rules.judge_signature(signed, b"")
    exact_evm_rules.judge_simulation(signed, CallResult(True))
    assert reason(as_version_1(PAYMENT)) == ""


def test_scheme_and_network() -> None:
    upto = OFFER.model_copy(update={"scheme": "upto"})
    assert reason(PAYMENT, upto) == "invalid_exact_evm_scheme"
    assert reason(PAYMENT.model_copy(update={"scheme": "upto"})) == "invalid_exact_evm_scheme"
    base = evm_requirement(network=BASE)
    assert reason(PAYMENT, base) == "invalid_exact_evm_network_mismatch"
    elsewhere = PAYMENT.model_copy(update={"accepted": base})
    assert reason(elsewhere) == "invalid_exact_evm_network_mismatch"


def test_network_of_another_family_or_of_nobody() -> None:
    for network in (SOLANA_DEVNET, "eip155:999999", "eip155:nonsense"):
        offer = OFFER.model_copy(update={"network": network})
        payment = PAYMENT.model_copy(update={"network": network, "accepted": None})
        assert reason(payment, offer) == "invalid_exact_evm_failed_to_get_network_config"


@pytest.mark.parametrize("extra", [{}, {"name": "USDC"}, {"version": "2"}, {"name": "", "version": "2"}, {"name": 1}])
def test_D08_domain_must_be_stated(extra: dict[str, Any]) -> None:
    offer = OFFER.model_copy(update={"extra": extra})
    assert reason(PAYMENT, offer) == "invalid_exact_evm_missing_eip712_domain"


@pytest.mark.parametrize(("name", "version"), [("USD Coin", "2"), ("USDC", "1"), ("usdc", "2"), ("USDC ", "2")])
def test_D08_domain_is_pinned(name: str, version: str) -> None:
    offer = OFFER.model_copy(update={"extra": {"name": name, "version": version}})
    assert reason(PAYMENT, offer) == "invalid_exact_evm_token_name_mismatch"


def test_D09_only_known_assets() -> None:
    with pytest.raises(RefusedError) as refused:
        exact_evm_rules.check(PAYMENT, OFFER.model_copy(update={"asset": address()}), now=NOW)
    assert refused.value.code == "asset_not_deployed_contract"
    assert refused.value.mender is Mender.SELLER
    permit2 = OFFER.model_copy(update={"extra": OFFER.extra | {"assetTransferMethod": "permit2"}})
    assert reason(PAYMENT, permit2) == "invalid_exact_evm_eip3009_not_supported"


def test_recipient() -> None:
    assert reason(authorized(to=address())) == "invalid_exact_evm_recipient_mismatch"
    assert reason(PAYMENT, OFFER.model_copy(update={"pay_to": address()})) == "invalid_exact_evm_recipient_mismatch"
    assert reason(PAYMENT, OFFER.model_copy(update={"pay_to": OFFER.pay_to.lower()})) == ""
    assert reason(PAYMENT, OFFER.model_copy(update={"pay_to": "me"})) == "invalid_payment_requirements"


def test_F12_nobody_pays_himself() -> None:
    offer = evm_requirement(pay_to=PAYER.address)
    auth = exact_evm.build(offer, PAYER.address, now=NOW, nonce=b"n" * 32, lifetime_seconds=300)
    assert reason(PAYER.sign(offer, auth), offer) == "invalid_exact_evm_payload_self_transfer"


@pytest.mark.parametrize("value", ["999", "1001", "0", str(2**256 - 1)])
def test_value_is_exact(value: str) -> None:
    assert reason(authorized(value=value)) == "invalid_exact_evm_payload_authorization_value_mismatch"
    assert reason(as_version_1(authorized(value=value))) == "invalid_exact_evm_authorization_value"


@pytest.mark.parametrize(
    "value", ["", "-1", "+1000", " 1000", "1000\n", "01000", "1e3", "1_000", "1000.0", "٣", "0x3e8"]
)
def test_F09_amounts_have_one_spelling(value: str) -> None:
    for member in ("value", "validAfter", "validBefore"):
        assert reason(authorized(**{member: value})) == "invalid_payload"


def test_D10_valid_before_with_its_margin() -> None:
    assert reason(PAYMENT, now=AUTH.valid_before - 6) == ""
    assert reason(PAYMENT, now=AUTH.valid_before - 5) == BEFORE
    assert reason(PAYMENT, now=AUTH.valid_before) == BEFORE
    assert reason(PAYMENT, now=AUTH.valid_before + 10**9) == BEFORE


def test_D10_valid_after_is_strict() -> None:
    assert reason(authorized(validAfter=str(NOW - 1))) == ""
    assert reason(authorized(validAfter=str(NOW))) == AFTER
    assert reason(authorized(validAfter=str(NOW + 1))) == AFTER


def test_read_ignores_the_clock_and_nothing_else() -> None:
    assert exact_evm_rules.read(authorized(validBefore="1"), OFFER).authorization.valid_before == 1
    with pytest.raises(RefusedError):
        exact_evm_rules.read(authorized(value="1"), OFFER)


def test_the_first_broken_rule_speaks() -> None:
    broken = authorized(to=address(), value="1", validBefore="1", validAfter=str(NOW + 9))
    assert reason(broken) == "invalid_exact_evm_recipient_mismatch"
    broken = authorized(value="1", validBefore="1", validAfter=str(NOW + 9))
    assert reason(broken) == "invalid_exact_evm_payload_authorization_value_mismatch"
    assert reason(authorized(validBefore="1", validAfter=str(NOW + 9))) == BEFORE


def test_refusals_name_the_payer_and_who_can_mend_it() -> None:
    with pytest.raises(RefusedError) as refused:
        exact_evm_rules.check(authorized(value="1"), OFFER, now=NOW)
    assert refused.value.details == {"payer": PAYER.address}
    assert refused.value.mender is Mender.PAYER
    assert "1000" in refused.value.message


def test_F12_addresses_with_a_wrong_checksum_are_refused() -> None:
    wrong = "0x" + PAYER.address[2:].swapcase()
    assert reason(authorized(**{"from": wrong})) == "invalid_payload"
    assert reason(authorized(**{"from": PAYER.address.lower()})) == ""


@pytest.mark.parametrize("shape", [{"permit2Authorization": {}}, {"delegationManager": "0x1"}])
def test_other_payload_shapes(shape: dict[str, Any]) -> None:
    payment = PAYMENT.model_copy(update={"payload": shape})
    assert reason(payment) == "unsupported_payload_type"


def test_D04_counterfactual_wallets_are_denied() -> None:
    wrapped = "0x" + "aa" * 96 + "6492" * 16
    assert reason(with_payload(PAYMENT, signature=wrapped)) == "eip6492_factory_not_allowed"
    assert reason(with_payload(PAYMENT, signature="0x" + "aa" * 96 + "6492" * 15 + "6493")) == ""


@pytest.mark.parametrize("signature", ["", "0x", "0x1", "0xzz", "1b" * 65, None, 7, "0x" + "1b" * 65 + "\n"])
def test_D07_signatures_are_hex(signature: Any) -> None:
    assert reason(with_payload(PAYMENT, signature=signature)) == "invalid_exact_evm_signature"


def test_D07_signature_forms_of_an_account_without_code() -> None:
    good = signed_with().signature
    low_v = good[:64] + bytes([good[64] - 27])
    assert judged(signed_with(signature=good)) == judged(signed_with(signature=low_v)) == ""
    high_s = good[:32] + (ORDER - int.from_bytes(good[32:64], "big")).to_bytes(32, "big") + bytes([55 - good[64]])
    garbage = [high_s, bytes(65), good[:64] + b"\x1d", good[:32] + bytes(32) + good[64:], bytes(32) + good[32:]]
    for signature in garbage:
        assert judged(signed_with(signature=signature)) == "invalid_exact_evm_signature"
    stranger = eip712.sign(EvmPayer().key, AUTH.digest(evm_asset()))
    assert judged(signed_with(signature=stranger)) == "invalid_exact_evm_signature"
    for signature in (good[:64], good + b"\x00", good[:1]):
        assert judged(signed_with(signature=signature)) == "invalid_exact_evm_payload_undeployed_smart_wallet"


def test_D06_an_account_with_code_is_asked_itself() -> None:
    delegation = bytes.fromhex("ef0100") + b"\x11" * 20
    for signature in (bytes(65), b"\x01" * 200):
        assert judged(signed_with(signature=signature), delegation) == ""
        with pytest.raises(RefusedError) as refused:
            exact_evm_rules.judge_simulation(
                signed_with(signature=signature), CallResult(False, revert="FiatTokenV2: invalid signature")
            )
        assert refused.value.code == "invalid_exact_evm_signature"


@pytest.mark.parametrize(
    ("revert", "code"),
    [
        ("FiatTokenV2: authorization is expired", BEFORE),
        ("AuthorizationExpired()", BEFORE),
        ("FiatTokenV2: authorization is not yet valid", AFTER),
        ("FiatTokenV2: authorization is used or canceled", "invalid_exact_evm_nonce_already_used"),
        ("AuthorizationUsedOrCanceled()", "invalid_exact_evm_nonce_already_used"),
        ("ERC20: transfer amount exceeds balance", "invalid_exact_evm_insufficient_balance"),
        ("ERC20InsufficientBalance(1, 2, 3)", "invalid_exact_evm_insufficient_balance"),
        ("ECRecover: invalid signature 's' value", "invalid_exact_evm_signature"),
        ("InvalidSignatureV()", "invalid_exact_evm_signature"),
        ("SignerMismatch()", "invalid_exact_evm_signature"),
        ("Blacklistable: account is blacklisted", "asset_restricted"),
        ("Pausable: paused", "asset_restricted"),
        ("", "invalid_exact_evm_transaction_simulation_failed"),
        ("something new", "invalid_exact_evm_transaction_simulation_failed"),
    ],
)
def test_D12_reverts_are_explained(revert: str, code: str) -> None:
    assert exact_evm_rules.explain_revert(revert) == code
    with pytest.raises(RefusedError) as refused:
        exact_evm_rules.judge_simulation(signed_with(), CallResult(False, revert=revert))
    assert (refused.value.code, refused.value.message) == (code, exact_evm_rules.WORDS[code])


@pytest.mark.parametrize(
    ("python", "typescript"),
    [
        ("unsupported_scheme", "invalid_exact_evm_scheme"),
        ("network_mismatch", "invalid_exact_evm_network_mismatch"),
        ("missing_eip712_domain", "invalid_exact_evm_missing_eip712_domain"),
        ("invalid_exact_evm_payload_recipient_mismatch", "invalid_exact_evm_recipient_mismatch"),
        ("invalid_exact_evm_payload_signature", "invalid_exact_evm_signature"),
        ("transaction_failed", "invalid_exact_evm_transaction_failed"),
        (BEFORE, BEFORE),
        ("settlement_pending", "settlement_pending"),
        ("a_reason_of_next_year", "a_reason_of_next_year"),
    ],
)
def test_reasons_of_both_sdks(python: str, typescript: str) -> None:
    assert exact_evm_rules.canonical(python) == exact_evm_rules.canonical(typescript) == typescript


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=80) | st.sampled_from(["0x" + "1b" * 65, "1000"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        name: JUNK | st.just(PAYMENT.payload["authorization"][name]) for name in PAYMENT.payload["authorization"]
    },
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["signature", "authorization", "x"]), JUNK | FIELDS, min_size=1),
    st.dictionaries(st.sampled_from(["name", "version", "assetTransferMethod"]), JUNK, max_size=3),
)
def test_whatever_the_payload_holds_it_is_refused_or_right(payload: dict[str, Any], extra: dict[str, Any]) -> None:
    payment = PAYMENT.model_copy(update={"payload": payload})
    for offer in (OFFER, OFFER.model_copy(update={"extra": OFFER.extra | extra})):
        try:
            signed = exact_evm_rules.check(payment, offer, now=NOW)
        except RefusedError as refused:
            explained = bool(refused.code and refused.message)
        else:
            judged(signed)
            explained = (signed.authorization.payee, signed.authorization.value) == (OFFER.pay_to, OFFER.amount)
        assert explained


async def test_D06_a_delegated_account_cannot_sign_by_itself(evm_devnet: EvmWorld) -> None:
    """An EOA that delegated its code (EIP-7702) is asked by ERC-1271: the key's own signature is void, and only the
    simulation can know. The control is the same account before it delegates."""
    payer, chain = EvmPayer(), RpcEvmChain(evm_devnet.url, 84532)
    await evm_devnet.fund(payer.address, 5000)
    offer = evm_requirement()

    async def verdict() -> str:
        signed = exact_evm_rules.check(payer.pay(offer), offer, now=int(time.time()))
        try:
            exact_evm_rules.judge_signature(signed, await chain.code(payer.address))
            simulated = await chain.call(evm_asset().address, signed.calldata(), sender=address())
            exact_evm_rules.judge_simulation(signed, simulated)
        except RefusedError as refused:
            return refused.code
        return ""

    assert await verdict() == ""
    # The delegate answers every question with an empty reply, as most accounts' code would.
    delegate = address()
    await evm_devnet.request("anvil_setCode", delegate, "0x00")
    await evm_devnet.request("anvil_setCode", payer.address, "0xef0100" + delegate[2:].lower())
    assert await verdict() == "invalid_exact_evm_signature"
    await chain.aclose()

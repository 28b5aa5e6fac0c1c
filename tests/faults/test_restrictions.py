"""What a token's issuer, or somebody who writes more into a payment than belongs there, can do to us: C17, D12, D15."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.facilitator.world import CHAIN_ID, EvmShop, Meddled, SvmShop, facilitator, hours_later
from tests.payments import evm_asset, with_payload
from x402.devnet.evm.faucet import FAUCET_KEY, padded
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Outcome, Party
from x402.ports.ledger import SqlLedger
from x402.schemes import eip712
from x402.schemes.eip1559 import EvmTransaction
from x402.wire.payment import Payment

Restriction = Callable[[EvmShop], tuple[str, str]]
"""The call that restricts and the one that lifts it, as hex."""


def selector(signature: str) -> str:
    return eip712.keccak(signature.encode())[:4].hex()


def blocking(address: str) -> tuple[str, str]:
    return selector("blacklist(address)") + padded(address), selector("unBlacklist(address)") + padded(address)


async def by_the_issuer(shop: EvmShop, call: str) -> None:
    """One transaction of the token's owner, mined."""
    issuer, fees = EvmSigner(FAUCET_KEY.hex()), await shop.chain.fees()
    nonce = await shop.chain.transaction_count(issuer.address)
    name, raw = issuer.sign_transaction(
        EvmTransaction(CHAIN_ID, nonce, shop.offer.asset, 100_000, fees.max_fee, fees.priority_fee, bytes.fromhex(call))
    )
    await shop.chain.send(raw, name)
    receipt = await shop.chain.receipt(name, timeout=10)
    assert receipt is not None
    assert receipt.succeeded


@asynccontextmanager
async def restricted(shop: EvmShop, calls: tuple[str, str]) -> AsyncIterator[None]:
    await by_the_issuer(shop, calls[0])
    try:
        yield
    finally:
        await by_the_issuer(shop, calls[1])


RESTRICTIONS: dict[str, Restriction] = {
    "the payer is blocked": lambda shop: blocking(shop.payer.address),
    "the payee is blocked": lambda shop: blocking(shop.offer.pay_to),
    "the token is paused": lambda shop: (selector("pause()"), selector("unpause()")),
}


@pytest.mark.parametrize("restriction", RESTRICTIONS.values(), ids=RESTRICTIONS)
async def test_D12_a_restricted_token_is_named_and_costs_nothing(
    evm: EvmShop, ledger: SqlLedger, restriction: Restriction
) -> None:
    party, payment = facilitator([evm.rail(ledger)], ledger), evm.pay()
    async with restricted(evm, restriction(evm)):
        verdict = await party.verify(payment, evm.offer)
        assert (verdict.is_valid, verdict.invalid_reason) == (False, "asset_restricted")
        for _ in range(2):
            refused = await party.settle(payment, evm.offer)
            assert (refused.outcome, refused.error_reason) == (Outcome.REFUSED, "asset_restricted")
    assert await evm.sent() == 0
    assert await ledger.unresolved(Party.FACILITATOR) == []
    # The control: nothing was sent and nothing held against the payment, so it settles once the issuer relents.
    assert (await party.settle(payment, evm.offer)).success
    assert (await evm.received(), await evm.sent()) == (1000, 1)


async def test_D12_a_payer_who_is_blocked_after_the_check_costs_one_revert_and_no_retry(
    evm: EvmShop, ledger: SqlLedger
) -> None:
    blocked = blocking(evm.payer.address)

    async def send(raw: bytes, transaction: str) -> None:
        if not sent:
            await by_the_issuer(evm, blocked[0])
        sent.append(raw)
        await evm.chain.send(raw, transaction)

    sent: list[bytes] = []
    party, payment = facilitator([evm.rail(ledger, Meddled(evm.chain, send=send))], ledger), evm.pay()
    try:
        for _ in range(2):
            # Anybody may submit it while it lives, and the issuer may relent.
            assert (await party.settle(payment, evm.offer)).outcome is Outcome.PENDING
        later = facilitator([evm.rail(ledger, Meddled(evm.chain, send=send, time_of=hours_later(evm)))], ledger)
        refused = await later.settle(payment, evm.offer)
        assert refused.outcome is Outcome.REFUSED
    finally:
        await by_the_issuer(evm, blocked[1])
    assert await party.settle(payment, evm.offer) == refused
    assert (len(sent), await evm.sent(), await evm.received()) == (1, 1, 0)


async def test_D15_transactions_that_a_payer_encloses_are_never_broadcast(evm: EvmShop, ledger: SqlLedger) -> None:
    """An approval and a permit for a gas sponsor, whole and ready to send, in every place where a payment has room."""
    other, sent = EvmSigner(secrets.token_hex(32)), []
    await evm.world.fund(other.address, 1_000_000, 10**18)
    fees = await evm.chain.fees()
    approve = bytes.fromhex(selector("approve(address,uint256)") + padded(evm.signer.address) + "f" * 64)
    _, enclosed = other.sign_transaction(
        EvmTransaction(CHAIN_ID, 0, evm_asset().address, 100_000, fees.max_fee, fees.priority_fee, approve)
    )
    info = {"signedTransaction": "0x" + enclosed.hex(), "asset": evm_asset().address, "spender": evm.signer.address}
    sponsored = {
        "erc20ApprovalGasSponsoring": {"info": info},
        "eip2612GasSponsoring": {"info": {**info, "signature": "0x" + "11" * 65}},
    }

    async def send(raw: bytes, transaction: str) -> None:
        sent.append(raw)
        await evm.chain.send(raw, transaction)

    payment = with_payload(evm.pay(), **sponsored, signedTransaction=info["signedTransaction"])
    payment = payment.model_copy(update={"extensions": sponsored})
    offer = evm.offer.model_copy(update={"extra": {**evm.offer.extra, **sponsored}})
    party = facilitator([evm.rail(ledger, Meddled(evm.chain, send=send))], ledger)
    receipt = await party.settle(payment, offer)
    assert len(set(sent)) == receipt.success
    assert enclosed not in sent
    assert await evm.chain.transaction_count(other.address) == 0
    # The control: those very bytes would have been taken, had anybody sent them.
    await evm.world.request("eth_sendRawTransaction", "0x" + enclosed.hex())
    assert await evm.chain.transaction_count(other.address) == 1


async def test_C17_somebody_elses_public_transfer_is_no_payment(svm: SvmShop, ledger: SqlLedger) -> None:
    """A transfer that anybody can read on chain, presented in each way in which a payload could name it."""
    party = facilitator([svm.rail()], ledger)
    public = await SvmShop.open(svm.world)
    receipt = await facilitator([public.rail()], ledger).settle(payment := await public.pay(), public.offer)
    await public.chain.aclose()
    assert receipt.success
    landed = payment.payload["transaction"]
    secret = base64.b64encode(secrets.token_bytes(64)).decode()
    claims: list[dict[str, object]] = [
        {"transaction": landed},
        {"transaction": landed, "settleSecretKey": secret},
        {"settleSecretKey": secret, "transactionSignature": receipt.transaction},
        {"transaction": receipt.transaction},
        {"signature": receipt.transaction, "settlementAccount": public.payer.address},
    ]
    for claim in claims:
        claimed = Payment.of(svm.offer, claim)
        assert not (await party.verify(claimed, svm.offer)).is_valid, claim
        assert (await party.settle(claimed, svm.offer)).outcome is Outcome.REFUSED, claim
    assert await svm.received() == 0


async def test_control_an_honest_payment_settles_on_either_chain(evm: EvmShop, svm: SvmShop, ledger: SqlLedger) -> None:
    party = facilitator([evm.rail(ledger), svm.rail()], ledger)
    assert (await party.settle(evm.pay(), evm.offer)).success
    assert (await party.settle(await svm.pay(), svm.offer)).success
    assert (await evm.received(), await svm.received()) == (1000, 1000)

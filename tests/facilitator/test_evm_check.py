"""What one question to an EVM node proves before a payment is settled (design D7, faults D05, D06, D08)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.nodes import EvmNode, EvmSale, listed
from tests.payments import with_payload
from x402.chain import CallResult
from x402.errors import Mender, RefusedError
from x402.facilitator.evm_check import EvmCheck, Inspected
from x402.networks import MULTICALL3
from x402.schemes import multicall
from x402.schemes.eip712 import uint256
from x402.schemes.evm_payment import EvmPayment, balance_call
from x402.schemes.evm_scheme import evm_scheme

US, GAS = "0x" + "11" * 20, 160_000
DONE, WORDLESS = CallResult(True), CallResult(False)


def holds(units: int) -> CallResult:
    return CallResult(True, uint256(units))


class Desk:
    """One check, of one payment, on one node."""

    def __init__(self, scheme: str = "exact", **payload: Any) -> None:
        self.node, self.scheme = EvmNode(), evm_scheme(scheme)
        self.sale = EvmSale(self.node, scheme)
        self.signed: EvmPayment = self.scheme.read(with_payload(self.sale.payment, **payload), self.sale.offer)
        self.check = EvmCheck(self.node, US)
        self.asset = self.signed.asset.address
        self.calls = [(self.asset, balance_call(self.signed.payer)), (self.signed.contract, self.signed.calldata())]
        self.bundle = MULTICALL3, multicall.aggregate3(self.calls)
        self.answer(holds(5000), DONE, holds(3000))

    def answer(self, held: CallResult, moved: CallResult, allowed: CallResult = DONE, *, bundled: bool = True) -> None:
        """What the node says about the payer's balance, the settlement, and the allowance of the scheme upto."""
        self.node.says = dict(zip(self.calls, (held, moved), strict=True))
        allowance = self.signed.allowance_call()
        if allowance is not None:
            self.node.says[self.asset, allowance] = allowed
        self.node.says[self.bundle] = CallResult(True, listed(held, moved) if bundled else b"")

    async def inspect(self, *, settling: bool = False) -> Inspected:
        self.node.asked.clear()
        return await self.check.inspect(self.scheme, self.signed, GAS, settling=settling)

    async def refused(self) -> RefusedError:
        with pytest.raises(RefusedError) as refusal:
            await self.inspect()
        return refusal.value


async def test_D05_one_call_asks_for_everything_with_the_settlements_own_gas() -> None:
    desk = Desk()
    assert not desk.check.bundles
    assert await desk.check.inspect(desk.scheme, desk.signed, GAS) == Inspected(5000, plain=False)
    assert desk.node.asked == [("call", *desk.bundle, US, GAS, None)]
    assert desk.check.bundles


async def test_D06_before_a_settlement_the_payers_code_is_looked_at() -> None:
    desk = Desk()
    assert await desk.inspect(settling=True) == Inspected(5000, plain=True)
    assert desk.node.heard("code") == [(desk.signed.payer,)]
    # A key whose account has code pays too, but not in company, because its code runs along.
    desk.node.codes[desk.signed.payer] = b"\xef"
    assert await desk.inspect(settling=True) == Inspected(5000, plain=False)


@pytest.mark.parametrize("signature", ["0x" + "01" * 66, "0x" + "01" * 64 + "1b"])
async def test_D06_a_signature_that_is_not_the_keys_needs_an_account_with_code(signature: str) -> None:
    desk = Desk(signature=signature)
    assert (await desk.refused()).code in (
        "invalid_exact_evm_payload_undeployed_smart_wallet", "invalid_exact_evm_signature",
    )  # fmt: skip
    desk.node.codes[desk.signed.payer] = b"\xef"
    for settling in (False, True):
        # What its code does in company, nobody knows.
        assert await desk.inspect(settling=settling) == Inspected(5000, plain=False)
        assert desk.node.heard("code") == [(desk.signed.payer,)]


async def test_a_network_without_multicall_is_asked_one_by_one_from_then_on() -> None:
    desk = Desk()
    desk.answer(holds(5000), DONE, bundled=False)
    alone = [("call", to, data, US, GAS, None) for to, data in desk.calls]
    assert await desk.inspect(settling=True) == Inspected(5000, plain=False)
    assert [one for one in desk.node.asked if one[0] == "call"] == [("call", *desk.bundle, US, GAS, None), *alone]
    assert await desk.inspect() == Inspected(5000, plain=False)
    assert desk.node.asked == alone
    assert not desk.check.bundles


async def test_D05_a_transfer_that_takes_all_the_gas_is_refused() -> None:
    desk = Desk()
    desk.node.says[desk.bundle] = CallResult(False, revert="out of gas")
    assert (await desk.refused()).code == "invalid_exact_evm_transaction_simulation_failed"
    # The network has Multicall3 all the same.
    desk.answer(holds(5000), DONE)
    assert await desk.inspect() == Inspected(5000, plain=False)
    assert desk.node.asked == [("call", *desk.bundle, US, GAS, None)]


@pytest.mark.parametrize(
    "held", [CallResult(True, uint256(5000)[1:]), CallResult(True, uint256(5000) + b"0"), WORDLESS]
)
async def test_a_balance_that_the_token_does_not_tell_is_none(held: CallResult) -> None:
    desk = Desk()
    desk.answer(held, DONE)
    assert await desk.inspect() == Inspected(None, plain=False)


async def test_a_revert_is_told_by_its_reason() -> None:
    desk = Desk()
    desk.answer(holds(10), CallResult(False, revert="ERC20: transfer amount exceeds balance"))
    desk.node.says[desk.bundle] = CallResult(True, b"")
    assert (await desk.refused()).code == "invalid_exact_evm_insufficient_balance"


async def test_D08_where_no_token_lives_the_offer_is_wrong() -> None:
    desk = Desk()
    desk.answer(DONE, DONE)
    refusal = await desk.refused()
    assert (refusal.code, refusal.mender) == ("asset_not_deployed_contract", Mender.SELLER)
    assert desk.asset in refusal.message
    # A token that says nothing and refuses is one.
    desk.answer(DONE, WORDLESS)
    assert (await desk.refused()).code == "invalid_exact_evm_transaction_simulation_failed"
    # Permit2 fails where no token lives.
    permit = Desk("upto")
    permit.answer(DONE, WORDLESS)
    assert (await permit.refused()).code == "asset_not_deployed_contract"
    permit.answer(WORDLESS, WORDLESS)
    assert (await permit.refused()).code != "asset_not_deployed_contract"


async def test_what_looks_at_its_sender_is_asked_for_as_its_sender() -> None:
    desk = Desk("upto")
    allowance = desk.signed.allowance_call()
    (balance, settlement), allowed = desk.calls, (desk.asset, allowance)
    assert await desk.inspect(settling=True) == Inspected(3000, plain=False)
    assert [one for one in desk.node.asked if one[0] == "call"] == [
        ("call", *balance, "", 0, None), ("call", *settlement, desk.signed.sender, GAS, None),
        ("call", *allowed, "", 0, None),
    ]  # fmt: skip
    # Even where bundles are known to be possible.
    desk.check.bundles = True
    assert await desk.inspect(settling=True) == Inspected(3000, plain=False)


@pytest.mark.parametrize(
    ("held", "allowed", "told"),
    [(5000, 3000, 3000), (2000, 3000, 2000), (5000, 10, 1000), (5000, None, 5000), (None, 3000, None), (900, 10, 900)],
)
async def test_what_can_be_taken_is_bounded_by_the_allowance(
    held: int | None, allowed: int | None, told: int | None
) -> None:
    """A permit that came along makes up for a lacking one, for this payment alone."""
    desk = Desk("upto")
    desk.answer(_or_nothing(held), DONE, _or_nothing(allowed))
    assert await desk.inspect() == Inspected(told, plain=False)


def _or_nothing(units: int | None) -> CallResult:
    return WORDLESS if units is None else holds(units)


@pytest.mark.parametrize(
    ("held", "allowed", "code"),
    [
        (5000, 999, "permit2_allowance_required"), (999, 3000, "permit2_insufficient_balance"),
        (5000, 3000, "invalid_upto_evm_transaction_failed"),
    ],
)  # fmt: skip
async def test_what_a_permit_lacks_is_told_by_the_payers_funds(held: int, allowed: int, code: str) -> None:
    desk = Desk("upto")
    desk.answer(holds(held), replace(WORDLESS, revert="TRANSFER_FROM_FAILED"), holds(allowed))
    refusal = await desk.refused()
    assert refusal.code == code

"""What has to be on chain before a payment can settle, done within the budgets: all of them allow it, or nothing is
done (faults C06-C09, D15)."""

from __future__ import annotations

from dataclasses import replace

from x402.errors import UnavailableError
from x402.facilitator.allowance import Allowance
from x402.facilitator.callers import Caller
from x402.facilitator.rail import Checked, Preparation, Rail


class Unprepared(UnavailableError):
    """It has begun, and nobody knows how it ends: the payment is neither settled nor refused. Asking again goes on."""


async def prepare(
    rail: Rail, checked: Checked, preparation: Preparation, allowance: Allowance | None, caller: Caller, timeout: float
) -> Checked:
    """The payment, checked anew after its preparation, which takes `timeout` seconds or so.

    Raises `RefusedError` when a budget, the chain or the payment itself is against it, `Unprepared` while that is open.
    """
    if allowance is not None:
        # Nobody is given gas for a payment that would not be settled then.
        await allowance.ask(checked.subject, await rail.fee(checked), caller)
    try:
        await _carry_out(checked, preparation, allowance, caller, timeout)
        after = await rail.check(checked.payment, checked.requirement, settling=True)
    except UnavailableError as error:
        raise Unprepared(error.code, error.message) from error
    if after.preparation is not None:
        raise Unprepared("rpc_unavailable", "the node does not show what has been prepared yet")
    return after


async def _carry_out(
    checked: Checked, preparation: Preparation, allowance: Allowance | None, caller: Caller, timeout: float
) -> None:
    if allowance is None or not preparation.cost:
        await preparation.carry_out(timeout=timeout)
        return
    booked = replace(checked.subject, pay_id=preparation.name)
    await allowance.admit(booked, preparation.cost, caller)
    begun = True
    try:
        begun = await preparation.carry_out(timeout=timeout)
    finally:
        # What was begun stays booked, also where nobody knows how it ends.
        await allowance.correct(booked, preparation.cost if begun else 0)

"""The schemes in which payments on EVM networks are made, each by the same few questions.

Whoever verifies a payment, settles it or looks for it asks its scheme, and never decides by a name itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from x402.chain import CallResult
from x402.errors import DeclinedError, Mender, RefusedError
from x402.money import Asset
from x402.schemes import exact_evm, exact_evm_rules, upto_evm, upto_evm_rules
from x402.schemes.evm_payment import EvmPayment, Funds
from x402.wire.challenge import Requirement
from x402.wire.payment import Payment


class Check(Protocol):
    """All rules that need no chain. What is `settling` may move less than was signed, where the scheme meters."""

    def __call__(self, payment: Payment, requirement: Requirement, *, now: int, settling: bool) -> EvmPayment: ...


@dataclass(frozen=True, slots=True)
class EvmScheme:
    """One scheme. Each function is a rule of it, and raises `RefusedError`, but `asset_of`, which raises
    `DeclinedError`.

    `read` applies the rules that never change their mind, `check` all that need no chain, `judge_signature` knows the
    code at the payer's address, `judge_simulation` the outcome of the simulated settlement and the payer's funds.
    `read_payload` reads what was signed, whatever was offered. With `named_facilitator` only the facilitator that an
    offer names may settle, and the amount of an offer is a maximum.
    """

    name: str
    asset_of: Callable[[Requirement], Asset]
    read_payload: Callable[[dict[str, Any], Asset], EvmPayment]
    read: Callable[[Payment, Requirement], EvmPayment]
    check: Check
    judge_signature: Callable[[Any, bytes], None]
    judge_simulation: Callable[[Any, CallResult, Funds], None]
    named_facilitator: bool = False

    def read_offered(self, payment: Payment, requirement: Requirement) -> EvmPayment:
        """What was signed, in the asset that an offer names. Raises `RefusedError`."""
        try:
            asset = self.asset_of(requirement)
        except DeclinedError as error:
            raise RefusedError("invalid_payment_requirements", error.message, mender=Mender.SELLER) from error
        return self.read_payload(payment.payload, asset)


EXACT = EvmScheme(
    exact_evm.SCHEME,
    exact_evm.payable_asset,
    exact_evm.read_payload,
    exact_evm_rules.read,
    exact_evm_rules.check,
    exact_evm_rules.judge_signature,
    exact_evm_rules.judge_simulation,
)
UPTO = EvmScheme(
    upto_evm.SCHEME,
    upto_evm.payable_asset,
    upto_evm.read_payload,
    upto_evm_rules.read,
    upto_evm_rules.check,
    upto_evm_rules.judge_signature,
    upto_evm_rules.judge_simulation,
    named_facilitator=True,
)
SCHEMES: Mapping[str, EvmScheme] = MappingProxyType({EXACT.name: EXACT, UPTO.name: UPTO})


def evm_scheme(name: str) -> EvmScheme:
    """The scheme of that name. Raises `RefusedError("unsupported_scheme")`."""
    scheme = SCHEMES.get(name)
    if scheme is None:
        raise RefusedError("unsupported_scheme", f"scheme {name[:40]!r} is not supported")
    return scheme

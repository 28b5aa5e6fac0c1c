"""What a chain says about an EVM payment before it is settled: one `eth_call` for everything (design D7).

    aggregate3( balanceOf(payer), transferWithAuthorization(...) )

The second call is the settlement's own, with the gas that the settlement has in all, so what passes here has enough
there (fault D05). Balance, nonce, signature, time and the token's moods are covered by it; whether the payer has code
is asked for only where it matters. A settlement that looks at who calls it (scheme `upto`) can't be bundled: its call,
the balance and Permit2's allowance are asked for side by side. Questions of several payments share an HTTP request and
nothing else: each is its own call on its own copy of the state, so no payment answers for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from x402.chain import CallResult
from x402.errors import Mender, RefusedError
from x402.networks import MULTICALL3
from x402.ports import EvmChain
from x402.schemes import multicall
from x402.schemes.evm_payment import EvmPayment, Funds, balance_call, is_signed_by_key
from x402.schemes.evm_scheme import EvmScheme

_WORD = 32


@dataclass(frozen=True, slots=True)
class Inspected:
    """A payment that would settle. `balance` can be taken from the payer, in atomic units, None where the token does
    not say. `plain` when anybody may submit it, and it is known that the payer is a key without code that the token
    would run; that is looked up when settling follows."""

    balance: int | None
    plain: bool


class EvmCheck:
    """Asks one chain. `sender` is who the simulated transactions come from; `bundles` once the chain has shown that it
    has Multicall3."""

    def __init__(self, chain: EvmChain, sender: str) -> None:
        self._chain = chain
        self._sender = sender
        self._lacks_bundler = False
        self.bundles = False

    async def inspect(self, scheme: EvmScheme, signed: EvmPayment, gas: int, *, settling: bool = False) -> Inspected:
        """What the chain shows. Raises `RefusedError` with the canonical reason when it would not settle."""
        by_key = is_signed_by_key(signed)
        if by_key and not settling:
            answers, code = await self._ask(signed, gas), b""
        else:
            answers, code = await asyncio.gather(self._ask(signed, gas), self._chain.code(signed.payer))
        held, moved, *allowed = answers
        if not by_key:
            scheme.judge_signature(signed, code)
        if held.succeeded and not held.data and (moved.succeeded or signed.sender):
            asset = signed.asset.address
            raise RefusedError("asset_not_deployed_contract", f"no token lives at {asset}", mender=Mender.SELLER)
        balance, allowance = _units(held), _units(*allowed)
        scheme.judge_simulation(signed, moved, Funds(balance, allowance))
        if balance is not None and allowance is not None:
            # Where a permit that came along made up for the allowance, it did so for this payment alone.
            balance = min(balance, max(allowance, signed.amount))
        plain = settling and by_key and not code and not signed.sender and self.bundles
        return Inspected(balance, plain)

    async def _ask(self, signed: EvmPayment, gas: int) -> Sequence[CallResult]:
        """The payer's balance, the settlement, and where it draws on an allowance, that."""
        asset, allowance = signed.asset.address, signed.allowance_call()
        if allowance is None:
            return await self._simulate(signed, gas)
        return await asyncio.gather(
            self._chain.call(asset, balance_call(signed.payer)),
            self._chain.call(signed.contract, signed.calldata(), sender=signed.sender, gas=gas),
            self._chain.call(asset, allowance),
        )

    async def _simulate(self, signed: EvmPayment, gas: int) -> Sequence[CallResult]:
        calls = [(signed.asset.address, balance_call(signed.payer)), (signed.contract, signed.calldata())]
        if not self._lacks_bundler:
            bundled = await self._chain.call(MULTICALL3, multicall.aggregate3(calls), sender=self._sender, gas=gas)
            if not bundled.succeeded:
                # Not even the bundle got to its end: the transfer took all the gas there is.
                return CallResult(False), bundled
            answers = multicall.results(bundled.data, len(calls))
            if answers is not None:
                self.bundles = True
                return answers
            # This network has no Multicall3; nobody puts one there while we run.
            self._lacks_bundler = True
        return await asyncio.gather(*(self._chain.call(to, data, sender=self._sender, gas=gas) for to, data in calls))


def _units(said: CallResult | None = None) -> int | None:
    if said is None or not said.succeeded or len(said.data) != _WORD:
        return None
    return int.from_bytes(said.data, "big")

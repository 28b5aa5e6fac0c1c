"""What a chain says about an EVM payment before it is settled: one `eth_call` for everything (design D7).

    aggregate3( balanceOf(payer), transferWithAuthorization(...) )

The second call is the settlement's own, with the gas that the settlement has in all, so what passes here has enough
there (fault D05). Balance, nonce, signature, time and the token's moods are covered by it; whether the payer has code
is asked for only where it matters. Questions of several payments share an HTTP request and nothing else: each is its
own call on its own copy of the state, so no payment answers for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from x402.chain import CallResult
from x402.errors import Mender, RefusedError
from x402.networks import MULTICALL3
from x402.ports import EvmChain
from x402.schemes import exact_evm, exact_evm_rules, multicall
from x402.schemes.exact_evm import SignedAuthorization

_WORD = 32


@dataclass(frozen=True, slots=True)
class Inspected:
    """A payment that would settle. `balance` is the payer's in atomic units, None where the token does not say; `plain`
    when it is known that the payer is a key without code that the token would run, looked up when settling follows."""

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

    async def inspect(self, signed: SignedAuthorization, gas: int, *, settling: bool = False) -> Inspected:
        """What the chain shows. Raises `RefusedError` with the canonical reason when it would not settle."""
        by_key = exact_evm_rules.is_signed_by_key(signed)
        if by_key and not settling:
            answers, code = await self._simulate(signed, gas), b""
        else:
            answers, code = await asyncio.gather(
                self._simulate(signed, gas), self._chain.code(signed.authorization.payer)
            )
        held, moved = answers
        if not by_key:
            exact_evm_rules.judge_signature(signed, code)
        if held.succeeded and not held.data and moved.succeeded:
            asset = signed.asset.address
            raise RefusedError("asset_not_deployed_contract", f"no token lives at {asset}", mender=Mender.SELLER)
        exact_evm_rules.judge_simulation(signed, moved)
        balance = int.from_bytes(held.data, "big") if held.succeeded and len(held.data) == _WORD else None
        return Inspected(balance, settling and by_key and not code and self.bundles)

    async def _simulate(self, signed: SignedAuthorization, gas: int) -> Sequence[CallResult]:
        asset = signed.asset.address
        calls = [(asset, exact_evm.balance_call(signed.authorization.payer)), (asset, signed.calldata())]
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

"""The keys that send settlements on one EVM network: whose turn it is, what it bids, and which nonces it has left.

A nonce is reserved in the same ledger transaction that writes the signed bytes down, so that a crash leaves no gap.
What leaves one is bytes that never reached a block, and `heal` finds those by comparing the ledger with the chain
(faults D01, D02, E11).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from x402.chain import EvmFees
from x402.errors import MisconfiguredError, UnavailableError
from x402.evidence.evm import authorization_of
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Entry, Subject
from x402.networks import MULTICALL3
from x402.ports import Clock, EvmChain, Ledger, NotSent, Sign, SignAgain, SignTogether
from x402.schemes import multicall
from x402.schemes.eip712 import keccak
from x402.schemes.eip1559 import EvmTransaction
from x402.schemes.evm_payment import EvmPayment
from x402.stages import Intended

_TRANSFER_GAS = 21_000
_DATA_BYTES = 500
"""What one settlement's transaction takes at most, with a signature of 65 bytes."""
_GAS_PRICE_ORACLE = "0x420000000000000000000000000000000000000F"
"""Where rollups of the OP stack, Base among them, say what a transaction's data costs; no contract elsewhere."""
_UPPER_BOUND_CALL = keccak(b"getL1FeeUpperBound(uint256)")[:4] + _DATA_BYTES.to_bytes(32, "big")
_DATA_FEE_SECONDS = 30

Bid = tuple[int, int]
"""The highest fee and the tip, in wei per gas."""


@dataclass(frozen=True, slots=True)
class Gas:
    """What one settlement may cost. `limit` in gas for signatures of 65 bytes, `wallet_limit` for all others, which
    only a wallet's own code can check (fault D05), `max_fee` in wei per gas; `reserve` is the wei below which a signer
    stops offering (fault E08). A transaction that no block takes for `patience` seconds is replaced by one that bids
    more, at most `attempts` times in all (fault D03). `bundle` bounds the gas of one transaction for several payments;
    from Osaka on no block takes one of more than 16.7 million."""

    limit: int = 160_000
    wallet_limit: int = 400_000
    bundle: int = 10_000_000
    max_fee: int = 500 * 10**9
    reserve: int = 10**13
    patience: int = 20
    attempts: int = 12

    def of(self, signed: EvmPayment) -> int:
        """What one payment gets. The same for simulation and settlement, so that what passed the one has enough for the
        other (D05)."""
        return (self.limit if len(signed.signature) == 65 else self.wallet_limit) + signed.more_gas

    @property
    def shares_max(self) -> int:
        """How many payments one transaction settles at most."""
        return max(1, self.bundle // self.limit)


class EvmSender:
    """A pool of keys. `addresses` are theirs, in the order in which they were given."""

    def __init__(self, network: str, chain: EvmChain, signers: Sequence[EvmSigner], clock: Clock, gas: Gas) -> None:
        if not signers:
            raise MisconfiguredError("no_signer", f"{network} needs at least one key that pays gas")
        self._network = network
        self._chain = chain
        self._clock = clock
        self._gas = gas
        self._signers = {signer.address: signer for signer in signers}
        self._turns = list(self._signers)
        self._poor: set[str] = set()
        self._counts: dict[str, int] = {}
        self._counting = asyncio.Lock()
        self._data_fee: tuple[int, int] | None = None

    @property
    def addresses(self) -> list[str]:
        return list(self._signers)

    async def balances(self) -> dict[str, int]:
        """Wei by address. Those below the reserve are passed over until they have more."""
        found = await asyncio.gather(*(self._chain.balance(address) for address in self._signers))
        balances = dict(zip(self._signers, found, strict=True))
        self._poor = {address for address, wei in balances.items() if wei < self._gas.reserve}
        return balances

    async def data_fee(self) -> int:
        """What a rollup charges for one settlement's data at most, in wei; 0 where nothing is charged. Asked for every
        half a minute."""
        now = self._clock()
        if self._data_fee is None or not 0 <= now - self._data_fee[0] < _DATA_FEE_SECONDS:
            bound = await self._chain.call(_GAS_PRICE_ORACLE, _UPPER_BOUND_CALL)
            known = bound.succeeded and len(bound.data) == 32
            self._data_fee = (now, int.from_bytes(bound.data, "big") if known else 0)
        return self._data_fee[1]

    def able(self) -> list[str]:
        """The keys that can pay, whose turn it is first; all of them when none can."""
        return [address for address in self._turns if address not in self._poor] or list(self._turns)

    def take_turn(self, address: str) -> str:
        """The key itself, which is the last in line from now on."""
        self._turns.remove(address)
        self._turns.append(address)
        return address

    def next(self) -> str:
        """Whose turn it is: round and round, among those who can pay; an empty one only when all are."""
        return self.take_turn(self.able()[0])

    async def count(self, address: str, ledger: Ledger) -> int:
        """The chain's next nonce of a key, as it was when its gaps were last mended: at its first use in a process,
        and after a node has refused it."""
        async with self._counting:
            if address not in self._counts:
                await self._mend(address, ledger)
            return self._counts[address]

    def distrust(self, address: str, words: str) -> None:
        """A node refused this key's transaction: ask for its nonce again, and pass it over if it is empty."""
        self._counts.pop(address, None)
        if "insufficient funds" in words.lower():
            self._poor.add(address)

    def bid(self, fees: EvmFees) -> Bid:
        """What to offer in wei per gas, never above the cap: the highest fee, and the tip."""
        highest = min(fees.max_fee, self._gas.max_fee)
        return highest, min(fees.priority_fee, highest)

    def raised(self, before: Bid, fees: EvmFees) -> Bid | None:
        """A bid that replaces `before` in every pool: an eighth more of both, or what is asked now; None above the
        cap."""
        highest, tip = max(-(-before[0] * 9 // 8), fees.max_fee), max(-(-before[1] * 9 // 8), fees.priority_fee)
        return None if highest > self._gas.max_fee else (highest, min(tip, highest))

    def signing(self, address: str, bid: Bid, signed: EvmPayment, before: Intended | None = None) -> Sign:
        """Signs one settlement with the nonce that the ledger reserves; `before` is the attempt that it replaces."""

        def sign(nonce: int) -> Intended:
            return self._intended(address, nonce, bid, [signed], [before])[0]

        return sign

    def signing_together(self, address: str, bid: Bid, signed: Mapping[str, EvmPayment]) -> SignTogether:
        """Signs one transaction for several payments, which are given by their ids."""

        def sign(nonce: int, subjects: Sequence[Subject]) -> Sequence[Intended]:
            return self._intended(address, nonce, bid, [signed[one.pay_id] for one in subjects], [None] * len(subjects))

        return sign

    def signing_again(self, address: str, bid: Bid) -> SignAgain:
        """Signs one transaction in place of another, for all payments that still wait for it."""

        def sign(nonce: int, waiting: Sequence[Entry]) -> Sequence[Intended]:
            signed = [authorization_of(entry.subject) for entry in waiting]
            before = [entry.stage if isinstance(entry.stage, Intended) else None for entry in waiting]
            return self._intended(address, nonce, bid, signed, before)

        return sign

    def _intended(
        self, address: str, nonce: int, bid: Bid, signed: Sequence[EvmPayment], before: Sequence[Intended | None]
    ) -> Sequence[Intended]:
        """One transaction, and what each of its payments knows of it. One payment is called directly, several through
        Multicall3, where each may fail alone."""
        if len(signed) == 1:
            to, data = signed[0].contract, signed[0].calldata()
        else:
            to, data = MULTICALL3, multicall.aggregate3([(one.contract, one.calldata()) for one in signed])
        gas = sum(self._gas.of(one) for one in signed)
        transaction = EvmTransaction(self._chain.chain_id, nonce, to, gas, *bid, data)
        name, raw = self._signers[address].sign_transaction(transaction)
        now = self._clock()
        return [
            Intended(
                name,
                raw,
                one.valid_before,
                address,
                nonce,
                older.attempt + 1 if older else 1,
                (*older.earlier, older.transaction) if older else (),
                now,
                bid,
                len(signed),
            )
            for one, older in zip(signed, before, strict=True)
        ]

    def knows(self, address: str) -> bool:
        """Whether this process has the key."""
        return address in self._signers

    async def heal(self, ledger: Ledger) -> None:
        """Hand out again, or fill with a transfer of nothing, every nonce that was reserved and that no block, no
        pool and no open settlement has."""
        async with self._counting:
            for address in self._signers:
                await self._mend(address, ledger)

    async def _mend(self, address: str, ledger: Ledger) -> None:
        # The ledger is read before the chain: what was open then, and is mined by now, is counted by the chain.
        book = await ledger.nonces(self._network, address)
        first = await self._chain.transaction_count(address)
        highest = max(book.held, default=-1)
        for nonce in range(first, book.next):
            if nonce in book.held:
                continue
            await ledger.return_nonce(self._network, address, nonce)
            # Nobody mines what stands above a gap; without that, the next settlement takes the nonce.
            if nonce < highest and await ledger.withdraw_nonce(self._network, address, nonce):
                await self._fill(address, nonce)
        self._counts[address] = first

    async def _fill(self, address: str, nonce: int) -> None:
        highest, tip = self.bid(await self._chain.fees())
        filler = EvmTransaction(self._chain.chain_id, nonce, address, _TRANSFER_GAS, highest, tip)
        name, raw = self._signers[address].sign_transaction(filler)
        with suppress(NotSent, UnavailableError):
            # What does not arrive leaves the gap open, and the next round finds it again.
            await self._chain.send(raw, name)

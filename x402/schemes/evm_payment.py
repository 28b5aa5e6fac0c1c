"""What all signed payments on EVM networks have in common, whatever their scheme: how they settle, and what they leave
on chain.

`exact_evm.SignedAuthorization` and `upto_evm.SignedPermit` are such payments; whoever sends them, or asks a chain about
them, needs to know no more than stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from x402.chain import EvmCall, EvmReceipt, Log
from x402.money import Asset
from x402.schemes.eip712 import address_word, keccak
from x402.stages import Refused

TRANSFER_TOPIC = "0x" + keccak(b"Transfer(address,address,uint256)").hex()
_BALANCE_OF = keccak(b"balanceOf(address)")[:4]


@dataclass(frozen=True, slots=True)
class Trace:
    """Events to look for: who emits them, and their topics."""

    address: str
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Funds:
    """What the payer holds of the asset, and may have taken from it by Permit2, in atomic units; None when unseen."""

    balance: int | None = None
    allowance: int | None = None


@dataclass(frozen=True, slots=True)
class Ends:
    """How a payment that did not settle may have ended, in its scheme's words.

    It died unused (`expired`), was used or taken back otherwise (`used_up`), its transaction failed (`reverted`), or
    succeeded and moved something else (`mismatch`).
    """

    expired: Refused
    used_up: Refused
    reverted: Refused
    mismatch: Refused


class EvmPayment(Protocol):
    """A signed payment. Addresses are in EIP-55 spelling, amounts atomic, times unix seconds."""

    @property
    def asset(self) -> Asset: ...

    @property
    def signature(self) -> bytes: ...

    @property
    def pay_id(self) -> str:
        """The chain-level identity (design D5)."""
        ...

    @property
    def payer(self) -> str: ...

    @property
    def payee(self) -> str: ...

    @property
    def recovered(self) -> str | None:
        """The account that made the signature by ECDSA, or None."""
        ...

    @property
    def amount(self) -> int:
        """What is to move."""
        ...

    @property
    def valid_after(self) -> int: ...

    @property
    def valid_before(self) -> int:
        """From this second on no block takes it."""
        ...

    @property
    def contract(self) -> str:
        """Whom the settlement calls."""
        ...

    @property
    def sender(self) -> str:
        """Who alone may send the settlement; `""` when anybody may."""
        ...

    @property
    def more_gas(self) -> int:
        """How much gas its settlement may need above a plain transfer by signature."""
        ...

    def calldata(self) -> bytes:
        """The call that settles."""
        ...

    def allowance_call(self) -> bytes | None:
        """The question to the asset about the allowance that the settlement draws on; None when it needs none."""
        ...

    def spent_call(self) -> tuple[str, bytes]:
        """The question whether the payment is used up: whom, and what."""
        ...

    def is_spent(self, word: int) -> bool:
        """What the answer means."""
        ...

    @property
    def used(self) -> Trace:
        """Events among which those of its settlement are."""
        ...

    @property
    def given_up(self) -> Trace:
        """Events among which the one is with which the payer took it back."""
        ...

    def gives_up(self, log: Log) -> bool:
        """Whether one of the latter took back this payment."""
        ...

    @property
    def named_in_call(self) -> bool:
        """Whether only the call of a transaction, and no event, tells which payment it settled."""
        ...

    @property
    def ends(self) -> Ends: ...

    def moved(self, receipt: EvmReceipt, call: EvmCall | None) -> int | None:
        """How much a transaction moved for this very payment, or None when it proves nothing of the kind (A15)."""
        ...


def balance_call(account: str) -> bytes:
    """Calldata of `balanceOf(account)`."""
    return _BALANCE_OF + address_word(account)


def topic_of(address: str) -> str:
    """An address as it stands in an event's topics."""
    return "0x" + address_word(address).hex()


def is_signed_by_key(signed: EvmPayment) -> bool:
    """Whether the payer's own key has signed: then it pays, whether code lives at its address or not, if the simulation
    says so."""
    return len(signed.signature) == 65 and signed.recovered == signed.payer

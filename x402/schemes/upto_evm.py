"""Scheme `upto` on EVM networks: a Permit2 transfer of at most what was signed; built, signed, turned into calldata.

The payer signs `PermitWitnessTransferFrom` for the x402 proxy as spender. The witness names who is paid and which
facilitator alone may say how much, so nobody else can settle and nobody can redirect; a nonce serves once. The payer's
tokens move out of an allowance that Permit2 holds, which the payer gives once by a transaction, or with the payment by
an EIP-2612 permit (`gas_sponsoring.py`). Verification rules: `upto_evm_rules.py`.
Sources: protocol pages §2.5, §3.1; the Permit2 and proxy contracts' interfaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from x402 import networks
from x402.chain import EvmCall, EvmReceipt, Log
from x402.errors import DeclinedError, MalformedError, RefusedError
from x402.money import Asset, parse_atomic
from x402.networks import PERMIT2, UPTO_PERMIT2_PROXY
from x402.schemes.eip712 import address_word, digest, keccak, parse_address, recover, uint256
from x402.schemes.evm_payment import TRANSFER_TOPIC, Ends, Trace, topic_of
from x402.schemes.gas_sponsoring import Sponsorship
from x402.stages import Refused
from x402.wire.challenge import Requirement

SCHEME = "upto"
TRANSFER_METHOD = "permit2"
_MORE_GAS, _PERMIT_GAS = 60_000, 80_000
"""What Permit2 and its nonce take above an EIP-3009 transfer, and what an EIP-2612 permit takes; with room to spare."""
VALIDITY_MARGIN_SECONDS = 6
"""A payment whose deadline is nearer than this is refused: it could die before its block (fault D10)."""

_DOMAIN_TYPE = keccak(b"EIP712Domain(string name,uint256 chainId,address verifyingContract)")
_TOKEN_TYPE = b"TokenPermissions(address token,uint256 amount)"
_WITNESS_TYPE = b"Witness(address to,address facilitator,uint256 validAfter)"
_PERMIT_HASH = keccak(
    b"PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,"
    b"Witness witness)" + _TOKEN_TYPE + _WITNESS_TYPE
)
_TOKEN_HASH, _WITNESS_HASH = keccak(_TOKEN_TYPE), keccak(_WITNESS_TYPE)

_ARGUMENTS = "((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes"
_SETTLE = keccak(f"settle({_ARGUMENTS})".encode())[:4]
_SETTLE_WITH_PERMIT = keccak(f"settleWithPermit((uint256,uint256,bytes32,bytes32,uint8),{_ARGUMENTS})".encode())[:4]
_HEAD_WORDS = 10
_WORD = 32
_NONCE_BITMAP = keccak(b"nonceBitmap(address,uint256)")[:4]
_APPROVE = keccak(b"approve(address,uint256)")[:4]
_ALLOWANCE = keccak(b"allowance(address,address)")[:4]
_INVALIDATION_TOPIC = "0x" + keccak(b"UnorderedNonceInvalidation(address,uint256,uint256)").hex()

_ENDS = Ends(
    Refused("permit2_deadline_expired", "the permit has expired or dies too soon to settle"),
    Refused("permit2_invalid_nonce", "this permit was already used or given up on chain"),
    Refused("invalid_upto_evm_transaction_failed", "the transfer was reverted on chain"),
    Refused(
        "invalid_upto_evm_transfer_event_mismatch",
        "the transaction succeeded without the transfer that it should have made",
    ),
)

_SIGNATURE = re.compile(r"0x(?:[0-9a-fA-F]{2}){1,8192}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Permit:
    """What the payer signs. Addresses in EIP-55 spelling, `maximum` atomic, times unix seconds; the permit dies after
    the second `deadline`. `nonce` is any number of 256 bits."""

    payer: str
    token: str
    maximum: int
    payee: str
    facilitator: str
    valid_after: int
    deadline: int
    nonce: int
    spender: str = UPTO_PERMIT2_PROXY

    def digest(self, chain_id: int) -> bytes:
        """The EIP-712 digest under Permit2's domain, which has no version."""
        token = keccak(_TOKEN_HASH + address_word(self.token) + uint256(self.maximum))
        parts = (_PERMIT_HASH, token, address_word(self.spender), uint256(self.nonce), uint256(self.deadline))
        return digest(_domain_separator(chain_id), keccak(b"".join((*parts, keccak(_WITNESS_HASH + self.witness())))))

    def permitted(self) -> bytes:
        """The permit's four words, as they stand in the call."""
        numbers = (self.maximum, self.nonce, self.deadline)
        return address_word(self.token) + b"".join(uint256(number) for number in numbers)

    def witness(self) -> bytes:
        """The witness's three words."""
        return address_word(self.payee) + address_word(self.facilitator) + uint256(self.valid_after)

    def as_json(self) -> dict[str, Any]:
        """The object as it travels."""
        return {
            "from": self.payer,
            "permitted": {"token": self.token, "amount": str(self.maximum)},
            "spender": self.spender,
            "nonce": str(self.nonce),
            "deadline": str(self.deadline),
            "witness": {"to": self.payee, "facilitator": self.facilitator, "validAfter": str(self.valid_after)},
        }


@dataclass(frozen=True, slots=True)
class SignedPermit:
    """A permit with its signature and the pinned asset that it spends; an `EvmPayment`.

    `amount` is what is to move: the maximum, until whoever settles says less. `sponsorship` is the EIP-2612 permit
    that came with it, or None.
    """

    permit: Permit
    signature: bytes
    asset: Asset
    amount: int
    sponsorship: Sponsorship | None = None

    @property
    def pay_id(self) -> str:
        """The chain-level identity: network, Permit2, payer, nonce. No spelling of the payment changes it (A05)."""
        return f"{self.asset.network}:{PERMIT2}:{self.permit.payer}:0x{self.permit.nonce:064x}".lower()

    @property
    def payer(self) -> str:
        return self.permit.payer

    @property
    def payee(self) -> str:
        return self.permit.payee

    @property
    def valid_after(self) -> int:
        return self.permit.valid_after

    @property
    def valid_before(self) -> int:
        return self.permit.deadline + 1

    @property
    def contract(self) -> str:
        return UPTO_PERMIT2_PROXY

    @property
    def sender(self) -> str:
        return self.permit.facilitator

    @property
    def more_gas(self) -> int:
        return _MORE_GAS if self.sponsorship is None else _MORE_GAS + _PERMIT_GAS

    @property
    def recovered(self) -> str | None:
        """The account that made the signature by ECDSA, or None."""
        return recover(self.permit.digest(networks.get(self.asset.network).chain_id), self.signature)

    def calldata(self) -> bytes:
        """The `settle` call for `amount`, or `settleWithPermit` when an EIP-2612 permit came along."""
        first = b"" if self.sponsorship is None else self.sponsorship.words()
        selector = _SETTLE if self.sponsorship is None else _SETTLE_WITH_PERMIT
        offset = uint256(len(first) + _HEAD_WORDS * _WORD)
        signature = _with_v(self.signature)
        tail = uint256(len(signature)) + signature + bytes(-len(signature) % _WORD)
        return b"".join((selector, first, self._terms(self.amount), offset, tail))

    def allowance_call(self) -> bytes:
        return allowance_call(self.payer)

    def spent_call(self) -> tuple[str, bytes]:
        return PERMIT2, _NONCE_BITMAP + address_word(self.payer) + uint256(self.permit.nonce >> 8)

    def is_spent(self, word: int) -> bool:
        return bool(word >> (self.permit.nonce & 0xFF) & 1)

    @property
    def used(self) -> Trace:
        # The token's own event: neither Permit2 nor the proxy says which nonce it has used.
        return Trace(self.asset.address, (TRANSFER_TOPIC, topic_of(self.payer), topic_of(self.payee)))

    @property
    def given_up(self) -> Trace:
        return Trace(PERMIT2, (_INVALIDATION_TOPIC, topic_of(self.payer)))

    def gives_up(self, log: Log) -> bool:
        data = log.data.removeprefix("0x").rjust(128, "0")
        word, mask = int(data[:64], 16), int(data[64:128], 16)
        return word == self.permit.nonce >> 8 and self.is_spent(mask)

    @property
    def named_in_call(self) -> bool:
        return True

    @property
    def ends(self) -> Ends:
        return _ENDS

    def moved(self, receipt: EvmReceipt, call: EvmCall | None) -> int | None:
        """The amount in a call of the proxy with these very terms, once the token's event shows that it moved."""
        if not receipt.succeeded or call is None or call.to.lower() != UPTO_PERMIT2_PROXY.lower():
            return None
        selector, words = call.data[:4], call.data[4:]
        if selector == _SETTLE_WITH_PERMIT:
            words = words[Sponsorship.WORDS * _WORD :]
        elif selector != _SETTLE:
            return None
        units = int.from_bytes(words[4 * _WORD : 5 * _WORD], "big")
        if words[: (_HEAD_WORDS - 1) * _WORD] != self._terms(units):
            return None
        wanted, data = self.used.topics, "0x" + uint256(units).hex()
        seen = any(
            log.address.lower() == self.asset.address.lower()
            and tuple(topic.lower() for topic in log.topics) == wanted
            and log.data.lower() == data
            for log in receipt.logs
        )
        return units if seen else None

    def _terms(self, units: int) -> bytes:
        permit = self.permit
        return permit.permitted() + uint256(units) + address_word(permit.payer) + permit.witness()


def payable_asset(requirement: Requirement) -> Asset:
    """The pinned asset that an offer of this scheme asks for.

    Raises `DeclinedError` for an unknown network or asset, another transfer method, or a domain that contradicts the
    pinned one (faults B07, D08).
    """
    network = networks.find(requirement.network)
    asset = network.asset(requirement.asset) if network and network.family == networks.EIP155 else None
    if asset is None:
        raise DeclinedError("unknown_asset", f"{requirement.asset} on {requirement.network} is not a known asset")
    if requirement.extra.get("assetTransferMethod") != TRANSFER_METHOD:
        raise DeclinedError("unsupported_transfer_method", "scheme upto moves money by Permit2 only")
    stated = (requirement.extra.get("name", asset.eip712_name), requirement.extra.get("version", asset.eip712_version))
    if stated != (asset.eip712_name, asset.eip712_version):
        raise DeclinedError("eip712_domain_mismatch", f"the offer names the token {str(stated)[:120]}")
    return asset


def facilitator_of(requirement: Requirement) -> str:
    """Who alone may settle an offer. Raises `DeclinedError` when it names nobody."""
    try:
        return parse_address(requirement.extra.get("facilitatorAddress"))
    except MalformedError as error:
        raise DeclinedError("unpayable_offer", f"extra.facilitatorAddress: {error.message}") from error


def build(requirement: Requirement, payer: str, *, now: int, nonce: bytes, lifetime_seconds: int) -> Permit:
    """The permit that lets an offer's facilitator take up to its amount.

    `now` is unix seconds, `nonce` 32 random bytes; it lives for the offer's `maxTimeoutSeconds`, at most
    `lifetime_seconds` (fault B09). Raises `DeclinedError` or `MalformedError` for an offer that can't be paid.
    """
    asset = payable_asset(requirement)
    if len(nonce) != _WORD:
        raise ValueError("a nonce is 32 bytes")
    return Permit(
        payer=parse_address(payer),
        token=asset.address,
        maximum=requirement.amount,
        payee=parse_address(requirement.pay_to, code="invalid_payment_requirements"),
        facilitator=facilitator_of(requirement),
        valid_after=0,
        deadline=now + min(requirement.max_timeout_seconds, lifetime_seconds),
        nonce=int.from_bytes(nonce, "big"),
    )


def payload(permit: Permit, asset: Asset, sign: Callable[[bytes], bytes]) -> dict[str, Any]:
    """The scheme payload; `sign` turns the 32-byte digest into a 65-byte signature."""
    signature = sign(permit.digest(networks.get(asset.network).chain_id))
    return {"signature": "0x" + signature.hex(), "permit2Authorization": permit.as_json()}


def read_payload(value: dict[str, Any], asset: Asset) -> SignedPermit:
    """The signed permit inside a payment, for its maximum. Raises `RefusedError` for any other shape."""
    fields = value.get("permit2Authorization")
    witness = fields.get("witness") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or not isinstance(witness, dict) or "facilitator" not in witness:
        raise RefusedError("unsupported_payload_type", "scheme upto is paid by a permit2Authorization with its witness")
    signature, permitted = value.get("signature"), fields.get("permitted")
    if not isinstance(signature, str) or _SIGNATURE.fullmatch(signature) is None:
        raise RefusedError("invalid_permit2_signature", "signature: hex bytes are required")
    if not isinstance(permitted, dict):
        raise RefusedError("invalid_permit2_payload_format", "permitted: token and amount are required")
    try:
        permit = Permit(
            payer=parse_address(fields.get("from")),
            token=parse_address(permitted.get("token")),
            maximum=parse_atomic(permitted.get("amount")),
            payee=parse_address(witness.get("to")),
            facilitator=parse_address(witness.get("facilitator")),
            valid_after=parse_atomic(witness.get("validAfter")),
            deadline=parse_atomic(fields.get("deadline")),
            nonce=parse_atomic(fields.get("nonce")),
            spender=parse_address(fields.get("spender")),
        )
    except MalformedError as error:
        raise RefusedError("invalid_permit2_payload_format", f"permit2Authorization: {error.message}") from error
    return SignedPermit(permit, bytes.fromhex(signature[2:]), asset, permit.maximum)


def allowance_call(payer: str) -> bytes:
    """Calldata of `allowance(payer, Permit2)`, a question to the token."""
    return _ALLOWANCE + address_word(payer) + address_word(PERMIT2)


def approve_call(units: int) -> bytes:
    """Calldata of `approve(Permit2, units)`, the payer's own transaction with the token."""
    return _APPROVE + address_word(PERMIT2) + uint256(units)


@lru_cache(maxsize=64)
def _domain_separator(chain_id: int) -> bytes:
    return keccak(_DOMAIN_TYPE + keccak(b"Permit2") + uint256(chain_id) + address_word(PERMIT2))


def _with_v(signature: bytes) -> bytes:
    """The signature as the contract wants it: v is 27 or 28."""
    if len(signature) == 65 and signature[64] < 27:
        return signature[:64] + bytes([signature[64] + 27])
    return signature

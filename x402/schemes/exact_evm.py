"""Scheme `exact` on EVM networks: an EIP-3009 transfer authorization, built, signed, and turned into calldata.

The payer signs `TransferWithAuthorization` over the token's pinned EIP-712 domain; anybody may submit it, and it
moves exactly `value` from `from` to `to`, once per nonce. Verification rules: `exact_evm_rules.py`.
Sources: x402 v2 spec, scheme exact on EVM; EIP-3009; protocol pages §2.1-2.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from x402 import networks
from x402.chain import EvmCall, EvmReceipt, Log
from x402.errors import DeclinedError, MalformedError, RefusedError
from x402.money import Asset, parse_atomic
from x402.schemes.eip712 import (
    address_word,
    checksum,
    digest,
    domain_separator,
    keccak,
    parse_address,
    recover,
    uint256,
)
from x402.schemes.evm_payment import TRANSFER_TOPIC, Ends, Trace
from x402.stages import Refused
from x402.wire.challenge import Requirement

SCHEME = "exact"
VALIDITY_MARGIN_SECONDS = 6
"""A payment whose `validBefore` is nearer than this is refused: it could die before its block (fault D10)."""

_TYPE = keccak(
    b"TransferWithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
_ARGUMENTS = "address,address,uint256,uint256,uint256,bytes32"
_TRANSFER_VRS = keccak(f"transferWithAuthorization({_ARGUMENTS},uint8,bytes32,bytes32)".encode())[:4]
_TRANSFER_BYTES = keccak(f"transferWithAuthorization({_ARGUMENTS},bytes)".encode())[:4]
_AUTHORIZATION_STATE = keccak(b"authorizationState(address,bytes32)")[:4]

AUTHORIZATION_USED_TOPIC = "0x" + keccak(b"AuthorizationUsed(address,bytes32)").hex()
AUTHORIZATION_CANCELED_TOPIC = "0x" + keccak(b"AuthorizationCanceled(address,bytes32)").hex()

_ENDS = Ends(
    Refused(
        "invalid_exact_evm_payload_authorization_valid_before",
        "the authorization has expired or dies too soon to settle",
    ),
    Refused("invalid_exact_evm_nonce_already_used", "this authorization was already used or cancelled on chain"),
    Refused("invalid_exact_evm_transaction_failed", "the transfer was reverted on chain"),
    Refused(
        "invalid_exact_evm_transfer_event_mismatch",
        "the transaction succeeded without the transfer that it should have made",
    ),
)

_NONCE = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_SIGNATURE = re.compile(r"0x(?:[0-9a-fA-F]{2}){1,8192}", re.ASCII)
_MEMBERS = ("from", "to", "value", "validAfter", "validBefore", "nonce")


@dataclass(frozen=True, slots=True)
class Authorization:
    """What the payer signs. Addresses in EIP-55 spelling, `value` atomic, times unix seconds, `nonce` 32 bytes."""

    payer: str
    payee: str
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes

    def words(self) -> bytes:
        """The six ABI words, which are both the struct's fields and the call's first arguments."""
        return b"".join(
            (
                address_word(self.payer),
                address_word(self.payee),
                uint256(self.value),
                uint256(self.valid_after),
                uint256(self.valid_before),
                self.nonce,
            )
        )

    def digest(self, asset: Asset) -> bytes:
        """The EIP-712 digest under the asset's pinned domain."""
        chain_id = networks.get(asset.network).chain_id
        separator = domain_separator(asset.eip712_name, asset.eip712_version, chain_id, asset.address)
        return digest(separator, keccak(_TYPE + self.words()))

    def as_json(self) -> dict[str, str]:
        """The object as it travels."""
        return {
            "from": self.payer,
            "to": self.payee,
            "value": str(self.value),
            "validAfter": str(self.valid_after),
            "validBefore": str(self.valid_before),
            "nonce": "0x" + self.nonce.hex(),
        }


@dataclass(frozen=True, slots=True)
class SignedAuthorization:
    """An authorization with its (unwrapped) signature and the pinned asset that it spends; an `EvmPayment`."""

    authorization: Authorization
    signature: bytes
    asset: Asset

    @property
    def pay_id(self) -> str:
        """The chain-level identity: network, token, payer, nonce. No spelling of the payment changes it (A05)."""
        auth = self.authorization
        return f"{self.asset.network}:{self.asset.address}:{auth.payer}:0x{auth.nonce.hex()}".lower()

    @property
    def payer(self) -> str:
        return self.authorization.payer

    @property
    def payee(self) -> str:
        return self.authorization.payee

    @property
    def amount(self) -> int:
        return self.authorization.value

    @property
    def valid_after(self) -> int:
        return self.authorization.valid_after

    @property
    def valid_before(self) -> int:
        return self.authorization.valid_before

    @property
    def contract(self) -> str:
        return self.asset.address

    @property
    def sender(self) -> str:
        return ""

    @property
    def more_gas(self) -> int:
        return 0

    @property
    def recovered(self) -> str | None:
        """The account that made the signature by ECDSA, or None."""
        return recover(self.authorization.digest(self.asset), self.signature)

    def calldata(self) -> bytes:
        """The `transferWithAuthorization` call: the v,r,s overload for 65 bytes, else the bytes overload."""
        words = self.authorization.words()
        if len(self.signature) == 65:
            v = self.signature[64]
            v_word = uint256(v + 27 if v < 27 else v)
            return _TRANSFER_VRS + words + v_word + self.signature[:64]
        padding = -len(self.signature) % 32
        tail = uint256(len(self.signature)) + self.signature + bytes(padding)
        return _TRANSFER_BYTES + words + uint256(7 * 32) + tail

    def used_topics(self) -> tuple[str, str, str]:
        """The topics of the `AuthorizationUsed` event that this authorization, and no other, emits."""
        auth = self.authorization
        return AUTHORIZATION_USED_TOPIC, "0x" + address_word(auth.payer).hex(), "0x" + auth.nonce.hex()

    def canceled_topics(self) -> tuple[str, str, str]:
        """The topics of the `AuthorizationCanceled` event with which the payer took this authorization back."""
        return AUTHORIZATION_CANCELED_TOPIC, *self.used_topics()[1:]

    def allowance_call(self) -> None:
        return None

    def spent_call(self) -> tuple[str, bytes]:
        return self.asset.address, authorization_state_call(self.authorization)

    def is_spent(self, word: int) -> bool:
        return word != 0

    @property
    def used(self) -> Trace:
        return Trace(self.asset.address, self.used_topics())

    @property
    def given_up(self) -> Trace:
        return Trace(self.asset.address, self.canceled_topics())

    def gives_up(self, log: Log) -> bool:
        return tuple(topic.lower() for topic in log.topics) == self.canceled_topics()

    @property
    def named_in_call(self) -> bool:
        return False

    @property
    def ends(self) -> Ends:
        return _ENDS

    def moved(self, receipt: EvmReceipt, call: EvmCall | None = None) -> int | None:
        return self.amount if moved(receipt, self) else None


def payable_asset(requirement: Requirement) -> Asset:
    """The pinned EIP-3009 asset that an offer asks for.

    Raises `DeclinedError` for an unknown network or asset, another transfer method, or a domain that contradicts the
    pinned one (faults B07, B08, D08).
    """
    network = networks.find(requirement.network)
    asset = network.asset(requirement.asset) if network and network.family == networks.EIP155 else None
    if asset is None:
        raise DeclinedError("unknown_asset", f"{requirement.asset} on {requirement.network} is not a known asset")
    if asset.transfer_method != "eip3009" or requirement.extra.get("assetTransferMethod", "eip3009") != "eip3009":
        raise DeclinedError("unsupported_transfer_method", f"{asset.symbol} is not asked for by EIP-3009")
    stated = (requirement.extra.get("name", asset.eip712_name), requirement.extra.get("version", asset.eip712_version))
    if stated != (asset.eip712_name, asset.eip712_version):
        raise DeclinedError(
            "eip712_domain_mismatch",
            f"the offer names the token {str(stated)[:120]}, it is {asset.eip712_name!r} {asset.eip712_version!r}",
        )
    return asset


def build(requirement: Requirement, payer: str, *, now: int, nonce: bytes, lifetime_seconds: int) -> Authorization:
    """The authorization that pays an offer exactly.

    `now` is unix seconds, `nonce` 32 random bytes; it lives for the offer's `maxTimeoutSeconds`, at most
    `lifetime_seconds` (fault B09). Raises `DeclinedError` or `MalformedError` for an offer that can't be paid.
    """
    payable_asset(requirement)
    if len(nonce) != 32:
        raise ValueError("a nonce is 32 bytes")
    return Authorization(
        payer=checksum(payer),
        payee=parse_address(requirement.pay_to, code="invalid_payment_requirements"),
        value=requirement.amount,
        valid_after=0,
        valid_before=now + min(requirement.max_timeout_seconds, lifetime_seconds),
        nonce=nonce,
    )


def payload(authorization: Authorization, asset: Asset, sign: Callable[[bytes], bytes]) -> dict[str, Any]:
    """The scheme payload; `sign` turns the 32-byte digest into a 65-byte signature."""
    signature = sign(authorization.digest(asset))
    return {"signature": "0x" + signature.hex(), "authorization": authorization.as_json()}


def read_payload(value: dict[str, Any], asset: Asset) -> SignedAuthorization:
    """The signed authorization inside a payment. Raises `RefusedError("invalid_payload")` for any other shape."""
    if "permit2Authorization" in value or "delegationManager" in value:
        raise RefusedError("unsupported_payload_type", "only EIP-3009 authorizations are accepted for scheme exact")
    signature, fields = value.get("signature"), value.get("authorization")
    signed = tuple(map(fields.get, _MEMBERS)) if isinstance(fields, dict) else (None,)
    if not all(isinstance(member, str) for member in signed):
        raise RefusedError("invalid_payload", f"authorization: the members {', '.join(_MEMBERS)} are required strings")
    return _read(asset, signature if isinstance(signature, str) else "", *signed)


@lru_cache(maxsize=512)
def _read(
    asset: Asset, signature: str, payer: str, payee: str, value: str, valid_after: str, valid_before: str, nonce: str
) -> SignedAuthorization:
    """What these words say: whoever sells asks that three times of one payment, whoever settles more often."""
    if _NONCE.fullmatch(nonce) is None:
        raise RefusedError("invalid_payload", "authorization.nonce: 0x and 64 hex digits are required")
    if _SIGNATURE.fullmatch(signature) is None:
        raise RefusedError("invalid_exact_evm_signature", "signature: hex bytes are required")
    try:
        authorization = Authorization(
            payer=parse_address(payer),
            payee=parse_address(payee),
            value=parse_atomic(value),
            valid_after=parse_atomic(valid_after),
            valid_before=parse_atomic(valid_before),
            nonce=bytes.fromhex(nonce[2:]),
        )
    except MalformedError as error:
        raise RefusedError("invalid_payload", f"authorization: {error.message}") from error
    return SignedAuthorization(authorization, bytes.fromhex(signature[2:]), asset)


def authorization_state_call(authorization: Authorization) -> bytes:
    """Calldata of `authorizationState(payer, nonce)`: one word, true once used or cancelled."""
    return _AUTHORIZATION_STATE + address_word(authorization.payer) + authorization.nonce


def moved(receipt: EvmReceipt, signed: SignedAuthorization) -> bool:
    """Whether this receipt proves that the money of this authorization moved (fault A15).

    Status 1, the asset's own `AuthorizationUsed(payer, nonce)`, and as the asset's next event the exact
    `Transfer(payer, payee, value)`; so each payment of a batch is judged by its own pair of events.
    """
    if not receipt.succeeded:
        return False
    auth, asset, mine = signed.authorization, signed.asset.address.lower(), signed.used_topics()
    wanted = (TRANSFER_TOPIC, "0x" + address_word(auth.payer).hex(), "0x" + address_word(auth.payee).hex())
    for place in receipt.ending_in(mine[-1]):
        used = receipt.logs[place]
        if used.address.lower() != asset or tuple(topic.lower() for topic in used.topics) != mine:
            continue
        transfer = next((log for log in islice(receipt.logs, place + 1, None) if log.address.lower() == asset), None)
        if transfer is None:
            return False
        topics = tuple(topic.lower() for topic in transfer.topics)
        return topics == wanted and transfer.data.lower() == "0x" + uint256(auth.value).hex()
    return False

"""Permit2 and the x402 proxy of the simulation: transfers up to a maximum, and the memory that decides them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from tests.simulation.token import Move, Revert, TokenState, address_at, number_at, transfer_log
from x402.chain import Log
from x402.money import Asset
from x402.networks import PERMIT2
from x402.schemes.eip712 import keccak, uint256
from x402.schemes.evm_payment import topic_of
from x402.schemes.upto_evm import Permit, SignedPermit

_SETTLE = keccak(
    b"settle(((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)"
)[:4]  # fmt: skip
_BITMAP = keccak(b"nonceBitmap(address,uint256)")[:4]
_INVALIDATE = keccak(b"invalidateUnorderedNonces(uint256,uint256)")[:4]
_INVALIDATION_TOPIC = "0x" + keccak(b"UnorderedNonceInvalidation(address,uint256,uint256)").hex()


def settle(token: TokenState, asset: Asset, sender: str, call: bytes, now: int) -> tuple[TokenState, Log, Move]:
    """The state after a call of the proxy, its event and what it moved. Raises `Revert`."""
    if call[:4] != _SETTLE:
        raise Revert("unknown call")
    signed, units = read_settlement(asset, call)
    permit = signed.permit
    if permit.facilitator != sender:
        raise Revert("UnauthorizedFacilitator()")
    if units > permit.maximum:
        raise Revert("AmountExceedsPermitted()")
    if now < permit.valid_after:
        raise Revert("PaymentTooEarly()")
    if now > permit.deadline:
        raise Revert("SignatureExpired(uint256)")
    if (permit.payer, permit.nonce) in token.permits:
        raise Revert("InvalidNonce()")
    if signed.recovered != permit.payer:
        raise Revert("InvalidSigner()")
    move = Move(permit.payer, permit.payee, units, uint256(permit.nonce), PERMIT2)
    used = replace(token, permits={**token.permits, (permit.payer, permit.nonce): "used"})
    return used.moved(move), transfer_log(asset, move), move


def permit2(token: TokenState, sender: str, call: bytes) -> tuple[TokenState, tuple[Log, ...], bytes]:
    """Permit2 itself: which nonces of somebody are used up, or its sender gives up some."""
    selector, words = call[:4], call[4:]
    if selector == _BITMAP:
        owner, place = address_at(words, 0), number_at(words, 1)
        spent = (nonce for payer, nonce in token.permits if payer == owner and nonce >> 8 == place)
        return token, (), uint256(sum(1 << (nonce & 0xFF) for nonce in spent))
    if selector != _INVALIDATE:
        raise Revert("unknown call")
    place, mask = number_at(words, 0), number_at(words, 1)
    given_up = {(sender, (place << 8) + bit): "given up" for bit in range(256) if mask >> bit & 1}
    log = Log(PERMIT2, (_INVALIDATION_TOPIC, topic_of(sender)), "0x" + words[:64].hex())
    return replace(token, permits={**given_up, **token.permits}), (log,), b""


@lru_cache(maxsize=4096)
def read_settlement(asset: Asset, call: bytes) -> tuple[SignedPermit, int]:
    """The permit that a call submits, and how much of it; the asset is always the same one."""
    words = call[4:]
    size = number_at(words, 10)
    permit = Permit(
        payer=address_at(words, 5), token=address_at(words, 0), maximum=number_at(words, 1),
        payee=address_at(words, 6), facilitator=address_at(words, 7), valid_after=number_at(words, 8),
        deadline=number_at(words, 3), nonce=number_at(words, 2),
    )  # fmt: skip
    return SignedPermit(permit, words[11 * 32 : 11 * 32 + size], asset, permit.maximum), number_at(words, 4)


def give_up_call(nonce: int) -> bytes:
    """Calldata with which a payer takes a permit back."""
    return _INVALIDATE + uint256(nonce >> 8) + uint256(1 << (nonce & 0xFF))

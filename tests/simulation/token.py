"""The EVM token of the simulation: USDC's transfers with authorization, and the memory that decides them (EIP-3009)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from x402.chain import Log
from x402.money import Asset
from x402.schemes import eip712, exact_evm
from x402.schemes.eip712 import address_word, checksum, keccak, uint256
from x402.schemes.evm_payment import TRANSFER_TOPIC
from x402.schemes.exact_evm import Authorization, SignedAuthorization

_ARGUMENTS = "address,address,uint256,uint256,uint256,bytes32"
_BY_VRS = keccak(f"transferWithAuthorization({_ARGUMENTS},uint8,bytes32,bytes32)".encode())[:4]
_BY_BYTES = keccak(f"transferWithAuthorization({_ARGUMENTS},bytes)".encode())[:4]
_TRANSFER = keccak(b"transfer(address,uint256)")[:4]
_CANCEL = keccak(b"cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)")[:4]
_STATE = keccak(b"authorizationState(address,bytes32)")[:4]
_BALANCE = keccak(b"balanceOf(address)")[:4]
_ALLOWANCE = keccak(b"allowance(address,address)")[:4]


class Revert(Exception):
    """The call fails, in the contract's words."""


@dataclass(frozen=True, slots=True)
class Move:
    """Money that moved. `nonce` is the authorization's, or the permit's whose `contract` then is Permit2; empty for a
    plain transfer."""

    payer: str
    payee: str
    value: int
    nonce: bytes = b""
    contract: str = ""


@dataclass(frozen=True, slots=True)
class TokenState:
    """Balances by address in EIP-55 spelling, and what became of authorizations and of permits by (payer, nonce). All
    payers let Permit2 move whatever they have."""

    balances: dict[str, int] = field(default_factory=dict)
    spent: dict[tuple[str, bytes], str] = field(default_factory=dict)
    permits: dict[tuple[str, int], str] = field(default_factory=dict)

    def execute(
        self, asset: Asset, sender: str, call: bytes, now: int
    ) -> tuple[TokenState, tuple[Log, ...], Move | None]:
        """The state after a call, its events and what it moved. Raises `Revert`."""
        selector, words = call[:4], call[4:]
        if selector == _TRANSFER:
            move = Move(sender, address_at(words, 0), number_at(words, 1))
            return self.moved(move), (transfer_log(asset, move),), move
        if selector == _CANCEL:
            payer, nonce = address_at(words, 0), words[32:64]
            return (
                self._spend(payer, nonce, "cancelled"),
                (_log(asset, exact_evm.AUTHORIZATION_CANCELED_TOPIC, payer, nonce),),
                None,
            )
        if selector not in (_BY_VRS, _BY_BYTES):
            raise Revert("function selector was not recognized")
        signed = read_call(asset, call)
        auth = signed.authorization
        if now <= auth.valid_after:
            raise Revert("FiatTokenV2: authorization is not yet valid")
        if now >= auth.valid_before:
            raise Revert("FiatTokenV2: authorization is expired")
        after = self._spend(auth.payer, auth.nonce, "used")
        if signed.recovered != auth.payer:
            raise Revert("FiatTokenV2: invalid signature")
        move = Move(auth.payer, auth.payee, auth.value, auth.nonce)
        used = _log(asset, exact_evm.AUTHORIZATION_USED_TOPIC, auth.payer, auth.nonce)
        return after.moved(move), (used, transfer_log(asset, move)), move

    def ask(self, call: bytes) -> bytes | None:
        """The answer to a question that changes nothing, or None when the call is none."""
        if call[:4] == _STATE:
            return uint256(int((address_at(call[4:], 0), call[36:68]) in self.spent))
        if call[:4] == _BALANCE:
            return uint256(self.balances.get(address_at(call[4:], 0), 0))
        if call[:4] == _ALLOWANCE:
            return bytes([255]) * 32
        return None

    def _spend(self, payer: str, nonce: bytes, how: str) -> TokenState:
        if (payer, nonce) in self.spent:
            raise Revert("FiatTokenV2: authorization is used or canceled")
        return replace(self, spent={**self.spent, (payer, nonce): how})

    def moved(self, move: Move) -> TokenState:
        """The balances after a transfer. Raises `Revert`."""
        if self.balances.get(move.payer, 0) < move.value:
            raise Revert("ERC20: transfer amount exceeds balance")
        balances = dict(self.balances)
        balances[move.payer] -= move.value
        balances[move.payee] = balances.get(move.payee, 0) + move.value
        return replace(self, balances=balances)


@lru_cache(maxsize=4096)
def read_call(asset: Asset, call: bytes) -> SignedAuthorization:
    """The authorization that a call submits; the asset is always the same one. Raises `Revert`."""
    words = call[4:]
    authorization = Authorization(
        address_at(words, 0),
        address_at(words, 1),
        number_at(words, 2),
        number_at(words, 3),
        number_at(words, 4),
        words[160:192],
    )
    if call[:4] == _BY_VRS:
        signature = words[224:288] + bytes([number_at(words, 6) & 0xFF])
    else:
        size = number_at(words, 7)
        signature = words[256 : 256 + size]
    return SignedAuthorization(authorization, signature, asset)


def transfer_call(payee: str, value: int) -> bytes:
    """Calldata with which an owner moves its money."""
    return _TRANSFER + address_word(payee) + uint256(value)


def cancel_call(payer: str, nonce: bytes) -> bytes:
    """Calldata with which a payer takes an authorization back. Its signature is not looked at here."""
    return _CANCEL + address_word(payer) + nonce + bytes(96)


def address_at(words: bytes, index: int) -> str:
    """The address in a word of calldata."""
    return checksum("0x" + words[32 * index + 12 : 32 * index + 32].hex())


def number_at(words: bytes, index: int) -> int:
    """The number in a word of calldata."""
    return int.from_bytes(words[32 * index : 32 * index + 32], "big")


def _topic(word: bytes) -> str:
    return "0x" + word.hex()


def _log(asset: Asset, topic: str, payer: str, nonce: bytes) -> Log:
    return Log(asset.address, (topic, _topic(address_word(payer)), _topic(nonce)), "0x")


def transfer_log(asset: Asset, move: Move) -> Log:
    """The event that says so."""
    parties = (_topic(eip712.address_word(move.payer)), _topic(eip712.address_word(move.payee)))
    return Log(asset.address, (TRANSFER_TOPIC, *parties), _topic(uint256(move.value)))

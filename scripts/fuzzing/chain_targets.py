"""What a payer signs: Solana transactions and EIP-3009 authorizations, byte by byte and member by member.

Whatever is done to them, even when the payer signs the result again, only a transfer of the asked amount to the asked
payee is accepted, and none of the facilitator's keys pays (faults C01-C15, D07, A05).
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.message import Message, MessageAddressTableLookup, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from fuzzing import seeds
from fuzzing.case import Broken, Target
from fuzzing.tape import Tape, damage, fresh, maul
from x402 import networks
from x402.errors import MalformedError, RefusedError
from x402.schemes import exact_evm_rules, exact_svm_rules
from x402.schemes.exact_svm_layout import SignedTransfer, identify, message_id, pay_id, token_account
from x402.schemes.memory import is_same_payment, recall
from x402.schemes.subject import subject_of
from x402.wire.facilitation import parse_facilitation
from x402.wire.payment import Payment, parse_payment
from x402.wire.strict import parse_object

_MINT = networks.get(seeds.SVM).usd.address
_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
_MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
_GUARD = Pubkey.from_string("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")
_SYSTEM = Pubkey.from_string("11111111111111111111111111111111")
_TOKEN = Pubkey.from_string(networks.TOKEN_PROGRAM)
_TOKEN_2022 = Pubkey.from_string(networks.TOKEN_2022_PROGRAM)
_ATA = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
_PAYER, _SPONSOR, _SELLER, _STRANGER = (
    pair.pubkey() for pair in (seeds.SVM_PAYER, seeds.SPONSOR, seeds.SELLER, seeds.STRANGER)
)
_KEYS = [_PAYER, _SPONSOR, _SELLER, _STRANGER, _SYSTEM, Pubkey.from_string(_MINT)]
_REQUIREMENT = seeds.svm_offer()
_EVM_REQUIREMENT = seeds.evm_offer()
_REFUSALS = (RefusedError, MalformedError)
_SIGNATURES = 1 + 2 * 64
_LARGEST = 2**64 - 1


def _account(owner: Pubkey) -> Pubkey:
    return Pubkey.from_string(token_account(str(owner), _MINT, str(_TOKEN)))


def _meta(key: Pubkey, *, signer: bool = False, writable: bool = False) -> AccountMeta:
    return AccountMeta(key, signer, writable)


def _transfer(tape: Tape | None = None) -> Instruction:
    accounts = [
        _meta(_account(_PAYER), writable=True),
        _meta(Pubkey.from_string(_MINT)),
        _meta(_account(_SELLER), writable=True),
        _meta(_PAYER, signer=True),
    ]
    program, opcode, amount, decimals = _TOKEN, 12, seeds.CENT, 6
    if tape is not None:
        match tape.below(6):
            case 0:
                amount = tape.choose([0, 1, seeds.CENT - 1, seeds.CENT + 1, 2**63, _LARGEST])
            case 1:
                decimals = tape.below(256)
            case 2:
                program = tape.choose([_TOKEN_2022, _SYSTEM, _MEMO])
            case 3:
                opcode = tape.below(40)
            case 4:
                accounts[tape.below(4)] = _meta(
                    tape.choose([*_KEYS, _account(_SPONSOR), _account(_STRANGER)]),
                    signer=bool(tape.below(2)),
                    writable=bool(tape.below(2)),
                )
            case _:
                accounts += [_meta(tape.choose(_KEYS))]
    return Instruction(program, struct.pack("<BQB", opcode, amount, decimals), accounts)


def _guard(tape: Tape) -> Instruction:
    return Instruction(_GUARD, bytes([tape.below(20), 4]) + bytes(tape.below(40)), [_meta(tape.choose(_KEYS))])


def _hostile(tape: Tape) -> Instruction:
    """One of the instructions with which a sponsor was robbed or griefed somewhere (faults C02, C03, C07, C08)."""
    lamports = struct.pack("<IQ", 2, 1_000_000)
    options: list[Callable[[], Instruction]] = [
        lambda: Instruction(_SYSTEM, lamports, [_meta(_SPONSOR, signer=True, writable=True), _meta(_STRANGER)]),
        lambda: Instruction(_SYSTEM, struct.pack("<I", 4), [_meta(_STRANGER), _meta(_PAYER, signer=True)]),
        lambda: Instruction(_TOKEN, struct.pack("<BQ", 4, _LARGEST), [_meta(_account(_SPONSOR)), _meta(_STRANGER)]),
        lambda: Instruction(_TOKEN, b"\x09", [_meta(_account(_SPONSOR)), _meta(_STRANGER), _meta(_SPONSOR)]),
        lambda: Instruction(_TOKEN, b"\x06\x02\x00", [_meta(_account(_PAYER)), _meta(_PAYER, signer=True)]),
        lambda: Instruction(_ATA, b"\x01", [_meta(_SPONSOR, signer=True, writable=True), _meta(_STRANGER)]),
        lambda: Instruction(_GUARD, bytes([tape.below(2)]) + bytes(9), [_meta(_SPONSOR, signer=True, writable=True)]),
        lambda: Instruction(_MEMO, b"x", [_meta(_SPONSOR, signer=True)]),
        lambda: Instruction(tape.choose(_KEYS), bytes(tape.below(9)), [_meta(tape.choose(_KEYS))]),
        lambda: _transfer(),
    ]
    return tape.choose(options)()


def _steps(tape: Tape) -> list[Instruction]:
    limit = tape.choose([20_000, 200_000, 200_001, 1_400_000, 2**32 - 1]) if tape.below(4) == 0 else 20_000
    price = tape.choose([0, 5_000_000, 5_000_001, _LARGEST]) if tape.below(4) == 0 else 1
    memos = [b"", b"\xff\xfe" * 8, b"m" * 256, b"m" * 257, b"\x00" * 16, "é".encode("utf-16")]
    memo = tape.choose(memos) if tape.below(4) == 0 else b"0123456789abcdef"
    steps = [
        Instruction(_BUDGET, b"\x02" + struct.pack("<I", limit), []),
        Instruction(_BUDGET, b"\x03" + struct.pack("<Q", price), []),
        _transfer(tape if tape.below(3) == 0 else None),
        Instruction(_MEMO, memo, []),
    ]
    for _ in range(tape.below(3)):
        at = tape.below(len(steps) + 1)
        match tape.below(6):
            case 0:
                steps.insert(at, _guard(tape))
            case 1:
                steps.insert(at, _hostile(tape))
            case 2 if steps:
                del steps[at % len(steps)]
            case 3 if steps:
                steps.insert(at, steps[at % len(steps)])
            case 4:
                steps[0], steps[-1] = steps[-1], steps[0]
            case _:
                steps += [_guard(tape) for _ in range(tape.below(8))]
    return steps


def _signed(message: Message | MessageV0) -> bytes:
    content = bytes(to_bytes_versioned(message))
    pairs = {pair.pubkey(): pair for pair in (seeds.SVM_PAYER, seeds.STRANGER)}
    keys = message.account_keys[: message.header.num_required_signatures]
    signatures = [pairs[key].sign_message(content) if key in pairs else Signature.default() for key in keys]
    return bytes(VersionedTransaction.populate(message, signatures))


def make_layout(tape: Tape) -> bytes:
    """A transaction of another layout, properly compiled and signed by the payer."""
    blockhash = Hash(bytes([9]) * 32)
    sponsor = tape.choose([_PAYER, _STRANGER]) if tape.below(12) == 0 else _SPONSOR
    steps = _steps(tape)
    if tape.below(3) == 0:
        return _signed(Message.new_with_blockhash(steps, sponsor, blockhash))
    message = MessageV0.try_compile(sponsor, steps, [], blockhash)
    if tape.below(10) == 0:
        lookup = MessageAddressTableLookup(_STRANGER, bytes(tape.below(3)), bytes([tape.below(256)]))
        message = MessageV0(
            message.header, message.account_keys, message.recent_blockhash, message.instructions, [lookup]
        )
    return _signed(message)


def _make_bytes(tape: Tape) -> bytes:
    raw = bytearray(maul(_VALID, tape))
    if tape.below(3) == 0 and len(raw) > _SIGNATURES:
        # Signed again, so that the rules behind the signature are reached.
        raw[65:_SIGNATURES] = bytes(seeds.SVM_PAYER.sign_message(bytes(raw[_SIGNATURES:])))
    return bytes(raw)


_VALID = seeds.svm_transaction(_REQUIREMENT)


def run_transaction(data: bytes) -> bool:
    """Every rule for a transaction; what passes moves the asked amount to the asked payee, at nobody else's expense."""
    payment = Payment.of(_REQUIREMENT, {"transaction": base64.b64encode(data).decode()})
    _hold(exact_svm_rules.check(payment, _REQUIREMENT, managed=seeds.MANAGED), payment)
    return True


def _hold(signed: SignedTransfer, payment: Payment) -> None:
    transfer = signed.transfer
    if transfer.amount != seeds.CENT or transfer.destination != str(_account(_SELLER)):
        raise Broken("a transfer of another amount or to another account was accepted")
    if transfer.fee_payer != str(_SPONSOR) or transfer.payer in seeds.MANAGED:
        raise Broken("a transfer at the sponsor's expense was accepted")
    if transfer.fee > exact_svm_rules.DEFAULT_LIMITS.priority_fee + 10_000:
        raise Broken(f"a transfer that costs the sponsor {transfer.fee} lamports was accepted")
    known = {pay_id(transfer, seeds.SVM), identify(payment.payload, seeds.SVM), message_id(transfer.message, seeds.SVM)}
    if len(known) != 1:
        raise Broken("one payment has several identities")


def run_identity(data: bytes) -> bool:
    """Only the reading of the layout, as parties do that check nothing."""
    identify({"transaction": base64.b64encode(data).decode()}, seeds.SVM)
    return True


def _make_payload(texts: list[str]) -> Callable[[Tape], bytes]:
    def make(tape: Tape) -> bytes:
        message = fresh(tape.choose(texts))
        payload = damage(message["payload"], tape, 2)
        message["payload"] = payload if isinstance(payload, dict) and payload else {"transaction": payload}
        return json.dumps(message).encode()

    return make


def _run_svm_payload(data: bytes) -> bool:
    payment = parse_payment(json.loads(data))
    _hold(exact_svm_rules.check(payment, _REQUIREMENT, managed=seeds.MANAGED), payment)
    return True


def _run_evm_payload(data: bytes) -> bool:
    payment = parse_payment(json.loads(data))
    signed = exact_evm_rules.check(payment, _EVM_REQUIREMENT, now=seeds.NOW)
    signed.calldata()
    exact_evm_rules.judge_signature(signed, b"")
    authorization = signed.authorization
    if (authorization.value, authorization.payee) != (seeds.CENT, seeds.EVM_SELLER):
        raise Broken("an authorization of another amount or for another payee was accepted")
    if authorization.payer != seeds.EVM_PAYER:
        raise Broken("an authorization by somebody who did not sign was accepted")
    return True


def _make_subject(tape: Tape) -> bytes:
    message = fresh(tape.choose(_FACILITATIONS))
    side = tape.choose(["paymentPayload", "paymentRequirements"])
    message[side] = damage(message[side], tape, 2)
    return json.dumps(message).encode()


def _run_subject(data: bytes) -> bool:
    """The identity of a payment for any offer, and back from memory."""
    asked = parse_facilitation(parse_object(data))
    subject = subject_of(asked.payment, asked.requirement)
    again = recall(subject)
    if not is_same_payment(subject, subject_of(again.payment, again.requirement)):
        raise Broken("a payment is another one when it is remembered")
    return True


_PAYMENTS = seeds.texts([*seeds.NEW_PAYMENTS, *seeds.OLD_PAYMENTS])
_FACILITATIONS = seeds.texts(seeds.FACILITATIONS)

TARGETS = [
    Target("chain.svm-bytes", _make_bytes, run_transaction, 9, _REFUSALS),
    Target("chain.svm-layout", make_layout, run_transaction, 8, _REFUSALS),
    Target("chain.svm-identity", _make_bytes, run_identity, 3, _REFUSALS),
    Target("chain.svm-payload", _make_payload(_PAYMENTS[1::2]), _run_svm_payload, 3, _REFUSALS),
    Target("chain.evm-payload", _make_payload(_PAYMENTS[::2]), _run_evm_payload, 7, _REFUSALS),
    Target("chain.subject", _make_subject, _run_subject, 3, _REFUSALS),
]

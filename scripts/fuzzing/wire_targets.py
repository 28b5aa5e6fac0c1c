"""Everything that crosses the network as text: headers, bodies, amounts, extensions (faults F05-F11, F18, E04, A03)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fuzzing import seeds
from fuzzing.case import Broken, Target
from fuzzing.tape import FRAGMENTS, JUNK, Tape, damage, fresh, maul, tear
from x402 import networks
from x402.errors import MalformedError
from x402.lifecycle import Outcome
from x402.money import parse_atomic, parse_price
from x402.wire.challenge import BalanceEmpty, Challenge, parse_challenge, read_challenge
from x402.wire.extensions import altered, echo, payment_identifier
from x402.wire.facilitation import parse_facilitation, parse_supported, parse_verification
from x402.wire.headers import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    X_PAYMENT,
    X_PAYMENT_RESPONSE,
    decode_header,
)
from x402.wire.payment import parse_payment, read_payment
from x402.wire.receipt import parse_receipt, read_receipt
from x402.wire.strict import decode_base64, dump_json, parse_json, parse_object

_CANONICAL = re.compile(r"0|[1-9][0-9]{0,77}", re.ASCII)
_UINT256_MAX = 2**256 - 1
_WHATEVER = 2**24


def same(read: Any, written: Any, what: str) -> None:
    """Raise `Broken` unless a message survived being written and read again."""
    if read != written:
        raise Broken(f"{what} changed its meaning when it was written and read again")


def check_challenge(value: Any) -> Challenge:
    """A challenge, read, written and read again; in both dialects."""
    challenge = parse_challenge(value)
    again = parse_challenge(challenge.as_json())
    same(again, challenge.model_copy(update={"version": 2, "unreadable": ()}), "the challenge")
    challenge.as_v1()
    return challenge


def check_payment(value: Any) -> None:
    """A payment, read, written and read again, with its extensions."""
    payment = parse_payment(value)
    same(parse_payment(payment.as_json(), version=payment.version), payment, "the payment")
    altered(payment.extensions, {"k": payment.payload})
    payment_identifier(payment.extensions)


def check_receipt(value: Any) -> None:
    """A receipt, read, written and read again; success is only what says so as a boolean (fault A03)."""
    receipt = parse_receipt(value)
    same(parse_receipt(receipt.as_json()), receipt, "the receipt")
    if parse_receipt(receipt.as_v1()).outcome is not receipt.outcome and receipt.amount != "0":
        raise Broken("the receipt has another outcome in version 1")
    if receipt.outcome is Outcome.SETTLED and value.get("success") is not True:
        raise Broken("a receipt without success: true counts as settled")


def check_facilitation(value: Any) -> None:
    """A body of verify or settle, read, written and read again."""
    facilitation = parse_facilitation(value)
    same(parse_facilitation(facilitation.as_json()), facilitation, "the facilitation")


def check_verification(value: Any) -> None:
    """An answer to verify, read, written and read again."""
    verification = parse_verification(value)
    same(parse_verification(verification.as_json()), verification, "the verification")
    if verification.is_valid and value.get("isValid") is not True:
        raise Broken("an answer without isValid: true counts as valid")


def check_supported(value: Any) -> None:
    """An answer to supported, read, written and read again."""
    supported = parse_supported(value)
    same(parse_supported(supported.as_json()), supported, "the supported kinds")
    supported.find("exact", networks.BASE_SEPOLIA)


OBJECTS: dict[str, tuple[Callable[[Any], object], list[str]]] = {
    "challenge": (check_challenge, seeds.texts(seeds.CHALLENGES) + seeds.recorded()["body"]),
    "payment": (check_payment, seeds.texts([*seeds.NEW_PAYMENTS, *seeds.OLD_PAYMENTS])),
    "receipt": (check_receipt, seeds.texts(seeds.RECEIPTS)),
    "facilitation": (check_facilitation, seeds.texts(seeds.FACILITATIONS)),
    "verification": (check_verification, seeds.texts(seeds.VERIFICATIONS)),
    "supported": (check_supported, seeds.texts(seeds.SUPPORTED)),
}
"""Decoders of parsed JSON, with what is damaged for them."""


def wounded_text(tape: Tape, texts: list[str]) -> str:
    """A damaged message as JSON; now and then the text is torn as well."""
    message = damage(fresh(tape.choose(texts)), tape) if tape.below(8) else fresh(tape.choose(texts))
    text = json.dumps(message, ensure_ascii=bool(tape.below(2)), separators=(",", ":"))
    return tear(text, tape) if tape.below(4) == 0 else text


def wounded_body(texts: list[str]) -> Callable[[Tape], bytes]:
    """Makes bodies that are damaged messages."""

    def make(tape: Tape) -> bytes:
        body = wounded_text(tape, texts).encode(errors="surrogatepass")
        return maul(body, tape) if tape.below(6) == 0 else body

    return make


def wounded_header(texts: list[str]) -> Callable[[Tape], bytes]:
    """Makes header values that carry damaged messages, or are damaged themselves."""

    def make(tape: Tape) -> bytes:
        value = seeds.encoded(wounded_text(tape, texts))
        match tape.below(12):
            case 0:
                value = tear(value, tape)
            case 1:
                value = value.rstrip("=")
            case 2:
                value = value.replace("+", "-").replace("/", "_")
            case 3:
                value += tape.choose(["=", "==", "A", "\n", " ", ",", "; q=1"])
        return value.encode(errors="surrogatepass")

    return make


def _latin(data: bytes) -> str:
    """As every HTTP server hands header bytes over."""
    return data.decode("latin-1")


def _object(name: str) -> Target:
    decode, texts = OBJECTS[name]

    def make(tape: Tape) -> bytes:
        return json.dumps(damage(fresh(tape.choose(texts)), tape)).encode()

    return Target(f"wire.{name}", make, lambda data: decode(parse_json(data, limit=_WHATEVER)), 4)


def _run_challenge(data: bytes) -> bool:
    read = read_challenge([(PAYMENT_REQUIRED, _latin(data))])
    return isinstance(read, Challenge)


def _run_challenge_body(data: bytes) -> bool:
    read = read_challenge([], data)
    return isinstance(read, Challenge | BalanceEmpty)


def _run_payment(name: str) -> Callable[[bytes], bool]:
    return lambda data: read_payment([(name, _latin(data))]) is not None


def _run_receipt(name: str) -> Callable[[bytes], bool]:
    return lambda data: read_receipt([(name, _latin(data))]) is not None


def _make_strict(tape: Tape) -> bytes:
    text = wounded_text(tape, tape.choose([texts for _, texts in OBJECTS.values()]))
    match tape.below(3):
        case 0:
            return tear(seeds.encoded(text[:200]), tape).encode(errors="surrogatepass")
        case 1:
            return "".join(tape.choose(FRAGMENTS) for _ in range(1 + tape.below(8))).encode(errors="surrogatepass")
        case _:
            return maul(text.encode(errors="surrogatepass"), tape)


def run_strict(data: bytes) -> bool:
    """The codecs by themselves: what is read has one reading (faults F07, F08)."""
    accepted = False
    try:
        value = parse_json(data)
        accepted = True
        same(parse_json(dump_json(value)), value, "the JSON")
    except MalformedError:
        pass
    text = _latin(data)
    try:
        raw = decode_base64(text)
        accepted = True
        if base64.b64encode(raw).decode().rstrip("=") != text.rstrip("="):
            raise Broken("base64 that is not canonical was read")
    except MalformedError:
        pass
    with suppress(MalformedError):
        decode_header(text)
    return accepted


def _make_pairs(tape: Tape) -> bytes:
    names = [PAYMENT_SIGNATURE, X_PAYMENT, "payment-signature", "x-payment", "Payment-Signature", "X-Other", ""]
    values = [
        seeds.encoded(tape.choose(seeds.texts(seeds.NEW_PAYMENTS[:1]))),
        seeds.encoded(tape.choose(seeds.texts(seeds.OLD_PAYMENTS[:1]))),
        "",
        "e30=",
    ]
    pairs = [[tape.choose(names), tape.choose(values)] for _ in range(tape.below(5))]
    if tape.below(4) == 0 and pairs:
        pairs[0][1] += tape.choose([",", ", ", "\r\n ", "\t"]) + tape.choose(values)
    return json.dumps(pairs).encode()


def _run_pairs(data: bytes) -> bool:
    pairs = [(str(name), str(value)) for name, value in json.loads(data)]
    payment = read_payment(pairs)
    carried = [name for name, _ in pairs if name.lower() in (PAYMENT_SIGNATURE.lower(), X_PAYMENT.lower())]
    if payment is None and carried:
        raise Broken("a payment header was treated as absent")
    if payment is not None and len(carried) != 1:
        raise Broken(f"a payment was read out of {len(carried)} payment headers")
    return payment is not None


def _make_extensions(tape: Tape) -> bytes:
    both = [damage(fresh(json.dumps(seeds.EXTENSIONS)), tape) for _ in range(2)]
    return json.dumps([side if isinstance(side, dict) else {"k": side} for side in both]).encode()


def _run_extensions(data: bytes) -> bool:
    advertised, sent = parse_json(data, limit=_WHATEVER)
    echoed = echo(advertised, sent)
    payment_identifier(sent)
    return altered(advertised, echoed) is None


def _make_amount(tape: Tape) -> bytes:
    options: list[Any] = [value for value in JUNK if isinstance(value, str | int | float)]
    text = str(tape.choose([*options, "10000", "0.01", "$0.01", "1.50 USDC", networks.BASE_SEPOLIA, "base-sepolia"]))
    return (tear(text[:400], tape) if tape.below(3) else text).encode(errors="surrogatepass")


def run_amount(data: bytes) -> bool:
    """Amounts, prices and network names; an amount is accepted exactly when it is canonical (faults F09-F11, F13)."""
    text = data.decode(errors="surrogatepass") if data.isascii() else data.decode(errors="replace")
    canonical = _CANONICAL.fullmatch(text) is not None and int(text) <= _UINT256_MAX
    try:
        units = parse_atomic(text)
    except MalformedError:
        if canonical:
            raise Broken("a canonical amount was refused") from None
    else:
        if not canonical or str(units) != text:
            raise Broken("an amount that is not canonical was read")
    try:
        number, _ = parse_price(text)
    except MalformedError:
        pass
    else:
        if number < 0 or not number.is_finite():
            raise Broken("a price that is none was read")
    networks.to_v1(networks.to_caip2(text))
    try:
        networks.parse_caip2(text)
        networks.get(text)
    except MalformedError:
        pass
    return canonical


_RECORDED = seeds.recorded()
_CHALLENGES = seeds.texts(seeds.CHALLENGES[:4]) + _RECORDED[PAYMENT_REQUIRED.lower()]
_NEW = seeds.texts(seeds.NEW_PAYMENTS) + _RECORDED[PAYMENT_SIGNATURE.lower()]
_OLD = seeds.texts(seeds.OLD_PAYMENTS) + _RECORDED[X_PAYMENT.lower()]
_RECEIPTS = seeds.texts(seeds.RECEIPTS) + _RECORDED[PAYMENT_RESPONSE.lower()] + _RECORDED[X_PAYMENT_RESPONSE.lower()]

TARGETS = [
    *(_object(name) for name in OBJECTS),
    Target("wire.challenge-header", wounded_header(_CHALLENGES), _run_challenge, 5),
    Target("wire.challenge-body", wounded_body(OBJECTS["challenge"][1]), _run_challenge_body, 5),
    Target("wire.payment-header", wounded_header(_NEW), _run_payment(PAYMENT_SIGNATURE), 8),
    Target("wire.payment-v1-header", wounded_header(_OLD), _run_payment(X_PAYMENT), 5),
    Target("wire.payment-pairs", _make_pairs, _run_pairs, 2),
    Target("wire.receipt-header", wounded_header(_RECEIPTS), _run_receipt(PAYMENT_RESPONSE), 4),
    Target("wire.receipt-v1-header", wounded_header(_RECEIPTS), _run_receipt(X_PAYMENT_RESPONSE), 2),
    Target(
        "wire.facilitation-body",
        wounded_body(OBJECTS["facilitation"][1]),
        lambda data: check_facilitation(parse_object(data)),
        5,
    ),
    Target("wire.strict", _make_strict, run_strict, 8),
    Target("wire.extensions", _make_extensions, _run_extensions, 3),
    Target("wire.amount", _make_amount, run_amount, 6),
]

"""What is read inside the parties: chat requests, streams, quotes, sellers' replies, and texts that people paste."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal

from fuzzing import seeds
from fuzzing.case import Broken, Target
from fuzzing.tape import Tape, damage, fresh, maul, tear
from fuzzing.wire_targets import OBJECTS, wounded_body, wounded_text
from x402.cli.explain import explain
from x402.client import answers, envelope
from x402.client.events import Comment, Event, EventDecoder
from x402.client.verdict import Reply, judge
from x402.devnet.model import EMBED, PICTURE, demo_catalogue
from x402.errors import ApiError, MalformedError, RefusedError, X402Error
from x402.gateway.inference.catalogue import Catalogue
from x402.gateway.inference.chat_request import parse_chat
from x402.gateway.inference.embeddings_request import parse_embeddings
from x402.gateway.inference.images_request import parse_images
from x402.gateway.inference.meter import StreamMeter
from x402.gateway.inference.tally import Tally
from x402.gateway.inference.upstream import UpstreamFailed
from x402.lifecycle import Event as Arrow
from x402.lifecycle import Subject
from x402.quote import Quote, Usage, quote
from x402.schemes.subject import subject_of
from x402.signed_quote import peek, read, sign
from x402.stages import State
from x402.wire.headers import PAYMENT_REQUIRED, PAYMENT_RESPONSE, X_PAYMENT_RESPONSE

_KEY = bytes(range(32))
_DIGEST = "ab" * 32
_CHATS = seeds.texts(seeds.CHATS)
_GOODS = seeds.texts(seeds.GOODS)
_CATALOGUE: Catalogue = demo_catalogue("http://model.test/v1")
_MODEL = _CATALOGUE.models[0]


def _quoted() -> Quote:
    return quote(parse_chat(_CHATS[0].encode()).order(_MODEL.price), _CATALOGUE.prices)


_QUOTE = _quoted()
_TOKEN = sign(_QUOTE, key=_KEY, request_digest=_DIGEST, issued_at=seeds.NOW, ttl_seconds=300)
_SUBJECT: Subject = subject_of(seeds.payment(seeds.evm_offer()), seeds.evm_offer())
_SELLER = "https://api.example.com/report"


def run_chat(data: bytes) -> bool:
    """A chat request to its price, and on to the model server."""
    request = parse_chat(data)
    quoted = quote(request.order(_MODEL.price), _CATALOGUE.prices)
    if quoted.bound < 0:
        raise Broken("a negative price")
    body = request.forward("m", quoted.output_tokens)
    json.dumps(body, allow_nan=False).encode()
    limit = body.get("max_completion_tokens") or body["max_tokens"]
    if limit > quoted.output_tokens:
        raise Broken("the model may say more than was paid for")
    return True


def run_goods(data: bytes) -> bool:
    """A request for embeddings or images to its price, and on to the model server."""
    parse, model = (parse_images, PICTURE) if b'"prompt"' in data else (parse_embeddings, EMBED)
    request = parse(data)
    quoted = quote(request.order(_CATALOGUE.resolve(model).price), _CATALOGUE.prices)
    if quoted.bound <= 0 or quoted.output_tokens:
        raise Broken("it is sold for nothing, or with an answer in words")
    json.dumps(request.forward("m", 0), allow_nan=False).encode()
    return True


def _make_token(tape: Tape) -> bytes:
    if tape.below(20) == 0:
        return _TOKEN.encode()
    return (tear(_TOKEN, tape) if tape.below(3) else maul(_TOKEN.encode(), tape).decode("latin-1")).encode(
        errors="surrogatepass"
    )


def run_token(data: bytes) -> bool:
    """A quote token: only the one that was signed is read (fault G02)."""
    token = data.decode(errors="replace")
    with suppress(MalformedError):
        peek(token)
    read(token, keys=[_KEY], now=seeds.NOW, request_digest=_DIGEST)
    if token != _TOKEN:
        raise Broken("a quote that nobody signed was read")
    return True


def chunk(**members: object) -> bytes:
    """One event of a stream, as model servers send them."""
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps(frame | members).encode() + b"\n\n"


def _delta(text: str, finish_reason: str | None = None) -> list[dict[str, object]]:
    return [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
EVENTS: list[bytes] = [
    chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]),
    chunk(choices=_delta("You")),
    b": keep-alive\n\n",
    chunk(choices=_delta(" said", "stop")),
    chunk(choices=[], usage=USAGE),
    b"data: [DONE]\n\n",
]
"""A whole stream."""


def wounded_stream(tape: Tape) -> bytes:
    """A stream with an event damaged, torn, doubled or lost."""
    events = list(EVENTS)
    for _ in range(1 + tape.below(3)):
        at = tape.below(len(events)) if events else 0
        match tape.below(6):
            case 0 | 1 if events and events[at].startswith(b"data: {"):
                message = damage(json.loads(events[at][6:]), tape)
                events[at] = b"data: " + json.dumps(message).encode() + b"\n\n"
            case 2 if events:
                del events[at]
            case 3 if events:
                events.insert(at, events[at])
            case 4 if events:
                events[at] = events[at].replace(b"\n\n", tape.choose([b"\n", b"\r\n\r\n", b"\r\r", b"\r\n", b""]))
            case _:
                events.insert(
                    at, tape.choose([b'data: {"error":{"message":"x"}}\n\n', b"event: x\ndata: {}\n\n", b"\n"])
                )
    stream = b"".join(events)
    return maul(stream, tape) if tape.below(3) == 0 else stream


def _pieces(data: bytes) -> Iterator[bytes]:
    """The same bytes as they arrive: in pieces whose sizes the bytes themselves decide."""
    start = 0
    while start < len(data):
        size = 1 + data[start] * (1 + start % 7)
        yield data[start : start + size]
        start += size


def run_meter(data: bytes) -> bool:
    """A model server's stream through the gateway's meter; what is charged never exceeds the quote."""
    meter = StreamMeter(include_usage=len(data) % 2 == 0)
    tally = Tally(_QUOTE, "chat.completions")
    for piece in _pieces(data):
        meter.feed(piece)
        tally.hear(meter.said - tally.said, meter.usage)
        if meter.done:
            break
    line = tally.as_json()
    if not 0 <= int(line["actual"]) <= int(line["quoted"]):
        raise Broken("the meter charges more than was quoted")
    meter.finish("x402-receipt e30=")
    return True


def _run_events(data: bytes) -> bool:
    decoder = EventDecoder()
    whole: list[Event | Comment] = []
    for piece in _pieces(data):
        whole += decoder.feed(piece)
    whole += decoder.finish()
    for one in whole:
        if isinstance(one, Comment):
            answers.receipt_in(one.text)
        elif one.data != "[DONE]":
            read = answers.read_chunk(one.data)
            _ = read.text, read.as_json(), list(read.values())
    return True


def _make_reply(tape: Tape) -> bytes:
    names = [PAYMENT_RESPONSE, X_PAYMENT_RESPONSE, PAYMENT_REQUIRED, "Location", "Retry-After", "X-Request-ID"]
    locations = ["//", "http://[", "https://api.example.com:bad/", "/elsewhere", "javascript:", "\x00", "https://é/"]
    headers = []
    for _ in range(tape.below(4)):
        name = tape.choose(names)
        if name == "Location":
            value = tape.choose(locations)
        elif name == "Retry-After":
            value = tape.choose(["5", "-1", "1e9", "9" * 400, "Wed, 21 Oct 2015 07:28:00 GMT", "٣"])
        else:
            value = seeds.encoded(wounded_text(tape, OBJECTS["receipt" if "RESPONSE" in name else "challenge"][1]))
        headers.append([name, value])
    body = wounded_text(tape, [*OBJECTS["challenge"][1], *_ANSWERS])
    status = tape.choose([200, 402, 402, 200, 409, 503, 302, 500, 400, 204, 206, 100, 999])
    return json.dumps(
        [status, headers, body, tape.choose([_SELLER, "http://evil.test/", "https://api.example.com/x"])]
    ).encode()


_ANSWERS = [
    json.dumps({"choices": [{"message": {"content": "hello"}}], "usage": USAGE, "meta": {"request_id": "r"}}),
    json.dumps({"success": True, "data": {"choices": [{"message": {"content": "hello"}}]}}),
    json.dumps({"error": {"message": "m", "type": "t", "code": "c", "moneyMoved": "no", "details": {"a": 1}}}),
    json.dumps({"detail": [{"loc": ["a"], "msg": "m"}]}),
    json.dumps({"data": [{"id": "m", "pricing": {"prompt": "1"}}]}),
]


def run_reply(data: bytes) -> bool:
    """A seller's reply to a presented payment, in the client's eyes; refused is no state of a payment that a receipt
    calls settled."""
    status, pairs, text, url = json.loads(data)
    headers = tuple((str(name), str(value)) for name, value in pairs)
    body = text.encode(errors="surrogatepass")
    verdict = judge(Reply(status, headers, body, url, "GET"), _SUBJECT, sent_to=_SELLER)
    if verdict.event is Arrow.SETTLE and (verdict.stage is None or verdict.stage.state is not State.SETTLED):
        raise Broken("a settlement without its stage")
    for read_it in (
        lambda: answers.read_quotation(status, headers, body),
        lambda: answers.read_completion(headers, body, verdict.receipt).text,
        lambda: answers.read_models(body),
    ):
        try:
            read_it()
        except (ApiError, MalformedError):
            continue
    envelope.errors_of(status, headers, body).as_json()
    return verdict.delivers


def _make_pasted(tape: Tape) -> bytes:
    text = wounded_text(tape, tape.choose([texts for _, texts in OBJECTS.values()]))
    match tape.below(4):
        case 0:
            text = seeds.encoded(text)
        case 1:
            text = f"{tape.choose([PAYMENT_REQUIRED, 'X-PAYMENT', 'x'])}: {seeds.encoded(text)}"
        case 2:
            text = tape.choose([": x402-receipt ", "", _TOKEN]) + seeds.encoded(text)
    return text.encode(errors="surrogatepass")


def _run_pasted(data: bytes) -> bool:
    explanation = explain(data.decode(errors="replace"), now=seeds.NOW)
    json.dumps(explanation.as_json())
    return True


def _make_usage(tape: Tape) -> bytes:
    return json.dumps(damage(fresh(json.dumps(USAGE)), tape)).encode()


def _run_usage(data: bytes) -> bool:
    stated = json.loads(data)
    if not isinstance(stated, dict):
        return False
    try:
        usage = Usage(stated["prompt_tokens"], stated["completion_tokens"])
    except (KeyError, TypeError):
        return False
    charge = _QUOTE.actual(usage)
    if not 0 <= charge.total <= _QUOTE.bound or Decimal(charge.total) != charge.total:
        raise Broken("usage is charged beyond the quote")
    return True


TARGETS = [
    Target("message.chat", wounded_body(_CHATS), run_chat, 7, (X402Error,)),
    Target("message.goods", wounded_body(_GOODS), run_goods, 4, (X402Error,)),
    Target("message.quote-token", _make_token, run_token, 3, (MalformedError, RefusedError)),
    Target("message.meter", wounded_stream, run_meter, 4, (UpstreamFailed,)),
    Target("message.usage", _make_usage, _run_usage, 1),
    Target("message.events", wounded_stream, _run_events, 4, (MalformedError, ApiError)),
    Target("message.reply", _make_reply, run_reply, 5),
    Target("message.pasted", _make_pasted, _run_pasted, 4),
]

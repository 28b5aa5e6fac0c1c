"""Asking a live URL what it wants, without paying: one request, no redirects, bounded time and size."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlsplit

import httpx

from x402.cli.explain import explain_message
from x402.cli.explanation import Explanation, Section
from x402.errors import MalformedError, UnavailableError
from x402.wire.challenge import BalanceEmpty, read_challenge
from x402.wire.headers import PAYMENT_REQUIRED, decode_header, only
from x402.wire.strict import BODY_LIMIT, parse_object

TIMEOUT_SECONDS = 15.0
_CODE = "invalid_payment_required"


def visit(url: str, *, method: str, data: str, now: int) -> Explanation:
    """What a URL answers to a request without a payment.

    `method` and `data` default to GET without a body, and to POST of JSON with one. Raises `UnavailableError` when
    nobody answers, `MalformedError` for a URL that is none and for a 402 that cannot be read.
    """
    try:
        parts = urlsplit(url)
        fits = bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise MalformedError("invalid_url", "the URL cannot be used: it names no host, or a port that cannot be")
    verb = (method or ("POST" if data else "GET")).upper()
    headers = {"Content-Type": "application/json"} if data else {}
    try:
        with httpx.stream(
            verb, url, content=data.encode() or None, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=False
        ) as response:
            body = _read(response)
    except httpx.InvalidURL as error:
        raise MalformedError("invalid_url", f"the URL cannot be used: {error}") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise UnavailableError(
            "url_unavailable", f"{parts.netloc} did not answer: {str(error) or type(error).__name__}"
        ) from error
    return _explain(response, body, now)


def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > BODY_LIMIT:
            break
    return bytes(body[: BODY_LIMIT + 1])


def _explain(response: httpx.Response, body: bytes, now: int) -> Explanation:
    asked = ("asked", f"{response.request.method} {response.url}")
    if response.status_code != 402:
        return _unpriced(response, body, asked, now)
    pairs = list(response.headers.multi_items())
    heard = read_challenge(pairs, body)
    if isinstance(heard, BalanceEmpty):
        facts = (asked, ("code", heard.code), ("said", heard.message))
        return Explanation(
            "balance_empty",
            "A 402 that means: your prepaid balance is empty. There is nothing to sign; top it up.",
            (Section("Answer", facts),),
        )
    header = only(pairs, PAYMENT_REQUIRED, code=_CODE)
    message = decode_header(header, code=_CODE) if header is not None else parse_object(body, code=_CODE)
    explanation = explain_message(message, now=now)
    problems = list(explanation.problems)
    if heard.resource is not None and _netloc(heard.resource.url) not in ("", response.url.netloc.decode()):
        problems.append(f"it names {heard.resource.url} as what is sold, which is another host than the one asked")
    where = "header PAYMENT-REQUIRED" if header is not None else "body"
    answer = Section("Answer", (asked, ("status", "402, payment required"), ("challenge in", where)))
    sections = (answer, *explanation.sections)
    return Explanation(explanation.kind, explanation.summary, sections, tuple(problems), explanation.message)


def _netloc(url: str) -> str | None:
    """Host and port of a URL that somebody else wrote; None when it is no URL."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def _unpriced(response: httpx.Response, body: bytes, asked: tuple[str, str], now: int) -> Explanation:
    """An answer that is no challenge; a facilitator's own answers are explained too."""
    status = response.status_code
    answer = Section("Answer", (asked, ("status", f"{status} {response.reason_phrase}".strip())))
    if status == 200:
        with suppress(MalformedError):
            known = explain_message(parse_object(body), now=now)
            return Explanation(known.kind, known.summary, (answer, *known.sections), known.problems, known.message)
    location = response.headers.get("location")
    if response.is_redirect and location:
        words = f"It answers {status} and points elsewhere: x402 inspect {location}"
    elif status < 300:
        words = f"It answers {status} without asking for a payment."
    else:
        words = f"It answers {status}: no challenge. Some sellers only ask for payment of a valid request (try -d)."
    return Explanation("unpriced", words, (answer,))

"""The sign-in text in both dialects, and its header (aimo row 16 and §2.8, protocol page §6.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x402.errors import MalformedError
from x402.wire.headers import encode_header
from x402.wire.sign_in import Dialect, SignedSignIn, SignIn, instant, read_header, read_message, seconds, signed

EVM = SignIn(
    domain="a.example:8080", address="0x8ba1f109551bD432803012645Ac136ddd64DBA72", uri="https://a.example:8080/x",
    chain_id="eip155:8453", nonce="0123456789abcdef", issued_at="2026-01-02T03:04:05.678Z",
)  # fmt: skip
SVM = SignIn(
    domain="beta.example", address="7EcDhSYGxXyscszYEp35KHN8vvw3svAuLKTzXwCFLtV", uri="https://beta.example/api/v1",
    chain_id="solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", expiration_time="2026-01-02T03:09:05Z",
)  # fmt: skip

line = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=12)
times = st.none() | st.integers(0, 4 * 10**9).map(instant)
sign_ins = st.fixed_dictionaries(
    {
        "domain": st.from_regex(r"[a-z0-9.:-]{1,20}", fullmatch=True), "address": line, "uri": line,
        "chain_id": st.sampled_from(["eip155:1", "eip155:84532", SVM.chain_id, "cosmos:hub-4"]),
        "nonce": st.none() | line, "issued_at": times, "expiration_time": times, "not_before": times,
        "request_id": st.none() | line, "statement": st.none() | line,
        "resources": st.none() | st.lists(line, min_size=1, max_size=3),
    }
).map(SignIn.model_validate)  # fmt: skip


def test_row_016_the_text_of_the_sdks_for_evm() -> None:
    # As `prepare_message` of signinwithethereum 4 writes it, which the official SDKs call.
    assert EVM.message(Dialect.X402) == (
        "a.example:8080 wants you to sign in with your Ethereum account:\n0x8ba1f109551bD432803012645Ac136ddd64DBA72"
        "\n\n\nURI: https://a.example:8080/x\nVersion: 1\nChain ID: 8453\nNonce: 0123456789abcdef\n"
        "Issued At: 2026-01-02T03:04:05.678Z"
    )
    told = EVM.model_copy(update={"statement": "Hi", "request_id": "r-1", "resources": ["https://a.example:8080/x"]})
    assert told.message(Dialect.X402) == (
        "a.example:8080 wants you to sign in with your Ethereum account:\n0x8ba1f109551bD432803012645Ac136ddd64DBA72"
        "\n\nHi\n\nURI: https://a.example:8080/x\nVersion: 1\nChain ID: 8453\nNonce: 0123456789abcdef\n"
        "Issued At: 2026-01-02T03:04:05.678Z\nRequest ID: r-1\nResources:\n- https://a.example:8080/x"
    )


def test_row_016_the_text_of_aimo_names_the_whole_chain_and_needs_an_expiry_only() -> None:
    assert SVM.message(Dialect.AIMO) == (
        "beta.example wants you to sign in with your Solana account:\n7EcDhSYGxXyscszYEp35KHN8vvw3svAuLKTzXwCFLtV\n\n"
        "URI: https://beta.example/api/v1\nVersion: 1\nChain ID: solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1\n"
        "Expiration Time: 2026-01-02T03:09:05Z"
    )
    assert SVM.message(Dialect.X402) == SVM.message(Dialect.AIMO).replace("Chain ID: solana:", "Chain ID: ")


def test_row_016_both_headers_are_read() -> None:
    for sign_in, dialect in ((EVM, Dialect.AIMO), (EVM, Dialect.X402), (SVM, Dialect.AIMO), (SVM, Dialect.X402)):
        sent = signed(sign_in, "0xabcd", dialect)
        assert read_header(sent.as_header()) == sent
        assert read_header(f" {sent.as_header()} ").sign_in.account == f"{sign_in.chain_id}:{sign_in.address}"


@given(sign_ins, st.sampled_from(Dialect), line)
def test_every_sign_in_comes_back(sign_in: SignIn, dialect: Dialect, signature: str) -> None:
    sent = signed(sign_in, signature, dialect)
    try:
        assert read_header(sent.as_header()) == sent
    except MalformedError:
        # A statement may look like the lines below it; such a text has no one reading and is refused.
        assert sign_in.statement is not None


@given(st.text(max_size=300))
def test_no_text_breaks_the_reader(text: str) -> None:
    for attempt in (lambda: read_message(text), lambda: read_header(text), lambda: read_message(f"a wants {text}")):
        with pytest.raises(MalformedError):
            attempt()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\nURI: ", "\n\nURI: "),
        ("\nVersion: 1", "\nVersion: 2"),
        ("\nVersion: 1", "\nversion: 1"),
        ("\nVersion: 1", ""),
        ("\nChain ID: 8453", "\nChain ID: 8453\nChain ID: 1"),
        ("\nChain ID: 8453", "\nChain ID: eip155:8453:1"),
        ("Z", "Z\n"),
        ("678Z", "678"),
        ("2026-01", "2026-13"),
        ("Ethereum", "ethereum"),
        ("\nNonce: 0123456789abcdef", "\nNonce: 01234567\r\nIssued At: 2026-01-02T03:04:05Z"),
        ("Issued At: 2026-01-02T03:04:05.678Z", "Expiration Time: 2026-01-02T03:04:05Z\nIssued At: 2026-01-02T03:04Z"),
    ],
)
def test_a_message_that_is_not_its_own_spelling_is_refused(old: str, new: str) -> None:
    whole = EVM.message(Dialect.X402)
    assert read_message(whole) == EVM
    with pytest.raises(MalformedError) as raised:
        read_message(whole.replace(old, new, 1))
    assert raised.value.code == "invalid_siwx"


def test_a_message_without_the_empty_statement_line_is_read() -> None:
    assert read_message(EVM.message(Dialect.X402).replace("\n\n\n", "\n\n")) == EVM


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"signature": "ab"},
        {"message": EVM.message(Dialect.AIMO)},
        {"message": 7, "signature": "ab"},
        {"message": EVM.message(Dialect.AIMO), "signature": ""},
        EVM.as_json() | {"signature": "ab", "uri": "a\nb"},
        EVM.as_json() | {"signature": "ab", "chainId": "8453"},
        EVM.as_json() | {"signature": "ab", "resources": ["r"] * 17},
    ],
    ids=str,
)
def test_a_header_that_says_too_little_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(MalformedError) as raised:
        read_header(encode_header(members))
    assert raised.value.code == "invalid_siwx"
    assert isinstance(read_header(encode_header(EVM.as_json() | {"signature": "ab"})), SignedSignIn)


def test_times() -> None:
    assert seconds("1970-01-01T00:01:00Z") == seconds("1970-01-01T02:01:00.9+02:00") == 60
    assert instant(60) == "1970-01-01T00:01:00Z"
    for wrong in ("", "60", "1970-01-01", "1970-01-01T00:01:00", "1970-01-01 00:01:00Z", "0000-00-00T00:00:00Z"):
        with pytest.raises(MalformedError):
            seconds(wrong)

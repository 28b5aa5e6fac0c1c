"""Where a reply stops to be evidence: one status, one word, one place further (faults A03, A09, A10, B05, B13)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from x402 import networks
from x402.client.verdict import Reply, Verdict, heard_receipt, is_metered, judge, origin, retry_after, taken
from x402.errors import Moved, PendingError, UnpaidError
from x402.lifecycle import Event, Subject
from x402.stages import Refused, Settled
from x402.wire.receipt import Receipt

from .seller import PAYEE, TRANSACTION, URL, asks, offer, receipt
from .test_verdict import PAYER, SUBJECT

Fields = dict[str, str]

SOLANA_PAYER = "8KJbGgMKnmTnKPhEfxX5f2yRwUCzyzDWxXQBqqXo1nA6"
NOTHING_DUE = receipt(transaction="", amount="0")
REFUSED = receipt(False, error_reason="nope")
METERED = replace(SUBJECT, record={"scheme": "upto"})
ORIGIN = "https://seller.test"


def heard(status: int, *fields: Fields, subject: Subject = SUBJECT, **more: Any) -> Verdict:
    """What a reply with these header fields is taken for; `hops` are fields, too."""
    headers = tuple(pair for some in fields for pair in some.items())
    hops = tuple(tuple(hop.items()) for hop in more.pop("hops", ()))
    known = {"body": b"", "url": URL, "method": "POST"} | more
    return judge(Reply(status, headers, hops=hops, **known), subject, sent_to=URL)


def refusal(verdict: Verdict) -> UnpaidError:
    assert isinstance(verdict.error, UnpaidError)
    return verdict.error


class TestReply:
    @pytest.mark.parametrize(
        ("method", "status", "bodiless"),
        [
            ("HEAD", 200, True), ("head", 200, True), ("GET", 200, False), ("POST", 200, False), ("GET", 204, True),
            ("GET", 205, True), ("GET", 203, False), ("GET", 206, False), ("HEAD", 204, True),
        ],
    )  # fmt: skip
    def test_what_may_have_no_body(self, method: str, status: int, bodiless: bool) -> None:
        assert Reply(status, (), b"", URL, method).bodiless is bodiless

    def test_a_reply_has_arrived_and_holds_something_unless_it_is_told_otherwise(self) -> None:
        reply = Reply(200, (), b"", URL, "GET")
        assert (reply.complete, reply.empty, reply.hops) == (True, False, ())

    def test_a_reply_can_be_printed_without_what_it_carries(self) -> None:
        reply = Reply(200, (("Set-Cookie", "s1"),), b"s2", "https://u:s3@a.test/", "GET", hops=((("Location", "s4"),),))
        printed = repr(reply)
        assert "status=200" in printed
        assert not [secret for secret in ("s1", "s2", "s3", "s4") if secret in printed]

    def test_a_verdict_says_nothing_that_it_was_not_told(self) -> None:
        verdict = Verdict(Reply(200, (), b"", URL, "GET"))
        assert (verdict.event, verdict.stage, verdict.receipt, verdict.error) == (None, None, None, None)
        assert (verdict.delivers, verdict.pending) == (False, False)


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 299, 300, 301, 399, 400, 401])
    def test_without_a_receipt_only_a_success_is_an_answer(self, status: int) -> None:
        verdict = heard(status)
        assert (verdict.delivers, verdict.event, verdict.error) == (status < 300, None, None)

    @pytest.mark.parametrize("status", [200, 299, 300, 399, 400, 401, 403, 500])
    def test_paid_a_redirect_within_the_house_is_one_too(self, status: int) -> None:
        verdict = heard(status, receipt())
        assert (verdict.delivers, verdict.event, verdict.error) == (status < 400, Event.SETTLE, None)
        assert verdict.stage == Settled(TRANSACTION)

    @pytest.mark.parametrize("status", [200, 299, 300])
    @pytest.mark.parametrize("paid", [True, False])
    def test_what_holds_nothing_is_no_answer(self, status: int, paid: bool) -> None:
        fields = receipt() if paid else {}
        assert heard(status, fields, empty=True).delivers is (paid and status == 300)
        assert heard(status, fields, empty=True, method="HEAD").delivers is (paid or status < 300)

    @pytest.mark.parametrize("status", [204, 205])
    def test_what_has_no_body_may_hold_nothing(self, status: int) -> None:
        assert heard(status, receipt(), empty=True).delivers

    @pytest.mark.parametrize("status", [200, 400, 403, 408, 409, 410, 500])
    def test_A09_only_a_conflict_may_still_be_served(self, status: int) -> None:
        assert heard(status).pending is (status == 409)

    @pytest.mark.parametrize("status", [200, 402])
    def test_what_used_nothing_proves_nothing_and_is_kept_as_a_receipt(self, status: int) -> None:
        """The signature is alive, and the seller's word that it won't be used is no proof."""
        verdict = heard(status, asks().headers if status == 402 else {}, NOTHING_DUE, subject=METERED)
        assert (verdict.event, verdict.stage, verdict.pending) == (None, None, False)
        assert verdict.receipt is not None
        assert verdict.receipt.amount == "0"
        assert verdict.delivers is (status == 200)

    @pytest.mark.parametrize("subject", [SUBJECT, METERED])
    def test_a_402_beside_nothing_due_is_no_answer(self, subject: Subject) -> None:
        error = refusal(heard(402, asks(error="nope").headers, NOTHING_DUE, subject=subject))
        assert (error.code, error.moved) == ("nope", Moved.UNKNOWN)
        assert refusal(heard(402, NOTHING_DUE)).code == "payment_refused"
        assert heard(200, NOTHING_DUE, subject=subject).error is None


class TestUnpaid:
    @pytest.mark.parametrize("status", [400, 401, 402, 403, 500])
    @pytest.mark.parametrize("fields", [receipt(), REFUSED, receipt(False, error_reason="settlement_pending")])
    def test_only_a_402_asks_for_payment_again(self, status: int, fields: Fields) -> None:
        assert (heard(status, fields).error is not None) is (status == 402)

    def test_who_took_it_and_asks_again_is_named_with_the_transaction(self) -> None:
        error = refusal(heard(402, asks().headers, receipt()))
        assert (error.code, error.moved, error.details) == (
            "paid_and_asked_again",
            Moved.YES,
            {"transaction": TRANSACTION},
        )
        assert TRANSACTION in error.message

    @pytest.mark.parametrize("status", [200, 402, 500])
    def test_a_refusal_by_receipt_is_written_down_with_its_words(self, status: int) -> None:
        verdict = heard(status, receipt(False, error_reason="nope", error_message="because"))
        assert (verdict.event, verdict.stage) == (Event.REFUSE, Refused("nope", "because"))
        assert verdict.receipt is not None
        assert heard(status, REFUSED).stage == Refused("nope", "nope")

    @pytest.mark.parametrize(
        "reason",
        ["duplicate_settlement", "invalid_exact_evm_nonce_already_used", "permit2_invalid_nonce"],
    )
    @pytest.mark.parametrize("status", [200, 402, 500])
    def test_A10_a_receipt_that_says_seen_before_proves_nothing(self, reason: str, status: int) -> None:
        verdict = heard(status, receipt(False, error_reason=reason))
        assert (verdict.event, verdict.stage, verdict.pending) == (None, None, False)
        assert verdict.receipt is not None
        assert (verdict.error is not None) is (status == 402)

    @pytest.mark.parametrize("reason", ["aaa_first", "settlement_pendinf", "settlement_pendinh", "zzz_last"])
    def test_A09_a_reason_that_only_resembles_pending_is_a_refusal(self, reason: str) -> None:
        for verdict in (heard(402, asks(error=reason).headers), heard(402, receipt(False, error_reason=reason))):
            assert (verdict.event, verdict.pending) == (Event.REFUSE, False)
            assert refusal(verdict).code == reason

    @pytest.mark.parametrize(("fields", "seconds"), [({}, 2), ({"Retry-After": "0"}, 0), ({"Retry-After": "9"}, 9)])
    def test_A09_pending_says_when_to_ask_again_and_for_what(self, fields: Fields, seconds: int) -> None:
        said = heard(402, asks(error="settlement_pending").headers, fields)
        named = heard(402, receipt(False, error_reason="failed", transaction=TRANSACTION), fields)
        for verdict, transaction in ((said, ""), (named, TRANSACTION)):
            assert isinstance(verdict.error, PendingError)
            assert (verdict.error.transaction, verdict.error.retry_after_seconds) == (transaction, seconds)
            assert (verdict.event, verdict.pending) == (None, True)


class TestReasons:
    def test_what_to_do_is_added_to_a_bare_code_only(self) -> None:
        bare = refusal(heard(402, asks(error="over_committed").headers))
        assert "x402 approve" in bare.message
        for words in ("an own word", "zzz"):
            told = refusal(heard(402, receipt(False, error_reason="over_committed", error_message=words)))
            assert "x402 approve" not in told.message
            assert f"over_committed ({words})" in told.message
            assert told.details == {"reason": "over_committed", "message": words}
        plain = refusal(heard(402, asks(error="nope").headers))
        assert plain.message.startswith("the seller refused the payment: nope. It was signed once and stays reserved")

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("abc", "abc"), ("a" * 100, "a" * 100), ("a1_", "a1_"), ("ab", ""), ("a" * 101, ""), ("1ab", ""),
            ("_ab", ""), ("Abc", ""), ("abc ", ""), ("abc\n", ""), ("abé", ""),
        ],
    )  # fmt: skip
    def test_a_code_is_one_word_of_three_to_a_hundred_letters(self, text: str, code: str) -> None:
        for verdict in (heard(402, asks(error=text).headers), heard(402, receipt(False, error_reason=text))):
            assert refusal(verdict).code == (code or "payment_refused")
            assert refusal(verdict).details["message"] == text

    def test_a_402_that_gives_no_reason_says_so(self) -> None:
        silent = refusal(heard(402, asks().headers))
        assert (silent.code, silent.details["message"]) == (
            "payment_refused",
            "the seller asks for payment again and gives no reason",
        )
        unread = refusal(heard(402, body=b"<html>"))
        assert (unread.code, unread.details["message"]) == (
            "payment_refused",
            "the seller asks for payment again and gives no readable reason",
        )

    def test_a_receipt_without_a_reason_leaves_it_to_the_challenge(self) -> None:
        verdict = heard(402, asks(error="nope").headers, receipt(False))
        assert (verdict.event, refusal(verdict).code) == (Event.REFUSE, "nope")

    def test_an_empty_balance_is_told_by_its_own_code(self) -> None:
        body = json.dumps({"error": {"code": "insufficient_balance", "message": "top up"}}).encode()
        error = refusal(heard(402, body=body))
        assert (error.code, error.details["message"]) == ("insufficient_balance", "top up")

    def test_E04_five_hundred_characters_of_a_reason_are_kept(self) -> None:
        long = refusal(heard(402, asks(error="x " * 300).headers))
        assert len(long.details["message"]) == 500
        short = refusal(heard(402, asks(error="x" * 500).headers))
        assert short.details["message"] == "x" * 500
        body = json.dumps({"error": {"code": "insufficient_balance", "message": "x" * 600}}).encode()
        assert refusal(heard(402, body=body)).details["message"] == "x" * 500

    def test_B04_a_seller_that_now_names_others_says_that_it_changed_the_payee(self) -> None:
        other = offer(pay_to="0x" + "99" * 20)
        verdict = heard(402, asks(other, other, error="nope").headers)
        assert verdict.event is Event.REFUSE
        assert refusal(verdict).code == "payee_changed"
        assert PAYEE in refusal(verdict).details["message"]
        for offers in ((other, offer()), (offer(pay_to=PAYEE.lower()), other)):
            assert refusal(heard(402, asks(*offers, error="nope").headers)).code == "nope"
        nothing = b'{"x402Version":2,"error":"nope","accepts":[]}'
        assert refusal(heard(402, body=nothing)).code == "nope"


class TestMaximum:
    @pytest.mark.parametrize(
        ("amount", "kept"), [("0", 0), ("1", 1), ("9999", 9_999), ("10000", 10_000), ("10001", None), (None, None)]
    )
    def test_B16_the_seller_says_what_it_took_of_a_maximum_and_never_more(
        self, amount: str | None, kept: int | None
    ) -> None:
        verdict = heard(200, receipt(amount=amount), subject=METERED)
        assert (verdict.event, verdict.stage) == (Event.SETTLE, Settled(TRANSACTION, amount=kept))

    @pytest.mark.parametrize("record", [{}, {"scheme": "exact"}, {"scheme": "a"}, {"scheme": "z"}])
    def test_an_exact_payment_was_taken_whole_whatever_the_seller_says(self, record: dict[str, Any]) -> None:
        subject = replace(SUBJECT, record=record)
        assert not is_metered(subject)
        assert taken(Receipt.settled(TRANSACTION, subject.network, None, 1), subject) == Settled(TRANSACTION)

    def test_a_maximum_is_known_by_its_scheme(self) -> None:
        assert is_metered(METERED)


class TestOrigins:
    @pytest.mark.parametrize(
        ("url", "spelt"),
        [
            ("https://A.test/x?y", "https://a.test:443"),
            ("http://a.test", "http://a.test:80"),
            ("HTTP://a.test:8080/", "http://a.test:8080"),
            ("https://u:p@a.test:443/", "https://a.test:443"),
            ("ftp://a.test/", "ftp://a.test:0"),
            ("/goods", "://:0"),
            ("", "://:0"),
            ("https://a.test:bad/", ""),
            ("http://[", ""),
        ],
    )
    def test_one_place_has_one_spelling(self, url: str, spelt: str) -> None:
        assert origin(url) == spelt

    @pytest.mark.parametrize("url", ["https://a.test/", "https://z.test/", "http://seller.test/", f"{ORIGIN}:444/"])
    @pytest.mark.parametrize("status", [200, 402, 500])
    def test_B05_nobody_else_answers_refuses_or_acknowledges_the_payment(self, url: str, status: int) -> None:
        for fields in ({}, receipt(), REFUSED):
            verdict = heard(status, fields, url=url)
            assert (verdict.event, verdict.receipt, verdict.delivers) == (None, None, False)
            error = refusal(verdict)
            assert error.code == "redirected_after_payment"
            assert error.details == {"redirect": origin(url)}
            assert f"{ORIGIN}:443 answered" in error.message
            assert f"redirect to {origin(url)}, which" in error.message

    @pytest.mark.parametrize("status", [300, 302, 399])
    def test_B05_a_redirect_is_judged_by_where_it_points(self, status: int) -> None:
        away = heard(status, {"Location": "https://z.test/"})
        assert refusal(away).details == {"redirect": "https://z.test:443"}
        for location in ("/x", "x?y", URL, "//seller.test/x", ""):
            assert heard(status, {"Location": location}).error is None
        assert heard(status).error is None

    @pytest.mark.parametrize("status", [299, 400])
    def test_what_is_no_redirect_points_nowhere(self, status: int) -> None:
        assert heard(status, {"Location": "https://z.test/"}).error is None

    def test_B05_an_address_that_is_none_is_called_so(self) -> None:
        error = refusal(heard(302, {"Location": "http://["}))
        assert error.details == {"redirect": ""}
        assert "redirect to no address, which" in error.message

    @pytest.mark.parametrize("status", [200, 401, 402, 403, 500])
    def test_B05_after_a_redirect_in_the_house_a_402_is_no_refusal(self, status: int) -> None:
        verdict = heard(status, hops=({"Location": "/x"},))
        assert (verdict.error is not None) is (status == 402)
        assert verdict.event is None


class TestReceipts:
    def test_B13_the_redirect_by_which_the_seller_answered_may_carry_it(self) -> None:
        for url in (URL, "https://z.test/goods"):
            verdict = heard(200, url=url, hops=(receipt(),))
            assert (verdict.event, verdict.delivers, verdict.error) == (Event.SETTLE, True, None)
            again = heard(402, asks().headers, url=url, hops=(receipt(),))
            assert (again.event, refusal(again).code) == (Event.SETTLE, "paid_and_asked_again")

    def test_B13_only_its_first_redirect_is_the_sellers(self) -> None:
        verdict = heard(200, url="https://z.test/goods", hops=({"Location": "https://y.test"}, receipt()))
        assert (verdict.event, verdict.receipt) == (None, None)
        assert refusal(verdict).code == "redirected_after_payment"

    @pytest.mark.parametrize("broken", [{"PAYMENT-RESPONSE": "%%%"}, receipt(payer=PAYEE), {}])
    def test_B13_one_that_is_none_hides_no_other(self, broken: Fields) -> None:
        verdict = heard(200, broken, hops=(receipt(),))
        assert verdict.event is Event.SETTLE

    def test_B13_a_refusal_on_the_way_to_somebody_else_is_kept_and_decides_nothing(self) -> None:
        verdict = heard(200, url="https://z.test/", hops=(REFUSED,))
        assert (verdict.event, verdict.delivers) == (None, False)
        assert verdict.receipt is not None
        assert refusal(verdict).code == "redirected_after_payment"

    @pytest.mark.parametrize("network", [networks.BASE, "eip155:1", "eip155:9", networks.SOLANA_DEVNET])
    def test_B13_a_receipt_of_another_network_is_not_ours(self, network: str) -> None:
        assert heard(200, receipt(network=network)).receipt is None

    def test_B13_what_a_receipt_does_not_name_it_does_not_contradict(self) -> None:
        for fields in (receipt(network=""), receipt(payer=None), receipt(payer=""), receipt(payer=PAYER.lower())):
            assert heard(200, fields).event is Event.SETTLE

    @pytest.mark.parametrize("payer", ["0x" + "00" * 20, "0x" + "ff" * 20])
    def test_B13_a_receipt_of_another_payer_is_not_ours(self, payer: str) -> None:
        assert heard(200, receipt(payer=payer)).receipt is None

    def test_B13_addresses_of_solana_are_spelt_in_one_way_only(self) -> None:
        subject = replace(SUBJECT, network=networks.SOLANA_DEVNET, payer=SOLANA_PAYER)
        for payer, ours in ((SOLANA_PAYER, True), (SOLANA_PAYER.lower(), False), (SOLANA_PAYER.upper(), False)):
            reply = Reply(200, tuple(receipt(network=subject.network, payer=payer).items()), b"", URL, "POST")
            assert (heard_receipt(reply, subject, sent_to=URL) is not None) is ours


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3599", 3599), ("3600", 3600), ("3601", 3600), ("9" * 9, 3600), ("9" * 10, None), ("0" * 9, 0), ("+1", None)],
)
def test_a_wait_is_at_most_an_hour_and_nine_digits_long(value: str, seconds: int | None) -> None:
    assert retry_after([("Retry-After", value)]) == seconds


def test_the_first_wait_that_can_be_read_counts() -> None:
    assert retry_after([("Retry-After", "soon"), ("Retry-After", "5"), ("Retry-After", "6")]) == 5
    assert retry_after([("Age", "5")]) is None

"""A host that takes money and brings nothing is not paid for long, and a host's payee does not change unnoticed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from solders.keypair import Keypair

from x402.client.auth import X402Auth
from x402.client.breaker import Breaker, Standing
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.client.effects import Send, Terms, Wanted
from x402.client.journal import Journal
from x402.client.owner import Call
from x402.client.trust import Payee
from x402.errors import DeclinedError, UnpaidError, X402Error
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.stages import State

from .driver import Lost, drive, terms
from .seller import (
    NOW,
    PAYEE,
    Answer,
    Clock,
    Seat,
    Seller,
    asks,
    delivers,
    offer,
    pending,
    receipt,
    shop,
    states,
)

OTHER = "0x" + "99" * 20
THIEVES: dict[str, Answer] = {
    "402 forever": asks(),
    "402 after taking it": Answer(402, asks().headers | receipt(), b"{}"),
    "empty 200": Answer(200, receipt(), b""),
    "500 after pay": Answer(500, receipt(), b"oops"),
    "503 pending": pending(),
    "404 after pay": Answer(404, receipt(), b"{}"),
}


def one(status_or_error: str, number: int, with_terms: Terms, seller: Callable[[Send], Answer]) -> str:
    """How a call for page `number` ended: its status, or the code of what was raised."""
    try:
        _, status = drive(Wanted("GET", f"https://{status_or_error}/{number}", b""), with_terms, seller)
    except X402Error as error:
        return error.code
    except Lost:
        return "lost"
    return str(status)


class TestThieves:
    @pytest.mark.parametrize("thief", THIEVES)
    def test_B11_a_thousand_calls_cost_three_payments(self, thief: str) -> None:
        with_terms, paid = terms(Clock()), []

        def seller(request: Send) -> Answer:
            if not request.payment:
                return asks()
            paid.append(request.payment[0][1])
            return THIEVES[thief]

        ends = [one("thief.test", number, with_terms, seller) for number in range(1000)]
        assert ends[3:] == ["host_suspended"] * 997
        assert len(set(paid)) == len(paid) == 3
        assert with_terms.journal.spent(86_400) == Decimal("0.03")
        # The control: an honest host beside it is paid as ever.
        honest = [one("honest.test", number, with_terms, shopkeeper()) for number in range(20)]
        assert honest == ["200"] * 20

    def test_B11_lost_answers_count_as_well(self) -> None:
        with_terms = terms(Clock())

        def seller(request: Send) -> Answer:
            if request.payment:
                raise Lost
            return asks()

        ends = [one("gone.test", number, with_terms, seller) for number in range(9)]
        assert ends == ["lost"] * 3 + ["host_suspended"] * 6

    def test_B11_a_call_that_was_not_answered_is_no_second_payment(self) -> None:
        with_terms, paid = terms(Clock(), breaker=Breaker(failures=100)), []

        def seller(request: Send) -> Answer:
            if not request.payment:
                return asks()
            paid.append(request.payment[0][1])
            return pending()

        for _ in range(50):
            assert one("slow.test", 1, with_terms, seller) == "503"
        assert len(set(paid)) == 1

    def test_B11_it_outlives_the_process(self, tmp_path: Path) -> None:
        clock = Clock()
        for number in range(5):
            journal = Journal(tmp_path / "journal.sqlite", clock=clock)
            with_terms = replace(terms(clock), journal=journal)
            end = one("thief.test", number, with_terms, shopkeeper(Answer(500, receipt())))
            assert end == ("500" if number < 3 else "host_suspended")
            journal.close()


class TestRecovery:
    def test_after_the_cool_down_one_payment_is_tried(self) -> None:
        clock = Clock()
        with_terms = terms(clock, breaker=Breaker(failures=2, cool_down_seconds=60))
        thief, honest = shopkeeper(Answer(500)), shopkeeper()
        ends = [one("h.test", number, with_terms, thief) for number in range(3)]
        clock.now += 59
        ends += [one("h.test", 3, with_terms, honest)]
        clock.now += 1
        ends += [one("h.test", number, with_terms, thief) for number in (4, 5)]
        assert ends == ["500", "500", "host_suspended", "host_suspended", "500", "host_suspended"]
        clock.now += 60
        assert [one("h.test", number, with_terms, honest) for number in range(6, 10)] == ["200"] * 4

    def test_fetching_what_was_paid_for_closes_it(self) -> None:
        with_terms, thief = terms(Clock()), shopkeeper(Answer(500))
        for number in range(3):
            one("h.test", number, with_terms, thief)
        assert one("h.test", 9, with_terms, thief) == "host_suspended"
        assert one("h.test", 2, with_terms, shopkeeper()) == "200"
        assert one("h.test", 9, with_terms, shopkeeper()) == "200"
        assert with_terms.journal.standing("h.test") == Standing()

    def test_what_is_proven_dead_no_longer_counts(self) -> None:
        with_terms, thief = terms(Clock()), shopkeeper(asks())
        for number in range(3):
            one("h.test", number, with_terms, thief)
        assert with_terms.journal.standing("h.test") == Standing(3, NOW)
        with_terms.journal.release(with_terms.journal.history()[0].pay_id, "expired unused")
        assert one("h.test", 9, with_terms, shopkeeper()) == "200"

    def test_calls_in_work_are_no_failures_and_block_a_second_trial(self) -> None:
        clock = Clock()
        with_terms = terms(clock)
        journal, call = with_terms.journal, Call()
        for number in range(3):
            one("h.test", number, with_terms, shopkeeper(Answer(500)))
        clock.now += 600
        subject = replace(journal.history()[0].entry.subject, pay_id="trial", fingerprint="t")
        hold = {"host": "h.test", "usd": Decimal("0.01"), "limits": Limits(), "breaker": Breaker()}
        journal.hold(subject, call=call, **hold)  # type: ignore[arg-type]
        assert one("h.test", 9, with_terms, shopkeeper()) == "host_suspended"
        busy = [Call() for _ in range(9)]
        for number, other in enumerate(busy):
            journal.hold(replace(subject, pay_id=f"p{number}"), call=other, **hold | {"host": "busy.test"})  # type: ignore[arg-type]
            journal.expose(f"p{number}", "PAYMENT-SIGNATURE", "x")
        assert journal.standing("busy.test") == Standing(0, clock.now)

    @pytest.mark.parametrize("bad", [{"failures": 0}, {"cool_down_seconds": 0}])
    def test_a_breaker_that_never_closes_is_none(self, bad: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="breaker"):
            Breaker(**bad)


class TestSeats:
    def test_B11_an_empty_answer_is_none_unless_it_says_so(self, seat: Seat, auth: X402Auth) -> None:
        for empty in (delivers(b""), delivers(b"", stream=True)):
            assert seat.call(auth, Seller(shop(empty)), content=b"%d" % empty.stream).content == b""
        assert auth.journal.standing("seller.test").unanswered == 2
        for number, whole in enumerate((Answer(204, receipt(), b""), delivers(b"x", stream=True))):
            assert seat.call(auth, Seller(shop(whole)), content=b"whole %d" % number).is_success
        assert seat.call(auth, Seller(shop(delivers(b"", stream=True))), method="HEAD").is_success
        assert auth.journal.standing("seller.test") == Standing()

    def test_a_reader_who_stops_early_blames_nobody(self, auth: X402Auth) -> None:
        seller = Seller(shop(delivers(b"a stream that is longer than one piece", stream=True)))
        with httpx.Client(transport=httpx.MockTransport(seller), auth=auth) as client:
            for number in range(5):
                with client.stream("GET", f"https://seller.test/{number}") as response:
                    next(response.iter_raw())
        assert len(seller.signatures) == 5
        assert all(record.open for record in auth.journal.history())
        assert auth.journal.standing("seller.test") == Standing()

    def test_an_answer_that_breaks_off_counts(self, seat: Seat, auth: X402Auth) -> None:
        seller = Seller(shop(delivers(b"a stream that is longer than one piece", breaks_off=True)))
        for number in range(3):
            with pytest.raises(seat.library.ReadError):
                seat.call(auth, seller, content=b"%d" % number)
        with pytest.raises(DeclinedError) as caught:
            seat.call(auth, seller, content=b"another")
        assert caught.value.code == "host_suspended"
        assert caught.value.details["retry_after_seconds"] == 600


class TestPayees:
    def test_B04_another_payee_after_the_first_answer_is_refused(self, seat: Seat, auth: X402Auth) -> None:
        swapped = Seller(shop(delivers(), offer(pay_to=OTHER)))
        seat.call(auth, Seller(shop(delivers())))
        with pytest.raises(DeclinedError) as caught:
            seat.call(auth, swapped)
        assert caught.value.code == "payee_changed"
        assert f"x402 trust seller.test {OTHER}" in caught.value.message
        assert swapped.payments == [None]
        # The controls: the old payee in any spelling, another host, and the new one once a person trusts it.
        seat.call(auth, Seller(shop(delivers(), offer(pay_to=PAYEE.lower()))))
        seat.call(auth, swapped, url="https://other.test/")
        auth.journal.trust("Seller.test:443", OTHER)
        seat.call(auth, swapped)
        assert states(auth) == [State.SETTLED] * 4

    def test_B04_a_payment_without_an_answer_makes_nobody_known(self, seat: Seat, auth: X402Auth) -> None:
        with pytest.raises(UnpaidError):
            seat.call(auth, Seller(shop(asks(), offer(pay_to=OTHER))))
        assert auth.journal.payees("seller.test") == frozenset()
        seat.call(auth, Seller(shop(delivers())), content=b"another")

    def test_B04_the_known_one_of_two_offers_is_taken(self, auth: X402Auth) -> None:
        seat = Seat(httpx, True)
        seat.call(auth, Seller(shop(delivers())))
        seat.call(auth, Seller(shop(delivers(), offer(pay_to=OTHER, amount=1), offer())))
        assert {record.entry.subject.payee for record in auth.journal.history()} == {PAYEE}

    def test_B04_the_whole_first_challenge_is_known_and_no_other_network(self, auth: X402Auth) -> None:
        solana = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"
        seat, token = Seat(httpx, True), "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
        extra = {"feePayer": "BFK9TLC3edb13K6v4YyH3DwPb5DSUpkWvb7XnqCL9b4F", "recentBlockhash": "1" * 32}
        there = offer(network=SOLANA_DEVNET, asset=token, pay_to=solana, extra=extra)
        seat.call(auth, Seller(shop(delivers(), offer(), there)))
        asset = offer().asset
        known = {Payee(PAYEE, BASE_SEPOLIA, asset), Payee(solana, SOLANA_DEVNET, token)}
        assert auth.journal.payees("seller.test") == known
        elsewhere = Seller(shop(delivers(), there.model_copy(update={"pay_to": str(Keypair().pubkey())})))
        with pytest.raises(DeclinedError) as caught:
            seat.call(auth, elsewhere)
        assert caught.value.code == "payee_changed"
        seat.call(auth, Seller(shop(delivers(), there)))

    def test_a_policy_that_names_payees_needs_no_memory(self, auth: X402Auth) -> None:
        seat = Seat(httpx, True)
        seat.call(auth, Seller(shop(delivers())))
        auth.terms = replace(auth.terms, policy=Policy(payees={"seller.test": [OTHER]}))
        seat.call(auth, Seller(shop(delivers(), offer(pay_to=OTHER))))
        with pytest.raises(DeclinedError):
            seat.call(auth, Seller(shop(delivers())))
        auth.terms = replace(auth.terms, policy=Policy(payees={"seller.test": []}))
        with pytest.raises(DeclinedError):
            seat.call(auth, Seller(shop(delivers())))

    def test_a_seller_on_this_machine_has_new_addresses_at_every_start(self, auth: X402Auth) -> None:
        seat = Seat(httpx, True)
        for payee in (PAYEE, OTHER):
            seat.call(auth, Seller(shop(delivers(), offer(pay_to=payee))), url="http://127.0.0.1:4021/")
        assert states(auth) == [State.SETTLED] * 2


def test_a_journal_of_the_first_version_opens_with_what_it_knew(tmp_path: Path) -> None:
    """Version 1 had neither answers nor payees: a closed payment was answered, and names its host's payee."""
    from x402.client import journal_file

    path, clock = tmp_path / "journal.sqlite", Clock()
    with sqlite3.connect(path) as db:
        db.executescript(journal_file._FIRST)
        db.execute("PRAGMA user_version = 1")
        row = "INSERT INTO payments (pay_id, state, network, asset, payer, payee, host, amount, usd_micros, expires_at,"
        row += " fingerprint, record, stage, header, open, created_at, updated_at) VALUES (?, ?, 'eip155:84532', 'a',"
        row += " 'b', ?, 'h.test', '1', 10000, 0, ?, '{}', ?, 'header', ?, 5, 9)"
        db.execute(row, ("done", "settled", PAYEE, "f1", '{"transaction": "0x1", "block": 0}', 0))
        db.execute(row, ("open", "exposed", OTHER, "f2", '{"header": "header"}', 1))
    journal = Journal(path, clock=clock)
    done, still_open = journal.records()
    assert (done.pay_id, done.answered_at, done.open) == ("done", 9, False)
    assert (still_open.pay_id, still_open.answered_at, still_open.open) == ("open", 0, True)
    assert journal.payees("h.test") == {Payee(PAYEE, BASE_SEPOLIA, "a")}
    assert journal.standing("h.test") == Standing(1, 5)
    journal.close()


def shopkeeper(when_paid: Answer | None = None) -> Callable[[Send], Answer]:
    """A seller who asks for a cent, and then says this."""
    return lambda request: (when_paid or delivers()) if request.payment else asks()

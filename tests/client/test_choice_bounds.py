"""Where the rules end by which an offer is signed: one unit, one spelling, one doubt to either side (B04-B09, F12)."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from x402 import networks
from x402.client.allowance import Account, Allowance
from x402.client.choose import Buyer, Policy, choose, dollar_text, dollars, is_secure
from x402.client.trust import Payee
from x402.errors import DeclinedError, MalformedError
from x402.money import Asset
from x402.networks import BASE, BASE_SEPOLIA, SOLANA_DEVNET, Network
from x402.wire.challenge import Challenge, Requirement, Unreadable

from .seller import PAYEE, challenge, offer
from .test_choose import BUYER, on, reason

FACILITATOR = "0x" + "33" * 20
OTHER = "0x" + "99" * 20
IGRA = "eip155:38833"
"""Its dollar has no EIP-712 domain, and so no permits."""
RICH = replace(BUYER, cap=Decimal(10) ** 80)


def maximum(network: str = BASE_SEPOLIA, **changes: Any) -> Requirement:
    """A cent at most, by Permit2."""
    extra = {"assetTransferMethod": "permit2", "facilitatorAddress": FACILITATOR}
    members = {"scheme": "upto", "extra": on(network).extra | extra}
    return on(network, **(members | changes))


def allowed(*known: Any, network: str = BASE_SEPOLIA, **changes: Any) -> Buyer:
    """A buyer of whom a node has told what Permit2 may move."""
    allowances = {(network, networks.get(network).usd.address): Allowance(*known)}
    return replace(BUYER, allowances=allowances, **changes)


def declined(*offers: Requirement, buyer: Buyer = BUYER, policy: Policy | None = None) -> DeclinedError:
    with pytest.raises(DeclinedError) as caught:
        choose(Challenge(accepts=offers), buyer, policy or Policy())
    return caught.value


class TestPolicy:
    @pytest.mark.parametrize("seconds", [1, 2, 600, 86_399, 86_400])
    def test_B09_a_signature_may_live_from_one_second_to_one_day(self, seconds: int) -> None:
        assert Policy(lifetime_seconds=seconds).lifetime_seconds == seconds

    @pytest.mark.parametrize("seconds", [-1, 0, 86_401])
    def test_B09_no_second_less_and_none_more(self, seconds: int) -> None:
        with pytest.raises(ValueError, match="between 1 and 86400"):
            Policy(lifetime_seconds=seconds)

    def test_what_holds_when_nothing_is_said(self) -> None:
        policy, buyer = Policy(), Buyer({}, "seller.test", secure=True)
        assert (policy.max_per_call, policy.lifetime_seconds, policy.allow_http) == (None, 600, False)
        assert (policy.networks, policy.schemes, policy.mainnet) == ((), ("exact", "upto"), None)
        assert (buyer.cap, buyer.testnet_only, buyer.sponsored) == (Decimal(1), False, False)

    @pytest.mark.parametrize(
        ("said", "means"),
        [(None, None), ("0", "0"), ("$1.50", "1.50"), ("2 USD", "2"), ("0.5 USDC", "0.5"), (3, "3")],
    )
    def test_a_limit_is_kept_as_a_number_of_dollars(self, said: Any, means: str | None) -> None:
        number = None if means is None else Decimal(means)
        assert dollars(said) == number
        assert Policy(max_per_call=said).max_per_call == number

    def test_a_limit_in_another_currency_says_so(self) -> None:
        with pytest.raises(MalformedError, match="limits are in US dollars") as caught:
            dollars("1 EUR")
        assert caught.value.code == "invalid_price"

    @pytest.mark.parametrize(
        ("said", "reads"),
        [("0.000001", "0.000001"), ("1", "1"), (2, "2"), ("$0.50", "0.50"), (Decimal("1E+3"), "1000")],
    )
    def test_an_amount_of_dollars_reads_as_plain_decimals(self, said: Any, reads: str) -> None:
        assert dollar_text(said) == reads

    @pytest.mark.parametrize("said", ["0", "0.00", 0, None])
    def test_nothing_is_no_amount(self, said: Any) -> None:
        with pytest.raises(MalformedError, match="more than nothing") as caught:
            dollar_text(said)
        assert caught.value.code == "invalid_price"


@pytest.mark.parametrize(
    ("scheme", "host", "secure"),
    [
        ("https", "a.test", True),
        ("https", "z.test", True),
        ("http", "a.test", False),
        ("http", "z.test", False),
        ("ftp", "seller.test", False),
        ("wss", "seller.test", False),
        ("http", "shop.localhost", True),
        ("http", "notlocalhost", False),
        ("http", "[::1]", True),
        ("http", "::2", False),
        ("http", "126.255.255.255", False),
        ("http", "128.0.0.1", False),
        ("", "localhost", True),
    ],
)
def test_B04_nobody_stands_between_only_on_tls_and_on_this_machine(scheme: str, host: str, secure: bool) -> None:
    assert is_secure(scheme, host) is secure


class TestSchemes:
    def test_a_scheme_that_the_policy_leaves_out_is_not_paid(self) -> None:
        buyer = allowed(10_000)
        assert choose(challenge(maximum()), buyer, Policy(schemes=("upto",))).requirement == maximum()
        assert reason(maximum(), buyer, Policy(schemes=("exact",))) == "unsupported_scheme"
        assert reason(offer(), buyer, Policy(schemes=("upto",))) == "unsupported_scheme"

    def test_a_scheme_that_nobody_here_can_pay_is_not_paid_by_any_policy(self) -> None:
        policy = Policy(schemes=("gift", "exact"))
        assert reason(offer(scheme="gift"), policy=policy) == "unsupported_scheme"
        assert reason(on(SOLANA_DEVNET, scheme="gift"), policy=policy) == "unsupported_scheme"

    def test_a_maximum_is_paid_on_evm_networks_only(self) -> None:
        assert reason(on(SOLANA_DEVNET, scheme="upto")) == "unsupported_scheme"
        assert reason(maximum(network=BASE_SEPOLIA, asset=OTHER)) == "unknown_asset"
        elsewhere = maximum().model_copy(update={"network": "eip155:999999999"})
        assert reason(elsewhere) == "unknown_network"

    def test_the_preferred_scheme_is_taken_at_the_same_price_and_the_cheaper_one_at_another(self) -> None:
        buyer, exact, upto = allowed(10_000), offer(), maximum()
        for offers in ((exact, upto), (upto, exact)):
            assert choose(challenge(*offers), buyer, Policy()).requirement == exact
            assert choose(challenge(*offers), buyer, Policy(schemes=("upto", "exact"))).requirement == upto
        cheaper = offer(amount=9_999)
        assert choose(challenge(upto, cheaper), buyer, Policy(schemes=("upto", "exact"))).requirement == cheaper

    @pytest.mark.parametrize("scheme", ["exact", "upto"])
    def test_a_network_of_a_kind_that_nobody_here_can_sign_for(
        self, scheme: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asset = Asset("cosmos:hub", "uusdc", "USDC", 6, "bank")
        monkeypatch.setitem(networks._BY_ID, "cosmos:hub", Network("cosmos:hub", "", "Hub", True, (asset,)))
        strange = offer(scheme=scheme, network="cosmos:hub", asset="uusdc")
        buyer = replace(BUYER, addresses={"cosmos": "cosmos1x"})
        assert reason(strange, buyer) == ("unpayable_offer" if scheme == "exact" else "unsupported_scheme")


class TestAllowance:
    def test_what_no_node_has_told_is_not_signed_for(self) -> None:
        error = declined(maximum())
        assert error.code == "permit2_allowance_unknown"
        assert "X402_EVM_RPC_URL" in error.message
        elsewhere = replace(BUYER, allowances={(BASE, networks.get(BASE).usd.address): Allowance(10_000)})
        assert reason(maximum(), elsewhere) == "permit2_allowance_unknown"

    @pytest.mark.parametrize("units", [10_000, 10_001, 2**256 - 1])
    def test_an_allowance_of_the_maximum_is_enough(self, units: int) -> None:
        assert choose(challenge(maximum()), allowed(units), Policy()).amount.units == 10_000

    @pytest.mark.parametrize("units", [0, 9_999])
    def test_a_unit_less_is_not_and_what_to_do_is_said(self, units: int) -> None:
        error = declined(maximum(), buyer=allowed(units))
        assert error.code == "permit2_allowance_required"
        assert "x402 approve --network base-sepolia" in error.message
        assert f"{Decimal(units).scaleb(-6):f}".rstrip("0").rstrip(".") in error.message

    def test_a_permit_makes_up_for_it_where_the_seller_takes_one(self) -> None:
        first = 0
        assert choose(challenge(maximum()), allowed(9_999, first, sponsored=True), Policy()).usd == Decimal("0.01")
        assert reason(maximum(), allowed(9_999, first)) == "permit2_allowance_required"
        assert reason(maximum(), allowed(9_999, None, sponsored=True)) == "permit2_allowance_required"

    def test_a_token_without_a_domain_has_no_permits(self) -> None:
        dollar = maximum(IGRA)
        amount = dollar.amount
        lacking = allowed(amount - 1, 5, network=IGRA, sponsored=True)
        assert reason(dollar, lacking) == "permit2_allowance_required"
        assert choose(challenge(dollar), allowed(amount, network=IGRA), Policy()).amount.units == amount

    def test_an_approval_of_the_payers_own_makes_up_for_it(self) -> None:
        account = Account(0, 10**9, 1)
        assert choose(challenge(maximum()), allowed(0, None, account), Policy()).usd == Decimal("0.01")

    def test_an_allowance_is_no_condition_of_an_exact_payment(self) -> None:
        assert choose(challenge(), allowed(0), Policy()).requirement == offer()

    @pytest.mark.parametrize("named", [None, "", "0x12", 7])
    def test_B07_a_maximum_that_names_nobody_who_may_take_it_is_not_signed(self, named: Any) -> None:
        extra = maximum().extra | {"facilitatorAddress": named}
        assert reason(maximum(extra=extra), allowed(10_000)) == "unpayable_offer"


class TestAmounts:
    @pytest.mark.parametrize(("network", "largest"), [(BASE_SEPOLIA, 2**256 - 1), (SOLANA_DEVNET, 2**64 - 1)])
    def test_B07_from_one_unit_to_the_largest_that_the_token_can_count(self, network: str, largest: int) -> None:
        for units in (1, 2, largest - 1, largest):
            assert choose(challenge(on(network, amount=units)), RICH, Policy()).amount.units == units
        for units in (0, largest + 1):
            refused = on(network).model_copy(update={"amount": units})
            assert reason(refused, RICH) == "unpayable_offer"
            assert str(units) in declined(refused, buyer=RICH).message

    def test_the_limit_holds_to_the_unit(self) -> None:
        tight = replace(BUYER, cap=Decimal("0.01"))
        assert choose(challenge(offer(amount=9_999)), tight, Policy()).usd == Decimal("0.009999")
        assert choose(challenge(offer(amount=10_000)), tight, Policy()).usd == Decimal("0.01")
        error = declined(offer(amount=10_001), buyer=tight)
        assert error.code == "price_above_limit"
        assert "0.010001" in error.message
        assert "$0.01" in error.message

    def test_with_a_limit_of_nothing_nothing_is_paid(self) -> None:
        assert reason(offer(amount=1), replace(BUYER, cap=Decimal(0))) == "price_above_limit"


class TestPlaces:
    @pytest.mark.parametrize("network", [BASE_SEPOLIA, SOLANA_DEVNET])
    def test_B08_only_the_payer_itself_is_no_payee(self, network: str) -> None:
        mine = on(network).pay_to
        family = networks.get(network).family
        buyer = replace(BUYER, addresses={family: mine})
        assert reason(on(network), buyer) == "unpayable_offer"
        assert "pays the payer" in declined(on(network), buyer=buyer).message
        before, after = ("0x" + "01" * 20, "0x" + "98" * 20) if family == "eip155" else ("1", "z")
        for payer in (before, after):
            choice = choose(challenge(on(network)), replace(BUYER, addresses={family: payer}), Policy())
            assert choice.requirement.pay_to == mine

    @pytest.mark.parametrize(("network", "fake"), [(BASE_SEPOLIA, OTHER), (SOLANA_DEVNET, on(SOLANA_DEVNET).pay_to)])
    def test_B07_a_token_that_is_not_pinned_is_named_with_its_network(self, network: str, fake: str) -> None:
        error = declined(on(network, asset=fake))
        assert (error.code, error.details["offers"][0]["asset"]) == ("unknown_asset", fake)
        assert f"{fake} on {networks.get(network).title} is not a known asset" in error.message

    @pytest.mark.parametrize("memo", [7, ["x"], "m" * 257, "\ud800"])
    def test_B08_a_memo_that_cannot_be_written_spoils_its_own_offer_only(self, memo: Any) -> None:
        solana = on(SOLANA_DEVNET, amount=1)
        bad = solana.model_copy(update={"extra": solana.extra | {"memo": memo}})
        assert reason(bad) == "unpayable_offer"
        choice = choose(challenge(bad, offer()), BUYER, Policy())
        assert choice.requirement == offer()
        assert [row["code"] for row in choice.passed_over] == ["unpayable_offer"]

    @pytest.mark.parametrize("pattern", ["", "!", "eip155", "eip155:1*", "solana:*", "base"])
    def test_a_pattern_that_is_not_of_this_network_pays_nothing_on_it(self, pattern: str) -> None:
        assert reason(offer(), policy=Policy(networks=(pattern,))) == "network_not_wanted"

    def test_the_first_pattern_that_fits_ranks_a_network(self) -> None:
        dear, cheap = on(SOLANA_DEVNET, amount=20_000), on(BASE_SEPOLIA)
        for wanted, taken in (
            (("solana:*", "eip155:*"), dear),
            (("eip155:*", "solana:*"), cheap),
            (("*", "solana:*"), cheap),
            (("base", "solana:*", "*"), dear),
            (("base", "polygon", "*"), cheap),
        ):
            for offers in ((dear, cheap), (cheap, dear)):
                assert choose(challenge(*offers), BUYER, Policy(networks=wanted)).requirement == taken

    @pytest.mark.parametrize("secure", [True, False])
    @pytest.mark.parametrize("allow_http", [True, False])
    def test_B04_play_money_is_paid_however_the_terms_were_heard(self, secure: bool, allow_http: bool) -> None:
        buyer, policy = replace(BUYER, secure=secure), Policy(allow_http=allow_http)
        assert choose(challenge(), buyer, policy).requirement == offer()
        if secure or allow_http:
            assert choose(challenge(on(BASE)), buyer, policy).requirement == on(BASE)
        else:
            assert reason(on(BASE), buyer, policy) == "insecure_transport"

    @pytest.mark.parametrize("mainnet", [None, True, False])
    @pytest.mark.parametrize("testnet_only", [True, False])
    def test_play_money_needs_no_leave(self, mainnet: bool | None, testnet_only: bool) -> None:
        buyer, policy = replace(BUYER, testnet_only=testnet_only), Policy(mainnet=mainnet)
        assert choose(challenge(), buyer, policy).requirement == offer()
        if mainnet or (mainnet is None and not testnet_only):
            assert choose(challenge(on(BASE)), buyer, policy).requirement == on(BASE)
        else:
            assert reason(on(BASE), buyer, policy) == "mainnet_refused"


class TestPayees:
    def test_B04_a_host_is_held_to_whom_it_was_paid_at(self) -> None:
        held = replace(BUYER, known=frozenset({Payee(PAYEE, BASE_SEPOLIA, offer().asset)}))
        assert choose(challenge(), held, Policy()).requirement == offer()
        assert choose(challenge(offer(pay_to=PAYEE.lower())), held, Policy()).amount.units == 10_000
        error = declined(offer(pay_to=OTHER), buyer=held)
        assert error.code == "payee_changed"
        assert f"x402 trust seller.test {OTHER}" in error.message
        assert reason(on(BASE, pay_to=PAYEE), held) == "payee_changed"

    def test_B04_one_of_several_is_enough(self) -> None:
        held = replace(BUYER, known=frozenset({Payee(OTHER), Payee(PAYEE)}))
        assert choose(challenge(), held, Policy()).requirement == offer()
        both = Policy(payees={"seller.test": (OTHER, PAYEE)})
        assert choose(challenge(), BUYER, both).requirement == offer()

    def test_B04_what_the_buyer_names_counts_and_not_what_was_paid_before(self) -> None:
        held = replace(BUYER, known=frozenset({Payee(OTHER)}))
        policy = Policy(payees={"seller.test": {PAYEE}})
        assert choose(challenge(), held, policy).requirement == offer()
        assert reason(offer(pay_to=OTHER), held, policy) == "payee_changed"

    def test_B04_a_host_for_which_nobody_is_named_is_paid_at_no_address(self) -> None:
        assert reason(offer(), policy=Policy(payees={"seller.test": ()})) == "payee_changed"

    def test_B04_at_first_use_anybody_is_paid_and_no_trap_is_remembered_for_it(self) -> None:
        assert choose(challenge(offer(pay_to=OTHER)), BUYER, Policy()).requirement.pay_to == OTHER


class TestPassedOver:
    def test_each_offer_that_was_left_has_its_reason_in_the_sellers_order(self) -> None:
        dear, cheap, dearest = offer(amount=20), offer(amount=10), offer(amount=30)
        choice = choose(challenge(dear, cheap, dearest), BUYER, Policy())
        assert choice.requirement == cheap
        assert [(row["code"], row["amount"]) for row in choice.passed_over] == [
            ("not_preferred", "20"),
            ("not_preferred", "30"),
        ]
        assert {row["network"] for row in choice.passed_over} == {BASE_SEPOLIA}
        assert {row["asset"] for row in choice.passed_over} == {offer().asset}
        assert "0.00002" in choice.passed_over[0]["reason"]

    def test_paying_after_the_answer_wins_wherever_it_stands(self) -> None:
        upfront = offer(amount=1, extra=offer().extra | {"paymentFlow": "upfront"})
        named = offer(extra=offer().extra | {"paymentFlow": "authorization"})
        for offers in ((upfront, named, upfront), (named, upfront, upfront)):
            choice = choose(challenge(*offers), BUYER, Policy())
            assert choice.requirement == named
            assert [row["code"] for row in choice.passed_over] == ["less_protective_flow"] * 2
        only = choose(challenge(upfront, offer(amount=2, extra=upfront.extra)), BUYER, Policy())
        assert (only.amount.units, [row["code"] for row in only.passed_over]) == (1, ["not_preferred"])

    def test_reasons_that_are_all_the_same_are_the_errors_own(self) -> None:
        error = declined(offer(amount=0), offer(pay_to="x"))
        assert error.code == "unpayable_offer"
        assert len(error.details["offers"]) == 2
        mixed = declined(offer(amount=0), offer(scheme="gift"))
        assert mixed.code == "no_acceptable_offer"
        assert "seller.test" in mixed.message

    def test_offers_that_could_not_be_read_are_a_reason_too(self) -> None:
        unread = Challenge(unreadable=(Unreadable(index=0, reason="amount: no number"),))
        with pytest.raises(DeclinedError) as caught:
            choose(unread, BUYER, Policy())
        assert caught.value.code == "unreadable_offer"
        assert "an offer: amount: no number" in caught.value.message

    def test_no_offer_at_all_names_the_host(self) -> None:
        error = declined()
        assert error.code == "no_offers"
        assert error.message == "seller.test asks for a payment and offers no way to make it"

    def test_E04_the_words_of_many_refusals_end_at_a_thousand_characters(self) -> None:
        error = declined(*[offer(scheme="g" * 200) for _ in range(64)])
        assert len(error.message) == 1000
        assert len(error.details["offers"]) == 64

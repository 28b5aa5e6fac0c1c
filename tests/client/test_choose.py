"""Which offer is paid: by the buyer's rules, never by the seller's order; every other offer with its reason."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x402 import networks
from x402.client.choose import Buyer, Policy, choose, is_secure
from x402.errors import DeclinedError, MalformedError
from x402.wire.challenge import Challenge, Requirement, parse_challenge

from .seller import PAYEE, challenge, offer

BUYER = Buyer(
    addresses={"eip155": "0x" + "22" * 20, "solana": "8KJbGgMKnmTnKPhEfxX5f2yRwUCzyzDWxXQBqqXo1nA6"},
    host="seller.test",
    secure=True,
)


def on(network: str, **changes: Any) -> Requirement:
    """A cent on a network, payable there."""
    known = networks.get(network)
    extra: dict[str, Any] = {"name": known.usd.eip712_name, "version": known.usd.eip712_version}
    members: dict[str, Any] = {"network": network, "asset": known.usd.address, "extra": extra}
    if known.family == networks.SOLANA:
        members["pay_to"] = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"
        members["extra"] = {"feePayer": "BFK9TLC3edb13K6v4YyH3DwPb5DSUpkWvb7XnqCL9b4F"}
    return offer(**(members | changes))


def reason(refused: Requirement, buyer: Buyer = BUYER, policy: Policy | None = None) -> str:
    with pytest.raises(DeclinedError) as caught:
        choose(challenge(refused), buyer, policy or Policy())
    [row] = caught.value.details["offers"]
    assert row["code"] == caught.value.code
    assert row["reason"]
    return str(caught.value.code)


def test_a_fitting_offer_is_taken_with_its_price() -> None:
    choice = choose(challenge(), BUYER, Policy())
    assert choice.usd == Decimal("0.01")
    assert choice.requirement == offer()
    assert choice.passed_over == ()


def test_B08_the_third_of_three_is_taken_when_the_first_two_are_traps() -> None:
    fake = on(networks.BASE, asset="0x" + "66" * 20)
    choice = choose(challenge(fake, offer(scheme="gift"), offer()), BUYER, Policy())
    assert choice.requirement == offer()
    assert [row["code"] for row in choice.passed_over] == ["unknown_asset", "unsupported_scheme"]


def test_B08_only_traps_raise_with_all_reasons() -> None:
    fake = on(networks.BASE, asset="0x" + "66" * 20)
    with pytest.raises(DeclinedError) as caught:
        choose(challenge(fake, offer(scheme="gift"), offer(network="eip155:999999999")), BUYER, Policy())
    assert caught.value.code == "no_acceptable_offer"
    codes = [row["code"] for row in caught.value.details["offers"]]
    assert codes == ["unknown_asset", "unsupported_scheme", "unknown_network"]


def test_unreadable_offers_are_reported_and_do_not_spoil_the_rest() -> None:
    good = offer().as_json()
    heard = parse_challenge({"x402Version": 2, "accepts": [{**good, "amount": "1e3"}, good, 7]})
    choice = choose(heard, BUYER, Policy())
    assert [row["code"] for row in choice.passed_over] == ["unreadable_offer"] * 2


def test_no_offers_at_all() -> None:
    with pytest.raises(DeclinedError) as caught:
        choose(Challenge(), BUYER, Policy())
    assert caught.value.code == "no_offers"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"amount": 1_000_001}, "price_above_limit"),
        ({"amount": 10_000_000_000_000_000}, "price_above_limit"),
        ({"amount": 0}, "unpayable_offer"),
        ({"pay_to": "0x123"}, "unpayable_offer"),
        ({"pay_to": PAYEE.replace("0x20", "0x30")}, "unpayable_offer"),
        ({"pay_to": PAYEE[:-1] + "\u0421"}, "unpayable_offer"),
        ({"pay_to": "XE7338O073KYGTWWZN0F2WZ0R8PX5ZPPZS"}, "unpayable_offer"),
        ({"pay_to": "0x" + "22" * 20}, "unpayable_offer"),
        ({"extra": {"name": "Fake", "version": "2"}}, "eip712_domain_mismatch"),
        ({"extra": {"assetTransferMethod": "permit2"}}, "unsupported_transfer_method"),
        ({"extra": {"paymentFlow": "escrow"}}, "unknown_payment_flow"),
        ({"extra": {"paymentFlow": ["upfront"]}}, "unknown_payment_flow"),
        ({"extra": {"paymentFlow": ""}}, "unknown_payment_flow"),
    ],
)
def test_B07_F12_offers_that_are_not_signed(changes: dict[str, Any], code: str) -> None:
    assert reason(offer(**changes)) == code


def test_B07_decimals_come_from_the_pin() -> None:
    choice = choose(challenge(offer(extra={"name": "USDC", "version": "2", "decimals": 18})), BUYER, Policy())
    assert choice.usd == Decimal("0.01")
    mega = on("eip155:84532", amount=10**18)
    assert reason(mega) == "price_above_limit"


def test_the_cap_is_inclusive() -> None:
    assert choose(challenge(offer(amount=1_000_000)), BUYER, Policy()).usd == 1


@pytest.mark.parametrize(
    "changes",
    [{"extra": {}}, {"extra": {"feePayer": "x"}}, {"pay_to": PAYEE}, {"amount": 2**64}],
)
def test_solana_offers_that_cannot_be_built(changes: dict[str, Any]) -> None:
    assert reason(on(networks.SOLANA_DEVNET, **changes)) == "unpayable_offer"


def test_B08_an_offer_whose_sponsor_is_the_payer_is_passed_over() -> None:
    """It cannot be built, which must not end a call that has another offer."""
    trap = on(networks.SOLANA_DEVNET, amount=1, extra={"feePayer": BUYER.addresses["solana"]})
    assert reason(trap) == "unpayable_offer"
    choice = choose(challenge(trap, offer()), BUYER, Policy())
    assert choice.requirement == offer()
    assert [row["code"] for row in choice.passed_over] == ["unpayable_offer"]


def test_a_wallet_without_a_key_for_the_family() -> None:
    buyer = Buyer(addresses={"eip155": "", "solana": ""}, host="seller.test", secure=True)
    assert reason(offer(), buyer) == "no_key"


class TestMainnet:
    def test_real_money_is_refused_where_it_was_not_allowed(self) -> None:
        real = on(networks.BASE)
        demo = Buyer(BUYER.addresses, "seller.test", secure=True, testnet_only=True)
        assert choose(challenge(real), BUYER, Policy()).requirement == real
        assert reason(real, policy=Policy(mainnet=False)) == "mainnet_refused"
        assert reason(real, demo) == "mainnet_refused"
        assert choose(challenge(real), demo, Policy(mainnet=True)).requirement == real

    def test_B04_real_money_is_not_paid_over_plain_http(self) -> None:
        open_line = Buyer(BUYER.addresses, "seller.test", secure=False)
        assert reason(on(networks.BASE), open_line) == "insecure_transport"
        assert choose(challenge(), open_line, Policy()).usd == Decimal("0.01")
        assert choose(challenge(on(networks.BASE)), open_line, Policy(allow_http=True)).usd == Decimal("0.01")

    @pytest.mark.parametrize(
        ("scheme", "host", "secure"),
        [
            ("https", "seller.test", True),
            ("http", "localhost", True),
            ("http", "127.0.0.1", True),
            ("http", "127.8.8.8", True),
            ("http", "::1", True),
            ("http", "seller.test", False),
            ("http", "10.0.0.1", False),
            ("http", "localhost.evil.test", False),
            ("http", "127.0.0.1.evil.test", False),
        ],
    )
    def test_what_counts_as_secure(self, scheme: str, host: str, secure: bool) -> None:
        assert is_secure(scheme, host) is secure


class TestPreference:
    SOL, EVM = on(networks.SOLANA_DEVNET), on(networks.BASE_SEPOLIA)

    def test_the_sellers_order_decides_between_equals(self) -> None:
        assert choose(challenge(self.SOL, self.EVM), BUYER, Policy()).requirement == self.SOL
        assert choose(challenge(self.EVM, self.SOL), BUYER, Policy()).requirement == self.EVM

    def test_the_cheaper_of_two_is_taken(self) -> None:
        dear = on(networks.SOLANA_DEVNET, amount=10_001)
        assert choose(challenge(dear, self.EVM), BUYER, Policy()).requirement == self.EVM

    @pytest.mark.parametrize("wanted", ["solana:*", networks.SOLANA_DEVNET, "solana-devnet"])
    def test_the_wanted_network_comes_before_price_and_order(self, wanted: str) -> None:
        dear = on(networks.SOLANA_DEVNET, amount=20_000)
        policy = Policy(networks=(wanted, "*"))
        assert choose(challenge(self.EVM, dear), BUYER, policy).requirement == dear

    def test_networks_that_are_not_named_are_not_paid_on(self) -> None:
        assert reason(self.EVM, policy=Policy(networks=("solana:*",))) == "network_not_wanted"

    def test_paying_after_the_answer_comes_before_everything(self) -> None:
        upfront = on(networks.SOLANA_DEVNET, amount=1)
        upfront = upfront.model_copy(update={"extra": {**upfront.extra, "paymentFlow": "upfront"}})
        choice = choose(challenge(upfront, self.EVM), BUYER, Policy())
        assert choice.requirement == self.EVM
        assert [row["code"] for row in choice.passed_over] == ["less_protective_flow"]
        assert choose(challenge(upfront), BUYER, Policy()).requirement == upfront


class TestPins:
    def test_B04_only_pinned_payees_are_paid(self) -> None:
        policy = Policy(payees={"seller.test": {PAYEE.lower()}})
        assert choose(challenge(), BUYER, policy).usd == Decimal("0.01")
        assert reason(offer(pay_to="0x" + "99" * 20), policy=policy) == "payee_changed"
        elsewhere = Buyer(BUYER.addresses, "other.test", secure=True)
        assert choose(challenge(offer(pay_to="0x" + "99" * 20)), elsewhere, policy).usd == Decimal("0.01")


class TestPolicy:
    def test_a_float_is_no_limit(self) -> None:
        with pytest.raises(TypeError):
            Policy(max_per_call=0.1)  # type: ignore[arg-type]

    @pytest.mark.parametrize("limit", ["-1", "1e3", "1 EUR", "", "NaN"])
    def test_what_is_no_price_is_no_limit(self, limit: str) -> None:
        with pytest.raises(MalformedError):
            Policy(max_per_call=limit)

    @pytest.mark.parametrize("seconds", [0, -1, 10**9])
    def test_B09_a_signature_cannot_be_allowed_to_live_for_years(self, seconds: int) -> None:
        with pytest.raises(ValueError, match="lifetime"):
            Policy(lifetime_seconds=seconds)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "version", "feePayer", "memo", "paymentFlow"]), inner, max_size=4)
)  # fmt: skip


@settings(deadline=None)
@given(
    scheme=st.sampled_from(["exact", "upto", "x"]),
    network=st.sampled_from([networks.BASE, networks.BASE_SEPOLIA, networks.SOLANA_DEVNET, "eip155:1", "x:y"]),
    amount=st.integers(0, 2**256 - 1),
    asset=st.sampled_from([networks.get(name).usd.address for name in (networks.BASE_SEPOLIA, networks.SOLANA_DEVNET)]),
    pay_to=st.sampled_from([PAYEE, "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4", "x", "é" * 40]),
    extra=st.dictionaries(
        st.sampled_from(["name", "version", "feePayer", "memo", "paymentFlow", "assetTransferMethod", "splits"]), JUNK
    ),
)
def test_whatever_is_offered_is_taken_within_the_cap_or_declined(**members: Any) -> None:
    try:
        choice = choose(challenge(offer(**members)), BUYER, Policy())
    except DeclinedError as error:
        listed = error.details["offers"]
    else:
        listed = [choice]
        assert 0 < choice.usd <= 1
        assert choice.amount.units == members["amount"]
    assert len(listed) == 1

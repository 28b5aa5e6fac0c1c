"""Fault B04: a payee that is named for a host holds however that host is spelt, and what is no host is an error."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from x402.client.auth import X402Auth
from x402.client.choose import Policy
from x402.client.trust import host_of, named_host
from x402.client.wallet import Wallet
from x402.errors import DeclinedError, MalformedError

from .seller import EVM_KEY, PAYEE, URL, Seller, delivers, offer, shop

OTHER = "0x" + "99" * 20


@pytest.mark.parametrize(
    "named",
    [
        "seller.test", "Seller.test", "seller.test.", "seller.test:443", "seller.test:80", "SELLER.TEST:443",
        "https://seller.test", "HTTPS://Seller.test:443/api/v1", "http://seller.test/", URL,
    ],
)  # fmt: skip
@pytest.mark.parametrize("asked", [URL, URL.replace("seller.test", "Seller.Test:443")])
def test_B04_a_named_payee_holds_however_its_host_is_spelt(named: str, asked: str) -> None:
    auth = X402Auth(Wallet(evm=EVM_KEY), journal=":memory:", policy=Policy(payees={named: {PAYEE}}))
    swapped = Seller(shop(delivers(), offer(pay_to=OTHER)))
    with (
        httpx.Client(transport=httpx.MockTransport(swapped), auth=auth) as client,
        pytest.raises(DeclinedError) as caught,
    ):
        client.post(asked)
    assert caught.value.code == "payee_changed"
    assert not swapped.signatures
    with httpx.Client(transport=httpx.MockTransport(Seller(shop(delivers()))), auth=auth) as client:
        assert client.post(asked).status_code == 200


@pytest.mark.parametrize(
    "named",
    ["", " ", ".", "*", "*.seller.test", "seller test", "seller.test:x", "seller.test:99999", ":443", "https://",
     "/api/v1", "mailto:me", "seller..test", "bücher.test", "seller.test\\x", "[::1", "https://[x]/"],
)  # fmt: skip
def test_B04_a_payee_for_what_is_no_host_is_an_error(named: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Policy(payees={named: [PAYEE]})
    assert caught.value.code == "invalid_host"


def test_two_spellings_of_a_host_name_the_addresses_of_both() -> None:
    policy = Policy(payees={"Seller.test": [PAYEE], "seller.test:443": [OTHER], "other.test:8443": []})
    assert policy.payees == {"seller.test": {PAYEE, OTHER}, "other.test:8443": frozenset()}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://A.test/x?y", "a.test"),
        ("https://a.test.:443/", "a.test"),
        ("http://a.test:80", "a.test"),
        ("http://a.test:8080/", "a.test:8080"),
        ("https://u:p@a.test:0/", "a.test:0"),
        ("https://xn--bcher-kva.test/", "xn--bcher-kva.test"),
        ("http://127.0.0.1:4021/", "127.0.0.1:4021"),
        ("https://[2001:DB8::1]/", "2001:db8::1"),
        ("https://[2001:DB8::1]:40210/", "2001:db8::1:40210"),
        ("http://[::ffff:127.0.0.1]:4021/", "::ffff:127.0.0.1:4021"),
    ],
)
def test_a_host_has_one_spelling_which_names_it_as_well(url: str, host: str) -> None:
    assert host_of(url) == host
    assert named_host(url) == host
    assert named_host(host) == host
    policy = Policy(payees={url: [PAYEE]})
    assert replace(policy, mainnet=False).payees == policy.payees == {host: {PAYEE}}

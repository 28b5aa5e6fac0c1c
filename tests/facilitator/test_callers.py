"""Keys of merchants, each bound to the accounts that it is paid at. Faults D13, E06, G09."""

from __future__ import annotations

from itertools import count

import pytest
from solders.keypair import Keypair

from tests.payments import address, evm_requirement, svm_requirement
from x402.errors import DeniedError, MisconfiguredError, UnidentifiedError
from x402.facilitator.callers import ANYBODY, Callers, fee_units, new_key
from x402.networks import BASE, BASE_SEPOLIA, SOLANA_DEVNET

EVM, SVM = address(), str(Keypair().pubkey())
(KEY, DIGEST), (OLD_KEY, OLD_DIGEST), (OTHER_KEY, OTHER_DIGEST) = new_key(), new_key(), new_key()
FILE = f"""
[[callers]]
name = "bakery"
keys = ["{DIGEST}", "{OLD_DIGEST}"]
requests_per_minute = 60
[callers.pay_to]
base-sepolia = ["{EVM}"]
"{SOLANA_DEVNET}" = ["{SVM}"]
[callers.fees_per_day]
base-sepolia = 0.01
solana-devnet = "0.5"

[[callers]]
name = "smithy"
keys = ["{OTHER_DIGEST}"]
[callers.pay_to]
base-sepolia = ["{address()}"]
"""


def test_E06_a_key_names_its_caller() -> None:
    callers = Callers.parse(FILE)
    assert callers.names == ("bakery", "smithy")
    for key in (KEY, OLD_KEY):
        bakery = callers.identify([f"Bearer {key}"])
        assert (bakery.name, bakery.requests_per_minute) == ("bakery", 60)
        assert bakery.fees_per_day == {BASE_SEPOLIA: 10**16, SOLANA_DEVNET: 5 * 10**8}
    assert callers.identify([f"bearer  {OTHER_KEY}"]).name == "smithy"


@pytest.mark.parametrize(
    "headers",
    [
        [], [""], ["Bearer"], ["Bearer "], [KEY], [f"Basic {KEY}"], [f"Bearer {KEY}x"], [f"Bearer {KEY[:-1]}"],
        [f"Bearer {DIGEST}"], [f"Bearer {KEY.upper()}"], [f"Bearer {KEY} {KEY}"], [f"Bearer {KEY}", f"Bearer {KEY}"],
        [f"Bearer {KEY}, Bearer {KEY}"], ["Bearer " + "x" * 10_000], ["Bearer \u00e9\u0130"],
    ],
)  # fmt: skip
def test_E06_everything_else_names_nobody(headers: list[str]) -> None:
    with pytest.raises(UnidentifiedError) as refused:
        Callers.parse(FILE).identify(headers)
    assert refused.value.code == ("api_key_unknown" if headers else "api_key_missing")
    assert not any(word in str(refused.value) for word in (KEY, DIGEST))


def test_D13_only_registered_accounts_are_paid() -> None:
    bakery = Callers.parse(FILE).identify([f"Bearer {KEY}"])
    bakery.check(evm_requirement(EVM))
    bakery.check(evm_requirement(EVM.lower()))
    bakery.check(svm_requirement(SVM, SVM))
    strangers = [
        evm_requirement(address()),
        evm_requirement(EVM, network=BASE),
        evm_requirement(SVM),
        svm_requirement(str(Keypair().pubkey()), SVM),
        svm_requirement(SVM.swapcase(), SVM),
    ]
    for requirement in strangers:
        with pytest.raises(DeniedError, match="bakery"):
            bakery.check(requirement)
        ANYBODY.check(requirement)


def _entry(**members: str) -> str:
    given = {"name": '"a"', "keys": f'["{DIGEST}"]', "pay_to": f'{{base = ["{EVM}"]}}'} | members
    return "[[callers]]\n" + "\n".join(f"{name} = {value}" for name, value in given.items() if value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a list of"),
        ("callers = 7", "a list of"),
        ("callers = []", "a list of"),
        ("callers = [7]", "number 1"),
        ("[[callers", "no TOML"),
        ("secret = 1\n" + _entry(), "nothing else"),
        (_entry(key='"x"'), "number 1"),
        (_entry(name='""'), "name is"),
        (_entry(name="7"), "name is"),
        (_entry(name='"a b"'), "name is"),
        (_entry(keys=""), "keys is"),
        (_entry(keys="[]"), "keys is"),
        (_entry(keys='["x402f_plain"]'), "SHA-256"),
        (_entry(keys=f'["{DIGEST.upper()}"]'), "lower case"),
        (_entry(pay_to=""), "pay_to names no account"),
        (_entry(pay_to="[]"), "table by network"),
        (_entry(pay_to='{moon = ["x"]}'), "'moon'"),
        (_entry(pay_to="{base = []}"), "list of addresses"),
        (_entry(pay_to='{base = ["0x12"]}'), "no address"),
        (_entry(pay_to=f'{{base = ["{EVM.swapcase().replace("0X", "0x")}"]}}'), "no address"),
        (_entry(pay_to=f'{{solana = ["{EVM}"]}}'), "no address"),
        (_entry(pay_to=f'{{base = ["{EVM}"], "{BASE}" = ["{EVM}"]}}'), "twice"),
        (_entry(requests_per_minute="0"), "from 1"),
        (_entry(requests_per_minute="true"), "from 1"),
        (_entry(fees_per_day="{base = true}"), "whole coins"),
        (_entry(fees_per_day='{base = "-1"}'), "whole coins"),
        (_entry(fees_per_day="{base = nan}"), "whole coins"),
        (_entry(fees_per_day="{base = 1e-19}"), "whole coins"),
        (_entry() + "\n" + _entry(keys=f'["{OTHER_DIGEST}"]'), "no other caller"),
        (_entry() + "\n" + _entry(name='"b"'), "no other caller"),
    ],
    ids=count(),
)
def test_a_file_that_cannot_be_used_says_why(text: str, words: str) -> None:
    with pytest.raises(MisconfiguredError, match="(?s)" + words) as refused:
        Callers.parse(text)
    assert "x402f_plain" not in str(refused.value)


def test_control_the_smallest_file() -> None:
    assert Callers.parse(_entry()).names == ("a",)


def test_fees_are_exact() -> None:
    assert fee_units("0.000000000000000001", BASE) == 1
    assert fee_units("0.000000001", SOLANA_DEVNET) == 1
    for wrong in ("", "x", "1e-10", "Infinity", "NaN", "-0.1", 0.1, None, "9" * 30):
        with pytest.raises(MisconfiguredError):
            fee_units(wrong, SOLANA_DEVNET)


def test_G09_a_caller_shows_no_digest() -> None:
    callers = Callers.parse(FILE)
    shown = repr(callers) + repr(callers.identify([f"Bearer {KEY}"]))
    assert DIGEST not in shown
    assert KEY not in shown

"""Every code block of the seeds, run against one gateway with nothing changed but the address and the key.

Which blocks there are, and which cannot run and why, stands in `examples.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from x402.client.chat import Chat
from x402.client.identity import Identity
from x402.networks import SOLANA_DEVNET
from x402.wire.headers import BILL, SIGN_IN_WITH_X, decode_header
from x402.wire.sign_in import read_header, seconds

from .conftest import Street
from .programs import SENDS, Example, Heard, curl, examples, kit, tool

ALL = examples()
PLAIN = [one for one in ALL if one.tool in SENDS and one.credential == "key"]
MESSAGES: Any = [{"role": "user", "content": "Hello"}]


def headers(street: Street, example: Example) -> dict[str, str]:
    """The credential of an example."""
    if example.credential == "sign-in":
        auth = street.buyer(sign_in=street.identity).sign_in
        assert auth is not None
        return dict(auth.introduction(street.url + example.path, {}))
    return {"Authorization": f"Bearer {street.key}"}


def run(street: Street, example: Example) -> Heard:
    return SENDS[example.tool](example, street.url + example.path, headers(street, example))


def named(example: Example) -> str:
    return re.sub(r"\W+", "-", example.name)


def check(example: Example, heard: Heard) -> None:
    """The status, and that what the example reads is there; an echo says what it was told."""
    assert heard.status == example.status, heard.text
    read = heard.read(example.reads)
    assert read not in (None, "", [])
    body = example.body or {}
    if "content" in example.reads and "deepseek/" not in body["model"]:
        assert body["messages"][-1]["content"].split()[0] in read


@pytest.mark.parametrize("example", [one for one in PLAIN if one.path.startswith("/api/v1/chat")], ids=named)
def test_row_001_013_062_the_devnets_examples_run_with_a_key(street: Street, example: Example) -> None:
    check(example, run(street, example))


@pytest.mark.parametrize("example", [one for one in PLAIN if one.path.endswith("/models")], ids=named)
def test_row_008_lists_of_models_run_with_a_key(street: Street, example: Example) -> None:
    check(example, run(street, example))


@pytest.mark.parametrize(
    "example", [one for one in PLAIN if one.path.startswith("/v1/") and one.body is not None], ids=named
)
def test_row_004_005_006_007_065_the_old_sites_examples_run_with_a_key(street: Street, example: Example) -> None:
    check(example, run(street, example))


@pytest.mark.parametrize("example", [one for one in ALL if one.credential == "sign-in"], ids=named)
def test_row_003_064_the_betas_examples_run_with_a_sign_in(street: Street, example: Example) -> None:
    check(example, run(street, example))


@pytest.mark.parametrize("example", [one for one in ALL if one.tool == "kit"], ids=named)
def test_row_092_the_kits_examples_run_line_for_line(street: Street, example: Example) -> None:
    heard = kit(example, f"{street.url}/v1", street.key)
    if example.call == "error":
        assert heard.value == {"status_code": 401}
    elif example.call == "stream":
        assert "robot" in heard.value["deltas"]
    else:
        check(example, heard)


def test_row_095_the_tools_example_runs(street: Street) -> None:
    (example,) = [one for one in ALL if one.tool == "tool" and not one.cannot]
    check(example, tool(f"{street.url}/v1", street.key))


def test_every_block_runs_or_says_why_it_cannot() -> None:
    assert len(ALL) == len({one.name for one in ALL}) >= 38
    assert {one.name[:2] for one in ALL} == {"S0", "S1", "S2", "S3", "S4"}
    for one in ALL:
        runs = one.tool in SENDS or one.tool in ("kit", "tool")
        assert bool(one.cannot) != (runs and bool(one.reads)), one.name
        assert not one.cannot or re.fullmatch(r"\w.{40,}\.", one.cannot), one.name


def test_row_002_015_063_without_a_credential_the_same_call_is_asked_to_pay(street: Street) -> None:
    """S0's permissionless mode: no key; the 402 is the first step, and a wallet takes the second."""
    example = Example("S0", "curl", "/api/alpha/chat/completions", {"model": "openai/gpt-4o", "messages": MESSAGES})
    unpaid = curl(example, street.url + example.path, {})
    assert (unpaid.status, unpaid.read("x402Version"), unpaid.read("accepts.0.scheme")) == (402, 1, "exact")
    wallet = street.town.parties.buyer
    with Chat(f"{street.url}/api/alpha", profile="devnet-x402", wallet=wallet, journal=":memory:") as chat:
        answer = chat.create(model="openai/gpt-4o", messages=MESSAGES, max_tokens=9)
        assert (answer.text, answer.receipt is not None) == ("You said: Hello", True)
        direct = f"{street.provider}:deepseek-chat-v3"
        assert chat.create(model=direct, messages=MESSAGES, max_tokens=9).model == direct


@pytest.mark.parametrize(
    ("name", "path", "model"),
    [
        ("devnet-key", "/api/v1", "openai/gpt-4o"),
        ("beta-siwx", "/api/v1", "gpt-4o"),
        ("legacy", "/v1", "gpt-4"),
        ("ours", "/api/v1", "gpt-4o"),
    ],
)
def test_row_062_063_064_065_our_client_speaks_every_profile_by_name(
    street: Street, name: str, path: str, model: str
) -> None:
    opened: dict[str, Any] = {"api_key": street.key}
    if name == "beta-siwx":
        opened = {"wallet": street.town.parties.buyer, "journal": ":memory:"}
    with Chat(street.url + path, profile=name, **opened) as chat:
        answer = chat.create(model=model, messages=MESSAGES, max_tokens=9)
        assert (answer.text, answer.model, answer.receipt) == ("You said: Hello", model, None)
        assert answer.bill is not None
        assert 0 < int(answer.bill.charged) <= int(answer.bill.quoted)
        assert answer.request_id
        with chat.stream(model=model, messages=MESSAGES, max_tokens=9) as stream:
            assert "".join(chunk.text for chunk in stream) == "You said: Hello"
        assert "openai/gpt-4o" in [entry.id for entry in chat.models()]


def test_row_064_an_empty_balance_is_paid_over_with_the_same_wallet(street: Street) -> None:
    """Nothing was paid in on Solana, so the account there is empty, and the call is paid for as any other."""
    auth = street.buyer(SOLANA_DEVNET, sign_in=Identity(street.town.parties.buyer, SOLANA_DEVNET))
    with Chat(f"{street.url}/api/v1", profile="beta-siwx", auth=auth) as chat:
        answer = chat.create(model="gpt-4o", messages=MESSAGES, max_tokens=9)
    assert (answer.text, answer.receipt is not None) == ("You said: Hello", True)
    assert [record.entry.subject.network for record in auth.journal.history()] == [SOLANA_DEVNET]


def test_row_016_a_sign_in_is_used_once_and_for_five_minutes(street: Street) -> None:
    example = Example("S3", "curl", "/api/v1/session/balance")
    header = headers(street, Example("S3", "curl", example.path, credential="sign-in"))
    assert curl(example, street.url + example.path, header).status == 200
    assert curl(example, street.url + example.path, header).status == 401
    shown = read_header(header[SIGN_IN_WITH_X]).sign_in
    assert seconds(shown.expiration_time or "") - seconds(shown.issued_at or "") == 300


def test_row_096_a_request_takes_the_seeds_six_steps(street: Street) -> None:
    """Sent, let in, routed, forwarded, answered, formatted; then recorded, priced, summed, and owed to the provider."""
    bearer = {"Authorization": f"Bearer {street.key}"}
    asked = {"model": "gpt-4", "messages": MESSAGES, "max_tokens": 9, "user": "six-steps"}
    url = f"{street.url}/v1/chat/completions"
    assert httpx.post(url, json=asked, headers={"Authorization": "Bearer aimo-sk-v2-nobody"}).status_code == 401
    told = httpx.post(url, json=asked, headers=bearer | {"X-Request-ID": "req_six_steps"}).json()
    assert (told["meta"]["request_id"], told["meta"]["provider"]) == ("req_six_steps", "openai")
    used = told["data"]["usage"]
    (bill,) = [one for one in street.bills() if one.request_id == "req_six_steps"]
    metered = bill.metered
    assert (metered.prompt_tokens, metered.completion_tokens) == (used["prompt_tokens"], used["completion_tokens"])
    assert metered.charged == 30 * used["total_tokens"]
    assert (metered.provider, bill.tags, bill.key_id != "") == ("openai", {"user": "six-steps"}, True)
    assert 0 < bill.earned <= metered.charged, "the provider's reward"


@pytest.mark.parametrize(
    ("model", "order", "charged"),
    [
        ("gpt-4", {"messages": MESSAGES, "max_tokens": 9}, lambda used: 30 * used),
        ("gpt-3.5-turbo", {"messages": MESSAGES, "max_tokens": 9}, lambda used: 2 * used),
        ("dall-e-3", {"prompt": "A sunset", "size": "1024x1024"}, lambda _: 40_000),
    ],
)
def test_row_076_the_seeds_price_table_is_charged_to_the_unit(
    street: Street, model: str, order: dict[str, Any], charged: Callable[[int], int]
) -> None:
    """$0.03 and $0.002 per thousand tokens, $0.040 per image: in atomic USDC, as bills have them."""
    path = "images/generations" if "prompt" in order else "chat/completions"
    headers = {"Authorization": f"Bearer {street.key}"}
    answer = httpx.post(f"{street.url}/api/v1/{path}", json={"model": model, **order}, headers=headers)
    assert answer.status_code == 200, answer.text
    bill = decode_header(answer.headers[BILL])
    assert int(bill["charged"]) == charged(answer.json().get("usage", {}).get("total_tokens", 0))


def test_row_097_prometheus_finds_what_it_collects(street: Street) -> None:
    text = httpx.get(f"{street.url}/metrics").text
    assert "# TYPE x402" in text
    assert street.key not in text

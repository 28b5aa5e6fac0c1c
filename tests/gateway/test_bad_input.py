"""Whatever arrives in a payment header: a typed refusal, never a 500, never a hang, and nothing served."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PRICED = {"GET /report": "$0.01"}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=12)
    | st.sampled_from(["", "0", "-1", "0x", "1e3", "exact", "eip155:84532", "eip155:*", "base", "\u0663", "\x00"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the members of a JSON value are."""
    found = [path] if path else []
    if isinstance(value, dict):
        for name, member in value.items():
            found += paths(member, (*path, name))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any, *, drop: bool) -> Any:
    """The value with one member replaced or left out."""
    copy = json.loads(json.dumps(value))
    place = copy
    for name in path[:-1]:
        place = place[name]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return copy


def header_of(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize("network", ["eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"])
async def test_one_wrong_member_is_a_typed_refusal(shop: Any, network: str) -> None:
    """Each member of a good payment, replaced by anything or left out."""
    client = shop.open(PRICED)
    challenge = await shop.challenge()
    offer = next(one for one in challenge.accepts if one.network == network)
    cases: list[tuple[str, Any]] = []

    @settings(max_examples=120, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data(), values, st.booleans(), st.sampled_from([1, 2]))
    def draw(data: st.DataObject, new: Any, drop: bool, version: int) -> None:
        good = shop.payer.payment(offer, challenge, version=version)
        body = good.as_json()
        path = data.draw(st.sampled_from(paths(body)))
        cases.append((good.header_name, changed(body, path, new, drop=drop)))

    await asyncio.to_thread(draw)
    for name, body in cases:
        response = await client.get("/report", headers={name: header_of(body)})
        told = f"{response.status_code} for {json.dumps(body)}"
        assert response.status_code in (200, 400, 402, 409), told
        if response.status_code == 200:
            # Members that nobody has to send may be wrong; what was signed was whole.
            continue
        error = response.json()["error"]
        assert error if isinstance(error, str) else error["code"] and error["message"], told
    assert len(shop.runs) == len(shop.bank.moved)


@pytest.mark.parametrize("name", ["PAYMENT-SIGNATURE", "X-PAYMENT"])
async def test_any_bytes_are_a_typed_refusal(shop: Any, name: str) -> None:
    client = shop.open(PRICED)
    cases: list[bytes] = []

    @settings(max_examples=200, database=None, deadline=None)
    @given(
        st.binary(max_size=60).map(base64.b64encode)
        | values.map(lambda value: header_of(value).encode())
        | st.binary(min_size=1, max_size=60).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b"") or b"x")
    )
    def draw(value: bytes) -> None:
        cases.append(value)

    await asyncio.to_thread(draw)
    for value in cases:
        response = await client.get("/report", headers=[(name.encode(), value)])
        assert response.status_code == 400, value
        assert response.json()["error"]["code"]
    assert shop.runs == []
    assert "verify" not in shop.bank.asked

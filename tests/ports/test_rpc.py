"""JSON-RPC that batches itself, polls that are shared, and answers that are none. Faults E01, E03."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ports.scripted import SECRET, URL, Failure, Node
from x402.errors import UnavailableError
from x402.ports.rpc import JsonRpc, RpcError, Watch

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "result", "error", "code", "message", "data", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)


async def test_calls_made_together_travel_together() -> None:
    node = Node(double=lambda number: number * 2)
    rpc = node.rpc
    results = await asyncio.gather(*(rpc.call("double", number) for number in range(40)))
    assert results == [number * 2 for number in range(40)]
    assert (rpc.requests, rpc.calls, len(node.bodies)) == (1, 40, 1)
    assert await rpc.call("double", 7) == 14
    assert isinstance(node.bodies[-1], dict)
    await asyncio.gather(*(rpc.call("double", number) for number in range(250)))
    assert [len(body) for body in node.bodies[2:]] == [100, 100, 50]


async def test_replies_are_matched_by_id_not_by_order() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        calls = json.loads(request.content)
        return httpx.Response(200, json=[{"id": call["id"], "result": call["method"]} for call in reversed(calls)])

    rpc = JsonRpc(URL, client=httpx.AsyncClient(transport=httpx.MockTransport(answer)))
    assert list(await asyncio.gather(*(rpc.call(name) for name in "abc"))) == ["a", "b", "c"]


async def test_one_bad_call_leaves_the_others_alone() -> None:
    node = Node(good=1, bad=Failure(-32000, "no", {"why": 1}))
    rpc = node.rpc
    outcomes = await asyncio.gather(rpc.call("good"), rpc.call("bad"), return_exceptions=True)
    good, bad = list[Any](outcomes)
    assert good == 1
    assert isinstance(bad, RpcError)
    assert (bad.code, bad.message, bad.data) == (-32000, "no", {"why": 1})


async def test_a_caller_who_gives_up_leaves_the_others_alone() -> None:
    node = Node(slow=1)
    rpc = node.rpc
    first, second = asyncio.create_task(rpc.call("slow")), asyncio.create_task(rpc.call("slow"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, OSError])
async def test_E03_no_answer_is_unavailable_and_names_no_url(failure: type[Exception]) -> None:
    rpc = Node(any=failure(f"cannot reach {URL}")).rpc
    for error in await asyncio.gather(rpc.call("any"), rpc.call("any"), return_exceptions=True):
        assert isinstance(error, UnavailableError)
        chain = [error, error.__cause__, error.__context__]
        assert SECRET not in repr([(str(one), one and one.args) for one in chain[:2]])
        assert SECRET not in json.dumps(error.as_json())
        assert error.__cause__ is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>502</html>",
        b"{",
        b"null",
        b"[]",
        b"[[]]",
        b"7",
        b'{"id":[],"result":1}',
        b'{"id":99,"result":1}',
        b'{"id":true,"result":1}',
        b'[{"id":{},"result":1},{"id":[1]}]',
        b'{"jsonrpc":"2.0","id":1}',
        b"[" * 100_000,
        b'{"id":1,"result":' + b"9" * 5000 + b"}",
        b"\xff\xfe\x00",
        b'{"error":null}',
        b'{"id":1,"error":"words"}',
        b'{"id":1,"error":[1,2]}',
        b'{"id":1,"error":{"code":"x","message":5}}',
        b'{"error":{"code":-32005,"message":"limit exceeded"},"id":null}',
    ],
)
async def test_answers_that_are_none(raw: bytes) -> None:
    unheard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unheard.append(told))
    node = Node()
    node.raw = raw
    for calls in (1, 2):
        rpc = node.rpc
        results = await asyncio.gather(*(rpc.call("any") for _ in range(calls)), return_exceptions=True)
        for result in results:
            # A lone reply may lack the id; then a null error beside no result is a null result, and nothing worse.
            assert isinstance(result, UnavailableError | RpcError) or (result is None and raw == b'{"error":null}')
    gc.collect()
    await asyncio.sleep(0)
    assert unheard == [], "a task failed and nobody was told"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), st.sampled_from([200, 403, 500]))
def test_whatever_a_node_answers(raw: bytes, status: int) -> None:
    async def ask() -> None:
        node = Node()
        node.raw, node.status = raw, status
        rpc = node.rpc
        results = await asyncio.gather(rpc.call("a"), rpc.call("b"), return_exceptions=True)
        lone = await asyncio.gather(rpc.call("a"), return_exceptions=True)
        for result in [*results, *lone]:
            assert not isinstance(result, BaseException) or isinstance(result, UnavailableError | RpcError)

    asyncio.run(ask())


# Polls.


class Source:
    """What a watch fetches from; `found` is what there is."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self.asked: list[list[str]] = []
        self.broken: Exception | None = None

    async def fetch(self, keys: list[str]) -> Sequence[int | None]:
        self.asked.append(keys)
        if self.broken is not None:
            raise self.broken
        return [self.found.get(key) for key in keys]


async def test_one_poll_serves_everybody() -> None:
    source = Source()
    watch = Watch(source.fetch)
    waiters = [asyncio.create_task(watch.wait(f"key{number % 50}", 5)) for number in range(200)]
    await asyncio.sleep(0.1)
    asked = len(source.asked)
    source.found = {f"key{number}": number for number in range(50)}
    assert await asyncio.gather(*waiters) == [number % 50 for number in range(200)]
    assert asked < 20
    assert max(len(keys) for keys in source.asked) == 50
    await asyncio.sleep(0.05)
    polls = len(source.asked)
    await asyncio.sleep(0.1)
    assert len(source.asked) == polls


async def test_a_newcomer_is_asked_for_soon_even_beside_a_patient_one() -> None:
    source = Source()
    watch = Watch(source.fetch, longest_seconds=5)
    patient = asyncio.create_task(watch.wait("never", 1.5))
    await asyncio.sleep(0.8)
    source.found = {"new": 1}
    assert await asyncio.wait_for(watch.wait("new", 1), 0.08) == 1
    assert await patient is None


async def test_nothing_found_is_none_and_leaves_nothing_behind() -> None:
    source = Source()
    watch = Watch(source.fetch)
    assert await watch.wait("key", 0.05) is None
    assert not watch._waiting
    assert not watch._answered


@pytest.mark.parametrize("error", [UnavailableError("rpc_unavailable", "down"), RpcError(-32005, "slow down")])
async def test_E01_a_node_that_cannot_be_asked_has_not_said_no(error: Exception) -> None:
    source = Source()
    source.broken = error
    watch = Watch(source.fetch)
    with pytest.raises(UnavailableError):
        await watch.wait("key", 0.05)
    recovering = asyncio.create_task(watch.wait("key", 2))
    await asyncio.sleep(0.02)
    source.broken, source.found = None, {"key": 3}
    assert await recovering == 3


async def test_a_cancelled_waiter_stops_the_poll() -> None:
    source = Source()
    watch = Watch(source.fetch)
    waiter = asyncio.create_task(watch.wait("key", 60))
    await asyncio.sleep(0.02)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    await asyncio.sleep(0.1)
    polls = len(source.asked)
    await asyncio.sleep(0.2)
    assert len(source.asked) == polls


def test_rpc_errors_are_cut_to_size() -> None:
    error: Any = RpcError(-1, "x" * 10_000)
    assert len(str(error)) < 400

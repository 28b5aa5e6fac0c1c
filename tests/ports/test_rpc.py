"""JSON-RPC that batches itself, polls that are shared, and answers that are none. Faults E01, E03."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ports.scripted import URL, Failure, Node
from x402.errors import UnavailableError
from x402.ports import rpc as rpc_module
from x402.ports.rpc import JsonRpc, RpcError
from x402.ports.watch import Watch

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
    async def answer(content: bytes) -> tuple[int, bytes]:
        calls = json.loads(content)
        replies = [{"id": call["id"], "result": call["method"]} for call in reversed(calls)]
        return 200, json.dumps(replies).encode()

    rpc = JsonRpc(URL, post=answer)
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


async def test_who_asks_alike_before_the_request_has_left_shares_an_answer() -> None:
    heights = iter(range(100, 200))
    node = Node(height=lambda depth: next(heights), other=1)
    rpc = node.rpc
    asked = [asyncio.create_task(rpc.share("height", "confirmed")) for _ in range(10)]
    deeper = asyncio.create_task(rpc.share("height", "finalized"))
    await asyncio.sleep(0)
    asked[0].cancel()
    assert await asyncio.gather(*asked[1:]) == [100] * 9
    assert await deeper == 101
    assert node.count("height") == 2
    # It has left: whoever asks now knows of something newer, and gets a newer answer.
    assert await rpc.share("height", "confirmed") == 102


async def test_E01_a_shared_question_that_has_left_is_joined_by_nobody() -> None:
    left: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()

    async def slow(content: bytes) -> tuple[int, bytes]:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        left.put_nowait(answer)
        return 200, json.dumps({"id": json.loads(content)["id"], "result": await answer}).encode()

    rpc = JsonRpc(URL, post=slow)
    early = asyncio.create_task(rpc.share("height"))
    first = await left.get()
    late = asyncio.create_task(rpc.share("height"))
    second = await left.get()
    second.set_result(2)
    first.set_result(1)
    assert [await early, await late] == [1, 2]


async def test_everybody_hears_that_a_shared_question_failed() -> None:
    node = Node(height=Failure(-32005, "behind"))
    outcomes = await asyncio.gather(*(node.rpc.share("height") for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [RpcError] * 3


async def test_calls_gather_while_the_node_is_busy_and_no_longer_than_a_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However slow this machine is, the window ends when the node answers.
    usual = rpc_module._WINDOW_SECONDS
    monkeypatch.setattr(rpc_module, "_WINDOW_SECONDS", 60.0)
    asked: list[int] = []
    answered = asyncio.Event()

    async def slow(content: bytes) -> tuple[int, bytes]:
        calls = json.loads(content)
        calls = calls if isinstance(calls, list) else [calls]
        asked.append(len(calls))
        if len(asked) == 1:
            await answered.wait()
        return 200, json.dumps([{"id": call["id"], "result": 1} for call in calls]).encode()

    rpc = JsonRpc(URL, post=slow)
    tasks = [asyncio.create_task(rpc.call("first"))]
    for _ in range(3):
        await asyncio.sleep(0)
    # Each in a turn of its own: the window keeps them together until the busy node answers.
    for _ in range(5):
        tasks.append(asyncio.create_task(rpc.call("more")))
        await asyncio.sleep(0)
    assert asked == [1]
    answered.set()
    assert await asyncio.gather(*tasks) == [1] * 6
    assert asked == [1, 5]
    answered.clear()
    asked.clear()
    monkeypatch.setattr(rpc_module, "_WINDOW_SECONDS", usual)
    stuck = asyncio.create_task(rpc.call("stuck"))
    await asyncio.sleep(0.01)
    # A node that takes its time keeps nobody else waiting.
    assert await asyncio.wait_for(rpc.call("other"), 1) == 1
    answered.set()
    assert await stuck == 1
    assert asked == [1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=60), st.integers(0, 2**32))
def test_answers_are_never_mixed(plan: list[tuple[int, bool]], seed: int) -> None:
    """Whatever leaves together, in whatever order it is answered, and whichever requests get no answer at all."""
    # Hypothesis ends a draw that overruns by an exception, which a task of the loop would swallow.
    chance = random.Random(seed)

    async def node(content: bytes) -> tuple[int, bytes]:
        calls = json.loads(content)
        calls = calls if isinstance(calls, list) else [calls]
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            raise UnavailableError("rpc_unavailable", "lost")
        replies = [
            {"id": call["id"], "error": {"code": -1, "message": call["method"]}}
            if call["params"][0]
            else {"id": call["id"], "result": call["method"]}
            for call in calls
            if chance.random() > 0.05
        ]
        chance.shuffle(replies)
        return 200, json.dumps(replies).encode()

    async def run() -> None:
        rpc = JsonRpc(URL, post=node)

        async def one(number: int, turns: int, fails: bool) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            said: Any
            (said,) = await asyncio.gather(rpc.call(f"call {number}", fails), return_exceptions=True)
            if fails and isinstance(said, RpcError):
                assert said.message == f"call {number}"
            elif not isinstance(said, UnavailableError):
                assert (fails, said) == (False, f"call {number}")

        await asyncio.gather(*(one(number, turns, fails) for number, (turns, fails) in enumerate(plan)))
        assert not rpc._waiting

    asyncio.run(run())


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


async def test_a_waiter_that_is_cancelled_as_its_answer_comes_stays_cancelled() -> None:
    """A loop that swallows its end would keep its program from ending."""
    source, turns = Source(), 0
    watch = Watch(source.fetch)

    async def reconcile() -> None:
        nonlocal turns
        while True:
            await watch.wait("key", 5)
            turns += 1
            source.found = {}

    loop = asyncio.create_task(reconcile())
    await asyncio.sleep(0.01)
    (waiting,) = watch._waiting["key"]
    waiting.set_result(1)
    loop.cancel()
    done, _ = await asyncio.wait({loop}, timeout=0.2)
    assert (done, turns) == ({loop}, 0)


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

"""One question for all who wait, and for all who ask in the same moment (design D7)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from x402.errors import UnavailableError
from x402.ports.rpc import RpcError
from x402.ports.watch import Watch


class Asked:
    """A chain that answers with each key's own name, and remembers what it was asked together."""

    def __init__(self, *, failing: Exception | None = None) -> None:
        self.questions: list[list[str]] = []
        self.failing = failing
        self.answers = asyncio.Event()
        self.answers.set()

    async def fetch(self, keys: list[str]) -> Sequence[str | UnavailableError | None]:
        self.questions.append(keys)
        await self.answers.wait()
        if self.failing is not None:
            raise self.failing
        return [UnavailableError("rpc_unavailable", "no") if key == "bad" else key.upper() for key in keys]


async def turns() -> None:
    """As many turns of the loop as a question needs to leave."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_ask_in_one_moment_share_a_question() -> None:
    chain = Asked()
    watch = Watch(chain.fetch)
    assert await asyncio.gather(*(watch.wait(key, 0) for key in "abca")) == ["A", "B", "C", "A"]
    assert chain.questions == [["a", "b", "c"]]


async def test_E01_who_asks_later_joins_no_question_that_is_on_its_way() -> None:
    chain = Asked()
    chain.answers.clear()
    watch = Watch(chain.fetch)
    first = asyncio.create_task(watch.wait("a", 0))
    await turns()
    second = asyncio.create_task(watch.wait("a", 0))
    await turns()
    assert len(chain.questions) == 2
    chain.answers.set()
    assert list(await asyncio.gather(first, second)) == ["A", "A"]


async def test_one_failure_in_a_shared_question_is_one_askers_alone() -> None:
    chain = Asked()
    watch = Watch(chain.fetch)
    good, bad = await asyncio.gather(watch.wait("a", 0), watch.wait("bad", 0), return_exceptions=True)
    assert good == "A"
    assert isinstance(bad, UnavailableError)


@pytest.mark.parametrize("failure", [UnavailableError("rpc_unavailable", "away"), RpcError(1, "no")])
async def test_a_question_that_failed_fails_all_who_asked_it(failure: Exception) -> None:
    watch = Watch(Asked(failing=failure).fetch)
    told = await asyncio.gather(*(watch.wait(key, 0) for key in "ab"), return_exceptions=True)
    assert [type(one) for one in told] == [type(failure)] * 2


async def test_nobody_waits_for_a_question_that_a_defect_has_ended() -> None:
    watch = Watch(Asked(failing=ZeroDivisionError()).fetch)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    with pytest.raises(UnavailableError, match="abandoned"):
        await asyncio.wait_for(watch.wait("a", 0), 5)


async def test_who_goes_away_takes_nobody_along() -> None:
    chain = Asked()
    chain.answers.clear()
    watch = Watch(chain.fetch)
    gone, stays = asyncio.create_task(watch.wait("a", 0)), asyncio.create_task(watch.wait("a", 0))
    await turns()
    gone.cancel()
    chain.answers.set()
    assert await stays == "A"
    assert gone.cancelled() or gone.cancelling()


async def test_a_block_that_is_expected_is_asked_for_when_it_comes() -> None:
    """After some looks in vain the pauses are long; they end where something is expected."""
    loop = asyncio.get_running_loop()
    due = loop.time() + 0.15
    looks: list[float] = []

    async def fetch(keys: list[str]) -> Sequence[str | UnavailableError | None]:
        looks.append(loop.time())
        return [key if loop.time() >= due else None for key in keys]

    watch = Watch(fetch, expected=lambda: due - loop.time() if loop.time() < due else None)
    assert await watch.wait("a", 5) == "a"
    assert len(looks) < 20
    assert looks[-2] < due <= looks[-1], "the last look was the first that could see it"

"""An answer while it is made: what of it is kept, how far it runs ahead, and when its readers are gone (faults A02,
A18, A21, B18)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from x402.errors import MisconfiguredError
from x402.gateway.recording import BrokenOff, Reader, Recording, sold_of, split_notes
from x402.ports import Answer

WINDOW = 256 * 1024
"""How far a handler may be ahead of its reader."""


def playing(limit: int = 1000) -> Recording:
    return Recording(limit=limit, withhold=False)


async def is_waiting(work: Coroutine[Any, Any, Any]) -> tuple[bool, asyncio.Task[Any]]:
    """Whether something still waits after everybody else had a turn."""
    task = asyncio.ensure_future(work)
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done(), task


async def rest(reader: Reader) -> list[bytes]:
    return [piece async for piece in reader]


async def soon(work: Any) -> Any:
    return await asyncio.wait_for(work, 5)


async def test_a_recording_begins_with_nothing() -> None:
    recording = playing()
    assert (recording.status, recording.headers, recording.kept, recording.withhold) == (0, (), True, False)
    assert (recording.reached, recording.pieces, recording.first_byte_at) == (0, 0, 0.0)
    assert not recording.deserted.is_set()
    assert Recording(limit=1, withhold=True).withhold is True


async def test_the_head_is_told_once_when_it_is_known_and_a_second_one_is_ignored() -> None:
    recording = playing()
    told: list[tuple[int, Any]] = []
    recording.on_begin = lambda: told.append((recording.status, recording.headers))
    await recording.start(200, (("X-Kind", "a"), ("X-Kind", "b")))
    await recording.start(500, (("X-Kind", "c"),))
    assert told == [(200, (("X-Kind", "a"), ("X-Kind", "b")))]
    assert (recording.status, recording.headers) == told[0]


@pytest.mark.parametrize(
    "name",
    [
        "PAYMENT-REQUIRED", "Payment-Required", "payment-response", "X-PAYMENT-RESPONSE", "X402-Note", "x402-sold",
        "Settlement-Overrides", "SETTLEMENT-OVERRIDES",
    ],
)  # fmt: skip
async def test_B18_what_a_handler_says_about_money_is_left_out_however_it_is_spelt(name: str) -> None:
    recording = playing()
    await recording.start(200, (("A", "1"), (name, '{"served":"free"}'), ("Z", "2")))
    assert recording.headers == (("A", "1"), ("Z", "2"))


async def test_the_clock_of_the_body_starts_with_its_first_byte_and_not_again() -> None:
    recording = playing()
    await recording.write(b"")
    assert (recording.first_byte_at, recording.pieces) == (0.0, 0)
    before = asyncio.get_running_loop().time()
    await recording.write(b"one")
    begun = recording.first_byte_at
    assert before <= begun <= asyncio.get_running_loop().time()
    await asyncio.sleep(0.002)
    await recording.write(b"two")
    assert (recording.first_byte_at, recording.pieces) == (begun, 2)


async def test_A02_a_withheld_answer_is_as_long_as_its_limit_and_no_byte_longer() -> None:
    recording = Recording(limit=10, withhold=True)
    await recording.write(b"12345")
    await recording.write(b"67890")
    assert (recording.kept, recording.answer({}).body) == (True, b"1234567890")
    with pytest.raises(MisconfiguredError, match="longer than 10 bytes; sell it with flow='upfront'") as refused:
        await recording.write(b"1")
    assert refused.value.code == "answer_too_large"
    assert (recording.kept, recording.pieces) == (False, 2)
    # Whoever goes on writing is not heard.
    await recording.write(b"2")
    assert recording.answer({}).body == b"1234567890"


async def test_A18_a_played_answer_beyond_its_limit_goes_on_for_its_readers_and_is_not_kept() -> None:
    recording = playing(limit=10)
    reader = recording.play()
    await soon(recording.write(b"1234567890"))
    assert recording.kept is True
    await soon(recording.write(b"a"))
    assert recording.kept is False
    await soon(recording.write(b"b"))
    await recording.close()
    assert await soon(rest(reader)) == [b"1234567890", b"a", b"b"]
    # Once nobody reads, nothing more is remembered.
    await soon(recording.write(b"c"))
    assert recording.pieces == 3


async def test_A18_an_answer_that_is_kept_goes_on_without_a_reader() -> None:
    recording = playing(limit=WINDOW * 2)
    reader = recording.play()
    await soon(recording.write(b"x" * WINDOW))
    await soon(recording.write(b"y" * WINDOW))
    await reader.aclose()
    assert (recording.kept, len(recording.answer({}).body)) == (True, 2 * WINDOW)
    late = recording.play()
    await recording.close()
    assert [len(piece) for piece in await soon(rest(late))] == [WINDOW, WINDOW]


async def test_A18_a_handler_runs_ahead_of_the_slowest_reader_by_a_window_and_no_more() -> None:
    recording = playing(limit=1)
    slow, fast = recording.play(), recording.play()
    await soon(recording.write(b"ab"))
    await soon(recording.write(b"x" * (WINDOW - 3)))
    waits, writing = await is_waiting(recording.write(b"y"))
    assert waits
    for _ in range(3):
        await soon(anext(fast))
    waits, _ = await is_waiting(asyncio.shield(writing))  # type: ignore[arg-type]
    assert waits
    assert await soon(anext(slow)) == b"ab"
    await soon(writing)
    # The window is full again, until the slow one leaves.
    waits, writing = await is_waiting(recording.write(b"zz"))
    assert waits
    await slow.aclose()
    await soon(writing)


async def test_A18_a_handler_that_waits_goes_on_when_the_last_reader_leaves() -> None:
    recording = playing(limit=1)
    reader = recording.play()
    waits, writing = await is_waiting(recording.write(b"x" * WINDOW))
    assert waits
    await reader.aclose()
    await soon(writing)
    assert recording.pieces == 1


async def test_a_writer_that_was_cancelled_while_it_waited_breaks_nothing() -> None:
    recording = playing(limit=1)
    reader = recording.play()
    _, writing = await is_waiting(recording.write(b"x" * WINDOW))
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await recording.close()
    assert [len(piece) for piece in await soon(rest(reader))] == [WINDOW]


async def test_what_all_readers_have_of_an_answer_too_long_to_keep_is_forgotten() -> None:
    recording = playing(limit=3)
    one, two = recording.play(), recording.play()
    for piece in (b"a", b"b", b"c"):
        await recording.write(piece)
    assert [await anext(one), await anext(one), await anext(two)] == [b"a", b"b", b"a"]
    assert recording.answer({}).body == b"abc"
    await recording.write(b"d")
    assert await anext(one) == b"c"
    assert recording.answer({}).body == b"bcd"
    assert await anext(two) == b"b"
    assert recording.answer({}).body == b"cd"
    await recording.close()
    assert (await rest(two), await rest(one)) == ([b"c", b"d"], [b"d"])
    assert recording.answer({}).body == b""


async def test_what_only_a_reader_who_left_had_not_read_is_forgotten_with_the_next_piece() -> None:
    recording = playing(limit=1)
    slow, fast = recording.play(), recording.play()
    for piece in (b"a", b"b", b"c", b"d", b"e"):
        await recording.write(piece)
    assert [await anext(fast) for _ in range(4)] == [b"a", b"b", b"c", b"d"]
    await slow.aclose()
    assert recording.answer({}).body == b"abcde"
    assert await anext(fast) == b"e"
    assert recording.answer({}).body == b""
    # Where nobody reads any more, nothing is forgotten.
    left = playing(limit=1)
    reader = left.play()
    await left.write(b"a")
    await left.write(b"b")
    await reader.aclose()
    assert (await anext(reader), left.answer({}).body) == (b"a", b"ab")


async def test_readers_go_at_their_own_pace_and_the_furthest_one_is_known() -> None:
    recording = playing()
    one, two = recording.play(), recording.play()
    waits, reading = await is_waiting(one.__anext__())
    assert waits
    await recording.write(b"a")
    assert await soon(reading) == b"a"
    await recording.write(b"bc")
    assert (await anext(one), recording.reached, one.index, one.played) == (b"bc", 2, 2, 3)
    assert (await anext(two), recording.reached, two.index, two.played) == (b"a", 2, 1, 1)
    await recording.close()
    assert await soon(rest(two)) == [b"bc"]
    assert recording.reached == 2


@pytest.mark.parametrize("broken", [True, False])
async def test_A21_a_reader_learns_whether_the_end_came_too_early(broken: bool) -> None:
    recording = playing()
    recording.watch_readers()
    reader = recording.play()
    await recording.write(b"a")
    assert await anext(reader) == b"a"
    waits, reading = await is_waiting(reader.__anext__())
    assert waits
    await (recording.close(broken=True) if broken else recording.close())
    with pytest.raises(BrokenOff if broken else StopAsyncIteration) as ended:
        await soon(reading)
    assert str(ended.value) == ("the answer was broken off" if broken else "")
    # Who has read to the end has left.
    await soon(recording.read_up())
    assert recording._readers == set()


async def test_what_was_written_before_it_broke_off_is_read_first() -> None:
    recording = playing()
    reader = recording.play()
    await recording.write(b"a")
    await recording.close(broken=True)
    assert await anext(reader) == b"a"
    with pytest.raises(BrokenOff):
        await anext(reader)


async def test_A18_everybody_gone_is_told_once_it_is_asked_for_and_not_after_the_end() -> None:
    recording = playing()
    one, two = recording.play(), recording.play()
    await one.aclose()
    await two.aclose()
    assert not recording.deserted.is_set()
    three, four = recording.play(), recording.play()
    recording.watch_readers()
    await three.aclose()
    assert not recording.deserted.is_set()
    await four.aclose()
    assert recording.deserted.is_set()

    ended = playing()
    reader = ended.play()
    ended.watch_readers()
    await ended.close()
    await reader.aclose()
    assert not ended.deserted.is_set()


async def test_A18_who_begins_to_watch_an_empty_room_is_told_at_once() -> None:
    recording = playing()
    recording.watch_readers()
    assert recording.deserted.is_set()
    over = playing()
    await over.close()
    over.watch_readers()
    assert not over.deserted.is_set()


@pytest.mark.parametrize("ahead", [0, 1, 2])
async def test_one_waits_until_a_reader_has_all_but_so_many_pieces(ahead: int) -> None:
    recording = playing()
    await soon(recording.read_up(ahead))
    reader, _other = recording.play(), recording.play()
    for _ in range(3):
        await recording.write(b"x")
    waits, waiting = await is_waiting(recording.read_up(ahead) if ahead else recording.read_up())
    assert waits
    for _ in range(2 - ahead):
        await anext(reader)
    assert not waiting.done()
    waits, _ = await is_waiting(asyncio.shield(waiting))  # type: ignore[arg-type]
    assert waits
    await anext(reader)
    await soon(waiting)


async def test_nobody_is_waited_for_who_has_left() -> None:
    recording = playing()
    reader = recording.play()
    await recording.write(b"x")
    waits, waiting = await is_waiting(recording.read_up())
    assert waits
    await reader.aclose()
    await soon(waiting)


async def test_an_answer_remembers_its_notes_and_its_bill_in_headers_that_no_client_sees() -> None:
    recording = playing()
    await recording.start(201, (("X-Kind", "a"),))
    await recording.write(b"bo")
    await recording.write(b"dy")
    bare = recording.answer({})
    assert bare == Answer(201, (("X-Kind", "a"),), b"body", True)
    assert (split_notes(bare), sold_of(bare)) == (((("X-Kind", "a"),), {}), {})
    whole = recording.answer({"n": 1, "m": "é"}, sold={"units": 7})
    assert whole.headers == (
        ("X-Kind", "a"), ("x402-note", '{"n":1,"m":"\\u00e9"}'), ("x402-sold", '{"units":7}'),
    )  # fmt: skip
    assert split_notes(whole) == ((("X-Kind", "a"),), {"n": 1, "m": "é"})
    assert sold_of(whole) == {"units": 7}
    cut = recording.answer({}, complete=False, sold={"units": 7})
    assert (cut.complete, split_notes(cut)[1], sold_of(cut)) == (False, {}, {"units": 7})
    assert recording.headers == (("X-Kind", "a"),)

"""scripts/fuzz: twenty thousand inputs break nothing, and each kind of broken promise is found and can be replayed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fuzzing import chain_targets, figures, guided, message_targets, run, wire_targets
from fuzzing.case import Broken, Target
from fuzzing.figures import Report
from fuzzing.run import Bench, on_hurried_loop, open_targets
from fuzzing.tape import Tape

from x402.errors import MalformedError
from x402.wire.challenge import parse_challenge
from x402.wire.receipt import parse_receipt

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz"
CASES = 20_000
PURE = {one.name: one for one in (*wire_targets.TARGETS, *chain_targets.TARGETS, *message_targets.TARGETS)}


def script() -> ModuleType:
    loader = SourceFileLoader("fuzz", str(SCRIPT))
    spec = importlib.util.spec_from_loader("fuzz", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def play(target: Target, cases: int = 60, seed: int = 402) -> Report:
    return on_hurried_loop(lambda: Bench(seed, [target]).run(cases))  # type: ignore[no-any-return]


def play_door(name: str, cases: int = 30) -> Report:
    async def go() -> Report:
        async with open_targets([name.partition(".")[0]]) as targets:
            return await Bench(402, [one for one in targets if one.name == name]).run(cases)

    return on_hurried_loop(go)  # type: ignore[no-any-return]


def test_E04_F05_F08_F09_C11_C15_A03_D14_twenty_thousand_inputs_break_nothing() -> None:
    """Of every family, counted; what was not refused was accepted, and every target knows both."""
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), "--cases", str(CASES), "--seed", "402", "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    told = json.loads(ran.stdout)
    assert told["findings"] == []
    assert (told["failures"], told["cases"], told["ok"], ran.returncode) == (0, CASES, True, 0), told
    assert told["rss_growth_mb"] < figures.GROWTH_LIMIT_MB
    one_sided = [one["target"] for one in told["targets"] if not (one["accepted"] and one["refused"])]
    assert one_sided == [], "damage that is always fatal, or never, proves nothing"
    families = {one["target"].partition(".")[0] for one in told["targets"]}
    assert families == {"wire", "chain", "message", "book", "node", "facilitator", "gateway"}


def unlucky(module: Any, name: str, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Every other call of a function raises what nobody promised."""
    real, calls = getattr(module, name), [0]

    def sometimes(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] % 2:
            raise error
        return real(*given, **named)

    monkeypatch.setattr(module, name, sometimes)


class PanicException(BaseException):
    """Named as what Rust libraries raise, which is no Exception."""


@pytest.mark.parametrize("error", [KeyError("amount"), RecursionError("deep"), PanicException("a Rust library")])
def test_a_decoder_that_raises_something_else_is_found(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    unlucky(wire_targets, "parse_challenge", monkeypatch, error)
    report = play(PURE["wire.challenge"])
    assert not report.ok
    assert report.failed >= 20
    assert type(error).__name__ in report.failures[0].words
    monkeypatch.undo()
    assert play(PURE["wire.challenge"]).ok


def test_a_finding_is_printed_and_replays_exactly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fuzz = script()

    def picky(value: Any) -> Any:
        if isinstance(value, dict) and "error" not in value:
            raise KeyError("error")
        return real(value)

    real = parse_challenge
    monkeypatch.setattr(wire_targets, "parse_challenge", picky)
    assert fuzz.main(["--target", "wire.challenge", "--cases", "200", "--seed", "402"]) == 1
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("scripts/fuzz --replay wire.challenge "))
    typed = line.split()[1:]
    assert fuzz.main(typed) == 1
    assert "KeyError" in capsys.readouterr().out
    (tmp_path / "case").write_text(typed[2])
    assert fuzz.main([*typed[:2], f"@{tmp_path / 'case'}", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["case"] == typed[2]
    monkeypatch.undo()
    assert fuzz.main(typed) == 0


async def raises_500(*_: Any, **__: Any) -> Any:
    raise KeyError("a defect of ours")


def test_a_gateway_that_answers_500_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play_door("gateway.request").ok
    monkeypatch.setattr("x402.gateway.replies.status_of", lambda error: 500)
    report = play_door("gateway.request")
    assert "HTTP 500" in report.failures[0].words
    monkeypatch.undo()
    monkeypatch.setattr("x402.gateway.counter.Counter._paid", raises_500)
    assert "KeyError" in play_door("gateway.payment").failures[0].words


def test_a_facilitator_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play_door("facilitator.body").ok
    monkeypatch.setattr("x402.facilitator.settle.LocalFacilitator.verify", raises_500)
    assert "KeyError" in play_door("facilitator.body", 120).failures[0].words


def test_A03_a_gateway_that_serves_without_proof_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def gullible(value: Any) -> Any:
        return real({**value, "success": True, "errorReason": None} if isinstance(value, dict) else value)

    real = parse_receipt
    monkeypatch.setattr("x402.facilitator.remote.parse_receipt", gullible)
    assert any("served for" in one.words for one in play_door("gateway.facilitator", 80).failures)


def test_D14_a_port_that_lets_nonsense_through_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("x402.ports.evm._quantity", lambda value: int(value, 16))
    assert not play_door("node.evm", 300).ok


def target_of(run_it: Any) -> Target:
    return Target("test.one", lambda tape: bytes([tape.below(256)]), run_it, 1)


def test_what_only_the_loop_or_the_log_is_told_is_found() -> None:
    async def leaves_a_task(data: bytes) -> bool:
        async def fail() -> None:
            raise KeyError("behind the caller's back")

        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(fail()))
        await asyncio.sleep(0)
        return True

    assert "told to nobody: KeyError" in play(target_of(leaves_a_task)).failures[0].words

    def logs(data: bytes) -> bool:
        try:
            raise KeyError("swallowed")
        except KeyError:
            logging.getLogger("x402.test").exception("a defect")
        return True

    assert "told to nobody: KeyError" in play(target_of(logs)).failures[0].words


def test_hangs_are_found_whether_they_wait_or_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_GIVE_UP_SECONDS", 0.05)
    monkeypatch.setattr(run, "ROUNDS", 1)

    async def waits(data: bytes) -> bool:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    assert "no end" in play(target_of(waits), 1).failures[0].words

    def works(data: bytes) -> bool:
        while True:
            pass

    assert "busy for" in play(target_of(works), 1).failures[0].words
    monkeypatch.setattr(run, "_GIVE_UP_SECONDS", 5.0)
    monkeypatch.setattr(run, "HANG_SECONDS", 0.01)
    assert "again as long" in play(target_of(lambda data: time.sleep(0.02)), 1).failures[0].words
    once = iter([0.02, 0.0])
    assert play(target_of(lambda data: time.sleep(next(once))), 1).ok, "held up once is no hang"


def test_memory_that_grows_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([90.0, 100.0, 100.0 + figures.GROWTH_LIMIT_MB])
    monkeypatch.setattr(run, "resident_mb", lambda: next(seen))
    report = play(target_of(lambda data: True), 20)
    assert (report.failed, report.growth_mb, report.ok) == (0, figures.GROWTH_LIMIT_MB, False)
    monkeypatch.undo()
    assert run.resident_mb() > 10


def test_a_refusal_without_words_is_a_failure() -> None:
    def mute(data: bytes) -> bool:
        raise MalformedError("", "words")

    def endless(data: bytes) -> bool:
        raise MalformedError("code", "w" * 2_000)

    def sound(data: bytes) -> bool:
        raise MalformedError("code", "words")

    assert not play(target_of(mute)).ok
    assert not play(target_of(endless)).ok
    assert play(target_of(sound)).ok


def test_the_same_seed_makes_the_same_inputs() -> None:
    """In another process too: keys, quotes and clocks of the doors stand still."""
    program = (
        "import asyncio, hashlib, random, sys\n"
        f"sys.path[:0] = {[str(SCRIPT.parents[1]), str(SCRIPT.parent)]!r}\n"
        "from fuzzing.run import on_hurried_loop, open_targets\n"
        "from fuzzing.tape import Tape\n"
        "async def go():\n"
        "    async with open_targets() as targets:\n"
        "        for one in targets:\n"
        "            draw = random.Random(one.name)\n"
        "            made = b''.join(one.make(Tape(draw.randbytes(128))) for _ in range(20))\n"
        "            print(one.name, hashlib.sha256(made).hexdigest())\n"
        "on_hurried_loop(go)\n"
    )
    both = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True).stdout
        for _ in range(2)
    ]
    differing = set(both[0].splitlines()) ^ set(both[1].splitlines())
    assert {line.split()[0] for line in differing} <= {"book.ledger-file"}, "only a database's own bytes differ"


def test_cases_are_shared_by_weight_to_the_last_one() -> None:
    targets = list(PURE.values())
    for cases in (len(targets) * 3, 1_000, 77_777):
        assert sum(run.share(cases, targets).values()) == cases


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--target", "nowhere"], "no target has a name like 'nowhere'"),
        (["--replay", "nowhere", "AA=="], "no target has a name like 'nowhere'"),
    ],
)
def test_a_name_that_nothing_has(typed: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert script().main(typed) == 2
    assert words in capsys.readouterr().err


def test_a_case_that_is_no_base64(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script().main(["--replay", "wire.strict", "%%%"])
    assert ended.value.code == 2
    assert "base64" in capsys.readouterr().err


def test_the_mix_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert script().main(["--list", "--cases", "500000", "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out).values()) == 500_000


def test_without_atheris_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(guided, "find_spec", lambda name: None)
    assert script().main(["--atheris", "1"]) == 2
    assert "pip install atheris" in capsys.readouterr().err


def test_coverage_leads_the_input_through_the_decoders(capsys: pytest.CaptureFixture[str]) -> None:
    ended = script().main(["--atheris", "2", "--json"])
    if guided.available():
        assert ended == 2, "there is no atheris for this machine, and the command says so"
        return
    assert ended == 0
    told = json.loads(capsys.readouterr().out)
    assert told["findings"] == []
    assert told["executed"] > 1_000
    assert told["covered"] > 100


def test_a_guided_finding_names_its_target() -> None:
    names = guided.plain_targets()
    assert [guided.chosen(bytes([number]) + b"rest") for number in range(len(names))] == names
    assert set(names) <= set(PURE)


def test_control_tapes_reach_every_kind_of_wound() -> None:
    made = {PURE["wire.payment-header"].make(Tape(bytes([first, 3, second, 5] * 20))) for first in range(40)
            for second in range(20)}  # fmt: skip
    assert len(made) > 300
    with pytest.raises(Broken):
        wire_targets.same(1, 2, "the number")

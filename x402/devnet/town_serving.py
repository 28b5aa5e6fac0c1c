"""An ASGI app on loopback inside this program: bound before it starts, gone when it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from x402.errors import UnavailableError
from x402.request_head import BoundedHead

HOST = "127.0.0.1"
_GRACE_SECONDS = 2

App = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]


def listen(port: int = 0, host: str = HOST) -> socket.socket:
    """A socket that already listens, so that nobody else can take its port. Raises `UnavailableError("port_taken")`."""
    # asyncio switches Nagle's delay off only on sockets that name their protocol; it would cost 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UnavailableError("port_taken", f"port {port} on {host} cannot be used: {error}") from None
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def serving(app: App, listener: socket.socket) -> AsyncIterator[str]:
    """Serve `app` for as long as the block runs; yields its URL once it is ready, lifespan included.

    Raises `UnavailableError("service_stopped")` when the app does not start.
    """
    host, port = listener.getsockname()
    config = uvicorn.Config(
        app,
        http=BoundedHead,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
                raise UnavailableError("service_stopped", "a service of the town did not start; its log says why")
            await asyncio.sleep(0.005)
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await task
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which belong to the program around it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

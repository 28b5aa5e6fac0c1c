"""Serves one ASGI app of a peer on loopback and says so on standard output.

The first line printed is `ready http://127.0.0.1:PORT`; from then on connections are accepted.
Environment: PORT (0 or absent picks a free one).
"""

from __future__ import annotations

import os
import socket

import uvicorn
from fastapi import FastAPI


class AnnouncedServer(uvicorn.Server):
    """Says so when the app has started: an app that refuses its configuration never becomes ready."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            print(f"ready http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)


def serve(app: FastAPI) -> None:
    """Binds, announces and runs `app` until the process is told to stop."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(os.environ.get("PORT", "0"))))
    server = AnnouncedServer(uvicorn.Config(app, log_level="warning", access_log=False))
    server.run(sockets=[listener])

"""The demo model as its own process: `python -m benching.thinker SECONDS` prints `ready URL`.

It thinks for so many seconds before each token of a stream.
"""

from __future__ import annotations

import sys

import uvicorn

from x402.devnet.model import create_app
from x402.devnet.town_serving import listen


def main(seconds: str) -> None:
    """Serve until the process is ended."""
    listener = listen()
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(create_app(delay_seconds=float(seconds)), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])

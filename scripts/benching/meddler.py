"""A proxy before a JSON-RPC node that counts what passes and may take its time, as a node across a network does.

`python -m benching.meddler NODE_URL` prints `ready URL`. `GET /count` tells what passed since the last such question;
`GET /delay/MILLISECONDS` sets how long each answer takes more.
"""

from __future__ import annotations

import asyncio
import json
import sys
from urllib.parse import urlsplit


class Meddler:
    """Passes HTTP requests with a `Content-Length` on to one node, each connection of a client over one of its own."""

    def __init__(self, node: str) -> None:
        parts = urlsplit(node)
        self._node = parts.hostname or "127.0.0.1", parts.port or 80
        self._delay = 0.0
        self._requests = self._calls = 0

    async def serve(self) -> None:
        """Serve until the process ends."""
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=1 << 22)
        print(f"ready http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while True:
                head, body = await _message(reader)
                method, target = head.split(b" ", 2)[:2]
                if method == b"GET":
                    writer.write(self._told(target.decode()))
                    continue
                self._requests += 1
                asked = json.loads(body)
                self._calls += len(asked) if isinstance(asked, list) else 1
                if upstream is None:
                    upstream = await asyncio.open_connection(*self._node, limit=1 << 22)
                upstream[1].write(head + body)
                answered, content = await _message(upstream[0])
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(answered + content)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()
            if upstream is not None:
                upstream[1].close()

    def _told(self, target: str) -> bytes:
        if target.startswith("/delay/"):
            self._delay = float(target.removeprefix("/delay/")) / 1000
        body = json.dumps({"requests": self._requests, "calls": self._calls}).encode()
        self._requests = self._calls = 0
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head, await reader.readexactly(length)


if __name__ == "__main__":
    asyncio.run(Meddler(sys.argv[1]).serve())

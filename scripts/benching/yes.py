"""A facilitator that says yes at once, so that what is left of a paid request is the seller's own cost.

`python -m benching.yes ADDRESS` prints `ready URL`. It verifies and settles nothing: the one mock of the benchmarks.
"""

from __future__ import annotations

import asyncio
import json
import sys
from urllib.parse import urlsplit

NETWORK = "eip155:84532"


class Yes(asyncio.Protocol):
    """Answers each request of a kept-alive connection from a table."""

    payer = ""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head = self._pending[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._pending) < end + 4 + length:
                return
            body = self._pending[end + 4 : end + 4 + length]
            target = urlsplit(head.split(b" ", 2)[1].decode()).path
            self._pending = self._pending[end + 4 + length :]
            self._answer(target, body)

    def _answer(self, target: str, body: bytes) -> None:
        assert self._transport is not None
        content = json.dumps(self._content(target, body)).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self._transport.write(head.encode() + content)

    def _content(self, target: str, body: bytes) -> dict[str, object]:
        if target.endswith("/supported"):
            kinds = [{"x402Version": version, "scheme": "exact", "network": NETWORK} for version in (1, 2)]
            kinds[0]["network"] = "base-sepolia"
            return {"kinds": kinds, "extensions": [], "signers": {"eip155:*": [self.payer]}}
        asked = json.loads(body)
        authorization = asked["paymentPayload"]["payload"]["authorization"]
        if target.endswith("/verify"):
            return {"isValid": True, "payer": authorization["from"]}
        # The nonce is as good a transaction id as any: unique, and 32 bytes.
        paid = {"transaction": authorization["nonce"], "network": NETWORK, "payer": authorization["from"]}
        return {"success": True, **paid}


async def main(address: str) -> None:
    """Serve until the process ends."""
    Yes.payer = address
    server = await asyncio.get_running_loop().create_server(Yes, "127.0.0.1", 0)
    print(f"ready http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

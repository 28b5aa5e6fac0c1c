"""uvicorn's HTTP/1.1 protocol with an end to its patience: a request head that goes on and on is refused.

httptools puts no bound on a head: it would keep ten megabytes of one header, only for a reader further in to refuse
them (faults E04, F05). What is refused here was never a request, so nothing was submitted: it may be sent again,
smaller.
"""

from __future__ import annotations

import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from x402.errors import MalformedError

HEAD_LIMIT = 64 * 1024
"""Most bytes of names and values in a request's head."""


class BoundedHead(HttpToolsProtocol):
    """Give it to uvicorn as `http`. Answers 431 and hangs up on a head beyond `HEAD_LIMIT`, however slowly it comes."""

    _idle = True
    _in_head = False
    _begun_here = 0
    _head_bytes = 0
    _too_large = False

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        was_idle, self._begun_here = self._idle, 0
        super().data_received(data)
        if not self._in_head or self._too_large:
            return
        # Where a head begins behind other bytes of a pipeline is not known; it is counted from the next ones on.
        if not self._begun_here or (self._begun_here == 1 and was_idle):
            self._head_bytes += len(data)
        if self._head_bytes > HEAD_LIMIT:
            self._too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Called by the parser at the first byte of a request."""
        self._idle, self._in_head = False, True
        self._begun_here += 1
        self._head_bytes = 0
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Called by the parser at the end of a request."""
        self._idle = True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        """Called by the parser at the end of a head."""
        self._in_head = False
        if sum(len(name) + len(value) for name, value in self.headers) > HEAD_LIMIT:
            self._too_large = True
            # The parser stops at an exception, and the base class then answers through `send_400_response`.
            raise ValueError("the head is too large")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and hang up; 431 where its head is too large."""
        if not self._too_large:
            super().send_400_response(msg)
            return
        refusal = MalformedError(
            "request_head_too_large",
            f"the request's head is larger than {HEAD_LIMIT} bytes; nothing was submitted, a smaller one may be sent",
        )
        body = json.dumps({"error": refusal.as_json()}).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + head.encode() + body)
        self.transport.close()

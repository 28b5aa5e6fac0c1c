"""JSON-RPC 2.0 over HTTP on loopback: envelopes, batches, limits; the chain on a thread of its own.

Anything that arrives gets an answer: junk is -32700, a wrong envelope -32600, and a fault of ours -32603
with the traceback in the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from .params import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    RpcError,
)

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 5 * 1024 * 1024
MAX_BATCH = 1000
GRACE_S = 1
HOST = "127.0.0.1"

Answered = TypeVar("Answered")


class Answering(Protocol):
    """Something with JSON-RPC methods, used from one thread only."""

    def answer(self, method: str, params: list[Any]) -> Any:
        """The result of `method`. Raises `RpcError`."""


class ChainThread:
    """The one thread that touches the chain: callers queue, the event loop stays free."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evm-devnet")

    async def run(self, work: Callable[..., Answered], *arguments: Any) -> Answered:
        """Do `work` after everything that was asked before it."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    async def close(self) -> None:
        """End the thread after its current work, and see it gone; what still waits is dropped."""
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)


def _refusal(request_id: Any, error: RpcError) -> dict[str, Any]:
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return {"jsonrpc": "2.0", "id": request_id, "error": body}


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Endpoint:
    """One POST route that answers single requests and batches."""

    def __init__(self, methods: Answering, thread: ChainThread) -> None:
        self._methods = methods
        self._thread = thread

    def app(self) -> Starlette:
        """The ASGI application; browsers on any origin may call it, as they may call public nodes."""
        cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["POST"], allow_headers=["*"])
        return Starlette(routes=[Route("/", self._receive, methods=["POST"])], middleware=[cors])

    async def _receive(self, request: Request) -> Response:
        try:
            body = await _read_body(request)
            answer = None if body is None else await self._answer_body(body)
        except ClientDisconnect:
            return Response(status_code=400)
        except RpcError as error:
            answer = _refusal(None, error)
        content = b"" if answer is None else json.dumps(answer).encode()
        return Response(content, media_type="application/json")

    async def _answer_body(self, body: bytes) -> Any:
        try:
            sent = json.loads(body, parse_constant=_reject_constant)
        except (ValueError, RecursionError) as error:
            raise RpcError(PARSE_ERROR, "parse error: the body is not JSON") from error
        if not isinstance(sent, list):
            return await self.answer_one(sent)
        if not sent:
            raise RpcError(INVALID_REQUEST, "empty batch")
        if len(sent) > MAX_BATCH:
            raise RpcError(INVALID_REQUEST, f"batch too large: at most {MAX_BATCH} requests")
        answers = [await self.answer_one(one) for one in sent]
        return [answer for answer in answers if answer is not None] or None

    async def answer_one(self, sent: Any) -> dict[str, Any] | None:
        """The response object to one request object; None to a notification."""
        request_id = sent.get("id") if isinstance(sent, dict) else None
        if isinstance(request_id, (dict, list, bool)):
            request_id = None
        try:
            method, params = _envelope(sent)
            result = await self._thread.run(self._methods.answer, method, params)
        except RpcError as error:
            return _refusal(request_id, error)
        except Exception:
            logger.exception("devnet EVM: %r failed", sent.get("method"))
            return _refusal(request_id, RpcError(INTERNAL_ERROR, "internal error"))
        return {"jsonrpc": "2.0", "id": request_id, "result": result} if "id" in sent else None


def _envelope(sent: Any) -> tuple[str, list[Any]]:
    if not isinstance(sent, dict) or sent.get("jsonrpc", "2.0") != "2.0":
        raise RpcError(INVALID_REQUEST, "invalid request: expected a JSON-RPC 2.0 object")
    method, params = sent.get("method"), sent.get("params")
    if not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "invalid request: method must be a string")
    if isinstance(sent.get("id"), (dict, list, bool)):
        raise RpcError(INVALID_REQUEST, "invalid request: id must be a string or a number")
    if params is not None and not isinstance(params, list):
        raise RpcError(INVALID_PARAMS, "non-array args")
    return method, params or []


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RpcError(INVALID_REQUEST, f"content length too large: at most {MAX_BODY_BYTES} bytes")
    return bytes(body)


class _Server(uvicorn.Server):
    """A server that leaves the signals to the program it runs in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: Starlette, port: int) -> AsyncIterator[str]:
    """Serve `app` on loopback at `port` (0: any free one) for the length of the block; yields the URL.

    Raises `OSError` if the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=GRACE_S
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if running.done():
                await running
                raise RuntimeError("the devnet's HTTP server ended before it started")
            await asyncio.sleep(0.002)
        yield f"http://{HOST}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        listener.close()

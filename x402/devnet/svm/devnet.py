"""A Solana devnet on loopback: a real Solana VM with the real SPL programs behind JSON-RPC and WebSocket.

    async with SvmDevnet() as devnet:
        await devnet.fund(buyer, usdc_atomic=5_000_000, lamports=0)
        client = AsyncClient(devnet.url)

It answers with the genesis hash of the public devnet, so that clients find `solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1`,
and its USDC mint has the public devnet's address. What it does not have: forks, confirmation levels (all is finalized
at once), durable nonces, retries of a transaction that could not land, blocks as objects (`getBlock`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Self

import uvicorn
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from x402.devnet.svm.bank import Bank
from x402.devnet.svm.faucet import USDC_MINT, Faucet, FundingRefused, usdc_account
from x402.devnet.svm.params import INVALID_REQUEST, RpcError
from x402.devnet.svm.queries import Accounts
from x402.devnet.svm.rpc import JsonRpc, failure, write_json
from x402.devnet.svm.subscriptions import Subscriptions
from x402.devnet.svm.tokens import token_account
from x402.errors import MalformedError, UnavailableError

__all__ = ["USDC_MINT", "SvmDevnet"]

HOST = "127.0.0.1"
_PORT_ATTEMPTS = 16
_U64 = 2**64 - 1


class SvmDevnet:
    """One devnet in this process, served by the running event loop.

    `slot_ms` is the slot time in milliseconds (0: time stands still but for `advance_slots`), `history` how many
    landed transactions are remembered, `max_body` the longest accepted request in bytes.
    """

    def __init__(self, *, slot_ms: int = 400, history: int = 200_000, max_body: int = 256 * 1024) -> None:
        self._bank = Bank(slot_ms=slot_ms, history=history)
        self._faucet = Faucet(self._bank)
        self._rpc = JsonRpc(self._bank, self._faucet)
        self._subscriptions = Subscriptions(self._bank, Accounts(self._bank))
        self._max_body = max_body
        self._tasks: list[asyncio.Task[None]] = []
        self._server: _Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The HTTP JSON-RPC endpoint."""
        return f"http://{HOST}:{self._bound()}"

    @property
    def ws_url(self) -> str:
        """The WebSocket endpoint, on the HTTP port. Port + 1 serves the same when it was free, since
        web3.js-style clients guess it."""
        return f"ws://{HOST}:{self._bound()}"

    @property
    def faucet(self) -> Keypair:
        """The mint authority of the devnet's USDC; derived from a public seed and worthless elsewhere."""
        return self._faucet.keypair

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the JSON-RPC methods that are answered; every other one is -32601."""
        return self._rpc.names

    @property
    def slot(self) -> int:
        """The current slot."""
        return self._bank.tick()

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0 takes a free one. Raises `UnavailableError` when the port is taken."""
        if self._server is not None:
            raise UnavailableError("devnet_running", "the Solana devnet is already running")
        listeners = _listen(port)
        self._port = listeners[0].getsockname()[1]
        config = uvicorn.Config(
            self._app(),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws_max_size=self._max_body,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        serving = asyncio.create_task(self._server.serve(sockets=listeners))
        self._tasks = [serving]
        while not self._server.started:
            if serving.done():
                self._server = None
                await serving
                raise UnavailableError("devnet_stopped", "the Solana devnet did not start")
            await asyncio.sleep(0)
        if self._bank.slot_ms:
            self._tasks.append(asyncio.create_task(self._keep_time()))

    async def stop(self) -> None:
        """Stop serving and close all connections; does nothing when it is not running."""
        if self._server is None:
            return
        serving, *timekeeping = self._tasks
        for task in timekeeping:
            task.cancel()
        self._server.should_exit = True
        await serving
        await asyncio.gather(*timekeeping, return_exceptions=True)
        self._server, self._tasks = None, []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def fund(self, owner: str, usdc_atomic: int, lamports: int) -> None:
        """Give `owner` atomic USDC (creating the account) and lamports, in one real transaction.

        Raises `MalformedError` for a bad address or amount, and when the chain refuses the gift: a new account
        needs at least the rent-exempt minimum of 890,880 lamports.
        """
        for amount in (usdc_atomic, lamports):
            if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount <= _U64:
                raise MalformedError("invalid_amount", f"{amount!r} is no u64 amount")
        self._give(owner, usdc_atomic=usdc_atomic, lamports=lamports, create_account=usdc_atomic > 0)

    async def create_usdc_account(self, owner: str) -> str:
        """Make sure that `owner` has a USDC account, and return its address. Raises `MalformedError`."""
        self._give(owner, usdc_atomic=0, lamports=0, create_account=True)
        return str(usdc_account(_address(owner)))

    async def usdc_balance(self, owner: str) -> int:
        """Atomic USDC in the owner's associated account, 0 when there is none. Raises `MalformedError`."""
        state = token_account(self._bank.account(usdc_account(_address(owner))))
        return 0 if state is None else state.amount

    async def lamports(self, owner: str) -> int:
        """The owner's lamports. Raises `MalformedError` for a bad address."""
        return self._bank.svm.get_balance(_address(owner)) or 0

    def advance_slots(self, slots: int) -> int:
        """Jump ahead by `slots` and return the new slot; 151 of them kill every blockhash. ValueError if negative."""
        return self._bank.advance(slots)

    def _give(self, owner: str, *, usdc_atomic: int, lamports: int, create_account: bool) -> None:
        try:
            self._faucet.give(
                _address(owner), usdc_atomic=usdc_atomic, lamports=lamports, create_account=create_account
            )
        except FundingRefused as refusal:
            raise MalformedError("funding_refused", f"the devnet refused to fund {owner}: {refusal}") from None

    def _bound(self) -> int:
        if self._server is None:
            raise UnavailableError("devnet_stopped", "the Solana devnet is not running")
        return self._port

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._answer, methods=["POST"]),
                WebSocketRoute("/", self._subscriptions.serve),
            ]
        )

    async def _answer(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body:
                error = failure(None, RpcError(INVALID_REQUEST, f"Request is longer than {self._max_body} bytes"))
                return Response(write_json(error), 413, media_type="application/json")
        return Response(await self._rpc.answer(bytes(body)), media_type="application/json")

    async def _keep_time(self) -> None:
        # Calls catch up with the clock by themselves; this only wakes subscribers of an idle chain.
        while True:
            await asyncio.sleep(self._bank.slot_ms / 1000)
            self._bank.tick()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which belong to the program that runs the devnet."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _address(text: str) -> Pubkey:
    try:
        return Pubkey.from_string(text)
    except (ValueError, TypeError):
        raise MalformedError("invalid_address", f"{str(text)[:80]!r} is no Solana address") from None


def _listen(port: int) -> list[socket.socket]:
    """A listener on `port`, and one on the next port for clients that expect the WebSocket there, if it is free."""
    main = _bind(port)
    for _ in range(_PORT_ATTEMPTS):
        with contextlib.suppress(OSError, OverflowError):
            return [main, _bind(main.getsockname()[1] + 1, raw=True)]
        if port:
            break
        main.close()
        main = _bind(0)
    return [main]


def _bind(port: int, *, raw: bool = False) -> socket.socket:
    # asyncio switches Nagle's delay off only on sockets that name their protocol; it would cost 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        if raw:
            raise
        raise UnavailableError("port_taken", f"port {port} on loopback: {error}") from None
    listener.setblocking(False)
    return listener

"""The Solana devnet's WebSocket: signature, slot and account subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey
from starlette.websockets import WebSocket, WebSocketDisconnect

from x402.devnet.svm.bank import FIRST_SLOT, Bank
from x402.devnet.svm.history import Json, Landed
from x402.devnet.svm.params import INVALID_REQUEST, Params, RpcError, invalid, signature
from x402.devnet.svm.queries import Accounts, Method
from x402.devnet.svm.rpc import failure, read_json, respond, write_json

MAX_SUBSCRIPTIONS = 10_000
"""How many subscriptions one connection may hold."""

_QUEUE = 20_000
_TRY_AGAIN_LATER = 1013


@dataclass(frozen=True, slots=True)
class _AccountWatch:
    address: Pubkey
    config: Mapping[str, Any]


class Subscriptions:
    """All open connections of one devnet, told about slots and landed transactions by the bank."""

    def __init__(self, bank: Bank, accounts: Accounts) -> None:
        self._bank = bank
        self._accounts = accounts
        self._open: set[_Connection] = set()
        bank.on_slot.append(self._slot_opened)
        bank.on_landed.append(self._transaction_landed)

    async def serve(self, socket: WebSocket) -> None:
        """Talk to one client until it leaves."""
        await socket.accept()
        connection = _Connection(self._bank, self._accounts)
        self._open.add(connection)
        writer = asyncio.create_task(connection.write_to(socket))
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                connection.hear(message.get("text") or message.get("bytes") or "")
        except WebSocketDisconnect:
            pass
        finally:
            self._open.discard(connection)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer

    def _slot_opened(self, slot: int) -> None:
        for connection in self._open:
            connection.slot_opened(slot)

    def _transaction_landed(self, landed: Landed, changed: dict[Pubkey, Account | None]) -> None:
        for connection in self._open:
            connection.transaction_landed(landed, changed)


class _Connection:
    """One client's subscriptions and its queue of outgoing messages."""

    def __init__(self, bank: Bank, accounts: Accounts) -> None:
        self._bank = bank
        self._accounts = accounts
        self._numbers = itertools.count(1)
        self._signatures: dict[int, str] = {}
        self._slots: set[int] = set()
        self._watches: dict[int, _AccountWatch] = {}
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE)
        # A signature that has landed already is announced right after the answer to its subscription.
        self._due: list[Callable[[], None]] = []
        self._methods: Mapping[str, Method] = {
            "signatureSubscribe": self._subscribe_signature,
            "signatureUnsubscribe": lambda params: self._drop(self._signatures, params),
            "slotSubscribe": self._subscribe_slot,
            "slotUnsubscribe": self._unsubscribe_slot,
            "accountSubscribe": self._subscribe_account,
            "accountUnsubscribe": lambda params: self._drop(self._watches, params),
        }

    async def write_to(self, socket: WebSocket) -> None:
        """Send what is queued, in order; give up on a client that reads too slowly."""
        try:
            while (message := await self._outgoing.get()) is not None:
                await socket.send_text(message.decode())
            await socket.close(_TRY_AGAIN_LATER, "too slow")
        except (WebSocketDisconnect, RuntimeError):
            # The client is gone; the reading side notices as well and ends the connection.
            return

    def hear(self, message: str | bytes) -> None:
        """Handle one incoming frame."""
        try:
            request = read_json(message)
        except RpcError as error:
            self._send(failure(None, error))
            return
        if isinstance(request, list):
            self._send(failure(None, RpcError(INVALID_REQUEST, "Batches are not supported on the WebSocket")))
            return
        response = respond(request, self._methods)
        if response is not None:
            self._send(response)
        due, self._due = self._due, []
        for announce in due:
            announce()

    def slot_opened(self, slot: int) -> None:
        value: Json = {"slot": slot, "parent": slot - 1, "root": max(slot - 1, FIRST_SLOT)}
        for number in self._slots:
            self._notify("slotNotification", number, value)

    def transaction_landed(self, landed: Landed, changed: dict[Pubkey, Account | None]) -> None:
        for number in [n for n, wanted in self._signatures.items() if wanted == landed.signature]:
            self._announce(number, landed)
        for number, watch in self._watches.items():
            if watch.address in changed:
                account = self._accounts.render(changed[watch.address], watch.config, "base64")
                value: Json = {"context": {"slot": landed.slot}, "value": account}
                self._notify("accountNotification", number, value)

    def _announce(self, number: int, landed: Landed) -> None:
        # A signature subscription ends with its only notification, as on a real node.
        if self._signatures.pop(number, None) is not None:
            value: Json = {"context": {"slot": landed.slot}, "value": {"err": landed.error}}
            self._notify("signatureNotification", number, value)

    def _subscribe_signature(self, params: Params) -> Json:
        wanted = signature(params.text(0))
        params.config(1)
        number = self._number()
        self._signatures[number] = wanted
        landed = self._bank.history.get(wanted)
        if landed is not None:
            self._due.append(lambda: self._announce(number, landed))
        return number

    def _subscribe_slot(self, params: Params) -> Json:
        number = self._number()
        self._slots.add(number)
        return number

    def _subscribe_account(self, params: Params) -> Json:
        watch = _AccountWatch(params.address(0), params.config(1))
        self._accounts.render(self._bank.account(watch.address), watch.config, "base64")
        number = self._number()
        self._watches[number] = watch
        return number

    def _unsubscribe_slot(self, params: Params) -> Json:
        number = params.number(0)
        if number not in self._slots:
            raise invalid("Invalid subscription id.")
        self._slots.discard(number)
        return True

    def _drop(self, subscriptions: dict[int, Any], params: Params) -> Json:
        if subscriptions.pop(params.number(0), None) is None:
            raise invalid("Invalid subscription id.")
        return True

    def _number(self) -> int:
        if len(self._signatures) + len(self._slots) + len(self._watches) >= MAX_SUBSCRIPTIONS:
            raise invalid(f"Too many subscriptions; max {MAX_SUBSCRIPTIONS}")
        return next(self._numbers)

    def _notify(self, method: str, number: int, result: Json) -> None:
        self._send({"jsonrpc": "2.0", "method": method, "params": {"result": result, "subscription": number}})

    def _send(self, message: Json) -> None:
        if self._outgoing.full():
            # Nothing useful is left to say to a client that has not read 20,000 messages.
            while not self._outgoing.empty():
                self._outgoing.get_nowait()
            self._outgoing.put_nowait(None)
            return
        self._outgoing.put_nowait(write_json(message))

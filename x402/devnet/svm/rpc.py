"""JSON-RPC 2.0 for the Solana devnet: one call or a batch in, the matching answer out, whatever arrives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from x402.devnet.svm.bank import Bank
from x402.devnet.svm.faucet import Faucet
from x402.devnet.svm.history import Json
from x402.devnet.svm.params import INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, Params, RpcError, invalid
from x402.devnet.svm.queries import Accounts, Cluster, Method
from x402.devnet.svm.transactions import Transactions

MAX_BATCH = 1_000
_CALLS_PER_TURN = 32
_ID_DIGITS = 64


class JsonRpc:
    """The table of HTTP methods over one bank."""

    def __init__(self, bank: Bank, faucet: Faucet) -> None:
        accounts = Accounts(bank)
        self._methods: Mapping[str, Method] = {
            **Cluster(bank).methods,
            **accounts.methods,
            **Transactions(bank, accounts, faucet).methods,
        }

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._methods)

    async def answer(self, body: bytes) -> bytes:
        """The response body for a request body; empty when there were only notifications."""
        try:
            request = read_json(body)
            if isinstance(request, list):
                return await self._answer_batch(request)
        except RpcError as error:
            return write_json(failure(None, error))
        response = self.call(request)
        return b"" if response is None else write_json(response)

    async def _answer_batch(self, batch: list[Any]) -> bytes:
        if not 1 <= len(batch) <= MAX_BATCH:
            raise RpcError(INVALID_REQUEST, f"A batch holds 1 to {MAX_BATCH} calls")
        responses: list[Json] = []
        for index, request in enumerate(batch):
            if index % _CALLS_PER_TURN == _CALLS_PER_TURN - 1:
                await asyncio.sleep(0)
            response = self.call(request)
            if response is not None:
                responses.append(response)
        return write_json(responses) if responses else b""

    def call(self, request: Any) -> Json:
        """The response to one request object, None for a notification."""
        return respond(request, self._methods)


def read_json(body: bytes | str) -> Any:
    """Strict JSON. Raises `RpcError` for anything else, including nesting that would exhaust the stack."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RpcError(PARSE_ERROR, "Parse error") from None


def write_json(value: Json) -> bytes:
    """Compact JSON bytes."""
    return json.dumps(value, separators=(",", ":")).encode()


def respond(request: Any, methods: Mapping[str, Method]) -> Json:
    """Look up and run one request object; None when it is a notification, which gets no response."""
    identity = request.get("id") if isinstance(request, dict) else None
    try:
        name, params = _read_request(request)
        method = methods.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        result = method(Params(params))
    except RpcError as error:
        return failure(identity if _is_id(identity) else None, error)
    if "id" not in request:
        return None
    return {"jsonrpc": "2.0", "result": result, "id": identity}


def failure(identity: Json, error: RpcError) -> Json:
    """The response that carries an error."""
    return {"jsonrpc": "2.0", "error": error.as_json(), "id": identity}


def _read_request(request: Any) -> tuple[str, list[Any]]:
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise RpcError(INVALID_REQUEST, "Invalid request")
    if request.get("jsonrpc") != "2.0" or not _is_id(request.get("id")):
        raise RpcError(INVALID_REQUEST, "Invalid request")
    params = request.get("params")
    if params is None:
        params = []
    if not isinstance(params, list):
        raise invalid("Invalid params: expected a list.")
    return request["method"], params


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _ID_DIGITS
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")

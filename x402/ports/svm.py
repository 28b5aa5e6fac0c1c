"""A Solana cluster over JSON-RPC: what `ports.SvmChain` promises, statuses polled together."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from x402.chain import (
    Blockhash,
    SvmAccount,
    SvmLanded,
    SvmListed,
    SvmSimulation,
    SvmStatus,
    SvmTransaction,
    TokenBalance,
)
from x402.errors import MisconfiguredError, UnavailableError
from x402.ports import NotSent
from x402.ports.rpc import JsonRpc, RpcError
from x402.ports.watch import Watch

_CAIP2_REFERENCE = 32
_STATUS_BATCH = 256
_COMMITMENT = {"commitment": "confirmed"}
_ALREADY = "already been processed"
_TRY_AGAIN = ("InsufficientFundsForFee", "InsufficientFundsForRent", "AccountNotFound", "BlockhashNotFound")
"""Refusals that may pass before the blockhash dies: an empty fee payer, and a node that lags behind (fault E01)."""
_PREFLIGHT_FAILURE = -32002
_SIGNATURE_FAILURE = -32003
_INVALID_PARAMS = -32602


class RpcSvmChain:
    """One Solana cluster behind one node. `history` makes status queries search beyond the recent slots (E14)."""

    def __init__(self, url: str, *, timeout_seconds: float = 10.0, rpc: JsonRpc | None = None) -> None:
        self.rpc = rpc or JsonRpc(url, timeout_seconds=timeout_seconds)
        self._statuses: Watch[SvmStatus] = Watch(self._fetch_statuses)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.rpc.aclose()

    async def check_cluster(self, network: str) -> None:
        genesis = await self._ask("getGenesisHash")
        if not isinstance(genesis, str):
            raise UnavailableError("rpc_unavailable", "the node sent no genesis hash")
        served = f"solana:{genesis[:_CAIP2_REFERENCE]}"
        if served != network:
            raise MisconfiguredError("wrong_chain", f"the node serves {served}, expected {network}")

    async def blockhash(self) -> Blockhash:
        value = _value(await self._ask("getLatestBlockhash", _COMMITMENT))
        return Blockhash(str(_member(value, "blockhash")), _integer(_member(value, "lastValidBlockHeight")))

    async def block_height(self) -> int:
        return _integer(await self._share("getBlockHeight", _COMMITMENT))

    async def is_blockhash_valid(self, blockhash: str) -> bool:
        return _value(await self._ask("isBlockhashValid", blockhash, _COMMITMENT)) is True

    async def accounts(self, addresses: Sequence[str]) -> Sequence[SvmAccount | None]:
        config = {"encoding": "base64", **_COMMITMENT}
        found = _value(await self._ask("getMultipleAccounts", list(addresses), config))
        if not isinstance(found, list) or len(found) != len(addresses):
            raise UnavailableError("rpc_unavailable", "the node sent another number of accounts than asked for")
        return [None if account is None else _account(account) for account in found]

    async def simulate(self, raw: bytes, *, verify_signatures: bool) -> SvmSimulation:
        config = {"encoding": "base64", "sigVerify": verify_signatures, **_COMMITMENT}
        value = _value(await self._ask("simulateTransaction", _base64(raw), config))
        return SvmSimulation(_error(_member(value, "err")), tuple(_texts(_optional(value, "logs", []))))

    async def send(self, raw: bytes, transaction: str) -> None:
        config = {"encoding": "base64", "preflightCommitment": "confirmed", "maxRetries": 0}
        try:
            await self.rpc.call("sendTransaction", _base64(raw), config)
        except RpcError as error:
            said = f"{error.message} {_preflight_error(error)}"
            if _ALREADY in said or "AlreadyProcessed" in said:
                return
            if error.code in (_PREFLIGHT_FAILURE, _SIGNATURE_FAILURE, _INVALID_PARAMS):
                # Preflight runs before the node forwards anything, so these bytes have not left it.
                said = _preflight_error(error)
                raise NotSent(said, ours=any(words in said for words in _TRY_AGAIN)) from error
            raise _unavailable(error) from error

    async def status(self, signature: str, *, timeout: float) -> SvmStatus | None:
        return await self._statuses.wait(signature, timeout)

    async def transaction(self, signature: str) -> SvmTransaction | None:
        config = {"encoding": "json", "maxSupportedTransactionVersion": 0, **_COMMITMENT}
        value = await self._ask("getTransaction", signature, config)
        return None if value is None else _transaction(signature, value)

    async def landed(self, signature: str) -> SvmLanded | None:
        config = {"encoding": "base64", "maxSupportedTransactionVersion": 0, **_COMMITMENT}
        value = await self._ask("getTransaction", signature, config)
        if value is None:
            return None
        time, error = _optional(value, "blockTime", None), _error(_member(_member(value, "meta"), "err"))
        try:
            raw = base64.b64decode(_member(value, "transaction")[0], validate=True)
        except (binascii.Error, ValueError, TypeError, IndexError, KeyError):
            raise UnavailableError("rpc_unavailable", "the node sent a transaction without base64 data") from None
        return SvmLanded(_integer(_member(value, "slot")), error, None if time is None else _integer(time), raw)

    async def finalized(self) -> int:
        return _integer(await self._share("getSlot", {"commitment": "finalized"}))

    async def signatures_of(self, address: str, *, limit: int = 1000, before: str = "") -> Sequence[SvmListed]:
        page = {"before": before} if before else {}
        found = await self._ask("getSignaturesForAddress", address, {"limit": limit, **page, **_COMMITMENT})
        if not isinstance(found, list):
            raise UnavailableError("rpc_unavailable", "the node sent no list where one belongs")
        return [_listed(one) for one in found]

    async def _ask(self, method: str, *params: Any) -> Any:
        try:
            return await self.rpc.call(method, *params)
        except RpcError as error:
            raise _unavailable(error) from error

    async def _share(self, method: str, *params: Any) -> Any:
        try:
            return await self.rpc.share(method, *params)
        except RpcError as error:
            raise _unavailable(error) from error

    async def _fetch_statuses(self, signatures: list[str]) -> Sequence[SvmStatus | None]:
        found: list[SvmStatus | None] = []
        for start in range(0, len(signatures), _STATUS_BATCH):
            asked = signatures[start : start + _STATUS_BATCH]
            reply = _value(await self._ask("getSignatureStatuses", asked, {"searchTransactionHistory": True}))
            if not isinstance(reply, list) or len(reply) != len(asked):
                raise UnavailableError("rpc_unavailable", "the node sent another number of statuses than asked for")
            found += [_status(status) for status in reply]
        return found


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unavailable(error: RpcError) -> UnavailableError:
    return UnavailableError("rpc_unavailable", f"the node refused a request (code {error.code})")


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise UnavailableError("rpc_unavailable", f"the node's answer lacks {name}")
    return value[name]


def _value(reply: Any) -> Any:
    return _member(reply, "value")


def _integer(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise UnavailableError("rpc_unavailable", "the node sent no number where one belongs")
    return value


def _error(value: Any) -> str | None:
    return None if value is None else json.dumps(value, separators=(",", ":"))


def _preflight_error(error: RpcError) -> str:
    inner = error.data.get("err") if isinstance(error.data, dict) else None
    return _error(inner) or error.message[:300]


def _account(value: Any) -> SvmAccount:
    data = _member(value, "data")
    try:
        raw = base64.b64decode(data[0], validate=True)
    except (binascii.Error, ValueError, TypeError, IndexError, KeyError):
        raise UnavailableError("rpc_unavailable", "the node sent an account without base64 data") from None
    return SvmAccount(str(_member(value, "owner")), _integer(_member(value, "lamports")), raw)


def _status(value: Any) -> SvmStatus | None:
    """A status that decides something: one that is at least confirmed. What was merely processed may stand on a fork
    that dies, a failure as well as a success, and the transaction may then land otherwise (fault A16)."""
    if value is None:
        return None
    error = _error(_member(value, "err"))
    confirmation = str(value.get("confirmationStatus") or "processed")
    if confirmation == "processed":
        return None
    return SvmStatus(_integer(_member(value, "slot")), confirmation, error)


def _listed(value: Any) -> SvmListed:
    signature, time = _member(value, "signature"), value.get("blockTime")
    if not isinstance(signature, str):
        raise UnavailableError("rpc_unavailable", "the node sent no signature where one belongs")
    return SvmListed(signature, None if time is None else _integer(time), str(value.get("memo") or ""))


def _transaction(signature: str, value: Any) -> SvmTransaction:
    try:
        meta, body, slot = value["meta"], value["transaction"], _integer(value["slot"])
        accounts = _texts(body["message"]["accountKeys"])
        error = _error(meta["err"])
    except (KeyError, TypeError):
        raise UnavailableError("rpc_unavailable", "the node sent a transaction without its parts") from None
    loaded = _optional(meta, "loadedAddresses", {})
    accounts += _texts(_optional(loaded, "writable", [])) + _texts(_optional(loaded, "readonly", []))
    before, after = (_by_index(_optional(meta, name, [])) for name in ("preTokenBalances", "postTokenBalances"))
    balances = []
    for index in sorted(before.keys() | after.keys()):
        if index >= len(accounts):
            raise UnavailableError("rpc_unavailable", "the node named an account that the transaction does not have")
        mint, owner, _ = after.get(index) or before[index]
        balances.append(
            TokenBalance(
                account=accounts[index],
                owner=owner,
                mint=mint,
                before=before[index][2] if index in before else 0,
                after=after[index][2] if index in after else 0,
            )
        )
    signatures = tuple(_texts(_optional(body, "signatures", [])))
    return SvmTransaction(signature, slot, error, tuple(balances), signatures, _integer(_optional(meta, "fee", 0)))


def _optional(value: Any, name: str, absent: Any) -> Any:
    """A member that may be missing or null; `value` must be an object all the same."""
    if not isinstance(value, dict):
        raise UnavailableError("rpc_unavailable", f"the node sent no object around {name}")
    member = value.get(name)
    return absent if member is None else member


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise UnavailableError("rpc_unavailable", "the node sent no list where one belongs")
    return [str(one) for one in value]


def _by_index(balances: Any) -> dict[int, tuple[str, str, int]]:
    """Mint, owner (`""` where the node shows none) and atomic units of token accounts, by their place."""
    if not isinstance(balances, list):
        raise UnavailableError("rpc_unavailable", "the node sent token balances that are no list")
    found = {}
    for balance in balances:
        try:
            digits = balance["uiTokenAmount"]["amount"]
            mint, index, owner = str(balance["mint"]), balance["accountIndex"], str(balance.get("owner") or "")
        except (KeyError, TypeError, AttributeError):
            raise UnavailableError("rpc_unavailable", "the node sent a token balance without its parts") from None
        if not isinstance(digits, str) or not digits.isascii() or not digits.isdigit():
            raise UnavailableError("rpc_unavailable", "the node sent a token balance that is no number")
        found[_integer(index)] = (mint, owner, int(digits))
    return found

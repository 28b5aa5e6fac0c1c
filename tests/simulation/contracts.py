"""The contracts of the simulation by address: the token, Permit2 and the proxy, and Multicall3, which bundles."""

from __future__ import annotations

from tests.simulation import permits
from tests.simulation.token import Move, Revert, TokenState
from x402.chain import Log
from x402.money import Asset
from x402.networks import MULTICALL3, PERMIT2, UPTO_PERMIT2_PROXY
from x402.schemes import multicall
from x402.schemes.eip712 import uint256


def perform(
    token: TokenState, asset: Asset, sender: str, to: str, call: bytes, now: int
) -> tuple[TokenState, tuple[Log, ...], tuple[Move, ...], bytes]:
    """The state after a transaction to one of them, its events, what it moved, and what it returns. Whatever else is
    called does nothing. Raises `Revert`."""
    if to.lower() == asset.address.lower():
        answer = token.ask(call)
        if answer is not None:
            return token, (), (), answer
        after, logs, move = token.execute(asset, sender, call, now)
        return after, logs, (move,) if move else (), b""
    if to.lower() == UPTO_PERMIT2_PROXY.lower():
        after, log, move = permits.settle(token, asset, sender, call, now)
        return after, (log,), (move,), b""
    if to.lower() == PERMIT2.lower():
        after, logs, said = permits.permit2(token, sender, call)
        return after, logs, (), said
    if to.lower() != MULTICALL3.lower():
        return token, (), (), b""
    calls = multicall.read(call)
    if calls is None:
        raise Revert("Multicall3: unknown call")
    events: list[Log] = []
    moves: list[Move] = []
    results: list[tuple[bool, bytes]] = []
    for target, data in calls:
        try:
            token, logs, moved, said = perform(token, asset, MULTICALL3, target, data, now)
        except Revert as revert:
            results.append((False, _error(str(revert))))
        else:
            events += logs
            moves += moved
            results.append((True, said))
    return token, tuple(events), tuple(moves), _returned(results)


def _error(words: str) -> bytes:
    text = words.encode()
    return bytes.fromhex("08c379a0") + uint256(32) + uint256(len(text)) + text + bytes(-len(text) % 32)


def _returned(results: list[tuple[bool, bytes]]) -> bytes:
    """What `aggregate3` returns, in the ABI's layout."""
    heads, tails, at = b"", b"", 32 * len(results)
    for succeeded, data in results:
        tail = uint256(int(succeeded)) + uint256(64) + uint256(len(data)) + data + bytes(-len(data) % 32)
        heads, tails, at = heads + uint256(at), tails + tail, at + len(tail)
    return uint256(32) + uint256(len(results)) + heads + tails

"""The signers' transaction nonces, as statements inside the ledger's transactions (faults D01, D02).

`next` only grows; what was handed out and never left is kept in `returned_nonces` and handed out first, so that no
gap jams the transactions above it. A nonce is handed out only together with the row that holds it.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, select

from x402.lifecycle import Party, open_states
from x402.ports import NonceBook
from x402.ports.prepared import Insert, Prepared, value
from x402.ports.schema import nonces, payments, returned_nonces

_mine = (returned_nonces.c.network == value("network")) & (returned_nonces.c.signer == value("signer"))
_holding = (
    (payments.c.sender == value("signer"))
    & payments.c.state.in_([str(state) for state in sorted(open_states(Party.FACILITATOR))])
    & (payments.c.party == str(Party.FACILITATOR))
    & (payments.c.network == value("network"))
)
_NEXT = Prepared(select(nonces.c.next).where(nonces.c.network == value("network"), nonces.c.signer == value("signer")))
_LOWEST = Prepared(select(func.min(returned_nonces.c.nonce)).where(_mine, returned_nonces.c.nonce >= value("least")))
_FORGET = Prepared(
    delete(returned_nonces).where(
        _mine, (returned_nonces.c.nonce < value("least")) | (returned_nonces.c.nonce == value("nonce"))
    )
)
_WITHDRAW = Prepared(delete(returned_nonces).where(_mine, returned_nonces.c.nonce == value("nonce")))
_HELD = Prepared(select(payments.c.nonce).where(_holding, payments.c.nonce.is_not(None)))
_HELD_ONE = Prepared(select(payments.c.pay_id).where(_holding, payments.c.nonce == value("nonce")))


def _insert_next(insert: Insert) -> object:
    row = insert(nonces)
    newer = {"next": row.excluded.next}
    return row.on_conflict_do_update(
        index_elements=["network", "signer"], set_=newer, where=nonces.c.next < row.excluded.next
    )


_SET_NEXT = Prepared(_insert_next, ("network", "signer", "next"))
_RETURN = Prepared(lambda insert: insert(returned_nonces).on_conflict_do_nothing(), ("network", "signer", "nonce"))


def free(connection: Connection, network: str, signer: str, chain_nonce: int) -> int:
    """The nonce to use now: the lowest that came back and that the chain has not passed, else the next."""
    lowest = _LOWEST.scalar(connection, network=network, signer=signer, least=chain_nonce)
    return int(lowest) if lowest is not None else max(chain_nonce, _next(connection, network, signer))


def take(connection: Connection, network: str, signer: str, chain_nonce: int, nonce: int) -> None:
    """Hand out the nonce that was `free`, to a row that this transaction writes."""
    _FORGET.do(connection, network=network, signer=signer, least=chain_nonce, nonce=nonce)
    _SET_NEXT.do(connection, network=network, signer=signer, next=nonce + 1)


def read(connection: Connection, network: str, signer: str) -> NonceBook:
    """The next nonce, and those whose payment is open: not final yet, so that a reorganisation frees none of them."""
    held = frozenset(row.nonce for row in _HELD.rows(connection, network=network, signer=signer))
    return NonceBook(_next(connection, network, signer), held)


def give_back(connection: Connection, network: str, signer: str, nonce: int) -> None:
    """Hand a nonce out again, first of all, unless an open payment holds it or it was never handed out."""
    held = _HELD_ONE.first(connection, network=network, signer=signer, nonce=nonce)
    if held is None and nonce < _next(connection, network, signer):
        _RETURN.do(connection, network=network, signer=signer, nonce=nonce)


def withdraw(connection: Connection, network: str, signer: str, nonce: int) -> bool:
    """Stop handing out a nonce that came back; True for the one who stopped it."""
    return _WITHDRAW.count(connection, network=network, signer=signer, nonce=nonce) == 1


def _next(connection: Connection, network: str, signer: str) -> int:
    return int(_NEXT.scalar(connection, network=network, signer=signer) or 0)

"""The signers' transaction nonces, as statements inside the ledger's transactions (faults D01, D02).

`next` only grows; what was handed out and never left is kept in `returned_nonces` and handed out first, so that no
gap jams the transactions above it. A nonce is handed out only together with the row that holds it.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, delete, func, select

from x402.lifecycle import Party, open_states
from x402.ports import NonceBook
from x402.ports.schema import nonces, payments, returned_nonces, upsert


def reserve(connection: Connection, network: str, signer: str, chain_nonce: int) -> int:
    """The lowest nonce that came back and that the chain has not passed, else the next."""
    mine = _returned(network, signer)
    connection.execute(delete(returned_nonces).where(mine, returned_nonces.c.nonce < chain_nonce))
    lowest = connection.execute(select(func.min(returned_nonces.c.nonce)).where(mine)).scalar()
    if lowest is not None:
        connection.execute(delete(returned_nonces).where(mine, returned_nonces.c.nonce == lowest))
        return int(lowest)
    nonce = max(chain_nonce, _next(connection, network, signer))
    statement = upsert(connection, nonces).values(network=network, signer=signer, next=nonce + 1)
    connection.execute(statement.on_conflict_do_update(index_elements=["network", "signer"], set_={"next": nonce + 1}))
    return nonce


def read(connection: Connection, network: str, signer: str) -> NonceBook:
    """The next nonce, and those whose payment is open: not final yet, so that a reorganisation frees none of them."""
    rows = connection.execute(select(payments.c.nonce).where(_holding(network, signer)))
    held = frozenset(nonce for (nonce,) in rows)
    return NonceBook(_next(connection, network, signer), held)


def give_back(connection: Connection, network: str, signer: str, nonce: int) -> None:
    """Hand a nonce out again, first of all, unless an open payment holds it or it was never handed out."""
    held = connection.execute(select(payments.c.pay_id).where(_holding(network, signer), payments.c.nonce == nonce))
    if held.first() is not None or nonce >= _next(connection, network, signer):
        return
    statement = upsert(connection, returned_nonces).values(network=network, signer=signer, nonce=nonce)
    connection.execute(statement.on_conflict_do_nothing())


def withdraw(connection: Connection, network: str, signer: str, nonce: int) -> bool:
    """Stop handing out a nonce that came back; True for the one who stopped it."""
    gone = delete(returned_nonces).where(_returned(network, signer), returned_nonces.c.nonce == nonce)
    return connection.execute(gone).rowcount == 1


def _next(connection: Connection, network: str, signer: str) -> int:
    row = (nonces.c.network == network) & (nonces.c.signer == signer)
    return int(connection.execute(select(nonces.c.next).where(row)).scalar() or 0)


def _returned(network: str, signer: str) -> ColumnElement[bool]:
    return (returned_nonces.c.network == network) & (returned_nonces.c.signer == signer)


def _holding(network: str, signer: str) -> ColumnElement[bool]:
    states = [str(state) for state in open_states(Party.FACILITATOR)]
    return (
        (payments.c.sender == signer)
        & payments.c.state.in_(states)
        & (payments.c.party == str(Party.FACILITATOR))
        & (payments.c.network == network)
        & payments.c.nonce.is_not(None)
    )

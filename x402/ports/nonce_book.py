"""The signers' transaction nonces, as statements inside the ledger's transactions (faults D01, D02).

`next` only grows; what was handed out and never left is kept in `returned_nonces` and handed out first, so that no
gap jams the transactions above it.
"""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, func, select

from x402.lifecycle import Party
from x402.ports.schema import nonces, payments, returned_nonces, upsert
from x402.stages import State


def reserve(connection: Connection, network: str, signer: str, chain_nonce: int) -> int:
    """The lowest nonce that came back and that the chain has not passed, else the next."""
    mine = (returned_nonces.c.network == network) & (returned_nonces.c.signer == signer)
    connection.execute(delete(returned_nonces).where(mine, returned_nonces.c.nonce < chain_nonce))
    lowest = connection.execute(select(func.min(returned_nonces.c.nonce)).where(mine)).scalar()
    if lowest is not None:
        connection.execute(delete(returned_nonces).where(mine, returned_nonces.c.nonce == lowest))
        return int(lowest)
    row = (nonces.c.network == network) & (nonces.c.signer == signer)
    stored = connection.execute(select(nonces.c.next).where(row)).scalar()
    nonce = max(chain_nonce, stored or 0)
    statement = upsert(connection, nonces).values(network=network, signer=signer, next=nonce + 1)
    connection.execute(statement.on_conflict_do_update(index_elements=["network", "signer"], set_={"next": nonce + 1}))
    return nonce


def give_back(connection: Connection, network: str, signer: str, nonce: int) -> None:
    """Hand a nonce out again, first of all."""
    statement = upsert(connection, returned_nonces).values(network=network, signer=signer, nonce=nonce)
    connection.execute(statement.on_conflict_do_nothing())


def mend(connection: Connection, network: str, signer: str, chain_nonce: int) -> None:
    """Give back whatever was handed out, from the chain's nonce on, and is held by no open payment."""
    row = (nonces.c.network == network) & (nonces.c.signer == signer)
    following = connection.execute(select(nonces.c.next).where(row)).scalar()
    if following is None or following <= chain_nonce:
        return
    open_rows = select(payments.c.stage).where(
        payments.c.party == str(Party.FACILITATOR),
        payments.c.state == str(State.INTENDED),
        payments.c.network == network,
    )
    stages = [json.loads(stage) for (stage,) in connection.execute(open_rows)]
    held = {stage["nonce"] for stage in stages if stage["sender"] == signer}
    for nonce in range(chain_nonce, following):
        if nonce not in held:
            give_back(connection, network, signer, nonce)

"""`GrantBook` in the ledger's database: what was promised is durable before it leaves (design promise 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from x402.ports.grant_table import gas_grants
from x402.ports.grants import Draw, Grant, GrantState, NoMoreGas, may_have_more
from x402.ports.ledger import SqlLedger

_column = gas_grants.c


class SqlGrants:
    """`GrantBook` on the ledger's database and write thread."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def begin(
        self, network: str, payer: str, approval: str, sender: str, chain_nonce: int, most: int, draw: Draw
    ) -> tuple[Grant, bool]:
        def begin(connection: Connection) -> tuple[Grant, bool]:
            known = _of_payer(connection, network, payer)
            for grant in known:
                if grant.state is GrantState.OPEN or grant.approval == approval:
                    return grant, False
            grant = draw(_next(connection, network, sender, chain_nonce))
            if grant.wei and not may_have_more(known, most):
                raise NoMoreGas(f"{payer} was given gas before")
            connection.execute(insert(gas_grants).values(**asdict(grant) | {"wei": str(grant.wei)}))
            return grant, True

        # One at a time for each payer, and for each nonce.
        return await self._ledger.run(begin, ("grants", sender), ("grants", payer))

    async def of_payer(self, network: str, payer: str) -> Sequence[Grant]:
        return await self._ledger.run(lambda connection: _of_payer(connection, network, payer))

    async def open_ones(self, network: str, limit: int = 64) -> Sequence[Grant]:
        is_open = (_column.network == network) & (_column.state == str(GrantState.OPEN))
        query = select(gas_grants).where(is_open).order_by(_column.created_at, _column.approval).limit(limit)
        return await self._ledger.run(lambda connection: [_grant_of(row) for row in connection.execute(query)])

    async def finish(self, grant: Grant, state: GrantState) -> None:
        mine = (_column.network == grant.network) & (_column.approval == grant.approval)
        ended = update(gas_grants).where(mine, _column.state == str(GrantState.OPEN)).values(state=str(state))

        def finish(connection: Connection) -> None:
            connection.execute(ended)

        await self._ledger.run(finish)


def _of_payer(connection: Connection, network: str, payer: str) -> list[Grant]:
    his = (_column.network == network) & (_column.payer == payer)
    query = select(gas_grants).where(his).order_by(_column.created_at, _column.approval)
    return [_grant_of(row) for row in connection.execute(query)]


def _next(connection: Connection, network: str, sender: str, chain_nonce: int) -> int:
    mine = (_column.network == network) & (_column.sender == sender) & (_column.nonce >= chain_nonce)
    nonces: dict[str, set[int]] = {str(state): set() for state in GrantState}
    for row in connection.execute(select(_column.state, _column.nonce).where(mine)):
        nonces[row.state].add(int(row.nonce))
    held = nonces[GrantState.OPEN]
    gaps = nonces[GrantState.VOID] - held
    return min(gaps) if gaps and held else max([chain_nonce, *(nonce + 1 for nonce in held)])


def _grant_of(row: Row[Any]) -> Grant:
    members = dict(row._mapping)
    return Grant(**members | {"wei": int(row.wei), "state": GrantState(row.state)})

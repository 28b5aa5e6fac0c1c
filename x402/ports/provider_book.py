"""`ProviderBook` in the ledger's own database, written by the ledger's own thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, func, insert, select, update

from x402.billing import EntryKind, Posting
from x402.ports import account_rows
from x402.ports.accounts import Payout
from x402.ports.ledger import SqlLedger, of_account
from x402.ports.providers import Earned, RegisteredProvider, Seen, Standing
from x402.ports.schema import bills, provider_credits, provider_days, providers, upsert, withdrawals

T = TypeVar("T")


class SqlProviders:
    """The providers of one gateway, in its ledger."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def _do(self, work: Callable[[Connection, int], T], *locks: tuple[str, ...]) -> T:
        now = self._ledger.clock()
        return await self._ledger.run(lambda connection: work(connection, now), *locks)

    async def register(self, provider: RegisteredProvider) -> bool:
        def work(connection: Connection, now: int) -> bool:
            known = _find(connection, provider.id)
            if known is not None and (known.issued_at >= provider.issued_at or known.standing is Standing.DISABLED):
                return False
            row = {
                "account": provider.account,
                "offer": provider.offer,
                "sealed_key": provider.sealed_key,
                "standing": str(provider.standing),
                "reason": provider.reason,
                "issued_at": provider.issued_at,
                "updated_at": now,
            }
            if known is None:
                connection.execute(insert(providers).values(id=provider.id, created_at=now, **row))
            else:
                connection.execute(update(providers).where(providers.c.id == provider.id).values(**row))
            return True

        return await self._do(work, _of(provider.id))

    async def mark(self, id: str, standing: Standing, reason: str = "", *, issued_at: int | None = None) -> bool:
        row = update(providers).where(providers.c.id == id)
        if issued_at is not None:
            # The operator's no stands, whatever a check that was under way has found.
            row = row.where(providers.c.issued_at == issued_at, providers.c.standing != str(Standing.DISABLED))
        return await self._do(
            lambda connection, now: (
                connection.execute(row.values(standing=str(standing), reason=reason, updated_at=now)).rowcount == 1
            ),
            _of(id),
        )

    async def provider(self, id: str) -> RegisteredProvider | None:
        return await self._do(lambda connection, _: _find(connection, id))

    async def providers(self, standings: Collection[Standing] = ()) -> Sequence[RegisteredProvider]:
        query = select(providers).order_by(providers.c.created_at, providers.c.id)
        if standings:
            query = query.where(providers.c.standing.in_([str(standing) for standing in standings]))
        return await self._do(lambda connection, _: [_provider(row) for row in connection.execute(query)])

    async def count(self, day: int, seen: Sequence[Seen]) -> None:
        def work(connection: Connection, _: int) -> None:
            for one in seen:
                statement = upsert(connection, provider_days).values(
                    provider=one.provider, day=day, answered=one.answered, failed=one.failed
                )
                added = {
                    "answered": provider_days.c.answered + one.answered,
                    "failed": provider_days.c.failed + one.failed,
                }
                connection.execute(statement.on_conflict_do_update(index_elements=["provider", "day"], set_=added))

        # In one order, so that two replicas never wait for each other.
        await self._do(work, *sorted(_of(one.provider) for one in seen))

    async def seen(self, since_day: int, until_day: int) -> Sequence[Seen]:
        table = provider_days.c
        query = (
            select(table.provider, func.sum(table.answered), func.sum(table.failed))
            .where(table.day >= since_day, table.day < until_day)
            .group_by(table.provider)
            .order_by(table.provider)
        )

        def read(connection: Connection, _: int) -> Sequence[Seen]:
            rows = connection.execute(query).all()
            return [Seen(provider=name, answered=int(good), failed=int(bad)) for name, good, bad in rows]

        return await self._do(read)

    async def due(self, until: int) -> Sequence[Earned]:
        def read(connection: Connection, _: int) -> Sequence[Earned]:
            known = connection.execute(select(providers.c.id, providers.c.account).order_by(providers.c.id)).all()
            found = [_earned(connection, id, account, until) for id, account in known]
            return [earned for earned in found if earned.earned > 0]

        return await self._do(read)

    async def credit(self, earned: Earned) -> bool:
        def work(connection: Connection, now: int) -> bool:
            # Summed again in the very transaction that credits it: nobody else has credited a part of it since.
            fresh = _earned(connection, earned.provider, earned.account, earned.until)
            if (fresh.since, fresh.earned, fresh.answers) != (earned.since, earned.earned, earned.answers):
                return False
            row = {name: getattr(earned, name) for name in ("provider", "account", "since", "until", "answers")}
            connection.execute(
                insert(provider_credits).values(**row, earned=earned.earned, bonus=earned.bonus, created_at=now)
            )
            posting = Posting(account=earned.account, kind=EntryKind.EARN, reference=earned.id, units=earned.units)
            account_rows.post(connection, posting, now)
            return True

        return await self._do(work, _of(earned.provider), of_account(earned.account))

    async def outstanding(self) -> Sequence[Earned]:
        def read(connection: Connection, _: int) -> Sequence[Earned]:
            paid = select(withdrawals.c.id).where(
                withdrawals.c.id.like("payout-%"), withdrawals.c.state == str(Payout.PAID)
            )
            done = set(connection.execute(paid).scalars())
            found = [_credit(row) for row in connection.execute(select(provider_credits))]
            return sorted((earned for earned in found if earned.payout_id not in done), key=lambda one: one.turn)

        return await self._do(read)

    async def credited(self, provider: str = "", *, limit: int = 100) -> Sequence[Earned]:
        query = select(provider_credits).order_by(provider_credits.c.created_at.desc(), provider_credits.c.provider)
        if provider:
            query = query.where(provider_credits.c.provider == provider)

        def read(connection: Connection, _: int) -> Sequence[Earned]:
            return [_credit(row) for row in connection.execute(query.limit(limit))]

        return await self._do(read)


def _of(provider: str) -> tuple[str, ...]:
    return ("provider", provider)


def _find(connection: Connection, id: str) -> RegisteredProvider | None:
    row = connection.execute(select(providers).where(providers.c.id == id)).one_or_none()
    return None if row is None else _provider(row)


def _provider(row: Row[Any]) -> RegisteredProvider:
    return RegisteredProvider(
        id=row.id,
        account=row.account,
        offer=row.offer,
        sealed_key=row.sealed_key,
        standing=Standing(row.standing),
        reason=row.reason,
        issued_at=row.issued_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _earned(connection: Connection, provider: str, account: str, until: int) -> Earned:
    """Everything that was earned less everything that was credited: a bill that is written late is in no batch before
    it, and in the next one. Nothing is due before the last batch's end, so that no two have one name."""
    credits = provider_credits.c
    told = select(func.max(credits.until), func.sum(credits.answers), func.sum(credits.earned))
    last, counted, credited = connection.execute(told.where(credits.provider == provider)).one()
    since = int(last or 0)
    if until <= since:
        return Earned(provider=provider, account=account, since=since, until=until, answers=0, earned=0)
    sold = select(func.count(), func.sum(bills.c.earned)).where(bills.c.provider == provider, bills.c.at < until)
    count, total = connection.execute(sold).one()
    answers, earned = int(count) - int(counted or 0), int(total or 0) - int(credited or 0)
    return Earned(
        provider=provider, account=account, since=since, until=until, answers=max(0, answers), earned=max(0, earned)
    )


def _credit(row: Row[Any]) -> Earned:
    names = ("provider", "account", "since", "until", "answers", "earned", "bonus")
    return Earned(**{name: getattr(row, name) for name in names})

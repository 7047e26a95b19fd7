"""Ending many sessions at once, after something has gone wrong: by role, by front end, or everybody's."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select

from service.accounts.models import Account
from service.audit import Audit
from service.clock import Clock
from service.store.postgres import Database
from service.tokens.journal import SessionRow
from service.tokens.session_facts import Ended
from service.tokens.sessions import Sessions

BATCH = 200
AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WhoseSessions:
    """Which sessions; each None means any."""

    role: str | None = None
    client: str | None = None
    opened_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: sessions looked at, of how many there were at the start, and how many of them still lived."""

    looked_at: int
    total: int
    ended: int


@dataclass(frozen=True, slots=True)
class MassSignOut:
    """Goes through the journal, one batch after the other."""

    database: Database
    sessions: Sessions
    audit: Audit
    clock: Clock

    async def run(self, wanted: WhoseSessions, *, by: str = "", why: str = "") -> AsyncIterator[Progress]:
        """Ends what lived when it began and says after each batch how far it is.

        Raises `Unavailable` between two batches; what was ended stays ended, and running it again does the rest.
        """
        # Sessions are dated by the clock of Redis, which may be ahead of ours.
        begun = max(self.clock(), datetime.fromtimestamp(await self.sessions.store.time(), UTC))
        is_wanted = _condition(wanted, begun)
        async with self.database.begin() as transaction:
            total = await transaction.scalar(select(func.count()).select_from(SessionRow).where(is_wanted)) or 0
        looked_at, ended, last = 0, 0, UUID(int=0)
        try:
            yield Progress(0, total, 0)
            while batch := await self._batch(is_wanted, last):
                ended += await self._end(batch)
                looked_at, last = looked_at + len(batch), batch[-1][0]
                yield Progress(looked_at, max(total, looked_at), ended)
        finally:
            self.audit.record(
                "session.close_many",
                by=by,
                why=why,
                role=wanted.role,
                of_client=wanted.client,
                opened_before=wanted.opened_before.isoformat() if wanted.opened_before else None,
                looked_at=looked_at,
                ended=ended,
            )

    async def _batch(self, is_wanted: ColumnElement[bool], last: UUID) -> list[tuple[UUID, UUID]]:
        statement = (
            select(SessionRow.id, SessionRow.account_id)
            .where(is_wanted, SessionRow.id > last)
            .order_by(SessionRow.id)
            .limit(BATCH)
        )
        async with self.database.begin() as transaction:
            return [(session, account) for session, account in await transaction.execute(statement)]

    async def _end(self, batch: list[tuple[UUID, UUID]]) -> int:
        slots = asyncio.Semaphore(AT_ONCE)

        async def end(session: UUID, account: UUID) -> bool:
            async with slots:
                return await self.sessions.end(account, session.bytes, Ended.ADMINISTRATOR) == "closed"

        lived = await asyncio.gather(*(end(session, account) for session, account in batch))
        over = [session for session, _ in batch]
        await self.sessions.journal.many_ended(over, "administrator")
        return sum(lived)


def _condition(wanted: WhoseSessions, begun: datetime) -> ColumnElement[bool]:
    condition = SessionRow.ended_at.is_(None) & (SessionRow.expires_at > begun)
    condition &= SessionRow.opened_at <= min(wanted.opened_before or begun, begun)
    if wanted.client is not None:
        condition &= SessionRow.client_id == wanted.client
    if wanted.role is not None:
        condition &= SessionRow.account_id.in_(select(Account.id).where(Account.roles.contains([wanted.role])))
    return condition

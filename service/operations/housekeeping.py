"""What nobody needs any more is deleted by itself (ASVS 14.2.7)."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute

from service import background
from service.accounts.models import Account
from service.audit import AuditEvent
from service.clock import Clock
from service.errors import Unavailable
from service.mail.outbox import OutboxRow
from service.operations.reminders import Reminders
from service.settings import Settings
from service.store.postgres import Database, Table
from service.tokens.journal import Revocation, SessionRow
from service.tokens.one_time import OneTimeToken

log = structlog.get_logger("vestibule.housekeeping")

PAUSE = timedelta(hours=1)
BATCH = 1000
"""Rows of one statement: it must be over well within the time that a statement may take."""
LOOKED_BACK = timedelta(days=2)
LOCK = 7_272_740_03


@dataclass(slots=True)
class Housekeeping:
    """Deletes old sessions, links and audit events once an hour, in one worker at a time; sends reminders as often."""

    database: Database
    reminders: Reminders
    settings: Settings
    clock: Clock
    _task: asyncio.Task[None] | None = None

    async def clean(self) -> int:
        """Deletes everything that is old enough and says how many rows that were. Raises `Unavailable`."""
        now = self.clock()
        ended = func.coalesce(SessionRow.ended_at, SessionRow.expires_at)
        old = (
            (SessionRow, SessionRow.id, ended < now - self.settings.session_history_life),
            (Revocation, Revocation.id, Revocation.ends_at < now),
            (OneTimeToken, OneTimeToken.digest, OneTimeToken.expires_at < now),
            (AuditEvent, AuditEvent.id, AuditEvent.at < now - self.settings.audit_life),
            (OutboxRow, OutboxRow.id, OutboxRow.dead_at < now - self.settings.dead_letter_life),
        )
        swept, failure = 0, None
        for rule in old:
            try:
                swept += await self._sweep(*rule)
            except Unavailable as error:  # the other tables are cleaned all the same
                failure = error
        await self._forget_origins(now)
        if failure is not None:
            raise failure
        return swept

    def start(self) -> None:
        """Begins to clean in the background."""
        self._task = asyncio.create_task(self._clean_on(), name="housekeeping")

    async def stop(self) -> None:
        """Ends."""
        await background.end(self._task)

    async def _sweep(self, table: type[Table], key: InstrumentedAttribute[Any], is_old: ColumnElement[bool]) -> int:
        swept = 0
        while True:
            async with self.database.begin() as transaction:
                if not await transaction.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
                    return swept
                batch = delete(table).where(key.in_(select(key).where(is_old).limit(BATCH)))
                result: Any = await transaction.execute(batch)
            rows = int(result.rowcount)
            swept += rows
            if rows < BATCH:
                return swept

    async def _forget_origins(self, now: datetime) -> None:
        """Takes the origin from events of accounts that were closed: other workers wrote them down a moment later."""
        is_closed = ~exists().where(Account.id == AuditEvent.account_id)
        has_origin = or_(AuditEvent.address.is_not(None), AuditEvent.user_agent.is_not(None))
        recent = and_(AuditEvent.at > now - LOOKED_BACK, AuditEvent.account_id.is_not(None))
        async with self.database.begin() as transaction:
            await transaction.execute(
                update(AuditEvent).where(recent, has_origin, is_closed).values(address=None, user_agent=None)
            )

    async def _clean_on(self) -> None:
        while True:
            try:
                swept = await self.clean()
                if swept:
                    log.info("old rows were deleted", rows=swept)
                await self.reminders.send()
            except Unavailable as error:
                log.warning("old rows were not deleted", reason=error.reason)
            except Exception:
                log.exception("old rows were not deleted")
            await asyncio.sleep(PAUSE.total_seconds())

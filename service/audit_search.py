"""Reading the audit trail: filtered, newest first, page by page or as one long stream."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, select

from service.audit import AuditEvent
from service.store.paging import Order, Page, page
from service.store.postgres import Database

NEWEST_FIRST = Order("-at", AuditEvent.at, AuditEvent.id, datetime, descending=True)
STREAMED = 500
"""Events of one query of a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedEvents:
    """Which events; each None means any. `event` may end with a dot: `session.` is every event of sessions."""

    event: str | None = None
    outcome: str | None = None
    account: UUID | None = None
    client: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """What was written down; events of the last moments may still be on their way."""

    database: Database

    async def search(self, wanted: WantedEvents, limit: int, cursor: str | None) -> Page[AuditEvent]:
        """One page of events. Raises `InvalidInput` for a cursor that is none."""
        async with self.database.begin() as transaction:
            return await page(transaction, _statement(wanted), NEWEST_FIRST, limit, cursor)

    async def stream(self, wanted: WantedEvents) -> AsyncIterator[AuditEvent]:
        """Every event, without holding a transaction for longer than one query."""
        cursor = None
        while True:
            found = await self.search(wanted, STREAMED, cursor)
            for row in found.rows:
                yield row
            cursor = found.next
            if cursor is None:
                return


def _statement(wanted: WantedEvents) -> Select[tuple[AuditEvent]]:
    statement = select(AuditEvent)
    if wanted.event is not None:
        is_family = wanted.event.endswith(".")
        prefix = AuditEvent.event.startswith(wanted.event, autoescape=True)
        statement = statement.where(prefix if is_family else AuditEvent.event == wanted.event)
    for column, value in (
        (AuditEvent.outcome, wanted.outcome),
        (AuditEvent.account_id, wanted.account),
        (AuditEvent.client_id, wanted.client),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if wanted.since is not None:
        statement = statement.where(AuditEvent.at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(AuditEvent.at < wanted.until)
    return statement

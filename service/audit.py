"""The audit trail: one structured event per security decision, in the log at once and in PostgreSQL soon after.

Events are written in batches by a task of their own: a decision never waits for its record, and a PostgreSQL that is
away costs no sign-in. What no database took within the bounded queue is counted and stays in the log.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import sqlalchemy
import structlog
from sqlalchemy import Index, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Mapped, mapped_column

from service import background, metrics
from service.clock import Clock
from service.errors import Unavailable
from service.store.postgres import Database, Table, Transaction, new_id

log = structlog.get_logger("vestibule.audit")

BATCH = 500
MOST_WAITING = 20_000
PAUSE = 0.2
PAUSE_AFTER_FAILURE = 2.0
CLOSING_TIME = 2.0
LONGEST_TEXT = 128


class AuditEvent(Table):
    """What was decided, when, about whom, for whom; never a secret."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index(None, "account_id", "at"),
        Index(None, "event", "at"),
        Index(None, "at", postgresql_using="brin"),
        Index(None, "at", "id"),
        Index(None, "client_id", "at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    event: Mapped[str]
    outcome: Mapped[str]
    account_id: Mapped[UUID | None]
    client_id: Mapped[str | None]
    session_id: Mapped[str | None]
    address: Mapped[str | None]
    user_agent: Mapped[str | None]
    request_id: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(JSONB)


ROWS = cast("sqlalchemy.Table", AuditEvent.__table__)


@dataclass(slots=True)
class Audit:
    """Takes events from every use case and brings them to the log and to PostgreSQL."""

    database: Database
    clock: Clock
    lost: int = 0
    _waiting: deque[dict[str, Any]] = field(default_factory=deque)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _task: asyncio.Task[None] | None = None

    def record(
        self,
        event: str,
        outcome: str = "ok",
        *,
        account: UUID | None = None,
        client: str | None = None,
        session: str | None = None,
        is_anonymous: bool = False,
        by: str = "",
        why: str = "",
        **detail: Any,
    ) -> None:
        """Notes one decision. `event` is a dotted verb (`session.open`), `outcome` says `ok` or why not.

        `by` is who decided it for somebody else, `why` the reason they gave; `detail` is plain JSON.
        An anonymous one leaves out where it came from: its person is being forgotten.
        """
        detail |= {name: text for name, text in (("by", by), ("reason", _storable(why))) if text}
        context = {} if is_anonymous else structlog.contextvars.get_contextvars()
        row = {
            "id": new_id(),
            "at": self.clock(),
            "event": event,
            "outcome": outcome,
            "account_id": account,
            "client_id": _storable(client),
            "session_id": session,
            "address": context.get("address"),
            "user_agent": context.get("user_agent"),
            "request_id": context.get("request_id"),
            "detail": detail,
        }
        log.info(
            event,
            outcome=outcome,
            account=str(account) if account else None,
            client=row["client_id"],
            session=session,
            **detail,
        )
        metrics.decided(event, outcome, detail)
        if len(self._waiting) >= MOST_WAITING:
            self._lose()  # the newest: a flood must not push out what was there before it
            return
        self._waiting.append(row)

    @property
    def waiting(self) -> int:
        """Events that are in no database yet."""
        return len(self._waiting)

    async def flush(self) -> None:
        """Writes everything that waits, after what is just being written. Raises `Unavailable`; what was not written
        waits on."""
        async with self._writing:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                try:
                    await self._write(batch)
                except (Unavailable, asyncio.CancelledError):
                    self._waiting.extendleft(reversed(batch))
                    raise
                except Exception:  # noqa: BLE001  whatever it was, each row gets a chance of its own
                    await self._salvage(batch)

    def _lose(self) -> None:
        self.lost += 1
        metrics.audit_dropped.inc()

    async def _write(self, rows: list[dict[str, Any]]) -> None:
        """Writes rows; those that a lost answer left behind already are not written again."""
        async with self.database.begin() as transaction:
            await transaction.execute(insert(ROWS).on_conflict_do_nothing(), rows)

    async def _salvage(self, batch: list[dict[str, Any]]) -> None:
        """Writes one by one what failed together, though not by an outage: one impossible row must not cost others."""
        waiting = deque(batch)
        while waiting:
            try:
                await self._write([waiting[0]])
            except (Unavailable, asyncio.CancelledError):
                self._waiting.extendleft(reversed(waiting))
                raise
            except Exception:
                self._lose()
                log.exception("an audit event was dropped", event_name=waiting[0]["event"])
            waiting.popleft()

    async def forget_origins(self, transaction: Transaction, account: UUID) -> None:
        """Takes from the events of an account from where they came; what was decided stays."""
        statement = update(AuditEvent).where(AuditEvent.account_id == account)
        await transaction.execute(statement.values(address=None, user_agent=None))

    async def of(self, transaction: Transaction, account: UUID, most: int) -> Sequence[AuditEvent]:
        """The newest events of an account."""
        statement = select(AuditEvent).where(AuditEvent.account_id == account).order_by(AuditEvent.at.desc())
        return (await transaction.scalars(statement.limit(most))).all()

    def start(self) -> None:
        """Begins to write in the background."""
        self._task = asyncio.create_task(self._write_on(), name="audit")

    async def stop(self) -> None:
        """Writes what waits, within two seconds, and ends."""
        await background.end(self._task)
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(CLOSING_TIME):
                await self.flush()
        if self._waiting or self.lost:
            log.error("audit events are in the log alone", count=len(self._waiting) + self.lost)

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(PAUSE)
            try:
                await self.flush()
            except Unavailable as error:
                log.warning("audit events wait for the database", waiting=len(self._waiting), reason=error.reason)
                await asyncio.sleep(PAUSE_AFTER_FAILURE)


def _storable(text: str | None) -> str | None:
    """What a stranger sent, without what PostgreSQL or a terminal cannot take, and not without end."""
    return None if text is None else "".join(c for c in text[:LONGEST_TEXT] if c.isprintable())

"""The durable record of sessions: which were opened, which were ended and why, and what else was taken away.

Redis holds the working state; from here a Redis that was lost, emptied or is old is healed (`healing.py`, `replay.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from advanced_alchemy.types import DateTimeUTC
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKey,
    Identity,
    Index,
    Interval,
    String,
    Update,
    Uuid,
    cast,
    column,
    func,
    insert,
    literal,
    select,
    text,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Mapped, mapped_column

from service.clock import Clock
from service.store.postgres import Database, Table, Transaction

EndReason = Literal[
    "logout",
    "reused",
    "evicted",
    "disabled",
    "ended",
    "password_changed",
    "password_reset",
    "email_changed",
    "revoked",
    "administrator",
    "identity_unlinked",
    "account_closed",
]

USE_NOTED_EVERY = timedelta(hours=1)
"""How exactly the journal knows when a session was used: a write per refresh would cost more than it tells."""
MOST_NOTES = 50_000
Use = tuple[datetime, int, timedelta]
"""When, which generation, and how exactly it must be known."""
NOTES_AT_ONCE = 1000


class SessionRow(Table):
    """One sign-in on one device. `id` is the public session id; `salt` is half of what its refresh tokens need."""

    __tablename__ = "sessions"
    __table_args__ = (
        Index(None, "account_id", "opened_at"),
        Index("sessions_over_index", text("coalesce(ended_at, expires_at)")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    client_id: Mapped[str]
    salt: Mapped[bytes]
    amr: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    scope: Mapped[str]
    address: Mapped[str]
    user_agent: Mapped[str]
    place: Mapped[str]
    opened_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    ended_reason: Mapped[str | None]
    granted: Mapped[str | None]
    authenticated_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    generation: Mapped[int] = mapped_column(BigInteger, server_default="0")


class Revocation(Table):
    """Something that was taken away, kept until nothing could bring it back: until `ends_at`.

    A session that was ended (`session_id`), an access token (`jti`, whose `sub` is the subject), or, with neither, the
    roles of an account. It outlives the account: an old Redis may still know its sessions.
    """

    __tablename__ = "revocations"
    __table_args__ = (
        Index(None, "at"),
        Index(None, "ends_at"),
        Index(None, "jti", postgresql_where=text("jti IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    subject: Mapped[str]
    session_id: Mapped[UUID | None]
    jti: Mapped[str | None]
    reason: Mapped[str]
    ends_at: Mapped[datetime]


@dataclass(frozen=True, slots=True)
class Journal:
    """Writes the ends of sessions. Their beginnings are written by the transaction that lets a person in."""

    database: Database
    clock: Clock
    _uses: dict[bytes, Use] = field(default_factory=dict)
    _owed: dict[bytes, EndReason] = field(default_factory=dict)

    async def ended(self, session: bytes, reason: EndReason) -> None:
        """Notes the end of one session; an end that was noted before stays as it was. Raises `Unavailable`."""
        async with self.database.begin() as transaction:
            await self.note_end(transaction, session, reason)

    async def note_end(self, transaction: Transaction, session: bytes, reason: EndReason) -> None:
        """The same, in somebody's transaction."""
        await self._end(transaction, SessionRow.id == UUID(bytes=session), reason)

    async def many_ended(self, sessions: Sequence[UUID], reason: EndReason) -> None:
        """The same for many. Raises `Unavailable`."""
        async with self.database.begin() as transaction:
            await self._end(transaction, SessionRow.id.in_(sessions), reason)

    async def hold(self, transaction: Transaction, account: UUID) -> None:
        """Keeps sign-ins of an account from being written down until the transaction ends."""
        await transaction.execute(text("SELECT FROM accounts WHERE id = :account FOR UPDATE"), {"account": account})

    async def all_ended(
        self, transaction: Transaction, account: UUID, reason: EndReason, but: bytes | None = None
    ) -> None:
        """Notes the end of every session of an account, or every other one, in the transaction that decides it."""
        which = SessionRow.account_id == account
        await self._end(transaction, which & (SessionRow.id != UUID(bytes=but)) if but is not None else which, reason)

    async def _end(self, transaction: Transaction, which: ColumnElement[bool], reason: EndReason) -> None:
        """Ends rows and logs it, in one statement."""
        ended = (
            update(SessionRow)
            .where(which, SessionRow.ended_at.is_(None))
            .values(ended_at=self.clock(), ended_reason=reason)
            .returning(SessionRow.id, SessionRow.account_id, SessionRow.expires_at)
            .cte("ended")
        )
        logged = select(cast(ended.c.account_id, String), ended.c.id, literal(reason), ended.c.expires_at)
        columns = ["subject", "session_id", "reason", "ends_at"]
        await transaction.execute(insert(Revocation).from_select(columns, logged, include_defaults=False))

    async def denied(self, subject: str, jti: str, ends_at: datetime) -> None:
        """Logs that an access token was revoked, which would have ended at a moment. Raises `Unavailable`."""
        async with self.database.begin() as transaction:
            transaction.add(Revocation(subject=subject, jti=jti, reason="revoked", ends_at=ends_at))

    def note_roles(self, transaction: Transaction, account: UUID, remember: timedelta) -> None:
        """Logs that the roles of an account are others now, in the transaction that decides it."""
        ends_at = self.clock() + remember
        transaction.add(Revocation(subject=str(account), reason="roles", ends_at=ends_at))

    async def renewed(
        self, session: bytes, amr: tuple[str, ...], authenticated_at: datetime, expires_at: datetime
    ) -> None:
        """Notes how a session began anew, and its new end."""
        statement = update(SessionRow).where(SessionRow.id == UUID(bytes=session))
        anew = {"amr": list(amr), "authenticated_at": authenticated_at, "used_at": authenticated_at}
        async with self.database.begin() as transaction:
            await transaction.execute(statement.values(**anew, expires_at=expires_at))

    def owe(self, session: bytes, reason: EndReason) -> None:
        """Remembers an end that could not be noted just now, to be written by `settle`."""
        if len(self._owed) < MOST_NOTES:
            self._owed[session] = reason

    def note_use(self, session: bytes, generation: int, idle: timedelta) -> None:
        """Remembers that a session was rotated, which ends after so long without; `settle` writes it down."""
        if len(self._uses) < MOST_NOTES or session in self._uses:
            self._uses[session] = self.clock(), generation, noted_every(idle)

    async def settle(self) -> None:
        """Writes what is owed, and what was noted of use, but no session's more often than `noted_every`.

        Raises `Unavailable`; what is not written is written the next time.
        """
        for session, reason in list(self._owed.items()):
            await self.ended(session, reason)
            del self._owed[session]
        while self._uses:
            batch = [(session, *self._uses[session]) for session in list(self._uses)[:NOTES_AT_ONCE]]
            async with self.database.begin() as transaction:
                await transaction.execute(_uses(batch))
            for session, at, *_ in batch:
                if self._uses[session][0] == at:
                    del self._uses[session]

    async def about(self, sessions: Sequence[bytes]) -> dict[bytes, SessionRow]:
        """What is written about some sessions, by their ids."""
        statement = select(SessionRow).where(SessionRow.id.in_([UUID(bytes=session) for session in sessions]))
        async with self.database.look() as transaction:
            return {row.id.bytes: row for row in await transaction.scalars(statement)}

    async def written(self, account: UUID) -> Sequence[SessionRow]:
        """Every session of an account that is written down, the newest first."""
        statement = select(SessionRow).where(SessionRow.account_id == account).order_by(SessionRow.opened_at.desc())
        async with self.database.look() as transaction:
            return (await transaction.scalars(statement)).all()


def noted_every(idle: timedelta) -> timedelta:
    """How exactly the use of a session is known that ends after so long without one."""
    return min(USE_NOTED_EVERY, idle / 4)


def _uses(batch: Sequence[tuple[bytes, datetime, int, timedelta]]) -> Update:
    columns = (
        column("id", Uuid),
        column("at", DateTimeUTC(timezone=True)),
        column("generation", BigInteger),
        column("every", Interval()),
    )
    noted = values(*columns, name="noted").data([(UUID(bytes=session), *use) for session, *use in sorted(batch)])
    is_news = SessionRow.used_at.is_(None) | (SessionRow.used_at < noted.c.at - noted.c.every)
    statement = update(SessionRow).where(SessionRow.id == noted.c.id, is_news)
    return statement.values(used_at=noted.c.at, generation=func.greatest(SessionRow.generation, noted.c.generation))

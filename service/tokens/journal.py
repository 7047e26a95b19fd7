"""The durable record of sessions: which were opened, which were ended and why.

Redis holds the working state; this table is what a lost or old Redis can be healed from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import ForeignKey, Index, select, text, update
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
]


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


@dataclass(frozen=True, slots=True)
class Journal:
    """Writes the ends of sessions. Their beginnings are written by the transaction that lets a person in."""

    database: Database
    clock: Clock

    async def ended(self, session: bytes, reason: EndReason) -> None:
        """Notes the end of one session; an end that was noted before stays as it was. Raises `Unavailable`."""
        async with self.database.begin() as transaction:
            await self.note_end(transaction, session, reason)

    async def note_end(self, transaction: Transaction, session: bytes, reason: EndReason) -> None:
        """The same, in somebody's transaction."""
        await transaction.execute(
            update(SessionRow)
            .where(SessionRow.id == UUID(bytes=session), SessionRow.ended_at.is_(None))
            .values(ended_at=self.clock(), ended_reason=reason)
        )

    async def hold(self, transaction: Transaction, account: UUID) -> None:
        """Keeps sign-ins of an account from being written down until the transaction ends."""
        await transaction.execute(text("SELECT FROM accounts WHERE id = :account FOR UPDATE"), {"account": account})

    async def all_ended(
        self, transaction: Transaction, account: UUID, reason: EndReason, but: bytes | None = None
    ) -> None:
        """Notes the end of every session of an account, or every other one, in the transaction that decides it."""
        statement = update(SessionRow).where(SessionRow.account_id == account, SessionRow.ended_at.is_(None))
        if but is not None:
            statement = statement.where(SessionRow.id != UUID(bytes=but))
        await transaction.execute(statement.values(ended_at=self.clock(), ended_reason=reason))

    async def renewed(self, session: bytes, amr: tuple[str, ...], expires_at: datetime) -> None:
        """Notes how a session began anew, and its new end."""
        statement = update(SessionRow).where(SessionRow.id == UUID(bytes=session))
        async with self.database.begin() as transaction:
            await transaction.execute(statement.values(amr=list(amr), expires_at=expires_at))

    async def about(self, sessions: Sequence[bytes]) -> dict[bytes, SessionRow]:
        """What is written about some sessions, by their ids."""
        statement = select(SessionRow).where(SessionRow.id.in_([UUID(bytes=session) for session in sessions]))
        async with self.database.begin() as transaction:
            return {row.id.bytes: row for row in await transaction.scalars(statement)}

    async def written(self, account: UUID) -> Sequence[SessionRow]:
        """Every session of an account that is written down, the newest first."""
        statement = select(SessionRow).where(SessionRow.account_id == account).order_by(SessionRow.opened_at.desc())
        async with self.database.begin() as transaction:
            return (await transaction.scalars(statement)).all()

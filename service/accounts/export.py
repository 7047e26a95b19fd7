"""Everything that is held about a person, for that person (GDPR articles 15 and 20)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from service.accounts.identities import Identities
from service.accounts.models import Account
from service.accounts.profile import Profile
from service.audit import Audit, AuditEvent
from service.clock import Clock
from service.limits import Limits
from service.mail.outbox import Outbox
from service.settings import Settings
from service.store.postgres import Database, Table
from service.tokens.journal import Journal, SessionRow
from service.tokens.one_time import OneTimeTokens
from service.tokens.sessions import Sessions

MOST_EVENTS = 5_000
Picked = TypeVar("Picked", bound=msgspec.Struct)


class ExportedAccount(msgspec.Struct, frozen=True):
    id: UUID
    email: str
    nickname: str
    locale: str
    avatar_url: str | None
    roles: list[str]
    created_at: datetime
    password_changed_at: datetime
    has_password: bool


class ExportedSession(msgspec.Struct, frozen=True):
    id: UUID
    client_id: str
    address: str
    user_agent: str
    place: str
    opened_at: datetime
    last_seen_at: datetime | None
    expires_at: datetime
    ended_at: datetime | None
    ended_reason: str | None


class ExportedEvent(msgspec.Struct, frozen=True):
    at: datetime
    event: str
    outcome: str
    client_id: str | None
    session_id: str | None
    address: str | None
    user_agent: str | None
    detail: dict[str, Any]


class ExportedLink(msgspec.Struct, frozen=True):
    """A mailed link that still works, without its secret."""

    purpose: str
    email: str | None
    created_at: datetime
    expires_at: datetime


class ExportedMail(msgspec.Struct, frozen=True):
    """A mail that has not left yet."""

    template: str
    created_at: datetime


class ExportedIdentity(msgspec.Struct, frozen=True):
    """Who the person is at a provider that opens the account, as it last said."""

    provider: str
    issuer: str
    subject: str
    username: str
    email: str | None
    email_verified: bool
    avatar_url: str | None
    linked_at: datetime
    last_seen_at: datetime


class Export(msgspec.Struct, frozen=True):
    """Times are UTC. `events` are the newest five thousand of the audit trail."""

    exported_at: datetime
    account: ExportedAccount
    identities: list[ExportedIdentity]
    sessions: list[ExportedSession]
    events: list[ExportedEvent]
    links: list[ExportedLink]
    mails: list[ExportedMail]


@dataclass(frozen=True, slots=True)
class Exports:
    """Collects it. Secrets are not among it: nobody holds them but in digests."""

    database: Database
    profile: Profile
    sessions: Sessions
    journal: Journal
    one_time: OneTimeTokens
    identities: Identities
    outbox: Outbox
    audit: Audit
    limits: Limits
    settings: Settings
    clock: Clock

    async def of(self, account_id: UUID) -> Export:
        """The whole of it. Raises `InvalidToken` when the account is gone."""
        await self.limits.take("export", self.settings.limit_export_account, str(account_id))
        account = await self.profile.read(account_id)
        self.audit.record("account.export", account=account_id)
        await self.audit.flush()
        sessions = await self.journal.written(account_id)
        seen = {UUID(bytes=live.session): live.used_at for live in await self.sessions.live(account_id)}
        async with self.database.begin() as transaction:
            events = await self.audit.of(transaction, account_id, MOST_EVENTS)
            links = await self.one_time.of(transaction, account_id)
            identities = await self.identities.of(transaction, account_id)
            mails = await self.outbox.of(transaction, account.email)
        return Export(
            exported_at=self.clock(),
            account=_account(account),
            identities=[_picked(ExportedIdentity, row) for row in identities],
            sessions=[_session(row, seen.get(row.id)) for row in sessions],
            events=[_event(row) for row in events],
            links=[_picked(ExportedLink, row) for row in links if row.expires_at > self.clock()],
            mails=[_picked(ExportedMail, row) for row in mails],
        )


def _account(account: Account) -> ExportedAccount:
    given = {name: getattr(account, name) for name in ExportedAccount.__struct_fields__ if name != "has_password"}
    return ExportedAccount(has_password=account.password_hash is not None, **given)


def _session(row: SessionRow, last_seen_at: datetime | None) -> ExportedSession:
    names = set(ExportedSession.__struct_fields__) - {"last_seen_at"}
    return ExportedSession(last_seen_at=last_seen_at, **{name: getattr(row, name) for name in names})


def _event(event: AuditEvent) -> ExportedEvent:
    """An event without what it says about somebody else, an administrator, who brought it about."""
    shown = _picked(ExportedEvent, event)
    if shown.detail.get("by") in {None, str(event.account_id)}:
        return shown
    detail = {name: value for name, value in shown.detail.items() if name != "by"}
    return msgspec.structs.replace(shown, address=None, user_agent=None, detail=detail)


def _picked(kind: type[Picked], row: Table) -> Picked:
    """The fields of a row that a person is shown."""
    return kind(**{name: getattr(row, name) for name in kind.__struct_fields__})

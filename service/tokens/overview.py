"""The sessions of one person: what lives in Redis, told by what the journal knows about it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.audit import Audit
from service.clock import Clock
from service.device import device_name
from service.errors import NotFound
from service.limits import Limits
from service.settings import Settings
from service.store.postgres import Database
from service.tokens.journal import Journal
from service.tokens.one_time import OneTimeTokens
from service.tokens.principal import Principal
from service.tokens.session_facts import Ended
from service.tokens.sessions import Sessions


@dataclass(frozen=True, slots=True)
class SeenSession:
    """One session as its owner sees it; `last_seen_at` is good to a minute. `device` and `place` may be empty."""

    id: UUID
    device: str
    place: str
    address: str
    client_id: str
    first_seen_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """Shows and ends them. An end shows at the next introspection, in every worker."""

    database: Database
    sessions: Sessions
    journal: Journal
    one_time: OneTimeTokens
    limits: Limits
    audit: Audit
    settings: Settings
    clock: Clock

    async def of(self, principal: Principal) -> list[SeenSession]:
        """The sessions of whoever asks, the one used last first."""
        return await self.of_account(principal.account, current=principal.session)

    async def of_account(self, account: UUID, current: bytes = b"") -> list[SeenSession]:
        """The sessions that live, the one used last first."""
        alive = await self.sessions.live(account)
        written = await self.journal.about([live.session for live in alive])
        seen = []
        for live in alive:
            row = written.get(live.session)
            seen.append(
                SeenSession(
                    id=UUID(bytes=live.session),
                    device=device_name(row.user_agent) if row else "",
                    place=row.place if row else "",
                    address=row.address if row else "",
                    client_id=live.client,
                    first_seen_at=live.opened_at,
                    last_seen_at=live.used_at,
                    expires_at=live.expires_at,
                    current=live.session == current,
                )
            )
        return sorted(seen, key=lambda session: session.last_seen_at, reverse=True)

    async def end(self, principal: Principal, session: UUID) -> None:
        """Ends one session of one's own. Raises `NotFound`, or `StaleAuthentication` for any but the current one."""
        if session.bytes != principal.session:
            principal.ensure_fresh(self.settings, self.clock)
        outcome = await self.sessions.end(principal.account, session.bytes)
        if outcome in {"closed", "revoked"}:  # an end that the journal missed is written when it is asked for again
            await self.journal.ended(session.bytes, "ended")
        if outcome != "closed":
            raise NotFound("no such session of this account")
        self.audit.record("session.close", "ended", account=principal.account, session=str(session))

    async def end_others(self, principal: Principal) -> None:
        """Ends every session but the one that asks, and a change of address that is pending.

        Raises `StaleAuthentication`.
        """
        principal.ensure_fresh(self.settings, self.clock)
        await self.limits.take("change", self.settings.limit_change_account, str(principal.account))
        async with self.database.begin() as transaction:
            await self.journal.hold(transaction, principal.account)
            await self.journal.all_ended(transaction, principal.account, "ended", but=principal.session)
            await self.one_time.void(transaction, principal.account, "email")
            ended = await self.sessions.close_others(principal.account, principal.session, Ended.ENDED)
        self.audit.record("session.close_others", account=principal.account, sessions=ended)

"""The one door: whoever was proved to be a person comes in here, however they proved it."""

from dataclasses import dataclass
from uuid import UUID

from service.accounts.models import Account
from service.accounts.repository import AccountRepository
from service.audit import Audit
from service.device import Device
from service.errors import AccountDisabled, ServiceError
from service.store.postgres import Database
from service.tokens.journal import Journal, SessionRow
from service.tokens.sessions import Grant, Opened, Sessions


@dataclass(frozen=True, slots=True)
class Entrance:
    """Opens sessions for accounts, in both stores."""

    database: Database
    sessions: Sessions
    journal: Journal
    audit: Audit

    async def admit(self, account: Account, client: str, amr: tuple[str, ...], device: Device) -> Grant:
        """Signs an account in. Raises `AccountDisabled` or `Unavailable`; nobody holds a token then.

        The session is opened in Redis first, and the account is looked at again after that with its row locked:
        an account that is disabled meanwhile either shows here, or its "end all sessions" comes later and ends this
        one too. There is no order of events in which a disabled account keeps a session.
        """
        opened = await self.sessions.open(account.id, client, amr, tuple(account.roles))
        try:
            await self._write_down(account.id, client, amr, device, opened)
            await self._follow_up(account.id, opened)
        except ServiceError:
            self._record_evictions(account.id, opened)
            await self.sessions.discard(account.id, opened.session)
            raise
        self._record(account.id, client, amr, opened)
        return opened.grant

    async def _write_down(
        self, account: UUID, client: str, amr: tuple[str, ...], device: Device, opened: Opened
    ) -> None:
        async with self.database.begin() as transaction:
            current = await AccountRepository(session=transaction).held_open(account)
            if current is None:
                raise AccountDisabled("the account is gone")
            current.ensure_may_enter()
            transaction.add(
                SessionRow(
                    id=UUID(bytes=opened.session),
                    account_id=account,
                    client_id=client,
                    salt=opened.salt,
                    amr=list(amr),
                    scope=opened.grant.scope,
                    address=device.address,
                    user_agent=device.user_agent,
                    opened_at=opened.opened_at,
                    expires_at=opened.expires_at,
                    ended_at=None,
                    ended_reason=None,
                )
            )
            for evicted in opened.evicted:
                await self.journal.note_end(transaction, evicted, "evicted")

    async def _follow_up(self, account: UUID, opened: Opened) -> None:
        """Another sign-in may have displaced this session before it was in the journal."""
        reason = await self.sessions.reason_of_end(account, opened.session)
        if reason is not None:
            await self.journal.ended(opened.session, reason)

    def _record(self, account: UUID, client: str, amr: tuple[str, ...], opened: Opened) -> None:
        session = str(UUID(bytes=opened.session))
        self.audit.record("session.open", account=account, client=client, session=session, amr=list(amr))
        self._record_evictions(account, opened)

    def _record_evictions(self, account: UUID, opened: Opened) -> None:
        for evicted in opened.evicted:
            self.audit.record("session.close", "evicted", account=account, session=str(UUID(bytes=evicted)))

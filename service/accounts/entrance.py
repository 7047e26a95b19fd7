"""The one door: whoever was proved to be a person comes in here, however they proved it."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast
from uuid import UUID

from sqlalchemy import Table, insert, select

from service.accounts.guesses import Guesses
from service.accounts.identities import Identity
from service.accounts.models import Account
from service.accounts.notices import Notices
from service.accounts.repository import AccountRepository
from service.audit import Audit
from service.device import Device
from service.errors import InvalidCredentials, ServiceError, Unavailable
from service.store.postgres import Database, Transaction
from service.tokens.journal import Journal, SessionRow
from service.tokens.session_facts import Grant, Opened
from service.tokens.sessions import Sessions

OPENED = insert(cast("Table", SessionRow.__table__))


@dataclass(frozen=True, slots=True)
class Entrance:
    """Opens sessions for accounts, in both stores."""

    database: Database
    sessions: Sessions
    journal: Journal
    guesses: Guesses
    notices: Notices
    audit: Audit

    async def admit(
        self,
        account: Account,
        client: str,
        amr: tuple[str, ...],
        device: Device,
        *,
        news: int | None = None,
        identity: tuple[str, str] | None = None,
        proved_ago: timedelta = timedelta(0),
    ) -> Grant:
        """Signs an account in.

        `news` tells its holder of a device that was not seen before (ASVS 6.3.5), and how many wrong passwords came
        before the right one. `identity` is the issuer and subject that opened it, which must still be linked, and
        `proved_ago` how long ago the person was proved there. Raises `AccountDisabled`, `InvalidCredentials` when the
        password is another one by now, or `Unavailable`; nobody holds a token then.

        The session is opened in Redis first, and the account is looked at again after that with its row locked:
        an account that is disabled meanwhile either shows here, or its "end all sessions" comes later and ends this
        one too. There is no order of events in which a disabled account keeps a session, and none in which a session
        of the old password outlives its change.
        """
        opened = await self.sessions.open(account.id, client, amr, tuple(account.roles), proved_ago)
        try:
            await self._write_down(account, client, amr, device, opened, news=news, identity=identity)
            await self._follow_up(account.id, opened)
        except ServiceError:
            self._record_evictions(account.id, opened)
            await self.sessions.discard(account.id, opened.session)
            raise
        self._record(account.id, client, amr, opened)
        try:
            return replace(opened.grant, device_mark=await self.guesses.remember(account, device))
        except Unavailable:  # signed in is signed in: an unknown device is told of once more
            return opened.grant

    async def _write_down(
        self,
        account: Account,
        client: str,
        amr: tuple[str, ...],
        device: Device,
        opened: Opened,
        *,
        news: int | None,
        identity: tuple[str, str] | None,
    ) -> None:
        async with self.database.begin() as transaction:
            current = await AccountRepository(session=transaction).held_open(account.id)
            if current is None or current.password_changed_at != account.password_changed_at:
                raise InvalidCredentials("the account is gone, or its password another one")
            current.ensure_may_enter()
            if identity is not None and not await self._is_linked(transaction, account.id, identity):
                raise InvalidCredentials("the identity was unlinked")
            if set(current.roles) != set(opened.roles):  # changed meanwhile, or an outage cut a change short
                await self.sessions.appoint(account.id, current.roles)
            row = {
                "id": UUID(bytes=opened.session),
                "account_id": account.id,
                "client_id": client,
                "salt": opened.salt,
                "amr": list(amr),
                "scope": opened.grant.scope,
                "address": device.address,
                "user_agent": device.user_agent,
                "place": device.place,
                "opened_at": opened.opened_at,
                "expires_at": opened.expires_at,
                "granted": opened.granted,
                "authenticated_at": opened.authenticated_at,
                "used_at": opened.opened_at,
            }
            await transaction.execute(OPENED, row)
            for evicted in opened.evicted:
                await self.journal.note_end(transaction, evicted, "evicted")
            if news is not None:
                self.notices.report(transaction, "new_device", account, device, failures=news)

    async def _is_linked(self, transaction: Transaction, account: UUID, identity: tuple[str, str]) -> bool:
        issuer, subject = identity
        statement = select(Identity.account_id).where(Identity.issuer == issuer, Identity.subject == subject)
        return await transaction.scalar(statement) == account

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

"""Closing an account: everything about the person goes, and with it every session."""

from dataclasses import dataclass
from uuid import UUID

import structlog

from service.accounts.administration import ensure_other_admin
from service.accounts.avatars import Avatars
from service.accounts.models import Account
from service.accounts.notices import Notices, moment
from service.accounts.pending import PendingSignUps
from service.accounts.repository import AccountRepository
from service.audit import Audit
from service.clock import Clock
from service.errors import InvalidToken, Unavailable
from service.settings import Settings
from service.store.postgres import Database, Transaction
from service.tokens.one_time import PREFIXES, OneTimeTokens
from service.tokens.principal import Principal
from service.tokens.sessions import Sessions

log = structlog.get_logger("vestibule.closing")


@dataclass(frozen=True, slots=True)
class Closing:
    """Erases accounts. What the audit trail must keep stays under an id that leads to nobody any more."""

    database: Database
    sessions: Sessions
    one_time: OneTimeTokens
    notices: Notices
    avatars: Avatars
    pending: PendingSignUps
    audit: Audit
    settings: Settings
    clock: Clock

    async def close(self, principal: Principal) -> None:
        """Erases the account of somebody who signed in just now.

        Raises `StaleAuthentication`, `LastAdmin`, `Unavailable`.
        """
        principal.ensure_fresh(self.settings, self.clock)
        await self.avatars.ensure_reachable(principal.account)
        await self.audit.flush()
        async with self.database.begin() as transaction:
            await ensure_other_admin(transaction, principal.account)
            accounts = AccountRepository(session=transaction)
            account = await accounts.held_for_change(principal.account)
            if account is None:
                raise InvalidToken("the account is gone")
            await self.sessions.journal.all_ended(transaction, account.id, "account_closed")
            await self._erase(transaction, account)
            await self.sessions.close_all(account.id)
        self.audit.record("account.close", account=principal.account, is_anonymous=True)
        await self._forget_the_rest(principal.account, account.email)

    async def _forget_the_rest(self, account: UUID, email: str) -> None:
        """What no transaction covers. The account is gone: a failure is the operator's to mend, or mends itself."""
        try:
            await self.avatars.forget(account)
            await self.pending.forget_all(email)
        except Unavailable as error:
            log.error("a closed account left something behind", account=str(account), reason=error.reason)

    async def _erase(self, transaction: Transaction, account: Account) -> None:
        """Sessions go with the row; what waits to be mailed is thrown away, but for the word that it is done."""
        await self.notices.outbox.drop(transaction, account.id, account.email)
        self.notices.post(transaction, "account_closed", account, at=moment(self.clock()))
        await self.one_time.void(transaction, account.id, *PREFIXES)
        await self.audit.forget_origins(transaction, account.id)
        await transaction.delete(account)
        await transaction.flush()

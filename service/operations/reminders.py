"""Telling operators before a client's secret ends (ASVS 6.4.5)."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import or_, select, update

from service.accounts.models import Account
from service.accounts.notices import Notices, moment
from service.audit import Audit
from service.clock import Clock
from service.store.postgres import Database, Transaction
from service.tokens.clients import Client, ClientSecret
from service.tokens.scopes import ADMIN

log = structlog.get_logger("vestibule.reminders")

DAYS_BEFORE = (1, 7, 30)


@dataclass(frozen=True, slots=True)
class Reminders:
    """Mails every administrator 30, 7 and 1 days before, once each, however many workers look."""

    database: Database
    notices: Notices
    audit: Audit
    clock: Clock

    async def send(self) -> int:
        """Posts what is due and says for how many secrets. Raises `Unavailable`."""
        told = 0
        for days in DAYS_BEFORE:
            async with self.database.begin() as transaction:
                due = await self._claim(transaction, days)
                admins = await _admins(transaction) if due else []
                for client_id, expires_at in due:
                    self._tell(transaction, admins, client_id, expires_at)
            told += len(due)
        return told

    async def _claim(self, transaction: Transaction, days: int) -> list[tuple[str, datetime]]:
        """The secrets that end within so many days and were not told of since they do; nobody else gets them."""
        now = self.clock()
        enabled = select(Client.id).where(Client.disabled_at.is_(None))
        statement = (
            update(ClientSecret)
            .where(
                ClientSecret.expires_at > now,
                ClientSecret.expires_at <= now + timedelta(days=days),
                or_(ClientSecret.reminded.is_(None), ClientSecret.reminded > days),
                ClientSecret.client_id.in_(enabled),
            )
            .values(reminded=days)
            .returning(ClientSecret.client_id, ClientSecret.expires_at)
        )
        rows = await transaction.execute(statement)
        return [(client_id, expires_at) for client_id, expires_at in rows if expires_at is not None]

    def _tell(self, transaction: Transaction, admins: list[Account], client_id: str, expires_at: datetime) -> None:
        left = max((expires_at - self.clock()).days, 1)
        log.warning("a client secret ends soon", client=client_id, days=left)
        self.audit.record("client.secret_expires", client=client_id, days=left)
        for admin in admins:
            until = moment(expires_at)
            self.notices.post(transaction, "secret_expires", admin, client=client_id, days=left, until=until)


async def _admins(transaction: Transaction) -> list[Account]:
    is_admin = Account.roles.contains([ADMIN]) & Account.disabled_at.is_(None)
    return list(await transaction.scalars(select(Account).where(is_admin).order_by(Account.id)))

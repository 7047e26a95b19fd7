"""What an operator does to accounts."""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import update

from service.accounts.models import Account
from service.accounts.names import canonical_email, login_name, nickname_key
from service.accounts.new_passwords import NewPasswords
from service.accounts.registration import add_account
from service.accounts.repository import AccountRepository
from service.audit import Audit
from service.clock import Clock
from service.errors import FieldError, InvalidInput
from service.languages import DEFAULT
from service.store.postgres import Database, new_id
from service.tokens.journal import Journal
from service.tokens.sessions import Sessions

ROLE = re.compile(r"[a-z][a-z0-9:_-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Administration:
    """Makes and disables accounts from outside."""

    database: Database
    new_passwords: NewPasswords
    sessions: Sessions
    journal: Journal
    audit: Audit
    clock: Clock

    async def create(self, email: str, nickname: str, password: str, roles: tuple[str, ...]) -> Account:
        """Makes an account whose address the operator vouches for.

        Raises `InvalidInput`, `NicknameTaken`, `EmailTaken`.
        """
        address, key = canonical_email(email), nickname_key(nickname)
        if not all(ROLE.fullmatch(role) for role in roles):
            detail = "A role starts with a letter and holds a-z 0-9 : _ -"
            raise InvalidInput(fields=[FieldError("role", "role_invalid", detail)])
        now = self.clock()
        account = Account(
            id=new_id(),
            email=address,
            nickname=nickname,
            nickname_key=key,
            password_hash=await self.new_passwords.hashed(password, email=address, nickname=nickname),
            password_changed_at=now,
            locale=DEFAULT,
            avatar_url=None,
            roles=list(roles),
            created_at=now,
            disabled_at=None,
        )
        await add_account(self.database, account)
        self.audit.record("account.create", account=account.id, roles=list(roles))
        return account

    async def find(self, name: str) -> Account | None:
        """The account with this address or nickname."""
        by_email = "@" in name
        looked_up = login_name(name if by_email else None, None if by_email else name)
        async with self.database.begin() as transaction:
            return await AccountRepository(session=transaction).by_name(looked_up)

    async def disable(self, account: UUID) -> None:
        """Shuts an account out and ends all its sessions; done when both stores have it.

        Raises `Unavailable` when one of them has not: call again, it is idempotent.
        """
        statement = update(Account).where(Account.id == account, Account.disabled_at.is_(None))
        async with self.database.begin() as transaction:
            result: Any = await transaction.execute(statement.values(disabled_at=self.clock()))
            await self.journal.all_ended(transaction, account, "disabled")
        await self.sessions.close_all(account)
        self.audit.record("account.disable", "ok" if result.rowcount else "already", account=account)

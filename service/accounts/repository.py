"""Queries on accounts."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from advanced_alchemy.exceptions import IntegrityError as RepositoryIntegrityError
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from service.accounts.models import EMAIL_KEY, NICKNAME_KEY, Account
from service.accounts.names import Name
from service.errors import EmailTaken, NicknameTaken
from service.store.postgres import violates


class AccountRepository(SQLAlchemyAsyncRepository[Account]):
    """Finds accounts by what people know of them."""

    model_type = Account

    async def by_name(self, name: Name) -> Account | None:
        """The account with this address or nickname."""
        column = Account.email if name.kind == "email" else Account.nickname_key
        found: Account | None = await self.session.scalar(select(Account).where(column == name.key))
        return found

    async def nickname_is_taken(self, key: str) -> bool:
        """Whether somebody has the nickname."""
        return await self.exists(Account.nickname_key == key)

    async def held_open(self, account: UUID) -> Account | None:
        """The account, with its row kept from changing until the transaction ends; None when it is gone."""
        statement = select(Account).where(Account.id == account).with_for_update(read=True)
        found: Account | None = await self.session.scalar(statement)
        return found

    async def held_for_change(self, account: UUID) -> Account | None:
        """The account, with its row kept for us alone until the transaction ends; None when it is gone."""
        found: Account | None = await self.session.scalar(
            select(Account).where(Account.id == account).with_for_update()
        )
        return found

    async def replace_hash(self, account: UUID, old: str, new: str) -> None:
        """Swaps a password hash, unless somebody changed it meanwhile."""
        statement = update(Account).where(Account.id == account, Account.password_hash == old).values(password_hash=new)
        await self.session.execute(statement)


@contextmanager
def conflicts_named() -> Iterator[None]:
    """Raises `NicknameTaken` or `EmailTaken` in the place of a violated constraint, whose message holds the values."""
    try:
        yield
    except (IntegrityError, RepositoryIntegrityError) as error:
        if violates(error, NICKNAME_KEY):
            raise NicknameTaken from None
        if violates(error, EMAIL_KEY):
            raise EmailTaken from None
        raise

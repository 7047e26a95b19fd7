"""What people see of their own account."""

from dataclasses import dataclass
from uuid import UUID

from service.accounts.models import Account
from service.accounts.repository import AccountRepository
from service.errors import InvalidToken
from service.store.postgres import Database


@dataclass(frozen=True, slots=True)
class Profile:
    """Reads accounts for their owners."""

    database: Database

    async def read(self, account: UUID) -> Account:
        """The account. Raises `InvalidToken` when it is gone: nobody is left whom the token could speak for."""
        async with self.database.begin() as transaction:
            found = await AccountRepository(session=transaction).get_one_or_none(Account.id == account)
        if found is None:
            raise InvalidToken("the account is gone")
        return found

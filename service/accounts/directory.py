"""Finding accounts, for operators: by how a name begins, by state, role and age, page by page."""

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Select, or_, select

from service.accounts.models import Account
from service.accounts.repository import AccountRepository
from service.errors import NotFound
from service.store.paging import Order, Page, page
from service.store.postgres import Database

Sort = Literal["created_at", "-created_at", "email", "-email", "nickname", "-nickname"]
State = Literal["enabled", "disabled", "password_change_required"]

COLUMNS = {"created_at": Account.created_at, "email": Account.email, "nickname": Account.nickname_key}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which accounts; each None or empty one means any. `begins` is how the address or the nickname begins."""

    begins: str = ""
    state: State | None = None
    role: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """Reads accounts; what it answers is for operators alone."""

    database: Database

    async def search(self, wanted: Wanted, sort: Sort, limit: int, cursor: str | None) -> Page[Account]:
        """One page of accounts. Raises `InvalidInput` for a cursor of another search order."""
        name = sort.removeprefix("-")
        kind = datetime if name == "created_at" else str
        order = Order(sort, COLUMNS[name], Account.id, kind, descending=sort.startswith("-"))
        async with self.database.begin() as transaction:
            return await page(transaction, _statement(wanted), order, limit, cursor)

    async def read(self, account: UUID) -> Account:
        """One account. Raises `NotFound`."""
        async with self.database.begin() as transaction:
            found = await AccountRepository(session=transaction).get_one_or_none(Account.id == account)
        if found is None:
            raise NotFound("no such account")
        return found


def _statement(wanted: Wanted) -> Select[tuple[Account]]:
    statement = select(Account)
    if wanted.begins:
        begins = unicodedata.normalize("NFKC", wanted.begins.casefold())
        starts = [column.startswith(begins, autoescape=True) for column in (Account.email, Account.nickname_key)]
        statement = statement.where(or_(*starts))
    if wanted.state == "password_change_required":
        statement = statement.where(Account.password_change_required)
    elif wanted.state is not None:
        is_disabled = Account.disabled_at.is_not(None)
        statement = statement.where(is_disabled if wanted.state == "disabled" else ~is_disabled)
    if wanted.role is not None:
        statement = statement.where(Account.roles.contains([wanted.role]))
    if wanted.created_after is not None:
        statement = statement.where(Account.created_at >= wanted.created_after)
    if wanted.created_before is not None:
        statement = statement.where(Account.created_at < wanted.created_before)
    return statement

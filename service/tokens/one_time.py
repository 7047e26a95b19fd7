"""One-time tokens of accounts: what mailed links carry to reset a password or to change an address.

They live in PostgreSQL, so that using one and doing what it allows are one transaction: a link that did nothing is
not spent, and one that did something is. The next one of a purpose ends the one before (CL-07); only undos stay
beside each other, or a thief could get rid of one by changing the address once more.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from service.clock import Clock
from service.crypto import opaque
from service.crypto.roots import RootKeys
from service.store.postgres import Table, Transaction

Purpose = Literal["reset", "email", "undo"]

PREFIXES: dict[Purpose, str] = {"reset": "vpr", "email": "vec", "undo": "veu"}
DIGEST_PURPOSE = "one-time token"
ACCOUNT_BYTES = 16
SECRET_BYTES = 32


class OneTimeToken(Table):
    """One token: its digest, the address it is about, and the credentials under which it was issued.

    `account_id` is no foreign key: an address without an account gets a row like any other, so that asking takes
    the same time for everybody.
    """

    __tablename__ = "one_time_tokens"

    account_id: Mapped[UUID] = mapped_column(primary_key=True)
    purpose: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    email: Mapped[str | None]
    password_changed_at: Mapped[datetime]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


@dataclass(frozen=True, slots=True)
class OneTimeTokens:
    """Issues and redeems them, in the transaction of whoever decides."""

    roots: RootKeys
    clock: Clock

    async def issue(
        self,
        transaction: Transaction,
        purpose: Purpose,
        account: UUID,
        life: timedelta,
        *,
        password_changed_at: datetime,
        email: str | None = None,
    ) -> str:
        """A new token, which ends after `life`. `email` is the address that it is about."""
        token = opaque.encode(PREFIXES[purpose], account.bytes + secrets.token_bytes(SECRET_BYTES))
        now = self.clock() if purpose != "undo" else await self._after_older_undos(transaction, account)
        values = {
            "digest": self._digest(token),
            "email": email,
            "password_changed_at": password_changed_at,
            "created_at": now,
            "expires_at": now + life,
        }
        slot = values["digest"] if purpose == "undo" else ""
        statement = insert(OneTimeToken).values(account_id=account, purpose=purpose, slot=slot, **values)
        key = ["account_id", "purpose", "slot"]
        await transaction.execute(statement.on_conflict_do_update(index_elements=key, set_=values))
        return token

    async def look(self, transaction: Transaction, token: str) -> OneTimeToken | None:
        """The token while it is good, without using it."""
        account = _account_of(token)
        if account is None:
            return None
        statement = select(OneTimeToken).where(
            OneTimeToken.account_id == account,
            OneTimeToken.digest == self._digest(token),
            OneTimeToken.expires_at > self.clock(),
        )
        found: OneTimeToken | None = await transaction.scalar(statement)
        return found

    async def redeem(self, transaction: Transaction, token: OneTimeToken) -> bool:
        """Uses a token up. Of many at once one gets True; a transaction that fails gives it back."""
        statement = (
            delete(OneTimeToken)
            .where(
                OneTimeToken.account_id == token.account_id,
                OneTimeToken.purpose == token.purpose,
                OneTimeToken.digest == token.digest,
            )
            .returning(OneTimeToken.account_id)
        )
        return await transaction.scalar(statement) is not None

    async def void(self, transaction: Transaction, account: UUID, *purposes: Purpose) -> None:
        """Ends the account's tokens of these purposes."""
        await transaction.execute(
            delete(OneTimeToken).where(OneTimeToken.account_id == account, OneTimeToken.purpose.in_(purposes))
        )

    async def void_undos(self, transaction: Transaction, token: OneTimeToken) -> None:
        """Ends the undos that came after one that was used: they lead back to whoever took the account."""
        await transaction.execute(
            delete(OneTimeToken).where(
                OneTimeToken.account_id == token.account_id,
                OneTimeToken.purpose == "undo",
                OneTimeToken.created_at >= token.created_at,
            )
        )

    async def of(self, transaction: Transaction, account: UUID) -> Sequence[OneTimeToken]:
        """What an account could still use."""
        return (await transaction.scalars(select(OneTimeToken).where(OneTimeToken.account_id == account))).all()

    async def _after_older_undos(self, transaction: Transaction, account: UUID) -> datetime:
        """Their order decides which of them one ends: it must not hang on the clocks of two workers."""
        undos = select(func.max(OneTimeToken.created_at)).where(
            OneTimeToken.account_id == account, OneTimeToken.purpose == "undo"
        )
        latest: datetime | None = await transaction.scalar(undos)
        return self.clock() if latest is None else max(self.clock(), latest + timedelta(microseconds=1))

    def decoy(self, email: str) -> UUID:
        """Stands for the account that an address does not have."""
        return UUID(bytes=self.roots.mac(DIGEST_PURPOSE, email.encode(), self.roots.oldest)[:ACCOUNT_BYTES])

    def _digest(self, token: str) -> str:
        return self.roots.mac(DIGEST_PURPOSE, token.encode(), self.roots.oldest).hex()


def _account_of(token: str) -> UUID | None:
    for prefix in PREFIXES.values():
        body = opaque.decode(prefix, token)
        if body is not None and len(body) == ACCOUNT_BYTES + SECRET_BYTES:
            return UUID(bytes=body[:ACCOUNT_BYTES])
    return None

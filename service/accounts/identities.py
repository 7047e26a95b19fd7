"""Identities: who a foreign provider says that the holder of an account is.

The key is issuer and subject, never an address: those are given up and taken over (ASVS 6.8.1, 10.5.2). What the
provider gave us to ask it with is sealed, bound to its row, and gone with it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from sqlalchemy import (
    ColumnElement,
    ForeignKey,
    UniqueConstraint,
    and_,
    delete,
    func,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from service.accounts.models import Account
from service.clock import Clock
from service.crypto.roots import RootKeys
from service.crypto.sealing import UnsealError, seal, unseal
from service.errors import IdentityTaken
from service.providers.provider import ForeignPerson, ForeignTokens
from service.store.postgres import Database, Table, Transaction, violates

KEY = "identities_pkey"
ONE_OF_EACH = "identities_account_id_issuer_key"
REWRAPPED = 200


class Identity(Table):
    """One identity of an account. All but issuer, subject and account is as the provider last said it.

    `sealed` holds its tokens; whoever renews them has them for itself until `leased_until`.
    """

    __tablename__ = "identities"
    __table_args__ = (UniqueConstraint("account_id", "issuer", name=ONE_OF_EACH),)

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    provider: Mapped[str]
    username: Mapped[str]
    email: Mapped[str | None]
    email_verified: Mapped[bool]
    avatar_url: Mapped[str | None]
    linked_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    sealed: Mapped[bytes | None]
    leased_until: Mapped[datetime | None]


@dataclass(frozen=True, slots=True)
class Identities:
    """Reads and writes them, in the transaction of whoever decides."""

    database: Database
    roots: RootKeys
    clock: Clock

    async def find(self, transaction: Transaction, person: ForeignPerson) -> Identity | None:
        """The identity of a foreign person."""
        statement = select(Identity).where(Identity.issuer == person.issuer, Identity.subject == person.subject)
        found: Identity | None = await transaction.scalar(statement.execution_options(populate_existing=True))
        return found

    async def of(self, transaction: Transaction, account: UUID) -> Sequence[Identity]:
        """Those of an account, the oldest first."""
        statement = select(Identity).where(Identity.account_id == account).order_by(Identity.linked_at)
        return (await transaction.scalars(statement)).all()

    async def add(
        self,
        transaction: Transaction,
        account: UUID,
        provider: str,
        person: ForeignPerson,
        tokens: ForeignTokens | None,
        *,
        at: datetime,
    ) -> None:
        """Links a person to an account. Raises `IdentityTaken` when somebody was faster."""
        identity = Identity(
            issuer=person.issuer,
            subject=person.subject,
            account_id=account,
            linked_at=at,
            leased_until=None,
            **self._said(account, provider, person, tokens),
        )
        transaction.add(identity)
        with _conflicts_named():
            await transaction.flush()

    async def note(
        self,
        transaction: Transaction,
        identity: Identity,
        provider: str,
        person: ForeignPerson,
        tokens: ForeignTokens | None,
    ) -> None:
        """Writes down what the provider says today, while the row of the account is held.

        The account's picture follows the provider's for as long as it is the provider's.
        """
        before, said = identity.avatar_url, self._said(identity.account_id, provider, person, tokens)
        await self._change(transaction, identity, true(), leased_until=None, **said)
        if said["avatar_url"] != before and before is not None:
            is_its_own = and_(Account.id == identity.account_id, Account.avatar_url == before)
            await transaction.execute(update(Account).where(is_its_own).values(avatar_url=said["avatar_url"]))

    async def remove(self, transaction: Transaction, identity: Identity) -> None:
        """Takes a link away, and its tokens with it."""
        await transaction.execute(delete(Identity).where(*_is_row(identity)))

    async def remove_since(self, transaction: Transaction, account: Account, since: datetime) -> None:
        """Takes away what was linked since then, but not what the account was made by."""
        await transaction.execute(
            delete(Identity).where(
                Identity.account_id == account.id,
                Identity.linked_at >= since,
                Identity.linked_at > account.created_at,
            )
        )

    def tokens(self, identity: Identity) -> ForeignTokens | None:
        """Its tokens; None when there are none, or their root key is gone."""
        if identity.sealed is None:
            return None
        try:
            return msgspec.json.decode(unseal(self.roots, identity.sealed, _bound_to(identity)), type=ForeignTokens)
        except UnsealError:
            return None

    async def lease(self, transaction: Transaction, identity: Identity, life: timedelta) -> datetime | None:
        """Takes the tokens for ourselves, to renew them, until the moment that is answered: of many at once one gets
        it, and nobody whose tokens are not the newest."""
        now, until = self.clock(), self.clock() + life
        is_free = or_(Identity.leased_until.is_(None), Identity.leased_until <= now)
        may_be_taken = and_(is_free, Identity.sealed == identity.sealed)
        return until if await self._change(transaction, identity, may_be_taken, leased_until=until) else None

    async def keep(
        self, transaction: Transaction, identity: Identity, tokens: ForeignTokens | None, lease: datetime
    ) -> None:
        """Ends a lease with other tokens, or with none; what came in by a sign-in meanwhile stays."""
        sealed = self._sealed(identity.issuer, identity.subject, identity.account_id, tokens)
        is_ours = Identity.leased_until == lease
        await self._change(transaction, identity, is_ours, sealed=sealed, leased_until=None)

    async def release(self, transaction: Transaction, identity: Identity, lease: datetime) -> None:
        """Ends a lease that brought nothing."""
        await self._change(transaction, identity, Identity.leased_until == lease, leased_until=None)

    async def forget(self, transaction: Transaction, identity: Identity) -> None:
        """Throws tokens away that are of no use any more; newer ones stay."""
        await self._change(transaction, identity, Identity.sealed == identity.sealed, sealed=None)

    async def rewrap(self) -> int:
        """Seals with the current root key what an older one sealed; how many those were."""
        last, done = ("", ""), 0
        is_stale = func.get_byte(Identity.sealed, 1) != self.roots.current
        key = tuple_(Identity.issuer, Identity.subject)
        while True:
            stale = select(Identity).where(is_stale, key > last).order_by(Identity.issuer, Identity.subject)
            async with self.database.begin() as transaction:
                rows = (await transaction.scalars(stale.limit(REWRAPPED).with_for_update())).all()
                for row in rows:
                    with suppress(UnsealError):
                        opened = unseal(self.roots, row.sealed or b"", _bound_to(row))
                        row.sealed = seal(self.roots, opened, _bound_to(row))
                        done += 1
            if len(rows) < REWRAPPED:
                return done
            last = (rows[-1].issuer, rows[-1].subject)

    def _said(
        self, account: UUID, provider: str, person: ForeignPerson, tokens: ForeignTokens | None
    ) -> dict[str, object]:
        return {
            "provider": provider,
            "username": person.username,
            "email": person.email or None,
            "email_verified": person.email_verified,
            "avatar_url": person.picture or None,
            "last_seen_at": self.clock(),
            "sealed": self._sealed(person.issuer, person.subject, account, tokens),
        }

    def _sealed(self, issuer: str, subject: str, account: UUID, tokens: ForeignTokens | None) -> bytes | None:
        if tokens is None:
            return None
        return seal(self.roots, msgspec.json.encode(tokens), _bound(issuer, subject, account))

    async def _change(
        self, transaction: Transaction, identity: Identity, where: ColumnElement[bool], **values: object
    ) -> bool:
        statement = update(Identity).where(*_is_row(identity), where).values(values).returning(Identity.subject)
        return await transaction.scalar(statement) is not None


def _is_row(identity: Identity) -> tuple[ColumnElement[bool], ...]:
    return (
        Identity.issuer == identity.issuer,
        Identity.subject == identity.subject,
        Identity.account_id == identity.account_id,
    )


def _bound_to(identity: Identity) -> str:
    return _bound(identity.issuer, identity.subject, identity.account_id)


def _bound(issuer: str, subject: str, account: UUID) -> str:
    return f"identity {account} {issuer} {subject}"


@contextmanager
def _conflicts_named() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        if violates(error, KEY) or violates(error, ONE_OF_EACH):
            raise IdentityTaken("linked at this very moment") from None
        raise

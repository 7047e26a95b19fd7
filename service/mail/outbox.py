"""The outbox: mails wait in PostgreSQL, written by the very transaction whose news they bring.

What is committed is mailed, what is rolled back never was. A mail is sealed until it leaves, since it may hold a code
or a link. Mails to one person leave one after the other, in the order in which they were posted.
"""

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Identity,
    Index,
    and_,
    delete,
    event,
    exists,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, aliased, mapped_column

from service.clock import Clock
from service.crypto.roots import RootKeys
from service.crypto.sealing import UnsealError, seal, unseal
from service.store.postgres import Database, Table, Transaction

LANE_PURPOSE = "mail lane"
LANE_LENGTH = 32
PADDING = 300
NOTHING = "nothing"
"""The template of a mail that is never sent: it stands for one so that posting takes as long for everybody."""


class OutboxRow(Table):
    """A mail that has not left. `lane` is a keyed digest of the recipient; `dead_at` is set when it was given up."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index(None, "lane", "id", postgresql_where=text("dead_at IS NULL")),
        Index(None, "next_try_at", "id", postgresql_where=text("dead_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    lane: Mapped[str]
    template: Mapped[str]
    account_id: Mapped[UUID | None] = mapped_column(index=True)
    sealed: Mapped[bytes]
    created_at: Mapped[datetime]
    next_try_at: Mapped[datetime]
    leased_until: Mapped[datetime | None]
    tries: Mapped[int]
    dead_at: Mapped[datetime | None]
    reason: Mapped[str | None]


REWRAPPED = 200
"""Mails of one transaction that seals them anew."""


class Letter(msgspec.Struct, frozen=True):
    """What is sealed: to whom, in which language, and what the template needs."""

    to: str
    language: str
    values: dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many mails wait, since when the oldest does, and how many were given up."""

    waiting: int
    oldest: datetime | None
    dead: int


@dataclass(slots=True)
class Outbox:
    """Takes mails in, and hands them out to whoever delivers them. Times are those of the service's clock."""

    database: Database
    roots: RootKeys
    clock: Clock
    service: str
    listeners: list[Callable[[], None]] = field(default_factory=list)

    def post(
        self,
        transaction: Transaction,
        template: str,
        to: str,
        language: str,
        account: UUID | None = None,
        /,
        **values: str | int,
    ) -> None:
        """Puts a mail into the transaction; it leaves soon after the commit. `account` is the one it is about."""
        values = {"nickname": "", "service": self.service, **values}
        self._add(transaction, template, to, account, Letter(to, language, values))

    def post_nothing(self, transaction: Transaction) -> None:
        """Does the work of posting a mail without one: the time it takes must not tell who has an account."""
        self._add(transaction, NOTHING, secrets.token_hex(), None, Letter("", "", {"padding": "x" * PADDING}))

    async def claim(self, most: int, lease: timedelta) -> Sequence[OutboxRow]:
        """Leases the mails that are due, the oldest of each person, so that no other worker takes them meanwhile.

        A worker that dies keeps nothing: its leases end.
        """
        now = self.clock()
        due = (
            select(OutboxRow.id)
            .where(_may_leave(now), or_(OutboxRow.leased_until.is_(None), OutboxRow.leased_until <= now))
            .order_by(OutboxRow.next_try_at, OutboxRow.id)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        leased = (
            update(OutboxRow)
            .where(OutboxRow.id.in_(due))
            .values(leased_until=now + lease, tries=OutboxRow.tries + 1)
            .returning(OutboxRow)
        )
        async with self.database.begin() as transaction:
            return (await transaction.scalars(leased)).all()

    def open(self, row: OutboxRow) -> Letter:
        """The letter inside. Raises `UnsealError` when its root key is gone."""
        return msgspec.json.decode(unseal(self.roots, row.sealed, _bound_to(row)), type=Letter)

    async def delivered(self, row: OutboxRow) -> None:
        """Forgets a mail that was taken: the next one to the same person may go."""
        async with self.database.begin() as transaction:
            await transaction.execute(delete(OutboxRow).where(OutboxRow.id == row.id))
            await self._free_lane(transaction, row)

    async def postpone(self, row: OutboxRow, pause: timedelta, reason: str) -> None:
        """Tries again after a pause, and whatever else waits for the same person not before."""
        again = self.clock() + pause
        async with self.database.begin() as transaction:
            if await self._give_back(transaction, row, next_try_at=again, reason=reason):
                await self._hold_lane(transaction, row, again)

    async def bury(self, row: OutboxRow, reason: str) -> None:
        """Makes a dead letter of it: the next mail to the same person may go."""
        async with self.database.begin() as transaction:
            if await self._give_back(transaction, row, dead_at=self.clock(), reason=reason):
                await self._free_lane(transaction, row)

    async def revive(self, ids: Sequence[int] = ()) -> int:
        """Puts dead letters (these, or all) back in their place, and says how many there were.

        One whose successor is on its way at this moment waits until that is decided.
        """
        statement = update(OutboxRow).where(OutboxRow.dead_at.is_not(None))
        if ids:
            statement = statement.where(OutboxRow.id.in_(ids))
        now, other = self.clock(), aliased(OutboxRow)
        on_its_way = select(func.max(other.leased_until)).where(other.lane == OutboxRow.lane, other.leased_until > now)
        again = func.coalesce(on_its_way.scalar_subquery(), now)
        fresh = {"dead_at": None, "next_try_at": again, "created_at": now, "tries": 0, "reason": None}
        async with self.database.begin() as transaction:
            return len((await transaction.scalars(statement.values(fresh).returning(OutboxRow.id))).all())

    async def waiting(self) -> Sequence[OutboxRow]:
        """Everything that has not left, dead letters too, the oldest first."""
        async with self.database.begin() as transaction:
            return (await transaction.scalars(select(OutboxRow).order_by(OutboxRow.id))).all()

    async def busy(self) -> int:
        """How many mails could leave at this moment, or are on their way."""
        counted = select(func.count()).select_from(OutboxRow).where(_may_leave(self.clock()))
        async with self.database.begin() as transaction:
            return await transaction.scalar(counted) or 0

    async def backlog(self) -> Backlog:
        """What has not left, in numbers. Raises `Unavailable`."""
        is_waiting = OutboxRow.dead_at.is_(None)
        counted = select(
            func.count().filter(is_waiting), func.min(OutboxRow.created_at).filter(is_waiting), func.count()
        ).select_from(OutboxRow)
        async with self.database.begin() as transaction:
            waiting, oldest, all_of_them = (await transaction.execute(counted)).one()
        return Backlog(waiting, oldest, all_of_them - waiting)

    async def of(self, transaction: Transaction, address: str) -> Sequence[OutboxRow]:
        """What waits for one person. What their account sends to others is not theirs: it tells who those are."""
        return (await transaction.scalars(select(OutboxRow).where(OutboxRow.lane == self._lane(address)))).all()

    async def rewrap(self) -> int:
        """Seals with the current root key what an older one sealed; how many mails those were. What nobody can read any
        more is left as it is."""
        is_stale, last, done = func.get_byte(OutboxRow.sealed, 1) != self.roots.current, 0, 0
        while True:
            stale = select(OutboxRow).where(is_stale, OutboxRow.id > last).order_by(OutboxRow.id).limit(REWRAPPED)
            async with self.database.begin() as transaction:
                rows = (await transaction.scalars(stale.with_for_update())).all()
                for row in rows:
                    with suppress(UnsealError):
                        row.sealed = seal(self.roots, unseal(self.roots, row.sealed, _bound_to(row)), _bound_to(row))
                        done += 1
            if len(rows) < REWRAPPED:
                return done
            last = rows[-1].id

    async def drop(self, transaction: Transaction, account: UUID, address: str) -> None:
        """Throws away what waits for a person who is gone, and what is about their account for others."""
        is_theirs = or_(OutboxRow.account_id == account, OutboxRow.lane == self._lane(address))
        await transaction.execute(delete(OutboxRow).where(_locked_in_order(is_theirs)))

    def _add(self, transaction: Transaction, template: str, to: str, account: UUID | None, letter: Letter) -> None:
        now, lane = self.clock(), self._lane(to)
        row = OutboxRow(
            lane=lane,
            template=template,
            account_id=account,
            sealed=b"",
            created_at=now,
            next_try_at=now,
            leased_until=None,
            tries=0,
            dead_at=None,
            reason=None,
        )
        row.sealed = seal(self.roots, msgspec.json.encode(letter), _bound_to(row))
        transaction.add(row)
        event.listen(transaction.sync_session, "after_commit", self._tell, once=True)

    def _tell(self, _: object) -> None:
        for listener in self.listeners:
            listener()

    async def _give_back(self, transaction: Transaction, row: OutboxRow, **values: datetime | str) -> bool:
        """Ends a lease; False when it had ended by itself, and the mail is somebody else's by now."""
        statement = update(OutboxRow).where(OutboxRow.id == row.id, OutboxRow.leased_until == row.leased_until)
        given = await transaction.scalar(statement.values(leased_until=None, **values).returning(OutboxRow.id))
        return given is not None

    async def _hold_lane(self, transaction: Transaction, row: OutboxRow, until: datetime) -> None:
        """What is behind a mail that waits need not be looked at before."""
        await transaction.execute(update(OutboxRow).where(_locked_in_order(_behind(row))).values(next_try_at=until))

    async def _free_lane(self, transaction: Transaction, row: OutboxRow) -> None:
        """What was held back by a mail may go now that it is gone."""
        held = _locked_in_order(and_(_behind(row), OutboxRow.next_try_at > self.clock()))
        await transaction.execute(update(OutboxRow).where(held).values(next_try_at=row.next_try_at))

    def _lane(self, address: str) -> str:
        return self.roots.mac(LANE_PURPOSE, address.encode(), self.roots.oldest).hex()[:LANE_LENGTH]


def _may_leave(now: datetime) -> ColumnElement[bool]:
    """The oldest mail of each person that was not given up, when its time has come."""
    earlier = aliased(OutboxRow)
    is_later = exists().where(earlier.lane == OutboxRow.lane, earlier.id < OutboxRow.id, earlier.dead_at.is_(None))
    return and_(OutboxRow.dead_at.is_(None), OutboxRow.next_try_at <= now, ~is_later)


def _locked_in_order(rows: ColumnElement[bool]) -> ColumnElement[bool]:
    """These rows, locked one after the other by their ids: whoever locks several does it so, or two would deadlock."""
    return OutboxRow.id.in_(select(OutboxRow.id).where(rows).order_by(OutboxRow.id).with_for_update())


def _behind(row: OutboxRow) -> ColumnElement[bool]:
    return and_(OutboxRow.lane == row.lane, OutboxRow.id > row.id, OutboxRow.dead_at.is_(None))


def _bound_to(row: OutboxRow) -> str:
    return f"outbox {row.lane} {row.template}"

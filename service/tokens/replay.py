"""Tells Redis again what was revoked lately, so that a server that lost it cannot bring it back to life.

A failover, a split brain or an old copy of the data loses what was acknowledged; the log of the journal does not. Each
worker reads the newest part of it every five seconds, and at once when it had to connect anew; one of them tells Redis.
How far Redis was told stands in Redis itself, so that an old copy knows how old it is.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row, func, select, tuple_

from service import background, metrics
from service.clock import Clock
from service.errors import Unavailable
from service.settings import Settings
from service.store.postgres import Database
from service.store.redis import RedisStore
from service.tokens.journal import Journal, Revocation
from service.tokens.places import denial, sessions_of
from service.tokens.recall import ACCOUNTS
from service.tokens.session_facts import ended_for

log = structlog.get_logger("vestibule.replay")

PAUSE = 5.0
UNSETTLED = timedelta(seconds=15)
"""How late a transaction may commit what it logged, and a replica be behind: this much is read again every time."""
BATCH = 1000
MARK = "replayed"
LEASE = "replaying"
LEASE_MS = 4000
MARK_SECONDS = 60 * 86_400
MOST_REMEMBERED = 200_000


@dataclass(slots=True)
class Overlay:
    """What was revoked within the life of an access token: dead at this worker, whatever Redis says."""

    sessions: dict[bytes, datetime] = field(default_factory=dict)
    tokens: dict[str, datetime] = field(default_factory=dict)
    is_behind: bool = False
    """Whether Redis was connected to anew and has not been told yet what it may have lost."""

    def add(self, row: Row[Any]) -> None:
        """One revocation of the log."""
        if row.session_id is not None:
            self.sessions[row.session_id.bytes] = row.at
        elif row.jti is not None:
            self.tokens[row.jti] = row.at

    def forget(self, before: datetime) -> None:
        """Drops what every access token has outlived, and the oldest when there is too much."""
        _forget(self.sessions, before)
        _forget(self.tokens, before)


@dataclass(slots=True)
class Replay:
    """Follows the log. An outage of either store waits for the next look."""

    database: Database
    store: RedisStore
    journal: Journal
    settings: Settings
    clock: Clock
    overlay: Overlay
    _server: str = ""
    _read_to: datetime | None = None
    _done_at: float = field(default_factory=time.monotonic)
    _task: asyncio.Task[None] | None = None

    async def look(self) -> int:
        """Reads what is new in the log, tells Redis what it may have lost, and says how many rows that were.

        Raises `Unavailable`.
        """
        began = await self._follow()
        server = await self.store.identity()
        is_another, self._server = server != self._server, ""
        told = 0
        if is_another or await self._is_ours():  # else another worker tells it just now
            told = await self._tell(began, is_another=is_another)
            await self.store.put(MARK, int((began - UNSETTLED).timestamp() * 1000), MARK_SECONDS)
        self._server, self._done_at, self.overlay.is_behind = server, time.monotonic(), False
        return told

    def start(self) -> None:
        """Begins to look in the background."""
        self._task = asyncio.create_task(self._look_on(), name="replay")

    async def stop(self) -> None:
        """Ends, and writes down what is left to be written."""
        await background.end(self._task)
        with suppress(Unavailable):
            await self.journal.settle()

    async def _look_on(self) -> None:
        while True:
            await self._safely("the journal was not replayed", self.look)
            metrics.replay_lag(time.monotonic() - self._done_at)
            await self._safely("uses of sessions are not in the journal yet", self.journal.settle)
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self.store.reconnected()
                    self.overlay.is_behind = True

    async def _safely(self, complaint: str, do: Callable[[], Awaitable[object]]) -> None:
        try:
            await do()
        except Unavailable as error:
            log.warning(complaint, reason=error.reason)
        except Exception:
            log.exception(complaint)

    async def _follow(self) -> datetime:
        """Brings the overlay up to the moment that it answers, which is PostgreSQL's."""
        async with self.database.begin() as transaction:
            began: datetime = (await transaction.execute(select(func.clock_timestamp()))).scalar_one()
        last, last_id = began - self._life if self._read_to is None else self._read_to - UNSETTLED, 0
        while rows := await self._page(last, last_id):
            for row in rows:
                self.overlay.add(row)
            last, last_id = rows[-1].at, rows[-1].id
        self._read_to = began
        self.overlay.forget(began - self._life)
        return began

    async def _tell(self, began: datetime, *, is_another: bool) -> int:
        """Tells Redis everything since its mark; without one it is empty, or what is known of it is not enough."""
        mark = await self._mark()
        last = mark or began - self._life
        if is_another and (self.store.is_sharded or mark is None):  # one mark says nothing of the other nodes
            last = datetime.min.replace(tzinfo=UTC)
        told, last_id, failed = 0, 0, list[BaseException]()
        while rows := await self._page(last, last_id):
            outcomes = await asyncio.gather(*(self._tell_one(row) for row in rows), return_exceptions=True)
            failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)] or failed
            told, last, last_id = told + len(rows), rows[-1].at, rows[-1].id
        metrics.replayed(told)
        if failed:  # one node of a cluster is away: the others know, and all of it is told again
            raise failed[0]
        if is_another and told:
            log.info("the journal was replayed", revocations=told)
        return told

    async def _is_ours(self) -> bool:
        """Whether this worker is the one to tell; each is, where the node that knows is away."""
        try:
            return bool(await self.store.run("spend", LEASE, LEASE_MS))
        except Unavailable:
            return self.store.is_sharded

    async def _mark(self) -> datetime | None:
        try:
            mark = await self.store.get(MARK)
        except Unavailable:
            if not self.store.is_sharded:
                raise
            return None
        return datetime.fromtimestamp(int(mark) / 1000, UTC) if mark else None

    async def _page(self, last: datetime, last_id: int) -> Sequence[Row[Any]]:
        is_later = tuple_(Revocation.at, Revocation.id) > (last, last_id)
        statement = select(Revocation.__table__).where(is_later).order_by(Revocation.at, Revocation.id).limit(BATCH)
        async with self.database.begin() as transaction:
            return (await transaction.execute(statement)).all()

    async def _tell_one(self, row: Row[Any]) -> None:
        key = sessions_of(row.subject)
        if row.session_id is not None:
            await self.store.run("close", key, row.session_id.bytes, int(ended_for(row.reason)), "")
        elif row.jti is None:
            await self._tell_roles(UUID(row.subject), key)
        elif (left := int((row.ends_at - self.clock()).total_seconds() * 1000)) > 0:
            await self.store.run("deny", denial(row.subject, row.jti), left)

    async def _tell_roles(self, account: UUID, key: str) -> None:
        """The roles of now, while nobody can change them."""
        async with self.database.begin() as transaction:
            roles = select(ACCOUNTS.c.roles).where(ACCOUNTS.c.id == account).with_for_update(read=True)
            now = await transaction.scalar(roles)
            if now is not None:
                await self.store.run("appoint", key, " ".join(now))

    @property
    def _life(self) -> timedelta:
        return self.settings.access_token_life + self.settings.leeway


def _forget(known: dict[Any, datetime], before: datetime) -> None:
    """The oldest stand in front."""
    for name, _ in list(itertools.takewhile(lambda item: item[1] < before, known.items())):
        del known[name]
    for name in list(itertools.islice(known, max(len(known) - MOST_REMEMBERED, 0))):
        del known[name]

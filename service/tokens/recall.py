"""What the journal knows of sessions and tokens, for whoever cannot ask Redis or finds nothing there.

Many may ask at once, exactly when something is wrong already: so look-ups wait for each other and go out a batch at a
time, over one connection, and there is an end to how many wait and to how long they do. While PostgreSQL does not
answer either, nobody waits at all.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row, Uuid, column, func, literal, select, table
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from service import background
from service.clock import Clock
from service.errors import Unavailable
from service.store.postgres import Database, Transaction
from service.tokens.journal import Revocation, SessionRow

log = structlog.get_logger("vestibule.recall")

PATIENCE = 0.4
"""Seconds for which a request waits for the journal."""
AT_ONCE = 500
"""Look-ups of one query."""
MOST_WAITING = 5000
MOST_DEAD = 20_000
PAUSE = 0.5
"""Seconds for which PostgreSQL is not asked again after it did not answer."""

SESSIONS = SessionRow.__table__
ACCOUNTS = table("accounts", column("id", Uuid()), column("roles", ARRAY(TEXT)), column("disabled_at"))
Waiting = dict[Any, asyncio.Future[Any]]
"""By a session id (bytes), one to be settled (a pair), or a `jti` (str)."""
KEPT = select(SESSIONS, ACCOUNTS.c.roles, ACCOUNTS.c.disabled_at).join(ACCOUNTS, ACCOUNTS.c.id == SESSIONS.c.account_id)
"""Every look-up asks the account too: who is disabled has no session, and roles are those of this moment."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A session as the journal has it. `used_at` may be an hour behind, `generation` a few rotations."""

    session: bytes
    account: UUID
    client: str
    salt: bytes
    granted: str
    amr: tuple[str, ...]
    roles: tuple[str, ...]
    opened_at: datetime
    authenticated_at: datetime
    used_at: datetime
    expires_at: datetime
    generation: int
    has_ended: bool

    def idle_end(self, idle: timedelta) -> datetime:
        """When it ends unless it is used."""
        return min(self.used_at + idle, self.expires_at)


@dataclass(slots=True)
class Recall:
    """Point look-ups. Raises `Unavailable` where the journal does not answer soon."""

    database: Database
    clock: Clock
    _wanted: Waiting = field(default_factory=dict)
    _dead: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    _task: asyncio.Task[None] | None = None
    _failed_at: float = float("-inf")

    async def of(self, session: bytes) -> Kept | None:
        """A session that has neither ended nor reached its end; None for any other, for good."""
        if session in self._dead:
            return None
        kept: Kept | None = await self._asked(session)
        if kept is None or kept.has_ended:
            self._bury(session)
            return None
        return kept if kept.expires_at > self.clock() else None

    async def has_ended(self, session: bytes) -> bool:
        """Whether the journal knows that a session is over; of one that it does not know, it does not."""
        kept: Kept | None = await self._asked(session)
        return kept is not None and (kept.has_ended or kept.expires_at <= self.clock())

    async def settled(self, session: bytes) -> Kept | None:
        """The same once every change of its account that is under way is over; nothing is remembered."""
        kept: Kept | None = await self._asked(("settled", session))
        return kept if kept is not None and not kept.has_ended and kept.expires_at > self.clock() else None

    async def of_account(self, account: UUID) -> list[Kept]:
        """Every session of an account that has neither ended nor reached its end."""
        async with self.database.look() as transaction:
            rows = await transaction.execute(KEPT.where(SESSIONS.c.account_id == account))
            found = [_kept(row, self.clock()) for row in rows]
        return [kept for kept in found if not kept.has_ended and kept.expires_at > self.clock()]

    async def is_denied(self, jti: str) -> bool:
        """Whether an access token was revoked by itself."""
        return bool(await self._asked(jti))

    async def close(self) -> None:
        """Ends what is under way, and lets go of the connection."""
        await background.end(self._task)
        await self.database.close()

    def _bury(self, session: bytes) -> None:
        self._dead[session] = None
        if len(self._dead) > MOST_DEAD:
            self._dead.popitem(last=False)

    async def _asked(self, wanted: Any) -> Any:
        loop = asyncio.get_running_loop()
        if loop.time() < self._failed_at + PAUSE or len(self._wanted) >= MOST_WAITING:
            raise Unavailable("the journal does not answer, or too many ask it")
        answer = self._wanted.get(wanted)
        if answer is None:
            answer = self._wanted[wanted] = loop.create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="recall")
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise Unavailable("the journal takes too long") from None

    async def _look(self) -> None:
        while self._wanted:
            batch = dict(itertools.islice(self._wanted.items(), AT_ONCE))
            self._wanted = dict(itertools.islice(self._wanted.items(), AT_ONCE, None))
            try:
                found = await self._read(list(batch))
            except Unavailable as error:
                self._give_up(batch, error)
            except Exception:
                log.exception("the journal could not be asked")
                self._give_up(batch, Unavailable("the journal could not be asked"))
            else:
                for wanted, answer in batch.items():
                    if not answer.done():
                        answer.set_result(found.get(wanted))

    def _give_up(self, batch: Waiting, error: Unavailable) -> None:
        """Refuses this batch and everybody behind it."""
        self._failed_at = asyncio.get_running_loop().time()
        waiting, self._wanted = {**batch, **self._wanted}, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # everybody may have left

    async def _read(self, wanted: Collection[Any]) -> dict[Any, Any]:
        """Sessions by their ids, and which access tokens, by their `jti`, were revoked."""
        sessions = [one for one in wanted if isinstance(one, bytes)]
        settled = [session for _, session in (one for one in wanted if isinstance(one, tuple))]
        tokens = [one for one in wanted if isinstance(one, str)]
        found: dict[Any, Any] = {}
        async with self.database.begin() as transaction:
            if sessions:
                found |= {kept.session: kept for kept in await self._sessions(transaction, sessions)}
            if tokens:
                is_one = Revocation.jti == func.any(literal(tokens, ARRAY(TEXT)))
                denied = await transaction.scalars(select(Revocation.jti).where(is_one))
                found |= {jti: True for jti in denied if jti is not None}
            if settled:  # whoever changes an account holds its row (decision 6)
                accounts = [kept.account for kept in await self._sessions(transaction, settled)]
                held = select(ACCOUNTS.c.id).where(ACCOUNTS.c.id == func.any(literal(accounts, ARRAY(Uuid()))))
                await transaction.execute(held.order_by(ACCOUNTS.c.id).with_for_update(read=True))
                now = await self._sessions(transaction, settled)
                found |= {("settled", kept.session): kept for kept in now}
        return found

    async def _sessions(self, transaction: Transaction, sessions: Sequence[bytes]) -> list[Kept]:
        ids = literal([UUID(bytes=session) for session in sessions], ARRAY(Uuid()))
        rows = await transaction.execute(KEPT.where(SESSIONS.c.id == func.any(ids)))
        return [_kept(row, self.clock()) for row in rows]


def _kept(row: Row[Any], now: datetime) -> Kept:
    return Kept(
        session=row.id.bytes,
        account=row.account_id,
        client=row.client_id,
        salt=row.salt,
        granted=row.scope if row.granted is None else row.granted,
        amr=tuple(row.amr),
        roles=tuple(row.roles),
        opened_at=row.opened_at,
        authenticated_at=row.authenticated_at or row.opened_at,
        used_at=row.used_at or now,  # of a release that did not write it down
        expires_at=row.expires_at,
        generation=row.generation,
        has_ended=row.ended_at is not None or row.disabled_at is not None,
    )

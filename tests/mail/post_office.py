"""A post office of its own for the tests of mail: its database, its clock, and the servers it hands mails to."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from sqlalchemy import make_url

from service.clock import utc_now
from service.crypto.roots import RootKeys
from service.mail.mailer import Mailer
from service.mail.message import Mail, Transport
from service.mail.outbox import Outbox, OutboxRow
from service.mail.templates import Templates
from service.settings import Settings
from service.store.postgres import Database

PATIENCE = 60.0
"""Seconds after which something that should happen has not, on however busy a machine."""
LIFE = timedelta(days=3)
TIMEOUT = timedelta(seconds=10)
LEASE = TIMEOUT * 4
VERIFY: dict[str, str | int] = {
    "nickname": "ann",
    "minutes": 10,
    "until": "2026-11-20 16:42 UTC",
    "link": "https://auth.test/auth/confirm#verify=vlk_secret",
    "link_minutes": 60,
}


@dataclass
class Clock:
    """The machine's time and as much more as a test wants; stopped, it only moves when it is told to."""

    ahead: timedelta = timedelta(0)
    stopped_at: datetime | None = None

    def __call__(self) -> datetime:
        return (self.stopped_at or utc_now()) + self.ahead

    def stop(self) -> None:
        self.stopped_at = utc_now()

    def advance(self, ahead: timedelta) -> None:
        self.ahead += ahead


async def _taken(_: Mail) -> None:
    """The server takes every mail at once."""


@dataclass
class Postbox:
    """A mail server in memory. `answer` may wait or raise before a mail is kept."""

    answer: Callable[[Mail], Awaitable[None]] = _taken
    kept: list[Mail] = field(default_factory=list)
    tried: list[Mail] = field(default_factory=list)
    at_once: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    """To one person."""

    async def deliver(self, mail: Mail) -> None:
        self.tried.append(mail)
        self.at_once[mail.to] += 1
        self.most_at_once = max(self.most_at_once, self.at_once[mail.to])
        try:
            await self.answer(mail)
            self.kept.append(mail)
        finally:
            self.at_once[mail.to] -= 1

    async def check(self) -> None:
        pass

    def numbers(self, to: str) -> list[int]:
        """Which mails one person got, in the order of arrival."""
        return [number(mail.text) for mail in self.kept if mail.to == to]


@dataclass
class Hanging:
    """A mail server that answers nobody until it is let go."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    only: str = ""
    """The one recipient it hangs for; everybody when empty."""

    async def __call__(self, mail: Mail) -> None:
        if mail.to == self.only or not self.only:
            self.asked.set()
            await self.let_go.wait()


def number(text: str) -> int:
    """The number of a mail that `PostOffice.post` wrote."""
    found = re.search(r"your code is (\d{6})", text)
    assert found is not None, text
    return int(found[1])


@dataclass
class PostOffice:
    """One outbox table, which any number of workers empty."""

    settings: Settings
    elsewhere: str
    """The URL of another database on the same server."""
    clock: Clock = field(default_factory=Clock)
    _databases: list[Database] = field(default_factory=list)

    def outbox(self, keys: str = "") -> Outbox:
        """The outbox as one process sees it: with connections, and if need be root keys, of its own."""
        database = Database.connect(self.settings)
        self._databases.append(database)
        return Outbox(database, RootKeys.parse(keys or self.settings.keys), self.clock, "Harbour")

    @asynccontextmanager
    async def worker(
        self, transport: Transport, outbox: Outbox | None = None, life: timedelta = LIFE, within: timedelta = TIMEOUT
    ) -> AsyncIterator[Mailer]:
        mailer = Mailer(outbox or self.outbox(), transport, Templates(), life, within)
        mailer.start()
        try:
            yield mailer
        finally:
            await mailer.stop()

    async def sql(self, statement: str, *values: object) -> list[Any]:
        line = await asyncpg.connect(self.settings.database_url.replace("+asyncpg", ""), timeout=10)
        try:
            return list(await line.fetch(statement, *values))
        finally:
            await line.close()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """PostgreSQL is away, for the length of a `with` block: it ends all connections and takes no new ones."""
        name = make_url(self.settings.database_url).database
        line = await asyncpg.connect(self.elsewhere.replace("+asyncpg", ""), timeout=10)
        try:
            await line.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await line.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            yield
        finally:
            await line.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await line.close()

    async def close(self) -> None:
        for database in self._databases:
            await database.close()


async def post(outbox: Outbox, *recipients: str, first: int = 0, language: str = "en") -> None:
    """One mail to each, numbered from `first`, each in a transaction of its own."""
    for i, to in enumerate(recipients, first):
        async with outbox.database.begin() as transaction:
            outbox.post(transaction, "verify", to, language, **VERIFY, code=f"{i:06}")


async def drained(mailer: Mailer) -> None:
    """Waits until everything that is due has left or was put off."""
    async with asyncio.timeout(PATIENCE):
        await mailer.drain()


async def comes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def shrinks(outbox: Outbox, most: int = 0) -> None:
    """Waits until no more mails than these are left."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if len(await outbox.waiting()) <= most:
                return
            await asyncio.sleep(0.01)


async def the_only(outbox: Outbox) -> OutboxRow:
    rows = await outbox.waiting()
    assert len(rows) == 1, rows
    return rows[0]


def ids(rows: Sequence[OutboxRow]) -> list[int]:
    return [row.id for row in rows]

"""A worker over a Redis database of its own, which a test may empty or turn back without disturbing any other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
from redis.asyncio import Redis

from service.app import Application, create_app
from service.device import Device
from service.settings import Settings
from service.store.postgres import Database
from service.tokens.replay import Overlay, Replay
from service.tokens.session_facts import Grant
from service.wiring import Services, build
from tests.conftest import PASSWORD, Introspector, Outbox, TestClock, browser, shifted, somebody
from tests.tokens.acting import INACTIVE, record_key, refresh, session_of

MOST = 5
"""Sessions of one account."""


def of_database(redis_url: str, number: int) -> str:
    """The URL of another database of the same server."""
    if redis_url.startswith("unix:"):
        return f"{redis_url.partition('?')[0]}?db={number}"
    return urlsplit(redis_url)._replace(path=f"/{number}").geturl()


def away(settings: Settings, address: str = "127.0.0.1:1") -> Database:
    """PostgreSQL where nobody answers."""
    nowhere = type(settings.database_url)(f"postgresql+asyncpg://nobody@{address}/nothing?ssl=disable")
    return Database.connect(msgspec.structs.replace(settings, database_url=nowhere))


@dataclass
class Guest:
    """Somebody with an account and one session."""

    email: str
    account: UUID
    access: str
    refresh: str

    @property
    def session(self) -> bytes:
        return session_of(self.access).bytes

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access}"}

    def take(self, answer: httpx.Response) -> None:
        """The tokens of an answer, in the place of those before."""
        assert answer.status_code == 200, answer.text
        self.access, self.refresh = answer.json()["access_token"], answer.json()["refresh_token"]


@dataclass
class Ward:
    """The worker, of which nothing runs in the background: whatever happens, a test lets happen."""

    services: Services
    app: Application
    http: httpx.AsyncClient
    redis: Redis
    clock: TestClock
    caller: Introspector

    async def guest(self, client: str = "web", roles: tuple[str, ...] = ()) -> Guest:
        person = somebody()
        account = await self.services.administration.create(person.email, person.nickname, PASSWORD, roles)
        guest = Guest(person.email, account.id, "", "")
        return await self.signed_in(guest, client)

    async def signed_in(self, guest: Guest, client: str = "web") -> Guest:
        """The same person with a further session, without the price of a password hash."""
        account = await self.services.administration.find(guest.email)
        assert account is not None
        device = Device.seen("192.0.2.1", "tests")
        grant: Grant = await self.services.login.entrance.admit(account, client, ("pwd",), device)
        return Guest(guest.email, account.id, grant.access_token, grant.refresh_token)

    async def lose(self, guest: Guest) -> None:
        """Redis forgets the account, as after a restart without its data."""
        await self.redis.delete(record_key(guest.account))

    async def is_live(self, guest: Guest) -> bool:
        told = await self.caller.ask(self.http, guest.access)
        assert told == INACTIVE or told["active"] is True
        return told != INACTIVE

    async def renew(self, guest: Guest, client: str = "web") -> Guest:
        """A refresh that must succeed."""
        guest.take(await refresh(self.http, guest.refresh, client))
        return guest

    async def status(self, token: str, client: str = "web") -> int:
        """The answer to a refresh."""
        return (await refresh(self.http, token, client)).status_code

    def replay(self) -> Replay:
        """That of another worker over the same stores, which has looked at nothing yet."""
        running = self.services
        return Replay(
            running.database, running.store, running.replay.journal, running.settings, running.clock, Overlay()
        )


@asynccontextmanager
async def ward(
    settings: Settings, number: int, outbox: Outbox, introspector: Introspector, **other: object
) -> AsyncIterator[Ward]:
    """One over the Redis database of this number, which is empty before and afterwards."""
    url = of_database(settings.redis_url, number)
    values = {"redis_url": type(settings.redis_url)(url), "sessions_per_account": MOST, **other}
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
        clock = TestClock(redis)
        changed = msgspec.structs.replace(settings, **values)
        services = build(changed, clock=clock, mail=lambda _: outbox, scripts=shifted)
        await services.signing_keys.reload()
        await services.clients.reload()
        app = create_app(services)
        try:
            async with browser(app) as http:
                yield Ward(services, app, http, redis, clock, introspector)
        finally:
            await services.replay.stop()
            await services.recall.close()
            await services.audit.flush()
            await services.close()
            await redis.flushdb()

"""Real servers once per run, one wired service, and what a test needs to act as people and services do.

The servers are those of DATABASE_URL and REDIS_URL, else containers where a Docker engine answers, else the bundled
ones. Every test uses people, addresses and networks of its own, so nothing has to be cleaned up in between.
"""

import asyncio
import base64
import itertools
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service.app import create_app
from service.clock import utc_now
from service.embedded.servers import EmbeddedServers
from service.fake_provider.provider import FakeProvider
from service.mail.message import Mail
from service.settings import Settings, load
from service.store.postgres import driver_url
from service.store.redis import source
from service.store.schema import migrate
from service.tokens import recall
from service.tokens.client_administration import ClientChanges
from service.wiring import Services, build

ISSUER = "https://auth.test"
PASSWORD = "rain over the quiet harbour"
NODE_CLOCK = "redis.call('TIME')"
SHIFTED_CLOCK = """(function()
  local time = redis.call('TIME')
  return { time[1], time[2] + (redis.call('GET', 'vestibule:test:shift') or 0) }
end)()"""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Servers:
    database_url: str
    redis_url: str


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL with an empty database for this run, and Redis or Valkey."""
    with _servers(tmp_path_factory) as found, _own_database(found.database_url) as database_url:
        migrate(database_url)
        yield Servers(database_url, found.redis_url)


@contextmanager
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if "DATABASE_URL" in os.environ and "REDIS_URL" in os.environ:
        yield Servers(driver_url(os.environ["DATABASE_URL"]), os.environ["REDIS_URL"])
    elif _docker_answers():
        with _containers() as servers:
            yield servers
    else:
        with EmbeddedServers(tmp_path_factory.mktemp("servers"), durable=False) as running:
            yield Servers(running.database_url, running.redis_url)


def _docker_answers() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None
        and subprocess.run([docker, "info"], capture_output=True, check=False, timeout=60).returncode == 0
    )


@contextmanager
def _containers() -> Iterator[Servers]:
    from testcontainers.postgres import PostgresContainer
    from testcontainers.redis import RedisContainer

    with (
        PostgresContainer("postgres:18", driver="asyncpg") as postgres,
        RedisContainer("valkey/valkey:9") as valkey,
    ):
        redis_url = f"redis://{valkey.get_container_host_ip()}:{valkey.get_exposed_port(6379)}/0"
        yield Servers(postgres.get_connection_url(), redis_url)


@contextmanager
def _own_database(server_url: str) -> Iterator[str]:
    name = f"vestibule_test_{secrets.token_hex(4)}"
    asyncio.run(_execute(server_url, f"CREATE DATABASE {name}"))
    head, slash, tail = server_url.partition("://")[2].partition("/")
    query = tail.partition("?")[2]
    try:
        yield f"postgresql+asyncpg://{head}{slash}{name}{'?' + query if query else ''}"
    finally:
        asyncio.run(_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


def root_key(number: int = 1) -> str:
    return f"{number}:{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}"


@pytest.fixture(scope="session")
def environ(servers: Servers) -> dict[str, str]:
    """The settings of the service under test: quick hashes, and limits that only the tests of limits meet."""
    return {
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "VESTIBULE_ISSUER": ISSUER,
        "VESTIBULE_KEYS": root_key(),
        "VESTIBULE_ARGON2_TIME_COST": "2",
        "VESTIBULE_ARGON2_MEMORY_KIB": "19456",
        "VESTIBULE_HASH_QUEUE": "400",
        "VESTIBULE_ALLOWED_ORIGINS": "https://app.test",
        "VESTIBULE_AVATAR_STORE": "memory:///",
        **abroad_settings(),
        "VESTIBULE_KEY_ROTATION": "0",  # time travel must not turn keys for everybody else
        # A busy machine must not look like an outage.
        "VESTIBULE_REDIS_TIMEOUT": "10",
        "VESTIBULE_DATABASE_TIMEOUT": "10",
        "VESTIBULE_DATABASE_POOL_WAIT": "10",
    }


@pytest.fixture(scope="session", autouse=True)
def _patient_journal() -> Iterator[None]:
    """A busy machine must not look like an outage of PostgreSQL."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recall, "PATIENCE", 10.0)
        yield


@pytest.fixture(scope="session")
def settings(environ: dict[str, str]) -> Settings:
    return load(environ)


ABROAD = "http://127.0.0.1:9"
"""Where the fake provider would be: its transport leads there without a network."""
CLIENT_ABROAD = "vestibule"


def abroad_settings() -> dict[str, str]:
    """What an operator sets to sign people in through the fake provider."""
    site = {"OPENID": ("ISSUER", "/openid"), "DISCORD": ("URL", "/discord"), "GITHUB": ("URL", "/github")}
    found = {}
    for name, (setting, path) in site.items():
        head = f"VESTIBULE_PROVIDER_{name}_"
        found[f"{head}CLIENT_ID"] = CLIENT_ABROAD
        found[f"{head}CLIENT_SECRET"] = "made up for these tests"
        found[f"{head}PRIVATE_NETWORK"] = "true"
        found[head + setting] = ABROAD + path
    return found


@pytest.fixture(scope="session")
def fake_provider(environ: dict[str, str], wall_clock: "TestClock") -> FakeProvider:
    """The foreign provider of the tests."""
    secret = environ["VESTIBULE_PROVIDER_OPENID_CLIENT_SECRET"]
    return FakeProvider(ABROAD, {CLIENT_ABROAD: secret}, clock=wall_clock)


@pytest.fixture(scope="session")
def way_abroad(fake_provider: FakeProvider) -> httpx.AsyncBaseTransport:
    """How the service calls it."""
    return httpx.ASGITransport(app=cast("Any", fake_provider.app), raise_app_exceptions=False)


@pytest.fixture
async def abroad(way_abroad: httpx.AsyncBaseTransport) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody's browser at the fake provider."""
    async with httpx.AsyncClient(transport=way_abroad, base_url=ABROAD) as client:
        yield client


class Outbox:
    """The mail transport of the tests."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []

    async def deliver(self, mail: Mail) -> None:
        self.mails.append(mail)

    async def check(self) -> None:
        pass

    def to(self, address: str) -> list[Mail]:
        return [mail for mail in self.mails if mail.to == address]


@pytest.fixture(scope="session")
def outbox() -> Outbox:
    return Outbox()


class TestClock:
    """The time of the service and of every script, as far ahead as a test wants; put back after each test."""

    __test__ = False

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self._ahead

    async def advance(self, **ahead: float) -> None:
        self._ahead += timedelta(**ahead)
        await self._redis.set("vestibule:test:shift", int(self._ahead.total_seconds() * 1_000_000))

    async def reset(self) -> None:
        self._ahead = timedelta(0)
        await self._redis.delete("vestibule:test:shift")


def shifted(script: str) -> str:
    """A script's text with the clock of the tests."""
    return source(script).replace(NODE_CLOCK, SHIFTED_CLOCK)


@pytest.fixture(scope="session")
async def redis(servers: Servers) -> AsyncIterator[Redis]:
    """A plain connection, to look at what the service keeps."""
    client = Redis.from_url(servers.redis_url)
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
async def wall_clock(redis: Redis) -> TestClock:
    clock = TestClock(redis)
    await clock.reset()
    return clock


@pytest.fixture
async def clock(wall_clock: TestClock) -> AsyncIterator[TestClock]:
    """Time travel for one test."""
    yield wall_clock
    await wall_clock.reset()


@asynccontextmanager
async def worker(
    settings: Settings, clock: TestClock, outbox: Outbox, abroad: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Services]:
    """One running instance of the service."""
    services = build(settings, clock=clock, mail=lambda _: outbox, abroad=abroad, scripts=shifted)
    async with services.running():
        yield services


@pytest.fixture(scope="session")
async def services(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, way_abroad: httpx.AsyncBaseTransport
) -> AsyncIterator[Services]:
    """The service under test, with its keys, its front end and a client that may introspect."""
    first = build(settings, clock=wall_clock, mail=lambda _: outbox, scripts=shifted)
    await first.signing_keys.ensure()
    await first.client_administration.ensure_front_end()
    await first.close()
    async with worker(settings, wall_clock, outbox, way_abroad) as running:
        yield running


@pytest.fixture(scope="session")
async def second_worker(
    services: Services,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
) -> AsyncIterator[Services]:
    """Another instance over the same stores."""
    async with worker(settings, wall_clock, outbox, way_abroad) as running:
        yield running


@pytest.fixture(scope="session")
def app(services: Services) -> Litestar:
    return create_app(services)


@dataclass(frozen=True)
class Introspector:
    """A confidential client that may introspect."""

    client_id: str
    secret: str

    async def ask(self, http: httpx.AsyncClient, token: str) -> dict[str, object]:
        answer = await http.post("/introspect", data={"token": token}, auth=(self.client_id, self.secret))
        assert answer.status_code == 200, answer.text
        told: dict[str, object] = answer.json()
        return told


@pytest.fixture(scope="session")
async def introspector(services: Services) -> Introspector:
    client_id = f"svc-{secrets.token_hex(4)}"
    values = ClientChanges(name="Orders", may_introspect=True)
    _, made = await services.client_administration.register(client_id, values, confidential=True)
    assert made is not None
    return Introspector(client_id, made.secret)


_networks = itertools.count(secrets.randbelow(2**30))


def new_address() -> str:
    """An address on the internet that no other test has: a network of its own, for limits are those of networks."""
    number = next(_networks)
    return f"2001:db8:{0x8000 | number >> 15 & 0x7FFF:x}:{0x8000 | number & 0x7FFF:x}::1"


def in_one_piece(app: Litestar) -> Any:
    """The application behind a server that hands short bodies over whole, as uvicorn does: httpx never says which piece
    is the last one, and what wants a whole body would never be tested."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        unread: list[Any] = []

        async def whole() -> Any:
            if unread:
                return await receive()
            pieces = [await receive()]
            while pieces[-1].get("more_body"):
                pieces.append(await receive())
            unread.append(True)
            body = b"".join(piece.get("body", b"") for piece in pieces)
            return {**pieces[-1], "body": body} if pieces[-1]["type"] == "http.request" else pieces[-1]

        await app(scope, whole, send)

    return serve


@asynccontextmanager
async def browser(app: Litestar, address: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody's HTTP client, in-process, at an address of its own."""
    asgi, peer = cast("Any", in_one_piece(app)), (address or new_address(), 40000)
    transport = httpx.ASGITransport(app=asgi, raise_app_exceptions=False, client=peer)
    async with httpx.AsyncClient(transport=transport, base_url=ISSUER) as client:
        yield client


@pytest.fixture
async def http(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(app) as client:
        yield client


@pytest.fixture
async def http_of_second_worker(second_worker: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(create_app(second_worker)) as client:
        yield client


@dataclass
class Person:
    """Somebody with an account, and the tokens of their first session."""

    email: str
    nickname: str
    password: str = PASSWORD
    access_token: str = ""
    refresh_token: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def credentials(self, **more: object) -> dict[str, object]:
        return {"email": self.email, "password": self.password, **more}


def somebody() -> Person:
    """Somebody without an account yet."""
    name = f"p{secrets.token_hex(6)}"
    return Person(email=f"{name}@example.com", nickname=name)


async def begin_sign_up(http: httpx.AsyncClient, person: Person) -> str:
    """Signs up and answers the registration handle."""
    body = {"email": person.email, "password": person.password, "nickname": person.nickname}
    answer = await http.post("/auth/register", json=body)
    assert answer.status_code == 202, answer.text
    handle: str = answer.json()["registration"]
    return handle


async def mailed_code(services: Services, outbox: Outbox, address: str) -> str:
    """The code of the newest mail to an address."""
    await services.mailer.drain()
    found = re.search(r"your code is (\d{6})", outbox.to(address)[-1].text)
    assert found is not None, outbox.to(address)[-1].text
    return found[1]


async def sign_up(http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person | None = None) -> Person:
    """The whole way from nobody to a signed-in person, over HTTP."""
    person = person or somebody()
    handle = await begin_sign_up(http, person)
    code = await mailed_code(services, outbox, person.email)
    answer = await http.post("/auth/verify", json={"registration": handle, "code": code})
    assert answer.status_code == 200, answer.text
    person.access_token, person.refresh_token = answer.json()["access_token"], answer.json()["refresh_token"]
    person.headers = {"Authorization": f"Bearer {person.access_token}"}
    return person


@pytest.fixture
async def person(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> Person:
    """Somebody who just signed up."""
    return await sign_up(http, services, outbox)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long values are named by their length: readable, and alike in every process although keys differ."""
    return f"{argname} of {len(val)}" if isinstance(val, str | bytes) and len(val) > 30 else None

"""Real outages of real servers: hung, gone, full, read-only, locked, out of connections.

One worker of `vestibule serve` stands, with small pools, before servers of its own. It waits for Redis, a connection
and the journal three times as long as in production: a busy machine must not look like a further outage.
Each outage happens once: people who were at it before meet it one by one and as a crowd, it ends, they come back. The
tests then look at what they met: nobody waited long, nobody was refused for good, nothing was lost.
"""

import asyncio
import base64
import json
import math
import os
import re
import secrets
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import psutil
import pytest
from redis.asyncio import Redis

from service.app import create_app
from service.cli.running import prepare
from service.embedded import postgres, valkey
from service.embedded.folders import ours, sockets_of
from service.embedded.processes import Child
from service.mail.message import NoTransport
from service.settings import load
from service.store.schema import migrate
from service.wiring import build
from tests.conftest import PASSWORD, browser, root_key
from tests.deeds import registered
from tests.deploy.proxies import free_port

PROJECT = Path(__file__).parents[2]
DATABASE_POOL = 4
ALONE, IN_A_CROWD, AGAIN = 5.0, 10.0, 15.0  # seconds that an answer, one of fifty answers, a recovery may take
CROWD = ("login", "refresh", "introspect", "me", "logout") * 10
FROM_MEMORY = ("jwks", "livez", "readyz", "startupz")
PROBE = 0.2
STORM = 300
ENDED = 35  # the byte of a session's record that says why it ended

# `vestibule serve` that looks at its dependencies every 0.2 s instead of every 3 s, so that the tests wait less.
IMPATIENT = """
import service.operations.health as health, service.tokens.recall as recall
from service.cli.main import main
health.PAUSE, recall.PATIENCE = 0.2, 1.2
main()
"""


class MailServer(socketserver.ThreadingTCPServer):
    """Takes every mail and keeps its text."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int = 0, mails: list[str] | None = None) -> None:
        self.mails = [] if mails is None else mails
        super().__init__(("127.0.0.1", port), MailSession)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def leave(self) -> None:
        self.shutdown()
        self.server_close()


class MailSession(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._say("220 here")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self._say("354 go on")
                text = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(text.decode())
            self._say("221 bye" if verb == b"QUIT" else "250 ok")

    def _say(self, text: str) -> None:
        with suppress(OSError):
            self.wfile.write(text.encode() + b"\r\n")


class Stores:
    """PostgreSQL and Valkey of these tests alone. Valkey writes its file, so that a kill -9 loses nothing."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sockets = ours(sockets_of(home))
        self.postgres: Child = postgres.start(home, self.sockets, durable=False)
        self.valkey: Child = valkey.start(home, self.sockets, durable=True)

    @property
    def redis_url(self) -> str:
        return valkey.url(self.sockets)

    def database_url(self, user: str = "vestibule", database: str = "vestibule") -> str:
        return f"postgresql+asyncpg://{user}@/{database}?host={self.sockets / 'pg'}&port=5432"

    async def sql(self, statement: str, *values: object, database: str = "vestibule") -> Any:
        """One statement of the superuser; its first value."""
        line = await self.connection(database)
        try:
            return await line.fetchval(statement, *values)
        finally:
            await line.close()

    async def connection(self, database: str = "vestibule") -> Any:
        return await asyncpg.connect(self.database_url("postgres", database).replace("+asyncpg", ""), timeout=10)

    def start_postgres(self) -> None:
        self.postgres = postgres.start(self.home, self.sockets, durable=False)

    def start_valkey(self) -> None:
        self.valkey = valkey.start(self.home, self.sockets, durable=True)

    def stop(self) -> None:
        self.valkey.stop()
        self.postgres.stop()
        shutil.rmtree(self.sockets, ignore_errors=True)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    made = Stores(tmp_path_factory.mktemp("stores").resolve())
    yield made
    made.stop()


@pytest.fixture(scope="module")
def mail_server() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.leave()


@pytest.fixture(scope="module")
def environ(stores: Stores, mail_server: MailServer) -> dict[str, str]:
    """Quick hashes, small pools, and limits that nobody meets here."""
    limits = ("GUESS_NETWORK", "GUESS_ACCOUNT", "GUESS_ACCOUNT_NETWORK", "REGISTER_NETWORK", "MAIL_NETWORK")
    return {
        "PATH": os.defpath,
        "DATABASE_URL": stores.database_url(),
        "REDIS_URL": stores.redis_url,
        "VESTIBULE_KEYS": root_key(),
        "VESTIBULE_ISSUER": "https://auth.test",
        "VESTIBULE_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
        "VESTIBULE_MAIL_FROM": "vestibule@example.com",
        "VESTIBULE_ARGON2_TIME_COST": "2",
        "VESTIBULE_ARGON2_MEMORY_KIB": "19456",
        "VESTIBULE_DATABASE_POOL": str(DATABASE_POOL),
        "VESTIBULE_KEY_REFRESH": "1",
        "VESTIBULE_REDIS_TIMEOUT": "0.75",
        "VESTIBULE_DATABASE_POOL_WAIT": "0.9",
        "VESTIBULE_DRAIN": "0",
        "VESTIBULE_METRICS_PORT": "0",
        **{f"VESTIBULE_LIMIT_{name}": "100000/m" for name in limits},
    }


@dataclass(frozen=True)
class Introspecting:
    client_id: str
    secret: str

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.client_id}:{self.secret}".encode()).decode()


@pytest.fixture(scope="module")
def client(stores: Stores, environ: dict[str, str]) -> Introspecting:
    """A migrated database of an ordinary role, signing keys, and a client that may introspect."""

    async def install() -> Introspecting:
        services = build(load(environ), mail=lambda _: NoTransport())
        await prepare(services)
        secret = await registered(services, "orders")
        await services.close()
        return Introspecting("orders", secret)

    asyncio.run(stores.sql("CREATE ROLE vestibule LOGIN", database="postgres"))
    # The hurried servers of tests acknowledge too early: a kill -9 would lose what was committed.
    asyncio.run(stores.sql("ALTER ROLE vestibule SET synchronous_commit = on", database="postgres"))
    asyncio.run(stores.sql("CREATE DATABASE vestibule OWNER vestibule", database="postgres"))
    migrate(environ["DATABASE_URL"])
    return asyncio.run(install())


@dataclass(frozen=True)
class Worker:
    """One process of `vestibule serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self, since: int = 0) -> list[str]:
        return self.log.read_text().splitlines()[since:]


@contextmanager
def serving(environ: dict[str, str], log: Path) -> Iterator[Worker]:
    """Starts one; whatever happens, it ends with the block."""
    port = free_port()
    command = [sys.executable, "-c", IMPATIENT, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env=environ, stdout=output, stderr=output)
    try:
        yield Worker(process, port, log)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture(scope="module")
def worker(
    environ: dict[str, str], client: Introspecting, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    with serving(environ, tmp_path_factory.mktemp("worker") / "serve.log") as one:
        yield one


@pytest.fixture(scope="module")
async def http(anyio_backend: str, worker: Worker) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the ready worker."""
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=400)
    async with httpx.AsyncClient(base_url=worker.url, timeout=30, limits=limits) as made:
        await comes_true(lambda: _is(made, "/readyz", 200), 60)
        yield made


async def comes_true(condition: Callable[[], Awaitable[bool]], seconds: float) -> float:
    """How long it took, infinity when it took longer than that."""
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        if await condition():
            return time.monotonic() - started
        await asyncio.sleep(0.02)
    return math.inf


async def _is(http: httpx.AsyncClient, path: str, status: int) -> bool:
    try:
        return (await http.get(path)).status_code == status
    except httpx.TransportError:
        return False


# What people and services ask for


@dataclass(frozen=True)
class Answer:
    status: int
    seconds: float
    retry_after: str | None
    body: dict[str, Any]


@dataclass(frozen=True)
class Tokens:
    access: str
    refresh: str

    @property
    def claims(self) -> dict[str, Any]:
        payload = self.access.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims

    @property
    def session(self) -> UUID:
        sid = str(self.claims["sid"])
        return UUID(bytes=base64.urlsafe_b64decode(sid + "=" * (-len(sid) % 4)))


@dataclass(frozen=True)
class SignUp:
    email: str
    registration: str
    code: str


def new_email() -> str:
    return f"p{secrets.token_hex(6)}@example.com"


@dataclass
class People:
    """An account with three sessions, and two people in the middle of their sign-up."""

    http: httpx.AsyncClient
    client: Introspecting
    mail_server: MailServer
    email: str = ""
    stays: Tokens = Tokens("", "")
    renews: Tokens = Tokens("", "")
    leaves: Tokens = Tokens("", "")
    newcomer: SignUp = SignUp("", "", "")
    waiting: SignUp = SignUp("", "", "")
    stranger: str = field(default_factory=new_email)

    async def gather(self) -> "People":
        member, self.newcomer, self.waiting = await asyncio.gather(*(self._sign_up() for _ in range(3)))
        self.email = member.email
        self.stays = self._tokens(await self._verify(member))
        self.renews, self.leaves = [self._tokens(await self.ask("login")) for _ in range(2)]
        return self

    async def ask(self, name: str) -> Answer:
        """One request of the house, by name."""
        return await self._timed(getattr(self, f"_{name}")())

    async def introspect(self, token: str) -> Answer:
        form, headers = {"token": token}, {"Authorization": self.client.basic}
        return await self._timed(self.http.post("/introspect", data=form, headers=headers))

    async def refresh(self, token: str) -> Answer:
        return await self._timed(self.http.post("/auth/refresh", json={"refresh_token": token}))

    async def meet(self) -> dict[str, Answer]:
        """Everything once, all at the same time; and then whether the one who left is still in."""
        names = ["register", "resend", "verify", "login", "refresh", "introspect", "me", "logout", *FROM_MEMORY]
        answers = await asyncio.gather(*map(self.ask, names))
        gone = await self.introspect(self.leaves.access)
        return {**dict(zip(names, answers, strict=True)), "introspect what left": gone}

    async def crowd(self) -> list[tuple[str, Answer]]:
        return list(zip(CROWD, await asyncio.gather(*map(self.ask, CROWD)), strict=True))

    async def are_served(self) -> bool:
        """Whether everything works again."""
        asked = {"login": 200, "introspect": 200, "me": 200, "refresh": 200, "register": 202}
        answers = await asyncio.gather(*map(self.ask, asked))
        return [one.status for one in answers] == list(asked.values())

    async def _timed(self, request: Coroutine[Any, Any, httpx.Response]) -> Answer:
        started = time.monotonic()
        response = await request
        seconds = time.monotonic() - started
        body = response.json() if response.content else None
        return Answer(
            response.status_code, seconds, response.headers.get("retry-after"), body if isinstance(body, dict) else {}
        )

    async def _sign_up(self) -> SignUp:
        email = new_email()
        response = await self._register(email)
        assert response.status_code == 202, response.text
        await comes_true(lambda: _true(self.mailed(email)), 60)
        found = re.search(r"your code is (\d{6})", self.mailed(email)[-1])
        assert found is not None
        return SignUp(email, response.json()["registration"], found[1])

    def mailed(self, email: str) -> list[str]:
        return [mail for mail in self.mail_server.mails if f"To: {email}" in mail]

    async def _register(self, email: str = "") -> httpx.Response:
        email = email or self.stranger
        body = {"email": email, "password": PASSWORD, "nickname": email.partition("@")[0]}
        return await self.http.post("/auth/register", json=body)

    async def _resend(self) -> httpx.Response:
        return await self.http.post("/auth/verify/resend", json={"registration": self.waiting.registration})

    async def _verify(self, who: SignUp | None = None) -> httpx.Response:
        who = who or self.newcomer
        return await self.http.post("/auth/verify", json={"registration": who.registration, "code": who.code})

    async def _login(self) -> httpx.Response:
        return await self.http.post("/auth/login", json={"email": self.email, "password": PASSWORD})

    async def _refresh(self) -> httpx.Response:
        return await self.http.post("/auth/refresh", json={"refresh_token": self.renews.refresh})

    async def _introspect(self) -> httpx.Response:
        headers = {"Authorization": self.client.basic}
        return await self.http.post("/introspect", data={"token": self.stays.access}, headers=headers)

    async def _me(self) -> httpx.Response:
        return await self.http.get("/me", headers={"Authorization": f"Bearer {self.stays.access}"})

    async def _logout(self) -> httpx.Response:
        return await self.http.post("/auth/logout", json={"refresh_token": self.leaves.refresh})

    async def _jwks(self) -> httpx.Response:
        return await self.http.get("/.well-known/jwks.json")

    async def _livez(self) -> httpx.Response:
        return await self.http.get("/livez")

    async def _readyz(self) -> httpx.Response:
        return await self.http.get("/readyz")

    async def _startupz(self) -> httpx.Response:
        return await self.http.get("/startupz")

    def _tokens(self, answer: Answer | httpx.Response) -> Tokens:
        body = answer.body if isinstance(answer, Answer) else answer.json()
        return Tokens(body["access_token"], body["refresh_token"])


async def _true(value: object) -> bool:
    return bool(value)


# Outages


def family(process: Child) -> list[psutil.Process]:
    """A server and its workers, the parent first, so that it makes no more while they are stopped."""
    parent = psutil.Process(process.process.pid)
    return [parent, *parent.children(recursive=True)]


@contextmanager
def stopped(server: Child) -> Iterator[None]:
    """SIGSTOP: connections stay open, connecting works, nothing is answered."""
    processes = family(server)
    send(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        send(processes, signal.SIGCONT)


def send(processes: Iterable[psutil.Process], sent: signal.Signals) -> None:
    for one in processes:
        with suppress(psutil.NoSuchProcess):  # workers of PostgreSQL come and go
            one.send_signal(sent)


def kill(server: Child) -> None:
    """kill -9, and everything below it is gone."""
    processes = family(server)
    server.process.kill()
    server.process.wait()
    psutil.wait_procs(processes, timeout=10)


@asynccontextmanager
async def redis_hung(stores: Stores, _: MailServer) -> AsyncIterator[None]:
    with stopped(stores.valkey):
        yield


@asynccontextmanager
async def redis_gone(stores: Stores, _: MailServer) -> AsyncIterator[None]:
    kill(stores.valkey)
    try:
        yield
    finally:
        stores.start_valkey()


@asynccontextmanager
async def redis_full(stores: Stores, _: MailServer) -> AsyncIterator[None]:
    async with Redis.from_url(stores.redis_url) as line:
        await line.config_set("maxmemory", 1)
        try:
            yield
        finally:
            await line.config_set("maxmemory", 0)


@asynccontextmanager
async def redis_read_only(stores: Stores, _: MailServer) -> AsyncIterator[None]:
    """As after a failover, on the way to the old primary: READONLY."""
    async with Redis.from_url(stores.redis_url) as line:
        await line.replicaof("127.0.0.1", 1)
        try:
            yield
        finally:
            await line.replicaof("NO", "ONE")


@asynccontextmanager
async def redis_not_yet_loaded(stores: Stores, mail_server: MailServer) -> AsyncIterator[None]:
    """A replica that waits for its data refuses everything (MASTERDOWN), as one that reads its file does (LOADING)."""
    async with Redis.from_url(stores.redis_url) as line:
        await line.config_set("replica-serve-stale-data", "no")
        try:
            async with redis_read_only(stores, mail_server):
                yield
        finally:
            await line.config_set("replica-serve-stale-data", "yes")


@asynccontextmanager
async def postgres_hung(stores: Stores, _: MailServer) -> AsyncIterator[None]:
    with stopped(stores.postgres):
        yield


@asynccontextmanager
async def postgres_gone(stores: Stores, _: MailServer) -> AsyncIterator[None]:
    kill(stores.postgres)
    try:
        yield
    finally:
        stores.start_postgres()


@asynccontextmanager
async def postgres_without_connections(stores: Stores, _: MailServer) -> AsyncIterator[None]:
    """The role's connections are used up: those of the pool are ended, and no new one is given."""
    line = await stores.connection()
    await line.execute("ALTER ROLE vestibule CONNECTION LIMIT 0")
    await line.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'vestibule'")
    try:
        yield
    finally:
        await line.execute("ALTER ROLE vestibule CONNECTION LIMIT -1")
        await line.close()


@asynccontextmanager
async def sessions_locked(stores: Stores, _: MailServer) -> AsyncIterator[None]:
    """Somebody's forgotten transaction."""
    line = await stores.connection()
    try:
        async with line.transaction():
            await line.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await line.close()


@asynccontextmanager
async def both_hung(stores: Stores, _: MailServer) -> AsyncIterator[None]:
    with stopped(stores.valkey), stopped(stores.postgres):
        yield


@asynccontextmanager
async def mail_gone(_: Stores, mail_server: MailServer) -> AsyncIterator[None]:
    port = mail_server.port
    mail_server.leave()
    try:
        yield
    finally:
        successor = MailServer(port, mail_server.mails)
        mail_server.socket = successor.socket  # the fixture ends the one that listens
        mail_server.leave = successor.leave  # type: ignore[method-assign]


ALL_WELL = {
    "register": 202,
    "resend": 202,
    "verify": 200,
    "login": 200,
    "refresh": 200,
    "introspect": 200,
    "me": 200,
    "logout": 204,
}
NOTHING = dict.fromkeys(ALL_WELL, 503)
NO_REDIS = {**NOTHING, "introspect": 200, "me": 200}
NO_MEMORY = {**ALL_WELL, "register": 503, "resend": 503, "verify": 503, "login": 503}
NO_POSTGRES = {**ALL_WELL, "register": 503, "resend": 503, "verify": 503, "login": 503, "me": 503, "logout": 503}
NO_JOURNAL = {**ALL_WELL, "verify": 503, "login": 503, "logout": 503}


@dataclass(frozen=True)
class Outage:
    name: str
    inflict: Callable[[Stores, MailServer], AbstractAsyncContextManager[None]]
    answers: dict[str, int]
    shows: frozenset[str] = frozenset()

    @property
    def of_redis(self) -> bool:
        return self.answers in (NOTHING, NO_REDIS, NO_MEMORY)


REDIS_FAILS = frozenset({"redis", "clock_skew"})
POSTGRES_FAILS = frozenset({"postgres", "migrations"})
OUTAGES = [
    Outage("redis hung", redis_hung, NO_REDIS, REDIS_FAILS),
    Outage("redis gone", redis_gone, NO_REDIS, REDIS_FAILS),
    Outage("redis full", redis_full, NO_MEMORY, frozenset({"redis"})),
    Outage("redis read-only", redis_read_only, NO_REDIS, frozenset({"redis"})),
    Outage("redis not yet loaded", redis_not_yet_loaded, NO_REDIS, frozenset({"redis"})),
    Outage("postgres hung", postgres_hung, NO_POSTGRES, POSTGRES_FAILS),
    Outage("postgres gone", postgres_gone, NO_POSTGRES, POSTGRES_FAILS),
    Outage("postgres without connections", postgres_without_connections, NO_POSTGRES, POSTGRES_FAILS),
    Outage("sessions locked", sessions_locked, NO_JOURNAL),
    Outage("both hung", both_hung, NOTHING, REDIS_FAILS | POSTGRES_FAILS),
    Outage("mail gone", mail_gone, ALL_WELL, frozenset({"mail"})),
]


class Probing:
    """Asks the probes one after the other, from outside of our event loop, for the length of a `with` block."""

    def __init__(self, port: int) -> None:
        self.answers: list[tuple[str, int, float]] = []
        self._port = port
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)

    def __enter__(self) -> "Probing":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def seconds(self) -> list[float]:
        return sorted(seconds for _, _, seconds in self.answers)

    def statuses(self, path: str) -> set[int]:
        return {status for asked, status, _ in self.answers if asked == path}

    def _ask_on(self) -> None:
        line = HTTPConnection("127.0.0.1", self._port, timeout=10)
        while True:
            for path in ("/livez", "/readyz", "/startupz", "/healthz"):
                started = time.monotonic()
                line.request("GET", path)
                response = line.getresponse()
                response.read()
                self.answers.append((path, response.status, time.monotonic() - started))
            if self._end.wait(0.01):
                line.close()
                return


@dataclass(frozen=True)
class Story:
    """What happened in one outage and after it."""

    outage: Outage
    people: People
    alone: dict[str, Answer]
    crowd: list[tuple[str, Answer]]
    probing: Probing
    shown: set[str]
    served_again: float
    well_again: float
    log: list[str]

    def answers(self, *names: str) -> list[Answer]:
        """Those of the crowd and of the one who came alone."""
        return [self.alone[name] for name in names] + [answer for name, answer in self.crowd if name in names]


@dataclass(frozen=True)
class House:
    """The worker and what it needs."""

    stores: Stores
    mail_server: MailServer
    worker: Worker
    http: httpx.AsyncClient
    client: Introspecting

    async def people(self) -> People:
        return await People(self.http, self.client, self.mail_server).gather()


@pytest.fixture(scope="module")
def house(
    stores: Stores, mail_server: MailServer, worker: Worker, http: httpx.AsyncClient, client: Introspecting
) -> House:
    return House(stores, mail_server, worker, http, client)


@pytest.fixture(scope="module", params=OUTAGES, ids=lambda outage: outage.name)
async def story(anyio_backend: str, request: pytest.FixtureRequest, house: House) -> Story:
    outage: Outage = request.param
    people = await house.people()
    logged = len(house.worker.lines())
    with Probing(house.worker.port) as probing:
        async with outage.inflict(house.stores, house.mail_server):
            alone = await people.meet()
            crowd = await people.crowd()
            shown = await shown_failing(house.http, outage.shows)
    served_again = await comes_true(people.are_served, 3 * AGAIN)
    well_again = served_again + await comes_true(lambda: _is(house.http, "/healthz", 200), 3 * AGAIN)
    return Story(outage, people, alone, crowd, probing, shown, served_again, well_again, house.worker.lines(logged))


async def shown_failing(http: httpx.AsyncClient, expected: frozenset[str]) -> set[str]:
    """What the health page says fails: as soon as it is what we expect, else after some looks."""
    seen: set[str] = set()

    async def is_as_expected() -> bool:
        nonlocal seen
        seen = {name for name, state in (await http.get("/healthz")).json()["checks"].items() if state != "ok"}
        return seen == expected

    await comes_true(is_as_expected, AGAIN)
    return seen


@pytest.mark.standard("PF-39", "PF-40")
def test_each_endpoint_answers_what_can_be_known(story: Story) -> None:
    assert {name: story.alone[name].status for name in story.outage.answers} == story.outage.answers
    assert {story.alone[name].status for name in FROM_MEMORY} == {200}


@pytest.mark.standard("PF-39", "PF-40")
def test_an_outage_is_never_a_refusal(story: Story) -> None:
    everything = [*story.alone.items(), *story.crowd]
    assert {answer.status for _, answer in everything} <= {200, 202, 204, 503}
    assert {answer.retry_after for _, answer in everything if answer.status == 503} <= {"1", "2", "3"}
    assert [
        answer.body for answer in story.answers("introspect") if answer.status == 200 and not answer.body["active"]
    ] == []
    told = {answer.body.get("code", answer.body.get("error")) for _, answer in everything if answer.status == 503}
    assert told <= {"temporarily_unavailable"}


def test_introspection_and_refresh_do_not_need_postgres(story: Story) -> None:
    if story.outage.answers in (NO_POSTGRES, NO_JOURNAL):
        assert {answer.status for answer in story.answers("introspect", "refresh")} == {200}


@pytest.mark.standard("PF-39")
def test_introspection_does_not_need_redis(story: Story) -> None:
    if story.outage.answers is NO_REDIS:
        assert {answer.status for answer in story.answers("introspect")} == {200}


@pytest.mark.standard("PF-28")
def test_nobody_waits_long(story: Story) -> None:
    assert max(answer.seconds for answer in story.alone.values()) < ALONE
    assert max(answer.seconds for _, answer in story.crowd) < IN_A_CROWD


def test_probes_are_answered_from_memory(story: Story) -> None:
    assert {path: story.probing.statuses(path) for path in ("/livez", "/readyz", "/startupz")} == {
        "/livez": {200},
        "/readyz": {200},
        "/startupz": {200},
    }
    seconds = story.probing.seconds()
    assert seconds[int(len(seconds) * 0.95)] < PROBE
    assert seconds[-1] < 10 * PROBE  # the worst one met a crowd of fifty on two busy cores


def test_the_health_page_names_what_fails_and_gets_well(story: Story) -> None:
    assert story.shown == story.outage.shows
    assert story.well_again < 2 * AGAIN


def test_everything_works_again_without_a_restart(story: Story, worker: Worker) -> None:
    assert story.served_again < AGAIN
    assert worker.process.poll() is None
    assert [line for line in story.log if '"level": "error"' in line or not line.startswith("{")] == []


async def test_tokens_from_before_are_still_good(story: Story) -> None:
    assert (await story.people.introspect(story.people.stays.access)).body["active"] is True
    again = await story.people.refresh(story.people.stays.refresh)
    assert again.status == 200
    assert (await story.people.introspect(again.body["access_token"])).body["active"] is True


async def test_a_refresh_that_met_the_outage_has_one_successor(story: Story) -> None:
    answers = [await story.people.refresh(story.people.renews.refresh) for _ in range(2)]
    given = [one.body["refresh_token"] for one in (*story.answers("refresh"), *answers) if one.status == 200]
    assert len(set(given)) == 1
    assert (await story.people.refresh(given[0])).status == 200


async def test_who_left_in_the_outage_is_out_at_once(story: Story, stores: Stores) -> None:
    if story.outage.answers["introspect"] == 200:
        assert story.alone["introspect what left"].body == {"active": False}
    assert (await story.people.ask("logout")).status == 204
    assert (await story.people.introspect(story.people.leaves.access)).body == {"active": False}
    ended = "SELECT ended_reason FROM sessions WHERE id = $1"
    assert await stores.sql(ended, story.people.leaves.session) == "logout"


async def test_a_sign_up_that_met_the_outage_can_be_finished(story: Story) -> None:
    if story.outage.answers["verify"] == 503:
        verified = await story.people.ask("verify")
        assert (verified.status, verified.body.get("code")) == (200, None)


async def test_a_mail_that_met_the_outage_arrives(story: Story) -> None:
    if story.outage.answers["register"] == 202:
        assert await comes_true(lambda: _true(story.people.mailed(story.people.stranger)), 30) < math.inf


@pytest.mark.standard("PF-28")
async def test_the_pools_are_whole(story: Story, stores: Stores) -> None:
    asked = ["me"] * DATABASE_POOL * 3 + ["introspect"] * DATABASE_POOL * 6
    answers = await asyncio.gather(*map(story.people.ask, asked))
    assert [answer.status for answer in answers] == [200] * len(asked)
    held = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'vestibule'"
    assert await stores.sql(held) <= DATABASE_POOL + 1  # and the one of the journal's look-ups


@pytest.mark.standard("SE-30")
async def test_no_session_lives_without_its_row(story: Story, stores: Stores) -> None:
    """What a half-finished sign-in left in one store is dead in it."""
    account = story.people.stays.claims["sub"]
    async with Redis.from_url(stores.redis_url) as line:
        records = await line.hgetall(f"vestibule:sessions:{{{account}}}")
    live = {sid for sid, record in records.items() if len(sid) == 16 and record[ENDED] == 0}
    rows = await stores.sql("SELECT array_agg(id) FROM sessions WHERE account_id = $1", account)
    assert live <= {row.bytes for row in rows}


@pytest.mark.standard("RL-15")
def test_without_the_limiter_nobody_gets_to_try(story: Story) -> None:
    if story.outage.of_redis:
        assert [answer.status for answer in story.answers("login")] == [503] * 11
        assert story.alone["verify"].status == 503


# Outages with a moment of their own


@pytest.fixture
async def people(house: House) -> People:
    return await house.people()


async def test_scripts_that_the_server_forgot_are_sent_again(people: People, stores: Stores) -> None:
    """As after every failover: NOSCRIPT."""
    async with Redis.from_url(stores.redis_url) as line:
        for _ in range(5):
            await line.script_flush()
            answers = await asyncio.gather(*map(people.ask, ["introspect", "refresh", "login", "me", "resend"] * 3))
            assert {answer.status for answer in answers} == {200, 202}
            assert [answer.body["active"] for answer in answers if "active" in answer.body] == [True] * 3


@pytest.mark.standard("PF-28")
async def test_a_query_under_way_when_postgres_hangs_holds_nobody(
    people: People, stores: Stores, mail_server: MailServer
) -> None:
    """asyncpg asks for a cancellation on a connection of its own, without a time limit (MagicStack/asyncpg 1326)."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'vestibule' AND wait_event_type = 'Lock'"

    async def all_wait() -> bool:
        return bool(await stores.sql(waiting) == DATABASE_POOL)

    async with sessions_locked(stores, mail_server):
        asked = [asyncio.create_task(people.ask("logout")) for _ in range(DATABASE_POOL)]
        await comes_true(all_wait, 0.8)
        with stopped(stores.postgres):
            answers = await asyncio.gather(*asked, *(people.ask("logout") for _ in range(DATABASE_POOL)))
            assert {answer.status for answer in answers} == {503}
            assert max(answer.seconds for answer in answers) < ALONE
            assert (await people.ask("introspect")).body["active"] is True
    assert await comes_true(people.are_served, AGAIN) < math.inf
    assert await stores.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'vestibule'") <= DATABASE_POOL + 1


async def test_a_worker_that_starts_in_an_outage_waits_for_its_stores(
    stores: Stores, mail_server: MailServer, environ: dict[str, str], people: People, tmp_path: Path
) -> None:
    with ExitStack() as after:
        async with postgres_hung(stores, mail_server), redis_gone(stores, mail_server):
            late = after.enter_context(serving(environ, tmp_path / "serve.log"))
            async with httpx.AsyncClient(base_url=late.url, timeout=30) as http:
                visitor = replace(people, http=http)
                assert await comes_true(lambda: _is(http, "/livez", 200), 60) < math.inf
                told = {path: (await http.get(path)).status_code for path in ("/readyz", "/startupz", "/healthz")}
                assert set(told.values()) == {503}
                answers = await visitor.meet()
                assert {answers[name].status for name in NOTHING} == {503}
        async with httpx.AsyncClient(base_url=late.url, timeout=30) as http:
            for path in ("/readyz", "/startupz", "/healthz"):
                assert await comes_true(lambda path=path: _is(http, path, 200), 30) < math.inf  # type: ignore[misc]
            visitor = replace(people, http=http)
            assert await comes_true(visitor.are_served, AGAIN) < math.inf


async def test_three_hundred_probes_at_once_hold_no_probe(http: httpx.AsyncClient, worker: Worker) -> None:
    assert await comes_true(lambda: _is(http, "/healthz", 200), 30) < math.inf
    lines = [await asyncio.open_connection("127.0.0.1", worker.port) for _ in range(STORM)]

    async def probe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> tuple[bytes, float]:
        started = time.monotonic()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: auth.test\r\n\r\n".encode())
        status = await reader.readline()
        return status, time.monotonic() - started

    paths = ("/livez", "/readyz", "/healthz")
    with Probing(worker.port) as probing:
        answers = await asyncio.gather(*(probe(*line, paths[i % 3]) for i, line in enumerate(lines)))
    for _, writer in lines:
        writer.close()
    assert {status for status, _ in answers} == {b"HTTP/1.1 200 OK\r\n"}
    seconds = sorted(seconds for _, seconds in answers)
    assert seconds[STORM // 2] < 3 * PROBE  # each costs a worker a third of a millisecond
    assert max(seconds[-1], probing.seconds()[-1]) < 10 * PROBE


class Wire:
    """Stands between a worker and Valkey. While it is `deaf`, scripts are run and their answers get lost."""

    def __init__(self, server: Path) -> None:
        self.deaf = False
        self._server = server
        self._connections: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator["Wire"]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._connections.append(asyncio.create_task(self._connect(reader, writer)))

        async with await asyncio.start_unix_server(accept, path):
            yield self
            await asyncio.gather(*self._connections)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_unix_connection(self._server)
        lost = asyncio.Event()

        async def answer() -> None:
            while data := await answers.read(65536):
                if not lost.is_set():
                    writer.write(data)
            writer.close()

        answering = asyncio.create_task(answer())
        while data := await reader.read(65536):
            if self.deaf and b"EVALSHA" in data:
                lost.set()
            requests.write(data)
        requests.close()
        await answering


async def test_a_rotation_whose_answer_is_lost_is_answered_again(
    people: People, stores: Stores, environ: dict[str, str], tmp_path: Path
) -> None:
    """Lost between Valkey and the worker: the store has rotated, and the person holds the old token."""
    async with Wire(stores.sockets / "valkey").listening(tmp_path / "wire") as wire:
        services = build(load({**environ, "REDIS_URL": f"unix://{tmp_path / 'wire'}"}), mail=lambda _: NoTransport())
        await services.signing_keys.reload()
        await services.clients.reload()
        async with browser(create_app(services)) as http:
            visitor = replace(people, http=http)
            first = (await visitor.refresh(people.renews.refresh)).body["refresh_token"]
            wire.deaf = True
            lost = [await visitor.refresh(first), await visitor.ask("introspect"), await visitor.ask("logout")]
            wire.deaf = False
            assert [answer.status for answer in lost] == [503, 200, 503]
            assert lost[1].body["active"] is True
            assert max(answer.seconds for answer in lost) < ALONE

            async def is_back() -> bool:
                return (await visitor.refresh(first)).status == 200

            assert await comes_true(is_back, AGAIN) < math.inf
            second = [(await one.refresh(first)).body["refresh_token"] for one in (people, visitor)]
            assert len(set(second)) == 1
            assert (await people.refresh(second[0])).status == 200
            assert (await visitor.ask("logout")).status == 204
            assert (await people.introspect(people.leaves.access)).body == {"active": False}
        await services.audit.flush()
        await services.close()
    outcomes = "SELECT array_agg(outcome ORDER BY at) FROM audit_events WHERE event = $1 AND session_id = $2"
    session = str(people.renews.session)

    async def shows_a_repetition() -> bool:
        told = await stores.sql(outcomes, "session.refresh", session)
        return bool(told == ["repeated", "repeated", "repeated"])

    assert await comes_true(shows_a_repetition, 30) < math.inf

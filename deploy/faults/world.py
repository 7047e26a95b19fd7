"""PostgreSQL for the whole run, and a house for each fault: a store, a copy of the database, a running service."""

import asyncio
import base64
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from deploy.faults.servers import Valkey
from deploy.faults.vestibule import Instance, instance
from service.cli.running import prepare
from service.embedded import postgres
from service.embedded.folders import ours, sockets_of
from service.embedded.processes import Child
from service.mail.message import NoTransport
from service.settings import load
from service.store.schema import migrate
from service.tokens.client_administration import ClientChanges
from service.wiring import build

EMAIL, VISITOR = "ann@example.com", "bob@example.com"
"""Whose sessions are watched, and who comes all the time: an account has fifty sessions at most."""
GUESTS = tuple(f"guest{number}@example.com" for number in range(8))
"""Who comes in a flood: an account lets strangers in no more after a hundred attempts without a success."""
PASSWORD = "rain over the quiet harbour"
CLIENT = "orders"
PRISTINE = "pristine"
LIMITS = ("GUESS_NETWORK", "GUESS_ACCOUNT", "GUESS_ACCOUNT_NETWORK", "REGISTER_NETWORK", "MAIL_NETWORK")

QUICK_HASHES = {"VESTIBULE_ARGON2_TIME_COST": "2", "VESTIBULE_ARGON2_MEMORY_KIB": "19456"}
STRONG_HASHES = {"argon2_time_cost": "1", "argon2_memory_kib": "47104"}
"""Production's, for the fault where the cost of a hash matters."""


@dataclass(frozen=True, slots=True)
class House:
    """What one fault happens to."""

    world: "World"
    database: str
    store: Valkey
    environ: dict[str, str]
    service: Instance
    folder: Path

    @property
    def basic(self) -> str:
        """The credentials of the client that may introspect."""
        return self.world.basic

    def http(self) -> httpx.Client:
        """Somebody's HTTP client."""
        return httpx.Client(base_url=self.service.url, timeout=30)

    def sql(self, statement: str, *values: object) -> Any:
        """One statement of the superuser in the database of this house; its first value."""
        return self.world.sql(statement, *values, database=self.database)


class World:
    """PostgreSQL with a database that is ready to be copied: migrated, with keys, a client and an account."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.sockets = ours(sockets_of(self.home))
        self.postgres: Child
        self.secret = ""
        self.keys = f"1:{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}"
        self._houses = 0

    def __enter__(self) -> "World":
        self.start_postgres()
        self.sql("CREATE ROLE vestibule LOGIN", database="postgres")
        self.sql(f"CREATE DATABASE {PRISTINE} OWNER vestibule", database="postgres")
        migrate(self.database_url(PRISTINE))
        asyncio.run(self._furnish())
        return self

    def __exit__(self, *_: object) -> None:
        self.postgres.stop()
        shutil.rmtree(self.sockets, ignore_errors=True)

    @property
    def basic(self) -> str:
        """The credentials of the client that may introspect."""
        return "Basic " + base64.b64encode(f"{CLIENT}:{self.secret}".encode()).decode()

    def start_postgres(self) -> None:
        """On the data that are there; what it has acknowledged is on the disk."""
        self.postgres = postgres.start(self.home, self.sockets, durable=True)

    def database_url(self, database: str, user: str = "vestibule") -> str:
        """What the service connects to."""
        return f"postgresql+asyncpg://{user}@/{database}?host={self.sockets / 'pg'}&port=5432"

    def sql(self, statement: str, *values: object, database: str) -> Any:
        """One statement of the superuser; its first value."""

        async def ask() -> Any:
            line = await self.connection(database)
            try:
                return await line.fetchval(statement, *values)
            finally:
                await line.close()

        return asyncio.run(ask())

    async def connection(self, database: str) -> Any:
        """A connection of the superuser; close it."""
        return await asyncpg.connect(self.database_url(database, "postgres").replace("+asyncpg", ""), timeout=10)

    def new_database(self, template: str = PRISTINE) -> str:
        """A copy of the pristine database, or an empty one."""
        self._houses += 1
        name = f"house_{self._houses}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template} OWNER vestibule", database="postgres")
        return name

    def environ(self, database: str, redis_url: str, **settings: str) -> dict[str, str]:
        """Production's defaults, but quick hashes and limits that nobody meets. The mail server is away: no harm."""
        return {
            "PATH": os.defpath,
            "DATABASE_URL": self.database_url(database),
            "REDIS_URL": redis_url,
            "VESTIBULE_KEYS": self.keys,
            "VESTIBULE_ISSUER": "https://auth.test",
            "VESTIBULE_SMTP_URL": "smtp://127.0.0.1:9",
            "VESTIBULE_MAIL_FROM": "vestibule@example.com",
            "VESTIBULE_DRAIN": "0",
            "VESTIBULE_METRICS_PORT": "0",
            **QUICK_HASHES,
            **{f"VESTIBULE_LIMIT_{name}": "100000/m" for name in LIMITS},
            **{f"VESTIBULE_{name.upper()}": value for name, value in settings.items()},
        }

    @contextmanager
    def house(
        self,
        store: Valkey | None = None,
        redis_url: str = "",
        settings: Mapping[str, str] | None = None,
        **process: Any,
    ) -> Iterator[House]:
        """A house with a store of its own, unless one (started already) or a URL of several is given.

        `process` goes to `vestibule.instance`. Raises `vestibule.DidNotStart`.
        """
        database = self.new_database()
        folder = ours(self.home / database)
        with ExitStack() as undo:
            if store is None:
                store = Valkey(folder / "valkey").start()
                undo.callback(store.stop)
            environ = self.environ(database, redis_url or store.url, **(settings or {}))
            service = undo.enter_context(instance(environ, folder / "service.log", **process))
            yield House(self, database, store, environ, service, folder)

    async def _furnish(self) -> None:
        services = build(load(self.environ(PRISTINE, "redis://127.0.0.1:9/0")), mail=lambda _: NoTransport())
        try:
            await prepare(services)
            changes = ClientChanges(name="Orders", may_introspect=True)
            _, made = await services.client_administration.register(CLIENT, changes, confidential=True)
            self.secret = made.secret if made else ""
            for address in (EMAIL, VISITOR, *GUESTS):
                await services.administration.create(address, address.partition("@")[0], PASSWORD, ())
        finally:
            await services.close()

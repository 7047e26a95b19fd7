"""The commands of production, as the processes that operators start: what they say, how they end, how they serve."""

import asyncio
import base64
import json
import os
import secrets
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
import redis
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

import service.wiring  # noqa: F401  every table
from service.store.postgres import Table
from tests.conftest import PASSWORD, Servers, _own_database, root_key
from tests.deploy.proxies import free_port

PROJECT = Path(__file__).parents[2]
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
DRAIN = 4.0

# Starts commands as processes of their own without the two seconds that importing the service takes each time.
COMMANDER = """
import gc, json, os, sys
import asyncpg, sqlalchemy.dialects.postgresql.asyncpg
from service.cli.main import main
gc.freeze()
for line in sys.stdin:
    orders, children = json.loads(line), []
    for order in orders:
        child = os.fork()
        if child == 0:
            os.environ.clear()
            os.environ.update(order["environ"])
            for number, (path, flags) in enumerate(zip(order["files"], (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
                os.dup2(os.open(path, flags), number)
            sys.stdin = open(0, closefd=False)
            sys.argv[1:] = order["arguments"]
            main(prog_name="vestibule")
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Commander:
    """Runs `vestibule …`."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self._folder = folder

    def run(self, environ: dict[str, str], *arguments: str, typed: str = "") -> Result:
        return self.run_at_once([(environ, arguments)], typed)[0]

    def run_at_once(self, commands: Sequence[tuple[dict[str, str], tuple[str, ...]]], typed: str = "") -> list[Result]:
        orders, files = [], []
        for number, (environ, arguments) in enumerate(commands):
            paths = [self._folder / f"{name}-{number}" for name in ("in", "out", "err")]
            for path in paths:
                path.write_text(typed if path is paths[0] else "")
            files.append(paths)
            orders.append({"environ": environ, "arguments": arguments, "files": [str(path) for path in paths]})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(orders) + "\n")
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        return [
            Result(code, out.read_text(), err.read_text()) for code, (_, out, err) in zip(codes, files, strict=True)
        ]


@pytest.fixture(scope="module")
def vestibule(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commander]:
    command = [sys.executable, "-c", COMMANDER]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Commander(process, tmp_path_factory.mktemp("commands"))


class MailSession(socketserver.StreamRequestHandler):
    """Agrees to everything."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            leaves = line.upper().startswith(b"QUIT")
            self.wfile.write(b"221 bye\r\n" if leaves else b"250 ok\r\n")
            if leaves:
                return


@pytest.fixture(scope="module")
def smtp_url() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailSession) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"smtp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def empty_database(servers: Servers) -> Iterator[str]:
    """A database without any table."""
    with _own_database(servers.database_url) as url:
        yield url


@pytest.fixture(scope="module")
def environ(servers: Servers, empty_database: str, smtp_url: str) -> dict[str, str]:
    """A production's whole environment."""
    return {
        "PATH": os.defpath,
        "DATABASE_URL": empty_database,
        "REDIS_URL": servers.redis_url,
        "VESTIBULE_KEYS": root_key(),
        "VESTIBULE_ISSUER": "https://auth.test",
        "VESTIBULE_SMTP_URL": smtp_url,
        "VESTIBULE_MAIL_FROM": "vestibule@example.com",
        "VESTIBULE_ARGON2_TIME_COST": "2",
        "VESTIBULE_ARGON2_MEMORY_KIB": "19456",
        "VESTIBULE_DRAIN": str(DRAIN),
        "VESTIBULE_METRICS_PORT": "0",  # many of them run beside each other
        "VESTIBULE_KEY_REFRESH": "0.5",
        "VESTIBULE_JWKS_MAX_AGE": "1",
        "VESTIBULE_REDIS_TIMEOUT": "5",
        "VESTIBULE_DATABASE_TIMEOUT": "5",
        "VESTIBULE_LIMIT_GUESS_NETWORK": "100000/m",
        "VESTIBULE_LIMIT_GUESS_ACCOUNT": "100000/m",
        "VESTIBULE_LIMIT_GUESS_ACCOUNT_NETWORK": "100000/m",
    }


@pytest.fixture(scope="module")
def migrations(vestibule: Commander, environ: dict[str, str]) -> list[Result]:
    """Five at the same moment on the empty database, and one after them."""
    return [*vestibule.run_at_once([(environ, ("migrate",))] * 5), vestibule.run(environ, "migrate")]


@pytest.fixture(scope="module")
def migrated(environ: dict[str, str], migrations: list[Result]) -> dict[str, str]:
    """The environment of a production whose database is ready."""
    return environ


def without(environ: dict[str, str], *names: str, **changed: str) -> dict[str, str]:
    return {name: value for name, value in {**environ, **changed}.items() if name not in names}


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    async def fetch() -> list[tuple[Any, ...]]:
        line = await asyncpg.connect(url.replace("+asyncpg", ""), timeout=10)
        try:
            return [tuple(row) for row in await line.fetch(query)]
        finally:
            await line.close()

    return asyncio.run(fetch())


def one_line(text: str) -> str:
    """The only line there is."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


PROVIDER = {
    "VESTIBULE_PROVIDER_ACME_CLIENT_ID": "vestibule",
    "VESTIBULE_PROVIDER_ACME_CLIENT_SECRET": "canary of a provider",
    "VESTIBULE_PROVIDER_ACME_ISSUER": "https://id.acme.example",
}
WEAK = "1:" + base64.urlsafe_b64encode(b"short").decode()
Change = Callable[[dict[str, str]], dict[str, str]]
REFUSED_STARTS: Mapping[str, tuple[Change, str]] = {
    "nothing at all": (lambda _: {"PATH": os.defpath}, ""),
    "no database": (lambda e: without(e, "DATABASE_URL"), "DATABASE_URL"),
    "no redis": (lambda e: without(e, "REDIS_URL"), "REDIS_URL"),
    "no key": (lambda e: without(e, "VESTIBULE_KEYS"), "VESTIBULE_KEYS"),
    "a weak key": (lambda e: without(e, VESTIBULE_KEYS=WEAK), "VESTIBULE_KEYS"),
    "an http issuer": (lambda e: without(e, VESTIBULE_ISSUER="http://auth.test"), "VESTIBULE_ISSUER"),
    "no issuer": (lambda e: without(e, "VESTIBULE_ISSUER"), "VESTIBULE_ISSUER"),
    "no mail": (lambda e: without(e, "VESTIBULE_SMTP_URL"), "VESTIBULE_SMTP_URL"),
    "a mail server without sense": (lambda e: without(e, VESTIBULE_SMTP_URL="mail.test"), "VESTIBULE_SMTP_URL"),
    "no sender": (lambda e: without(e, "VESTIBULE_MAIL_FROM"), "VESTIBULE_MAIL_FROM"),
    "weak hashes": (lambda e: without(e, VESTIBULE_ARGON2_MEMORY_KIB="8"), "VESTIBULE_ARGON2"),
    "no number": (lambda e: without(e, VESTIBULE_CODE_TRIES="many"), "VESTIBULE_CODE_TRIES"),
    "no duration": (lambda e: without(e, VESTIBULE_DRAIN="soon"), "VESTIBULE_DRAIN"),
    "no rate": (lambda e: without(e, VESTIBULE_LIMIT_GUESS_NETWORK="often"), "VESTIBULE_LIMIT_GUESS_NETWORK"),
    "a typo": (lambda e: without(e, VESTIBULE_DRIAN="3"), "VESTIBULE_DRIAN"),
    "a provider without a secret": (
        lambda e: without(e, VESTIBULE_PROVIDER_DISCORD_CLIENT_ID="1"),
        "VESTIBULE_PROVIDER_DISCORD_",
    ),
    "a provider without TLS": (
        lambda e: without({**e, **PROVIDER}, VESTIBULE_PROVIDER_ACME_ISSUER="http://id.acme.example"),
        "VESTIBULE_PROVIDER_ACME_ISSUER",
    ),
    "a provider by two names": (
        lambda e: {**e, **PROVIDER, **{name.replace("ACME", "OTHER"): value for name, value in PROVIDER.items()}},
        "acme, other",
    ),
    "a file that is not there": (
        lambda e: without(e, "VESTIBULE_KEYS", VESTIBULE_KEYS_FILE="/nowhere"),
        "VESTIBULE_KEYS_FILE",
    ),
}


@pytest.fixture(scope="module")
def refused_starts(vestibule: Commander, environ: dict[str, str]) -> dict[str, Result]:
    orders = [(change(environ), ("serve", "--host", "127.0.0.1")) for change, _ in REFUSED_STARTS.values()]
    return dict(zip(REFUSED_STARTS, vestibule.run_at_once(orders), strict=True))


@pytest.mark.parametrize("wrong", REFUSED_STARTS)
def test_serve_refuses_to_start_in_one_line_that_names_the_setting(
    wrong: str, refused_starts: dict[str, Result]
) -> None:
    refused, (_, named) = refused_starts[wrong], REFUSED_STARTS[wrong]
    assert (refused.code, refused.out) == (2, "")
    line = one_line(refused.err)
    assert named in line
    assert WEAK not in line
    assert PROVIDER["VESTIBULE_PROVIDER_ACME_CLIENT_SECRET"] not in line


@pytest.mark.parametrize("command", ["migrate", "doctor", "keys list", "client list", "user disable somebody"])
def test_every_command_names_a_missing_setting(command: str, vestibule: Commander, environ: dict[str, str]) -> None:
    refused = vestibule.run(without(environ, "VESTIBULE_KEYS"), *command.split())
    assert refused.code == 2
    assert "VESTIBULE_KEYS" in one_line(refused.err)


# Migrations


def test_several_migrators_make_one_schema_with_its_first_keys_and_front_end(
    migrations: list[Result], empty_database: str
) -> None:
    assert [(result.code, result.err) for result in migrations] == [(0, "")] * 6
    assert len(rows(empty_database, "SELECT version_num FROM alembic_version")) == 1
    assert sorted(rows(empty_database, "SELECT activates_at IS NULL FROM signing_keys")) == [(False,), (True,)]
    assert rows(empty_database, "SELECT id, secret_digest, disabled_at FROM clients") == [("web", None, None)]


DEFAULTS_THAT_STAY = {
    *(("accounts", column) for column in ("password_changed_at", "locale", "password_change_required")),
    ("sessions", "place"),
    *(("clients", column) for column in ("auth_methods", "grants", "scopes", "audiences", "serves")),
    *(("clients", column) for column in ("redirect_uris", "origins")),
}
"""Columns that the version before does not fill while both serve: only the migration gives them a default."""


def test_the_migrated_schema_is_the_one_of_the_tables(migrated: dict[str, str]) -> None:
    async def compare() -> list[Any]:
        engine = create_async_engine(migrated["DATABASE_URL"])
        async with engine.connect() as connection:
            found: list[Any] = await connection.run_sync(
                lambda line: compare_metadata(
                    MigrationContext.configure(line, opts={"compare_type": True, "compare_server_default": True}),
                    Table.metadata,
                )
            )
        await engine.dispose()
        return found

    changes = [change for (change,) in asyncio.run(compare())]
    assert {kind for kind, *_ in changes} == {"modify_default"}
    assert {(table, column) for _, _, table, column, *_ in changes} == DEFAULTS_THAT_STAY
    assert [default for *_, default in changes] == [None] * len(DEFAULTS_THAT_STAY)


def test_a_migration_that_cannot_reach_its_database_says_so(vestibule: Commander, environ: dict[str, str]) -> None:
    failed = vestibule.run(without(environ, DATABASE_URL=NOWHERE), "migrate")
    assert failed.code == 1
    assert "migration failed" in one_line(failed.err)
    assert "nobody" not in failed.err


# Clients, users, keys


def test_a_client_is_made_listed_and_disabled(vestibule: Commander, migrated: dict[str, str]) -> None:
    made = vestibule.run(migrated, "client", "create", "billing", "--introspect", "--name", "Billing")
    assert made.code == 0
    secret = made.out.split()[-1]
    assert secret.startswith("vcs_")
    assert secret not in made.err
    public = vestibule.run(migrated, "client", "create", "kiosk", "--public")
    assert (public.code, "secret" in public.out) == (0, False)
    listed = vestibule.run(migrated, "client", "list").out.splitlines()
    kinds = {line.split()[0]: line.split()[1:4] for line in listed}
    assert kinds["billing"] == ["confidential", "introspects", "enabled"]
    assert kinds["kiosk"] == ["public", "-", "enabled"]
    assert vestibule.run(migrated, "client", "disable", "billing").code == 0
    assert "disabled" in next(x for x in vestibule.run(migrated, "client", "list").out.splitlines() if "billing" in x)


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (1, ("client", "create", "web")),
        (1, ("client", "disable", "nobody")),
        (1, ("user", "disable", "nobody")),
        (1, ("user", "create", "--email", "no address", "--nickname", "frank", "--password-stdin")),
        (1, ("user", "create", "--email", "frank@example.com", "--nickname", "!", "--password-stdin")),
        (2, ("client", "create", "Not An Id")),
        (2, ("client", "create", "kiosk2", "--public", "--introspect")),
        (2, ("user", "create", "--email", "frank@example.com")),
        (2, ("serve", "--workers", "0")),
        (2, ("no-such-command",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_refused_command_says_why(
    code: int, arguments: tuple[str, ...], vestibule: Commander, migrated: dict[str, str]
) -> None:
    refused = vestibule.run(migrated, *arguments, typed=f"{PASSWORD}\n")
    assert (refused.code, refused.out) == (code, "")
    assert "Traceback" not in refused.err
    if code == 1:
        assert one_line(refused.err).startswith("vestibule: ")


def test_a_weak_password_from_standard_input_is_refused(vestibule: Commander, migrated: dict[str, str]) -> None:
    arguments = ("user", "create", "--email", "weak@example.com", "--nickname", "weak", "--password-stdin")
    refused = vestibule.run(migrated, *arguments, typed="password\n")
    assert (refused.code, "password" in one_line(refused.err)) == (1, True)


@pytest.mark.standard("PW-24", "LG-01")
def test_a_taken_address_and_a_taken_nickname_are_refused(vestibule: Commander, migrated: dict[str, str]) -> None:
    def create(email: str, nickname: str) -> Result:
        arguments = ("user", "create", "--email", email, "--nickname", nickname, "--password-stdin")
        return vestibule.run(migrated, *arguments, typed=f"{PASSWORD}\n")

    first = create("grace@example.com", "grace")
    assert (first.code, [line.split()[0] for line in first.out.splitlines()]) == (0, ["id"])
    for refused in (create("GRACE@example.com", "grace2"), create("grace2@example.com", "Grace")):
        assert refused.code == 1
        one_line(refused.err)


def test_a_generated_root_key_is_good_for_a_start(vestibule: Commander, migrated: dict[str, str]) -> None:
    made = [vestibule.run({"PATH": os.defpath}, "keys", "generate") for _ in range(2)]
    assert [result.code for result in made] == [0, 0]
    assert made[0].out != made[1].out
    strong = vestibule.run(without(migrated, "VESTIBULE_SMTP_URL", VESTIBULE_KEYS=made[0].out.strip()), "serve")
    assert "VESTIBULE_SMTP_URL" in one_line(strong.err)


# The doctor


@contextmanager
def configured(redis_url: str, **wanted: str) -> Iterator[None]:
    """Redis with other settings, for the length of a `with` block."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as line:
        names = {name.replace("_", "-"): value for name, value in wanted.items()}
        before = {name: line.config_get(name)[name] for name in names}
        for name, value in names.items():
            line.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                line.config_set(name, value)


def test_the_doctor_is_content_when_all_is_well(examined: dict[str, Result], migrated: dict[str, str]) -> None:
    result = examined["well"]
    assert (result.code, result.err) == (0, ""), result.out
    assert result.out.count("✓") == len(result.out.splitlines()) == 8
    assert migrated["VESTIBULE_KEYS"] not in result.out


@pytest.mark.standard("SE-32")
@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"appendonly": "yes", "maxmemory_policy": "allkeys-lru"}, "maxmemory-policy noeviction"),
        ({"appendonly": "no", "maxmemory_policy": "noeviction"}, "appendonly yes"),
    ],
)
def test_the_doctor_finds_a_redis_that_would_lose_sessions(
    settings: dict[str, str], advice: str, vestibule: Commander, migrated: dict[str, str]
) -> None:
    with configured(migrated["REDIS_URL"], **settings):
        result = vestibule.run(migrated, "doctor")
    assert result.code == 1
    assert advice in one_line(advices(result))


def provider(issuer: str) -> dict[str, str]:
    """An OpenID provider at this issuer."""
    head = "VESTIBULE_PROVIDER_CORP_"
    own = {"ISSUER": issuer, "CLIENT_ID": "us", "CLIENT_SECRET": "made up", "PRIVATE_NETWORK": "true"}
    return {head + name: value for name, value in own.items()}


ILLS: Mapping[str, tuple[Change, str]] = {
    "postgres away": (lambda e: without(e, DATABASE_URL=NOWHERE), "DATABASE_URL"),
    "redis away": (lambda e: without(e, REDIS_URL="redis://127.0.0.1:1"), "REDIS_URL"),
    "mail server away": (lambda e: without(e, VESTIBULE_SMTP_URL="smtp://127.0.0.1:1"), "VESTIBULE_SMTP_URL"),
    "no mail server": (lambda e: without(e, "VESTIBULE_SMTP_URL"), "VESTIBULE_SMTP_URL"),
    "a provider away": (lambda e: {**e, **provider("http://127.0.0.1:1/x")}, "VESTIBULE_PROVIDER_CORP_ISSUER"),
    "another root key": (lambda e: without(e, VESTIBULE_KEYS=root_key()), "VESTIBULE_KEYS"),
    "a weak root key": (lambda e: without(e, VESTIBULE_KEYS=WEAK), "vestibule keys generate"),
}


@pytest.fixture(scope="module")
def examined(vestibule: Commander, migrated: dict[str, str]) -> dict[str, Result]:
    """What the doctor says to each ill, and to the healthy one."""
    environs = {"well": migrated, **{ill: change(migrated) for ill, (change, _) in ILLS.items()}}
    with configured(migrated["REDIS_URL"], appendonly="yes", maxmemory_policy="noeviction"):
        results = vestibule.run_at_once([(one, ("doctor",)) for one in environs.values()])
    return dict(zip(environs, results, strict=True))


@pytest.mark.parametrize("ill", ILLS)
def test_the_doctor_says_what_to_do(ill: str, examined: dict[str, Result]) -> None:
    result, (_, advice) = examined[ill], ILLS[ill]
    assert (result.code, result.err) == (1, "")
    assert advice in advices(result)
    assert "nobody@" not in result.out


def test_the_doctor_misses_the_migrations(vestibule: Commander, environ: dict[str, str], servers: Servers) -> None:
    with (
        _own_database(servers.database_url) as url,
        configured(servers.redis_url, appendonly="yes", maxmemory_policy="noeviction"),
    ):
        result = vestibule.run(without(environ, DATABASE_URL=url), "doctor")
    assert result.code == 1
    assert "vestibule migrate" in advices(result)


def advices(result: Result) -> str:
    return "\n".join(line for line in result.out.splitlines() if line.startswith("  →"))


# Serving


class Served:
    """`vestibule serve` on loopback."""

    def __init__(self, environ: dict[str, str], workers: int, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        arguments = ["serve", "--host", "127.0.0.1", "--port", str(self.port), "--workers", str(workers)]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            command = [sys.executable, "-m", "service", *arguments]
            self.process = subprocess.Popen(command, cwd=PROJECT, env=environ, stdout=out, stderr=err)
        self.family = psutil.Process(self.process.pid)

    def workers(self) -> list[psutil.Process]:
        """The processes that serve, when there is a parent above them."""
        return [one for one in self.family.children() if is_active(one) and "spawn_main" in " ".join(one.cmdline())]

    @contextmanager
    def alone(self, worker: psutil.Process) -> Iterator[None]:
        """Stops the other workers for a moment; the supervisor would replace them after five seconds."""
        others = [one for one in self.workers() if one != worker]
        for one in others:
            one.suspend()
        try:
            yield
        finally:
            for one in others:
                one.resume()

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    def end(self) -> None:
        for one in [*self.family.children(recursive=True), self.family] if self.process.poll() is None else []:
            one.kill()
        self.process.wait()


def comes_true(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def both(migrated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Served]]:
    """One service with a worker, and one with two; they start at the same time."""
    folder = tmp_path_factory.mktemp("serve")
    served = {workers: Served(migrated, workers, folder / str(workers)) for workers in (1, 2)}
    try:
        assert all(comes_true(one.is_ready) for one in served.values())
        yield served
    finally:
        for one in served.values():
            one.end()


@dataclass(frozen=True)
class Insider:
    """A person with an account, and a service that may ask about their tokens."""

    nickname: str
    client: tuple[str, str]

    def login(self, served: Served) -> httpx.Response:
        body = {"nickname": self.nickname, "password": PASSWORD}
        return httpx.post(f"{served.url}/auth/login", json=body, timeout=10)

    def introspect(self, served: Served, token: str) -> Any:
        return httpx.post(f"{served.url}/introspect", data={"token": token}, auth=self.client, timeout=10).json()


@pytest.fixture(scope="module")
def insider(vestibule: Commander, migrated: dict[str, str]) -> Insider:
    made = vestibule.run(migrated, "client", "create", "orders", "--introspect")
    return Insider(new_user(vestibule, migrated), ("orders", made.out.split()[-1]))


def new_user(vestibule: Commander, environ: dict[str, str]) -> str:
    name = f"u{secrets.token_hex(5)}"
    arguments = ("user", "create", "--email", f"{name}@example.com", "--nickname", name, "--password-stdin")
    made = vestibule.run(environ, *arguments, typed=f"{PASSWORD}\n")
    assert (made.code, made.err) == (0, "")
    return name


def test_disabling_a_user_ends_their_sessions_at_the_next_introspection(
    both: dict[int, Served], insider: Insider, vestibule: Commander, migrated: dict[str, str]
) -> None:
    leaver = Insider(new_user(vestibule, migrated), insider.client)
    granted = leaver.login(both[2]).json()
    assert leaver.introspect(both[1], granted["access_token"])["active"] is True
    disabled = vestibule.run(migrated, "user", "disable", f"{leaver.nickname}@example.com")
    assert disabled.code == 0
    for served in both.values():
        assert leaver.introspect(served, granted["access_token"]) == {"active": False}
        refreshed = httpx.post(f"{served.url}/auth/refresh", json={"refresh_token": granted["refresh_token"]})
        assert (refreshed.status_code, refreshed.json()["code"]) == (401, "session_expired")
    assert (leaver.login(both[1]).status_code, leaver.login(both[1]).json()["code"]) == (403, "account_disabled")


def test_a_disabled_client_is_out_within_seconds(
    both: dict[int, Served], insider: Insider, vestibule: Commander, migrated: dict[str, str]
) -> None:
    made = vestibule.run(migrated, "client", "create", "shipping", "--introspect")
    shipping = Insider(insider.nickname, ("shipping", made.out.split()[-1]))
    token = shipping.login(both[1]).json()["access_token"]
    assert all(shipping.introspect(served, token)["active"] for served in both.values())
    assert vestibule.run(migrated, "client", "disable", "shipping").code == 0
    for served in both.values():
        assert comes_true(lambda one=served: "active" not in shipping.introspect(one, token), 10)  # type: ignore[misc]


def test_keys_rotate_while_two_workers_serve(
    both: dict[int, Served], insider: Insider, vestibule: Commander, migrated: dict[str, str]
) -> None:
    served = both[2]
    before = insider.login(served).json()["access_token"]
    rotated = vestibule.run(migrated, "keys", "rotate")
    assert rotated.code == 0
    coming, successor = (line.split()[0] for line in rotated.out.splitlines())
    listed = vestibule.run(migrated, "keys", "list").out
    assert all(kid in listed for kid in (coming, successor, kid_of(before)))
    tokens = [before]

    def has_turned() -> bool:
        tokens.append(insider.login(served).json()["access_token"])
        return kid_of(tokens[-1]) == coming

    assert comes_true(has_turned, 20)
    assert {kid_of(token) for token in tokens} == {kid_of(before), coming}
    for one in served.workers():
        with served.alone(one):
            assert kid_of(insider.login(served).json()["access_token"]) == coming
            assert all(insider.introspect(served, token)["active"] for token in (before, tokens[-1]))


def kid_of(token: str) -> str:
    header = token.partition(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"]
    return kid


def test_a_killed_worker_is_replaced(both: dict[int, Served], insider: Insider) -> None:
    served = both[2]
    killed, other = served.workers()
    token = insider.login(served).json()["access_token"]
    killed.kill()
    assert comes_true(lambda: len(set(served.workers()) - {killed, other}) == 1)
    assert insider.introspect(served, token)["active"] is True
    (replacement,) = set(served.workers()) - {killed, other}

    def serves() -> bool:
        with served.alone(replacement):
            return served.is_ready()

    assert comes_true(serves)


@dataclass
class Farewell:
    """What clients of a service met between its SIGTERM and its end."""

    answers: list[tuple[float, str, int]]
    failures: list[tuple[float, str]]
    slow: bytes
    seconds: float
    code: int
    orphans: list[psutil.Process]


@pytest.fixture(scope="module")
def farewells(both: dict[int, Served], insider: Insider) -> dict[int, Farewell]:
    """Both services get SIGTERM at the same moment, under a light load."""
    tokens = {workers: insider.login(served).json()["access_token"] for workers, served in both.items()}
    with ThreadPoolExecutor() as threads:
        told = {workers: threads.submit(farewell, both[workers], insider, token) for workers, token in tokens.items()}
        return {workers: one.result() for workers, one in told.items()}


def farewell(served: Served, insider: Insider, token: str) -> Farewell:
    family = served.family.children(recursive=True)
    answers: list[tuple[float, str, int]] = []
    failures: list[tuple[float, str]] = []
    requests = {"/readyz": ("GET", None), "/introspect": ("POST", {"token": token})}
    started = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(slowly, served, insider, token)
        while served.process.poll() is None and time.monotonic() < started + 20:
            at = time.monotonic() - started
            for path, (method, form) in requests.items():
                try:
                    response = httpx.request(method, served.url + path, data=form, auth=insider.client, timeout=3)
                    answers.append((at, path, response.status_code))
                except httpx.TransportError as error:
                    failures.append((at, type(error).__name__))
            time.sleep(0.02)
        code = served.process.wait(5)
        seconds = time.monotonic() - started
    return Farewell(answers, failures, slow.result(), seconds, code, those_left(family))


def those_left(family: list[psutil.Process]) -> list[psutil.Process]:
    """Who outlives the parent by more than the moment in which its helpers see that it is gone."""
    for _ in range(100):
        left = [process for process in family if is_active(process)]
        if not left:
            break
        time.sleep(0.05)
    return left


def slowly(served: Served, insider: Insider, token: str) -> bytes:
    """An introspection whose last byte comes after the drain; the status line of its answer."""
    basic = base64.b64encode(":".join(insider.client).encode()).decode()
    body = f"token={token}".encode()
    head = (
        f"POST /introspect HTTP/1.1\r\nHost: auth.test\r\nAuthorization: Basic {basic}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    time.sleep(DRAIN / 2)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as line:
        line.sendall(head.encode() + body[:-1])
        time.sleep(DRAIN / 2 + 1)
        line.sendall(body[-1:])
        return line.makefile("rb").readline()


def is_active(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_readiness_goes_first_and_work_goes_on_until_the_listener_closes(
    workers: int, farewells: dict[int, Farewell]
) -> None:
    told = farewells[workers]
    ready = [status for at, path, status in told.answers if path == "/readyz" and at > DRAIN / 2]
    assert ready
    assert set(ready) == {503}
    assert {status for _, path, status in told.answers if path == "/introspect"} == {200}
    # The listener closes when the drain is over; the clocks of the two processes are not started in one moment.
    assert [failure for failure in told.failures if failure[0] < DRAIN - 0.3] == []
    # What arrives in the moment of closing may have been taken by the kernel already, and is reset.
    assert {name for _, name in told.failures} <= {"ConnectError", "ReadError", "RemoteProtocolError"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_request_under_way_is_answered(workers: int, farewells: dict[int, Farewell]) -> None:
    assert farewells[workers].slow == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_service_ends_well_and_leaves_nobody(workers: int, farewells: dict[int, Farewell]) -> None:
    assert farewells[workers].orphans == []
    assert farewells[workers].seconds < DRAIN + 15
    assert farewells[workers].code == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.standard("LO-06")
def test_its_output_is_json_lines_without_secrets(
    workers: int, farewells: dict[int, Farewell], both: dict[int, Served], insider: Insider, migrated: dict[str, str]
) -> None:
    out, err = both[workers].out.read_text(), both[workers].err.read_text()
    assert err == ""
    assert all({"event", "level", "timestamp"} <= json.loads(line).keys() for line in out.splitlines())
    told = [json.loads(line) for line in out.splitlines()]
    assert [line for line in told if line["level"] == "error"] == []
    for secret in (insider.client[1], migrated["VESTIBULE_KEYS"].partition(":")[2], PASSWORD, "vrt_", "eyJ"):
        assert secret not in out

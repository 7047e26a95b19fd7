"""Migrations while both versions serve: the SQL holds nobody up, and the version before works on the new schema."""

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import Script, ScriptDirectory
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import create_async_engine

import service.wiring  # noqa: F401  every table
from service.store.postgres import Table
from service.store.schema import alembic_config
from tests.cli.test_production import COMMANDER, Commander
from tests.conftest import PASSWORD, Servers, _own_database, root_key
from tests.deploy.instances import Instance, instance
from tests.deploy.proxies import binary, free_port

ROOT = Path(__file__).parents[2]
SQUAWK = Path(sys.executable).with_name("squawk")
ALL = tuple(reversed(list(ScriptDirectory.from_config(alembic_config()).walk_revisions())))
HEAD = ALL[-1]
EXCUSED = {
    "require-statement-timeout": "filling a column may take minutes; what others wait for has lock_timeout",
    "require-concurrent-index-creation": "all or nothing, in one transaction; deploy/README.md says what waits",
    "prefer-bigint-over-int": "integers here count seconds, tries and days",
}
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s';\n"
"""As `env.py` begins."""


def sql(script: Script) -> str:
    """What a migration runs."""
    text = io.StringIO()
    options = {"as_sql": True, "output_buffer": text, "literal_binds": True}
    context = MigrationContext.configure(dialect_name="postgresql", opts=options)
    with Operations.context(context):
        script.module.upgrade()
    return LOCK_TIMEOUT + text.getvalue()


def findings(text: str, folder: Path) -> set[str]:
    """The rules of squawk that a migration breaks."""
    path = folder / "migration.sql"
    path.write_text(text)
    excused = f"--exclude={','.join(EXCUSED)}"
    options = ["--assume-in-transaction", "--pg-version", "15", "--reporter", "json", excused]
    ran = subprocess.run([SQUAWK, *options, path], capture_output=True, text=True, check=False, timeout=60)
    return {found["rule_name"] for found in json.loads(ran.stdout)}


@pytest.mark.parametrize("script", ALL, ids=lambda one: one.revision)
def test_a_migration_holds_nobody_up_and_takes_nothing_away(script: Script, tmp_path: Path) -> None:
    assert "lock_timeout = '3s'" in (ROOT / "service/store/migrations/env.py").read_text()
    assert findings(sql(script), tmp_path) == set()


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("ALTER TABLE accounts DROP COLUMN email;", "ban-drop-column"),
        ("ALTER TABLE accounts RENAME COLUMN email TO address;", "renaming-column"),
        ("ALTER TABLE accounts ADD COLUMN age smallint NOT NULL;", "adding-required-field"),
        ("ALTER TABLE accounts ALTER COLUMN email SET NOT NULL;", "adding-not-nullable-field"),
        ("ALTER TABLE sessions ALTER COLUMN scope TYPE text[] USING '{}';", "changing-column-type"),
    ],
)
def test_the_linter_would_find_a_change_that_breaks_the_version_before(
    statement: str, rule: str, tmp_path: Path
) -> None:
    assert rule in findings(LOCK_TIMEOUT + statement, tmp_path)


# The columns of the version before


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    with _own_database(servers.database_url) as url:
        yield url


def sample(column: sa.Column[Any], parents: dict[str, Any]) -> Any:
    """Some value; a foreign key gets that of the row it points to."""
    for key in column.foreign_keys:
        return parents[key.target_fullname]
    made: dict[type, Callable[[], Any]] = {
        sa.Uuid: uuid4,
        sa.DateTime: lambda: datetime.now(UTC),
        sa.Boolean: lambda: False,
        sa.Integer: lambda: 1,
        sa.LargeBinary: lambda: b"bytes",
        ARRAY: lambda: ["one"],
        JSONB: lambda: {"one": 1},
        sa.String: lambda: f"text {uuid4()}",
    }
    return next(make() for kind, make in made.items() if isinstance(column.type, kind))


def fill(connection: sa.Connection, tables: sa.MetaData) -> None:
    """One row in every table, with the columns that these tables have."""
    parents: dict[str, Any] = {}
    for table in tables.sorted_tables:
        row = {column.name: sample(column, parents) for column in table.columns if column.identity is None}
        connection.execute(table.insert().values(row))
        parents |= {f"{table.name}.{name}": value for name, value in row.items()}


def touch(connection: sa.Connection, tables: sa.MetaData) -> None:
    """Reads, writes and deletes every row, with the columns that these tables have."""
    for table in reversed(tables.sorted_tables):
        assert len(connection.execute(sa.select(table)).all()) == 2, table.name
        written = {column.name: column for column in table.columns if column.identity is None}
        connection.execute(table.update().values(written))
    for table in reversed(tables.sorted_tables):
        connection.execute(table.delete())


def complete(connection: sa.Connection) -> None:
    """What this version reads of rows that the version before wrote: no value is missing that it counts on."""
    for table in Table.metadata.sorted_tables:
        for row in connection.execute(sa.select(table)).mappings():
            assert all(row[column] is not None for column in table.columns if not column.nullable), table.name


def within(url: str, work: Callable[[sa.Connection], Any]) -> Any:
    async def run() -> Any:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            done = await connection.run_sync(work)
        await engine.dispose()
        return done

    return asyncio.run(run())


def tables_of(connection: sa.Connection) -> sa.MetaData:
    found = sa.MetaData()
    found.reflect(connection)
    found.remove(found.tables["alembic_version"])
    return found


@pytest.mark.parametrize("script", ALL[1:], ids=lambda one: one.revision)
def test_the_version_before_a_migration_reads_and_writes_behind_it(script: Script, database: str) -> None:
    command.upgrade(alembic_config(database), str(script.down_revision))
    before = within(database, tables_of)
    within(database, lambda connection: fill(connection, before))
    command.upgrade(alembic_config(database), script.revision)
    within(database, lambda connection: fill(connection, before))
    if script is HEAD:
        within(database, complete)
    within(database, lambda connection: touch(connection, before))


# The version before itself


def git(*arguments: str) -> bytes:
    """What git says, nothing if there is no history."""
    program = binary("git")
    if program is None:
        return b""
    ran = subprocess.run([program, "-C", ROOT, *arguments], capture_output=True, check=False, timeout=60)
    return ran.stdout if ran.returncode == 0 else b""


@pytest.fixture
def version_before(tmp_path: Path) -> Path:
    """The code as it was before the newest migration, in a folder of its own."""
    added = git("log", "--diff-filter=A", "--format=%H", "-1", "--", HEAD.path).decode().strip()
    packed = git("archive", f"{added}^", "service", "pyproject.toml", "README.md") if added else b""
    if not packed:
        pytest.skip("the history of git does not reach back to before the newest migration")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tmp_path / "before", filter="data")
    return tmp_path / "before"


@pytest.fixture
def vestibule(tmp_path: Path) -> Iterator[Commander]:
    command = [sys.executable, "-c", COMMANDER]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Commander(process, tmp_path)


async def test_both_versions_serve_the_same_people_at_the_same_time(
    version_before: Path, vestibule: Commander, servers: Servers, database: str, tmp_path: Path
) -> None:
    """A session that one opened the other renews, answers for and ends."""
    environ = {
        "PATH": os.defpath,
        "DATABASE_URL": database,
        "REDIS_URL": servers.redis_url,
        "VESTIBULE_KEYS": root_key(),
        "VESTIBULE_ISSUER": "https://auth.test",
        "VESTIBULE_SMTP_URL": "smtp://127.0.0.1:9",
        "VESTIBULE_METRICS_PORT": "0",
        "VESTIBULE_MAIL_FROM": "vestibule@example.com",
        "VESTIBULE_DRAIN": "0",
        "VESTIBULE_REDIS_TIMEOUT": "5",
        "VESTIBULE_DATABASE_TIMEOUT": "5",
    }
    with ExitStack() as stack:
        both: dict[str, Instance] = {}
        for name, folder in (("before", version_before), ("now", ROOT)):
            both[name] = stack.enter_context(instance(environ, free_port(), tmp_path / f"{name}.log", folder))
        assert vestibule.run(environ, "migrate").code == 0
        made = vestibule.run(environ, "client", "create", "orders", "--introspect")
        user = ("user", "create", "--email", "ada@example.com", "--nickname", "ada", "--password-stdin")
        assert vestibule.run(environ, *user, typed=f"{PASSWORD}\n").code == 0
        for one in both.values():
            await one.ready()
        secret = made.out.split()[-1]
        await visit(both["before"], both["now"], secret)
        await visit(both["now"], both["before"], secret)


async def visit(first: Instance, second: Instance, secret: str) -> None:
    """In at the first, everything else at the second and back again."""
    one, other = (httpx.AsyncClient(base_url=f"http://127.0.0.1:{at.port}", timeout=20) for at in (first, second))
    async with one, other:
        entered = (await one.post("/auth/login", json={"nickname": "ada", "password": PASSWORD})).json()
        renewed = (await other.post("/auth/refresh", json={"refresh_token": entered["refresh_token"]})).json()
        renewed = (await one.post("/auth/refresh", json={"refresh_token": renewed["refresh_token"]})).json()
        token = renewed["access_token"]
        assert [await is_active(at, token, secret) for at in (one, other)] == [True, True]
        bearer = {"Authorization": f"Bearer {token}"}
        assert [(await at.get("/me", headers=bearer)).status_code for at in (one, other)] == [200, 200]
        left = await other.post("/auth/logout", json={"refresh_token": renewed["refresh_token"]})
        assert left.status_code == 204, left.text
        assert [await is_active(at, token, secret) for at in (one, other)] == [False, False]


async def is_active(http: httpx.AsyncClient, token: str, secret: str) -> Any:
    answer = await http.post("/introspect", data={"token": token}, auth=("orders", secret))
    return answer.json()["active"]

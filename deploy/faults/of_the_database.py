"""PostgreSQL hangs, dies, has no connection left, is locked, was turned back; several migrate at once."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.faults.judging import everything, is_active
from deploy.faults.load import Crowd, Load, Person, signed_in
from deploy.faults.servers import kill, stopped
from deploy.faults.table import Fault, Finding
from deploy.faults.vestibule import PROJECT, command
from deploy.faults.world import House, World

NO_DATABASE = ("login", "logout")
IN_TIME = 2.5
"""Seconds in which PostgreSQL's absence must be admitted."""
FROM_MEMORY = ("/livez", "/readyz", "/.well-known/jwks.json")
MIGRATORS = 5
POOL = 10
"""Of the default settings; the one who counts comes on top."""


def hung(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault(), stopped(world.postgres):
            time.sleep(5)
        return _without_database(load)


def killed(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault():
            time.sleep(2)
            kill(world.postgres)
            time.sleep(1)
            world.start_postgres()
        finding = everything(load, may_fail=NO_DATABASE)
        ended = house.sql("SELECT count(*) FROM sessions WHERE ended_reason = 'logout'")
    finding.seen.append(f"{ended} sign-outs in the database")
    finding.expect(ended >= len(load.crowd.gone), "an acknowledged sign-out is not in the database")
    return finding


def no_connection(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault():
            house.sql("ALTER ROLE vestibule CONNECTION LIMIT 0")
            house.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'vestibule'")
            time.sleep(4)
            house.sql("ALTER ROLE vestibule CONNECTION LIMIT -1")
        return _without_database(load)


def locked(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault(), _sessions_locked(house):
            time.sleep(4)
        finding = _without_database(load)
        held = house.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", house.database)
    finding.seen.append(f"{held} connections")
    finding.expect(held <= POOL + 1, f"{held} connections piled up")
    return finding


def both_hung(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault(), stopped(world.postgres), stopped(house.store.child):
            statuses = _from_memory(house)
            time.sleep(4)
        finding = everything(load, may_fail=("logout",), must_fail=("introspect", "refresh", "login"), settle=1)
    finding.seen.append(f"from memory {statuses}")
    finding.expect(set(statuses) == {200}, f"JWKS and probes answered {statuses}")
    return finding


def migrators(world: World) -> Finding:
    finding = Finding()
    database = world.new_database("template0")
    environ = world.environ(database, "redis://127.0.0.1:9/0")
    whole = [sys.executable, "-m", "service", "migrate"]
    running = [
        subprocess.Popen(whole, cwd=PROJECT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(MIGRATORS)
    ]
    codes = [one.wait(60) for one in running]
    rows = world.sql("SELECT count(*) FROM alembic_version", database=database)
    finding.seen.append(f"exit codes {codes}, {rows} revision")
    finding.expect(codes == [0] * MIGRATORS and rows == 1, f"exit codes {codes}, {rows} rows of revisions")
    return finding


def turned_back(world: World) -> Finding:
    """The procedure: stop, restore, end every session that the backup knows, start."""
    finding = Finding()
    with world.house() as house:
        people = signed_in(house, 8)
        house.service.end()
        backup = world.new_database(house.database)
        house.service.start()
        house.service.await_answer()
        gone = _sign_out(house, people[:4])
        house.service.end()
        world.sql(f"DROP DATABASE {house.database}", database="postgres")
        world.sql(f"ALTER DATABASE {backup} RENAME TO {house.database}", database="postgres")
        house.store.say("FLUSHALL")
        ended = command(house.environ, "sessions", "end", "--everybody")
        house.service.start()
        house.service.await_answer()
        with house.http() as http:
            alive = sum(is_active(house, http, person.access) for person in gone)
        again = len(signed_in(house, 1))
    finding.seen.append(f"revoked {len(gone)}, alive of them {alive}; {ended.stdout.strip().splitlines()[-1:]}")
    finding.expect(ended.returncode == 0, f"the procedure failed: {ended.stderr[-200:]}")
    finding.expect(alive == 0, f"{alive} revoked sessions came back")
    finding.expect(again == 1, "nobody can sign in")
    return finding


def _without_database(load: Load) -> Finding:
    finding = everything(load, may_fail=("logout",), must_fail=("login",))
    slowest = load.meanwhile.of("login").slowest()
    finding.expect(slowest < IN_TIME * load.slowness, f"a login waited {slowest:.1f} s")
    return finding


def _from_memory(house: House) -> list[int]:
    with house.http() as http:
        return [http.get(path).status_code for path in FROM_MEMORY]


def _sign_out(house: House, people: list[Person]) -> list[Person]:
    with house.http() as http:
        for person in people:
            http.post("/auth/logout", json={"refresh_token": person.refresh}).raise_for_status()
    return people


@contextmanager
def _sessions_locked(house: House) -> Iterator[None]:
    with asyncio.Runner() as runner:
        line = runner.run(house.world.connection(house.database))
        runner.run(line.execute("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE"))
        try:
            yield
        finally:
            runner.run(line.execute("ROLLBACK"))
            runner.run(line.close())


UNAFFECTED = "introspect and refresh work; login 503 in time"
FAULTS = (
    Fault(
        17,
        "PostgreSQL hung",
        "SIGSTOP PostgreSQL and its children for 5 s",
        f"{UNAFFECTED}; well again by itself",
        hung,
    ),
    Fault(18, "PostgreSQL killed", "kill -9 PostgreSQL, restart", "no acknowledged sign-out lost; well again", killed),
    Fault(19, "no connection left", "the role's limit 0, those of the pool ended", UNAFFECTED, no_connection),
    Fault(21, "sessions locked", "LOCK TABLE sessions for 4 s", f"{UNAFFECTED}; no pile-up", locked),
    Fault(22, "both hung", "SIGSTOP both for 4 s", "503 in time; JWKS, livez, readyz 200", both_hung),
    Fault(47, "migrators at once", "5 x `vestibule migrate` on an empty database", "all succeed, once", migrators),
    Fault(
        54,
        "database turned back",
        "an older copy restored, `sessions end --everybody`",
        "0 revoked tokens live",
        turned_back,
    ),
)

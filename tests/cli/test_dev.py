"""`vestibule dev` as a developer runs it: real processes, real servers, real folders, real curl."""

import asyncio
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import asyncpg
import click
import httpx
import psutil
import pytest
from click.testing import CliRunner

from service.cli.dev import METRICS_DISTANCE
from service.cli.main import main
from service.embedded import folders
from tests.conftest import PASSWORD, Servers, _own_database
from tests.deploy import proxies

PROJECT = Path(__file__).parents[2]
ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")
READY = 60  # seconds, on a busy machine; the first start alone takes about four


class Dev:
    """One `vestibule dev`."""

    def __init__(
        self, data: Path, log: Path, *, port: int = 0, uid: int | None = None, environ: dict[str, str] | None = None
    ) -> None:
        self.data = data
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [sys.executable, "-m", "service", "dev", "--port", str(self.port), "--data", str(data)]
        mine = uid is None or uid == os.geteuid()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                user=None if mine else uid,
                group=None if mine else NOBODY.pw_gid,
                extra_groups=None if mine else [],
            )

    def ready(self) -> "Dev":
        """Waits until it says that it is."""
        assert comes_true(lambda: self._says_ready() or self.process.poll() is not None, READY), self.said
        assert self._says_ready(), self.said
        return self

    def _says_ready(self) -> bool:
        return "grep -o" in self.said and "/introspect -d token=$TOKEN\n" in self.said

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def lines_to_try(self) -> str:
        """The three lines, exactly as printed."""
        return self.said.partition("whether the token lives.\n\n")[2].partition("\n\n")[0]

    @property
    def env(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.data / "dev.env").read_text().splitlines())

    def family(self) -> list[psutil.Process]:
        """It and all its servers."""
        one = psutil.Process(self.process.pid)
        return [one, *one.children(recursive=True)]

    def end(self, sent: signal.Signals) -> int:
        """As the terminal does: to its whole process group. Waits until it and its servers are gone."""
        family = self.family()
        os.killpg(self.process.pid, sent)
        code = self.process.wait(60)
        assert comes_true(lambda: not any(map(is_active, family)), 30), [one for one in family if is_active(one)]
        return code

    def stop(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)

    def sign_up(self) -> str:
        """A new account, over HTTP; its nickname."""
        name = f"d{secrets.token_hex(5)}"
        body = {"email": f"{name}@example.com", "password": PASSWORD, "nickname": name}
        registered = httpx.post(f"{self.url}/auth/register", json=body, timeout=20)
        assert registered.status_code == 202, registered.text
        assert comes_true(lambda: self.mailbox()[:1] != [] and self.mailbox()[0]["to"] == body["email"], 30)
        found = re.search(r"your code is (\d{6})", self.mailbox()[0]["text"])
        assert found is not None
        proof = {"registration": registered.json()["registration"], "code": found[1]}
        verified = httpx.post(f"{self.url}/auth/verify", json=proof, timeout=20)
        assert verified.status_code == 200, verified.text
        return name

    def login(self, nickname: str) -> int:
        body = {"nickname": nickname, "password": PASSWORD}
        return httpx.post(f"{self.url}/auth/login", json=body, timeout=20).status_code

    def mailbox(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/dev/mailbox", headers={"Accept": "application/json"}, timeout=20)
        mails: list[dict[str, Any]] = answer.json()
        return mails


def free_port() -> int:
    """One whose metrics have a free port as well."""
    while True:
        port = proxies.free_port()
        with suppress(OSError, OverflowError):
            proxies.free_port(port + METRICS_DISTANCE)
            return port


def comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def is_active(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def bash(script: str) -> str:
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def query(url: str, statement: str) -> Any:
    async def ask() -> Any:
        line = await asyncpg.connect(url.replace("+asyncpg", ""), timeout=10)
        try:
            return await line.fetchval(statement)
        finally:
            await line.close()

    return asyncio.run(ask())


def can_run_python(uid: int, gid: int) -> bool:
    """Whether this interpreter and this project are within an ordinary user's reach."""
    command = [sys.executable, "-c", "import service.cli.main"]
    try:
        tried = subprocess.run(
            command, cwd=PROJECT, user=uid, group=gid, extra_groups=[], capture_output=True, check=False, timeout=60
        )
    except OSError:
        return False
    return tried.returncode == 0


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """A folder that every user can enter, as /home is."""
    made = Path(tempfile.mkdtemp(prefix="vestibule-dev-", dir=folders.SHORT_LIVED))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def other_user() -> int:
    """An ordinary user; ourselves, where we are one or where no other can run us."""
    return NOBODY.pw_uid if ROOT and can_run_python(NOBODY.pw_uid, NOBODY.pw_gid) else os.geteuid()


@pytest.fixture(scope="module")
def servers_elsewhere(servers: Servers) -> Iterator[dict[str, str]]:
    """The environment that leads to servers that run already."""
    with _own_database(servers.database_url) as url:
        yield {"DATABASE_URL": url, "REDIS_URL": servers.redis_url}


@pytest.fixture(scope="module")
def runs(logs: Path, elsewhere: Path, other_user: int, servers_elsewhere: dict[str, str]) -> Iterator[dict[str, Dev]]:
    """Three at once: one with a folder of ours, one of an ordinary user, one on servers that run already."""
    home = elsewhere / "home"
    home.mkdir(mode=0o700)
    os.chown(home, other_user, -1)
    with ExitStack() as stack:
        made = {
            "ours": Dev(logs / "data of ours", logs / "ours"),
            "theirs": Dev(home / "data", logs / "theirs", uid=other_user),
            "outside": Dev(logs / "data of nobody", logs / "outside", environ=servers_elsewhere),
        }
        for one in made.values():
            stack.callback(one.stop)
        yield {name: one.ready() for name, one in made.items()}


@pytest.fixture(scope="module")
def ours(runs: dict[str, Dev]) -> Dev:
    return runs["ours"]


def test_it_is_ready_within_seconds_and_says_where(ours: Dev) -> None:
    found = re.search(r"Vestibule is ready \((\d+\.\d) s\)", ours.said)
    assert found is not None
    assert float(found[1]) < READY / 2
    for told in (str(ours.data), f"{ours.url}/docs", f"{ours.url}/dev/mailbox", ours.env["VESTIBULE_CLIENT_SECRET"]):
        assert told in ours.said
    assert httpx.get(f"{ours.url}/readyz").status_code == 200


def test_the_three_lines_work_exactly_as_printed(ours: Dev) -> None:
    assert len(ours.lines_to_try.splitlines()) == 3
    registration, token, told = bash(ours.lines_to_try).splitlines()
    assert registration.startswith("vrg_")
    assert token.count(".") == 2
    assert json.loads(told)["active"] is True


def test_the_environment_file_is_for_the_shell_and_for_its_owner(ours: Dev) -> None:
    assert stat.filemode((ours.data / "dev.env").stat().st_mode) == "-rw-------"
    assert stat.filemode(ours.data.stat().st_mode) == "drwx------"
    asked = 'curl -s -u "$VESTIBULE_CLIENT_ID:$VESTIBULE_CLIENT_SECRET" "$VESTIBULE_URL/introspect" -d token=x'
    assert bash(f"set -e; source '{ours.data / 'dev.env'}'; {asked}") == '{"active":false}'


def test_the_mailbox_shows_the_newest_first_and_can_be_emptied(ours: Dev) -> None:
    people = [ours.sign_up() for _ in range(2)]
    newest = ours.mailbox()[:2]
    assert [mail["to"] for mail in newest] == [f"{name}@example.com" for name in reversed(people)]
    assert all(mail.keys() == {"to", "subject", "text", "html", "sent_at"} for mail in newest)
    page = httpx.get(f"{ours.url}/dev/mailbox")
    assert page.headers["content-type"].startswith("text/html")
    assert page.text.index(people[1]) < page.text.index(people[0])
    assert httpx.delete(f"{ours.url}/dev/mailbox").status_code == 204
    assert ours.mailbox() == []


def test_the_metrics_are_where_it_says(ours: Dev) -> None:
    (address,) = re.findall(r"^  metrics +(http\S+)$", ours.said, re.MULTILINE)
    assert address == f"http://127.0.0.1:{ours.port + METRICS_DISTANCE}/metrics"
    assert "vestibule_build_info" in httpx.get(address).text


def test_runs_in_two_folders_know_nothing_of_each_other(runs: dict[str, Dev]) -> None:
    ours, theirs = runs["ours"], runs["theirs"]
    assert ours.env["VESTIBULE_CLIENT_SECRET"] != theirs.env["VESTIBULE_CLIENT_SECRET"]
    name = theirs.sign_up()
    assert (theirs.login(name), ours.login(name)) == (200, 401)


def test_an_ordinary_user_owns_what_it_writes(runs: dict[str, Dev], other_user: int) -> None:
    theirs = runs["theirs"]
    assert psutil.Process(theirs.process.pid).uids().real == other_user
    assert {file.stat().st_uid for file in theirs.data.iterdir()} == {other_user}


def test_servers_of_the_environment_are_used_instead(runs: dict[str, Dev], servers_elsewhere: dict[str, str]) -> None:
    outside = runs["outside"]
    assert len(outside.family()) == 1
    assert sorted(one.name for one in outside.data.iterdir()) == ["avatars", "dev.env", "root.key"]
    name = outside.sign_up()
    assert query(servers_elsewhere["DATABASE_URL"], "SELECT nickname FROM accounts WHERE nickname <> 'admin'") == name
    assert outside.end(signal.SIGINT) == 0


def test_a_port_in_use_is_told_in_one_line(ours: Dev, logs: Path, tmp_path: Path) -> None:
    second = Dev(tmp_path / "data", logs / "refused", port=ours.port)
    assert second.process.wait(READY) == 1
    (line,) = second.said.splitlines()
    assert str(ours.port) in line
    assert "--port" in line
    assert not second.data.exists()


def test_a_second_run_on_the_folder_shares_accounts_and_secret(ours: Dev, logs: Path) -> None:
    name, secret = ours.sign_up(), ours.env["VESTIBULE_CLIENT_SECRET"]
    second = Dev(ours.data, logs / "second").ready()
    try:
        assert second.login(name) == 200
        assert second.env["VESTIBULE_CLIENT_SECRET"] == secret
        assert len(second.family()) == 1
    finally:
        second.end(signal.SIGINT)
    assert ours.login(name) == 200


def test_data_survive_every_end_and_nothing_is_left_running(ours: Dev, logs: Path) -> None:
    name, secret = ours.sign_up(), ours.env["VESTIBULE_CLIENT_SECRET"]
    current, codes = ours, []
    try:
        for number, sent in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)):
            codes.append(current.end(sent))
            assert "Traceback" not in current.said
            current = Dev(ours.data, logs / f"again-{number}").ready()
            assert current.login(name) == 200
            assert current.env["VESTIBULE_CLIENT_SECRET"] == secret
            assert current.env["VESTIBULE_URL"] == current.url
        family = current.family()
        next(one for one in family if "valkey" in one.name()).kill()
        assert current.process.wait(60) is not None
        assert comes_true(lambda: not any(map(is_active, family)), 30)
        assert "were stopped" in current.said
        assert "Traceback" not in current.said
    finally:
        current.stop()
    assert codes == [0, 128 + signal.SIGTERM, -signal.SIGKILL]


def commands(group: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command, by the words that call it."""
    yield path, group
    for name, one in getattr(group, "commands", {}).items():
        yield from commands(one, *path, name)


COMMANDS = {" ".join(("vestibule", *path)): (path, command) for path, command in commands(main)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_options(name: str) -> None:
    path, command = COMMANDS[name]
    told = CliRunner().invoke(main, [*path, "--help"])
    assert told.exit_code == 0
    assert command.help is not None
    assert command.help.split()[0] in told.output
    options = [one for parameter in command.params if isinstance(parameter, click.Option) for one in parameter.opts]
    assert [option for option in options if option not in told.output] == []


def test_the_module_is_the_command() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "service", "--version"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout.split()[0]) == (0, "vestibule,")

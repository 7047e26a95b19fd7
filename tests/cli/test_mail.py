"""`vestibule mail`: anybody can read what we write, and operators see what nobody took, never what it says."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result

from service.cli.mail import mail
from service.languages import LANGUAGES
from service.mail.message import NoTransport
from service.mail.outbox import Outbox
from service.mail.templates import NAMES
from service.settings import load
from service.store.schema import migrate
from service.wiring import build
from tests.conftest import Servers, _own_database, root_key

PROJECT = Path(__file__).parents[2]


def preview(*arguments: str) -> Result:
    return CliRunner().invoke(mail, ["preview", *arguments])


def test_every_message_is_printed_in_every_language() -> None:
    result = preview()

    assert result.exit_code == 0
    headings = [line for line in result.stdout.splitlines() if line.startswith("--- ")]
    assert headings == [f"--- {language}/{name}" for language in LANGUAGES for name in NAMES]
    assert "Subject: Confirm your address\n\nHello ann,\n\nYou are almost there: your code is 012345\n" in result.stdout


def test_one_message_in_one_language_is_printed() -> None:
    result = preview("reset", "--language", "ko")

    assert result.exit_code == 0
    assert result.stdout.startswith("--- ko/reset\nSubject: 새 비밀번호를 설정해 주세요\n\nann님, 안녕하세요.\n")
    assert result.stdout.count("Subject:") == 1


def test_the_html_part_is_printed_when_asked_for() -> None:
    result = preview("reset", "--language", "ja", "--html")

    assert result.exit_code == 0
    assert result.stdout.startswith('<!doctype html>\n<html lang="ja"')
    assert "Subject:" not in result.stdout


def test_a_folder_gets_both_parts_of_each(tmp_path: Path) -> None:
    result = preview("--out", str(tmp_path / "new"))

    assert (result.exit_code, result.stdout) == (0, "")
    written = {str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*.*")}
    assert written == {
        f"{language}/{name}.{kind}" for language in LANGUAGES for name in NAMES for kind in ("txt", "html")
    }
    assert (
        (tmp_path / "new/ja/reset.txt").read_text("utf-8").startswith("新しいパスワードを設定してください\n\nann さん")
    )
    assert (tmp_path / "new/ja/reset.html").read_text("utf-8").startswith("<!doctype html>")


def test_a_message_that_does_not_exist_is_refused_in_one_line_that_names_those_that_do() -> None:
    result = preview("verfy")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("vestibule: there is no mail verfy; there are verify, ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("language", ["fr", ""])
def test_a_language_we_do_not_write_is_refused(language: str) -> None:
    assert preview("--language", language).exit_code == 2


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = preview("--out", str(tmp_path / "file"))

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("vestibule: cannot write to ")
    assert result.stderr.count("\n") == 1


# What has not left


@pytest.fixture(scope="module")
def database(servers: Servers) -> Iterator[str]:
    """A database whose mails no worker delivers."""
    with _own_database(servers.database_url) as url:
        migrate(url)
        yield url


@pytest.fixture
def production(environ: dict[str, str], database: str) -> dict[str, str]:
    """The environment of an operator before an empty outbox."""

    async def empty() -> None:
        line = await asyncpg.connect(database.replace("+asyncpg", ""), timeout=10)
        await line.execute("TRUNCATE outbox RESTART IDENTITY; TRUNCATE audit_events")
        await line.close()

    asyncio.run(empty())
    return {**environ, "DATABASE_URL": database}


def vestibule(environ: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", "mail", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True, text=True, check=False, timeout=60)


def with_outbox(environ: dict[str, str], action: Callable[[Outbox], Awaitable[None]]) -> None:
    async def run() -> None:
        services = build(load(environ), mail=lambda _: NoTransport())
        try:
            await action(services.outbox)
        finally:
            await services.close()

    asyncio.run(run())


async def fill(outbox: Outbox) -> None:
    """One that waits, two dead letters, one that waits behind a dead one, and a stand-in for nothing."""
    async with outbox.database.begin() as transaction:
        for number, name in enumerate(("ann", "bob", "cat", "bob"), 1):
            outbox.post(transaction, "verify", f"{name}@example.com", "en", code=f"91827{number}")
            await transaction.flush()
        outbox.post_nothing(transaction)
    _, bob, cat, _, _ = await outbox.waiting()
    for row in await outbox.claim(3, timedelta(seconds=40)):
        if row.id == bob.id:
            await outbox.bury(row, "recipient refused")
        elif row.id == cat.id:
            await outbox.bury(row, "content refused")
        else:
            await outbox.postpone(row, timedelta(minutes=5), "SMTPConnectError")


def columns(line: str) -> list[str]:
    return re.split(r"  +", line)


def test_when_nothing_waits_it_says_so_and_nothing_is_tried_again(production: dict[str, str]) -> None:
    listed, tried = vestibule(production, "list"), vestibule(production, "retry")

    assert (listed.returncode, listed.stdout, listed.stderr) == (0, "nothing waits\n", "")
    assert (tried.returncode, tried.stdout, tried.stderr) == (0, "0 dead letters are tried again\n", "")


@pytest.mark.standard("LO-19")
def test_what_has_not_left_is_listed_the_oldest_first_with_its_reason_and_masked(production: dict[str, str]) -> None:
    with_outbox(production, fill)
    result = vestibule(production, "list")

    assert (result.returncode, result.stderr) == (0, "")
    headings, *lines = result.stdout.splitlines()
    assert columns(headings) == ["id", "template", "to", "age", "tries", "state", "reason"]
    since = r"(waiting|dead) since \d{4}-\d\d-\d\d \d\d:\d\d UTC"
    for line in lines:
        assert re.fullmatch(r"\d+ (s|min)", columns(line)[3]), line
        assert re.fullmatch(since, columns(line)[5]), line
    told = [(*columns(line)[:3], columns(line)[4], columns(line)[5].split()[0], *columns(line)[6:]) for line in lines]
    assert told == [
        ("1", "verify", "a…@example.com", "1", "waiting", "SMTPConnectError"),
        ("2", "verify", "b…@example.com", "1", "dead", "recipient refused"),
        ("3", "verify", "c…@example.com", "1", "dead", "content refused"),
        ("4", "verify", "b…@example.com", "0", "waiting"),
    ]
    for private in ("ann", "bob@", "cat", "91827"):
        assert private not in result.stdout


def test_a_letter_whose_root_key_is_gone_is_listed_without_its_recipient(production: dict[str, str]) -> None:
    with_outbox(production, fill)
    result = vestibule({**production, "VESTIBULE_KEYS": root_key()}, "list")

    assert (result.returncode, result.stderr) == (0, "")
    assert [columns(line)[2] for line in result.stdout.splitlines()[1:]] == ["(its root key is gone)"] * 4
    assert "@" not in result.stdout


def test_dead_letters_are_tried_again_those_that_are_named_or_all(production: dict[str, str]) -> None:
    with_outbox(production, fill)

    one = vestibule(production, "retry", "3", "3")
    assert (one.returncode, one.stdout, one.stderr) == (0, "1 dead letter is tried again\n", "")
    states = [columns(line)[5].split()[0] for line in vestibule(production, "list").stdout.splitlines()[1:]]
    assert states == ["waiting", "dead", "waiting", "waiting"]
    rest = vestibule(production, "retry")
    assert (rest.returncode, rest.stdout) == (0, "1 dead letter is tried again\n")

    async def is_due(outbox: Outbox) -> None:
        assert {2, 3} <= {row.id for row in await outbox.claim(5, timedelta(seconds=40))}

    with_outbox(production, is_due)


def test_ids_that_are_not_those_of_dead_letters_are_told(production: dict[str, str]) -> None:
    with_outbox(production, fill)
    result = vestibule(production, "retry", "1", "2", "99", str(2**63 - 1))

    assert (result.returncode, result.stdout) == (1, "1 dead letter is tried again\n")
    assert result.stderr == "vestibule: 3 of 4 ids are not those of dead letters: see `vestibule mail list`\n"


@pytest.mark.parametrize("identifier", ["0", "-1", "all", str(2**63)])
def test_what_is_no_id_is_refused_before_anything_is_tried(identifier: str) -> None:
    assert CliRunner().invoke(mail, ["retry", identifier]).exit_code == 2


def test_who_looks_without_a_database_is_told_in_one_line(production: dict[str, str]) -> None:
    away = {**production, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    for arguments in (("list",), ("retry",)):
        result = vestibule(away, *arguments)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("vestibule: ")
        assert result.stderr.count("\n") == 1

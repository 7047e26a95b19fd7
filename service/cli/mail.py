"""`vestibule mail`: what mails say, and what became of those that nobody took."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import click

from service.cli.running import MISUSED, end, with_services
from service.crypto.sealing import UnsealError
from service.languages import LANGUAGES
from service.mail.message import Mail
from service.mail.outbox import NOTHING, OutboxRow
from service.mail.samples import SAMPLES
from service.mail.templates import NAMES, Templates
from service.wiring import Services

HEADINGS = ("id", "template", "to", "age", "tries", "state", "reason")
UNREADABLE = "(its root key is gone)"
HIGHEST_ID = 2**63 - 1


@click.group()
def mail() -> None:
    """Look at the mails, and send dead letters again."""


@mail.command()
@click.argument("name", required=False)
@click.option("--language", type=click.Choice(LANGUAGES), help="One language; all when left out.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for <language>/<name>.txt and .html.")
@click.option("--html", is_flag=True, help="Print the HTML part instead of the text.")
def preview(name: str | None, language: str | None, out: Path | None, html: bool) -> None:
    """Show the message NAME, or every one, filled in with samples. Sends nothing and needs no settings."""
    if name is not None and name not in NAMES:
        end(f"there is no mail {name}; there are {', '.join(NAMES)}", MISUSED)
    templates = Templates()
    for chosen in [language] if language else LANGUAGES:
        for message in [name] if name else NAMES:
            filled = templates.render(message, "ann@example.com", chosen, SAMPLES[message])
            if out:
                _write(out, message, filled)
            else:
                click.echo(_printed(message, filled, html))


@mail.command("list")
def list_mails() -> None:
    """Show every mail that has not left, the oldest first. Addresses are masked."""
    lines = with_services(_lines)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    if len(lines) == 1:
        click.echo("nothing waits")
        return
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@mail.command()
@click.argument("ids", nargs=-1, metavar="[ID]...", type=click.IntRange(1, HIGHEST_ID))
def retry(ids: tuple[int, ...]) -> None:
    """Try dead letters again: those with these IDs, or all. The running service delivers them."""
    chosen = set(ids)
    count = with_services(lambda s: _retry(s, sorted(chosen)))
    click.echo(f"{count} dead {'letter is' if count == 1 else 'letters are'} tried again")
    if count < len(chosen):
        end(f"{len(chosen) - count} of {len(chosen)} ids are not those of dead letters: see `vestibule mail list`")


async def _lines(services: Services) -> list[tuple[str, ...]]:
    rows = [row for row in await services.outbox.waiting() if row.template != NOTHING]
    return [HEADINGS, *(_line(services, row) for row in rows)]


def _line(services: Services, row: OutboxRow) -> tuple[str, ...]:
    state = "dead" if row.dead_at else "waiting"
    since = f"{state} since {row.dead_at or row.created_at:%Y-%m-%d %H:%M} UTC"
    age = _told(services.clock() - row.created_at)
    return (str(row.id), row.template, _recipient(services, row), age, str(row.tries), since, row.reason or "")


def _recipient(services: Services, row: OutboxRow) -> str:
    try:
        name, _, domain = services.outbox.open(row).to.rpartition("@")
    except UnsealError:
        return UNREADABLE
    return f"{name[:1]}…@{domain}"


def _told(age: timedelta) -> str:
    """The largest unit that fits: `3 d`, `5 h`, `12 min`, `40 s`."""
    seconds = max(0, int(age.total_seconds()))
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


async def _retry(services: Services, ids: Sequence[int]) -> int:
    count = await services.outbox.revive(ids)
    services.audit.record("mail.retry", count=count)
    return count


def _write(out: Path, name: str, filled: Mail) -> None:
    folder = out / filled.language
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(f"{filled.subject}\n\n{filled.text}", encoding="utf-8")
        (folder / f"{name}.html").write_text(filled.html, encoding="utf-8")
    except OSError as error:
        end(f"cannot write to {folder}: {error.strerror}")


def _printed(name: str, filled: Mail, html: bool) -> str:
    if html:
        return filled.html
    return f"--- {filled.language}/{name}\nSubject: {filled.subject}\n\n{filled.text}"

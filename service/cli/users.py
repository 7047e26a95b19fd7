"""`vestibule user` and `vestibule sessions`: people, from the operator's side."""

import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import click

from service.accounts.mass_sign_out import Progress, WhoseSessions
from service.accounts.models import Account
from service.cli.running import end, with_services
from service.tokens.scopes import ADMIN
from service.wiring import Services

BY = "command line"


@click.group()
def user() -> None:
    """Create, appoint and disable accounts."""


@user.command()
@click.option("--email", required=True)
@click.option("--nickname", required=True)
@click.option("--role", "roles", multiple=True, help="A role of the account; may be given several times.")
@click.option("--admin", is_flag=True, help="The role `admin`: may do everything below /admin.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
def create(email: str, nickname: str, roles: tuple[str, ...], admin: bool, password_stdin: bool) -> None:
    """Make an account whose address you vouch for. Asks for the password unless told otherwise.

    There is no default and no generated password: what a system made must not stay a password (ASVS 6.4.1).
    """
    password = _password(password_stdin)
    roles = (*roles, ADMIN) if admin else roles
    account = with_services(lambda s: s.administration.create(email, nickname, password, roles))
    click.echo(f"id        {account.id}")


@user.command()
@click.argument("name")
def disable(name: str) -> None:
    """Shut the account with this e-mail address or NICKNAME out and end all its sessions, at once."""
    account = _changed(name, lambda s, account: s.administration.disable(account, by=BY))
    click.echo(f"{account.nickname} ({account.id}) is disabled and signed out everywhere")


@user.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let the account with this e-mail address or NICKNAME in again."""
    account = _changed(name, lambda s, account: s.administration.enable(account, by=BY))
    click.echo(f"{account.nickname} ({account.id}) may sign in again")


@user.command()
@click.argument("name")
@click.argument("roles", nargs=-1)
def roles(name: str, roles: tuple[str, ...]) -> None:
    """Give the account with this e-mail address or NICKNAME exactly these ROLES; none takes all away."""
    account = _changed(name, lambda s, account: s.administration.set_roles(account, roles, by=BY))
    click.echo(f"{account.nickname} ({account.id}) has {', '.join(account.roles) or 'no roles'}")


@user.command("require-password-change")
@click.argument("name")
def require_password_change(name: str) -> None:
    """Make a password worthless and end all sessions. The next sign-in mails a link for a new one."""
    account = _changed(name, lambda s, account: s.administration.require_password_change(account, by=BY))
    click.echo(f"{account.nickname} ({account.id}) needs a new password and is signed out everywhere")


@click.group()
def sessions() -> None:
    """End sessions, of one account or of many."""


@sessions.command("end")
@click.option("--user", "name", help="The e-mail address or nickname of one account.")
@click.option("--role", help="Those of everybody with this role.")
@click.option("--client", help="Those that were opened through this front end.")
@click.option("--opened-before", type=click.DateTime(), help="Those opened before this time (UTC).")
@click.option("--everybody", is_flag=True, help="All of them.")
def end_sessions(
    name: str | None, role: str | None, client: str | None, opened_before: datetime | None, everybody: bool
) -> None:
    """End sessions at once, in every worker. Running it again does what was left."""
    is_filtered = role is not None or client is not None or opened_before is not None
    if [name is not None, is_filtered, everybody].count(True) != 1:
        raise click.UsageError("give --user, or --role, --client and --opened-before, or --everybody")
    if name is not None:
        account = _changed(name, _end_of_one)
        click.echo(f"{account.nickname} ({account.id}) is signed out everywhere")
        return
    before = opened_before.replace(tzinfo=UTC) if opened_before else None
    wanted = WhoseSessions(role=role, client=client, opened_before=before)
    last = with_services(lambda services: _end_of_many(services, wanted))
    click.echo(f"{last.ended} sessions ended, {last.looked_at} looked at")


async def _end_of_one(services: Services, account: UUID) -> Account:
    await services.administration.end_sessions(account, by=BY)
    return await services.directory.read(account)


async def _end_of_many(services: Services, wanted: WhoseSessions) -> Progress:
    last = Progress(0, 0, 0)
    await services.clients.reload()  # whether a session that only the journal knows still lives is up to its client
    async for last in services.mass_sign_out.run(wanted, by=BY):
        click.echo(f"{last.looked_at} of {last.total}", err=True)
    return last


def _changed(name: str, change: Callable[[Services, UUID], Awaitable[Account]]) -> Account:
    """Does something to the account of this name; ends the process when there is none."""
    account = with_services(lambda services: _change(services, name, change))
    if account is None:
        end(f"there is no account {name}")
    return account


async def _change(
    services: Services, name: str, change: Callable[[Services, UUID], Awaitable[Account]]
) -> Account | None:
    found = await services.administration.find(name)
    return await change(services, found.id) if found else None


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return answer

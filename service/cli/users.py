"""`vestibule user`: accounts, from the operator's side."""

import sys

import click

from service.accounts.models import Account
from service.cli.running import end, with_services
from service.wiring import Services


@click.group()
def user() -> None:
    """Create and disable accounts."""


@user.command()
@click.option("--email", required=True)
@click.option("--nickname", required=True)
@click.option("--role", "roles", multiple=True, help="A role of the account; may be given several times.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
def create(email: str, nickname: str, roles: tuple[str, ...], password_stdin: bool) -> None:
    """Make an account whose address you vouch for. Asks for the password unless told otherwise.

    There is no default and no generated password: what a system made must not stay a password (ASVS 6.4.1).
    """
    password = _password(password_stdin)
    account = with_services(lambda s: s.administration.create(email, nickname, password, roles))
    click.echo(f"id        {account.id}")


@user.command()
@click.argument("name")
def disable(name: str) -> None:
    """Shut the account with this e-mail address or NICKNAME out and end all its sessions, at once."""
    account = with_services(lambda s: _disable(s, name))
    if account is None:
        end(f"there is no account {name}")
    click.echo(f"{account.nickname} ({account.id}) is disabled and signed out everywhere")


async def _disable(services: Services, name: str) -> Account | None:
    account = await services.administration.find(name)
    if account is not None:
        await services.administration.disable(account.id)
    return account


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return answer

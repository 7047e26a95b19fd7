"""`vestibule client`: the software that may act here."""

import click

from service.cli.running import end, with_services
from service.wiring import Services


@click.group()
def client() -> None:
    """Register, list and disable clients (front ends and services)."""


@client.command()
@click.argument("client_id")
@click.option("--name", default="", help="What people read; the id when left out.")
@click.option("--public", "kind", flag_value="public", help="A front end: no secret.")
@click.option("--confidential", "kind", flag_value="confidential", default=True, help="A service: gets a secret.")
@click.option("--introspect", is_flag=True, help="It may call /introspect (confidential clients only).")
def create(client_id: str, name: str, kind: str, introspect: bool) -> None:
    """Register CLIENT_ID and print its secret, which is shown this once."""
    confidential = kind == "confidential"
    if introspect and not confidential:
        raise click.UsageError("--introspect needs a confidential client")
    try:
        secret = with_services(lambda s: _create(s, client_id, name or client_id, confidential, introspect))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"client_id      {client_id}")
    if secret:
        click.echo(f"client_secret  {secret}")
        click.echo("Keep the secret now: only a digest of it is stored.", err=True)


@client.command("list")
def list_clients() -> None:
    """Show every client."""
    rows = with_services(lambda s: s.clients.list())
    for row in rows:
        kind = "confidential" if row.is_confidential else "public"
        rights = "introspects" if row.may_introspect else "-"
        state = f"disabled {row.disabled_at:%Y-%m-%d}" if row.disabled_at else "enabled"
        click.echo(f"{row.id:<24} {kind:<13} {rights:<12} {state:<20} {row.name}")
    if not rows:
        click.echo("no clients", err=True)


@client.command()
@click.argument("client_id")
def disable(client_id: str) -> None:
    """Shut CLIENT_ID out: its credentials and the tokens it was given stop working within seconds."""
    if not with_services(lambda s: _disable(s, client_id)):
        end(f"there is no client {client_id}")
    click.echo(f"{client_id} is disabled")


async def _create(services: Services, client_id: str, name: str, confidential: bool, introspect: bool) -> str | None:
    secret = await services.clients.create(client_id, name, confidential=confidential, may_introspect=introspect)
    services.audit.record("client.create", client=client_id, confidential=confidential, introspects=introspect)
    return secret


async def _disable(services: Services, client_id: str) -> bool:
    known = await services.clients.disable(client_id)
    services.audit.record("client.disable", "ok" if known else "unknown", client=client_id)
    return known

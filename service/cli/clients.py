"""`vestibule client` and `vestibule api`: the software that may act here, and what it may ask tokens for."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from service import strict_json
from service.cli.running import with_services
from service.clock import utc_now
from service.tokens.client_administration import ClientChanges, NewSecret
from service.tokens.client_rules import GRANTS
from service.tokens.clients import CLIENT_ID, METHODS, Client

BY = "command line"
LISTS = ("grants", "scopes", "audiences", "serves", "redirect_uris", "origins", "auth_methods")


@click.group()
def client() -> None:
    """Register, change and disable clients (front ends and services), and give them secrets."""


@client.command()
@click.argument("client_id")
@click.option("--name", default="", help="What people read; the id when left out.")
@click.option("--public", "kind", flag_value="public", help="A front end: no secret.")
@click.option("--confidential", "kind", flag_value="confidential", default=True, help="A service: gets a secret.")
@click.option("--introspect", is_flag=True, help="It may call /introspect (confidential clients only).")
@click.option("--grant", "grants", multiple=True, type=click.Choice(GRANTS), help="A grant of /token; repeatable.")
@click.option("--scope", "scopes", multiple=True, help="A scope it may have; repeatable.")
@click.option("--audience", "audiences", multiple=True, help="An API it may ask tokens for; repeatable.")
@click.option("--serves", multiple=True, help="An API whose tokens it may introspect; repeatable. Ours when left out.")
@click.option("--origin", "origins", multiple=True, help="A web origin that may call us with it; repeatable.")
@click.option("--redirect-uri", "redirect_uris", multiple=True, help="Where people may be sent back; repeatable.")
@click.option("--auth-method", "auth_methods", multiple=True, type=click.Choice(METHODS), help="Repeatable.")
@click.option("--jwks", type=click.File(), help="A file with its public keys, for private_key_jwt.")
def create(client_id: str, kind: str, introspect: bool, jwks: Any, **given: Any) -> None:
    """Register CLIENT_ID and print its secret, which is shown this once."""
    confidential = kind == "confidential"
    if not CLIENT_ID.fullmatch(client_id):
        raise click.UsageError("a client id starts with a letter and holds 2 to 63 of a-z 0-9 _ -")
    if introspect and not confidential:
        raise click.UsageError("--introspect needs a confidential client")
    values: dict[str, Any] = {name: list(given[name]) for name in LISTS if given[name]}
    if jwks is not None:
        values["jwks"] = _json(jwks)
    changes = ClientChanges(name=given["name"] or client_id, may_introspect=introspect, **values)
    _, secret = with_services(
        lambda s: s.client_administration.register(client_id, changes, confidential=confidential, by=BY)
    )
    click.echo(f"client_id      {client_id}")
    if secret:
        _show(secret)


@client.command("list")
def list_clients() -> None:
    """Show every client."""
    rows = with_services(lambda s: s.client_administration.every())
    for row in rows:
        kind = "confidential" if row.is_confidential else "public"
        rights = "introspects" if row.may_introspect else "-"
        state = f"disabled {row.disabled_at:%Y-%m-%d}" if row.disabled_at else "enabled"
        click.echo(f"{row.id:<24} {kind:<13} {rights:<12} {state:<20} {row.name}")
    if not rows:
        click.echo("no clients", err=True)


@client.command()
@click.argument("client_id")
def show(client_id: str) -> None:
    """Show how CLIENT_ID is registered, and its live secrets without the secrets."""
    for line in _lines(with_services(lambda s: s.client_administration.read(client_id))):
        click.echo(line)


@client.command()
@click.argument("client_id")
@click.argument("values", type=click.File())
def change(client_id: str, values: Any) -> None:
    """Change CLIENT_ID by a JSON file (or -) with what to change, named as in PATCH /admin/clients/{id}."""
    try:
        changes = msgspec.convert(_json(values), ClientChanges)
    except msgspec.ValidationError as error:
        raise click.UsageError(str(error)) from None
    with_services(lambda s: s.client_administration.change(client_id, changes, by=BY))
    click.echo(f"{client_id} is changed")


@client.command()
@click.argument("client_id")
def disable(client_id: str) -> None:
    """Shut CLIENT_ID out: its credentials and the tokens it was given stop working at once."""
    with_services(lambda s: s.client_administration.set_disabled(client_id, True, by=BY))
    click.echo(f"{client_id} is disabled")


@client.command()
@click.argument("client_id")
def enable(client_id: str) -> None:
    """Let CLIENT_ID in again."""
    with_services(lambda s: s.client_administration.set_disabled(client_id, False, by=BY))
    click.echo(f"{client_id} is enabled")


@client.command("add-secret")
@click.argument("client_id")
@click.option("--days", type=click.IntRange(1, 3650), help="How long it lives; for good when left out.")
def add_secret(client_id: str, days: int | None) -> None:
    """Give CLIENT_ID a second secret. Both work until you end the old one: no request fails in between."""
    life = timedelta(days=days) if days else None
    _show(with_services(lambda s: s.client_administration.add_secret(client_id, life, by=BY)))


@client.command("end-secret")
@click.argument("client_id")
@click.argument("secret_id", type=click.UUID)
def end_secret(client_id: str, secret_id: UUID) -> None:
    """End one secret of CLIENT_ID; `client show` tells their ids."""
    with_services(lambda s: s.client_administration.end_secret(client_id, secret_id, by=BY))
    click.echo("the secret opens nothing any more")


@click.group()
def api() -> None:
    """Register the APIs that tokens may be for (`aud`), and their scopes."""


@api.command("create")
@click.argument("identifier")
@click.option("--name", default="", help="What people read; the identifier when left out.")
@click.option("--scope", "scopes", multiple=True, help="A scope that means something to it; repeatable.")
def create_api(identifier: str, name: str, scopes: tuple[str, ...]) -> None:
    """Register the API called IDENTIFIER, a URI such as https://orders.example.com."""
    with_services(lambda s: s.client_administration.register_api(identifier, name or identifier[:100], scopes, by=BY))
    click.echo(f"{identifier} is registered")


@api.command("list")
def list_apis() -> None:
    """Show every API."""
    for row in with_services(lambda s: s.client_administration.apis()):
        click.echo(f"{row.identifier:<40} {' '.join(row.scopes)}")


@api.command("remove")
@click.argument("identifier")
def remove_api(identifier: str) -> None:
    """Forget the API called IDENTIFIER: tokens for it are inactive from then on."""
    with_services(lambda s: s.client_administration.remove_api(identifier, by=BY))
    click.echo(f"{identifier} is removed")


def _show(secret: NewSecret) -> None:
    click.echo(f"secret_id      {secret.id}")
    if secret.expires_at:
        click.echo(f"expires        {secret.expires_at:%Y-%m-%d %H:%M} UTC")
    click.echo(f"client_secret  {secret.secret}")
    click.echo("Keep the secret now: only a digest of it is stored.", err=True)


def _lines(row: Client) -> list[str]:
    now = utc_now()
    shown = {name: getattr(row, name) for name in ClientChanges.__struct_fields__ if name != "jwks"}
    lines = [f"{'client_id':<18} {row.id}", f"{'state':<18} {'disabled' if row.disabled_at else 'enabled'}"]
    for name, value in shown.items():
        text = " ".join(value) if isinstance(value, list) else str(value)
        lines.append(f"{name:<18} {text if value is not None and text else '-'}")
    for held in row.secrets:
        until = f"until {held.expires_at:%Y-%m-%d %H:%M}" if held.expires_at else "for good"
        lines.append(f"{'secret':<18} {held.id} {until}{'' if held.is_live(now) else ' (over)'}")
    return lines


def _json(file: Any) -> dict[str, Any]:
    try:
        read = strict_json.loads(file.read().encode())
    except ValueError:
        raise click.UsageError(f"{Path(file.name).name} is not JSON") from None
    if not isinstance(read, dict):
        raise click.UsageError(f"{Path(file.name).name} holds no JSON object")
    return read

"""`vestibule keys`: the signing keys, and root keys for the environment."""

import base64
import secrets

import click

from service.cli.running import with_services
from service.crypto.keyring import SigningKey
from service.crypto.roots import KEY_BYTES, MAX_KEY_ID
from service.operations.rewrapping import Rewrapped
from service.wiring import Services


@click.group()
def keys() -> None:
    """Signing keys: list, rotate, revoke. Root keys: generate one, and move to it (rewrap)."""


@keys.command("list")
def list_keys() -> None:
    """Show every signing key that signs, will sign, or is still believed."""
    for line in with_services(_lines):
        click.echo(line)


@keys.command()
def rotate() -> None:
    """Let the next key take over, without a restart and without anybody noticing.

    The next key is in the JWKS already; it begins to sign when every cache of the JWKS has seen it.
    """
    scheduled, successor = with_services(_rotate)
    click.echo(f"{scheduled.kid}  signs from {scheduled.activates_at:%Y-%m-%d %H:%M:%S} UTC")
    click.echo(f"{successor.kid}  is published as the next one")


@keys.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("kid")
@click.confirmation_option(prompt="Every token that this key signed ends now. Go on?")
def revoke(kid: str) -> None:
    """End all trust in the signing key KID at once: for a key that got out. (One KID in 64 begins with a hyphen.)

    Running services hear of it at once, or within VESTIBULE_KEY_REFRESH when they miss the word. Who verifies tokens
    alone believes the key for as long as the JWKS is cached (VESTIBULE_JWKS_MAX_AGE).
    """
    signing = with_services(lambda services: _revoke(services, kid))
    click.echo(f"{kid}  is believed no more")
    click.echo(f"{signing.kid}  signs now")


@keys.command()
def rewrap() -> None:
    """Seal with the first key of VESTIBULE_KEYS what an older one sealed, and tell what still needs the older ones.

    Works beside running services, as often as you like. How to change VESTIBULE_KEYS is in deploy/README.md.
    """
    report = with_services(_rewrap)
    click.echo(f"sealed anew: {report.keys} signing keys, {report.mails} mails, {report.identities} identities")
    for key_id, needs in sorted(report.needed.items()):
        click.echo(f"key {key_id} is still needed: {', '.join(f'{what} {count}' for what, count in needs.items())}")
    if not report.needed:
        click.echo("older keys are needed by refresh tokens alone, until the sessions that do not refresh have ended")


@keys.command()
@click.option("--number", default=1, show_default=True, type=click.IntRange(1, MAX_KEY_ID), help="One more each time.")
def generate(number: int) -> None:
    """Print a root key for VESTIBULE_KEYS. How to rotate is in deploy/README.md."""
    key = base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).rstrip(b"=").decode()
    click.echo(f"{number}:{key}")


async def _rotate(services: Services) -> tuple[SigningKey, SigningKey]:
    scheduled, successor = await services.signing_keys.rotate()
    services.audit.record("keys.rotate", by="command line", kid=scheduled.kid)
    return scheduled, successor


async def _rewrap(services: Services) -> Rewrapped:
    report = await services.rewrapping.run()
    services.audit.record(
        "keys.rewrap", by="command line", keys=report.keys, mails=report.mails, identities=report.identities
    )
    return report


async def _revoke(services: Services, kid: str) -> SigningKey:
    signing = await services.signing_keys.revoke(kid)
    services.audit.record("keys.revoke", by="command line", kid=kid)
    return signing


async def _lines(services: Services) -> list[str]:
    await services.signing_keys.reload()
    now = services.clock()
    ring = services.signing_keys.keyring
    return [
        f"{key.kid}  {ring.state(key, now):<8} created {key.created_at:%Y-%m-%d %H:%M}"
        + (f"  signs from {key.activates_at:%Y-%m-%d %H:%M}" if key.activates_at else "")
        for key in ring.keys
    ]

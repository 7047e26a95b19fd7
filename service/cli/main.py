"""`vestibule`: the commands of production, and the group that holds them all."""

import click

from service import __version__
from service.cli.clients import api, client
from service.cli.dev import dev
from service.cli.doctor import doctor
from service.cli.keys import keys
from service.cli.mail import mail
from service.cli.metrics_port import PortTaken, metrics_served
from service.cli.running import MISUSED, end, prepare, settings_or_end, with_services
from service.cli.users import sessions, user
from service.crypto.roots import RootKeys
from service.mail.smtp import Smtp
from service.server import serve as run_server
from service.setting_values import SettingsError
from service.store.schema import migrate as apply_migrations


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vestibule")
def main() -> None:
    """Vestibule signs people up and in, and answers for their tokens to other services."""


@main.command()
@click.option("--host", default="0.0.0.0", show_default=True, help="Where to listen.")  # noqa: S104  in a container
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Where to listen.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes.")
def serve(host: str, port: int, workers: int) -> None:
    """Run the service in production: everything from the environment, nothing by default that is a secret."""
    settings = settings_or_end()
    try:
        RootKeys.parse(settings.keys)
        Smtp.of(settings)
        with metrics_served(settings, workers):
            run_server(settings, host, port, workers)
    except SettingsError as error:
        end(str(error), MISUSED)
    except PortTaken as error:
        end(str(error))


@main.command()
def migrate() -> None:
    """Bring the database up to this version, and make the first signing keys and the default front end.

    Safe to run from several places at once, and again.
    """
    settings = settings_or_end()
    click.echo("migrating …")
    try:
        apply_migrations(settings.database_url)
    except Exception as error:  # noqa: BLE001  whatever the driver raises: the operator gets one line
        end(f"migration failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    with_services(prepare)
    click.echo("the schema is current, signing keys are in place")


for command in (dev, client, api, user, sessions, keys, mail, doctor):
    main.add_command(command)

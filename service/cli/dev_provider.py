"""The fake sign-in provider beside `vestibule dev`: a server of its own, since browsers must see another origin."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import uvicorn

from service import provider_settings
from service.fake_provider.provider import FakeProvider

CLIENT_ID = "vestibule"
SECRET_BYTES = 24
USUAL_DISTANCE = 10_000
"""From the service's port, so that identities of one run are those of the next."""
PORTS = 65_536
SITES = {
    "openid": {"ISSUER": "/openid", "NAME": "Fake OpenID"},
    "discord": {"URL": "/discord", "NAME": "Fake Discord"},
    "github": {"URL": "/github", "NAME": "Fake GitHub"},
}
PATHS = ("ISSUER", "URL")


@dataclass(slots=True)
class DevProvider:
    """The provider, and the socket that it listens on."""

    provider: FakeProvider
    listening: socket.socket
    secret: str
    _server: uvicorn.Server | None = None
    _task: asyncio.Task[None] | None = None

    @classmethod
    def bound(cls, host: str, port: int, shown: str) -> "DevProvider":
        """Listens near the service's `port`, or at any free one when somebody is there; `shown` is the host in URLs."""
        usual = port + USUAL_DISTANCE if port + USUAL_DISTANCE < PORTS else port - USUAL_DISTANCE
        listening = _bound(host, usual)
        secret = secrets.token_urlsafe(SECRET_BYTES)
        url = f"http://{shown}:{listening.getsockname()[1]}"
        return cls(FakeProvider(url, {CLIENT_ID: secret}), listening, secret)

    def settings(self, given: Mapping[str, str]) -> dict[str, str]:
        """What makes the service use it, in the place of each provider that is not set up in the environment."""
        found: dict[str, str] = {}
        for name, site in SITES.items():
            head = f"{provider_settings.PREFIX}{name.upper()}_"
            if any(variable.startswith(head) for variable in given):
                continue
            found |= {f"{head}CLIENT_ID": CLIENT_ID, f"{head}CLIENT_SECRET": self.secret}
            found |= {f"{head}PRIVATE_NETWORK": "true"}
            found |= {
                head + field: f"{self.provider.url}{value}" if field in PATHS else value
                for field, value in site.items()
            }
        return found

    def start(self) -> None:
        """Begins to answer."""
        app: Any = self.provider.app
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Quiet(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self.listening]), name="fake provider")

    async def stop(self) -> None:
        """Ends, within a second."""
        self.provider.closing.set()
        if self._server and self._task:
            self._server.should_exit = True
            await self._task


class _Quiet(uvicorn.Server):
    """Leaves signals to the service's own server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        listening.bind((host, 0))
    return listening

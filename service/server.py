"""uvicorn, set up for this service: probes know when it drains, and heads have an end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import logs, tracing
from service.app import create_app
from service.operations.health import Health
from service.problems import HeadersTooLarge, document
from service.settings import Settings, load
from service.wiring import build

KEEP_ALIVE = 75
BACKLOG = 2048
LONGEST_HEAD = 128 * 1024
"""Bytes of a head that is not complete yet; `edge.py` refuses complete ones that are much smaller."""
CHUNK_FRAMING = 1024 * 1024
"""Bytes that the sizes of chunks, and trailers, may take in one message."""

_PROBLEM = msgspec.json.encode(document(HeadersTooLarge()))
HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/problem+json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_PROBLEM), _PROBLEM)
)


class BoundedHttp(HttpToolsProtocol):
    """The HTTP parser of uvicorn, with an end to what is not a body: httptools collects headers without one.

    Fields behind a chunked body (trailers) are dropped: they must not pass for headers that a proxy has set.
    """

    _unread = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer; too many of them without the end of a head, or between bodies, end the connection."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread <= LONGEST_HEAD or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(HEAD_TOO_LARGE)
        self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._unread, self._in_head = 0, True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head, or of the trailers."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A body may follow, which the application bounds, and the framing of its chunks."""
        self._unread, self._in_head = -CHUNK_FRAMING, False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self._unread -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next bytes begin a head again."""
        self._unread = 0
        super().on_message_complete()


def production_app() -> Litestar:
    """What each worker of `vestibule serve` runs: everything from the environment."""
    logs.configure(readable=False)
    settings = load(os.environ)
    tracing.start(os.environ)
    services = build(settings)
    app = create_app(services)
    app._lifespan_managers.append(draining(services.health, settings))
    app._lifespan_managers.insert(0, traced)  # the first to begin is the last to end
    return app


def options(settings: Settings, host: str, port: int) -> dict[str, Any]:
    """How uvicorn is run everywhere.

    Forwarded headers are believed from the trusted proxies alone (ASVS 15.3.4); an idle connection outlives the
    idle time of common proxies, so that none of them meets one that is just being closed.
    """
    return {
        "host": host,
        "port": port,
        "backlog": BACKLOG,
        "loop": "uvloop",
        "http": BoundedHttp,
        "ws": "none",
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": list(settings.trusted_proxies),
        "server_header": False,
        "access_log": False,
        "log_config": None,
        "timeout_keep_alive": KEEP_ALIVE,
        "timeout_graceful_shutdown": int(settings.shutdown_grace.total_seconds()),
    }


def serve(settings: Settings, host: str, port: int, workers: int) -> None:
    """Runs the workers until SIGTERM, which drains, or SIGINT, which does not wait for load balancers.

    Raises `SettingsError` before the first worker starts, if what the environment asks for is not installed.
    """
    tracing.ensure_installed(os.environ)
    # uvicorn raises the signal again after its clean shutdown: that is an end like any other.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run("service.server:production_app", factory=True, workers=workers, **options(settings, host, port))


@asynccontextmanager
async def traced(app: Litestar) -> AsyncIterator[None]:
    """The last spans leave when everything else has ended."""
    try:
        yield
    finally:
        await asyncio.to_thread(tracing.stop)


def draining(health: Health, settings: Settings) -> Callable[[Litestar], Any]:
    """On SIGTERM readiness goes down first; the server stops when load balancers have had time to see it."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        stop = signal.getsignal(signal.SIGTERM)
        loop = asyncio.get_running_loop()

        def drain(number: int, frame: FrameType | None) -> None:
            if not callable(stop):
                return
            if health.draining:
                stop(number, frame)
                return
            health.draining = True
            loop.call_soon_threadsafe(loop.call_later, settings.drain.total_seconds(), stop, number, frame)

        signal.signal(signal.SIGTERM, drain)
        yield

    return lifespan

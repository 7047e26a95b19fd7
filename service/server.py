"""uvicorn, set up for this service: probes know when it drains, and slow clients are sent away."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from litestar import Litestar

from service import heap, logs, tracing
from service.app import create_app
from service.connections import BoundedHttp, Sweeper
from service.operations.health import Health
from service.settings import Settings, load
from service.wiring import build

KEEP_ALIVE = 75
COLLECTED_AFTER = (10_000, 20, 50)
BACKLOG = 2048


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
        "http": partial(BoundedHttp, _sweeper(settings)),
        "ws": "none",
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": list(settings.trusted_proxies),
        "server_header": False,
        "access_log": False,
        "log_config": None,
        "timeout_keep_alive": KEEP_ALIVE,
        "timeout_graceful_shutdown": int(settings.shutdown_grace.total_seconds()),
    }


def _sweeper(settings: Settings) -> Sweeper:
    limits = (settings.head_timeout, settings.body_timeout, settings.shutdown_grace)
    return Sweeper(*(limit.total_seconds() for limit in limits))


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
        spare_the_collector()
        heap.keep()
        yield

    return lifespan


def spare_the_collector() -> None:
    """What stands at the start stays: the collector of cycles need not walk through it again and again, nor look after
    every few requests, which hardly leave any."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)

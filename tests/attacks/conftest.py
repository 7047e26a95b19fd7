"""A worker whose calls of providers are listened to."""

import secrets
from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import Settings
from service.wiring import Services
from tests.attacks.social import BACK, Wiretap
from tests.conftest import Outbox, TestClock, worker
from tests.deeds import registered


@pytest.fixture(scope="session")
def line_abroad(way_abroad: httpx.AsyncBaseTransport) -> Wiretap:
    """The way to the providers, with somebody on it."""
    return Wiretap(way_abroad)


@pytest.fixture(scope="session")
async def tapped_services(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox, line_abroad: Wiretap
) -> AsyncIterator[Services]:
    """The worker; the shared one was there before, so that keys and clients are."""
    async with worker(settings, wall_clock, outbox, line_abroad) as own:
        yield own


@pytest.fixture(scope="session")
def tapped(tapped_services: Services) -> Litestar:
    return create_app(tapped_services)


@pytest.fixture
def tap(line_abroad: Wiretap) -> Wiretap:
    """The same line, with nothing heard so far."""
    line_abroad.calls.clear()
    return line_abroad


@pytest.fixture(scope="module")
async def native(services: Services) -> str:
    """An app on somebody's phone."""
    client = f"app-{secrets.token_hex(4)}"
    await registered(services, client, confidential=False, redirect_uris=(BACK,))
    return client

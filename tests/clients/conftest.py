"""One running service for the libraries of this folder, and the software that they stand for."""

from collections.abc import AsyncIterator, Iterator

import pytest

from service.store.schema import migrate
from tests.clients.server import Running, running
from tests.conftest import Outbox, Servers, TestClock, _own_database


@pytest.fixture(scope="session")
def own_database(servers: Servers) -> Iterator[str]:
    with _own_database(servers.database_url) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="session")
async def at(
    environ: dict[str, str], own_database: str, wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Running]:
    """The service over TCP."""
    async with running(environ, own_database, wall_clock, outbox) as found:
        yield found

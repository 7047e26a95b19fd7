"""The post office of the tests of mail, empty at the start of each."""

from collections.abc import AsyncIterator, Iterator

import pytest

from service.settings import Settings, load
from service.store.schema import migrate
from tests.conftest import Servers, _own_database
from tests.mail.post_office import PostOffice


@pytest.fixture(scope="session")
def settings_of_the_post_office(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    """A database that no worker but those of a test looks into."""
    with _own_database(servers.database_url) as url:
        migrate(url)
        yield load({**environ, "DATABASE_URL": url})


@pytest.fixture
async def office(settings_of_the_post_office: Settings, servers: Servers) -> AsyncIterator[PostOffice]:
    made = PostOffice(settings_of_the_post_office, servers.database_url)
    await made.sql("TRUNCATE outbox")
    yield made
    await made.close()

"""The whole service before Sentinel and before a cluster: people over HTTP, two workers, the doctor, the metrics."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from service.app import create_app
from service.cli.doctor import examine
from service.wiring import Services
from tests.conftest import Introspector, Outbox, browser, sign_up
from tests.operations.scraped import Page
from tests.tokens.acting import is_active, opens_me, refused, renewed, signed_in
from tests.tokens.hearing import eventually
from tests.topology.standing import Standing, standing, worker_before

BY_HEARSAY = {"VESTIBULE_KEY_REFRESH": "3600"}


@pytest.fixture(scope="module", params=["sentinel on valkey", "cluster on valkey"])
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing(request.param, tmp_path_factory.mktemp("topology")) as found:
        yield found


@pytest.fixture(scope="module")
async def one(
    introspector: Introspector, there: Standing, environ: dict[str, str], outbox: Outbox
) -> AsyncIterator[Services]:
    async with worker_before(there.topology, environ, outbox) as running:
        yield running


@pytest.fixture(scope="module")
async def two(one: Services, there: Standing, environ: dict[str, str], outbox: Outbox) -> AsyncIterator[Services]:
    async with worker_before(there.topology, environ, outbox, **BY_HEARSAY) as running:
        yield running


@pytest.fixture
async def http(one: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(create_app(one)) as client:
        yield client


@pytest.fixture
async def http_of_two(two: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(create_app(two)) as client:
        yield client


async def test_somebody_signs_up_goes_on_and_signs_out(
    http: httpx.AsyncClient,
    http_of_two: httpx.AsyncClient,
    one: Services,
    outbox: Outbox,
    introspector: Introspector,
) -> None:
    person = await sign_up(http, one, outbox)
    assert await is_active(http_of_two, introspector, person.access_token)
    again = await signed_in(http_of_two, person)
    tokens = await renewed(http_of_two, person.refresh_token)
    assert await opens_me(http, tokens["access_token"])
    answer = await http.post("/auth/logout", json={"refresh_token": tokens["refresh_token"]})
    assert answer.status_code == 204
    assert not await is_active(http_of_two, introspector, tokens["access_token"])
    await refused(http_of_two, tokens["refresh_token"])
    assert await is_active(http, introspector, again["access_token"])


async def test_what_one_worker_announces_the_other_hears(one: Services, two: Services) -> None:
    read_at_the_start = two.clients._known

    async def has_heard() -> bool:
        await one.clients.announce()
        return two.clients._known is not read_at_the_start

    await eventually(has_heard, True)


async def test_the_doctor_finds_both_well(one: Services) -> None:
    findings = {finding.name: finding for finding in await examine(one.settings)}
    assert findings["redis"].detail.endswith("noeviction, appendonly")
    assert not findings["redis"].advice
    assert not findings["clock"].advice


async def test_the_metrics_say_that_it_is_up(one: Services) -> None:
    await one.health.look()
    await one.vitals.look()
    assert one.health.states["redis"] == "ok"
    page = Page.now()
    assert page.value("vestibule_redis_up") == 1
    assert page.value("vestibule_clock_skew_seconds", store="redis") < 5

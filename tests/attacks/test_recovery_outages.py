"""Resets while a store fails in the middle of them: all or nothing, and the link stays good for another try."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from sqlalchemy import text

from service.app import create_app
from service.settings import Settings, load
from service.wiring import Services, build
from tests.conftest import Introspector, Outbox, Person, TestClock, browser, shifted, sign_up, worker
from tests.deeds import letters, sign_in
from tests.journeys.links import NEW_PASSWORD, is_dead, reset, reset_link, told


@asynccontextmanager
async def failing(settings: Settings, clock: TestClock, outbox: Outbox, script: str) -> AsyncIterator[Services]:
    """A worker to which Redis refuses one script, as it does when it is full or became a replica."""

    def scripts(name: str) -> str:
        return "return redis.error_reply('READONLY')" if name == script else shifted(name)

    services = build(settings, clock=clock, mail=lambda _: outbox, scripts=scripts)
    async with services.running():
        yield services


async def assert_untouched(
    http: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    *,
    introspector: Introspector,
    person: Person,
    token: str,
) -> None:
    """After a reset that failed: the old password, its sessions, no news; and the same link does it later."""
    assert told(await sign_in(http, person, password=NEW_PASSWORD)) == (401, "invalid_credentials")
    assert not await is_dead(http, introspector, person)
    subjects = [mail.subject for mail in await letters(services, outbox, person.email)]
    assert "Your password was changed" not in subjects
    assert (await reset(http, token)).status_code == 204
    assert (await sign_in(http, person, password=NEW_PASSWORD)).status_code == 200


@pytest.mark.standard("CL-01", "SE-17")
async def test_a_reset_that_cannot_end_the_sessions_does_nothing_and_keeps_the_link(
    http: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    settings: Settings,
    wall_clock: TestClock,
    *,
    introspector: Introspector,
) -> None:
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    async with (
        failing(settings, wall_clock, outbox, "close_all") as crippled,
        browser(create_app(crippled)) as elsewhere,
    ):
        answer = await reset(elsewhere, token)
    assert answer.status_code == 503
    assert answer.headers["retry-after"].isdecimal()

    await assert_untouched(http, services, outbox, introspector=introspector, person=person, token=token)


@pytest.mark.standard("CL-01")
async def test_a_reset_without_redis_does_nothing_and_keeps_the_link(
    http: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    environ: dict[str, str],
    wall_clock: TestClock,
    *,
    introspector: Introspector,
) -> None:
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    nowhere = load({**environ, "REDIS_URL": "redis://127.0.0.1:1/0"})
    async with worker(nowhere, wall_clock, outbox) as alone, browser(create_app(alone)) as elsewhere:
        body = {"token": token, "password": NEW_PASSWORD}
        for path, given in (("reset", body), ("forgot", {"email": person.email})):
            answer = await elsewhere.post(f"/auth/password/{path}", json=given)
            assert answer.status_code == 503

    await assert_untouched(http, services, outbox, introspector=introspector, person=person, token=token)


@pytest.mark.standard("CL-01", "SE-17")
@pytest.mark.parametrize("table", ["accounts", "sessions"])
async def test_a_reset_that_postgresql_does_not_finish_does_nothing_and_keeps_the_link(
    http: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    environ: dict[str, str],
    wall_clock: TestClock,
    *,
    introspector: Introspector,
    table: str,
) -> None:
    """Somebody else holds a row that the reset needs: of the account at its beginning, of a session near its end."""
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    rows = {
        "accounts": "SELECT 1 FROM accounts WHERE email = :a FOR UPDATE",
        "sessions": "SELECT 1 FROM sessions WHERE account_id = (SELECT id FROM accounts WHERE email = :a) FOR UPDATE",
    }
    impatient = load({**environ, "VESTIBULE_DATABASE_TIMEOUT": "2"})
    async with (
        worker(impatient, wall_clock, outbox) as waiting,
        browser(create_app(waiting)) as elsewhere,
        services.database.begin() as transaction,
    ):
        await transaction.execute(text(rows[table]), {"a": person.email})
        assert (await reset(elsewhere, token)).status_code == 503

    await assert_untouched(http, services, outbox, introspector=introspector, person=person, token=token)

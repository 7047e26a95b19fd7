"""Tokens of Discord are renewed once for all who ask, and a provider that is away costs nobody theirs."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from urllib.parse import parse_qs

import httpx
import msgspec
import pytest
from litestar import Litestar

from service.accounts.identities import Identities, Identity
from service.app import create_app
from service.crypto.roots import RootKeys
from service.fake_provider.backstage import WEEK
from service.fake_provider.provider import FakeProvider
from service.providers.provider import ForeignTokens
from service.setting_values import Secret
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Outbox, TestClock, browser, root_key, worker
from tests.social.acting import Stranger
from tests.social.linked import comes_in, comes_in_elsewhere, guilds_asked, the_identity, tokens_of

REFRESH = "POST /discord/api/oauth2/token"
ASK = "GET /discord/api/v10/users/@me/guilds"
LIFE = 300.0
NOT_LINKED = (409, "not_linked")
AWAY = (502, "provider_unavailable")
AT_ONCE = 20


@pytest.fixture
def discord(fake_provider: FakeProvider) -> Iterator[FakeProvider]:
    """Discord whose tokens live five minutes."""
    fake_provider.discord_token_life = LIFE
    fake_provider.requests.clear()
    yield fake_provider
    fake_provider.discord_token_life = WEEK


class Gate(httpx.AsyncBaseTransport):
    """The way to the provider. While it is shut, what refresh tokens are answered waits here."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.arrived = asyncio.Event()
        self.open = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        if parse_qs(request.content.decode()).get("grant_type") == ["refresh_token"]:
            self.arrived.set()
            await self.open.wait()
        return answer


async def test_a_stale_token_is_renewed_and_the_old_refresh_token_is_used_up(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, discord: FakeProvider, clock: TestClock
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who)
    seen = [await tokens_of(services, who)]
    for ahead in (LIFE - 30, LIFE + 1):  # about to end, and over
        await clock.advance(seconds=ahead)
        discord.requests.clear()
        headers = await comes_in_again(http)
        assert await guilds_asked(http, headers) == (200, "")
        assert Counter(discord.requests) == {REFRESH: 1, ASK: 1}
        assert await guilds_asked(http, headers) == (200, "")
        assert discord.requests.count(REFRESH) == 1
        seen.append(await tokens_of(services, who))
    assert len({one.access_token for one in seen if one}) == len({one.refresh_token for one in seen if one}) == 3
    assert seen[0] is not None
    identity = await the_identity(services, who)
    await write(services, identity, seen[0])
    assert await guilds_asked(http, headers) == NOT_LINKED


async def comes_in_again(http: httpx.AsyncClient) -> dict[str, str]:
    """A new access token of the session in this browser."""
    answer = await http.post(
        "/auth/refresh", json={}, headers={"X-Vestibule-CSRF": "1", "Origin": str(http.base_url).rstrip("/")}
    )
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def write(services: Services, identity: Identity, kept: ForeignTokens) -> None:
    async with services.database.begin() as transaction:
        lease = await services.federation.identities.lease(transaction, identity, timedelta(seconds=5))
        assert lease is not None
        await services.federation.identities.keep(transaction, identity, kept, lease)


@pytest.mark.standard("SE-29")
async def test_of_many_who_ask_at_once_with_a_stale_token_one_renews_it(
    *,
    app: Litestar,
    second_worker: Services,
    services: Services,
    abroad: httpx.AsyncClient,
    discord: FakeProvider,
    clock: TestClock,
) -> None:
    who, other = Stranger(), create_app(second_worker)
    headers = await comes_in_elsewhere(app, abroad, "discord", who)
    await clock.advance(seconds=LIFE + 1)
    discord.requests.clear()
    async with AsyncExitStack() as stack:
        doors = [await stack.enter_async_context(browser(one)) for one in (app, other) * (AT_ONCE // 2)]
        answers = await asyncio.gather(*(guilds_asked(http, headers) for http in doors))
    assert answers == [(200, "")] * AT_ONCE
    assert Counter(discord.requests) == {REFRESH: 1, ASK: AT_ONCE}
    assert (await the_identity(services, who)).leased_until is None


async def test_a_consent_that_was_withdrawn_is_forgotten(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, discord: FakeProvider, clock: TestClock
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who, fault="refresh_refused")
    assert await guilds_asked(http, headers) == (200, "")
    await clock.advance(seconds=LIFE + 1)
    for _ in range(2):
        assert await guilds_asked(http, headers) == NOT_LINKED
    assert discord.requests.count(REFRESH) == 2  # the code, and once to renew
    assert (await the_identity(services, who)).sealed is None
    headers = await comes_in(http, abroad, "discord", who)
    assert await guilds_asked(http, headers) == (200, "")


async def test_a_provider_that_is_away_when_tokens_are_renewed_costs_no_tokens(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, discord: FakeProvider, clock: TestClock
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who, fault="refresh_500")
    before = await tokens_of(services, who)
    await clock.advance(seconds=LIFE + 1)
    for _ in range(3):
        assert await guilds_asked(http, headers) == AWAY
    identity = await the_identity(services, who)
    assert await tokens_of(services, who) == before is not None
    assert identity.leased_until is None
    assert discord.requests.count(REFRESH) == 4  # the code, and each time


async def test_nor_does_it_when_many_wait_for_who_renews_them(
    *,
    app: Litestar,
    second_worker: Services,
    services: Services,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
    abroad: httpx.AsyncClient,
    discord: FakeProvider,
    clock: TestClock,
) -> None:
    """They have the old token, which is over: that it is refused says nothing about a consent."""
    who, gate = Stranger(), Gate(way_abroad)
    headers = await comes_in_elsewhere(app, abroad, "discord", who, fault="refresh_500")
    before = await tokens_of(services, who)
    await clock.advance(seconds=LIFE + 1)
    async with worker(settings, wall_clock, outbox, gate) as own, AsyncExitStack() as stack:
        doors = [await stack.enter_async_context(browser(one)) for one in (app, create_app(second_worker)) * 3]
        renewing = asyncio.create_task(guilds_asked(await stack.enter_async_context(browser(create_app(own))), headers))
        await gate.arrived.wait()
        waiting = [asyncio.create_task(guilds_asked(http, headers)) for http in doors]
        await leased_reads(discord, services, who)
        gate.open.set()
        answers = [await renewing, *(await asyncio.gather(*waiting))]
    assert await tokens_of(services, who) == before is not None
    assert answers == [AWAY] * 7


async def leased_reads(discord: FakeProvider, services: Services, who: Stranger) -> None:
    """Lets everybody who waits look at the row at least once."""
    assert (await the_identity(services, who)).leased_until is not None
    for _ in range(20):
        await services.database.ping()
    assert ASK not in discord.requests


async def test_what_a_sign_in_brings_meanwhile_is_newer_than_what_is_renewed(
    *,
    app: Litestar,
    services: Services,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
    abroad: httpx.AsyncClient,
    discord: FakeProvider,
    clock: TestClock,
) -> None:
    who, gate = Stranger(), Gate(way_abroad)
    headers = await comes_in_elsewhere(app, abroad, "discord", who)
    await clock.advance(seconds=LIFE + 1)
    async with worker(settings, wall_clock, outbox, gate) as own, browser(create_app(own)) as http:
        renewing = asyncio.create_task(guilds_asked(http, headers))
        await gate.arrived.wait()
        await comes_in_elsewhere(app, abroad, "discord", who)
        newest = await tokens_of(services, who)
        gate.open.set()
        assert await renewing == (200, "")
    assert await tokens_of(services, who) == newest is not None


async def test_a_refusal_of_the_old_tokens_says_nothing_about_those_of_a_sign_in_meanwhile(
    app: Litestar,
    services: Services,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    *,
    way_abroad: httpx.AsyncBaseTransport,
    abroad: httpx.AsyncClient,
    discord: FakeProvider,
    clock: TestClock,
) -> None:
    who, gate = Stranger(), Gate(way_abroad)
    headers = await comes_in_elsewhere(app, abroad, "discord", who, fault="refresh_refused")
    await clock.advance(seconds=LIFE + 1)
    async with worker(settings, wall_clock, outbox, gate) as own, browser(create_app(own)) as http:
        renewing = asyncio.create_task(guilds_asked(http, headers))
        await gate.arrived.wait()
        await comes_in_elsewhere(app, abroad, "discord", who)
        newest = await tokens_of(services, who)
        gate.open.set()
        assert await renewing in {NOT_LINKED, (200, "")}
        assert await tokens_of(services, who) == newest is not None
        assert await guilds_asked(http, headers) == (200, "")


async def test_sealing_anew_meanwhile_does_not_lose_what_is_renewed(
    *,
    app: Litestar,
    services: Services,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
    abroad: httpx.AsyncClient,
    discord: FakeProvider,
    clock: TestClock,
) -> None:
    """The old refresh token is used up: without the new one the person would have to link again."""
    who, gate, added = Stranger(), Gate(way_abroad), root_key(2)
    headers = await comes_in_elsewhere(app, abroad, "discord", who)
    await clock.advance(seconds=LIFE + 1)
    both = msgspec.structs.replace(settings, keys=Secret(f"{added},{settings.keys}"))
    async with worker(both, wall_clock, outbox, gate) as own, browser(create_app(own)) as http:
        try:
            renewing = asyncio.create_task(guilds_asked(http, headers))
            await gate.arrived.wait()
            assert await own.rewrapping.identities.rewrap() >= 1
            gate.open.set()
            assert await renewing == (200, "")
            assert await guilds_asked(http, headers) == (200, "")
        finally:  # for whoever comes after
            back = RootKeys.parse(f"{settings.keys},{added}")
            await Identities(services.database, back, services.clock).rewrap()


async def test_a_renewal_whose_worker_died_is_taken_over(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, discord: FakeProvider, clock: TestClock
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who)
    await clock.advance(seconds=LIFE + 1)
    identities = services.federation.identities
    async with services.database.begin() as transaction:
        life = services.settings.provider_timeout * 2
        assert await identities.lease(transaction, await the_identity(services, who), life)
    await clock.advance(seconds=life.total_seconds() + 1)
    assert await guilds_asked(http, headers) == (200, "")

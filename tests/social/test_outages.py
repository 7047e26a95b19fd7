"""The worst moments on the way through a provider: a store goes away, or the account changes just before a session of
it opens. Nobody is signed out, and no session is left."""

import asyncio
import secrets
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
import msgspec
import pytest
from litestar import Litestar

from service.app import create_app
from service.errors import Unavailable
from service.setting_values import Secret
from service.settings import Settings
from service.wiring import Services
from tests.conftest import ABROAD, CLIENT_ABROAD, Outbox, TestClock, browser, worker
from tests.deeds import COOKIE_HEADERS, registered, session_of, with_account
from tests.social.acting import (
    PAGE,
    REFRESH_COOKIE,
    Stranger,
    came_back,
    decided,
    error_of,
    query_of,
)
from tests.social.linked import (
    PATIENCE,
    account_with,
    back_from,
    comes_in,
    comes_in_elsewhere,
    identities_of,
    is_refused,
    journal_of,
    link,
    link_begun,
    linked,
    set_password,
    the_account,
    unlink,
)
from tests.social.relays import Relay, Tripping, before_postgres, before_redis

AWAY = (503, "temporarily_unavailable")
STORES = ["postgres", "redis"]
SESSION_OPENS = b"\nfed"
"""What Redis is told in that moment and no other."""
LOOPBACK = "http://127.0.0.1/back"

pytestmark = pytest.mark.standard("PF-40")


@dataclass
class Place:
    """A worker whose stores can be cut off."""

    services: Services
    app: Litestar
    relays: dict[str, Relay]
    way: Tripping

    async def mend(self) -> None:
        """Joins what was cut; the worker looks for Redis twice a second."""
        self.way.relay = None
        for relay in self.relays.values():
            relay.mend()
        async with asyncio.timeout(PATIENCE):
            while not await self._finds_redis():  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.02)

    async def _finds_redis(self) -> bool:
        try:
            await self.services.store.exists("anything")
        except Unavailable:
            return False
        return True


@pytest.fixture(scope="module")
async def own(
    services: Services,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
) -> AsyncIterator[Place]:
    way = Tripping(way_abroad)
    with tempfile.TemporaryDirectory() as name:  # the path of a socket must be short
        folder = Path(name)
        async with (
            before_postgres(settings.database_url, folder) as (postgres, database_url),
            before_redis(settings.redis_url, folder) as (redis, redis_url),
        ):
            through = msgspec.structs.replace(settings, database_url=Secret(database_url), redis_url=Secret(redis_url))
            async with worker(through, wall_clock, outbox, way) as running:
                yield Place(running, create_app(running), {"postgres": postgres, "redis": redis}, way)


@pytest.fixture
async def place(own: Place) -> AsyncIterator[Place]:
    yield own
    await own.mend()


async def is_still_in(app: Litestar, answer: httpx.Response, token: str) -> None:
    """An outage tells no browser to forget anything, and the session that it had goes on."""
    assert REFRESH_COOKIE not in answer.headers.get("set-cookie", "")
    assert "clear-site-data" not in answer.headers
    async with browser(app) as http:
        assert (await http.post("/auth/refresh", json={"refresh_token": token})).status_code == 200


async def test_nothing_begins_while_redis_is_away(place: Place) -> None:
    place.relays["redis"].cut()
    async with browser(place.app) as http:
        answer = await http.get("/auth/social/openid", params={"next": PAGE})
    assert (answer.status_code, answer.json()["code"]) == AWAY
    assert answer.headers["retry-after"]


async def test_a_callback_that_cannot_be_looked_up_is_a_page_and_works_when_it_is_sent_again(
    place: Place, app: Litestar, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    async with browser(place.app) as http:
        await comes_in(http, abroad, "openid", who)
        token = http.cookies[REFRESH_COOKIE]
        location = await back_from(http, abroad, "openid", who)
        place.relays["redis"].cut()
        answer = await came_back(http, location)
        assert answer.status_code == 503
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["retry-after"]
        await place.mend()
        await is_still_in(app, answer, token)
        assert error_of(await came_back(http, location)) == ""


@pytest.mark.standard("SE-30")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("provider", ["openid", "discord"])
async def test_a_store_that_goes_away_once_the_provider_has_answered_leaves_nothing(
    *,
    place: Place,
    app: Litestar,
    services: Services,
    abroad: httpx.AsyncClient,
    store: str,
    is_known: bool,
    provider: str,
) -> None:
    who = Stranger()
    if is_known:
        await comes_in_elsewhere(app, abroad, provider, who)
    account = await account_with(services, who.email)
    lived = await services.sessions.live(account.id) if account else []
    async with browser(place.app) as http:
        location = await back_from(http, abroad, provider, who)
        place.way.relay = place.relays[store]
        answer = await came_back(http, location)
        await place.mend()
        assert error_of(answer) == "temporarily_unavailable"
        assert REFRESH_COOKIE not in answer.headers.get("set-cookie", "")
        assert (await came_back(http, location)).status_code == 400  # the state was used; it begins anew
    if account:
        assert await services.sessions.live(account.id) == lived
        assert len(await journal_of(services, account.id)) == 1
    else:
        assert await account_with(services, who.email) is None
        assert await identities_of(services, who) == []
    assert await is_refused(place.app, abroad, provider, who) == ""


@pytest.mark.standard("SE-30")
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
async def test_a_session_that_cannot_be_written_down_is_over(
    place: Place, app: Litestar, services: Services, abroad: httpx.AsyncClient, is_known: bool
) -> None:
    """PostgreSQL goes away between the opening in Redis and the journal: nobody has its tokens, and nobody could use
    them."""
    who = Stranger()
    if is_known:
        await comes_in_elsewhere(app, abroad, "openid", who)
    redis, postgres = place.relays["redis"], place.relays["postgres"]
    async with browser(place.app) as http:
        location = await back_from(http, abroad, "openid", who)
        redis.tripwire, redis.when_tripped = SESSION_OPENS, postgres.cut_now
        answer = await came_back(http, location)
        await place.mend()
    assert error_of(answer) == "temporarily_unavailable"
    assert REFRESH_COOKIE not in answer.cookies
    account = await the_account(services, who.email)
    rows = await journal_of(services, account.id)
    assert len(rows) == int(is_known)
    assert {one.session for one in await services.sessions.live(account.id)} == {row.id.bytes for row in rows}
    assert await is_refused(place.app, abroad, "openid", who) == ""
    assert (await the_account(services, who.email)).id == account.id


@pytest.mark.standard("SE-29", "SO-13")
@pytest.mark.parametrize("change", ["unlinked", "disabled", "closed", "given a password"])
async def test_a_session_that_opens_just_after_the_account_changed_is_over(
    place: Place, app: Litestar, services: Services, outbox: Outbox, abroad: httpx.AsyncClient, *, change: str
) -> None:
    """The provider and the account said yes before that. Whoever changed it ended the sessions that there were."""
    who = Stranger()
    async with browser(app) as mine, browser(place.app) as http:
        headers = await comes_in(mine, abroad, "openid", who)
        assert await link(mine, abroad, headers, "discord", Stranger()) == ""
        account = await the_account(services, who.email)
        location = await back_from(http, abroad, "openid", who)

        async def changed() -> None:
            if change == "unlinked":
                assert await unlink(mine, headers, "openid") == (204, "")
            elif change == "disabled":
                await services.administration.disable(account.id)
            elif change == "closed":
                assert (await mine.delete("/me", headers=headers)).status_code == 204
            else:
                await set_password(mine, services, outbox, who.email)

        redis = place.relays["redis"]
        redis.tripwire, redis.when_tripped = SESSION_OPENS, changed
        answer = await came_back(http, location)
        await place.mend()
    assert error_of(answer) == ("account_disabled" if change == "disabled" else "temporarily_unavailable")
    assert REFRESH_COOKIE not in answer.headers.get("set-cookie", "")
    alive = await services.sessions.live(account.id)
    assert len(alive) == int(change == "unlinked")
    written = [row.id.bytes for row in await journal_of(services, account.id) if row.ended_at is None]
    assert written == [one.session for one in alive]


@pytest.mark.parametrize("store", STORES)
async def test_an_outage_while_somebody_links_signs_nobody_out_and_links_nothing(
    place: Place, app: Litestar, services: Services, abroad: httpx.AsyncClient, store: str
) -> None:
    person, who = await with_account(services), Stranger()
    headers = await session_of(app, person)
    async with browser(place.app) as http:
        location = await decided(abroad, await link_begun(http, headers, "openid"), who)
        place.way.relay = place.relays[store]
        answer = await came_back(http, location)
        await place.mend()
        assert error_of(answer) == "temporarily_unavailable"
        assert await identities_of(services, who) == []
        assert await linked(http, headers) == []


@pytest.mark.parametrize("store", STORES)
async def test_an_outage_at_an_unlink_takes_nothing_away(
    place: Place, app: Litestar, abroad: httpx.AsyncClient, store: str
) -> None:
    who = Stranger()
    headers = await comes_in_elsewhere(app, abroad, "openid", who)
    async with browser(place.app) as http:
        place.relays[store].cut()
        # Without Redis the journal lets them in, and their only way in stays theirs.
        assert await unlink(http, headers, "openid") == (AWAY if store == "postgres" else (409, "last_credential"))
        await place.mend()
        assert await linked(http, headers) == ["openid"]


@pytest.mark.parametrize("store", STORES)
async def test_a_native_apps_exchange_is_told_to_try_again(
    place: Place, services: Services, abroad: httpx.AsyncClient, store: str
) -> None:
    client, who, verifier = f"app-{secrets.token_hex(4)}", Stranger(), secrets.token_urlsafe(48)
    await registered(
        services, client, confidential=False, redirect_uris=(LOOPBACK,), scopes=("account",), grants=("refresh_token",)
    )
    await place.services.clients.reload()
    url = httpx.URL(
        f"{ABROAD}/openid/authorize",
        params={
            "client_id": CLIENT_ABROAD,
            "redirect_uri": LOOPBACK,
            "response_type": "code",
            "scope": "openid email profile",
            "code_challenge": urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("="),
            "code_challenge_method": "S256",
            "state": "mine",
        },
    )
    body = {
        "code": query_of(await decided(abroad, str(url), who))["code"],
        "code_verifier": verifier,
        "redirect_uri": LOOPBACK,
        "client_id": client,
    }
    async with browser(place.app) as http:
        place.relays[store].cut()
        answer = await http.post("/auth/social/openid/exchange", json=body, headers=COOKIE_HEADERS)
        await place.mend()
    assert (answer.status_code, answer.json()["code"]) == AWAY
    assert answer.headers["retry-after"]
    assert await account_with(services, who.email) is None

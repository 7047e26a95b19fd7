"""The Discord servers of a person: what is listed, and each way in which there are none."""

from collections import Counter
from datetime import timedelta

import httpx
import msgspec
import pytest

from service.accounts.identities import Identities
from service.app import create_app
from service.crypto.roots import RootKeys
from service.fake_provider.people import PEOPLE
from service.fake_provider.provider import FakeProvider
from service.setting_values import Rate
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Outbox, Person, TestClock, browser, root_key, worker
from tests.social.acting import Stranger
from tests.social.linked import comes_in, guilds_asked, link, linked, the_identity, tokens_of

GUILDS = "/me/identities/discord/guilds"
REFRESH = "POST /discord/api/oauth2/token"
ASK = "GET /discord/api/v10/users/@me/guilds"
NOT_LINKED = (409, "not_linked")
AWAY = (502, "provider_unavailable")


async def test_the_servers_are_those_that_the_provider_lists(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    headers = await comes_in(http, abroad, "discord", Stranger(), person="ann")
    answer = await http.get(GUILDS, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == [
        {
            "id": guild.id,
            "name": guild.name,
            "icon_url": f"https://cdn.discordapp.com/icons/{guild.id}/{guild.icon}.png" if guild.icon else None,
            "owner": guild.owner,
            "permissions": guild.permissions,
        }
        for guild in PEOPLE["ann"].guilds
    ]


async def test_who_has_no_discord_has_no_servers(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, person: Person, fake_provider: FakeProvider
) -> None:
    assert await guilds_asked(http, person.headers) == NOT_LINKED
    assert await link(http, abroad, person.headers, "github", Stranger()) == ""
    assert await link(http, abroad, person.headers, "openid", Stranger()) == ""
    before = fake_provider.requests.count(ASK)
    assert await guilds_asked(http, person.headers) == NOT_LINKED
    assert fake_provider.requests.count(ASK) == before
    for other in ("github", "openid", "nobody", "Discord"):
        answer = await http.get(f"/me/identities/{other}/guilds", headers=person.headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), other


async def test_without_its_scope_there_are_no_servers(
    abroad: httpx.AsyncClient,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
) -> None:
    narrow = msgspec.structs.replace(settings.providers["discord"], scopes=("identify", "email"))
    other = msgspec.structs.replace(settings, providers={**settings.providers, "discord": narrow})
    async with worker(other, wall_clock, outbox, way_abroad) as own, browser(create_app(own)) as http:
        headers = await comes_in(http, abroad, "discord", Stranger())
        assert await guilds_asked(http, headers) == NOT_LINKED
        assert await linked(http, headers) == ["discord"]


@pytest.mark.parametrize(("fault", "retry_after"), [("guilds_500", None), ("guilds_limited", "7")])
async def test_a_provider_that_does_not_answer_is_said_to_be_away_and_nothing_is_lost(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, fault: str, retry_after: str | None
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who, fault=fault)
    before = await tokens_of(services, who)
    for _ in range(3):
        answer = await http.get(GUILDS, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == AWAY
        assert answer.headers.get("retry-after") == retry_after
    assert await tokens_of(services, who) == before is not None


async def test_a_token_that_is_refused_although_it_was_renewed_is_a_consent_withdrawn(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, fake_provider: FakeProvider
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who, fault="guilds_unauthorized")
    fake_provider.requests.clear()
    assert await guilds_asked(http, headers) == NOT_LINKED
    assert Counter(fake_provider.requests) == {ASK: 2, REFRESH: 1}
    assert (await the_identity(services, who)).sealed is None
    assert await guilds_asked(http, headers) == NOT_LINKED
    assert Counter(fake_provider.requests) == {ASK: 2, REFRESH: 1}
    assert await linked(http, headers) == ["discord"]


async def test_asking_has_a_limit_of_its_own(
    *,
    abroad: httpx.AsyncClient,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
    fake_provider: FakeProvider,
) -> None:
    strict = msgspec.structs.replace(settings, limit_guilds_account=Rate(2, 60))
    fake_provider.requests.clear()
    async with worker(strict, wall_clock, outbox, way_abroad) as own, browser(create_app(own)) as http:
        headers = await comes_in(http, abroad, "discord", Stranger())
        answers = [await guilds_asked(http, headers) for _ in range(3)]
        assert answers == [(200, ""), (200, ""), (429, "too_many_requests")]
        assert fake_provider.requests.count(ASK) == 2
        async with browser(create_app(own)) as other:
            assert await guilds_asked(other, await comes_in(other, abroad, "discord", Stranger())) == (200, "")


async def test_tokens_under_a_root_key_that_is_gone_are_as_good_as_none(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who)
    identity, kept = await the_identity(services, who), await tokens_of(services, who)
    assert kept is not None
    gone = Identities(services.database, RootKeys.parse(root_key(9)), services.clock)
    async with services.database.begin() as transaction:
        lease = await gone.lease(transaction, identity, timedelta(seconds=5))
        assert lease is not None
        await gone.keep(transaction, identity, kept, lease)
    assert await tokens_of(services, who) is None
    assert await guilds_asked(http, headers) == NOT_LINKED
    assert await linked(http, headers) == ["discord"]
    headers = await comes_in(http, abroad, "discord", who)
    assert await guilds_asked(http, headers) == (200, "")

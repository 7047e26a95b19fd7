"""Linking and unlinking from a fresh session: who is told, who is out, and what stays shut."""

import httpx
import msgspec
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, TestClock, browser, worker
from tests.deeds import FIREFOX, id_of, letters, session_of, with_account
from tests.social.acting import PROVIDERS, Stranger, me
from tests.social.linked import (
    comes_in,
    comes_in_elsewhere,
    events_of,
    identities_of,
    is_active,
    is_refused,
    journal_of,
    link,
    linked,
    set_password,
    the_account,
    the_identity,
    unlink,
)

LINKED = {
    "en": "A new way to sign in was linked",
    "ko": "새 로그인 방법이 연결되었습니다",
    "ja": "新しいログイン方法が連携されました",
}
UNLINKED = {
    "en": "A way to sign in was unlinked",
    "ko": "로그인 방법의 연결이 해제되었습니다",
    "ja": "ログイン方法の連携が解除されました",
}
STALE = (401, "insufficient_user_authentication")
LAST = (409, "last_credential")
GONE = (404, "not_found")
DONE = (204, "")


@pytest.mark.standard("LG-12", "SO-21")
@pytest.mark.parametrize("language", ["en", "ko", "ja"])
async def test_the_holder_is_told_of_a_link_and_of_its_end_in_their_language(
    *,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    person: Person,
    language: str,
) -> None:
    http.headers["User-Agent"] = FIREFOX
    assert (await http.patch("/me", json={"locale": language}, headers=person.headers)).status_code == 200
    who = Stranger()
    assert await link(http, abroad, person.headers, "discord", who) == ""
    (mail,) = await letters(services, outbox, person.email, LINKED[language])
    assert "Firefox, Linux" in mail.text
    assert "discord" in mail.text.lower()
    assert await unlink(http, person.headers, "discord") == DONE
    (mail,) = await letters(services, outbox, person.email, UNLINKED[language])
    assert "Firefox, Linux" in mail.text
    assert await letters(services, outbox, who.email) == []
    events = await events_of(services, await id_of(services, person), "identity.unlink")
    named = [(event, outcome, detail) for event, outcome, detail in events if event.startswith("identity.")]
    assert named == [(event, "ok", {"provider": "discord"}) for event in ("identity.link", "identity.unlink")]


@pytest.mark.standard("SO-21")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_linked_identity_opens_the_account_whatever_its_address(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, person: Person, provider: str
) -> None:
    """Linking needs no address at all, and no verified one: the person is who is signed in."""
    for said in ({"email": ""}, {"email_verified": "false"}, {"email": person.email, "email_verified": "false"}, {}):
        who = Stranger()
        assert await link(http, abroad, person.headers, provider, who, **said) == "", said
        headers = await comes_in_elsewhere(app, abroad, provider, who, **said)
        assert (await me(http, headers))["email"] == person.email
        assert await unlink(http, person.headers, provider) == DONE


@pytest.mark.standard("SO-21")
async def test_linking_and_unlinking_need_a_fresh_session(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, person: Person, clock: TestClock
) -> None:
    assert await link(http, abroad, person.headers, "openid", Stranger()) == ""
    await clock.advance(seconds=301)
    answer = await http.post("/me/identities/discord", headers=person.headers)
    assert (answer.status_code, answer.json()["code"]) == STALE
    assert await unlink(http, person.headers, "openid") == STALE
    assert await unlink(http, person.headers, "nobody") == STALE
    assert await linked(http, person.headers) == ["openid"]


async def test_one_identity_of_each_provider(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    person: Person,
    outbox: Outbox,
) -> None:
    mine, second, theirs = Stranger(), Stranger(), Stranger()
    await comes_in_elsewhere(app, abroad, "openid", theirs)
    owner = (await the_identity(services, theirs)).account_id
    assert await link(http, abroad, person.headers, "openid", theirs) == "identity_taken"
    assert await link(http, abroad, person.headers, "openid", mine) == ""
    assert await link(http, abroad, person.headers, "openid", second) == "already_linked"
    assert await link(http, abroad, person.headers, "openid", theirs) == "identity_taken"
    assert await link(http, abroad, person.headers, "openid", mine, name="renamed") == ""
    assert len(await letters(services, outbox, person.email, LINKED["en"])) == 1
    assert await identities_of(services, second) == []
    assert (await the_identity(services, theirs)).account_id == owner
    assert await linked(http, person.headers) == ["openid"]


async def test_linking_again_notes_what_the_provider_says_today(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, person: Person, clock: TestClock
) -> None:
    who = Stranger()
    assert await link(http, abroad, person.headers, "discord", who) == ""
    before = await the_identity(services, who)
    await clock.advance(seconds=30)
    who.username = Stranger().username
    assert await link(http, abroad, person.headers, "discord", who) == ""
    after = await the_identity(services, who)
    assert (after.username, after.linked_at) == (who.username, before.linked_at)
    assert after.last_seen_at > before.last_seen_at
    assert after.sealed != before.sealed


@pytest.mark.standard("SO-13")
async def test_unlinking_signs_out_everywhere_else_at_once(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    person: Person,
    introspector: Introspector,
) -> None:
    who = Stranger()
    assert await link(http, abroad, person.headers, "openid", who) == ""
    by_provider = await comes_in_elsewhere(app, abroad, "openid", who)
    by_password = await session_of(app, person)
    assert await is_active(http_of_second_worker, introspector, by_provider)

    assert await unlink(http, person.headers, "openid") == DONE

    for client in (http, http_of_second_worker):
        assert not await is_active(client, introspector, by_provider)
        assert not await is_active(client, introspector, by_password)
        assert await is_active(client, introspector, person.headers)
    journal = await journal_of(services, await id_of(services, person))
    assert [row.ended_reason for row in journal] == [None, "identity_unlinked", "identity_unlinked"]
    assert all(row.ended_at is not None for row in journal[1:])
    assert await is_refused(app, abroad, "openid", Stranger(subject=who.subject, email=person.email)) == (
        "account_link_required"
    )


@pytest.mark.standard("SO-28")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_last_way_in_stays_and_nothing_changes(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    introspector: Introspector,
    provider: str,
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, provider, who)
    other = await comes_in_elsewhere(app, abroad, provider, who)
    assert await unlink(http, headers, provider) == LAST
    assert await is_active(http, introspector, other)
    assert await letters(services, outbox, who.email, UNLINKED["en"]) == []
    assert await linked(http, headers) == [provider]
    assert await is_refused(app, abroad, provider, who) == ""

    second = next(name for name in PROVIDERS if name != provider)
    assert await link(http, abroad, headers, second, Stranger()) == ""
    assert await unlink(http, headers, provider) == DONE
    assert await unlink(http, headers, second) == LAST
    assert await linked(http, headers) == [second]


@pytest.mark.standard("SO-28")
async def test_a_password_is_another_way_in(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    clock: TestClock,
) -> None:
    who = Stranger()
    await comes_in_elsewhere(app, abroad, "openid", who)
    await clock.advance(days=2)  # what is younger is another rule's
    person = await set_password(http, services, outbox, who.email)
    headers = await session_of(app, person, person.password)
    assert await linked(http, headers) == ["openid"]
    assert await unlink(http, headers, "openid") == DONE
    assert (await the_account(services, who.email)).password_hash is not None


@pytest.mark.standard("SO-28")
async def test_a_provider_that_is_not_configured_any_more_is_no_way_in(
    *,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
) -> None:
    """Under whatever name: what counts is the issuer."""
    who = Stranger()
    headers = await comes_in(http, abroad, "openid", who)
    assert await link(http, abroad, headers, "discord", Stranger()) == ""
    left = {name: given for name, given in settings.providers.items() if name != "discord"}
    moved = msgspec.structs.replace(settings.providers["discord"], url="http://127.0.0.1:9/elsewhere")
    renamed = {"chat": settings.providers["discord"], **left}
    for providers, expected in (
        (left, LAST),
        ({**left, "discord": moved}, LAST),
        (renamed, DONE),
    ):
        other = msgspec.structs.replace(settings, providers=providers)
        async with worker(other, wall_clock, outbox, way_abroad) as own, browser(create_app(own)) as elsewhere:
            assert await unlink(elsewhere, headers, "openid") == expected, list(providers)
    assert await linked(http, headers) == ["discord"]


async def test_a_link_of_a_provider_that_is_gone_can_be_taken_away(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
) -> None:
    person = await with_account(services)
    headers = await session_of(app, person)
    assert await link(http, abroad, headers, "github", Stranger()) == ""
    other = msgspec.structs.replace(settings, providers={})
    async with worker(other, wall_clock, outbox, way_abroad) as own, browser(create_app(own)) as elsewhere:
        assert await linked(elsewhere, headers) == ["github"]
        assert await unlink(elsewhere, headers, "github") == DONE
        (mail,) = await letters(own, outbox, person.email, UNLINKED["en"])
        assert "github" in mail.text.lower()


@pytest.mark.parametrize("provider", ["discord", "nobody", "%00", "x" * 300])
async def test_what_is_not_linked_cannot_be_unlinked(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person, provider: str
) -> None:
    assert await unlink(http, person.headers, provider) == GONE
    assert await letters(services, outbox, person.email, UNLINKED["en"]) == []


async def test_somebody_elses_link_is_not_mine_to_see_or_to_take_away(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, person: Person
) -> None:
    who = Stranger()
    await comes_in_elsewhere(app, abroad, "openid", who)
    assert await linked(http, person.headers) == []
    assert await unlink(http, person.headers, "openid") == GONE
    assert len(await identities_of(services, who)) == 1
    for verb, path in (("GET", ""), ("POST", "/openid"), ("DELETE", "/openid"), ("GET", "/discord/guilds")):
        assert (await http.request(verb, f"/me/identities{path}")).status_code == 401


async def test_who_was_unlinked_can_be_linked_again_here_or_there(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, person: Person, services: Services
) -> None:
    who = Stranger()
    other = await session_of(app, await with_account(services))
    for _ in range(2):
        for headers in (person.headers, other):
            assert await link(http, abroad, headers, "openid", who) == ""
            assert await unlink(http, headers, "openid") == DONE
    assert await identities_of(services, who) == []

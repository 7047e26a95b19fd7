"""Somebody whom a provider brought before: what is written down anew at each sign-in, and what keeps them out."""

from datetime import timedelta

import httpx
import pytest
from litestar import Litestar

from service.crypto import opaque
from service.tokens.transport import DEVICE_PREFIX
from service.wiring import Services
from tests.conftest import Outbox, TestClock, browser, new_address
from tests.deeds import DEVICE_COOKIE, letters, mailed_link
from tests.social.acting import PROVIDERS, REFRESH_COOKIE, Stranger, error_of, me, through
from tests.social.linked import (
    account_with,
    comes_in,
    comes_in_elsewhere,
    events_of,
    identities_of,
    is_refused,
    journal_of,
    linked,
    the_account,
    the_identity,
)

NEW_DEVICE = "A new device signed in"
RESET = "reset"
OWN_PICTURE = "https://pictures.example/mine.png"


def picture(name: str) -> str:
    return f"https://pictures.example/{name}.png"


@pytest.mark.standard("SO-06", "SO-23")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_the_provider_says_today_is_noted_and_the_account_stays_as_it_is(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, clock: TestClock, provider: str
) -> None:
    who, later = Stranger(), Stranger()
    later.subject = who.subject
    await comes_in_elsewhere(app, abroad, provider, who)
    before, then = await the_account(services, who.email), await the_identity(services, who)
    await clock.advance(hours=1)
    await comes_in_elsewhere(app, abroad, provider, later)

    identity, account = await the_identity(services, who), await the_account(services, who.email)
    assert (identity.username, identity.email, identity.email_verified) == (later.username, later.email, True)
    assert identity.linked_at == then.linked_at
    assert timedelta(minutes=59) < identity.last_seen_at - then.last_seen_at < timedelta(minutes=61)
    assert (account.id, account.nickname, account.email) == (before.id, before.nickname, who.email)
    assert await account_with(services, later.email) is None


@pytest.mark.standard("SO-23")
async def test_a_renamed_login_at_github_keeps_the_account_and_who_takes_the_old_one_has_another(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    await comes_in_elsewhere(app, abroad, "github", who)
    account = await the_account(services, who.email)
    renamed = Stranger(subject=who.subject, email=who.email)
    await comes_in_elsewhere(app, abroad, "github", renamed)
    identity = await the_identity(services, who)
    assert (identity.account_id, identity.username) == (account.id, renamed.username)
    assert identity.subject.isdecimal()

    squatter = Stranger(username=who.username, email=Stranger().email)
    await comes_in_elsewhere(app, abroad, "github", squatter)
    assert (await the_account(services, squatter.email)).id != account.id


@pytest.mark.standard("SO-23")
async def test_the_address_at_github_is_the_primary_one_of_the_list(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    """A verified one that is not primary stands before it, and the profile names none."""
    who = Stranger(email_verified="false")
    assert await is_refused(app, abroad, "github", who) == "provider_email_unverified"
    assert await is_refused(app, abroad, "github", who, email="") == "provider_email_missing"
    assert await identities_of(services, who) == []
    await comes_in_elsewhere(app, abroad, "github", who, email_verified="true")
    assert (await the_identity(services, who)).email == who.email


@pytest.mark.standard("SO-06")
@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("openid", {"email": ""}),
        ("openid", {"email_verified": "absent"}),
        ("openid", {"email_verified": "text:true"}),
        ("discord", {"email": "", "email_verified": "false"}),
        ("discord", {"email_verified": "absent"}),
        ("github", {"email": ""}),
        ("github", {"email_verified": "false"}),
    ],
)
async def test_who_is_known_needs_no_address_any_more(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, provider: str, said: dict[str, str]
) -> None:
    who = Stranger()
    await comes_in_elsewhere(app, abroad, provider, who)
    await comes_in_elsewhere(app, abroad, provider, who, **said)
    identity = await the_identity(services, who)
    assert identity.email_verified is False
    assert identity.email == (said.get("email", who.email) or None)
    assert (await the_account(services, who.email)).id == identity.account_id


async def test_the_picture_follows_the_provider_until_its_person_sets_their_own(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "openid", who, picture=picture("first"))
    for name in ("second", "third"):
        await comes_in_elsewhere(app, abroad, "openid", who, picture=picture(name))
        assert (await me(http, headers))["avatar_url"] == picture(name)
    assert (await http.patch("/me", json={"avatar_url": OWN_PICTURE}, headers=headers)).status_code == 200
    await comes_in_elsewhere(app, abroad, "openid", who, picture=picture("fourth"))
    assert (await me(http, headers))["avatar_url"] == OWN_PICTURE
    assert (await http.get("/me/identities", headers=headers)).json()[0]["avatar_url"] == picture("fourth")


async def test_a_picture_that_its_person_took_away_does_not_come_back(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "openid", who, picture=picture("first"))
    assert (await http.patch("/me", json={"avatar_url": None}, headers=headers)).status_code == 200
    for name in ("first", "second", "first"):
        await comes_in_elsewhere(app, abroad, "openid", who, picture=picture(name))
        assert (await me(http, headers))["avatar_url"] is None


async def test_a_picture_that_is_gone_at_the_provider_is_gone_here(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "openid", who, picture=picture("first"))
    await comes_in_elsewhere(app, abroad, "openid", who, picture="")
    assert (await me(http, headers))["avatar_url"] is None


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_disabled_account_stays_shut_and_nothing_is_noted(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, clock: TestClock, provider: str
) -> None:
    who = Stranger()
    await comes_in_elsewhere(app, abroad, provider, who)
    account, before = await the_account(services, who.email), await the_identity(services, who)
    await services.administration.disable(account.id)
    await clock.advance(minutes=5)
    async with browser(app) as http:
        answer = await through(http, abroad, provider, who, username=Stranger().username)
        assert error_of(answer) == "account_disabled"
        assert REFRESH_COOKIE not in answer.cookies
        assert DEVICE_COOKIE not in answer.cookies
    after = await the_identity(services, who)
    assert {name: getattr(after, name) for name in ("username", "last_seen_at", "sealed", "email")} == {
        name: getattr(before, name) for name in ("username", "last_seen_at", "sealed", "email")
    }
    assert await services.sessions.live(account.id) == []
    assert len(await journal_of(services, account.id)) == 1
    await services.administration.enable(account.id)
    assert await is_refused(app, abroad, provider, who) == ""


async def test_who_must_change_their_password_gets_a_mail_and_no_session(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, outbox: Outbox
) -> None:
    who = Stranger()
    await comes_in_elsewhere(app, abroad, "openid", who)
    account = await the_account(services, who.email)
    await services.administration.require_password_change(account.id)
    async with browser(app) as http:
        answer = await through(http, abroad, "openid", who)
        assert error_of(answer) == "password_change_required"
        assert REFRESH_COOKIE not in answer.cookies
        assert await services.sessions.live(account.id) == []
        token = await mailed_link(services, outbox, who.email, RESET)
        body = {"token": token, "password": "snow under the distant mountain"}
        assert (await http.post("/auth/password/reset", json=body)).status_code == 204
        headers = await comes_in(http, abroad, "openid", who)
        assert (await me(http, headers))["id"] == str(account.id)


@pytest.mark.standard("LG-12")
async def test_a_device_that_was_not_seen_before_is_told_of_once(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, outbox: Outbox
) -> None:
    who = Stranger()
    await comes_in_elsewhere(app, abroad, "openid", who)
    assert await letters(services, outbox, who.email, NEW_DEVICE) == []
    async with browser(app) as first:
        await comes_in(first, abroad, "openid", who)
        mark = first.cookies[DEVICE_COOKIE]
        assert len(await letters(services, outbox, who.email, NEW_DEVICE)) == 1
        await comes_in(first, abroad, "openid", who)
    async with browser(app, new_address()) as moved:
        moved.cookies.set(DEVICE_COOKIE, mark, domain="auth.test", path="/")
        await comes_in(moved, abroad, "openid", who)
        assert moved.cookies[DEVICE_COOKIE] == mark
    assert len(await letters(services, outbox, who.email, NEW_DEVICE)) == 1
    async with browser(app) as stranger:
        stranger.cookies.set(DEVICE_COOKIE, opaque.mint(DEVICE_PREFIX), domain="auth.test", path="/")
        await comes_in(stranger, abroad, "openid", who)
    assert len(await letters(services, outbox, who.email, NEW_DEVICE)) == 2


async def test_every_further_sign_in_is_in_the_journal_and_in_the_audit_trail(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    for _ in range(3):
        await comes_in_elsewhere(app, abroad, "discord", who)
    account = await the_account(services, who.email)
    assert [row.amr for row in await journal_of(services, account.id)] == [["fed"]] * 3
    events = [
        event for event, outcome, _ in await events_of(services, account.id, "login.social", 3) if outcome == "ok"
    ]
    assert (events.count("account.create"), events.count("login.social"), events.count("session.open")) == (1, 3, 3)


async def test_a_sign_in_in_the_same_browser_ends_the_session_that_it_replaces(
    http: httpx.AsyncClient, services: Services, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    first = await comes_in(http, abroad, "openid", who)
    second = await comes_in(http, abroad, "openid", who)
    assert (await http.get("/me", headers=first)).status_code == 401
    assert await linked(http, second) == ["openid"]
    assert len(await services.sessions.live((await the_account(services, who.email)).id)) == 1

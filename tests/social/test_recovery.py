"""Whoever takes an account back by mail is alone in it: what a stranger linked is gone, what is theirs stays."""

from datetime import timedelta

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.conftest import Outbox, Person, TestClock, browser, new_address, somebody
from tests.deeds import OTHER, bearer, letters, mailed_link, session_of, sign_in, sign_in_from, with_account
from tests.social.acting import PROVIDERS, Stranger, me
from tests.social.linked import (
    comes_in,
    comes_in_elsewhere,
    identities_of,
    is_refused,
    link,
    linked,
    set_password,
    the_account,
)

pytestmark = pytest.mark.standard("SO-21")


async def logged_in(app: Litestar, person: Person) -> dict[str, str]:
    return bearer(await sign_in_from(app, new_address(), person, person.password))


async def moved(http: httpx.AsyncClient, services: Services, outbox: Outbox, headers: dict[str, str]) -> str:
    """Changes the address of an account with a usual password; the new one."""
    address = somebody().email
    body = {"email": address, "password": Person("", "").password}
    assert (await http.post("/me/email", json=body, headers=headers)).status_code == 202
    token = await mailed_link(services, outbox, address, "email")
    answer = await http.post("/me/email/confirm", json={"token": token}, headers=headers)
    assert answer.status_code == 204, answer.text
    return address


async def undone(http: httpx.AsyncClient, services: Services, outbox: Outbox, email: str) -> None:
    """Takes the address back by the link that the old one got."""
    token = await mailed_link(services, outbox, email, "undo")
    answer = await http.post("/auth/password/reset", json={"token": token, "password": OTHER})
    assert answer.status_code == 204, answer.text


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_reset_takes_away_what_was_linked_within_the_last_day(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    clock: TestClock,
    provider: str,
) -> None:
    person, thief = await with_account(services), Stranger()
    assert await link(http, abroad, await session_of(app, person), provider, thief) == ""
    await clock.advance(hours=23, minutes=59)
    taken_back = await set_password(http, services, outbox, person.email)
    assert await linked(http, await logged_in(app, taken_back)) == []
    assert await identities_of(services, thief) == []
    thief.email = person.email
    assert await is_refused(app, abroad, provider, thief) == "account_link_required"


async def test_a_reset_leaves_what_was_linked_long_before(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    clock: TestClock,
) -> None:
    person, old, young = await with_account(services), Stranger(), Stranger()
    assert await link(http, abroad, await session_of(app, person), "openid", old) == ""
    await clock.advance(hours=24, minutes=1)
    assert await link(http, abroad, await session_of(app, person), "discord", young) == ""
    taken_back = await set_password(http, services, outbox, person.email)
    assert await linked(http, await logged_in(app, taken_back)) == ["openid"]
    assert await is_refused(app, abroad, "openid", old) == ""


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_reset_leaves_the_identity_that_made_the_account_but_no_other(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    provider: str,
) -> None:
    who, thief = Stranger(), Stranger()
    headers = await comes_in(http, abroad, provider, who)
    second = next(name for name in PROVIDERS if name != provider)
    assert await link(http, abroad, headers, second, thief) == ""
    taken_back = await set_password(http, services, outbox, who.email)
    by_password = await logged_in(app, taken_back)
    assert await identities_of(services, thief) == []
    assert await linked(http, by_password) == [provider]
    again = await comes_in_elsewhere(app, abroad, provider, who)
    assert (await me(http, again))["id"] == (await me(http, by_password))["id"]


async def test_a_second_reset_within_the_day_takes_nothing_more(
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
    for _ in range(2):
        await clock.advance(minutes=10)
        await set_password(http, services, outbox, who.email)
    assert len(await identities_of(services, who)) == 1


async def test_a_reset_link_that_is_refused_takes_nothing_away(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, mine = await with_account(services), Stranger()
    headers = await session_of(app, person)
    assert (await http.post("/auth/password/forgot", json={"email": person.email})).status_code == 202
    token = await mailed_link(services, outbox, person.email, "reset")
    assert await link(http, abroad, headers, "openid", mine) == ""
    for body in ({"token": token, "password": "short"}, {"token": token[:-1], "password": OTHER}):
        assert (await http.post("/auth/password/reset", json=body)).status_code == 400
    assert await linked(http, headers) == ["openid"]


async def test_an_undone_change_of_address_takes_away_what_was_linked_since(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    clock: TestClock,
) -> None:
    person, mine, thief = await with_account(services), Stranger(), Stranger()
    assert await link(http, abroad, await session_of(app, person), "openid", mine) == ""
    await clock.advance(days=2)
    headers = await session_of(app, person)
    await moved(http, services, outbox, headers)
    assert await link(http, abroad, headers, "discord", thief) == ""
    await clock.advance(hours=23)
    await undone(http, services, outbox, person.email)
    person.password = OTHER
    assert await linked(http, await logged_in(app, person)) == ["openid"]
    assert await identities_of(services, thief) == []
    assert await is_refused(app, abroad, "openid", mine) == ""


async def test_an_undone_change_of_address_takes_away_what_was_linked_just_before_it(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    clock: TestClock,
) -> None:
    """A thief who links first and changes the address then must not come back when the owner takes it back: the mail
    about the link promises that a new password unlinks what was linked within the last day."""
    person, thief = await with_account(services), Stranger()
    headers = await session_of(app, person)
    assert await link(http, abroad, headers, "discord", thief) == ""
    (mail,) = await letters(services, outbox, person.email, "A new way to sign in was linked")
    assert "unlinks what was linked within the last day" in mail.text
    await clock.advance(minutes=1)
    await moved(http, services, outbox, headers)
    await clock.advance(minutes=10)
    await undone(http, services, outbox, person.email)
    assert await identities_of(services, thief) == []


async def test_a_link_begun_before_a_reset_brings_nothing(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    clock: TestClock,
) -> None:
    """By any order of beginning, reset, and coming back."""
    person, thief = await with_account(services), Stranger()
    headers = await session_of(app, person)
    async with browser(app) as thiefs:
        begun = await thiefs.post("/me/identities/openid", params={"next": "https://app.test/welcome"}, headers=headers)
        at_provider = await abroad.post(begun.json()["authorize_url"], data=thief.choice())
        await clock.advance(seconds=1)
        taken_back = await set_password(http, services, outbox, person.email)
        back = await thiefs.get(at_provider.headers["location"])
    assert back.headers["location"].endswith("error=session_expired")
    assert await identities_of(services, thief) == []
    assert (await sign_in(http, taken_back)).status_code == 200
    account = await the_account(services, person.email)
    assert account.password_changed_at - account.created_at >= timedelta(seconds=1)

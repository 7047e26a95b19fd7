"""Linking CSRF: nothing is linked but by the session that asked, in the browser that asked, while it is signed in."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest
from litestar import Litestar

from service.fake_provider.provider import FakeProvider
from service.wiring import Services
from tests.attacks.social import (
    assert_signs_nobody_in,
    assert_turned_away,
    code_for,
    identities_of,
    link_begun,
    linked_to,
    token_calls,
)
from tests.conftest import Outbox, Person, browser, somebody
from tests.deeds import OTHER, bearer, id_of, is_in, mailed_link, session_of, sign_in, with_account
from tests.social.acting import (
    PROVIDERS,
    Stranger,
    begun,
    decided,
    error_of,
    with_query,
)

# Of another browser


@pytest.mark.standard("SO-01", "SO-21")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_victim_who_is_lured_into_an_attackers_link_links_nothing(
    app: Litestar,
    services: Services,
    fake_provider: FakeProvider,
    abroad: httpx.AsyncClient,
    provider: str,
) -> None:
    """Else the attacker's account would open with the victim's sign-in, and take what the victim puts into it."""
    victim_abroad, victim, attacker = Stranger(), await with_account(services), await with_account(services)
    async with browser(app) as attackers, browser(app) as victims:
        mine, theirs = bearer(await sign_in(attackers, attacker)), bearer(await sign_in(victims, victim))
        await begun(victims, "openid")  # a cookie of their own
        location = await decided(abroad, await link_begun(attackers, provider, mine), victim_abroad)
        fake_provider.requests.clear()
        assert_turned_away(await victims.get(location, headers=theirs))
        assert_turned_away(await attackers.get(location))  # nor by hand afterwards
        assert await linked_to(attackers, mine) == await linked_to(victims, theirs) == []
    assert token_calls(fake_provider) == []
    assert await identities_of(services, victim_abroad) == []


@pytest.mark.standard("SO-02", "SO-21")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_attackers_code_does_not_get_into_a_victims_link(
    *,
    app: Litestar,
    services: Services,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    person: Person,
    provider: str,
) -> None:
    """Else the attacker's sign-in would open the victim's account."""
    attacker = Stranger()
    location = await decided(abroad, await link_begun(http, provider, person.headers), Stranger())
    code = await code_for(app, abroad, provider, attacker)
    assert error_of(await http.get(with_query(location, code=code))) == "invalid_or_expired_code"
    assert await linked_to(http, person.headers) == []
    assert await identities_of(services, attacker) == []


@pytest.mark.standard("SO-01")
async def test_a_link_signs_nobody_in_and_a_sign_in_links_nothing(
    app: Litestar, services: Services, http: httpx.AsyncClient, abroad: httpx.AsyncClient, person: Person
) -> None:
    who = Stranger()
    done = await http.get(await decided(abroad, await link_begun(http, "discord", person.headers), who))
    assert error_of(done) == ""
    assert "set-cookie" not in done.headers
    assert_signs_nobody_in(done)

    other = Stranger()
    answer = await http.get(await decided(abroad, await begun(http, "github"), other), headers=person.headers)
    assert error_of(answer) == ""
    assert await linked_to(http, person.headers) == ["discord"]
    (identity,) = await identities_of(services, other)
    assert identity.account_id != await id_of(services, person)


@pytest.mark.standard("SO-01")
async def test_a_link_counts_once(http: httpx.AsyncClient, abroad: httpx.AsyncClient, person: Person) -> None:
    location = await decided(abroad, await link_begun(http, "discord", person.headers), Stranger())
    answers = await asyncio.gather(*(http.get(location) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [303] + [400] * 19
    assert await linked_to(http, person.headers) == ["discord"]


# After the session that asked


@dataclass(frozen=True)
class Stage:
    """What a deed may need: the service, somebody's two sessions, and their mails."""

    app: Litestar
    services: Services
    outbox: Outbox
    person: Person
    here: dict[str, str]
    elsewhere: dict[str, str]
    refresh_token: str
    session: str


async def _done(answer: httpx.Response) -> None:
    assert answer.status_code in {200, 202, 204}, answer.text


async def logged_out(at: Stage) -> None:
    async with browser(at.app) as http:
        await _done(await http.post("/auth/logout", json={"refresh_token": at.refresh_token}))


async def ended_elsewhere(at: Stage) -> None:
    async with browser(at.app) as http:
        await _done(await http.delete(f"/me/sessions/{at.session}", headers=at.elsewhere))


async def all_others_ended(at: Stage) -> None:
    async with browser(at.app) as http:
        await _done(await http.delete("/me/sessions", headers=at.elsewhere))


async def _password_changed(at: Stage, headers: dict[str, str]) -> None:
    body = {"current_password": at.person.password, "new_password": OTHER}
    async with browser(at.app) as http:
        await _done(await http.post("/me/password", json=body, headers=headers))


async def password_changed_here(at: Stage) -> None:
    await _password_changed(at, at.here)
    async with browser(at.app) as http:
        assert await is_in(http, at.here)


async def password_changed_elsewhere(at: Stage) -> None:
    await _password_changed(at, at.elsewhere)


async def password_reset(at: Stage) -> None:
    async with browser(at.app) as http:
        await _done(await http.post("/auth/password/forgot", json={"email": at.person.email}))
        token = await mailed_link(at.services, at.outbox, at.person.email, "reset")
        await _done(await http.post("/auth/password/reset", json={"token": token, "password": OTHER}))


async def address_changed_elsewhere(at: Stage) -> None:
    address = somebody().email
    async with browser(at.app) as http:
        body = {"email": address, "password": at.person.password}
        await _done(await http.post("/me/email", json=body, headers=at.elsewhere))
        token = await mailed_link(at.services, at.outbox, address, "email")
        await _done(await http.post("/me/email/confirm", json={"token": token}, headers=at.elsewhere))


async def disabled(at: Stage) -> None:
    await at.services.administration.disable(await id_of(at.services, at.person))


async def disabled_and_enabled(at: Stage) -> None:
    account = await id_of(at.services, at.person)
    await at.services.administration.disable(account)
    await at.services.administration.enable(account)


async def signed_out_by_an_operator(at: Stage) -> None:
    await at.services.administration.end_sessions(await id_of(at.services, at.person))


async def closed(at: Stage) -> None:
    async with browser(at.app) as http:
        await _done(await http.delete("/me", headers=at.elsewhere))


DEEDS: list[Callable[[Stage], Awaitable[None]]] = [
    logged_out,
    ended_elsewhere,
    all_others_ended,
    password_changed_here,
    password_changed_elsewhere,
    password_reset,
    address_changed_elsewhere,
    disabled,
    disabled_and_enabled,
    signed_out_by_an_operator,
    closed,
]


@pytest.mark.standard("SO-21", "SO-13")
@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
async def test_a_link_comes_to_nothing_once_the_session_that_asked_is_over(
    *,
    app: Litestar,
    services: Services,
    outbox: Outbox,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    deed: Callable[[Stage], Awaitable[None]],
) -> None:
    """Who was in the account for a moment must not leave a way in behind."""
    person, who = await with_account(services), Stranger()
    entered = await sign_in(http, person)
    here, elsewhere = bearer(entered), await session_of(app, person)
    session = next(one["id"] for one in (await http.get("/me/sessions", headers=here)).json() if one["current"])
    location = await decided(abroad, await link_begun(http, "discord", here), who)
    await deed(Stage(app, services, outbox, person, here, elsewhere, entered.json()["refresh_token"], session))

    answer = await http.get(location)
    assert error_of(answer) in {"session_expired", "account_disabled"}
    assert_signs_nobody_in(answer)
    assert await identities_of(services, who) == []
    assert_turned_away(await http.get(location))

"""How fresh a sign-in through a provider is: as fresh as anybody vouches for, before what is dangerous."""

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.conftest import PASSWORD, Introspector, Person, TestClock, browser
from tests.deeds import COOKIE_HEADERS, bearer, session_of, with_account
from tests.social.acting import (
    PAGE,
    PROVIDERS,
    Stranger,
    begun,
    came_back,
    decided,
    query_of,
    signed_in,
)
from tests.social.linked import comes_in, comes_in_elsewhere, link

STALE = (401, "insufficient_user_authentication")
FRESH_LIFE = 300
LONG_AGO = "86400"

pytestmark = pytest.mark.standard("SO-12")


async def dangerous(http: httpx.AsyncClient, headers: dict[str, str]) -> list[tuple[int, str]]:
    """What the dangerous verbs answer: they leave the account as it is, but for its other sessions."""
    asked = (("POST", "/me/identities/github"), ("DELETE", "/me/identities/nobody"), ("DELETE", "/me/sessions"))
    answers = [await http.request(verb, path, headers=headers) for verb, path in asked]
    return [(answer.status_code, answer.json().get("code", "") if answer.content else "") for answer in answers]


ALL_OPEN = [(200, ""), (404, "not_found"), (204, "")]
ALL_SHUT = [STALE] * 3


async def auth_time(http: httpx.AsyncClient, introspector: Introspector, headers: dict[str, str]) -> float:
    told = await introspector.ask(http, headers["Authorization"].removeprefix("Bearer "))
    assert isinstance(told["auth_time"], int)
    return told["auth_time"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_with_a_password_here_it_is_asked_for_where_the_provider_does_not_say_when(
    app: Litestar, person: Person, abroad: httpx.AsyncClient, http: httpx.AsyncClient, provider: str
) -> None:
    who = Stranger()
    assert await link(http, abroad, person.headers, provider, who) == ""
    async with browser(app) as elsewhere:
        headers = await comes_in(elsewhere, abroad, provider, who)
        assert await dangerous(elsewhere, headers) == ALL_SHUT
        closed = await elsewhere.delete("/me", headers=headers)
        assert (closed.status_code, closed.json()["code"]) == STALE
        assert f"max_age={FRESH_LIFE}" in closed.headers["www-authenticate"]

        proved = {"password": PASSWORD, "transport": "body"}
        headers = bearer(await elsewhere.post("/auth/reauthenticate", json=proved, headers=headers | COOKIE_HEADERS))
        assert await dangerous(elsewhere, headers) == ALL_OPEN
        assert (await elsewhere.delete("/me", headers=headers)).status_code == 204


async def test_staleness_survives_a_refresh(
    app: Litestar, person: Person, abroad: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    who = Stranger()
    assert await link(http, abroad, person.headers, "openid", who) == ""
    async with browser(app) as elsewhere:
        headers = await comes_in(elsewhere, abroad, "openid", who)
        for _ in range(3):
            headers = bearer(await elsewhere.post("/auth/refresh", json={}, headers=COOKIE_HEADERS))
            assert await dangerous(elsewhere, headers) == ALL_SHUT


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_without_a_password_the_provider_is_the_best_proof_there_is(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, clock: TestClock, provider: str
) -> None:
    headers = await comes_in(http, abroad, provider, Stranger())
    assert (await dangerous(http, headers))[1:] == ALL_OPEN[1:]
    await clock.advance(seconds=FRESH_LIFE + 1)
    assert await dangerous(http, headers) == ALL_SHUT


AGES = [("0", ALL_OPEN), ("120", ALL_OPEN), ("310", ALL_SHUT), (LONG_AGO, ALL_SHUT)]


@pytest.mark.parametrize(("age", "expected"), AGES)
@pytest.mark.parametrize("has_password", [True, False])
async def test_what_the_provider_says_counts(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    introspector: Introspector,
    clock: TestClock,
    age: str,
    expected: list[tuple[int, str]],
    has_password: bool,
) -> None:
    """With and without a password here, and what it says is what our tokens say."""
    who = Stranger()
    if has_password:
        person = await with_account(services)
        assert await link(http, abroad, await session_of(app, person), "openid", who) == ""
    for _ in range(2):
        async with browser(app) as elsewhere:
            headers = await comes_in(elsewhere, abroad, "openid", who, auth_age=age)
            said = clock().timestamp() - int(age)
            assert abs(await auth_time(elsewhere, introspector, headers) - said) < 30
            assert await dangerous(elsewhere, headers) == expected


async def test_a_very_old_proof_is_old_and_no_crash(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    for age in ("2592000", "99999999", "999999999"):
        async with browser(app) as elsewhere:
            headers = await comes_in(elsewhere, abroad, "openid", Stranger(), auth_age=age)
            assert await dangerous(elsewhere, headers) == ALL_SHUT
            assert (await elsewhere.get("/me", headers=headers)).status_code == 200


async def test_a_person_can_be_sent_to_prove_themselves_anew(
    app: Litestar, person: Person, abroad: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    """`prompt=login` reaches the provider, which then says when; that opens what is dangerous."""
    who = Stranger()
    assert await link(http, abroad, person.headers, "openid", who) == ""
    async with browser(app) as elsewhere:
        assert await dangerous(elsewhere, await comes_in(elsewhere, abroad, "openid", who)) == ALL_SHUT
        plain = query_of(await begun(elsewhere, "openid"))
        assert {"prompt", "max_age"}.isdisjoint(plain)
        url = await begun(elsewhere, "openid", prompt="login")
        asked = query_of(url)
        assert (asked["prompt"], asked["max_age"]) == ("login", "0")
        headers = await signed_in(elsewhere, await came_back(elsewhere, await decided(abroad, url, who)))
        assert await dangerous(elsewhere, headers) == ALL_OPEN
        url = await begun(elsewhere, "openid", prompt="login")
        ignored = await decided(abroad, url, who, auth_age=LONG_AGO)
        assert await dangerous(elsewhere, await signed_in(elsewhere, await came_back(elsewhere, ignored))) == ALL_SHUT


async def test_discord_is_not_silent_where_somebody_shall_prove_themselves(http: httpx.AsyncClient) -> None:
    assert "prompt" not in query_of(await begun(http, "discord", prompt="login"))


async def test_no_other_prompt_is_taken(http: httpx.AsyncClient) -> None:
    for prompt in ("none", "consent", "login consent", "LOGIN"):
        answer = await http.get("/auth/social/openid", params={"next": PAGE, "prompt": prompt})
        assert answer.status_code == 400, prompt


async def test_a_sign_in_with_the_password_is_fresh_whatever_a_provider_says(
    app: Litestar, person: Person, abroad: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    """And a stale session beside it stays stale: freshness is a session's, not an account's."""
    who = Stranger()
    assert await link(http, abroad, person.headers, "openid", who) == ""
    by_provider = await comes_in_elsewhere(app, abroad, "openid", who, auth_age=LONG_AGO)
    await session_of(app, person)
    assert (await http.post("/me/identities/github", headers=by_provider)).status_code == 401
    assert await dangerous(http, await session_of(app, person)) == ALL_OPEN

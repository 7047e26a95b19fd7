"""Login CSRF and session swapping: a callback counts once, in the browser that began, with the code that was meant."""

import asyncio
import secrets
from typing import Any

import httpx
import pytest
from litestar import Litestar
from redis.asyncio import Redis

from service.crypto import opaque
from service.fake_provider.provider import FakeProvider
from service.wiring import Services
from tests.attacks.social import (
    Wiretap,
    accounts_with,
    assert_turned_away,
    attributes_of,
    cookies_of,
    live_sessions,
    returning,
    social_cookie,
    token_calls,
    transaction_key,
)
from tests.conftest import ISSUER, Person, browser
from tests.social.acting import (
    PAGE,
    PROVIDERS,
    REFRESH_COOKIE,
    SOCIAL_COOKIE,
    Stranger,
    begun,
    decided,
    error_of,
    me,
    query_of,
    signed_in,
)
from tests.traces import keys_with

# Bound to a browser


@pytest.mark.standard("SO-01")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_callback_of_another_browser_signs_nobody_in(
    *,
    app: Litestar,
    services: Services,
    fake_provider: FakeProvider,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    provider: str,
) -> None:
    """The attacker signs in at the provider, and has the victim open what would bring them in."""
    attacker = Stranger()
    location = await returning(http, abroad, provider, attacker)
    fake_provider.requests.clear()
    async with browser(app) as stranger, browser(app) as busy:
        await begun(busy, provider)
        assert_turned_away(await stranger.get(location))
        assert_turned_away(await busy.get(location))
    assert token_calls(fake_provider) == []
    assert await accounts_with(services, attacker.email) == []


@pytest.mark.standard("SO-01")
async def test_a_cookie_that_is_not_to_the_letter_the_one_it_began_with_is_none(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    async with browser(app) as other:
        await begun(other, "openid")
        elsewhere = social_cookie(other)
    for wrong in (
        lambda right, state: "",
        lambda right, state: right[:-1],
        lambda right, state: right[: len(right) // 2],
        lambda right, state: right[:-1] + ("A" if right[-1] != "A" else "B"),
        lambda right, state: f"{right}A",
        lambda right, state: f'"{right}',
        lambda right, state: right.swapcase(),
        lambda right, state: right.removeprefix("vsb_"),
        lambda right, state: opaque.mint("vsb"),
        lambda right, state: state,
        lambda right, state: elsewhere,
    ):
        location = await returning(http, abroad, "openid", Stranger())
        cookie = wrong(social_cookie(http), query_of(location)["state"])
        async with browser(app) as forging:
            answer = await forging.get(location, headers={"Cookie": f"{SOCIAL_COOKIE}={cookie}"})
            assert_turned_away(answer)
    async with browser(app) as forging:  # a cookie of another name, as a sibling host could set it
        location = await returning(http, abroad, "openid", Stranger())
        plain = {"Cookie": f"{SOCIAL_COOKIE.removeprefix('__Host-')}={social_cookie(http)}"}
        assert_turned_away(await forging.get(location, headers=plain))


@pytest.mark.standard("SO-01", "SO-24")
async def test_the_cookie_lasts_ten_minutes_and_opens_nothing(http: httpx.AsyncClient, person: Person) -> None:
    for answer in (
        await http.get("/auth/social/discord", params={"next": PAGE}),
        await http.post("/me/identities/discord", params={"next": PAGE}, headers=person.headers),
    ):
        assert set(cookies_of(answer)) == {SOCIAL_COOKIE}
        assert SOCIAL_COOKIE.startswith("__Host-")
        assert attributes_of(answer, SOCIAL_COOKIE) == {
            "httponly",
            "secure",
            "samesite=none",
            "path=/",
            "max-age=600",
        }
        assert len(cookies_of(answer)[SOCIAL_COOKIE]) > 43
        assert answer.headers["cache-control"] == "no-store"
    answer = await http.post("/auth/refresh", headers={"X-Vestibule-CSRF": "1", "Origin": ISSUER})
    assert answer.status_code in {400, 401}


@pytest.mark.standard("SO-01", "SO-24")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_only_the_transactions_cookie_goes_along_from_other_sites(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str
) -> None:
    done = await http.get(await returning(http, abroad, provider, Stranger()))
    assert error_of(done) == ""
    assert REFRESH_COOKIE in cookies_of(done)
    for name in cookies_of(done):
        assert {"samesite=strict", "secure", "httponly", "path=/"} <= attributes_of(done, name), name


@pytest.mark.standard("SO-01")
async def test_two_tabs_of_a_browser_do_not_get_in_each_others_way(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    people = {name: Stranger() for name in ("first", "second", "third")}
    asked = {
        "first": await begun(http, "discord"),
        "second": await begun(http, "openid"),
        "third": await begun(http, "openid"),
    }
    back = {name: await decided(abroad, asked[name], people[name]) for name in asked}
    for name in ("third", "first", "second"):
        headers = await signed_in(http, await http.get(back[name]))
        assert (await me(http, headers))["email"] == people[name].email


# Once, for ten minutes


@pytest.mark.standard("SO-01")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_callback_counts_once(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str
) -> None:
    location = await returning(http, abroad, provider, Stranger())
    headers = await signed_in(http, await http.get(location))
    assert_turned_away(await http.get(location))
    async with browser(app) as thief:
        assert_turned_away(await thief.get(location))
        thief.cookies.set(SOCIAL_COOKIE, social_cookie(http), domain="auth.test", path="/")
        assert_turned_away(await thief.get(location))
    assert await live_sessions(http, headers) == 1


@pytest.mark.standard("SO-01")
async def test_of_twenty_at_the_same_time_one_gets_in(
    fake_provider: FakeProvider,
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
) -> None:
    location = await returning(http, abroad, "discord", Stranger())
    http_of_second_worker.cookies.set(SOCIAL_COOKIE, social_cookie(http), domain="auth.test", path="/")
    fake_provider.requests.clear()
    answers = await asyncio.gather(*((http, http_of_second_worker)[n % 2].get(location) for n in range(20)))
    let_in = [answer for answer in answers if answer.status_code == 303]
    assert len(let_in) == 1
    for answer in answers:
        if answer is not let_in[0]:
            assert_turned_away(answer)
    assert len(token_calls(fake_provider)) == 1
    assert await live_sessions(http, await signed_in(http, let_in[0])) == 1


@pytest.mark.standard("SO-01")
async def test_a_transaction_is_kept_for_ten_minutes_and_nothing_of_it_can_be_read(
    services: Services, redis: Redis, tapped: Litestar, tap: Wiretap, abroad: httpx.AsyncClient
) -> None:
    page = f"https://app.test/{secrets.token_hex(12)}"
    async with browser(tapped) as http:
        asked = await begun(http, "openid", next=page)
        state, nonce = query_of(asked)["state"], query_of(asked)["nonce"]
        key = transaction_key(services, state)
        assert 590 <= await redis.ttl(key) <= 600
        kept: Any = await redis.get(key)
        held = [state, nonce, social_cookie(http), page, query_of(asked)["code_challenge"]]
        assert await keys_with(redis, held) == set()
        tap.calls.clear()
        await http.get(await decided(abroad, asked, Stranger()))
    (exchange,) = tap.exchanges()
    verifier = exchange.form["code_verifier"]
    assert verifier.encode() not in kept
    assert not await redis.exists(key)


@pytest.mark.standard("SO-01")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_whoever_comes_too_late_begins_again(
    *,
    services: Services,
    redis: Redis,
    fake_provider: FakeProvider,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    provider: str,
) -> None:
    who = Stranger()
    location = await returning(http, abroad, provider, who)
    assert await redis.delete(transaction_key(services, query_of(location)["state"])) == 1
    fake_provider.requests.clear()
    assert_turned_away(await http.get(location))
    assert token_calls(fake_provider) == []
    assert await accounts_with(services, who.email) == []


@pytest.mark.standard("SO-01")
async def test_a_kept_transaction_belongs_to_its_own_state(
    services: Services, redis: Redis, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    """Who can write to Redis cannot put one transaction in the place of another."""
    one = await returning(http, abroad, "openid", Stranger())
    two = await returning(http, abroad, "openid", Stranger())
    keys = [transaction_key(services, query_of(location)["state"]) for location in (one, two)]
    await redis.copy(keys[0], keys[1], replace=True)
    assert_turned_away(await http.get(two))
    assert error_of(await http.get(one)) == ""

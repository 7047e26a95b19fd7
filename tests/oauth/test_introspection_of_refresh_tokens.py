"""Refresh tokens at `/introspect`, alive to their own client alone; and how far a client shortens its sessions."""

import httpx
import pytest
from redis.asyncio import Redis

from service.wiring import Services
from tests.conftest import ISSUER, Introspector, TestClock
from tests.deeds import id_of, with_account
from tests.oauth.acting import (
    Software,
    assert_error,
    assert_inactive,
    change,
    claims_of,
    new_api,
    new_backend,
    new_front_end,
    new_service,
    session_through,
)
from tests.tokens.acting import record_key

DAY = 86_400


@pytest.mark.standard("IN-04", "IN-05", "IN-10", "IN-13", "IN-14", "W-I")
async def test_its_own_client_is_told_what_a_refresh_token_is_good_for(
    http: httpx.AsyncClient, services: Services
) -> None:
    api = await new_api(services)
    client = await new_backend(services, api)
    person, grant = await session_through(services, client)
    for hint in ("refresh_token", "access_token", "foo", ""):
        answer = await client.introspect(http, grant.refresh_token, token_type_hint=hint)
        told = answer.json()
        assert set(told) == {"active", "iss", "sub", "aud", "client_id", "scope", "exp", "iat"}
        assert (told["active"], told["iss"], told["client_id"]) == (True, ISSUER, client.client_id)
        assert (told["sub"], told["scope"]) == (str(await id_of(services, person)), f"account {api.read} {api.write}")
        assert type(told["exp"]) is type(told["iat"]) is int
        assert told["exp"] - told["iat"] == 14 * DAY
        assert person.email not in answer.text
        assert person.nickname not in answer.text


@pytest.mark.standard("IN-06", "IN-07", "IN-13")
async def test_nobody_else_is_told_anything_of_a_refresh_token(
    http: httpx.AsyncClient, services: Services, introspector: Introspector
) -> None:
    api = await new_api(services)
    client, front_end = await new_backend(services, api), await new_front_end(services)
    others = [
        Software(introspector.client_id, introspector.secret),
        await new_backend(services, api),
        await new_service(services, serves=[api.identifier, ISSUER]),
    ]
    _, grant = await session_through(services, client)
    _, of_front_end = await session_through(services, front_end)
    for other in others:
        for hint in ("refresh_token", "access_token"):
            assert_inactive(await other.introspect(http, grant.refresh_token, token_type_hint=hint))
            assert_inactive(await other.introspect(http, of_front_end.refresh_token, token_type_hint=hint))
    assert_error(await front_end.introspect(http, of_front_end.refresh_token), 401, "invalid_client")
    await change(services, client, may_introspect=False)
    assert_error(await client.introspect(http, grant.refresh_token), 403, "unauthorized_client")


@pytest.mark.standard("IN-06", "IN-07", "IN-09", "IN-13", "SE-16", "SE-22")
async def test_a_refresh_token_that_would_not_be_taken_is_inactive_to_its_owner_too(
    http: httpx.AsyncClient, services: Services, clock: TestClock, redis: Redis
) -> None:
    client = await new_backend(services)
    _, rotated = await session_through(services, client)
    successor = await client.renewed(http, rotated.refresh_token)
    assert_inactive(await client.introspect(http, rotated.refresh_token))
    assert await client.sees(http, successor["refresh_token"])

    _, revoked = await session_through(services, client)
    await client.revoke(http, revoked.refresh_token)
    disabled_person, disabled = await session_through(services, client)
    await services.administration.disable(await id_of(services, disabled_person))
    lost_person, lost = await session_through(services, client)
    await redis.delete(record_key(await id_of(services, lost_person)))
    _, idle = await session_through(services, client)
    assert await client.sees(http, idle.refresh_token)
    await clock.advance(days=14, seconds=1)
    assert_inactive(await client.introspect(http, idle.refresh_token))
    await clock.advance(hours=1)  # what Redis lost is known to have been used to the hour
    for grant in (revoked, disabled, lost, idle):
        assert_inactive(await client.introspect(http, grant.refresh_token))
        assert_inactive(await client.introspect(http, f"{grant.refresh_token}x"))
        assert_error(await client.refresh(http, grant.refresh_token), 400, "invalid_grant")


@pytest.mark.standard("IN-13", "SE-29")
async def test_to_ask_about_a_refresh_token_changes_nothing_about_it(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services, redis: Redis
) -> None:
    client = await new_backend(services)
    person, grant = await session_through(services, client)
    key = record_key(await id_of(services, person))
    before = await redis.hgetall(key)
    for door in (http, http_of_second_worker):
        assert await client.sees(door, grant.refresh_token)
    assert await redis.hgetall(key) == before
    tokens = await client.renewed(http, grant.refresh_token)
    assert (await client.renewed(http, grant.refresh_token))["refresh_token"] == tokens["refresh_token"]


@pytest.mark.standard("IN-13", "AT-47")
async def test_the_scope_of_a_refresh_token_is_that_of_this_moment(http: httpx.AsyncClient, services: Services) -> None:
    await with_account(services, ("admin",))  # somebody else can administer
    client = await new_backend(services, scopes=["account", "admin"])
    person, grant = await session_through(services, client, "admin")
    assert (await client.told(http, grant.refresh_token))["scope"] == "account admin"
    await services.administration.set_roles(await id_of(services, person), [])
    assert (await client.told(http, grant.refresh_token))["scope"] == "account"
    await change(services, client, scopes=[])
    told = await client.told(http, grant.refresh_token)
    assert (told["active"], "scope" in told) == (True, False)


@pytest.mark.standard("SE-08", "SE-13", "SE-24", "SE-04")
async def test_a_client_may_let_its_sessions_rest_for_less(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    client, other = await new_backend(services, session_idle=600), await new_backend(services)
    (_, grant), (_, longer) = await session_through(services, client), await session_through(services, other)
    told = await client.told(http, grant.refresh_token)
    assert told["exp"] - told["iat"] == 600
    refresh = grant.refresh_token
    for _ in range(4):
        await clock.advance(seconds=500)
        refresh = (await client.renewed(http, refresh))["refresh_token"]
    await clock.advance(seconds=601)
    assert_inactive(await client.introspect(http, refresh))
    assert_error(await client.refresh(http, refresh), 400, "invalid_grant")
    assert await other.sees(http, longer.refresh_token)


@pytest.mark.standard("SE-09", "SE-13", "SE-25", "SE-26", "SE-04")
async def test_a_client_may_let_its_sessions_last_for_less_however_busy_they_are(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    client, other = await new_backend(services, session_absolute=1800), await new_backend(services)
    (_, grant), (_, longer) = await session_through(services, client), await session_through(services, other)
    ends_at = claims_of(grant.access_token)["auth_time"] + 1800
    refresh = grant.refresh_token
    for _ in range(5):
        told = await client.told(http, refresh)
        assert abs(told["exp"] - ends_at) <= 1
        await clock.advance(seconds=340)
        tokens = await client.renewed(http, refresh)
        refresh = tokens["refresh_token"]
    await clock.advance(seconds=101)
    assert_inactive(await client.introspect(http, refresh))
    assert_inactive(await client.introspect(http, tokens["access_token"]))
    assert_error(await client.refresh(http, refresh), 400, "invalid_grant")
    assert await other.sees(http, longer.refresh_token)


@pytest.mark.standard("AT-35", "SE-13")
async def test_a_client_may_give_its_access_tokens_less_and_nothing_gives_them_more(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    client = await new_front_end(services, access_token_life=60)
    person, grant = await session_through(services, client)
    login = (await http.post("/auth/login", json=person.credentials(client_id=client.client_id))).json()
    refreshed = await client.renewed(http, grant.refresh_token)
    proved = await http.post(
        "/auth/reauthenticate",
        json={"password": person.password},
        headers={"Authorization": f"Bearer {login['access_token']}"},
    )
    assert claims_of(grant.access_token)["exp"] - claims_of(grant.access_token)["iat"] == grant.expires_in == 60
    for tokens in (login, refreshed, proved.json()):
        claims = claims_of(tokens["access_token"])
        assert claims["exp"] - claims["iat"] == tokens["expires_in"] == 60
    await clock.advance(seconds=61)
    answer = await http.get("/me", headers={"Authorization": f"Bearer {refreshed['access_token']}"})
    assert answer.status_code == 401
    await change(services, client, access_token_life=None)
    assert (await client.renewed(http, refreshed["refresh_token"]))["expires_in"] == 600

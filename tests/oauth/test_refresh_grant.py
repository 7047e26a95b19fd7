"""`grant_type=refresh_token`: the rotation of `/auth/refresh` in the words of OAuth, and scopes that only narrow."""

import asyncio

import httpx
import pytest

from service.wiring import Services
from tests.conftest import ISSUER, Introspector, Outbox, TestClock
from tests.deeds import id_of, letters, with_account
from tests.oauth.acting import (
    Software,
    admitted,
    assert_error,
    bearer,
    change,
    claims_of,
    header_of,
    new_api,
    new_backend,
    new_front_end,
    session_through,
)
from tests.tokens.acting import events_of, session_of

CLAIMS = {"iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope", "sid", "auth_time", "amr", "roles"}
FIXED = CLAIMS - {"exp", "iat", "jti"}


async def front_door(http: httpx.AsyncClient, token: str, client: Software) -> httpx.Response:
    """The same token at the other endpoint."""
    return await http.post("/auth/refresh", json={"refresh_token": token, "client_id": client.client_id})


@pytest.mark.standard("AT-19", "AT-20", "AT-22", "AT-23", "AT-24", "AT-27", "AT-35", "AT-40", "SE-14", "W-T", "W-X")
async def test_three_refreshes_leave_who_somebody_is_and_when_they_signed_in(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    for client in (Software("web"), await new_backend(services)):
        _, grant = await session_through(services, client)
        first, seen, refresh = claims_of(grant.access_token), {grant.refresh_token}, grant.refresh_token
        for _ in range(3):
            await clock.advance(hours=5)
            tokens = await client.renewed(http, refresh)
            claims, head = claims_of(tokens["access_token"]), header_of(tokens["access_token"])
            assert set(claims) == CLAIMS
            assert (set(head), head["typ"], head["alg"]) == ({"alg", "kid", "typ"}, "at+jwt", "ES256")
            assert {name: claims[name] for name in FIXED} == {name: first[name] for name in FIXED}
            assert claims["exp"] - claims["iat"] == tokens["expires_in"] == 600
            assert tokens["scope"] == claims["scope"] == "account"
            refresh = tokens["refresh_token"]
            assert refresh not in seen
            seen.add(refresh)


@pytest.mark.standard("SE-28", "SE-23", "AT-40")
async def test_a_narrow_scope_is_of_the_access_token_alone_and_the_next_one_is_full_again(
    http: httpx.AsyncClient, services: Services
) -> None:
    client = await new_front_end(services, scopes=["account", "admin"])
    _, grant = await session_through(services, client, "admin")
    assert grant.scope == "account admin"
    refresh = grant.refresh_token
    for form, scope in (
        ({"scope": "admin"}, "admin"),
        ({}, "account admin"),
        ({"scope": "account"}, "account"),
        ({"scope": "admin account"}, "admin account"),
        ({"scope": ""}, "account admin"),
        ({"scope": "account", "resource": ISSUER}, "account"),
        ({"resource": ISSUER}, "account admin"),
    ):
        tokens = await client.renewed(http, refresh, **form)
        assert tokens["scope"] == claims_of(tokens["access_token"])["scope"] == scope
        refresh = tokens["refresh_token"]
    answer = await front_door(http, refresh, client)
    assert answer.json()["scope"] == "account admin"


@pytest.mark.standard("SE-28", "SE-23", "AT-17", "W-T")
async def test_a_refused_scope_or_resource_burns_nothing(http: httpx.AsyncClient, services: Services) -> None:
    api, foreign = await new_api(services), await new_api(services)
    client = await new_backend(services, api)
    _, grant = await session_through(services, client)
    for form, error in (
        ({"scope": "admin"}, "invalid_scope"),
        ({"scope": "account openid"}, "invalid_scope"),
        ({"scope": foreign.read}, "invalid_scope"),
        ({"scope": "account  admin"}, "invalid_scope"),
        ({"scope": f"account {api.read}"}, "invalid_scope"),
        ({"scope": "account", "resource": api.identifier}, "invalid_scope"),
        ({"resource": foreign.identifier}, "invalid_target"),
        ({"resource": "nonsense"}, "invalid_target"),
    ):
        assert_error(await client.refresh(http, grant.refresh_token, **form), 400, error)
    assert await client.sees(http, grant.refresh_token)
    tokens = await client.renewed(http, grant.refresh_token)
    assert claims_of(tokens["access_token"])["jti"].startswith("1.")


@pytest.mark.standard("SE-27", "AT-41", "W-T")
async def test_the_token_of_another_client_is_refused_and_stays_alive(
    http: httpx.AsyncClient, services: Services
) -> None:
    client, backend = await new_front_end(services), await new_backend(services)
    _, grant = await session_through(services, client)
    unknown = await backend.refresh(http, "vrt_nothing")
    for other in (backend, await new_front_end(services), Software("web")):
        answer = await other.refresh(http, grant.refresh_token)
        assert_error(answer, 400, "invalid_grant")
        assert answer.content == unknown.content
    outcomes = await events_of(session_of(grant.access_token), services, least=3)
    assert outcomes == {"foreign": 3}
    assert (await client.renewed(http, grant.refresh_token))["refresh_token"]


@pytest.mark.standard("AT-41", "SE-27", "W-T")
async def test_a_token_that_is_no_good_to_a_client_is_so_whatever_scope_it_asks_for(
    http: httpx.AsyncClient, services: Services
) -> None:
    """Else the scope would tell a genuine token of somebody else's, or an ended one, from nonsense."""
    client, other = await new_front_end(services), await new_backend(services)
    _, grant = await session_through(services, client)
    _, ended = await session_through(services, client)
    await services.sessions.close(ended.refresh_token)
    for form in ({"scope": "beyond"}, {"resource": "https://nobody.test"}):
        assert_error(await other.refresh(http, "vrt_nothing", **form), 400, "invalid_grant")
        assert_error(await other.refresh(http, grant.refresh_token, **form), 400, "invalid_grant")
        assert_error(await client.refresh(http, ended.refresh_token, **form), 400, "invalid_grant")


@pytest.mark.standard("SE-22", "SE-34", "LG-13", "W-T")
async def test_a_replay_ends_the_session_and_its_holder_alone_and_is_mailed_once(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, clock: TestClock, introspector: Introspector
) -> None:
    client = await new_front_end(services)
    person, grant = await session_through(services, client)
    elsewhere = await admitted(services, person, client)
    second = await client.renewed(http, grant.refresh_token)
    third = await client.renewed(http, second["refresh_token"])
    await clock.advance(hours=2)
    fresh = await client.renewed(http, third["refresh_token"])
    assert not await letters(services, outbox, person.email)

    for token in (grant.refresh_token, fresh["refresh_token"], second["refresh_token"], grant.refresh_token):
        assert_error(await client.refresh(http, token), 400, "invalid_grant")
    assert await introspector.ask(http, fresh["access_token"]) == {"active": False}
    assert (await front_door(http, fresh["refresh_token"], client)).status_code == 401
    assert len(await letters(services, outbox, person.email)) == 1
    outcomes = await events_of(session_of(grant.access_token), services, least=5)
    assert outcomes == {"reused": 1, "revoked": 4}
    assert (await client.renewed(http, elsewhere.refresh_token))["access_token"]


@pytest.mark.standard("SE-29", "SE-33")
async def test_both_endpoints_and_both_workers_at_once_give_one_successor(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services, second_worker: Services
) -> None:
    client = await new_front_end(services, scopes=["account", "admin"])
    _, grant = await session_through(services, client, "admin")
    await client.refresh(http_of_second_worker, "warm up")
    asked = [
        way
        for door in (http, http_of_second_worker)
        for _ in range(8)
        for way in (
            front_door(door, grant.refresh_token, client),
            client.refresh(door, grant.refresh_token),
            client.refresh(door, grant.refresh_token, scope="account"),
        )
    ]
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    (successor,) = {answer.json()["refresh_token"] for answer in answers}
    assert {answer.json()["scope"] for answer in answers} == {"account", "account admin"}
    outcomes = await events_of(session_of(grant.access_token), services, second_worker, least=47)
    assert outcomes == {"repeated": 47}
    following = await client.renewed(http, successor)
    assert claims_of(following["access_token"])["jti"].startswith("2.")


@pytest.mark.standard("SE-34", "SE-15")
async def test_a_session_may_change_between_the_two_endpoints(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_front_end(services)
    _, grant = await session_through(services, client)
    first = await client.renewed(http, grant.refresh_token)
    second = (await front_door(http, first["refresh_token"], client)).json()
    third = await client.renewed(http, second["refresh_token"])
    await http.post("/auth/logout", json={"refresh_token": third["refresh_token"]})
    assert_error(await client.refresh(http, third["refresh_token"]), 400, "invalid_grant")


@pytest.mark.standard("SE-16", "W-T")
async def test_a_disabled_account_is_an_invalid_grant_and_stays_out(
    http: httpx.AsyncClient, services: Services
) -> None:
    client = await new_front_end(services)
    person, grant = await session_through(services, client)
    account = await id_of(services, person)
    await services.administration.disable(account)
    assert_error(await client.refresh(http, grant.refresh_token), 400, "invalid_grant")
    await services.administration.enable(account)
    assert_error(await client.refresh(http, grant.refresh_token), 400, "invalid_grant")


@pytest.mark.standard("AT-15", "AT-16", "AT-47", "IN-09", "W-T")
async def test_a_client_that_lost_its_grant_or_was_disabled_keeps_its_sessions_for_when_it_is_back(
    http: httpx.AsyncClient, services: Services, introspector: Introspector
) -> None:
    client = await new_front_end(services)
    _, grant = await session_through(services, client)
    await change(services, client, grants=[])
    assert_error(await client.refresh(http, grant.refresh_token), 400, "unauthorized_client")
    await change(services, client, grants=["refresh_token"])
    await services.client_administration.set_disabled(client.client_id, True)
    assert_error(await client.refresh(http, grant.refresh_token), 401, "invalid_client")
    assert await introspector.ask(http, grant.access_token) == {"active": False}
    assert (await http.get("/me", headers=bearer(grant.access_token))).status_code == 401
    await services.client_administration.set_disabled(client.client_id, False)
    assert (await http.get("/me", headers=bearer(grant.access_token))).status_code == 200
    assert (await client.renewed(http, grant.refresh_token))["scope"] == "account"


@pytest.mark.standard("SE-23", "AT-17", "AT-47", "AT-40")
async def test_a_scope_that_a_client_lost_is_gone_at_once_and_one_that_it_won_needs_a_new_session(
    http: httpx.AsyncClient, services: Services, introspector: Introspector
) -> None:
    client = await new_front_end(services, scopes=["account"])
    person, grant = await session_through(services, client, "admin")
    await change(services, client, scopes=["account", "admin"])
    tokens = await client.renewed(http, grant.refresh_token)
    assert tokens["scope"] == "account"
    assert_error(await client.refresh(http, tokens["refresh_token"], scope="admin"), 400, "invalid_scope")

    await change(services, client, scopes=["admin"])
    told = await introspector.ask(http, tokens["access_token"])
    assert (told["active"], "scope" in told) == (True, False)
    refused = await http.get("/me", headers=bearer(tokens["access_token"]))
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    narrow = await client.renewed(http, tokens["refresh_token"])
    assert "scope" not in narrow
    assert not claims_of(narrow["access_token"]).get("scope")
    assert (await admitted(services, person, client)).scope == "admin"
    await change(services, client, scopes=["account", "admin"])
    assert (await client.renewed(http, narrow["refresh_token"]))["scope"] == "account"


@pytest.mark.standard("AT-47", "AT-24", "SE-23", "SE-28")
async def test_the_scope_of_operators_comes_and_goes_with_the_role(
    http: httpx.AsyncClient, services: Services, introspector: Introspector
) -> None:
    await with_account(services, ("admin",))  # somebody else can administer
    client = await new_front_end(services, scopes=["account", "admin"])
    person, grant = await session_through(services, client, "admin")
    account = await id_of(services, person)
    told = await introspector.ask(http, grant.access_token)
    assert (told["scope"], told["roles"]) == ("account admin", ["admin"])

    await services.administration.set_roles(account, ["support"])
    told = await introspector.ask(http, grant.access_token)
    assert (told["scope"], told["roles"]) == ("account", ["support"])
    assert_error(await client.refresh(http, grant.refresh_token, scope="admin"), 400, "invalid_scope")
    tokens = await client.renewed(http, grant.refresh_token)
    assert tokens["scope"] == claims_of(tokens["access_token"])["scope"] == "account"
    assert claims_of(tokens["access_token"])["roles"] == ["support"]

    await services.administration.set_roles(account, ["admin"])
    told = await introspector.ask(http, tokens["access_token"])
    assert (told["scope"], told["roles"]) == ("account", ["admin"])  # a token never becomes more than it was
    assert (await client.renewed(http, tokens["refresh_token"], scope="admin"))["scope"] == "admin"

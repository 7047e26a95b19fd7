"""One issuer, many APIs: each sees the tokens that are for it, and none sees another's."""

import asyncio

import httpx
import pytest

from service.wiring import Services
from tests.conftest import ISSUER
from tests.deeds import id_of
from tests.oauth.acting import (
    Api,
    Software,
    assert_inactive,
    bearer,
    change,
    claims_of,
    forged,
    new_api,
    new_backend,
    new_front_end,
    new_service,
    session_through,
)


@pytest.fixture
async def orders(services: Services) -> Api:
    return await new_api(services)


@pytest.fixture
async def bills(services: Services) -> Api:
    return await new_api(services)


async def server_of(services: Services, *identifiers: str) -> Software:
    """A resource server; of our own API when it names none."""
    return await new_service(services, serves=list(identifiers), grants=[])


@pytest.mark.standard("AT-06", "AT-08", "AT-23", "IN-06", "IN-11", "IN-14")
async def test_two_resource_servers_see_different_tokens_of_one_session(
    http: httpx.AsyncClient, services: Services, orders: Api, bills: Api
) -> None:
    client = await new_backend(services, orders, bills)
    person, grant = await session_through(services, client)
    first = await client.renewed(http, grant.refresh_token, resource=orders.identifier)
    second = await client.renewed(http, first["refresh_token"], resource=bills.identifier, scope=bills.read)
    servers = {
        ISSUER: await server_of(services),
        orders.identifier: await server_of(services, orders.identifier),
        bills.identifier: await server_of(services, bills.identifier),
    }
    tokens = {
        ISSUER: grant.access_token,
        orders.identifier: first["access_token"],
        bills.identifier: second["access_token"],
    }
    for served, server in servers.items():
        for audience, token in tokens.items():
            answer = await server.introspect(http, token)
            if served != audience:
                assert_inactive(answer)
                continue
            claims = claims_of(token)
            assert answer.json() == {"active": True, "token_type": "Bearer", **claims}
            assert (claims["aud"], claims["sub"]) == (audience, str(await id_of(services, person)))
            assert person.email not in answer.text
            assert person.nickname not in answer.text
    told = [await servers[name].told(http, tokens[name]) for name in servers]
    assert [each["scope"] for each in told] == ["account", f"{orders.read} {orders.write}", bills.read]


@pytest.mark.standard("IN-06", "IN-11", "AT-08")
async def test_a_server_of_several_apis_sees_the_tokens_of_all_of_them_and_ours_only_if_it_serves_us(
    http: httpx.AsyncClient, services: Services, orders: Api, bills: Api
) -> None:
    scopes, audiences = [*orders.scopes, *bills.scopes], [orders.identifier, bills.identifier]
    client = await new_service(services, scopes=scopes, audiences=audiences)
    tokens = [await client.token(http, resource=name) for name in (*audiences, ISSUER)]
    of_two, of_all = await server_of(services, *audiences), await server_of(services, *audiences, ISSUER)
    assert [await of_two.sees(http, token) for token in tokens] == [True, True, False]
    assert [await of_all.sees(http, token) for token in tokens] == [True, True, True]
    both = forged(services, {**claims_of(tokens[0]), "aud": [bills.identifier, "https://nobody.test"]})
    assert await (await server_of(services, bills.identifier)).sees(http, both)
    assert not await (await server_of(services, orders.identifier)).sees(http, both)


@pytest.mark.standard("AT-06", "AT-05", "AT-31", "W-B")
async def test_a_token_for_another_api_opens_nothing_here(
    http: httpx.AsyncClient, services: Services, orders: Api
) -> None:
    client = await new_backend(services, orders, scopes=["account", "admin", *orders.scopes])
    _, grant = await session_through(services, client, "admin")
    person = (await client.renewed(http, grant.refresh_token, resource=orders.identifier))["access_token"]
    machine = await client.token(http, resource=orders.identifier)
    for token in (person, machine):
        for path in ("/me", "/me/sessions", "/admin/clients"):
            answer = await http.get(path, headers=bearer(token))
            assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token"), path
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert (await http.get("/me", headers=bearer(grant.access_token))).status_code == 200


@pytest.mark.standard("AT-47", "AT-06", "IN-09", "IN-15")
async def test_a_client_that_lost_an_api_has_no_token_for_it_any_more(
    http: httpx.AsyncClient, services: Services, orders: Api, bills: Api
) -> None:
    client = await new_backend(services, orders, bills)
    server = await server_of(services, orders.identifier, bills.identifier)
    _, grant = await session_through(services, client)
    person = (await client.renewed(http, grant.refresh_token, resource=orders.identifier))["access_token"]
    machine, other = [await client.token(http, resource=api.identifier) for api in (orders, bills)]
    assert await server.sees(http, person)

    await change(services, client, audiences=[bills.identifier])
    assert [await server.sees(http, token) for token in (person, machine, other)] == [False, False, True]


@pytest.mark.standard("IN-06", "IN-11", "AT-47")
async def test_a_server_that_does_not_serve_an_api_any_more_sees_its_tokens_no_more(
    http: httpx.AsyncClient, services: Services, orders: Api, bills: Api
) -> None:
    client = await new_service(services, scopes=orders.scopes, audiences=[orders.identifier])
    server = await server_of(services, orders.identifier)
    token = await client.token(http)
    assert await server.sees(http, token)
    await change(services, server, serves=[bills.identifier])
    assert not await server.sees(http, token)
    await change(services, server, serves=[orders.identifier], may_introspect=False)
    assert (await server.introspect(http, token)).status_code == 403


@pytest.mark.standard("AT-10", "AT-21", "IN-14")
async def test_subjects_of_people_and_of_services_never_meet(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_backend(services)
    person, grant = await session_through(services, client)
    machine, human = await client.told(http, await client.token(http)), await client.told(http, grant.access_token)
    assert machine["iss"] == human["iss"] == ISSUER
    assert (machine["sub"], human["sub"]) == (client.client_id, str(await id_of(services, person)))
    assert not {"sid", "auth_time", "amr", "roles"} & set(machine)
    assert {"sid", "auth_time", "amr", "roles"} <= set(human)


@pytest.mark.standard("IN-15", "AT-06")
async def test_a_token_for_an_api_ends_with_its_session_on_every_worker(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services, orders: Api
) -> None:
    client, server = await new_backend(services, orders), await server_of(services, orders.identifier)
    _, grant = await session_through(services, client)
    tokens = await client.renewed(http, grant.refresh_token, resource=orders.identifier)
    both = (http, http_of_second_worker)
    assert await asyncio.gather(*(server.sees(door, tokens["access_token"]) for door in both)) == [True, True]
    await http.post("/auth/logout", json={"refresh_token": tokens["refresh_token"]})
    assert await asyncio.gather(*(server.sees(door, tokens["access_token"]) for door in both)) == [False, False]


@pytest.mark.standard("AT-25", "AT-27")
async def test_the_front_door_gives_tokens_for_us_whatever_apis_a_client_has(
    http: httpx.AsyncClient, services: Services, orders: Api
) -> None:
    client = await new_front_end(services, scopes=["account", orders.read], audiences=[orders.identifier])
    person, grant = await session_through(services, client)
    login = await http.post("/auth/login", json=person.credentials(client_id=client.client_id))
    refreshed = await http.post(
        "/auth/refresh", json={"refresh_token": grant.refresh_token, "client_id": client.client_id}
    )
    for answer in (login, refreshed):
        assert answer.json()["scope"] == "account"
        assert claims_of(answer.json()["access_token"])["aud"] == ISSUER
    widened = await client.renewed(http, refreshed.json()["refresh_token"], scope=orders.read)
    assert claims_of(widened["access_token"])["aud"] == orders.identifier

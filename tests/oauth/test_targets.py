"""`resource` and `scope` (RFC 8707): a token is for one API, and every scope in it means something there."""

import httpx
import pytest

from service.errors import ApiTaken, InvalidInput
from service.wiring import Services
from tests.conftest import ISSUER
from tests.oauth.acting import (
    Api,
    Software,
    assert_error,
    change,
    claims_of,
    granted,
    new_api,
    new_backend,
    new_service,
    session_through,
)


@pytest.fixture
async def orders(services: Services) -> Api:
    return await new_api(services)


@pytest.fixture
async def bills(services: Services) -> Api:
    return await new_api(services)


@pytest.fixture
async def client(services: Services, orders: Api, bills: Api) -> Software:
    """A service of two APIs that may administer too."""
    scopes = [*orders.scopes, *bills.scopes, "admin"]
    return await new_service(services, scopes=scopes, audiences=[orders.identifier, bills.identifier])


@pytest.mark.standard("AT-06", "AT-07", "AT-23", "AT-25", "AT-40")
async def test_a_token_is_for_the_api_that_was_named_and_has_the_scopes_of_that_one(
    http: httpx.AsyncClient, client: Software, orders: Api, bills: Api
) -> None:
    for form, audience, scope in (
        ({"resource": orders.identifier}, orders.identifier, " ".join(orders.scopes)),
        ({"resource": bills.identifier}, bills.identifier, " ".join(bills.scopes)),
        ({"resource": bills.identifier, "scope": bills.write}, bills.identifier, bills.write),
        ({"resource": ISSUER}, ISSUER, "admin"),
        ({"resource": ISSUER, "scope": "admin"}, ISSUER, "admin"),
        ({"scope": orders.read}, orders.identifier, orders.read),
        ({"scope": f"{bills.write} {bills.read}"}, bills.identifier, f"{bills.write} {bills.read}"),
        ({"scope": "admin"}, ISSUER, "admin"),
    ):
        tokens = granted(await client.ask_token(http, **form))
        claims = claims_of(tokens["access_token"])
        assert (claims["aud"], claims["scope"], tokens["scope"]) == (audience, scope, scope), form


@pytest.mark.standard("AT-07", "AT-25", "W-T")
async def test_a_resource_that_is_unknown_malformed_or_not_open_to_the_client_is_an_invalid_target(
    http: httpx.AsyncClient, services: Services, client: Software, orders: Api
) -> None:
    foreign = await new_api(services)
    for resource in (
        foreign.identifier,
        "https://nobody.test",
        orders.identifier + "/",
        orders.identifier.upper(),
        orders.identifier + "#part",
        orders.identifier + "?a=b",
        f"{orders.identifier} {orders.identifier}",
        orders.identifier.removeprefix("https:"),
        ISSUER + "/",
        "a" * 60_000,
        "é",
        " ",
    ):
        assert_error(await client.ask_token(http, resource=resource), 400, "invalid_target")
        assert_error(await client.ask_token(http, resource=resource, scope=orders.read), 400, "invalid_target")
    assert_error(await client.ask_token(http), 400, "invalid_target")  # two APIs, and none named


@pytest.mark.standard("AT-25", "AT-36", "W-T")
async def test_two_resources_are_refused_as_any_repeated_parameter(
    http: httpx.AsyncClient, client: Software, orders: Api, bills: Api
) -> None:
    for pair in ([orders.identifier, bills.identifier], [orders.identifier] * 2, [orders.identifier, ""]):
        form = {"grant_type": "client_credentials", "resource": pair}
        answer = await http.post("/token", data=form, auth=(client.client_id, client.secret))
        assert_error(answer, 400, "invalid_request")


@pytest.mark.standard("AT-17", "AT-23", "AT-25", "W-T")
async def test_scopes_that_do_not_belong_to_one_api_together_are_invalid(
    http: httpx.AsyncClient, services: Services, client: Software, orders: Api, bills: Api
) -> None:
    foreign = await new_api(services)
    for form in (
        {"scope": f"{orders.read} {bills.read}"},
        {"scope": f"admin {bills.read}"},
        {"scope": f"{orders.read} {bills.read}", "resource": orders.identifier},
        {"scope": bills.read, "resource": orders.identifier},
        {"scope": orders.read, "resource": ISSUER},
        {"scope": "admin", "resource": orders.identifier},
        {"scope": foreign.read},
        {"scope": foreign.read, "resource": orders.identifier},
        {"scope": orders.read.upper()},
    ):
        assert_error(await client.ask_token(http, **form), 400, "invalid_scope")


@pytest.mark.standard("AT-17", "AT-25")
async def test_a_scope_without_its_api_and_an_api_without_a_scope_open_nothing(
    http: httpx.AsyncClient, services: Services, orders: Api, bills: Api
) -> None:
    only_scope = await new_service(services, scopes=[orders.read])
    assert_error(await only_scope.ask_token(http, scope=orders.read), 400, "invalid_scope")
    assert_error(await only_scope.ask_token(http, resource=orders.identifier), 400, "invalid_target")
    assert "scope" not in granted(await only_scope.ask_token(http))

    only_api = await new_service(services, audiences=[orders.identifier], scopes=[bills.read])
    tokens = granted(await only_api.ask_token(http))
    assert (claims_of(tokens["access_token"])["aud"], "scope" in tokens) == (orders.identifier, False)
    assert_error(await only_api.ask_token(http, scope=orders.read), 400, "invalid_scope")


@pytest.mark.standard("AT-25")
async def test_a_scope_that_two_apis_share_needs_the_api_to_be_named(
    http: httpx.AsyncClient, services: Services, orders: Api, bills: Api
) -> None:
    twin = f"{orders.identifier}/twin"
    await services.client_administration.register_api(twin, "Twin", tuple(orders.scopes))
    client = await new_service(services, scopes=orders.scopes, audiences=[orders.identifier, twin])
    assert_error(await client.ask_token(http, scope=orders.read), 400, "invalid_scope")
    for resource in (orders.identifier, twin):
        token = await client.token(http, scope=orders.read, resource=resource)
        assert claims_of(token)["aud"] == resource


@pytest.mark.standard("AT-06", "AT-23", "AT-25", "SE-23", "SE-28")
async def test_a_session_gets_tokens_for_each_api_of_its_client_one_at_a_time(
    http: httpx.AsyncClient, services: Services, orders: Api, bills: Api
) -> None:
    client = await new_backend(services, orders, bills)
    _, grant = await session_through(services, client)
    refresh = grant.refresh_token
    for form, audience, scope in (
        ({"resource": orders.identifier}, orders.identifier, " ".join(orders.scopes)),
        ({}, ISSUER, "account"),
        ({"scope": bills.read}, bills.identifier, bills.read),
        ({"scope": bills.write, "resource": bills.identifier}, bills.identifier, bills.write),
        ({"scope": "account"}, ISSUER, "account"),
    ):
        tokens = await client.renewed(http, refresh, **form)
        claims = claims_of(tokens["access_token"])
        assert (claims["aud"], claims["scope"], tokens["scope"]) == (audience, scope, scope), form
        assert claims["sid"] == claims_of(grant.access_token)["sid"]
        refresh = tokens["refresh_token"]


@pytest.mark.standard("AT-07")
async def test_every_api_has_an_identifier_and_no_scope_of_ours(services: Services, orders: Api) -> None:
    register = services.client_administration.register_api
    with pytest.raises(ApiTaken):
        await register(orders.identifier, "Again", ())
    for identifier in ("", "orders", "/orders", f"{orders.identifier}#part", "https://é.test", "https://a b.test"):
        with pytest.raises(InvalidInput):
            await register(identifier, "Odd", ())
    for scope in ("account", "admin", "", "a b", 'a"b', "a\\b", "é"):
        with pytest.raises(InvalidInput):
            await register(f"{orders.identifier}/odd", "Odd", (scope,))


@pytest.mark.standard("AT-07", "AT-25", "IN-06")
async def test_an_api_that_was_removed_is_no_target_any_more_and_its_tokens_are_nobodys(
    http: httpx.AsyncClient, services: Services, orders: Api, bills: Api
) -> None:
    client = await new_service(services, scopes=[orders.read], audiences=[orders.identifier])
    server = await new_service(services, serves=[orders.identifier, bills.identifier])
    token = await client.token(http)
    assert await server.sees(http, token)
    await change(services, client, audiences=[], scopes=[])
    await change(services, server, serves=[bills.identifier])
    await services.client_administration.remove_api(orders.identifier)
    assert not await server.sees(http, token)
    assert_error(await client.ask_token(http, resource=orders.identifier), 400, "invalid_target")
    assert (await client.revoke(http, token)).status_code == 200

"""RFC 6750 where a service, or a person without the scope, presents a token that is good for something else."""

from collections.abc import Iterator

import httpx
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from service.tokens.principal import PUBLIC
from service.wiring import Services
from tests.conftest import ISSUER, TestClock
from tests.deeds import id_of, with_account
from tests.oauth.acting import Software, bearer, change, new_front_end, new_service, session_through
from tests.wire.test_bearer import assert_challenged, parameters

NOBODY = "01998f4e-0000-7000-8000-000000000001"


def guarded(app: Litestar) -> Iterator[tuple[str, str]]:
    """Every method and path that needs an access token, with something in the place of each parameter."""
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else []:
            parts = [part if isinstance(part, str) else NOBODY for part in route.path_components]
            for method in handler.http_methods:
                if not handler.opt.get(PUBLIC) and method != "OPTIONS":
                    yield str(method), f"/{'/'.join(parts)}"


async def operator(services: Services) -> Software:
    """A service that may administer."""
    return await new_service(services, scopes=["admin"])


@pytest.mark.standard("AT-09", "AT-45", "AT-42", "W-B")
async def test_the_token_of_a_service_opens_nothing_that_is_somebodys_own(
    http: httpx.AsyncClient, app: Litestar, services: Services
) -> None:
    """And nothing of the request is looked at before: neither body nor id."""
    plain, admin = await new_service(services), await operator(services)
    tokens = {None: await plain.token(http), "admin": await admin.token(http)}
    seen = []
    for method, path in guarded(app):
        needed = "admin" if path.startswith("/admin") else "account"
        seen.append(needed)
        for scope, token in tokens.items():
            if scope == needed:
                continue
            answer = await http.request(method, path, headers=bearer(token), content=b"{")
            assert answer.status_code == 403, (method, path, answer.text)
            if method != "HEAD":
                assert_challenged(answer, 403, "insufficient_scope", "insufficient_scope")
            assert parameters(answer.headers["www-authenticate"])["scope"] == needed, (method, path)
    assert min(seen.count("admin"), seen.count("account")) > 10


@pytest.mark.standard("AT-09", "AT-45", "AT-47", "W-B")
async def test_a_person_without_the_role_or_without_the_scope_is_told_which_scope_is_missing(
    http: httpx.AsyncClient, services: Services
) -> None:
    await with_account(services, ("admin",))  # somebody else can administer
    with_scope, without = await new_front_end(services, scopes=["account", "admin"]), await new_front_end(services)
    _, no_role = await session_through(services, with_scope)
    _, no_scope = await session_through(services, without, "admin")
    person, both = await session_through(services, with_scope, "admin")
    path = "/admin/clients"
    for grant in (no_role, no_scope):
        answer = await http.get(path, headers=bearer(grant.access_token))
        assert_challenged(answer, 403, "insufficient_scope", "insufficient_scope")
        assert parameters(answer.headers["www-authenticate"])["scope"] == "admin"
    assert (await http.get(path, headers=bearer(both.access_token))).status_code == 200
    await services.administration.set_roles(await id_of(services, person), [])
    assert (await http.get(path, headers=bearer(both.access_token))).status_code == 403
    assert (await http.get("/me", headers=bearer(both.access_token))).status_code == 200


@pytest.mark.standard("AT-09", "AT-45", "SE-28", "W-B")
async def test_a_narrow_token_opens_what_its_scope_says_and_no_more(
    http: httpx.AsyncClient, services: Services
) -> None:
    client = await new_front_end(services, scopes=["account", "admin"])
    _, grant = await session_through(services, client, "admin")
    first = await client.renewed(http, grant.refresh_token, scope="admin")
    second = await client.renewed(http, first["refresh_token"], scope="account")
    for tokens, expected in ((first, {"/me": 403, "/admin/apis": 200}), (second, {"/me": 200, "/admin/apis": 403})):
        for path, status in expected.items():
            assert (await http.get(path, headers=bearer(tokens["access_token"]))).status_code == status


@pytest.mark.standard("AT-43", "AT-44", "AT-45", "AT-46", "CL-12", "W-B")
async def test_a_service_presents_its_token_as_everybody_does(http: httpx.AsyncClient, services: Services) -> None:
    token, path = await (await operator(services)).token(http), "/admin/apis"
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = await http.get(path, headers={"Authorization": f"{scheme} {token}"})
        assert answer.status_code == 200
        assert "www-authenticate" not in answer.headers
    for answer in (
        await http.get(path),
        await http.get(f"{path}?access_token={token}"),
        await http.get(path, headers={"Cookie": f"access_token={token}"}),
        await http.request("POST", "/admin/apis", data={"access_token": token}),
        await http.get(path, headers={"Authorization": "Basic YTpi"}),
    ):
        assert_challenged(answer, 401, "unauthenticated", None)
    good = ("Authorization", f"Bearer {token}")
    for headers in ([good, good], [good, ("Authorization", "Basic YTpi")], [("Authorization", "Bearer")]):
        answer = await http.get(path, headers=headers)
        assert_challenged(answer, 400, "invalid_request", "invalid_request")


@pytest.mark.standard("AT-26", "AT-44", "AT-45", "AT-47", "RV-09", "W-B")
async def test_every_token_of_a_service_that_has_ended_gets_one_and_the_same_refusal(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    path, clients = "/admin/apis", [await operator(services) for _ in range(4)]
    revoked, disabled, without_grant, expired = [await client.token(http) for client in clients]
    await clients[0].revoke(http, revoked)
    await services.client_administration.set_disabled(clients[1].client_id, True)
    await change(services, clients[2], grants=[])
    assert (await http.get(path, headers=bearer(expired))).status_code == 200
    forged = f"{expired[:-6]}AAAAAA"
    answers = [await http.get(path, headers=bearer(token)) for token in (revoked, disabled, without_grant, forged)]
    await clock.advance(seconds=601)
    answers.append(await http.get(path, headers=bearer(expired)))
    for answer in answers:
        assert_challenged(answer, 401, "invalid_token", "invalid_token")
        assert answer.content == answers[0].content
        assert answer.headers["www-authenticate"] == answers[0].headers["www-authenticate"]


@pytest.mark.standard("AT-09", "AT-47")
async def test_a_service_that_lost_its_scope_is_told_so_at_its_next_request(
    http: httpx.AsyncClient, services: Services
) -> None:
    client = await operator(services)
    token = await client.token(http)
    await change(services, client, scopes=[])
    answer = await http.get("/admin/apis", headers=bearer(token))
    assert_challenged(answer, 403, "insufficient_scope", "insufficient_scope")
    await change(services, client, scopes=["admin"])
    assert (await http.get("/admin/apis", headers=bearer(token))).status_code == 200


@pytest.mark.standard("AT-11", "W-B")
async def test_a_service_needs_a_new_token_for_what_it_changes(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    client = await operator(services)
    token = await client.token(http)
    body = {"identifier": f"{ISSUER}/{client.client_id}", "name": "New", "scopes": []}
    await clock.advance(seconds=310)
    assert (await http.get("/admin/apis", headers=bearer(token))).status_code == 200
    stale = await http.post("/admin/apis", json=body, headers=bearer(token))
    assert (stale.status_code, stale.json()["code"]) == (401, "insufficient_user_authentication")
    assert 'error="insufficient_user_authentication", max_age=300' in stale.headers["www-authenticate"]
    fresh = await http.post("/admin/apis", json=body, headers=bearer(await client.token(http)))
    assert fresh.status_code == 201, fresh.text

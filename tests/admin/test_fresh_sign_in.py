"""Writes of operators want a sign-in (for a service a token) of the last minutes (ASVS 7.5.3, RFC 9470)."""

import httpx
import pytest
from litestar import Litestar

from service.tokens.scopes import ADMIN
from service.wiring import Services
from tests.admin.acting import Caller, added, refusal, service_caller, signed_in
from tests.conftest import TestClock
from tests.deeds import bearer, registered

STALE = (401, "insufficient_user_authentication")


async def wrote(http: httpx.AsyncClient, headers: dict[str, str], account: object) -> httpx.Response:
    return await http.post(f"/admin/accounts/{account}/enable", json={}, headers=headers)


@pytest.mark.standard("AD-05", "AD-09")
async def test_a_write_is_open_for_five_minutes_and_reading_for_longer(
    http: httpx.AsyncClient, services: Services, operator: Caller, clock: TestClock
) -> None:
    account = (await added(services))[0]["id"]
    await clock.advance(seconds=290)
    assert (await wrote(http, operator.headers, account)).status_code == 200
    await clock.advance(seconds=12)
    refused = await wrote(http, operator.headers, account)

    assert refusal(refused) == STALE
    assert 'error="insufficient_user_authentication"' in refused.headers["www-authenticate"]
    assert "max_age=300" in refused.headers["www-authenticate"]
    assert (await http.get("/admin/accounts", headers=operator.headers)).status_code == 200
    assert (await http.get("/admin/audit-events/export", params={"event": "x"}, headers=operator.headers)).is_success


@pytest.mark.standard("AD-09")
async def test_a_refresh_makes_nobody_fresh_but_the_password_does(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller, clock: TestClock
) -> None:
    account = (await added(services))[0]["id"]
    assert operator.person is not None
    tokens = await signed_in(app, operator.person)
    await clock.advance(seconds=301)
    renewed = await http.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert refusal(await wrote(http, bearer(renewed), account)) == STALE
    by_token = await http.post(
        "/token",
        data={"grant_type": "refresh_token", "refresh_token": renewed.json()["refresh_token"], "client_id": "web"},
    )
    assert refusal(await wrote(http, bearer(by_token), account)) == STALE
    again = await http.post(
        "/auth/reauthenticate", json={"password": operator.person.password}, headers=bearer(by_token)
    )

    assert (await wrote(http, bearer(again), account)).status_code == 200


@pytest.mark.standard("AD-20")
async def test_a_service_administers_with_a_token_of_its_own_that_is_fresh_for_minutes(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    """There is no shared static key: who wants in asks for a token each time, and it lives ten minutes at most."""
    account = (await added(services))[0]["id"]
    service = await service_caller(services, http, ADMIN)
    assert (await wrote(http, service.headers, account)).status_code == 200
    await clock.advance(seconds=301)
    assert refusal(await wrote(http, service.headers, account)) == STALE
    assert (await http.get("/admin/keys", headers=service.headers)).status_code == 200
    await clock.advance(seconds=300)
    assert refusal(await http.get("/admin/keys", headers=service.headers)) == (401, "invalid_token")


@pytest.mark.standard("AD-20")
async def test_a_clients_secret_or_an_environment_key_is_no_way_into_the_administration(
    http: httpx.AsyncClient, services: Services
) -> None:
    name = f"svc-{(await added(services))[0]['nickname']}"
    secret = await registered(services, name, scopes=[ADMIN])
    for headers in (
        {"Authorization": f"Bearer {secret}"},
        {"X-API-Key": secret},
        {"X-Admin-Key": str(services.settings.keys)},
        {"Authorization": f"Bearer {services.settings.keys}"},
    ):
        assert (await http.get("/admin/accounts", headers=headers)).status_code == 401
    assert (await http.get("/admin/accounts", auth=(name, secret))).status_code == 401
    answer = await http.post("/token", data={"grant_type": "client_credentials"}, auth=(name, secret))
    assert answer.json()["expires_in"] <= 600


@pytest.mark.standard("AD-10", "AD-05")
async def test_a_service_reads_nobodys_account_by_itself_without_the_scope(
    http: httpx.AsyncClient, services: Services
) -> None:
    account = (await added(services))[0]["id"]
    for scopes, grants in (((), ["client_credentials"]), (("account",), ["client_credentials", "refresh_token"])):
        name = f"svc-{account}"[:12] + str(len(scopes))
        secret = await registered(services, name, scopes=list(scopes), grants=grants)
        answer = await http.post("/token", data={"grant_type": "client_credentials"}, auth=(name, secret))
        headers = bearer(answer)
        for path in ("/me", "/me/export", "/me/sessions", f"/admin/accounts/{account}", "/admin/accounts"):
            assert refusal(await http.get(path, headers=headers)) == (403, "insufficient_scope"), path
        wider = {"grant_type": "client_credentials", "scope": "account"}
        assert refusal(await http.post("/token", data=wider, auth=(name, secret))) == (400, "invalid_scope")

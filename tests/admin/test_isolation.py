"""A tenant is an installation of its own: nothing of another one, whoever it is there, means anything here."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import Settings, load
from service.store.schema import migrate
from service.tokens.scopes import ADMIN
from service.wiring import Services
from tests.admin.acting import Caller, caller, refusal, signed_in
from tests.conftest import Introspector, Outbox, Servers, TestClock, _own_database, browser, root_key, worker
from tests.deeds import registered
from tests.tokens.acting import refused, session_of

ELSEWHERE = "https://auth.elsewhere.test"


@dataclass(frozen=True)
class Installation:
    """The other one, with an operator, a session and a service of its own."""

    services: Services
    http: httpx.AsyncClient
    operator: Caller
    tokens: dict[str, Any]
    introspector: Introspector


@pytest.fixture(scope="module")
def settings_elsewhere(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    """Another issuer, root key, PostgreSQL database and Redis database."""
    redis_url = (
        servers.redis_url.replace("db=0", "db=1") if "db=0" in servers.redis_url else f"{servers.redis_url[:-1]}1"
    )
    with _own_database(servers.database_url) as url:
        migrate(url)
        own = {"DATABASE_URL": url, "REDIS_URL": redis_url, "VESTIBULE_ISSUER": ELSEWHERE, "VESTIBULE_KEYS": root_key()}
        yield load({**environ, **own})


@pytest.fixture
async def elsewhere(settings_elsewhere: Settings, wall_clock: TestClock, outbox: Outbox) -> AsyncIterator[Installation]:
    async with worker(settings_elsewhere, wall_clock, outbox) as services:
        await services.signing_keys.ensure()
        await services.client_administration.ensure_front_end()
        app = create_app(services)
        operator = await caller(services, app, ADMIN)
        assert operator.person is not None
        name = f"svc-{operator.name[-8:]}"
        secret = await registered(services, name, scopes=[ADMIN])
        tokens = await signed_in(app, operator.person)
        async with browser(app) as http:
            http.base_url = httpx.URL(ELSEWHERE)
            yield Installation(services, http, operator, tokens, Introspector(name, secret))


@pytest.mark.standard("AD-11", "AD-06")
async def test_tokens_clients_keys_and_accounts_of_another_installation_mean_nothing(
    http: httpx.AsyncClient, app: Litestar, operator: Caller, introspector: Introspector, elsewhere: Installation
) -> None:
    assert operator.person is not None
    ours = await signed_in(app, operator.person)
    for here, tokens, theirs, client, other in (
        (http, ours, elsewhere.tokens, introspector, elsewhere.introspector),
        (elsewhere.http, elsewhere.tokens, ours, elsewhere.introspector, introspector),
    ):
        assert (await client.ask(here, tokens["access_token"]))["active"] is True
        for kind in ("access_token", "refresh_token"):
            assert await client.ask(here, theirs[kind]) == {"active": False}
        foreign = {"Authorization": f"Bearer {theirs['access_token']}"}
        for path in ("/me", "/admin/accounts", "/admin/clients", "/admin/keys", "/admin/audit-events"):
            assert refusal(await here.get(path, headers=foreign)) == (401, "invalid_token"), path
        await refused(here, theirs["refresh_token"])
        for path in ("/token", "/introspect", "/revoke"):
            form = {"grant_type": "client_credentials", "token": tokens["access_token"]}
            answer = await here.post(path, data=form, auth=(other.client_id, other.secret))
            assert refusal(answer) == (401, "invalid_client"), path
        form = {"grant_type": "refresh_token", "refresh_token": theirs["refresh_token"], "client_id": "web"}
        assert refusal(await here.post("/token", data=form)) == (400, "invalid_grant")
        assert (await client.ask(here, tokens["access_token"]))["active"] is True
    kids = [
        {key["kid"] for key in (await each.get("/.well-known/jwks.json")).json()["keys"]}
        for each in (http, elsewhere.http)
    ]
    assert not kids[0] & kids[1]


@pytest.mark.standard("AD-11", "AD-06")
async def test_an_operator_here_reaches_nothing_of_another_installation(
    http: httpx.AsyncClient, operator: Caller, elsewhere: Installation
) -> None:
    account, client = elsewhere.operator.name, elsewhere.introspector.client_id
    session = session_of(elsewhere.tokens["access_token"])
    (kid, *_) = [key["kid"] for key in (await elsewhere.http.get("/.well-known/jwks.json")).json()["keys"]]
    for method, path in (
        *(("GET", f"/admin/accounts/{account}"), ("GET", f"/admin/accounts/{account}/sessions")),
        *(("POST", f"/admin/accounts/{account}/disable"), ("POST", f"/admin/accounts/{account}/sessions/end")),
        *(("POST", f"/admin/accounts/{account}/sessions/{session}/end"), ("GET", f"/admin/clients/{client}")),
        *(("PATCH", f"/admin/clients/{client}"), ("POST", f"/admin/clients/{client}/secrets")),
        *(("POST", f"/admin/keys/{kid}/revoke"), ("GET", f"/users/{account}")),
    ):
        content: dict[str, Any] = {} if method == "GET" else {"json": {}}
        answer = await http.request(method, path, headers=operator.headers, **content)
        assert answer.status_code == 404, path
    events = await http.get("/admin/audit-events", params={"account_id": account}, headers=operator.headers)
    assert events.json() == {"items": []}
    assert elsewhere.operator.person is not None
    found = await http.get("/admin/accounts", params={"q": elsewhere.operator.person.email}, headers=operator.headers)
    assert found.json() == {"items": []}
    assert (await elsewhere.http.get("/admin/keys", headers=elsewhere.operator.headers)).status_code == 200


@pytest.mark.standard("AD-11", "AD-22")
async def test_a_key_that_signs_is_no_longer_trusted_at_once_and_its_tokens_with_it(elsewhere: Installation) -> None:
    """Here, where no other test needs the key."""
    http, headers = elsewhere.http, elsewhere.operator.headers
    keys = (await http.get("/admin/keys", headers=headers)).json()["items"]
    (signing,) = [key["kid"] for key in keys if key["state"] == "active"]
    answer = await http.post(f"/admin/keys/{signing}/revoke", json={"reason": "a leak"}, headers=headers)

    assert {key["kid"]: key["state"] for key in answer.json()["items"]}[signing] == "revoked"
    assert refusal(await http.get("/me", headers=headers)) == (401, "invalid_token")
    fresh = await http.post("/auth/refresh", json={"refresh_token": elsewhere.tokens["refresh_token"]})
    assert (await http.get("/me", headers={"Authorization": f"Bearer {fresh.json()['access_token']}"})).is_success
    assert signing not in (await http.get("/.well-known/jwks.json")).text

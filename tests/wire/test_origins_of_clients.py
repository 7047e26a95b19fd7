"""CORS for the pages of registered clients: they may call and read, without cookies, for as long as the client is."""

import secrets
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Outbox, Person, TestClock, browser
from tests.deeds import COOKIE_HEADERS, bearer, sign_in, with_account
from tests.oauth.acting import Software, change, new_front_end, new_service
from tests.tokens.hearing import eventually, listening_worker
from tests.wire.test_cors import APP, EXPOSED, preflight, shared, vary

OAUTH = ("/token", "/revoke", "/introspect")
TOLD = {"access-control-expose-headers": EXPOSED}
CALLS = {
    "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
    "access-control-allow-headers": "Authorization, Content-Type, X-Vestibule-CSRF, X-Request-Id",
    "access-control-max-age": "600",
}


def new_origin() -> str:
    return f"https://spa-{secrets.token_hex(5)}.test"


def told(origin: str) -> dict[str, str]:
    """What lets a page of this origin read an answer, and send no cookie."""
    return {"access-control-allow-origin": origin, **TOLD}


@pytest.fixture
def origin() -> str:
    return new_origin()


@pytest.fixture
async def page(services: Services, origin: str) -> Software:
    """A single-page application."""
    return await new_front_end(services, origins=[origin, "http://localhost:5173"])


@pytest.fixture
async def somebody(services: Services) -> Person:
    return await with_account(services)


@pytest.mark.standard("CK-33", "CK-10")
async def test_a_page_signs_in_renews_reads_and_revokes(
    http: httpx.AsyncClient, page: Software, origin: str, somebody: Person
) -> None:
    headers = {"Origin": origin}
    body = somebody.credentials(client_id=page.client_id)
    signed_in = await http.post("/auth/login", json=body, headers=headers)
    form = {
        "grant_type": "refresh_token",
        "client_id": page.client_id,
        "refresh_token": signed_in.json()["refresh_token"],
    }
    renewed = await http.post("/token", data=form, headers=headers)
    me = await http.get("/me", headers={**headers, **bearer(renewed)})
    token = renewed.json()["access_token"]
    revoked = await http.post("/revoke", data={"token": token, "client_id": page.client_id}, headers=headers)

    for answer in (signed_in, renewed, me, revoked):
        assert answer.status_code == 200, answer.text
        assert shared(answer) == told(origin)
        assert "origin" in vary(answer)
        assert "set-cookie" not in answer.headers


@pytest.mark.standard("CK-33", "CK-10", "CK-34")
async def test_a_page_may_read_every_refusal(http: httpx.AsyncClient, page: Software, origin: str) -> None:
    nothing = {"client_id": page.client_id, "token": "x"}
    calls: list[tuple[int, str, str, dict[str, Any]]] = [
        *((401, "POST", path, {"data": {"client_id": "nobody-knows", "token": "x"}}) for path in OAUTH),
        *((400, "POST", path, {"json": {}}) for path in OAUTH),
        *((405, "GET", path, {}) for path in OAUTH),
        *((413, "POST", path, {"data": {"token": "x" * 70_000}}) for path in OAUTH),
        (400, "POST", "/token", {"data": {**nothing, "grant_type": "password"}}),
        (400, "POST", "/revoke", {"data": {"client_id": page.client_id}}),
        (401, "GET", "/me", {}),
        (401, "GET", "/me", {"headers": {"Authorization": "Bearer x"}}),
        (404, "GET", "/me/nothing", {}),
        (401, "POST", "/auth/login", {"json": {"email": "nobody@example.com", "password": "x" * 20}}),
        (431, "GET", "/me", {"headers": {f"X-{number}": "1" for number in range(101)}}),
        (200, "GET", "/livez", {}),
    ]
    for status, method, path, more in calls:
        headers = {**more.pop("headers", {}), "Origin": origin}
        answer = await http.request(method, path, headers=headers, **more)
        assert answer.status_code == status, (path, answer.text)
        assert shared(answer) == told(origin), path
        assert "origin" in vary(answer)


@pytest.mark.standard("CK-33", "CK-10")
async def test_a_page_is_told_what_it_may_send(http: httpx.AsyncClient, page: Software, origin: str) -> None:
    for known in (origin, "http://localhost:5173"):
        for path in (*OAUTH, "/me", "/me/sessions/x", "/auth/login", "/auth/refresh", "/users/x", "/nothing"):
            answer = await preflight(http, path, known)
            assert (answer.status_code, answer.content) == (204, b"")
            assert shared(answer) == {**told(known), **CALLS}, path
            assert "origin" in vary(answer)


@pytest.mark.standard("CK-10", "CK-34")
async def test_an_origin_that_only_looks_like_a_registered_one_is_told_nothing(
    http: httpx.AsyncClient, page: Software, origin: str
) -> None:
    host = origin.removeprefix("https://")
    look_alikes = [f"http://{host}", f"{origin}:443", f"{origin}/", f"{origin}.evil.example", f"https://evil.{host}"]
    look_alikes += [f"https://x{host}", origin.upper(), f"{origin}, {APP}", f"{origin}@evil.example", "null", ""]
    for other in look_alikes:
        for path in ("/token", "/me", "/auth/login"):
            assert shared(await preflight(http, path, other)) == {}, other
        answer = await http.post("/token", data={"client_id": "web"}, headers={"Origin": other})
        assert (answer.status_code, shared(answer)) == (400, {}), other
        refused = await http.post("/auth/login", json={}, headers={"Origin": other})
        assert (refused.status_code, refused.json()["code"], shared(refused)) == (403, "cross_site_refused", {})


@pytest.mark.standard("CK-10", "CK-32", "CK-35", "CK-17")
async def test_the_cookie_is_for_our_own_pages_and_those_of_the_settings_alone(
    http: httpx.AsyncClient, page: Software, origin: str, somebody: Person
) -> None:
    headers = {**COOKIE_HEADERS, "Origin": origin}
    body = somebody.credentials(client_id=page.client_id, transport="cookie")
    refused = [await http.post("/auth/login", json=body, headers=headers)]
    signed_in = await sign_in(http, somebody, transport="cookie")
    assert signed_in.status_code == 200, signed_in.text
    cookies = dict(http.cookies)
    assert cookies
    refused += [await http.post(f"/auth/{deed}", json={}, headers=headers) for deed in ("refresh", "logout")]

    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_refused")
        assert shared(answer) == told(origin)
        assert "set-cookie" not in answer.headers
    assert dict(http.cookies) == cookies
    renewed = await http.post("/auth/refresh", json={}, headers=COOKIE_HEADERS)
    assert renewed.status_code == 200, renewed.text
    allowed = await http.post("/auth/refresh", json={}, headers={**COOKIE_HEADERS, "Origin": APP})
    assert allowed.headers["access-control-allow-credentials"] == "true"


@pytest.mark.standard("CK-33", "IN-08")
async def test_an_origin_goes_with_its_client_on_every_worker(
    http: httpx.AsyncClient, services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    first, second = new_origin(), new_origin()
    disable = services.client_administration.set_disabled
    async with (
        listening_worker(services, settings, wall_clock, outbox) as listening,
        browser(create_app(listening)) as elsewhere,
    ):

        async def readable() -> list[bool]:
            answers = [
                await asked.post("/token", data={"client_id": "web"}, headers={"Origin": origin})
                for asked in (http, elsewhere)
                for origin in (first, second)
            ]
            return ["access-control-allow-origin" in answer.headers for answer in answers]

        assert await readable() == [False] * 4
        page = await new_front_end(services, origins=[first])
        await eventually(readable, [True, False] * 2)
        await change(services, page, origins=[second])
        await eventually(readable, [False, True] * 2)
        await disable(page.client_id, True)
        await eventually(readable, [False] * 4)
        await disable(page.client_id, False)
        await eventually(readable, [False, True] * 2)
        backend = await new_service(services, origins=[first, second])
        await disable(page.client_id, True)
        await eventually(readable, [True] * 4)  # another client still has them
        await disable(backend.client_id, True)
        await eventually(readable, [False] * 4)
    refused = await http.post("/auth/login", json={}, headers={"Origin": second})
    assert (refused.status_code, refused.json()["code"]) == (403, "cross_site_refused")
    assert (await preflight(http, "/me", second)).headers.get("access-control-allow-origin") is None


@pytest.mark.standard("CK-33", "CK-10")
async def test_public_documents_stay_for_every_page(http: httpx.AsyncClient, page: Software, origin: str) -> None:
    for path in ("/.well-known/jwks.json", "/.well-known/oauth-authorization-server"):
        answer = await http.get(path, headers={"Origin": origin})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers

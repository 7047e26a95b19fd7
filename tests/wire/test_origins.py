"""Writes of other sites' pages are refused before they run: login CSRF, forms, and all that CORS would only hide."""

import json
import secrets

import httpx
import pytest

from tests.conftest import ISSUER, Person, somebody
from tests.wire.test_cors import APP, LOOK_ALIKES

FORM_TYPES = [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
WRITES = [
    ("POST", "/auth/login"),
    ("POST", "/auth/register"),
    ("POST", "/auth/verify"),
    ("POST", "/auth/verify/resend"),
    ("POST", "/auth/refresh"),
    ("POST", "/auth/logout"),
    ("PATCH", "/me"),
    ("DELETE", "/me"),
    ("POST", "/me/password"),
    ("PATCH", "/users/me"),
    ("POST", "/admin/accounts"),
    ("POST", "/graphql"),
    ("POST", "/auth/nothing"),
    ("BREW", "/auth/login"),
]


def assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert not any(name.startswith("access-control-") for name in answer.headers)
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert (problem["status"], problem["code"]) == (403, "cross_site_refused")
    assert problem["type"] == "urn:vestibule:problem:cross_site_refused"


@pytest.mark.standard("CK-17", "CK-35", "CK-10")
@pytest.mark.parametrize("origin", LOOK_ALIKES)
async def test_a_write_of_a_foreign_page_is_refused(http: httpx.AsyncClient, origin: str | bytes) -> None:
    for method, path in WRITES:
        given = origin if isinstance(origin, bytes) else origin.encode()
        assert_refused(await http.request(method, path, json={}, headers=[(b"Origin", given)]))


@pytest.mark.standard("CK-35")
async def test_a_foreign_page_cannot_sign_anybody_in(http: httpx.AsyncClient, person: Person) -> None:
    evil = {"Origin": "https://evil.example"}
    assert_refused(await http.post("/auth/login", json=person.credentials(), headers=evil))
    assert_refused(await http.post("/auth/login", json=person.credentials(transport="cookie"), headers=evil))


@pytest.mark.standard("CK-35")
async def test_a_foreign_page_cannot_begin_a_sign_up(http: httpx.AsyncClient) -> None:
    person = somebody()
    body = {"email": person.email, "password": person.password, "nickname": person.nickname}
    assert_refused(await http.post("/auth/register", json=body, headers={"Origin": "null"}))
    assert (await http.post("/auth/register", json=body)).status_code == 202


@pytest.mark.standard("CK-17", "CK-07")
async def test_a_refused_write_has_changed_nothing(http: httpx.AsyncClient, person: Person) -> None:
    body = {"refresh_token": person.refresh_token}
    assert_refused(await http.post("/auth/logout", json=body, headers={"Origin": "https://evil.example"}))
    assert_refused(await http.post("/auth/refresh", json=body, headers={"Origin": "https://evil.example"}))
    assert (await http.get("/me", headers=person.headers)).status_code == 200
    assert (await http.post("/auth/refresh", json=body)).status_code == 200


@pytest.mark.standard("CK-17", "CK-18")
@pytest.mark.parametrize("content_type", FORM_TYPES)
@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_request_that_needs_no_preflight_is_refused_too(
    http: httpx.AsyncClient, person: Person, content_type: str | None, origin: str
) -> None:
    headers = {"Origin": origin, **({"Content-Type": content_type} if content_type else {})}
    content = json.dumps(person.credentials()).encode()
    assert_refused(await http.post("/auth/login", content=content, headers=headers))
    assert_refused(await http.post("/auth/logout", headers=headers))


@pytest.mark.standard("CK-17")
@pytest.mark.parametrize("path", ["//auth/login", "/auth//login", "/auth/login/", "///auth///login//", "/%61uth/login"])
async def test_another_spelling_of_a_path_is_no_way_around(http: httpx.AsyncClient, person: Person, path: str) -> None:
    """Whatever the router takes for the same path."""
    evil = {"Origin": "https://evil.example"}
    url = httpx.URL(f"{ISSUER}{path}")
    assert_refused(await http.post(url, json=person.credentials(), headers=evil))


@pytest.mark.standard("CK-17")
@pytest.mark.parametrize(
    "origins", [(APP, "https://evil.example"), ("https://evil.example", APP), (APP, APP), (ISSUER, "null")]
)
async def test_several_origins_are_a_foreign_one(
    http: httpx.AsyncClient, person: Person, origins: tuple[str, str]
) -> None:
    headers = [("Origin", origin) for origin in origins]
    assert_refused(await http.post("/auth/login", json=person.credentials(), headers=headers))


@pytest.mark.standard("CK-17")
async def test_a_bearer_token_does_not_help_a_foreign_page(http: httpx.AsyncClient, person: Person) -> None:
    headers = {**person.headers, "Origin": "https://evil.example"}
    assert_refused(await http.patch("/me", json={"nickname": secrets.token_hex(5)}, headers=headers))


@pytest.mark.standard("CK-17", "CK-35")
@pytest.mark.parametrize("headers", [{}, {"Origin": ISSUER}, {"Origin": APP}])
async def test_apps_and_known_origins_are_served(
    http: httpx.AsyncClient, person: Person, headers: dict[str, str]
) -> None:
    login = await http.post("/auth/login", json=person.credentials(), headers=headers)
    assert login.status_code == 200
    body = {"refresh_token": login.json()["refresh_token"]}
    assert (await http.post("/auth/logout", json=body, headers=headers)).status_code == 204


@pytest.mark.standard("CK-19", "CK-10")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_reading_is_not_refused_but_cannot_be_read_elsewhere(
    http: httpx.AsyncClient, person: Person, method: str
) -> None:
    headers = {**person.headers, "Origin": "https://evil.example"}
    answer = await http.request(method, "/me", headers=headers)

    assert answer.status_code == (200 if method == "GET" else 405)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/introspect", "/token", "/revoke", "/nothing", "/media", "/authors", "/users-of"])
async def test_other_endpoints_ask_for_a_client_and_not_for_an_origin(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.post(path, data={"token": "x"}, headers={"Origin": "https://evil.example"})

    assert answer.status_code in {400, 401, 404}
    assert "access-control-allow-origin" not in answer.headers

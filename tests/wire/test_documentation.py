"""The API's own description: whole, true, and shown by a page that loads nothing from elsewhere."""

import re
from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from service.app import create_app
from service.wiring import Services
from tests.conftest import browser

PROBLEM = "application/problem+json"
UNDESCRIBED = {
    *("/docs", "/docs/start.js", "/docs/{name:str}", "/docs/{name}", "/openapi.json"),
    *("/auth/done", "/auth/social/{provider}/callback"),
    *("/auth/confirm", "/auth/confirm/{name}", "/.well-known/oauth-authorization-server/{issuer_path}"),
}
"""Pages for people are no part of the API; the description and its page do not describe themselves; an issuer with a
path has its metadata at another place."""

METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}

READING = {400, 401, 403, 503}
WRITING = {400, 401, 403, 413, 415, 503}
SEEN = {
    ("post", "/auth/register"): {202, 400, 409, 413, 415, 429, 503},
    ("post", "/auth/verify"): {200, 400, 403, 409, 413, 415, 429, 503},
    ("post", "/auth/verify/resend"): {202, 400, 413, 415, 429, 503},
    ("post", "/auth/login"): {200, 400, 401, 403, 413, 415, 429, 503},
    ("post", "/auth/refresh"): {200, 400, 401, 403, 413, 415, 503},
    ("post", "/auth/logout"): {204, 400, 403, 413, 415, 503},
    ("post", "/auth/reauthenticate"): {200, 400, 401, 403, 413, 415, 429, 503},
    ("get", "/auth/social"): {200},
    ("get", "/auth/social/{provider}"): {303, 400, 404, 429, 503},
    ("post", "/auth/social/{provider}/exchange"): {200, 400, 403, 404, 409, 413, 415, 429, 502, 503},
    ("post", "/auth/password/forgot"): {202, 400, 413, 415, 429, 503},
    ("post", "/auth/password/reset"): {204, 400, 413, 415, 429, 503},
    ("get", "/me"): {200, 400, 401, 503},
    ("patch", "/me"): {200, 400, 401, 409, 413, 415, 429, 503},
    ("delete", "/me"): {204, 400, 401, 503},
    ("post", "/me/password"): {204, 400, 401, 413, 415, 429, 503},
    ("post", "/me/email"): {202, 400, 401, 413, 415, 429, 503},
    ("post", "/me/email/confirm"): {204, 400, 401, 413, 415, 429, 503},
    ("get", "/me/export"): {200, 400, 401, 503},
    ("get", "/me/sessions"): {200, 400, 401, 503},
    ("delete", "/me/sessions"): {204, 400, 401, 503},
    ("delete", "/me/sessions/{session_id}"): {204, 400, 401, 404, 503},
    ("get", "/me/identities"): {200, 400, 401, 503},
    ("post", "/me/identities/{provider}"): {200, 400, 401, 404, 429, 502, 503},
    ("delete", "/me/identities/{provider}"): {204, 400, 401, 404, 409, 503},
    ("get", "/me/identities/{provider}/guilds"): {200, 400, 401, 404, 409, 429, 502, 503},
    ("put", "/me/avatar"): {200, 400, 401, 404, 413, 415, 429, 503},
    ("delete", "/me/avatar"): {204, 400, 401, 503},
    ("get", "/avatars/{account_id}/{name}"): {200, 304, 404, 503},
    ("head", "/avatars/{account_id}/{name}"): {200, 304, 404, 503},
    ("get", "/users/{account_id}"): {200, 404, 503},
    ("patch", "/users/{account_id}"): {200, 400, 401, 403, 404, 409, 413, 415, 429, 503},
    ("post", "/introspect"): {200, 400, 401, 403, 413, 429, 503},
    ("post", "/token"): {200, 400, 401, 413, 429, 503},
    ("post", "/revoke"): {200, 400, 401, 413, 429, 503},
    **{("get", f"/admin/{path}"): {200, *READING} for path in ("clients", "apis", "keys")},
    **{("get", f"/admin/{path}"): {200, *READING} for path in ("accounts", "audit-events", "audit-events/export")},
    ("get", "/admin/accounts/{account_id}"): {200, 404, *READING},
    ("get", "/admin/accounts/{account_id}/sessions"): {200, 404, *READING},
    ("get", "/admin/clients/{client_id}"): {200, 404, *READING},
    **{("post", f"/admin/accounts/{{account_id}}/{verb}"): {200, 404, *WRITING} for verb in ("disable", "enable")},
    ("put", "/admin/accounts/{account_id}/roles"): {200, 404, 409, *WRITING},
    ("post", "/admin/accounts/{account_id}/require-password-change"): {202, 404, *WRITING},
    ("post", "/admin/accounts/{account_id}/reset-password"): {202, 404, *WRITING},
    ("post", "/admin/accounts/{account_id}/sessions/end"): {204, 404, *WRITING},
    ("post", "/admin/accounts/{account_id}/sessions/{session_id}/end"): {204, 404, *WRITING},
    ("post", "/admin/sessions/end"): {200, *WRITING},
    ("post", "/admin/clients"): {201, 409, *WRITING},
    ("patch", "/admin/clients/{client_id}"): {200, 404, *WRITING},
    **{("post", f"/admin/clients/{{client_id}}/{verb}"): {200, 404, *WRITING} for verb in ("disable", "enable")},
    ("post", "/admin/clients/{client_id}/secrets"): {201, 404, 409, *WRITING},
    ("post", "/admin/clients/{client_id}/secrets/{secret_id}/end"): {204, 404, *WRITING},
    ("post", "/admin/apis"): {201, 409, *WRITING},
    ("post", "/admin/apis/remove"): {204, 404, 409, *WRITING},
    ("post", "/admin/keys/rotate"): {200, *WRITING},
    ("post", "/admin/keys/{kid}/revoke"): {200, 404, *WRITING},
    ("get", "/.well-known/oauth-authorization-server"): {200, 304},
    ("get", "/.well-known/jwks.json"): {200, 304, 503},
    ("get", "/livez"): {200},
    ("get", "/readyz"): {200, 503},
    ("get", "/startupz"): {200, 503},
    ("get", "/healthz"): {200, 503},
    **{
        ("head", path): statuses
        for path, statuses in {
            "/.well-known/jwks.json": {200, 304, 503},
            "/.well-known/oauth-authorization-server": {200, 304},
            "/livez": {200},
            "/readyz": {200, 503},
            "/startupz": {200, 503},
            "/healthz": {200, 503},
        }.items()
    },
}
"""What clients get as an answer, by endpoint (404 of unknown paths and 405 belong to the whole API)."""

FRONT_END = ("/auth", "/me", "/users", "/avatars", "/admin")
NEEDS_A_TOKEN = {
    *((method, path) for method, path in SEEN if path.startswith(("/me", "/admin"))),
    ("post", "/auth/reauthenticate"),
    ("patch", "/users/{account_id}"),
}
"""Everything else but introspection, which has clients, is open to anybody."""


@pytest.fixture
async def description(http: httpx.AsyncClient) -> dict[str, Any]:
    answer = await http.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    document: dict[str, Any] = answer.json()
    return document


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def routes(app: Litestar) -> set[tuple[str, str]]:
    """What the application serves, without the OPTIONS that the framework adds."""
    return {
        (str(method).lower(), re.sub(r":\w+}", "}", route.path_format))
        for route in app.routes
        if isinstance(route, HTTPRoute) and route.path not in UNDESCRIBED and route.path_format not in UNDESCRIBED
        for handler in route.route_handlers
        for method in handler.http_methods
        if method != "OPTIONS"
    }


async def test_the_document_is_openapi_3_1_of_this_service(description: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", description["openapi"])
    assert description["info"]["title"] == "Vestibule"
    assert description["info"]["version"]


async def test_every_route_is_described_and_none_that_is_not_there(app: Litestar, description: dict[str, Any]) -> None:
    assert set(operations(description)) == routes(app)
    assert set(SEEN) == routes(app)


@pytest.mark.parametrize(("method", "path"), SEEN)
async def test_every_answer_that_was_seen_is_described(description: dict[str, Any], method: str, path: str) -> None:
    described = operations(description)[method, path]["responses"]

    assert {str(status) for status in SEEN[method, path]} <= set(described)


async def test_only_what_operators_register_is_described_as_created(description: dict[str, Any]) -> None:
    """The framework's own answer to a POST is 201."""
    created = {path for (_, path), operation in operations(description).items() if "201" in operation["responses"]}
    assert created == {"/admin/clients", "/admin/clients/{client_id}/secrets", "/admin/apis"}


@pytest.mark.parametrize("path", sorted({path for _, path in SEEN if path.startswith(FRONT_END)}))
async def test_a_refusal_of_the_front_end_api_is_described_as_a_problem(description: dict[str, Any], path: str) -> None:
    for operation in description["paths"][path].values():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == [PROBLEM], (path, status)


async def test_a_refusal_of_an_oauth_endpoint_is_described_in_its_own_shape(description: dict[str, Any]) -> None:
    for status, response in operations(description)["post", "/introspect"]["responses"].items():
        if int(status) >= 400:
            assert list(response["content"]) == ["application/json"], status
            schema = resolved(description, response["content"]["application/json"]["schema"])
            assert "error" in schema["properties"]


async def test_the_form_and_both_answers_of_an_introspection_are_described(description: dict[str, Any]) -> None:
    operation = operations(description)["post", "/introspect"]
    form = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    parameters = resolved(description, form)["properties"]
    assert {"token", "token_type_hint"} <= set(parameters)

    answer = str(_expanded(description, operation["responses"]["200"]["content"]["application/json"]["schema"]))
    assert "active" in answer
    for claim in ("iss", "sub", "aud", "client_id", "scope", "token_type", "exp", "iat", "jti", "sid", "auth_time"):
        assert f"'{claim}'" in answer, claim


async def test_a_key_set_is_described_with_its_members(description: dict[str, Any]) -> None:
    content = operations(description)["get", "/.well-known/jwks.json"]["responses"]["200"]["content"]

    assert list(content) == ["application/jwk-set+json"]
    assert "'kid'" in str(_expanded(description, content["application/jwk-set+json"]["schema"]))


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        target: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        schema = target
    return schema


def _expanded(document: dict[str, Any], schema: Any) -> Any:
    if isinstance(schema, dict):
        plain = resolved(document, schema)
        return {name: _expanded(document, value) for name, value in plain.items()}
    return [_expanded(document, item) for item in schema] if isinstance(schema, list) else schema


async def test_every_operation_has_an_id_a_summary_and_a_way_in(description: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operation in operations(description).values()]
    schemes = description["components"]["securitySchemes"]

    assert len(set(ids)) == len(ids)
    assert {"bearer", "client", "refresh_cookie"} <= set(schemes)
    assert (schemes["bearer"]["type"], schemes["bearer"]["scheme"]) == ("http", "bearer")
    assert (schemes["client"]["type"], schemes["client"]["scheme"]) == ("http", "basic")
    assert (schemes["refresh_cookie"]["in"], schemes["refresh_cookie"]["name"]) == (
        "cookie",
        "__Host-vestibule-refresh",
    )
    for (method, path), operation in operations(description).items():
        assert operation.get("summary") or operation.get("description"), (method, path)
        security = operation.get("security", description.get("security"))
        assert security is not None, (method, path)
        assert all(name in schemes for requirement in security for name in requirement)
        if path == "/introspect":
            assert security == [{"client": []}]
        elif path in {"/token", "/revoke"}:
            assert security == [{"client": []}, {}]
        elif path in {"/auth/refresh", "/auth/logout"}:
            assert security == [{}, {"refresh_cookie": []}]
        else:
            assert security == ([{"bearer": []}] if (method, path) in NEEDS_A_TOKEN else [{}]), (method, path)


async def test_every_reference_of_the_document_leads_somewhere(description: dict[str, Any]) -> None:
    references = set(re.findall(r"'\$ref': '([^']+)'", str(description)))

    assert references
    for reference in references:
        assert resolved(description, {"$ref": reference})


@pytest.mark.standard("PF-32", "PW-25", "PF-38")
async def test_the_document_names_no_library_and_no_hint_or_question(http: httpx.AsyncClient) -> None:
    text = (await http.get("/openapi.json")).text

    assert not re.search(r"litestar|msgspec|sqlalchemy|asyncpg|uvicorn|traceback|\.py\b", text, re.IGNORECASE)
    assert not re.search(r"secret question|password hint", text, re.IGNORECASE)


# The page


@pytest.mark.standard("CK-26", "LO-16", "CK-11")
async def test_the_page_loads_its_own_assets_and_nothing_else(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?:|//[a-z]", page.text)
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|javascript:", page.text)

    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) >= 3
    for source in sources:
        asset = await http.get(f"/{source}")
        assert asset.status_code == 200, source
        assert asset.content
        assert asset.headers["content-type"].split(";")[0] in {"text/javascript", "text/css"}
        assert asset.headers["x-content-type-options"] == "nosniff"
        if source.endswith((".css", "start.js")):
            assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:|//)", asset.text)


@pytest.mark.standard("CK-11", "CK-14", "CK-16")
async def test_the_page_forbids_inline_scripts_foreign_sources_and_frames(http: httpx.AsyncClient) -> None:
    (policy,) = (await http.get("/docs")).headers.get_list("content-security-policy")
    directives = {name: values for name, *values in (part.split() for part in policy.split(";") if part.strip())}

    assert directives["default-src"] == ["'none'"]
    assert directives["script-src"] == ["'self'"]
    assert directives["connect-src"] == ["'self'"]
    assert directives["base-uri"] == ["'none'"]
    assert directives["frame-ancestors"] == ["'none'"]
    assert "http" not in policy
    assert "'unsafe-eval'" not in policy


@pytest.mark.standard("CK-16")
async def test_a_page_shares_no_window_with_other_origins(http: httpx.AsyncClient) -> None:
    assert (await http.get("/docs")).headers.get("cross-origin-opener-policy") == "same-origin"


# What a production service does not have


@pytest.mark.standard("PF-36", "AD-19")
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_the_mailbox_of_developers_is_not_there(http: httpx.AsyncClient, method: str) -> None:
    answer = await http.request(method, "/dev/mailbox", headers={"Accept": "application/json"})

    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


@pytest.mark.standard("PF-36")
async def test_the_mailbox_is_there_for_developers_and_is_not_described(services: Services) -> None:
    app = create_app(services, dev=True)
    async with browser(app) as http:
        assert (await http.get("/dev/mailbox")).status_code == 200
        assert "/dev/mailbox" not in (await http.get("/openapi.json")).json()["paths"]


@pytest.mark.standard("CK-26", "AD-19")
@pytest.mark.parametrize(
    "path", ["/schema", "/schema/", "/schema/openapi.json", "/schema/openapi.yaml", "/schema/redoc", "/schema/swagger"]
)
async def test_the_framework_serves_no_documentation_of_its_own(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404

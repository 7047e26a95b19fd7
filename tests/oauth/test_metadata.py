"""The metadata of the authorization server: what it names works, what works is named, and one issuer everywhere."""

import json
import secrets
import time
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from litestar import Litestar

from service.tokens.clients import METHODS
from service.wiring import Services
from tests.conftest import ISSUER, Introspector
from tests.deeds import registered, sign_in, with_account
from tests.oauth.acting import (
    Software,
    new_front_end,
    new_service,
)

METADATA = "/.well-known/oauth-authorization-server"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SIGNED = {"Accept": "application/token-introspection+jwt"}
KEYS: dict[str, Any] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "PS256": rsa.generate_private_key(65537, 3072),
}
PUBLIC_KEYS = {
    "keys": [json.loads(jwt.get_algorithm_by_name(name).to_jwk(key.public_key())) for name, key in KEYS.items()]
}


async def metadata(http: httpx.AsyncClient) -> dict[str, Any]:
    answer = await http.get(METADATA)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.fixture
async def by_method(services: Services) -> dict[str, Software]:
    """A client for each method there is, registered for that one alone."""
    found = {"none": await new_front_end(services)}
    for method in METHODS:
        if method != "none":
            jwks = PUBLIC_KEYS if method == "private_key_jwt" else None
            found[method] = await new_service(services, auth_methods=[method], jwks=jwks)
    return found


async def knock(
    http: httpx.AsyncClient, url: str, method: str, client: Software, algorithm: str, **form: str
) -> httpx.Response:
    """One call by a method."""
    if method == "client_secret_basic":
        return await http.post(url, data=form, auth=(client.client_id, client.secret))
    proof = {"client_id": client.client_id}
    if method == "client_secret_post":
        proof["client_secret"] = client.secret
    elif method != "none":
        assert method == "private_key_jwt", f"nobody knows how to use {method}"
        now, name = int(time.time()), client.client_id
        claims = {"iss": name, "sub": name, "aud": ISSUER, "exp": now + 60, "jti": secrets.token_hex()}
        assertion = jwt.encode(claims, KEYS[algorithm], algorithm)
        proof |= {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
    return await http.post(url, data={**proof, **form})


# What it says


@pytest.mark.standard("OP-14", "W-M")
async def test_the_metadata_say_every_default_that_would_lie(http: httpx.AsyncClient) -> None:
    told = await metadata(http)

    assert told["issuer"] == ISSUER
    assert told["response_types_supported"] == []
    assert sorted(told["grant_types_supported"]) == ["client_credentials", "refresh_token"]
    for endpoint in ("token", "revocation", "introspection"):
        assert told[f"{endpoint}_endpoint_auth_methods_supported"]
        algorithms = told[f"{endpoint}_endpoint_auth_signing_alg_values_supported"]
        assert sorted(algorithms) == ["ES256", "PS256"]
    assert "authorization_endpoint" not in told
    assert "registration_endpoint" not in told


@pytest.mark.standard("OP-15", "W-M")
async def test_no_member_is_null_and_only_response_types_are_an_empty_array(http: httpx.AsyncClient) -> None:
    for name, value in (await metadata(http)).items():
        assert value or name == "response_types_supported", name
        if isinstance(value, list):
            assert len(set(value)) == len(value), name
            assert all(isinstance(each, str) and each for each in value), name
        else:
            assert isinstance(value, str), name


@pytest.mark.standard("OP-14", "KY-25")
async def test_every_named_url_belongs_to_the_issuer_and_answers(http: httpx.AsyncClient) -> None:
    told = await metadata(http)
    urls = {name: url for name, url in told.items() if name.endswith(("_endpoint", "_uri"))}

    assert set(urls) == {"token_endpoint", "revocation_endpoint", "introspection_endpoint", "jwks_uri"}
    for name, url in urls.items():
        assert url.startswith(f"{ISSUER}/"), name
        method = "GET" if name.endswith("_uri") else "POST"
        answer = await http.request(method, url, data=None if method == "GET" else {"client_id": "nobody-at-all"})
        assert answer.status_code in {200, 401}, (name, answer.text)
        assert (await http.request("DELETE", url)).status_code == 405, name
    assert (await http.get(told["jwks_uri"])).json()["keys"]


@pytest.mark.standard("OP-14")
async def test_every_endpoint_that_software_may_ask_is_named(http: httpx.AsyncClient, app: Litestar) -> None:
    named = {url.removeprefix(ISSUER) for url in (await metadata(http)).values() if isinstance(url, str)}
    paths = app.openapi_schema.to_schema()["paths"]
    taking_forms = {
        path
        for path, methods in paths.items()
        for operation in methods.values()
        if "application/x-www-form-urlencoded" in operation.get("requestBody", {}).get("content", {})
    }

    assert taking_forms == {"/token", "/revoke", "/introspect"}
    assert taking_forms <= named


# Every listed way works, every other is refused


@pytest.mark.standard("OP-14")
async def test_every_listed_method_and_algorithm_opens_its_endpoint_and_no_other_does(
    http: httpx.AsyncClient, by_method: dict[str, Software]
) -> None:
    told = await metadata(http)
    for endpoint, form in (
        ("token", {"grant_type": "refresh_token", "refresh_token": "vrt_none"}),
        ("revocation", {"token": "nothing"}),
        ("introspection", {"token": "nothing"}),
    ):
        listed = told[f"{endpoint}_endpoint_auth_methods_supported"]
        for method, client in by_method.items():
            algorithms = told[f"{endpoint}_endpoint_auth_signing_alg_values_supported"]
            for algorithm in algorithms if method == "private_key_jwt" else ["-"]:
                answer = await knock(http, told[f"{endpoint}_endpoint"], method, client, algorithm, **form)
                # Behind the door the token is looked at: `invalid_grant`, `unauthorized_client`, or a good answer.
                is_in = answer.status_code != 401
                assert is_in == (method in listed), (endpoint, method, algorithm, answer.text)


@pytest.mark.standard("OP-14")
async def test_every_listed_grant_works_and_no_other_is_served(http: httpx.AsyncClient, services: Services) -> None:
    told = await metadata(http)
    client_id = f"all-{secrets.token_hex(4)}"
    secret = await registered(services, client_id, grants=told["grant_types_supported"])
    person = await with_account(services)
    web = (await sign_in(http, person)).json()
    given: dict[str, dict[str, Any]] = {
        "client_credentials": {"auth": (client_id, secret), "data": {}},
        "refresh_token": {"data": {"client_id": "web", "refresh_token": web["refresh_token"]}},
    }

    assert set(given) == set(told["grant_types_supported"])
    for grant, request in given.items():
        request["data"]["grant_type"] = grant
        answer = await http.post(told["token_endpoint"], **request)
        assert answer.status_code == 200, (grant, answer.text)
    for other in ("password", "authorization_code", "implicit", "urn:ietf:params:oauth:grant-type:device_code", "x"):
        answer = await http.post(told["token_endpoint"], data={"grant_type": other}, auth=(client_id, secret))
        assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type"), other


@pytest.mark.standard("OP-14")
async def test_every_listed_scope_is_granted_to_somebody(http: httpx.AsyncClient, services: Services) -> None:
    told = await metadata(http)
    administrator = await with_account(services, ("admin",))

    assert set((await sign_in(http, administrator)).json()["scope"].split()) == set(told["scopes_supported"])


@pytest.mark.standard("OP-14")
async def test_the_listed_algorithm_signs_introspections(http: httpx.AsyncClient, introspector: Introspector) -> None:
    answer = await http.post(
        "/introspect", data={"token": "x"}, auth=(introspector.client_id, introspector.secret), headers=SIGNED
    )

    listed = (await metadata(http))["introspection_signing_alg_values_supported"]
    assert listed == [jwt.get_unverified_header(answer.text)["alg"]]


# How it is served


@pytest.mark.standard("OP-15", "W-M")
async def test_the_metadata_are_public_cacheable_and_readable_from_everywhere(http: httpx.AsyncClient) -> None:
    answer = await http.get(METADATA, headers={"Origin": "https://anything.example", "Cookie": "a=b"})

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert answer.headers["cache-control"].startswith("public, max-age=")
    asked = {"Origin": "https://anything.example", "Access-Control-Request-Method": "GET"}
    preflight = await http.options(METADATA, headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "*")


@pytest.mark.standard("OP-15", "W-M")
async def test_metadata_that_have_not_changed_are_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get(METADATA)
    etag = first.headers["etag"]

    for matching in (etag, f"W/{etag}", f'"other", {etag}'):
        again = await http.get(METADATA, headers={"If-None-Match": matching})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), matching
        assert again.headers["access-control-allow-origin"] == "*"
    for other in ("", '"other"', etag.strip('"')):
        assert (await http.get(METADATA, headers={"If-None-Match": other})).status_code == 200, other


@pytest.mark.standard("OP-15", "KY-30", "W-M")
async def test_head_answers_as_get_without_a_body(http: httpx.AsyncClient) -> None:
    for path in (METADATA, "/.well-known/jwks.json"):
        got, headed = await http.get(path), await http.head(path)
        assert (headed.status_code, headed.content) == (200, b""), path
        for name in ("etag", "content-type", "cache-control", "access-control-allow-origin", "content-length"):
            assert headed.headers[name] == got.headers[name], (path, name)
        unchanged = await http.head(path, headers={"If-None-Match": got.headers["etag"]})
        assert unchanged.status_code == 304
        for method in ("POST", "PUT", "DELETE"):
            assert (await http.request(method, path)).status_code == 405, (path, method)

"""One issuer, byte for byte, wherever it is named; with a path as well, and whatever host is asked."""

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from service.app import create_app
from service.wiring import Services
from tests.conftest import ISSUER, Outbox, TestClock, browser, worker
from tests.oauth.acting import claims_of, new_backend, session_through
from tests.oauth.test_metadata import METADATA, SIGNED, metadata


async def issuers(http: httpx.AsyncClient, services: Services) -> list[str]:
    """How the issuer is called wherever it is named: in tokens of people and services, and in what is said of them."""
    backend = await new_backend(services)
    _, grant = await session_through(services, backend)
    access_tokens = [grant.access_token, await backend.token(http)]
    found = [(await metadata(http))["issuer"], *(claims_of(token)["iss"] for token in access_tokens)]
    for token in (*access_tokens, grant.refresh_token):
        found.append((await backend.told(http, token))["iss"])
        auth = (backend.client_id, backend.secret)
        signed = claims_of((await http.post("/introspect", data={"token": token}, auth=auth, headers=SIGNED)).text)
        found += [signed["iss"], signed["token_introspection"]["iss"]]
    return found


@pytest.mark.standard("OP-16")
async def test_the_issuer_is_the_same_string_wherever_it_is_named(http: httpx.AsyncClient, services: Services) -> None:
    found = await issuers(http, services)

    assert len(found) == 12
    assert set(found) == {ISSUER}


@pytest.mark.standard("OP-16")
async def test_the_host_that_is_asked_changes_nothing(http: httpx.AsyncClient) -> None:
    usual = await http.get(METADATA)
    for headers in (
        {"Host": "evil.example"},
        {"Host": "evil.example:8443", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"},
        {"Forwarded": "host=evil.example;proto=http", "X-Forwarded-Prefix": "/evil"},
        {"Host": "AUTH.TEST"},
    ):
        assert (await http.get(METADATA, headers=headers)).content == usual.content, headers
    assert b"evil" not in usual.content


@pytest.mark.standard("OP-15")
async def test_no_query_changes_what_is_said(http: httpx.AsyncClient) -> None:
    usual = await http.get(METADATA)
    for query in ("?issuer=https://evil.example", "?issuer_path=/t1", "?issuer_path=", "?x"):
        answer = await http.get(METADATA + query)
        assert (answer.status_code, answer.content) == (200, usual.content), query


@pytest.mark.standard("OP-15")
async def test_the_metadata_of_another_issuer_are_not_here(http: httpx.AsyncClient) -> None:
    for path in ("/t1", "/t1/", "/auth.test", "/%2e%2e", "/" + "a" * 2000, "/é", "/t1/t2"):
        answer = await http.get(METADATA + path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path


PATH_ISSUER = f"{ISSUER}/t1/a-b"


@pytest.fixture
async def below_a_path(
    services: Services, clock: TestClock, outbox: Outbox
) -> AsyncIterator[tuple[Services, httpx.AsyncClient]]:
    """The same service with an issuer that has a path."""
    settings = msgspec.structs.replace(services.settings, issuer=PATH_ISSUER)
    async with worker(settings, clock, outbox) as running, browser(create_app(running)) as http:
        yield running, http


@pytest.mark.standard("OP-15", "OP-16", "W-M")
async def test_an_issuer_with_a_path_is_served_behind_the_well_known_part(
    below_a_path: tuple[Services, httpx.AsyncClient],
) -> None:
    services, http = below_a_path
    answer = await http.get(f"{METADATA}/t1/a-b")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    told = answer.json()
    assert told["issuer"] == PATH_ISSUER
    assert told["token_endpoint"] == f"{PATH_ISSUER}/token"
    assert told["jwks_uri"] == f"{PATH_ISSUER}/.well-known/jwks.json"
    for other in ("/t1", "/t1/a-b/c", "/t1/a_b", "/T1/a-b", "/a-b", "/x"):
        assert (await http.get(METADATA + other)).status_code == 404, other
    assert set(await issuers(http, services)) == {PATH_ISSUER}

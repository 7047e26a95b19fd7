"""RFC 6750 at a protected resource: how a token is presented, and what each refusal says."""

import re
from datetime import timedelta
from uuid import uuid4

import httpx
import msgspec
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import Settings
from tests.conftest import Outbox, Person, TestClock, browser, worker
from tests.wire.test_documentation import NEEDS_A_TOKEN

BODIES = [
    ({}, b""),
    ({"Content-Type": "application/json"}, b"{}"),
    ({"Content-Type": "application/json"}, b"{"),
    ({"Content-Type": "text/plain"}, b"\xff"),
]
NO_ERROR = 'Bearer realm="api"'


def parameters(challenge: str) -> dict[str, str]:
    """The auth-params of one challenge, each of which may appear once."""
    scheme, _, rest = challenge.partition(" ")
    assert scheme == "Bearer"
    pairs = re.findall(r'([a-z_]+)="([^"\\]*)"', rest)
    assert ", ".join(f'{name}="{value}"' for name, value in pairs) == rest
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def assert_challenged(answer: httpx.Response, status: int, code: str, error: str | None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["code"] == code
    (challenge,) = answer.headers.get_list("www-authenticate")
    told = parameters(challenge)
    assert told["realm"] == "api"
    assert told.get("error") == error


@pytest.mark.standard("AT-43")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_the_scheme_is_read_without_regard_to_case(http: httpx.AsyncClient, person: Person, scheme: str) -> None:
    answer = await http.get("/me", headers={"Authorization": f"{scheme} {person.access_token}"})

    assert answer.status_code == 200
    assert answer.json()["email"] == person.email
    assert "www-authenticate" not in answer.headers


@pytest.mark.standard("AT-44", "W-B")
@pytest.mark.parametrize(
    "header", [None, "", "Basic YTpi", "Digest username=x", "DPoP token", "Token abc", "Negotiate", "bearertoken"]
)
async def test_no_credentials_or_another_scheme_get_the_realm_and_no_error(
    http: httpx.AsyncClient, header: str | None
) -> None:
    answer = await http.get("/me", headers={} if header is None else {"Authorization": header})

    assert_challenged(answer, 401, "unauthenticated", None)
    assert answer.headers["www-authenticate"] == NO_ERROR


@pytest.mark.standard("AT-44", "W-B")
@pytest.mark.parametrize("token", [None, "garbage"])
@pytest.mark.parametrize(("method", "path"), sorted(NEEDS_A_TOKEN))
async def test_nothing_that_is_somebodys_own_is_served_without_a_good_token(
    http: httpx.AsyncClient, person: Person, method: str, path: str, token: str | None
) -> None:
    """And nothing of the body is looked at before: it could not be told from a probe."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    here = re.sub(r"\{\w+\}", str(uuid4()), path)
    answers = [await http.request(method, here, headers={**headers, **kind}, content=body) for kind, body in BODIES]

    for answer in answers:
        code, error = ("unauthenticated", None) if token is None else ("invalid_token", "invalid_token")
        assert_challenged(answer, 401, code, error)
    assert (await http.get("/me", headers=person.headers)).status_code == 200


@pytest.mark.standard("AT-44", "AT-45", "W-B")
@pytest.mark.parametrize("token", ["garbage", "a.b.c", "..", "null", "é", "a b", "\xff", "=" * 5000])
async def test_a_token_that_is_none_is_an_invalid_token(app: Litestar, token: str) -> None:
    async with browser(app) as http:
        headers = httpx.Headers([("Authorization", f"Bearer {token}")], encoding="latin-1")
        answer = await http.get("/me", headers=headers)

    if " " in token:  # two words may also be called a malformed header
        assert answer.status_code in {400, 401}
        return
    assert_challenged(answer, 401, "invalid_token", "invalid_token")


@pytest.mark.standard("AT-26", "AT-44", "AT-45", "SE-15")
async def test_every_token_that_has_ended_gets_one_and_the_same_refusal(
    http: httpx.AsyncClient, person: Person, clock: TestClock
) -> None:
    login = await http.post("/auth/login", json=person.credentials())
    await http.post("/auth/logout", json={"refresh_token": person.refresh_token})
    signed_out = await http.get("/me", headers=person.headers)
    forged = await http.get("/me", headers={"Authorization": f"Bearer {login.json()['access_token'][:-20]}{'A' * 20}"})
    refresh = await http.get("/me", headers={"Authorization": f"Bearer {person.refresh_token}"})
    await clock.advance(seconds=601)
    expired = await http.get("/me", headers={"Authorization": f"Bearer {login.json()['access_token']}"})

    for answer in (signed_out, forged, refresh, expired):
        assert_challenged(answer, 401, "invalid_token", "invalid_token")
        assert answer.content == signed_out.content
        assert answer.headers["www-authenticate"] == signed_out.headers["www-authenticate"]


@pytest.mark.standard("AT-43", "AT-45", "W-B")
@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "bearer    ", "BEARER \t"])
async def test_a_scheme_without_a_token_is_an_invalid_request(http: httpx.AsyncClient, header: str) -> None:
    answer = await http.get("/me", headers={"Authorization": header})

    assert_challenged(answer, 400, "invalid_request", "invalid_request")


@pytest.mark.standard("AT-45", "AT-46", "W-B")
async def test_two_authorization_headers_are_an_invalid_request(http: httpx.AsyncClient, person: Person) -> None:
    good = f"Bearer {person.access_token}"
    for pair in ((good, good), (good, "Basic YTpi"), ("Basic YTpi", good), ("", good)):
        answer = await http.get("/me", headers=[("Authorization", value) for value in pair])
        assert_challenged(answer, 400, "invalid_request", "invalid_request")


@pytest.mark.standard("AT-46", "W-B", "CL-12")
async def test_a_token_in_the_query_is_no_token(http: httpx.AsyncClient, person: Person) -> None:
    answer = await http.get(f"/me?access_token={person.access_token}")

    assert_challenged(answer, 401, "unauthenticated", None)
    assert person.access_token not in answer.text


@pytest.mark.standard("AT-46", "W-B")
async def test_a_query_beside_the_header_changes_nothing(http: httpx.AsyncClient, person: Person) -> None:
    answer = await http.get("/me?access_token=garbage", headers=person.headers)

    assert answer.status_code == 200


@pytest.mark.standard("AT-46")
async def test_a_token_in_a_cookie_is_no_token(http: httpx.AsyncClient, person: Person) -> None:
    answer = await http.get("/me", headers={"Cookie": f"access_token={person.access_token}"})

    assert_challenged(answer, 401, "unauthenticated", None)


@pytest.mark.standard("IN-15", "SE-16")
async def test_every_request_looks_at_the_session_anew(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, person: Person
) -> None:
    assert (await http_of_second_worker.get("/me", headers=person.headers)).status_code == 200
    await http.post("/auth/logout", json={"refresh_token": person.refresh_token})

    assert_challenged(
        await http_of_second_worker.get("/me", headers=person.headers), 401, "invalid_token", "invalid_token"
    )


@pytest.mark.standard("PF-39", "PF-40")
async def test_a_store_that_is_away_is_no_reason_to_throw_a_token_away(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, person: Person
) -> None:
    cut_off = msgspec.structs.replace(settings, redis_url=type(settings.redis_url)("redis://127.0.0.1:1/0"))
    async with worker(cut_off, wall_clock, outbox) as running, browser(create_app(running)) as http:
        live = await http.get("/me", headers=person.headers)
        writing = await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})
        dead = await http.get("/me", headers={"Authorization": "Bearer garbage"})

    assert live.status_code == 200  # the journal knows
    assert (writing.status_code, writing.json()["code"]) == (503, "temporarily_unavailable")
    assert int(writing.headers["retry-after"]) >= 1
    assert "www-authenticate" not in writing.headers
    assert_challenged(dead, 401, "invalid_token", "invalid_token")


@pytest.mark.standard("AT-35")
async def test_a_shorter_life_is_a_setting(
    settings: Settings, outbox: Outbox, person: Person, clock: TestClock
) -> None:
    brief = msgspec.structs.replace(settings, access_token_life=timedelta(seconds=60))
    async with worker(brief, clock, outbox) as running, browser(create_app(running)) as http:
        login = (await http.post("/auth/login", json=person.credentials())).json()
        headers = {"Authorization": f"Bearer {login['access_token']}"}
        assert login["expires_in"] == 60
        assert (await http.get("/me", headers=headers)).status_code == 200
        await clock.advance(seconds=61)
        assert_challenged(await http.get("/me", headers=headers), 401, "invalid_token", "invalid_token")

"""`POST /token`, table W-T row by row: what is read, and what each refusal looks like."""

import asyncio
import base64
from collections.abc import Iterator

import httpx
import msgspec
import pytest
from litestar import Litestar

import service.app  # noqa: F401  every refusal is known once the application is
from service.app import create_app
from service.errors import ServiceError
from service.setting_values import Rate
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Outbox, TestClock, browser, worker
from tests.oauth.acting import (
    ENDPOINTS,
    PLAIN,
    Software,
    assert_error,
    bearer,
    granted,
    new_backend,
    new_front_end,
    new_service,
    session_through,
)

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PART = b'--x\r\nContent-Disposition: form-data; name="grant_type"\r\n\r\nclient_credentials\r\n--x--\r\n'
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture
async def caller(services: Services) -> Software:
    """A service without any scope."""
    return await new_service(services)


@pytest.mark.standard("AT-36", "W-T")
async def test_unknown_parameters_are_ignored_and_empty_ones_absent(http: httpx.AsyncClient, caller: Software) -> None:
    for form in ({"foo": "1", "audience": "x"}, {"scope": "", "resource": ""}, {"callback": "x", "refresh_token": ""}):
        assert "scope" not in granted(await caller.ask_token(http, **form))
    body = "scope=&grant_type=client_credentials&&foo"
    typed = {"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=UTF-8"}
    granted(await http.post("/token", content=body, headers=typed, auth=(caller.client_id, caller.secret)))


@pytest.mark.standard("AT-36", "AT-41", "W-T")
async def test_a_body_that_is_incomplete_repeated_or_no_form_is_an_invalid_request(
    http: httpx.AsyncClient, caller: Software
) -> None:
    grant = b"grant_type=client_credentials"
    bodies = [
        (FORM, b""),
        (FORM, b"grant_type="),
        (FORM, b"Grant_Type=client_credentials"),
        (FORM, grant + b"&" + grant),
        (FORM, grant + b"&grant_type="),
        (FORM, grant + b"&grant%5Ftype=refresh_token"),
        (FORM, grant + b"&scope=a&scope=a"),
        (FORM, grant + b"&scope=&scope="),
        (FORM, grant + b"&foo=1&foo=2"),
        (FORM, grant + b"&scope=%ff"),
        (FORM, grant + "&scope=é".encode()),
        (FORM, grant + b"&scope=%00"),
        (FORM, b'{"grant_type":"client_credentials"}'),
        ({"Content-Type": "application/json"}, b'{"grant_type":"client_credentials"}'),
        ({"Content-Type": "text/plain"}, grant),
        ({"Content-Type": "multipart/form-data; boundary=x"}, PART),
        ({"Content-Type": ""}, grant),
        ({}, grant),
    ]
    for headers, body in bodies:
        auth = (caller.client_id, caller.secret)
        assert_error(await http.post("/token", content=body, headers=headers, auth=auth), 400, "invalid_request")


@pytest.mark.standard("AT-36", "AT-37", "AT-38", "CL-12", "W-T", "W-C")
async def test_parameters_in_the_query_and_two_proofs_at_once_are_an_invalid_request(
    http: httpx.AsyncClient, caller: Software
) -> None:
    auth, grant = (caller.client_id, caller.secret), {"grant_type": "client_credentials"}
    in_body = {"client_id": caller.client_id, "client_secret": caller.secret}
    assertion = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": "a.b.c"}
    answers = [
        await http.post("/token", params=grant, data={"foo": "1"}, auth=auth),
        await http.post("/token", params=in_body, data=grant),
        await http.post("/token", params={"client_secret": caller.secret}, data=grant, auth=auth),
        await http.post("/token", params={"refresh_token": "x"}, data=grant, auth=auth),
        await http.post("/token", data={**grant, **in_body}, auth=auth),
        await http.post("/token", data={**grant, **assertion}, auth=auth),
        await http.post("/token", data={**grant, **in_body, **assertion}),
        await http.post("/token", data={**grant, "client_id": "web"}, auth=auth),
        await http.post("/token", data={**grant, "client_assertion": "a.b.c"}),
        await http.post("/token", data={**grant, "client_assertion_type": ASSERTION_TYPE}),
        await http.post("/token", data={**grant, **assertion, "client_assertion_type": "other"}),
        await caller.post(http, "/token", grant_type="client_credentials", client_id=""),
    ]
    assert granted(answers.pop())["token_type"] == "Bearer"
    for answer in answers:
        assert_error(answer, 400, "invalid_request")
        assert caller.secret not in answer.text


@pytest.mark.standard("AT-16", "AT-41", "W-C", "W-T")
async def test_every_doubt_about_the_client_is_one_refusal_at_every_endpoint(
    app: Litestar, services: Services, caller: Software
) -> None:
    disabled = await new_service(services)
    await services.client_administration.set_disabled(disabled.client_id, True)
    by_header = await new_service(services, auth_methods=["client_secret_basic"])
    in_body = await new_service(services, auth_methods=["client_secret_post"])
    public = await new_front_end(services)
    form = {"grant_type": "client_credentials", "token": "garbage"}
    tries = [
        {"data": form},
        {"data": {**form, "client_id": caller.client_id}},
        {"data": {**form, "client_id": "nobody-knows-me"}},
        {"data": {**form, "client_id": caller.client_id, "client_secret": "wrong"}},
        {"data": {**form, "client_id": public.client_id, "client_secret": caller.secret}},
        {"data": {**form, "client_id": by_header.client_id, "client_secret": by_header.secret}},
        {"data": {**form, "client_secret": caller.secret}},
        {"data": {**form, "client_assertion_type": ASSERTION_TYPE, "client_assertion": "a.b.c"}},
        {"data": form, "auth": (caller.client_id, "wrong")},
        {"data": form, "auth": (disabled.client_id, disabled.secret)},
        {"data": form, "auth": (in_body.client_id, in_body.secret)},
        {"data": form, "auth": (public.client_id, "")},
        {"data": form, "headers": bearer(caller.secret)},
        {"data": {**form, "grant_type": ""}, "auth": (caller.client_id, "wrong")},
        {"data": {**form, "grant_type": "password"}, "auth": (caller.client_id, "wrong")},
    ]
    async with browser(app) as http:
        at_once = (http.post(path, **each) for path in ENDPOINTS for each in tries)  # type: ignore[arg-type]
        answers = await asyncio.gather(*at_once)
    for answer in answers:
        assert_error(answer, 401, "invalid_client")
        assert answer.content == answers[0].content
        assert answer.headers["www-authenticate"] == answers[0].headers["www-authenticate"]


@pytest.mark.standard("W-C", "AT-37")
async def test_a_client_proves_itself_by_a_method_that_it_is_registered_for(
    http: httpx.AsyncClient, services: Services
) -> None:
    by_header = await new_service(services, auth_methods=["client_secret_basic"])
    in_body = await new_service(services, auth_methods=["client_secret_post"])
    granted(await by_header.ask_token(http))
    form = {"client_id": in_body.client_id, "client_secret": in_body.secret, "grant_type": "client_credentials"}
    granted(await http.post("/token", data=form))


@pytest.mark.standard("AT-15", "AT-41", "W-T")
async def test_a_grant_that_is_not_served_is_unsupported_and_one_that_is_not_allowed_unauthorized(
    http: httpx.AsyncClient, services: Services, caller: Software
) -> None:
    only_sessions = await new_backend(services, grants=["refresh_token"])
    nothing = await new_service(services, grants=[])
    public = await new_front_end(services)
    for grant in ("password", "implicit", "foo", "authorization_code", "Client_Credentials", "client_credentials "):
        for client in (caller, public, nothing):
            form = {"grant_type": grant, "username": "a", "password": "b", "code": "c"}
            assert_error(await client.post(http, "/token", **form), 400, "unsupported_grant_type")
    for client in (only_sessions, nothing, public):
        assert_error(await client.ask_token(http), 400, "unauthorized_client")
    for client in (caller, nothing):
        assert_error(await client.refresh(http, "anything"), 400, "unauthorized_client")


@pytest.mark.standard("AT-41", "W-T")
async def test_a_refresh_token_that_is_missing_is_an_invalid_request_and_one_that_is_none_an_invalid_grant(
    http: httpx.AsyncClient, services: Services
) -> None:
    public = await new_front_end(services)
    for form in ({}, {"refresh_token": ""}, {"token": "x"}):
        answer = await public.post(http, "/token", grant_type="refresh_token", **form)
        assert_error(answer, 400, "invalid_request")
    _, grant = await session_through(services, public)
    for token in ("x", " ", "vrt_", "a" * 60_000, "é", grant.access_token, grant.refresh_token[:-1], "\U0001f4a5"):
        assert_error(await public.refresh(http, token), 400, "invalid_grant")


@pytest.mark.standard("AT-17", "AT-41", "W-T")
async def test_a_scope_that_is_malformed_or_beyond_the_registration_is_invalid(
    http: httpx.AsyncClient, caller: Software
) -> None:
    many = " ".join(f"s{number}" for number in range(200))
    for scope in ("account", "admin", "openid", " ", "a  b", " a", 'a"b', "a\\b", "a\tb", "é", "a" * 60_000, many):
        assert_error(await caller.ask_token(http, scope=scope), 400, "invalid_scope")


@pytest.mark.standard("AT-36", "RV-03", "IN-01", "W-T")
async def test_nothing_but_post_is_served(http: httpx.AsyncClient, caller: Software) -> None:
    for path in ENDPOINTS:
        for method in ("GET", "PUT", "PATCH", "DELETE", "HEAD"):
            url = f"{path}?grant_type=client_credentials&token=x"
            answer = await http.request(method, url, auth=(caller.client_id, caller.secret))
            assert answer.status_code == 405, (method, path)
            assert {name.strip() for name in answer.headers["allow"].split(",")} <= {"POST", "OPTIONS"}
            assert "POST" in answer.headers["allow"]
            assert "access_token" not in answer.text


@pytest.mark.standard("AT-39", "RV-12", "W-T")
async def test_a_body_that_is_too_large_is_refused_unread(http: httpx.AsyncClient, caller: Software) -> None:
    for path in ENDPOINTS:
        answer = await caller.post(http, path, grant_type="client_credentials", token="a" * 100_000)
        assert answer.status_code == 413
        assert answer.headers["cache-control"] == "no-store"
        assert "active" not in answer.text


@pytest.mark.standard("RL-13", "RV-12", "W-T")
async def test_a_client_that_asks_without_end_is_slowed_alone(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    strict = msgspec.structs.replace(settings, limit_token_client=Rate(3, 60))
    busy, other = await new_service(services), await new_service(services)
    async with worker(strict, wall_clock, outbox) as running:
        app = create_app(running)
        async with browser(app) as http, browser(app) as elsewhere:
            asked = await asyncio.gather(*(busy.ask_token(http) for _ in range(5)))
            revoked = await busy.revoke(http, "garbage")
            granted(await other.ask_token(http))
            granted(await busy.ask_token(elsewhere))

    assert sorted(answer.status_code for answer in asked) == [200, 200, 200, 429, 429]
    for answer in (*(answer for answer in asked if answer.status_code == 429), revoked):
        assert_error(answer, 429, "too_many_requests")
        assert 1 <= int(answer.headers["retry-after"]) <= 60


@pytest.mark.standard("PF-39", "PF-40", "RV-11", "AT-41", "W-T")
async def test_a_store_that_is_away_is_never_a_refusal(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox, http: httpx.AsyncClient
) -> None:
    cut_off = msgspec.structs.replace(settings, redis_url=type(settings.redis_url)("redis://127.0.0.1:1/0"))
    client = await new_backend(services)
    _, grant = await session_through(services, client)
    async with worker(cut_off, wall_clock, outbox) as running, browser(create_app(running)) as away:
        answers = [
            await client.ask_token(away),
            await client.refresh(away, grant.refresh_token),
            await client.refresh(away, grant.refresh_token, scope="wider"),
            await client.revoke(away, grant.refresh_token),
            await client.revoke(away, "garbage"),
            await client.introspect(away, grant.refresh_token),
        ]
        assert await client.sees(away, grant.access_token)  # the journal knows
    for answer in answers:
        assert_error(answer, 503, "temporarily_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert await client.sees(http, grant.access_token)
    assert (await client.refresh(http, grant.refresh_token)).status_code == 200


def every_refusal(of: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """A refusal and all that are made from it."""
    yield of
    for kind in of.__subclasses__():
        yield from every_refusal(kind)


@pytest.mark.standard("AT-41", "W-T")
def test_no_refusal_describes_itself_in_characters_that_oauth_forbids() -> None:
    kinds = set(every_refusal())
    assert {"invalid_target", "unsupported_grant_type", "invalid_scope"} <= {kind.code for kind in kinds}
    for kind in kinds:
        assert PLAIN.fullmatch(kind.detail), kind
        assert PLAIN.fullmatch(kind.code), kind


@pytest.mark.standard("W-C", "AT-37")
async def test_an_authorization_header_that_cannot_be_read_is_an_invalid_client(http: httpx.AsyncClient) -> None:
    pair = base64.b64encode(b"web:%ff").decode()
    for header in ("Basic", "Basic !", f"Basic {pair}", "Digest a=b", "Bearer", "Negotiate abc", ""):
        for path in ENDPOINTS:
            form = {"grant_type": "client_credentials", "token": "x"}
            assert_error(await http.post(path, data=form, headers={"Authorization": header}), 401, "invalid_client")

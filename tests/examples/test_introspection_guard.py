"""The guard that asks: it believes nothing but a whole answer, and never blames a caller for the issuer's trouble."""

import asyncio
import json
import secrets
import time
from typing import Any

import httpx
import pytest

from examples import guard as module
from examples.guard import InsufficientScope, IntrospectionGuard, MalformedRequest, MissingToken, StaleAuthentication
from service.wiring import Services
from tests.conftest import ISSUER, Introspector, Person
from tests.deeds import id_of, registered
from tests.examples.conftest import (
    AUDIENCE,
    Passing,
    StandIn,
    assert_invalid,
    assert_unavailable,
    let_in,
    live,
    of_a_service,
    refusal,
    refusal_of,
    without,
)

INACTIVE = httpx.Response(200, json={"active": False})


def asking(http: httpx.AsyncClient, caller: Introspector, **options: Any) -> IntrospectionGuard:
    """A guard that asks the real service, whose tokens are for the issuer itself unless it is told otherwise."""
    given = {"issuer": ISSUER, "audience": ISSUER, **options}
    return IntrospectionGuard(client_id=caller.client_id, client_secret=caller.secret, http=http, **given)


def told(answer: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"active": True, "token_type": "Bearer", **answer})


def foreign(stand_in: StandIn, **options: Any) -> IntrospectionGuard:
    return IntrospectionGuard(ISSUER, "orders", "secret", AUDIENCE, http=stand_in.http, **options)


# The service itself


@pytest.mark.standard("AT-08", "AT-09")
async def test_a_live_person_is_let_in_by_what_the_issuer_says(
    http: httpx.AsyncClient, introspector: Introspector, services: Services, person: Person
) -> None:
    caller = await let_in(asking(http, introspector), person.access_token)

    assert caller.claims == await introspector.ask(http, person.access_token)
    assert caller.subject == str(await id_of(services, person))
    assert (caller.client_id, caller.roles) == ("web", frozenset())
    assert caller.scope == set(caller.claims["scope"].split())
    caller.require_fresh(300)


@pytest.mark.standard("SE-15", "IN-15")
async def test_a_sign_out_at_one_worker_shows_at_the_next_request_by_another(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    guard = asking(http_of_second_worker, introspector)
    await let_in(guard, person.access_token)
    await http.post("/auth/logout", json={"refresh_token": person.refresh_token})

    assert_invalid(await refusal(guard, person.access_token))


@pytest.mark.standard("IN-15")
async def test_a_disabled_account_shows_at_the_next_request(
    http: httpx.AsyncClient, introspector: Introspector, services: Services, person: Person
) -> None:
    guard = asking(http, introspector)
    await let_in(guard, person.access_token)
    await services.administration.disable(await id_of(services, person))

    assert_invalid(await refusal(guard, person.access_token))


@pytest.mark.standard("SE-15", "IN-12")
async def test_with_a_cache_a_sign_out_shows_when_the_kept_answer_ends(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, passing: Passing
) -> None:
    guard = asking(http, introspector, cache_seconds=30)
    await let_in(guard, person.access_token)
    await http.post("/auth/logout", json={"refresh_token": person.refresh_token})
    await let_in(guard, person.access_token)
    passing.seconds = 30

    assert_invalid(await refusal(guard, person.access_token))


@pytest.mark.standard("AT-06", "AT-08", "AT-31")
@pytest.mark.parametrize(
    "expected",
    [
        {"audience": "https://other.test"},
        {"audience": ISSUER + "/"},
        {"audience": ISSUER.upper()},
        {"issuer": ISSUER + "/"},
        {"issuer": "https://other.test", "url": ISSUER},
    ],
)
async def test_a_live_token_of_another_issuer_or_for_another_audience_is_refused(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, expected: dict[str, str]
) -> None:
    await let_in(asking(http, introspector), person.access_token)

    assert_invalid(await refusal(asking(http, introspector, **expected), person.access_token))


@pytest.mark.standard("IN-13", "AT-05")
async def test_a_refresh_token_opens_nothing(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    assert_invalid(await refusal(asking(http, introspector), person.refresh_token))


async def test_wrong_credentials_of_ours_are_not_the_callers_fault(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, caplog: pytest.LogCaptureFixture
) -> None:
    guard = asking(http, Introspector(introspector.client_id, "wrong"))

    assert_unavailable(await refusal(guard, person.access_token))
    assert "/introspect: 401" in caplog.text
    assert person.access_token not in caplog.text


async def test_a_missing_right_of_ours_is_not_the_callers_fault(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    client_id = f"svc-{secrets.token_hex(4)}"
    secret = await registered(services, client_id, may_introspect=False)

    assert_unavailable(await refusal(asking(http, Introspector(client_id, secret)), person.access_token))


# Answers that prove nothing


@pytest.mark.standard("AT-08", "IN-14")
@pytest.mark.parametrize("name", ["aud", "iss", "sub", "exp", "client_id", "active"])
async def test_an_answer_that_lacks_a_member_fails_closed(name: str) -> None:
    issuer = StandIn(told(live()))
    await let_in(foreign(issuer), "token")
    issuer.answer = httpx.Response(200, json=without(json.loads(told(live()).content), name))

    assert_invalid(await refusal(foreign(issuer), "token"))


NOW, DAY = int(time.time()), 86_400


@pytest.mark.standard("AT-06", "AT-08", "AT-29", "AT-31")
@pytest.mark.parametrize(
    "wrong",
    [
        {"active": "true"},
        {"active": 1},
        {"active": None},
        {"active": False},
        {"active": [True]},
        {"iss": "https://evil.test"},
        {"iss": ISSUER.upper()},
        {"iss": [ISSUER]},
        {"aud": "https://other.test"},
        {"aud": AUDIENCE + "/"},
        {"aud": AUDIENCE.upper()},
        {"aud": f"{AUDIENCE} https://other.test"},
        {"aud": ["https://other.test"]},
        {"aud": []},
        {"aud": ""},
        {"aud": {AUDIENCE: True}},
        {"aud": [AUDIENCE, 7]},
        {"aud": None},
        {"sub": ""},
        {"sub": None},
        {"sub": 7},
        {"client_id": None},
        {"exp": str(NOW + 600)},
        {"exp": NOW + 600.5},
        {"exp": True},
        {"exp": None},
        {"exp": 0},
        {"exp": -1},
        {"exp": 10**400},
        {"exp": NOW - 61},
        {"nbf": NOW + DAY},
        {"iat": NOW + DAY},
        {"scope": ["orders:read"]},
        {"scope": None},
        {"roles": "admin"},
        {"auth_time": "never"},
        {"auth_time": None},
        {"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}},
    ],
    ids=lambda wrong: str(next(iter(wrong))),
)
async def test_an_answer_with_a_wrong_member_fails_closed(wrong: dict[str, Any]) -> None:
    assert_invalid(await refusal(foreign(StandIn(told(live(**wrong)))), "token"))


@pytest.mark.standard("AT-29", "AT-34")
async def test_an_object_that_cannot_be_read_or_says_two_things_fails_closed() -> None:
    for body in (
        b'{"active": true}',
        b'{"active": fal',
        told(live()).content + b"{}",
        told(live()).content.replace(b'"active":true', b'"active":false,"active":true'),
        told(live()).content.replace(b'"aud":', b'"aud":"https://other.test","aud":'),
        told(live()).content.replace(b"admin", b"adm\xffn"),
    ):
        answer = httpx.Response(200, content=body, headers={"content-type": "application/json"})
        assert_invalid(await refusal(foreign(StandIn(answer)), "token"))


async def test_an_answer_that_is_no_object_is_somebody_elses_and_an_outage() -> None:
    """A page of a proxy in between must not sign people out."""
    pages = (b"", b"null", b"[]", b'"active"', b"active=true", b"<html>Sign in to the network</html>", b"[" * 100_000)
    for body in (*pages, told(live()).text.encode("utf-16"), b"\xef\xbb\xbf" + told(live()).content):
        answer = httpx.Response(200, content=body, headers={"content-type": "application/json"})
        assert_unavailable(await refusal(foreign(StandIn(answer)), "token"))


@pytest.mark.standard("AT-06")
async def test_a_token_for_several_of_whom_we_are_one_is_good() -> None:
    await let_in(foreign(StandIn(told(live(aud=["https://other.test", AUDIENCE])))), "token")


@pytest.mark.standard("AT-04")
async def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    now = int(time.time())
    for wrong in ({"exp": now - 20}, {"iat": now + 20}, {"nbf": now + 20}):
        await let_in(foreign(StandIn(told(live(**wrong)))), "token")
        assert_invalid(await refusal(foreign(StandIn(told(live(**wrong))), leeway=10), "token"))
    for leeway in (61, -1):
        with pytest.raises(ValueError, match="leeway"):
            foreign(StandIn(INACTIVE), leeway=leeway)


# An issuer in trouble


@pytest.mark.standard("PF-39")
@pytest.mark.parametrize("status", [201, 204, 302, 400, 401, 403, 404, 413, 429, 500, 502, 503, 504])
async def test_any_other_status_is_an_outage_and_no_refusal(status: int) -> None:
    body = json.loads(told(live()).content)
    headers = {"location": "https://evil.test/"}
    issuer = StandIn(httpx.Response(status, json=body, headers=headers))

    assert_unavailable(await refusal(foreign(issuer), "token"))
    assert [request.url.host for request in issuer.asked] == ["auth.test"]


@pytest.mark.standard("PF-39")
@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout("slow"),
        httpx.PoolTimeout("busy"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("gone"),
        httpx.DecodingError("no gzip"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_connection_that_fails_is_an_outage_and_no_refusal(error: Exception) -> None:
    assert_unavailable(await refusal(foreign(StandIn(error)), "token"))


@pytest.mark.standard("PF-39")
async def test_an_issuer_that_hangs_is_not_waited_for() -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return told(live())

    begun = time.monotonic()
    assert_unavailable(await refusal(foreign(StandIn(hang), timeout=0.05), "token"))
    assert time.monotonic() - begun < 10


# What is asked, and how often


async def test_the_credentials_are_form_encoded_before_base64() -> None:
    """The example of the checklist (TV-2) for RFC 6749 section 2.3.1."""
    issuer = StandIn(told(live()))
    guard = IntrospectionGuard(ISSUER, "svc:orders/1", "p+ä %&=:/x", AUDIENCE, http=issuer.http)
    await let_in(guard, "a.b-c_d~e+f/g==")

    (request,) = issuer.asked
    expected = "Basic c3ZjJTNBb3JkZXJzJTJGMTpwJTJCJUMzJUE0KyUyNSUyNiUzRCUzQSUyRng="
    assert request.headers["authorization"] == expected
    assert (request.method, str(request.url)) == ("POST", f"{ISSUER}/introspect")
    assert request.content == b"token=a.b-c_d~e%2Bf%2Fg%3D%3D"
    assert "p+ä" not in repr(guard)


@pytest.mark.standard("AT-32")
@pytest.mark.parametrize(
    "token", ["é", "a\x00b", "a,b", '"a"', "a=b", "{}", "x" * 4097, "a\u0661", "tok\nen"], ids=lambda token: token[:9]
)
async def test_what_cannot_be_a_token_is_refused_without_a_question(token: str) -> None:
    issuer = StandIn(told(live()))

    assert (await refusal(foreign(issuer), token)).status in {400, 401}
    assert issuer.asked == []


@pytest.mark.standard("IN-12")
async def test_without_a_cache_every_request_asks() -> None:
    issuer = StandIn(told(live()))
    guard = foreign(issuer)
    await let_in(guard, "token")
    issuer.answer = INACTIVE
    assert_invalid(await refusal(guard, "token"))
    issuer.answer = told(live())
    await let_in(guard, "token")

    assert len(issuer.asked) == 3
    assert guard._cache == {}


@pytest.mark.standard("IN-12")
async def test_a_good_answer_is_kept_as_long_as_was_asked_for(passing: Passing) -> None:
    issuer = StandIn(told(live()))
    guard = foreign(issuer, cache_seconds=20)
    first = await let_in(guard, "token")
    passing.seconds = 19
    assert await let_in(guard, "token") == first
    assert len(issuer.asked) == 1
    passing.seconds = 20
    issuer.answer = INACTIVE

    assert_invalid(await refusal(guard, "token"))


@pytest.mark.standard("IN-12")
async def test_no_answer_is_kept_beyond_the_end_of_its_token(passing: Passing) -> None:
    issuer = StandIn(told(live(exp=passing.began + 8)))
    guard = foreign(issuer, cache_seconds=30)
    await let_in(guard, "token")
    passing.seconds = 5
    await let_in(guard, "token")
    assert len(issuer.asked) == 1
    passing.seconds = 8
    issuer.answer = INACTIVE

    assert_invalid(await refusal(guard, "token"))


@pytest.mark.standard("IN-12")
@pytest.mark.parametrize(("cache_seconds", "kept"), [(30, 5), (2, 2)])
async def test_a_refusal_is_kept_five_seconds_at_most(passing: Passing, cache_seconds: int, kept: int) -> None:
    issuer = StandIn(INACTIVE)
    guard = foreign(issuer, cache_seconds=cache_seconds)
    assert_invalid(await refusal(guard, "token"))
    issuer.answer = told(live())
    passing.seconds = kept - 0.5
    assert_invalid(await refusal(guard, "token"))
    assert len(issuer.asked) == 1
    passing.seconds = kept

    await let_in(guard, "token")


@pytest.mark.standard("IN-12", "PF-39")
async def test_an_outage_is_never_kept() -> None:
    issuer = StandIn(httpx.Response(503))
    guard = foreign(issuer, cache_seconds=30)
    assert_unavailable(await refusal(guard, "token"))
    issuer.answer = told(live())

    await let_in(guard, "token")


@pytest.mark.standard("IN-12")
async def test_what_is_kept_has_a_bound_and_holds_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CACHED", 3)
    issuer = StandIn(told(live()))
    guard = foreign(issuer, cache_seconds=30)
    for token in ("first", "second", "third", "fourth"):
        await let_in(guard, token)
    assert len(guard._cache) == 3
    assert {len(name) for name in guard._cache} == {32}
    assert "fourth" not in repr(guard._cache)
    await let_in(guard, "fourth")
    assert len(issuer.asked) == 4
    await let_in(guard, "first")

    assert len(issuer.asked) == 5


@pytest.mark.standard("IN-12")
async def test_two_tokens_never_share_an_answer() -> None:
    issuer = StandIn(told(live()))
    guard = foreign(issuer, cache_seconds=30)
    await let_in(guard, "token")
    issuer.answer = INACTIVE

    assert_invalid(await refusal(guard, "token2"))
    await let_in(guard, "token")


@pytest.mark.standard("IN-12")
@pytest.mark.parametrize("seconds", [30.1, 31, 3600, -1, float("inf"), float("nan")])
async def test_a_longer_cache_is_not_to_be_had(seconds: float) -> None:
    with pytest.raises(ValueError, match="cache_seconds"):
        foreign(StandIn(INACTIVE), cache_seconds=seconds)


# How a token is presented


@pytest.mark.standard("AT-43")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_the_scheme_is_read_without_regard_to_case(scheme: str) -> None:
    issuer = StandIn(told(live()))
    await foreign(issuer).caller([f"{scheme}  token "])

    assert issuer.asked[0].content == b"token=token"


@pytest.mark.standard("AT-44", "W-B")
@pytest.mark.parametrize("header", [None, "", "Basic YTpi", "DPoP token", "token", "Bearertoken", "Negotiate"])
async def test_no_credentials_or_another_scheme_get_the_realm_and_no_error(header: str | None) -> None:
    issuer = StandIn(told(live()))
    refused = await refusal_of(foreign(issuer), [] if header is None else [header])

    assert type(refused) is MissingToken
    assert (refused.status, refused.headers) == (401, {"WWW-Authenticate": 'Bearer realm="api"'})
    assert issuer.asked == []


@pytest.mark.standard("AT-43", "AT-45", "AT-46", "W-B")
@pytest.mark.parametrize(
    "headers",
    [
        ["Bearer"],
        ["Bearer "],
        ["bearer  \t"],
        ["Bearer one two"],
        ["Bearer token, Bearer token"],
        ["Bearer token", "Bearer token"],
        ["Bearer token", "Basic YTpi"],
        ["Basic YTpi", "Bearer token"],
        ["", "Bearer token"],
    ],
    ids=repr,
)
async def test_a_header_that_does_not_hold_exactly_one_token_is_an_invalid_request(headers: list[str]) -> None:
    issuer = StandIn(told(live()))
    refused = await refusal_of(foreign(issuer), headers)

    assert type(refused) is MalformedRequest
    assert (refused.status, refused.www_authenticate) == (400, 'Bearer realm="api", error="invalid_request"')
    assert issuer.asked == []


# What a caller may do


@pytest.mark.standard("AT-09", "AT-45", "W-B")
@pytest.mark.parametrize(
    ("scope", "wanted", "allowed"),
    [
        ("orders:read orders:write", "orders:write", True),
        ("orders:read orders:write", "orders:write orders:read", True),
        ("orders:read", "orders:write", False),
        ("orders:read", "orders:read orders:write", False),
        ("orders:readers", "orders:read", False),
        ("Orders:Read", "orders:read", False),
        ("", "orders:read", False),
    ],
)
async def test_a_scope_is_had_as_a_whole_word_or_not_at_all(scope: str, wanted: str, allowed: bool) -> None:
    caller = await let_in(foreign(StandIn(told(live(scope=scope)))), "token")
    if allowed:
        caller.require(wanted)
        return

    with pytest.raises(InsufficientScope) as caught:
        caller.require(wanted)
    challenge = f'Bearer realm="api", error="insufficient_scope", scope="{wanted}"'
    assert (caught.value.status, caught.value.www_authenticate) == (403, challenge)
    assert caught.value.headers == {"WWW-Authenticate": challenge}


@pytest.mark.standard("AT-11", "W-B")
async def test_only_who_signed_in_just_now_is_fresh() -> None:
    now = int(time.time())
    (await let_in(foreign(StandIn(told(live(auth_time=now - 290)))), "token")).require_fresh(300)
    stale = await let_in(foreign(StandIn(told(live(auth_time=now - 301)))), "token")

    with pytest.raises(StaleAuthentication) as caught:
        stale.require_fresh(300)
    challenge = 'Bearer realm="api", error="insufficient_user_authentication", max_age=300'
    assert (caught.value.status, caught.value.www_authenticate) == (401, challenge)


@pytest.mark.standard("AT-11")
async def test_a_service_that_speaks_for_itself_has_no_roles_and_is_never_fresh() -> None:
    caller = await let_in(foreign(StandIn(told(of_a_service()))), "token")

    assert (caller.subject, caller.client_id, caller.roles) == ("billing", "billing", frozenset())
    assert "sid" not in caller.claims
    with pytest.raises(StaleAuthentication):
        caller.require_fresh(10**12)


async def test_nobody_can_change_who_calls() -> None:
    caller = await let_in(foreign(StandIn(told(live()))), "token")

    with pytest.raises(AttributeError):
        caller.subject = "somebody else"  # type: ignore[misc]
    with pytest.raises(TypeError):
        caller.claims["roles"] = ["root"]  # type: ignore[index]

"""Cookie transport: the refresh token where no script can read it, and of use to our front ends alone."""

import base64
import json
import re
from http.cookies import SimpleCookie
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import Settings
from service.wiring import Services
from tests.conftest import (
    ISSUER,
    Introspector,
    Outbox,
    Person,
    TestClock,
    begin_sign_up,
    browser,
    mailed_code,
    somebody,
    worker,
)

COOKIE = "__Host-vestibule-refresh"
DEVICE_COOKIE = "__Host-vestibule-device"
CSRF = {"X-Vestibule-CSRF": "1", "Origin": ISSUER}
THIRTY_DAYS = 30 * 86_400
MOST_A_BROWSER_KEEPS = 400 * 86_400

FOREIGN: dict[str, dict[str, str]] = {
    "no header at all": {"X-Vestibule-CSRF": ""},
    "a false header": {"X-Vestibule-CSRF": "0"},
    "another false header": {"X-Vestibule-CSRF": "true"},
    "a foreign origin": {"Origin": "https://evil.example"},
    "the null origin": {"Origin": "null"},
    "an empty origin": {"Origin": ""},
    "ours as a prefix": {"Origin": f"{ISSUER}.evil.example"},
    "ours as a suffix": {"Origin": "https://evilauth.test"},
    "ours below another": {"Origin": "https://evil.auth.test"},
    "ours in plain http": {"Origin": ISSUER.replace("https", "http")},
    "ours on another port": {"Origin": f"{ISSUER}:8443"},
    "ours in another case": {"Origin": "https://AUTH.test"},
    "ours with a slash": {"Origin": f"{ISSUER}/"},
    "ours behind an at sign": {"Origin": f"{ISSUER}@evil.example"},
    "a front end's as a prefix": {"Origin": "https://app.test.evil.example"},
    "a front end's as a suffix": {"Origin": "https://evilapp.test"},
    "a front end's in plain http": {"Origin": "http://app.test"},
    "two in one": {"Origin": f"{ISSUER} https://evil.example"},
    "cross-site without an origin": {"Origin": "", "Sec-Fetch-Site": "cross-site"},
    "same-site without an origin": {"Origin": "", "Sec-Fetch-Site": "same-site"},
    "foreign but of the same origin": {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    "ours but from another site": {"Origin": ISSUER, "Sec-Fetch-Site": "cross-site"},
    "a front end on another site": {"Origin": "https://app.test", "Sec-Fetch-Site": "cross-site"},
}


def set_cookies(answer: httpx.Response) -> list[str]:
    return answer.headers.get_list("set-cookie")


def value_of(answer: httpx.Response, name: str = COOKIE) -> str:
    (line,) = (line for line in set_cookies(answer) if line.startswith(f"{name}="))
    return SimpleCookie(line)[name].value


def attributes(line: str) -> tuple[str, dict[str, str]]:
    head, *rest = (part.strip() for part in line.split(";"))
    named = (part.partition("=") for part in rest)
    return head, {name.lower(): value for name, _, value in named}


def assert_kept_well(answer: httpx.Response, line: str) -> tuple[str, str, int]:
    """A cookie with the attributes that each of ours must have, and no copy of its value anywhere else."""
    head, given = attributes(line)
    name, _, value = head.partition("=")
    assert name.startswith("__Host-")
    assert set(given) == {"path", "secure", "httponly", "samesite", "max-age"}
    assert (given["path"], given["samesite"].lower()) == ("/", "strict")
    assert len(head) <= 4096
    assert value not in answer.text
    assert all(value not in text for header, text in answer.headers.multi_items() if header != "set-cookie")
    return name, value, int(given["max-age"])


def assert_set(answer: httpx.Response, *, device: bool) -> str:
    """The refresh token in its cookie, and where somebody came in the mark of the device in another; nothing else."""
    kept = [assert_kept_well(answer, line) for line in set_cookies(answer)]
    assert [name for name, _, _ in kept] == ([COOKIE, DEVICE_COOKIE] if device else [COOKIE])
    _, value, life = kept[0]
    assert THIRTY_DAYS - 60 <= life <= THIRTY_DAYS
    assert re.fullmatch(r"vrt_[A-Za-z0-9_-]+", value)
    for _, mark, life in kept[1:]:
        assert life == MOST_A_BROWSER_KEEPS
        assert re.fullmatch(r"vdv_[A-Za-z0-9_-]+", mark)
    return value


def assert_deleted(answer: httpx.Response) -> None:
    """Deletion repeats name, path, `Secure` and the prefix's rules, or browsers keep it; the device stays known."""
    (line,) = set_cookies(answer)
    head, given = attributes(line)
    assert head in {f"{COOKIE}=", f'{COOKIE}=""'}
    assert given["max-age"] == "0"
    assert {"secure", "httponly", "path"} <= set(given)
    assert given["path"] == "/"
    assert "domain" not in given


def assert_cross_site(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_refused")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert set_cookies(answer) == []


async def sign_in(http: httpx.AsyncClient, person: Person, **headers: str) -> httpx.Response:
    return await http.post("/auth/login", json=person.credentials(transport="cookie"), headers={**CSRF, **headers})


async def call(http: httpx.AsyncClient, path: str, token: str, **headers: str) -> httpx.Response:
    """A cookie call with one cookie, whatever the client has kept."""
    http.cookies.clear()
    given = {"Cookie": f"{COOKIE}={token}", **CSRF, **headers}
    return await http.post(path, json={}, headers={name: value for name, value in given.items() if value})


# The cookie


@pytest.mark.standard("CK-01", "CK-02", "CK-03", "CK-04", "CK-05", "CK-20", "AT-14", "CK-30")
async def test_signing_in_sets_the_cookie_and_keeps_the_refresh_token_out_of_the_body(
    http: httpx.AsyncClient, person: Person
) -> None:
    answer = await sign_in(http, person)

    assert answer.status_code == 200
    assert_set(answer, device=True)
    assert set(answer.json()) == {"access_token", "token_type", "expires_in", "scope"}
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")


@pytest.mark.standard("CK-01", "CK-04", "AT-14")
async def test_proving_the_address_sets_the_cookie_too(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    proof = {
        "registration": await begin_sign_up(http, person),
        "code": await mailed_code(services, outbox, person.email),
        "transport": "cookie",
    }
    refused = await http.post("/auth/verify", json=proof)
    assert_cross_site(refused)
    answer = await http.post("/auth/verify", json=proof, headers=CSRF)

    assert answer.status_code == 200
    assert_set(answer, device=True)
    assert "refresh_token" not in answer.json()


@pytest.mark.standard("CK-04", "CK-06", "CK-30")
async def test_refreshing_by_cookie_gives_the_next_cookie(
    http: httpx.AsyncClient, person: Person, introspector: Introspector
) -> None:
    first = value_of(await sign_in(http, person))
    answer = await call(http, "/auth/refresh", first)

    assert answer.status_code == 200
    assert assert_set(answer, device=False) != first
    assert "refresh_token" not in answer.json()
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert (await introspector.ask(http, answer.json()["access_token"]))["active"] is True


@pytest.mark.standard("CK-03")
async def test_a_browser_keeps_the_cookie_and_sends_it_back(app: Litestar, person: Person) -> None:
    async with browser(app) as http:
        await sign_in(http, person)
        for _ in range(3):
            assert (await http.post("/auth/refresh", json={}, headers=CSRF)).status_code == 200
        assert (await http.post("/auth/logout", json={}, headers=CSRF)).status_code == 204
        assert COOKIE not in http.cookies
        assert (await http.post("/auth/refresh", json={}, headers=CSRF)).status_code == 400


@pytest.mark.standard("CK-06")
async def test_the_cookie_is_opaque(http: httpx.AsyncClient, person: Person) -> None:
    value = value_of(await sign_in(http, person))
    raw = base64.urlsafe_b64decode(value.removeprefix("vrt_") + "==")

    for secret in (person.email, person.nickname, "web", "account"):
        assert secret.encode() not in raw
    assert re.fullmatch(r"vrt_[A-Za-z0-9_-]+", value)


@pytest.mark.standard("CK-06", "SE-08", "SE-09")
async def test_the_server_ends_a_session_whatever_the_cookie_says(
    http: httpx.AsyncClient, person: Person, clock: TestClock
) -> None:
    value = value_of(await sign_in(http, person))
    await clock.advance(days=14, seconds=1)
    answer = await call(http, "/auth/refresh", value)

    assert (answer.status_code, answer.json()["code"]) == (401, "session_expired")
    assert_deleted(answer)


@pytest.mark.standard("CK-04", "SE-34")
async def test_body_mode_never_sets_a_cookie(http: httpx.AsyncClient, person: Person) -> None:
    login = await http.post("/auth/login", json=person.credentials())
    refreshed = await http.post("/auth/refresh", json={"refresh_token": login.json()["refresh_token"]})
    failed = await http.post("/auth/refresh", json={"refresh_token": "vrt_nothing"})
    out = await http.post("/auth/logout", json={"refresh_token": refreshed.json()["refresh_token"]})

    assert (failed.status_code, failed.json()["code"]) == (401, "session_expired")
    for answer in (login, refreshed, failed, out):
        assert set_cookies(answer) == []


@pytest.mark.standard("CK-01", "CK-03", "CK-04", "AT-14")
async def test_giving_the_password_again_by_cookie_gives_the_next_cookie(
    http: httpx.AsyncClient, person: Person
) -> None:
    login = await sign_in(http, person)
    bearer = {"Authorization": f"Bearer {login.json()['access_token']}"}
    body = {"password": person.password, "transport": "cookie"}
    for foreign in FOREIGN.values():
        headers = {name: value for name, value in {**CSRF, **bearer, **foreign}.items() if value}
        assert_cross_site(await http.post("/auth/reauthenticate", json=body, headers=headers))
    answer = await http.post("/auth/reauthenticate", json=body, headers={**CSRF, **bearer})

    assert answer.status_code == 200
    value = assert_set(answer, device=False)
    assert value != value_of(login)
    assert "refresh_token" not in answer.json()
    assert (await call(http, "/auth/refresh", value)).status_code == 200


# The mark of the device


@pytest.mark.standard("CK-06", "CL-11")
async def test_a_device_has_a_random_mark_of_its_own_and_keeps_it(
    app: Litestar, http: httpx.AsyncClient, person: Person
) -> None:
    first = value_of(await sign_in(http, person), DEVICE_COOKIE)
    again = value_of(await sign_in(http, person), DEVICE_COOKIE)
    async with browser(app) as elsewhere:
        other = value_of(await sign_in(elsewhere, person), DEVICE_COOKIE)

    assert first == again != other
    for mark in (first, other):
        raw = base64.urlsafe_b64decode(mark.removeprefix("vdv_") + "==")
        assert len(raw) >= 32
        for secret in (person.email, person.nickname, person.access_token):
            assert secret.encode() not in raw


@pytest.mark.standard("CK-06", "LG-03")
@pytest.mark.parametrize(
    "mark", ["", "garbage", "vdv_", "vdv_" + "A" * 10, "vdv_" + "A" * 3000, "vrt_" + "A" * 48, "vdv_%00", '"vdv_x"']
)
async def test_a_mark_that_is_not_ours_is_replaced(http: httpx.AsyncClient, person: Person, mark: str) -> None:
    answer = await sign_in(http, person, Cookie=f"{DEVICE_COOKIE}={mark}")

    assert_set(answer, device=True)
    assert value_of(answer, DEVICE_COOKIE) != mark


@pytest.mark.standard("CK-04", "CK-29")
async def test_a_device_stays_known_after_signing_out_and_body_mode_does_not_touch_its_mark(
    app: Litestar, person: Person
) -> None:
    async with browser(app) as http:
        mark = value_of(await sign_in(http, person), DEVICE_COOKIE)
        assert (await http.post("/auth/logout", json={}, headers=CSRF)).status_code == 204
        assert (COOKIE in http.cookies, http.cookies[DEVICE_COOKIE]) == (False, mark)
        assert set_cookies(await http.post("/auth/login", json=person.credentials())) == []
        refused = await http.post(
            "/auth/login", json={**person.credentials(transport="cookie"), "password": "x" * 20}, headers=CSRF
        )

    assert refused.status_code == 401
    assert set_cookies(refused) == []


# Failures


@pytest.mark.standard("SE-34", "W-F")
@pytest.mark.parametrize("token", ["garbage", "vrt_" + "A" * 100, "vrt_", '"quoted"', "x" * 3000])
async def test_a_cookie_that_is_no_token_is_deleted(http: httpx.AsyncClient, token: str) -> None:
    answer = await call(http, "/auth/refresh", token)

    assert (answer.status_code, answer.json()["code"]) == (401, "session_expired")
    assert "www-authenticate" in answer.headers
    assert "basic" not in answer.headers["www-authenticate"].lower()
    assert_deleted(answer)


@pytest.mark.standard("SE-34", "SE-22")
async def test_a_replayed_cookie_ends_the_session_and_is_deleted(
    http: httpx.AsyncClient, person: Person, introspector: Introspector, clock: TestClock
) -> None:
    first = value_of(await sign_in(http, person))
    second = await call(http, "/auth/refresh", first)
    await introspector.ask(http, second.json()["access_token"])
    await clock.advance(seconds=11)
    replayed = await call(http, "/auth/refresh", first)

    assert replayed.status_code == 401
    assert_deleted(replayed)
    assert (await call(http, "/auth/refresh", value_of(second))).status_code == 401


@pytest.mark.standard("SE-33")
async def test_two_tabs_that_refresh_at_once_both_keep_their_cookie(http: httpx.AsyncClient, person: Person) -> None:
    first = value_of(await sign_in(http, person))
    one, two = await call(http, "/auth/refresh", first), await call(http, "/auth/refresh", first)

    assert (one.status_code, two.status_code) == (200, 200)
    assert value_of(one) == value_of(two)


@pytest.mark.standard("W-F", "PF-39")
async def test_an_outage_keeps_the_cookie(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, http: httpx.AsyncClient, person: Person
) -> None:
    value = value_of(await sign_in(http, person))
    cut_off = msgspec.structs.replace(settings, redis_url=type(settings.redis_url)("redis://127.0.0.1:1/0"))
    async with worker(cut_off, wall_clock, outbox) as running, browser(create_app(running)) as elsewhere:
        answers = [await call(elsewhere, path, value) for path in ("/auth/refresh", "/auth/logout")]

    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert set_cookies(answer) == []
    assert (await call(http, "/auth/refresh", value)).status_code == 200


async def test_bad_input_keeps_the_cookie(http: httpx.AsyncClient, person: Person) -> None:
    value = value_of(await sign_in(http, person))
    headers = {"Cookie": f"{COOKIE}={value}", **CSRF}
    http.cookies.clear()
    answers = [
        await http.post("/auth/refresh", content=b"{", headers={**headers, "Content-Type": "application/json"}),
        await http.post("/auth/refresh", content=b"{}", headers={**headers, "Content-Type": "text/plain"}),
        await http.post("/auth/refresh", json={"client_id": "nobody-knows-me"}, headers=headers),
    ]

    assert [answer.status_code for answer in answers] == [400, 415, 400]
    assert all(set_cookies(answer) == [] for answer in answers)
    assert (await call(http, "/auth/refresh", value)).status_code == 200


async def test_no_cookie_and_no_token_is_bad_input(http: httpx.AsyncClient) -> None:
    answer = await http.post("/auth/refresh", json={}, headers=CSRF)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert answer.json()["errors"][0]["field"] == "refresh_token"
    assert set_cookies(answer) == []


# From where


@pytest.mark.standard("CK-07", "CK-10", "CK-17", "CK-23", "CK-32")
@pytest.mark.parametrize("name", FOREIGN)
async def test_a_cookie_call_from_elsewhere_is_refused_and_changes_nothing(
    http: httpx.AsyncClient, person: Person, name: str
) -> None:
    value = value_of(await sign_in(http, person))

    for path in ("/auth/refresh", "/auth/logout"):
        headers = {**CSRF, **FOREIGN[name], "Cookie": f"{COOKIE}={value}"}
        if headers["X-Vestibule-CSRF"] == "":
            del headers["X-Vestibule-CSRF"]
        http.cookies.clear()
        assert_cross_site(await http.post(path, json={}, headers=headers))
    assert (await call(http, "/auth/refresh", value)).status_code == 200


@pytest.mark.standard("CK-35", "CK-17")
@pytest.mark.parametrize("name", FOREIGN)
async def test_nobody_is_signed_in_by_cookie_from_elsewhere(http: httpx.AsyncClient, person: Person, name: str) -> None:
    answer = await sign_in(http, person, **FOREIGN[name])

    assert_cross_site(answer)
    assert "access_token" not in answer.text


@pytest.mark.standard("CK-10", "CK-17")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": ISSUER},
        {"Origin": "https://app.test"},
        {"Origin": ISSUER, "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://app.test", "Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_cookie_call_from_our_own_or_a_registered_origin_is_served(
    http: httpx.AsyncClient, person: Person, headers: dict[str, str]
) -> None:
    login = await sign_in(http, person, **headers)
    assert login.status_code == 200
    renewed = await call(http, "/auth/refresh", value_of(login), **headers)
    assert renewed.status_code == 200
    assert (await call(http, "/auth/logout", value_of(renewed), **headers)).status_code == 204


@pytest.mark.standard("CK-18")
@pytest.mark.parametrize("origin", [{}, {"Origin": ISSUER}, {"Origin": "https://app.test"}])
@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
@pytest.mark.parametrize("path", ["/auth/login", "/auth/verify", "/auth/refresh", "/auth/logout"])
async def test_no_request_that_a_form_can_make_is_read(
    http: httpx.AsyncClient, person: Person, path: str, content_type: str | None, origin: dict[str, str]
) -> None:
    value = value_of(await sign_in(http, person))
    body: dict[str, Any] = person.credentials(transport="cookie") if path == "/auth/login" else {}
    headers = {"Cookie": f"{COOKIE}={value}", **origin}
    http.cookies.clear()
    answer = await http.post(
        path,
        content=json.dumps(body),
        headers=headers if content_type is None else {**headers, "Content-Type": content_type},
    )

    assert answer.status_code == 415
    assert set_cookies(answer) == []
    assert (await call(http, "/auth/refresh", value)).status_code == 200


@pytest.mark.standard("CK-10", "CK-34")
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.test.evil.example"])
async def test_no_foreign_origin_is_ever_echoed(http: httpx.AsyncClient, person: Person, origin: str) -> None:
    value = value_of(await sign_in(http, person))
    answers = [
        await call(http, "/auth/refresh", value, Origin=origin),
        await sign_in(http, person, Origin=origin),
        await http.options(
            "/auth/refresh",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type,x-vestibule-csrf",
            },
        ),
    ]

    for answer in answers:
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers


# Fixation, and the way out


@pytest.mark.standard("SE-07")
async def test_signing_in_over_a_planted_cookie_gives_a_session_of_its_own(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    from tests.conftest import sign_up

    async with browser(app) as attacker_http:
        attacker = await sign_up(attacker_http, services, outbox)
        planted = value_of(await sign_in(attacker_http, attacker))
    login = await sign_in(http, person, Cookie=f"{COOKIE}={planted}")

    assert value_of(login) != planted
    me = await http.get("/me", headers={"Authorization": f"Bearer {login.json()['access_token']}"})
    assert me.json()["email"] == person.email


@pytest.mark.standard("CK-29", "SE-15")
async def test_signing_out_by_cookie_ends_the_session_and_deletes_the_cookie(
    http: httpx.AsyncClient, person: Person, introspector: Introspector
) -> None:
    login = await sign_in(http, person)
    answer = await call(http, "/auth/logout", value_of(login))

    assert (answer.status_code, answer.content) == (204, b"")
    assert_deleted(answer)
    assert answer.headers["cache-control"] == "no-store"
    assert (await introspector.ask(http, login.json()["access_token"])) == {"active": False}
    again = await call(http, "/auth/logout", value_of(login))
    assert again.status_code == 204
    assert_deleted(again)
    assert (await call(http, "/auth/refresh", value_of(login))).status_code == 401


@pytest.mark.standard("CK-29", "W-F")
async def test_signing_out_by_cookie_clears_what_the_browser_holds(http: httpx.AsyncClient, person: Person) -> None:
    answer = await call(http, "/auth/logout", value_of(await sign_in(http, person)))

    cleared = {part.strip() for part in answer.headers.get("clear-site-data", "").split(",")}
    assert {'"cache"', '"storage"'} <= cleared


@pytest.mark.standard("CK-29")
async def test_signing_out_without_a_session_is_no_error(http: httpx.AsyncClient) -> None:
    answer = await http.post("/auth/logout", json={}, headers=CSRF)

    assert answer.status_code == 204


@pytest.mark.standard("CK-10", "CK-01", "CK-09")
async def test_an_operator_may_not_register_every_origin(environ: dict[str, str]) -> None:
    from service.setting_values import SettingsError
    from service.settings import load

    for origins in (
        "*",
        "https://app.test,*",
        "app.test",
        "https://app.test/",
        "https://app.test/path",
        "null",
        "https://*.app.test",
    ):
        with pytest.raises(SettingsError):
            load({**environ, "VESTIBULE_ALLOWED_ORIGINS": origins})

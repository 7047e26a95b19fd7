"""CORS: which pages may read our answers, to the letter of their origin, on every answer there is."""

from typing import Any

import httpx
import msgspec
import pytest

from service.app import create_app
from service.origins import Origins
from service.settings import Settings, load
from tests.conftest import ISSUER, Outbox, Person, TestClock, browser, worker

APP = "https://app.test"
KNOWN = [ISSUER, APP]
EXPOSED = "WWW-Authenticate, Retry-After, X-Request-Id"
LOOK_ALIKES = [
    "https://evil.example",
    "null",
    "",
    "*",
    "https://app.test.evil.example",
    "https://evilapp.test",
    "https://evil.app.test",
    "https://app.tes",
    "https://app.test:443",
    "https://app.test:8443",
    "https://app.test:",
    "http://app.test",
    "HTTPS://app.test",
    "https://APP.test",
    "https://app.test/",
    "https://app.test/path",
    "https://app.test?",
    "https://app.test#",
    "https://app.test.",
    "https://app.test@evil.example",
    "https://evil.example@app.test",
    "https://evil.example#https://app.test",
    "https://app.test https://evil.example",
    "https://app.test, https://evil.example",
    "https://app.test,https://auth.test",
    "app.test",
    "//app.test",
    "file://",
    "https://аpp.test".encode(),  # noqa: RUF001  with a Cyrillic letter
    ISSUER.replace("https", "http"),
    f"{ISSUER}.evil.example",
]
"""None of them is an origin that we know."""

ANSWERS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "a page": ("GET", "/docs", {}, 200),
    "a probe": ("GET", "/livez", {}, 200),
    "nothing there": ("GET", "/auth/nothing", {}, 404),
    "another method": ("GET", "/auth/login", {}, 405),
    "no token": ("GET", "/me", {}, 401),
    "no JSON": ("POST", "/auth/login", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
    "no body": ("POST", "/auth/login", {}, 400),
    "a form": ("POST", "/auth/login", {"data": {"email": "x"}}, 415),
    "too long": ("POST", "/auth/login", {"json": {"password": "x" * 70_000}}, 413),
    "too many headers": ("GET", "/livez", {"headers": {f"X-{n}": "1" for n in range(101)}}, 431),
    "no such session": ("POST", "/auth/refresh", {"json": {"refresh_token": "vrt_nothing"}}, 401),
    "an unknown service": ("POST", "/introspect", {"data": {"token": "x"}}, 401),
    "its own question": ("OPTIONS", "/auth/login", {}, 204),
}


def vary(answer: httpx.Response) -> list[str]:
    """The members of the one `Vary` header, in lower case."""
    lines = answer.headers.get_list("vary")
    assert len(lines) <= 1
    return [part.strip().lower() for line in lines for part in line.split(",")]


def shared(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


async def ask(http: httpx.AsyncClient, name: str, *origins: str | bytes) -> httpx.Response:
    method, path, more, status = ANSWERS[name]
    given = {**more}
    headers = [(key.encode(), value.encode()) for key, value in dict(given.pop("headers", {})).items()]
    fields = [(b"Origin", origin if isinstance(origin, bytes) else origin.encode()) for origin in origins]
    answer = await http.request(method, path, headers=[*headers, *fields], **given)
    foreign_write = method == "POST" and path.startswith("/auth") and origins and origins[0] not in KNOWN
    assert answer.status_code == (403 if foreign_write and status != 431 else status), answer.text
    return answer


async def preflight(http: httpx.AsyncClient, path: str, origin: str | bytes, method: str = "POST") -> httpx.Response:
    headers = [
        (b"Origin", origin if isinstance(origin, bytes) else origin.encode()),
        (b"Access-Control-Request-Method", method.encode()),
        (b"Access-Control-Request-Headers", b"authorization,content-type,x-vestibule-csrf"),
    ]
    return await http.request("OPTIONS", path, headers=headers)


# Answers


@pytest.mark.standard("CK-10", "CK-33", "CK-34")
@pytest.mark.parametrize("origin", KNOWN)
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_known_origin_may_read_every_answer_good_or_bad(
    http: httpx.AsyncClient, name: str, origin: str
) -> None:
    answer = await ask(http, name, origin)

    assert answer.headers.get_list("access-control-allow-origin") == [origin]
    assert answer.headers.get_list("access-control-expose-headers") == [EXPOSED]
    assert "origin" in vary(answer)


@pytest.mark.standard("CK-10", "CK-33")
@pytest.mark.parametrize("name", ANSWERS)
async def test_cookies_may_come_along_where_they_are_used_and_nowhere_else(http: httpx.AsyncClient, name: str) -> None:
    answer = await ask(http, name, APP)

    below_auth = ANSWERS[name][1].startswith("/auth/")
    assert answer.headers.get_list("access-control-allow-credentials") == (["true"] if below_auth else [])


@pytest.mark.standard("CK-10", "CK-34")
@pytest.mark.parametrize("origin", LOOK_ALIKES)
async def test_an_origin_that_only_looks_alike_may_read_nothing(http: httpx.AsyncClient, origin: str | bytes) -> None:
    for name in ANSWERS:
        answer = await ask(http, name, origin)

        assert shared(answer) == {}
        assert "origin" in vary(answer)


@pytest.mark.standard("CK-10")
@pytest.mark.parametrize("origins", [(APP, "https://evil.example"), ("https://evil.example", APP), (APP, APP)])
async def test_several_origins_are_none(http: httpx.AsyncClient, origins: tuple[str, str]) -> None:
    answer = await ask(http, "a probe", *origins)

    assert shared(answer) == {}


@pytest.mark.standard("CK-34")
@pytest.mark.parametrize("name", ANSWERS)
async def test_answers_vary_by_origin_although_none_was_named(http: httpx.AsyncClient, name: str) -> None:
    answer = await ask(http, name)

    assert shared(answer) == {}
    assert "origin" in vary(answer)


@pytest.mark.standard("CK-33", "CK-10")
async def test_an_outage_can_be_read_by_a_known_origin(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, person: Person
) -> None:
    cut_off = msgspec.structs.replace(settings, redis_url=type(settings.redis_url)("redis://127.0.0.1:1/0"))
    async with worker(cut_off, wall_clock, outbox) as running, browser(create_app(running)) as http:
        answer = await http.post("/auth/login", json=person.credentials(), headers={"Origin": APP})

    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert shared(answer) == {
        "access-control-allow-origin": APP,
        "access-control-expose-headers": EXPOSED,
        "access-control-allow-credentials": "true",
    }


@pytest.mark.standard("CK-10", "CK-33")
@pytest.mark.parametrize("origin", [None, APP, "https://evil.example", "null"])
async def test_public_documents_are_for_every_page_and_without_cookies(
    http: httpx.AsyncClient, origin: str | None
) -> None:
    for path, status in (("/.well-known/jwks.json", 200), ("/.well-known/nothing", 404)):
        answer = await http.get(path, headers={"Origin": origin} if origin else {})
        assert answer.status_code == status
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]
        assert "access-control-allow-credentials" not in answer.headers
        assert "origin" not in vary(answer)


def test_a_vary_header_is_extended_and_never_doubled() -> None:
    origins = Origins(frozenset({b"https://app.test"}), frozenset)
    cases: dict[bytes, bytes] = {
        b"Accept-Language": b"Accept-Language, Origin",
        b"origin": b"origin",
        b"Accept, ORIGIN": b"Accept, ORIGIN",
        b"*": b"*",
        b"": b"Origin",
    }
    for before, after in cases.items():
        headers = origins.share([(b"vary", before), (b"etag", b"1")], "/me", None)
        assert sorted(headers) == [(b"etag", b"1"), (b"vary", after)]
    two = origins.share([(b"vary", b"Accept"), (b"Vary", b"Cookie")], "/me", None)
    assert two == [(b"vary", b"Accept, Cookie, Origin")]


# Preflights


@pytest.mark.standard("CK-33", "CK-10")
@pytest.mark.parametrize("origin", KNOWN)
@pytest.mark.parametrize("path", ["/auth/login", "/auth/refresh", "/me", "/me/sessions/x", "/users/x", "/nothing"])
async def test_a_known_origin_is_told_what_it_may_send(http: httpx.AsyncClient, path: str, origin: str) -> None:
    answer = await preflight(http, path, origin)

    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers
    assert shared(answer) == {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": EXPOSED,
        "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
        "access-control-allow-headers": "Authorization, Content-Type, X-Vestibule-CSRF, X-Request-Id",
        "access-control-max-age": "600",
        **({"access-control-allow-credentials": "true"} if path.startswith("/auth/") else {}),
    }
    assert "origin" in vary(answer)
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.standard("CK-10", "CK-17")
@pytest.mark.parametrize("origin", LOOK_ALIKES)
async def test_a_foreign_origin_is_told_nothing(http: httpx.AsyncClient, origin: str | bytes) -> None:
    for path in ("/auth/login", "/me", "/users/x", "/nothing", "/.well-knownish", "//auth//login"):
        answer = await preflight(http, path, origin)

        assert (answer.status_code, answer.content) == (204, b"")
        assert shared(answer) == {}
        assert "origin" in vary(answer)


@pytest.mark.standard("CK-33")
@pytest.mark.parametrize("origin", [APP, "https://evil.example", "null"])
async def test_public_documents_may_be_asked_for_with_any_header(http: httpx.AsyncClient, origin: str) -> None:
    answer = await preflight(http, "/.well-known/jwks.json", origin, "GET")

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": APP}, {"Access-Control-Request-Method": "POST"}, {"Access-Control-Request-Headers": "x"}]
)
async def test_an_options_request_that_is_no_preflight_is_the_applications(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await http.options("/auth/login", headers=headers)

    assert answer.status_code == 204
    assert {part.strip() for part in answer.headers["allow"].split(",")} == {"OPTIONS", "POST"}
    assert "access-control-allow-methods" not in answer.headers
    assert (await http.options("/nothing", headers=headers)).status_code == 404


@pytest.mark.standard("CK-19")
async def test_a_preflight_needs_no_body_and_no_host_of_ours_but_one_host(http: httpx.AsyncClient) -> None:
    headers = [("Host", "one.example"), ("Host", "two.example"), ("Origin", APP)]
    answer = await http.request("OPTIONS", "/me", headers=[*headers, ("Access-Control-Request-Method", "GET")])

    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == APP


# The settings


@pytest.mark.standard("CK-34", "CK-10")
@pytest.mark.parametrize("issuer", ["https://auth.test", "https://auth.test/tenant", "https://auth.test:8443/a/b"])
def test_our_own_origin_is_the_issuers_without_its_path(environ: dict[str, str], issuer: str) -> None:
    settings = load({**environ, "VESTIBULE_ISSUER": issuer, "VESTIBULE_ALLOWED_ORIGINS": ""})

    assert Origins.of(settings, frozenset).trusted == {"/".join(issuer.split("/")[:3]).encode()}

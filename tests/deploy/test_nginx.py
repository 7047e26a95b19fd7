"""nginx as in `deploy/reverse-proxy`: it lets living tokens in, nothing else, and hides slow clients from Vestibule."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.settings import Settings, load
from service.wiring import Services, build
from tests.conftest import ISSUER, Introspector, Outbox, Person, TestClock, shifted
from tests.deeds import session_of, with_account
from tests.deploy.proxies import (
    APPLICATION,
    CERTIFICATE,
    EXAMPLES,
    KEY,
    NGINX_MAIN,
    VESTIBULE,
    Answering,
    Application,
    Identity,
    Listener,
    binary,
    client,
    example,
    free_port,
    identity,
    listening,
    running,
)

NGINX = binary("nginx")
NJS = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
if NGINX is None or not NJS.exists():
    pytest.skip("nginx with njs (nginx-light, libnginx-mod-http-js) is not installed", allow_module_level=True)

FORGED = {"X-Auth-Subject": "somebody-else", "X-Auth-Scope": "all", "X-Auth-Roles": "admin", "x_auth_subject": "me"}


@dataclass(frozen=True)
class House:
    """One Vestibule, one application, and what it takes to put nginx in front of them."""

    vestibule: str
    saw: list[tuple[str, str, str]]
    application: Application
    nginx: Callable[..., AbstractContextManager[int]]
    identity: Identity

    def ask(self, port: int, host: str = "app.example.com") -> httpx.AsyncClient:
        return client(port, host, self.identity)


@pytest.fixture(scope="module")
def house(
    environ: dict[str, str],
    wall_clock: TestClock,
    outbox: Outbox,
    introspector: Introspector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    settings = load({**environ, "VESTIBULE_TRUSTED_PROXIES": "127.0.0.1"})
    seen = Listener(create_app(build(settings, clock=wall_clock, mail=lambda _: outbox, scripts=shifted)))
    application, certificate = Application(), identity(tmp_path_factory.mktemp("identity"))
    environment = {"VESTIBULE_CLIENT_ID": introspector.client_id, "VESTIBULE_CLIENT_SECRET": introspector.secret}
    with ExitStack() as stack:
        vestibule = stack.enter_context(listening(seen, settings))
        behind = stack.enter_context(listening(application, settings))

        @contextmanager
        def nginx(ask: str = vestibule, environ: dict[str, str] | None = None, **places: str) -> Iterator[int]:
            folder, port = tmp_path_factory.mktemp("nginx"), free_port()
            elsewhere = {
                "listen 443 ": f"listen 127.0.0.1:{port} ",
                VESTIBULE: ask,
                APPLICATION: behind,
                CERTIFICATE: str(certificate.certificate),
                KEY: str(certificate.key),
                "https://auth.example.com": ISSUER,
                "/run/nginx.pid": str(folder / "pid"),
                "/var/log/nginx/error.log": "stderr",
                "access_log /var/log/nginx/access.log;": "access_log off;" + temporary(folder),
            }
            written = example("nginx.conf", folder, {**elsewhere, **places})
            shutil.copy(EXAMPLES / "introspect.js", folder)
            command = [str(NGINX), "-p", str(folder), "-e", "stderr", "-c", str(written), "-g", NGINX_MAIN]
            with running(command, port, folder / "log", environment if environ is None else environ):
                yield port

        yield House(vestibule, seen.saw, application, nginx, certificate)


def temporary(folder: Path) -> str:
    """Where bodies wait, for an nginx that does not run as root."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)


@pytest.fixture(scope="module")
def port(house: House) -> Iterator[int]:
    with house.nginx() as running_on:
        yield running_on


@pytest.fixture
async def guarded(house: House, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """Asks for what is protected."""
    async with house.ask(port) as http:
        yield http


async def test_a_living_token_reaches_the_application_with_who_it_is(
    guarded: httpx.AsyncClient, services: Services, http: httpx.AsyncClient
) -> None:
    admin = await with_account(services, roles=("admin", "support"))
    signed_in = (await http.post("/auth/login", json=admin.credentials())).json()
    bearer = {"Authorization": f"Bearer {signed_in['access_token']}"}
    subject = (await http.get("/me", headers=bearer)).json()["id"]

    told = await guarded.get("/orders?page=2", headers={**bearer, **FORGED})

    assert told.status_code == 200, told.text
    assert "www-authenticate" not in told.headers
    assert x_auth(told) == [
        ["x-auth-subject", subject],
        ["x-auth-scope", signed_in["scope"]],
        ["x-auth-roles", "admin,support"],
    ]
    assert "authorization" not in dict(told.json())


async def test_what_is_forged_does_not_fill_what_is_empty(guarded: httpx.AsyncClient, person: Person) -> None:
    told = await guarded.get("/", headers={**person.headers, **FORGED})
    assert {name for name, _ in x_auth(told)} == {"x-auth-subject", "x-auth-scope"}
    assert not {value for _, value in told.json()} & set(FORGED.values())


@pytest.mark.parametrize("path", ["/", "//orders", "/%6frders", "/orders?access_token={token}"])
async def test_without_the_header_nobody_passes_and_the_challenge_says_bearer(
    house: House, guarded: httpx.AsyncClient, person: Person, path: str
) -> None:
    before = house.application.reached
    headers = {**FORGED, "Cookie": f"access_token={person.access_token}"}
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        answer = await guarded.request(method, path.replace("{token}", person.access_token), headers=headers)
        assert answer.status_code == 401
        assert answer.headers.get_list("www-authenticate") == ['Bearer realm="api"']
    assert house.application.reached == before


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer a b", "Bearer x&token=y", "Basic dTpw", "Token {token}", "{token}"]
)
async def test_another_scheme_is_no_token(house: House, guarded: httpx.AsyncClient, person: Person, value: str) -> None:
    before = house.application.reached
    answer = await guarded.get("/", headers={"Authorization": value.replace("{token}", person.access_token)})
    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == ['Bearer realm="api"']
    assert house.application.reached == before


async def test_a_sign_out_shows_at_the_very_next_request(
    house: House, guarded: httpx.AsyncClient, http: httpx.AsyncClient, person: Person
) -> None:
    assert (await guarded.get("/", headers=person.headers)).status_code == 200
    assert (await http.post("/auth/logout", json={"refresh_token": person.refresh_token})).status_code == 204
    before = house.application.reached

    answer = await guarded.get("/", headers=person.headers)

    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == ['Bearer realm="api", error="invalid_token"']
    assert house.application.reached == before


async def test_the_inner_paths_are_nobodys(guarded: httpx.AsyncClient, person: Person) -> None:
    for path in ("/_vestibule/check", "/_vestibule/introspect"):
        assert (await guarded.get(path, headers=person.headers)).status_code == 404
        assert (await guarded.post(path, headers=person.headers, content=b"token=x")).status_code == 404


async def test_refusals_and_failures_of_the_application_are_its_own(
    house: House, guarded: httpx.AsyncClient, person: Person
) -> None:
    try:
        for status in (401, 403, 500, 503):
            house.application.status = status
            answer = await guarded.get("/", headers=person.headers)
            assert (answer.status_code, answer.json() != []) == (status, True)
    finally:
        house.application.status = 200


async def test_a_token_for_another_audience_is_refused(house: House, person: Person) -> None:
    before = house.application.reached
    with house.nginx(**{"https://auth.example.com": "https://auth.tes"}) as port:
        async with house.ask(port) as other:
            answer = await other.get("/", headers=person.headers)
    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == ['Bearer realm="api", error="invalid_token"']
    assert house.application.reached == before


async def test_a_role_can_be_asked_for(house: House, services: Services, person: Person) -> None:
    boss = await with_account(services, roles=("support",))
    signed_in = await session_of(create_app(services), boss)
    before = house.application.reached
    with house.nginx(**{'$vestibule_role ""': "$vestibule_role support"}) as port:
        async with house.ask(port) as strict:
            refused = await strict.get("/", headers=person.headers)
            assert house.application.reached == before
            passed = await strict.get("/", headers=signed_in)
    assert refused.status_code == 403
    assert refused.headers.get_list("www-authenticate") == ['Bearer realm="api", error="insufficient_scope"']
    assert passed.status_code == 200


async def is_an_outage(house: House, port: int, person: Person) -> None:
    before = house.application.reached
    async with house.ask(port) as http:
        answer = await http.get("/", headers=person.headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "www-authenticate" not in answer.headers
    assert house.application.reached == before


async def test_without_vestibule_nobody_passes_and_nobody_is_signed_out(house: House, person: Person) -> None:
    with house.nginx(ask=f"127.0.0.1:{free_port()}") as port:
        await is_an_outage(house, port, person)


@pytest.fixture(scope="module")
def stand_in(house: House, settings: Settings) -> Iterator[tuple[Answering, int]]:
    """nginx before something that answers what a test wants, in the place of Vestibule."""
    answering = Answering()
    with listening(answering, settings) as vestibule, house.nginx(ask=vestibule) as port:
        yield answering, port


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b'{"error":"temporarily_unavailable"}'),
        (500, b""),
        (401, b'{"error":"invalid_client"}'),
        (403, b'{"active":true,"sub":"x","aud":"https://auth.test"}'),
        (204, b""),
        (302, b""),
        (200, b"<html>"),
        (200, b"null"),
        (200, b"{}"),
        (200, b'{"active":"true","sub":"x","aud":"https://auth.test"}'),
        (200, b'{"active":true,"aud":"https://auth.test"}'),
    ],
    ids=lambda value: None if isinstance(value, int) else value[:20].decode() or "nothing",
)
async def test_an_answer_that_is_none_is_an_outage(
    house: House, stand_in: tuple[Answering, int], person: Person, status: int, body: bytes
) -> None:
    answering, port = stand_in
    answering.status, answering.body = status, body
    await is_an_outage(house, port, person)


async def test_a_dead_token_is_dead_whatever_else_is_said_of_it(
    house: House, stand_in: tuple[Answering, int], person: Person
) -> None:
    answering, port = stand_in
    answering.status, answering.body = 200, b'{"active":false,"sub":"x","aud":"https://auth.test"}'
    before = house.application.reached
    async with house.ask(port) as http:
        assert (await http.get("/", headers=person.headers)).status_code == 401
    assert house.application.reached == before


@pytest.mark.parametrize("client", [{}, {"VESTIBULE_CLIENT_ID": "nobody", "VESTIBULE_CLIENT_SECRET": "wrong"}])
async def test_without_the_right_secret_nobody_passes(house: House, person: Person, client: dict[str, str]) -> None:
    with house.nginx(environ=client) as port:
        await is_an_outage(house, port, person)


# In front of Vestibule itself


async def test_vestibule_sees_who_called_and_that_it_was_https(house: House, port: int) -> None:
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"}
    async with house.ask(port, "auth.example.com") as http:
        answer = await http.get("/livez", headers=forged)
    assert answer.status_code == 200
    assert house.saw[-1] == ("127.0.0.1", "https", "/livez")


async def test_paths_and_refusals_go_through_as_they_are(house: House, port: int, person: Person) -> None:
    async with house.ask(port, "auth.example.com") as http:
        for path in ("/me", "//me", "/%6de"):
            through = await http.get(f"https://127.0.0.1:{port}{path}")
            assert (through.status_code, through.headers["www-authenticate"]) == (401, 'Bearer realm="api"')
            assert house.saw[-1][2] == path
        picture = {"file": ("a.png", b"x" * (2 * 1024 * 1024 + 1), "image/png")}
        too_large = await http.put("/me/avatar", files=picture, headers=person.headers)
    assert too_large.status_code == 413
    assert too_large.headers["content-type"] == "application/problem+json"


async def test_whoever_does_not_finish_header_or_body_is_sent_away(house: House, port: int) -> None:
    host = b"Host: auth.example.com\r\n"
    form = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    before = len(house.saw)

    took = await asyncio.gather(
        until_closed(house, port, b"GET /livez HTTP/1.1\r\n" + host),
        until_closed(house, port, b"POST /auth/login HTTP/1.1\r\n" + host + form + b'{"'),
    )

    assert all(4 < seconds < 30 for seconds in took), took
    assert len(house.saw) == before


async def until_closed(house: House, port: int, said: bytes) -> float:
    """Says the beginning of a request and no more; how long the proxy waits for the rest, in seconds."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=house.identity.trust())
    writer.write(said)
    async with asyncio.timeout(40):
        assert b"200 OK" not in await reader.read()
    writer.close()
    return time.monotonic() - began


def x_auth(told: httpx.Response) -> list[list[str]]:
    """The headers about the person that reached the application."""
    headers: list[list[str]] = json.loads(told.text)
    return [[name, value] for name, value in headers if name.replace("_", "-").startswith("x-auth-")]

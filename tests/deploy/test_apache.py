"""Apache httpd as in `deploy/reverse-proxy`: by introspection, and by the signature alone."""

import base64
import os
import secrets
import tempfile
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
from tests.deeds import with_account
from tests.deploy.proxies import (
    APPLICATION,
    CERTIFICATE,
    KEY,
    Answering,
    Application,
    Identity,
    binary,
    client,
    example,
    free_port,
    identity,
    listening,
    running,
)

HTTPD = binary("apache2")
MODULES = Path("/usr/lib/apache2/modules")
if HTTPD is None or not (MODULES / "mod_auth_openidc.so").exists():
    pytest.skip(
        "httpd with mod_auth_openidc (apache2, libapache2-mod-auth-openidc) is not installed", allow_module_level=True
    )

LOADED = (
    *("mpm_event", "authn_core", "authz_core", "auth_openidc", "headers"),
    *("macro", "proxy", "proxy_http", "reqtimeout", "ssl"),
)
INTROSPECTED, VERIFIED = "app.example.com", "report.example.com"
HOSTS = (INTROSPECTED, VERIFIED)
BOTH = pytest.mark.parametrize("host", HOSTS)
NAMES = ("Subject", "Scope", "Roles", "Aud", "Other")
METHODS = ("GET", "POST", "HEAD", "OPTIONS")
FORGED = {name: "forged" for name in (*(f"X-Auth-{name}" for name in NAMES), "X-Forwarded-For")}
FORGED_ALIKE = {f"x_auth_{name}": "forged" for name in NAMES}
NO_ANSWERS = (
    (503, b'{"error":"temporarily_unavailable"}'),
    (500, b""),
    (401, b'{"error":"invalid_client"}'),
    (200, b"<html>"),
    (200, b"null"),
    (200, b"{}"),
    (200, b'{"active":true}'),
)


@dataclass(frozen=True)
class House:
    """One Vestibule, one application, and what it takes to put httpd in front of the application."""

    application: Application
    httpd: Callable[..., AbstractContextManager[int]]
    identity: Identity

    def ask(self, port: int, host: str) -> httpx.AsyncClient:
        return client(port, host, self.identity)


@pytest.fixture(scope="module")
def house(
    environ: dict[str, str],
    wall_clock: TestClock,
    outbox: Outbox,
    introspector: Introspector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    settings = load(environ)
    real = create_app(build(settings, clock=wall_clock, mail=lambda _: outbox, scripts=shifted))
    application = Application()
    environment = {"VESTIBULE_CLIENT_ID": introspector.client_id, "VESTIBULE_CLIENT_SECRET": introspector.secret}
    with ExitStack() as stack:
        certificate = identity(stack.enter_context(readable_folder()))
        vestibule = stack.enter_context(listening(real, settings, certificate))
        behind = stack.enter_context(listening(application, settings))

        @contextmanager
        def httpd(ask: str = vestibule, **places: str) -> Iterator[int]:
            folder, port = tmp_path_factory.mktemp("httpd"), free_port()
            elsewhere = {
                "*:443": f"*:{port}",
                "https://auth.example.com/": f"https://{ask}/",
                APPLICATION: behind,
                CERTIFICATE: str(certificate.certificate),
                KEY: str(certificate.key),
                "https://auth.example.com": ISSUER,
                "/etc/ssl/certs/ca-certificates.crt": str(certificate.certificate),
            }
            around = folder / "httpd.conf"
            around.write_text(whole(folder, port, example("apache.conf", folder, {**places, **elsewhere, **places})))
            command = [str(HTTPD), "-D", "FOREGROUND", "-d", str(folder), "-f", str(around)]
            with running(command, port, folder / "log", environment):
                yield port

        yield House(application, httpd, certificate)


@contextmanager
def readable_folder() -> Iterator[Path]:
    """One that the workers of httpd can read, whoever they are."""
    with tempfile.TemporaryDirectory(prefix="vestibule-httpd-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def whole(folder: Path, port: int, written: Path) -> str:
    """What Debian has around the example: modules, port, user, log.

    And a cache that would hold tokens of this length if the example did not keep the module from using it.
    """
    modules = [f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in LOADED]
    user = ["User www-data", "Group www-data"] if os.geteuid() == 0 else []
    cache = ["OIDCCacheEncrypt On", f"OIDCCryptoPassphrase {secrets.token_hex(16)}"]
    places = [f"Listen 127.0.0.1:{port}", f"PidFile {folder}/pid", f"DefaultRuntimeDir {folder}"]
    rest = ["ServerName localhost", "ErrorLog /dev/stderr", f"Include {written}", ""]
    return "\n".join([*modules, *user, *cache, *places, *rest])


@pytest.fixture(scope="module")
def port(house: House) -> Iterator[int]:
    with house.httpd() as running_on:
        yield running_on


@pytest.fixture
async def guarded(house: House, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """Asks for what needs an introspected token, unless another host is named."""
    async with house.ask(port, INTROSPECTED) as http:
        yield http


def assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 401
    (challenge,) = answer.headers.get_list("www-authenticate")
    assert challenge.startswith('Bearer realm="api"')


@BOTH
async def test_a_living_token_reaches_the_application_with_who_it_is(
    guarded: httpx.AsyncClient, services: Services, http: httpx.AsyncClient, host: str
) -> None:
    admin = await with_account(services, roles=("admin", "support"))
    signed_in = (await http.post("/auth/login", json=admin.credentials())).json()
    bearer = {"Authorization": f"Bearer {signed_in['access_token']}"}
    subject = (await http.get("/me", headers=bearer)).json()["id"]

    answer = await guarded.get("/orders", headers={**bearer, **FORGED, **FORGED_ALIKE, "Host": host})

    assert answer.status_code == 200, answer.text
    assert "www-authenticate" not in answer.headers
    headers = [(name.lower(), value) for name, value in answer.json()]
    told = dict(headers)
    assert len(told) == len(headers)
    assert told["x-auth-subject"] == subject
    assert told["x-auth-scope"] == signed_in["scope"]
    assert told["x-auth-roles"] == "admin,support"
    assert "forged" not in told.values()
    assert not [value for value in told.values() if signed_in["access_token"] in value]


@BOTH
async def test_what_is_forged_does_not_fill_what_is_empty(
    guarded: httpx.AsyncClient, person: Person, host: str
) -> None:
    answer = await guarded.get("/", headers={**person.headers, **FORGED, **FORGED_ALIKE, "Host": host})
    assert answer.status_code == 200
    assert "forged" not in {value for _, value in answer.json()}


@BOTH
@pytest.mark.parametrize("path", ["/", "//orders", "/%6frders", "/orders?access_token={token}"])
async def test_without_the_header_nobody_passes_and_the_challenge_says_bearer(
    house: House, guarded: httpx.AsyncClient, person: Person, host: str, path: str
) -> None:
    before = house.application.reached
    headers = {**FORGED, "Cookie": f"access_token={person.access_token}", "Host": host}
    for method in METHODS:
        assert_refused(await guarded.request(method, path.replace("{token}", person.access_token), headers=headers))
    assert house.application.reached == before


@BOTH
@pytest.mark.parametrize("value", ["Bearer", "Bearer x", "Bearer x&token=y", "Basic dTpw", "{broken}", "{unsigned}"])
async def test_what_is_no_token_of_ours_is_refused(
    house: House, guarded: httpx.AsyncClient, person: Person, host: str, value: str
) -> None:
    head, claims, signature = person.access_token.split(".")
    broken = f"Bearer {head}.{claims}.{signature[::-1]}"
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').decode().rstrip("=")
    presented = value.replace("{broken}", broken).replace("{unsigned}", f"Bearer {none}.{claims}.")
    before = house.application.reached
    for method in METHODS:
        assert_refused(await guarded.request(method, "/", headers={"Authorization": presented, "Host": host}))
    assert house.application.reached == before


async def test_a_sign_out_shows_at_the_very_next_request(
    house: House, guarded: httpx.AsyncClient, http: httpx.AsyncClient, person: Person
) -> None:
    assert (await guarded.get("/", headers=person.headers)).status_code == 200
    assert (await http.post("/auth/logout", json={"refresh_token": person.refresh_token})).status_code == 204
    before = house.application.reached

    answer = await guarded.get("/", headers=person.headers)

    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert house.application.reached == before


async def test_the_signature_alone_knows_nothing_of_a_sign_out(
    guarded: httpx.AsyncClient, http: httpx.AsyncClient, person: Person
) -> None:
    assert (await http.post("/auth/logout", json={"refresh_token": person.refresh_token})).status_code == 204
    assert (await guarded.get("/", headers={**person.headers, "Host": VERIFIED})).status_code == 200


@pytest.mark.parametrize("claim", ["aud", "iss"])
async def test_a_token_for_another_audience_or_of_another_issuer_is_refused(
    house: House, person: Person, claim: str
) -> None:
    before = house.application.reached
    with house.httpd(**{f"{claim}:https://auth.example.com": f"{claim}:https://other.example.com"}) as port:
        async with house.ask(port, INTROSPECTED) as http:
            answers = [await http.get("/", headers={**person.headers, "Host": host}) for host in HOSTS]
    for answer in answers:
        assert answer.status_code == 403
        assert answer.headers["www-authenticate"].startswith('Bearer error="insufficient_scope"')
    assert house.application.reached == before


async def test_without_vestibule_nobody_passes(house: House, person: Person) -> None:
    """The module says 401, as if the token were dead: README.md tells."""
    before = house.application.reached
    with house.httpd(ask=f"127.0.0.1:{free_port()}") as port:
        async with house.ask(port, INTROSPECTED) as http:
            answers = [await http.get("/", headers={**person.headers, "Host": host}) for host in HOSTS]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert house.application.reached == before


async def test_an_answer_that_is_none_lets_nobody_pass(house: House, settings: Settings, person: Person) -> None:
    before, answering = house.application.reached, Answering()
    with listening(answering, settings, house.identity) as vestibule, house.httpd(ask=vestibule) as port:
        async with house.ask(port, INTROSPECTED) as http:
            for answering.status, answering.body in NO_ANSWERS:
                answer = await http.get("/", headers=person.headers)
                assert 400 <= answer.status_code < 600, answering
    assert house.application.reached == before

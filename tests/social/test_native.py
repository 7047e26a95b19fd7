"""Native apps: a code at their own redirect URI is a sign-in, and nothing else is (RFC 8252, RFC 9700)."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from litestar import Litestar

from service.app import create_app
from service.fake_provider.provider import FakeProvider
from service.setting_values import LOOPBACK as LOOPBACK_HOSTS
from service.setting_values import Rate
from service.settings import Settings
from service.tokens.client_rules import is_native_redirect
from service.wiring import Services
from tests.conftest import ISSUER, Introspector, Outbox, TestClock, browser, sign_up, worker
from tests.deeds import is_in, registered
from tests.fake_provider.visiting import PROVIDERS
from tests.oauth.acting import account_of
from tests.social.acting import Stranger, begun, decided, error_of, known_as, me, query_of, signed_in, through
from tests.social.native_apps import (
    FOREIGN,
    LOOPBACK,
    LOOPBACK_6,
    NAMED,
    OWN_SCHEME,
    REGISTERED,
    App,
    assert_refused,
    granted,
)

NOT_ALLOWED = ("redirect_uri", "redirect_uri_not_allowed")
COOKIE_HEADERS = {"X-Vestibule-CSRF": "1", "Origin": ISSUER}
REFRESH_COOKIE = "__Host-vestibule-refresh"


@pytest.fixture(scope="session")
async def client_id(services: Services) -> str:
    """A front end with redirect URIs of its own."""
    name = f"app-{secrets.token_hex(6)}"
    await registered(services, name, confidential=False, redirect_uris=list(REGISTERED))
    return name


@pytest.fixture
def device(http: httpx.AsyncClient, abroad: httpx.AsyncClient, client_id: str) -> App:
    return App(http, abroad, client_id)


@pytest.mark.standard("SO-15")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_app_signs_somebody_in_at_each_provider_and_again(
    device: App, introspector: Introspector, provider: str
) -> None:
    who = Stranger()
    tokens = granted(await (await device.begin(provider, who)).exchange())
    account = await me(device.http, {"Authorization": f"Bearer {tokens['access_token']}"})
    assert (account["email"], account["nickname"]) == (who.email, who.username)
    told = await introspector.ask(device.http, tokens["access_token"])
    assert (told["sub"], told["client_id"], told["amr"]) == (account["id"], device.client_id, ["fed"])
    refresh = {"refresh_token": tokens["refresh_token"], "client_id": device.client_id}
    renewed = await device.http.post("/auth/refresh", json=refresh)
    assert renewed.status_code == 200, renewed.text

    again = granted(await (await device.begin(provider, who)).exchange())
    assert account_of(again["access_token"]) == account_of(tokens["access_token"])


async def test_it_is_called_back_at_its_scheme_or_at_loopback_with_any_port(device: App) -> None:
    who = Stranger()
    ports = (f"http://127.0.0.1:{port}/cb" for port in (1, 49152, 65535))
    for uri in (OWN_SCHEME, LOOPBACK, *ports, LOOPBACK_6, "http://[::1]:51004/cb", NAMED):
        granted(await (await device.begin("openid", who, redirect_uri=uri)).exchange())


@pytest.mark.standard("SO-02")
async def test_every_other_place_is_refused_before_the_provider_is_asked(
    device: App, fake_provider: FakeProvider
) -> None:
    attempt = await device.begin("openid", Stranger())
    before = list(fake_provider.requests)
    for what, uri in FOREIGN.items():
        answer = await attempt.exchange(redirect_uri=uri)
        assert answer.status_code == 400, what
        assert_refused(answer, 400, "invalid_input", NOT_ALLOWED)
    assert fake_provider.requests == before
    granted(await attempt.exchange())


@pytest.mark.standard("SO-02")
async def test_a_client_without_redirect_uris_has_no_apps(device: App) -> None:
    attempt = await device.begin("openid", Stranger())
    assert_refused(await attempt.exchange(client_id=None), 400, "invalid_input", NOT_ALLOWED)
    assert_refused(await attempt.exchange(client_id="web"), 400, "invalid_input", NOT_ALLOWED)


@examples(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from(["http", "https", "com.example.app", "HTTP"]),
    st.sampled_from(["127.0.0.1", "[::1]", "localhost", "127.0.0.1.evil.example", "evil.example", "::1", ""]),
    st.text("0123456789:@/\\ é", max_size=7),
    st.sampled_from(["/cb", "/callback", "/other", "", "/cb?x=1", "/cb#x", "//cb", "/cb/.."]),
)
def test_what_is_allowed_is_registered_but_for_the_port_of_a_loopback_address(
    scheme: str, host: str, between: str, path: str
) -> None:
    uri = f"{scheme}://{host}{between}{path}"
    if is_native_redirect(uri, REGISTERED) and uri not in REGISTERED:
        parts = urlsplit(uri)
        assert (parts.scheme, parts.path, parts.query, parts.fragment) == ("http", "/cb", "", "")
        assert parts.hostname in LOOPBACK_HOSTS - {"localhost"}
        assert parts.username is None


@pytest.mark.standard("SO-15", "SO-02")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_code_is_good_once_and_with_its_own_verifier_and_place(device: App, provider: str) -> None:
    who = Stranger()
    wrongs: tuple[dict[str, Any], ...] = (
        {"code_verifier": secrets.token_urlsafe(48)},
        {"redirect_uri": "http://127.0.0.1:5000/cb"},
        {"code": "of nobody"},
    )
    for wrong in wrongs:
        attempt = await device.begin(provider, who)
        assert_refused(await attempt.exchange(**wrong), 400, "invalid_or_expired_code")
    attempt = await device.begin(provider, who)
    answers = await asyncio.gather(*(attempt.exchange() for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400, 400]
    assert_refused(await attempt.exchange(), 400, "invalid_or_expired_code")


@pytest.mark.standard("SO-15")
async def test_a_verifier_has_43_to_128_unreserved_characters(device: App, fake_provider: FakeProvider) -> None:
    attempt = await device.begin("openid", Stranger())
    before = list(fake_provider.requests)
    for verifier in ("", "a" * 42, "a" * 42 + " ", "a" * 43 + "\n", "a" * 42 + "+", "é" * 43, "a" * 42 + "="):
        answer = await attempt.exchange(code_verifier=verifier)
        assert_refused(answer, 400, "invalid_input", ("code_verifier", "code_verifier_invalid"))
    assert (await attempt.exchange(code_verifier="a" * 129)).status_code == 400
    assert fake_provider.requests == before
    for fine in ("b" * 43, "a-._~Z9b" * 16):
        granted(await (await device.begin("openid", Stranger(), verifier=fine)).exchange())


@pytest.mark.standard("SO-02")
async def test_a_code_of_the_web_flow_is_none_of_an_app_and_the_other_way_round(
    app: Litestar, device: App, abroad: httpx.AsyncClient
) -> None:
    attempt = await device.begin("openid", Stranger())
    async with browser(app) as http:
        location = await decided(abroad, await begun(http, "openid"), Stranger())
        stolen = query_of(location)["code"]
        assert_refused(await attempt.exchange(code=stolen), 400, "invalid_or_expired_code")

        location = await decided(abroad, await begun(http, "openid"), Stranger())
        own = query_of(location)
        answer = await http.get("/auth/social/openid/callback", params={**own, "code": attempt.code})
        assert error_of(answer) == "invalid_or_expired_code"


async def test_a_code_of_one_provider_is_none_of_another(device: App) -> None:
    for given_by, shown_to in (("openid", "discord"), ("github", "openid"), ("discord", "github")):
        attempt = await device.begin(given_by, Stranger())
        attempt.provider = shown_to
        assert_refused(await attempt.exchange(), 400, "invalid_or_expired_code")


@pytest.mark.standard("SO-05")
async def test_the_nonce_is_the_one_that_was_asked_for_or_there_is_none(device: App) -> None:
    for asked, shown in (("first", "second"), ("first", None), ("", "second"), ("first", "")):
        attempt = await device.begin("openid", Stranger(), nonce=asked)
        assert_refused(await attempt.exchange(nonce=shown), 502, "provider_answer_invalid")
    granted(await (await device.begin("openid", Stranger(), nonce="")).exchange())
    for fault in ("no_nonce", "wrong_nonce"):
        attempt = await device.begin("openid", Stranger(), choice={"fault": fault})
        assert_refused(await attempt.exchange(), 502, "provider_answer_invalid")


async def test_who_is_not_there_is_told_so(services: Services, device: App) -> None:
    attempt = await device.begin("openid", Stranger())
    confidential, disabled = f"svc-{secrets.token_hex(6)}", f"app-{secrets.token_hex(6)}"
    await registered(services, confidential, redirect_uris=[OWN_SCHEME])
    await registered(services, disabled, confidential=False, redirect_uris=[OWN_SCHEME])
    await services.client_administration.set_disabled(disabled, True)
    for name in ("nobody", confidential, disabled):
        assert_refused(await attempt.exchange(client_id=name), 400, "unknown_client")
    attempt.provider = "facebook"
    assert_refused(await attempt.exchange(), 404, "not_found")


@pytest.mark.parametrize("body", [{"code": None}, {"code": ""}, {"code": "x" * 4097}, {"code": 1}, {"state": "x"}])
async def test_a_body_that_is_none_is_refused(device: App, body: dict[str, Any]) -> None:
    answer = await (await device.begin("openid", Stranger())).exchange(**body)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.standard("SO-21", "SO-22")
async def test_an_account_with_the_address_is_never_entered_by_it(
    device: App, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(device.http, services, outbox)
    answer = await (await device.begin("github", known_as(person))).exchange()
    assert_refused(answer, 409, "account_link_required")
    unproved = Stranger(email_verified="false")
    assert_refused(await (await device.begin("discord", unproved)).exchange(), 403, "provider_email_unverified")
    nowhere = await device.begin("openid", Stranger(), choice={"email": ""})
    assert_refused(await nowhere.exchange(), 403, "provider_email_missing")


async def test_a_disabled_account_stays_out(device: App, services: Services) -> None:
    who = Stranger()
    tokens = granted(await (await device.begin("openid", who)).exchange())
    account = account_of(tokens["access_token"])
    await services.administration.disable(account)
    assert_refused(await (await device.begin("openid", who)).exchange(), 403, "account_disabled")
    assert list(await services.sessions.live(account)) == []
    await services.administration.enable(account)
    assert not await is_in(device.http, {"Authorization": f"Bearer {tokens['access_token']}"})
    granted(await (await device.begin("openid", who)).exchange())


FAULTS = {
    "openid": ("token_500", "token_rubbish", "token_redirect", "profile_only", "unsigned", "unknown_key"),
    "discord": ("token_500", "token_list", "profile_500", "profile_unauthorized", "no_subject"),
    "github": ("token_500", "token_without_token", "profile_rubbish", "profile_redirect"),
}


@pytest.mark.standard("SO-11", "SO-20")
@pytest.mark.parametrize("provider", FAULTS)
async def test_a_provider_that_fails_is_told_apart_and_nobody_gets_in(device: App, provider: str) -> None:
    for fault in FAULTS[provider]:
        who = Stranger()
        answer = await (await device.begin(provider, who, choice={"fault": fault})).exchange()
        if fault == "profile_only":  # that is no failure: the address stands elsewhere
            granted(answer)
            continue
        is_lie = fault in {"unsigned", "unknown_key"}
        assert_refused(answer, 502, "provider_answer_invalid" if is_lie else "provider_unavailable")
        granted(await (await device.begin(provider, who)).exchange())


async def test_a_code_that_the_provider_refuses_is_the_apps_fault(device: App) -> None:
    for provider in PROVIDERS:
        attempt = await device.begin(provider, Stranger(), choice={"fault": "token_refused"})
        assert_refused(await attempt.exchange(), 400, "invalid_or_expired_code")


@pytest.mark.standard("CK-04", "CK-07")
async def test_with_cookie_transport_the_refresh_token_is_no_part_of_the_body(device: App) -> None:
    attempt = await device.begin("openid", Stranger())
    for headers in (
        {},
        {"X-Vestibule-CSRF": "1"},
        {"Origin": ISSUER},
        {**COOKIE_HEADERS, "Origin": "https://evil.example"},
        {**COOKIE_HEADERS, "Sec-Fetch-Site": "cross-site"},
    ):
        answer = await attempt.exchange(headers=headers, transport="cookie")
        assert_refused(answer, 403, "cross_site_refused")
    answer = await attempt.exchange(headers=COOKIE_HEADERS, transport="cookie")
    assert answer.status_code == 200, answer.text
    assert "refresh_token" not in answer.json()
    assert answer.cookies[REFRESH_COOKIE].startswith("vrt_")
    renewed = await device.http.post("/auth/refresh", json={"client_id": device.client_id}, headers=COOKIE_HEADERS)
    assert renewed.status_code == 200, renewed.text


async def test_a_page_of_a_foreign_origin_cannot_exchange_a_code(device: App) -> None:
    attempt = await device.begin("openid", Stranger())
    assert_refused(await attempt.exchange(headers={"Origin": "https://evil.example"}), 403, "cross_site_refused")
    granted(await attempt.exchange())


async def test_a_new_session_in_the_cookie_ends_the_one_that_was_there(app: Litestar, device: App) -> None:
    who = Stranger()
    first = await signed_in(device.http, await through(device.http, device.abroad, "openid", who))
    attempt = await device.begin("openid", who)
    answer = await attempt.exchange(headers=COOKIE_HEADERS, transport="cookie")
    assert answer.status_code == 200, answer.text
    assert not await is_in(device.http, first)


@pytest.fixture
async def strict(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, way_abroad: httpx.AsyncBaseTransport
) -> AsyncIterator[Litestar]:
    """A worker that lets three sign-ins a network begin or end."""
    small = msgspec.structs.replace(settings, limit_social_network=Rate(3, 600))
    async with worker(small, wall_clock, outbox, way_abroad) as own:
        yield create_app(own)


async def test_a_network_has_so_many_sign_ins_and_no_more(
    strict: Litestar, fake_provider: FakeProvider, device: App
) -> None:
    attempt = await device.begin("openid", Stranger())
    async with browser(strict) as http, browser(strict) as elsewhere:
        attempt.app = App(http, device.abroad, device.client_id)
        for _ in range(3):
            assert_refused(await attempt.exchange(code="of nobody"), 400, "invalid_or_expired_code")
        asked = len(fake_provider.requests)
        refused = await attempt.exchange()
        assert_refused(refused, 429, "too_many_requests")
        assert 0 < int(refused.headers["retry-after"]) <= 600
        assert (await http.get("/auth/social/openid")).status_code == 429
        assert len(fake_provider.requests) == asked
        attempt.app = App(elsewhere, device.abroad, device.client_id)
        granted(await attempt.exchange())

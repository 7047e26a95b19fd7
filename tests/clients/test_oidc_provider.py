"""Sign-in through npm's `oidc-provider`: the whole way over TCP, at providers that nobody here wrote."""

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from service.crypto.pkce import challenge_of
from service.store.schema import migrate
from tests.clients.abroad import APP, CLIENT, Abroad, Traveller, browsing, going_abroad, told_in
from tests.clients.packages import IS_THERE, with_packages
from tests.clients.server import Running, running
from tests.conftest import Outbox, Servers, TestClock, _own_database
from tests.deeds import with_account
from tests.oauth.acting import new_front_end, new_service

if not IS_THERE:
    pytest.skip("the provider of npm needs `node` and `npm`", allow_module_level=True)

REFRESH_COOKIE = "__Host-vestibule-refresh"


@pytest.fixture(scope="session")
async def abroad(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Abroad]:
    async with going_abroad(with_packages(tmp_path_factory.mktemp("abroad"))) as found:
        yield found


@pytest.fixture(scope="session")
def database_here(servers: Servers) -> Iterator[str]:
    with _own_database(servers.database_url) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="session")
async def here(
    abroad: Abroad, environ: dict[str, str], database_here: str, wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Running]:
    """The service over TCP, with these providers alone."""
    own = {name: value for name, value in environ.items() if not name.startswith("VESTIBULE_PROVIDER_")}
    busy = {
        "VESTIBULE_PROVIDER_TIMEOUT": "30",
        "VESTIBULE_LIMIT_REGISTER_NETWORK": "1000/h",
        "VESTIBULE_LIMIT_SOCIAL_NETWORK": "1000/m",
    }
    async with running(own, database_here, wall_clock, outbox, **busy, **abroad.environ()) as found:
        await abroad.register(found)
        yield found


@pytest.fixture
async def traveller(here: Running) -> AsyncIterator[Traveller]:
    async with browsing() as http:
        yield Traveller(http, here)


@pytest.fixture
async def another(here: Running) -> AsyncIterator[Traveller]:
    """Somebody else, at another browser."""
    async with browsing() as http:
        yield Traveller(http, here)


def error_of(answer: httpx.Response, at: Running) -> str:
    """The error with which a callback ends, on our own page; empty when it went well."""
    assert answer.status_code == 303, answer.text
    location = urlsplit(answer.headers["location"])
    assert location._replace(query="").geturl() == f"{at.issuer}/auth/done"
    return dict(parse_qsl(location.query)).get("error", "")


async def signed_in(who: Traveller, answer: httpx.Response) -> dict[str, str]:
    """The bearer header of whoever came back, by the cookie that their browser keeps."""
    assert error_of(answer, who.at) == ""
    csrf = {"X-Vestibule-CSRF": "1", "Origin": who.at.issuer}
    renewed = await who.http.post(f"{who.at.issuer}/auth/refresh", json={}, headers=csrf)
    assert renewed.status_code == 200, renewed.text
    assert "refresh_token" not in renewed.json()
    return {"Authorization": f"Bearer {renewed.json()['access_token']}"}


async def account(who: Traveller, headers: dict[str, str]) -> dict[str, Any]:
    answer = await who.http.get(f"{who.at.issuer}/me", headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def introspected(at: Running, headers: dict[str, str]) -> dict[str, Any]:
    """What a resource hears of an access token."""
    service = await new_service(at.services)
    async with httpx.AsyncClient(base_url=at.issuer) as http:
        return await service.told(http, headers["Authorization"].removeprefix("Bearer "))


@pytest.mark.standard("SO-15")
@pytest.mark.parametrize("provider", ["basic", "posting", "apps"])
async def test_somebody_goes_the_whole_way_and_is_known_the_next_time(
    traveller: Traveller, another: Traveller, here: Running, provider: str
) -> None:
    headers = await signed_in(traveller, await traveller.sign_in(provider))
    assert traveller.prompts == ["login", "consent"]
    first = await account(traveller, headers)
    assert (first["email"], first["nickname"]) == (f"{traveller.login}@example.net", traveller.login)
    told = await introspected(here, headers)
    assert (told["active"], told["sub"], told["amr"], told["iss"]) == (True, first["id"], ["fed"], here.issuer)

    await signed_in(traveller, await traveller.sign_in(provider))  # the provider knows them by its own cookie
    assert traveller.prompts.count("login") == 1
    another.login = traveller.login
    again = await account(another, await signed_in(another, await another.sign_in(provider)))
    assert again["id"] == first["id"]


async def test_a_secret_may_have_any_character_of_ascii(traveller: Traveller) -> None:
    """In HTTP Basic it is form-encoded first (RFC 6749 section 2.3.1)."""
    await signed_in(traveller, await traveller.sign_in("odd"))


async def test_the_address_comes_from_userinfo_where_the_id_token_has_none(
    traveller: Traveller, another: Traveller, abroad: Abroad
) -> None:
    before = (await abroad.seen("basic")).count("GET /me")
    await signed_in(traveller, await traveller.sign_in("basic"))
    assert (await abroad.seen("basic")).count("GET /me") == before + 1

    await signed_in(another, await another.sign_in("posting"))
    assert "GET /me" not in await abroad.seen("posting")


@pytest.mark.standard("SO-03", "SO-14")
async def test_its_answer_names_it_and_counts_with_that_name_alone(
    traveller: Traveller, abroad: Abroad, here: Running
) -> None:
    for wrong in (abroad.issuers["posting"], f"{abroad.issuers['basic']}/", ""):
        back = await traveller.decide(await traveller.begin("basic"))
        told = told_in(back)
        assert set(told) == {"code", "state", "iss"}
        assert told["iss"] == abroad.issuers["basic"]
        before = await abroad.seen("basic")
        changed = {**told, "iss": wrong} if wrong else {name: told[name] for name in ("code", "state")}
        answer = await traveller.http.get(f"{here.issuer}/auth/social/basic/callback", params=changed)
        assert answer.status_code == 400
        assert await abroad.seen("basic") == before
    assert REFRESH_COOKIE not in {cookie.name for cookie in traveller.http.cookies.jar}


@pytest.mark.standard("SO-24")
async def test_it_makes_the_browser_post_the_answer_from_its_own_origin(
    traveller: Traveller, abroad: Abroad, here: Running
) -> None:
    back = await traveller.decide(await traveller.begin("posting"))
    assert (back.method, str(back.url)) == ("POST", f"{here.issuer}/auth/social/posting/callback")
    assert back.headers["origin"] == abroad.issuers["posting"]
    await signed_in(traveller, await traveller.back(back))


@pytest.mark.standard("SO-22")
async def test_an_address_that_it_has_not_proved_makes_no_account_until_it_is_proved(
    traveller: Traveller, abroad: Abroad
) -> None:
    address = f"{traveller.login}@example.net"
    for unproved in (False, "true", 1, None):
        await abroad.tell("basic", traveller.login, email=address, email_verified=unproved)
        assert error_of(await traveller.sign_in("basic"), traveller.at) == "provider_email_unverified"
    await abroad.tell("basic", traveller.login)
    assert error_of(await traveller.sign_in("basic"), traveller.at) == "provider_email_missing"
    assert REFRESH_COOKIE not in {cookie.name for cookie in traveller.http.cookies.jar}
    await abroad.tell("basic", traveller.login, email=address, email_verified=True)
    await signed_in(traveller, await traveller.sign_in("basic"))


@pytest.mark.standard("SO-06")
async def test_whoever_has_another_address_there_is_who_they_were(traveller: Traveller, abroad: Abroad) -> None:
    before = await account(traveller, await signed_in(traveller, await traveller.sign_in("basic")))
    moved = f"moved-{traveller.login}@example.org"
    await abroad.tell("basic", traveller.login, email=moved, email_verified=True)
    headers = await signed_in(traveller, await traveller.sign_in("basic"))
    after = await account(traveller, headers)
    assert (after["id"], after["email"]) == (before["id"], before["email"])
    linked = (await traveller.http.get(f"{traveller.at.issuer}/me/identities", headers=headers)).json()
    assert [(one["subject"], one["email"]) for one in linked] == [(traveller.login, moved)]


@pytest.mark.standard("SO-27")
@pytest.mark.parametrize("provider", ["basic", "posting"])
@pytest.mark.parametrize("page", ["login", "consent"])
async def test_whoever_cancels_there_is_told_so_and_may_begin_again(
    traveller: Traveller, provider: str, page: str
) -> None:
    traveller.cancels_at = page
    back = await traveller.decide(await traveller.begin(provider))
    assert told_in(back)["error"] == "access_denied"
    assert error_of(await traveller.back(back), traveller.at) == "access_denied"
    assert (await traveller.back(back)).status_code == 400
    traveller.cancels_at = ""
    await signed_in(traveller, await traveller.sign_in(provider))


@pytest.mark.standard("SO-12")
async def test_a_new_proof_is_asked_for_where_somebody_wants_one(
    traveller: Traveller, here: Running, clock: TestClock
) -> None:
    login_again = {"prompt": "login"}
    await signed_in(traveller, await traveller.sign_in("basic"))
    headers = await signed_in(traveller, await traveller.sign_in("basic", **login_again))
    assert traveller.prompts.count("login") == 2
    told = await introspected(here, headers)
    assert abs(told["auth_time"] - clock().timestamp()) < 60


@pytest.mark.standard("SO-12")
async def test_what_it_says_of_an_old_proof_counts(traveller: Traveller, here: Running, clock: TestClock) -> None:
    first = await introspected(here, await signed_in(traveller, await traveller.sign_in("apps")))
    await clock.advance(minutes=20)
    headers = await signed_in(traveller, await traveller.sign_in("apps"))
    assert traveller.prompts.count("login") == 1
    told = await introspected(here, headers)
    assert (told["sub"], abs(told["auth_time"] - first["auth_time"]) <= 1) == (first["sub"], True)
    refused = await traveller.http.post(f"{here.issuer}/me/identities/basic", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "insufficient_user_authentication")


@pytest.mark.standard("SO-21")
async def test_it_is_linked_to_an_account_by_whoever_is_signed_in_to_it(
    traveller: Traveller, another: Traveller, abroad: Abroad, here: Running
) -> None:
    person = await with_account(here.services)
    await abroad.tell("basic", traveller.login, email=person.email, email_verified=True)
    assert error_of(await traveller.sign_in("basic"), here) == "account_link_required"

    answer = await traveller.http.post(f"{here.issuer}/auth/login", json=person.credentials())
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    begun = await traveller.http.post(f"{here.issuer}/me/identities/basic", headers=headers)
    assert begun.status_code == 200, begun.text
    back = await traveller.decide(begun.json()["authorize_url"])
    assert error_of(await traveller.back(back), here) == ""
    another.login = traveller.login
    told = await account(another, await signed_in(another, await another.sign_in("basic")))
    assert (told["email"], told["nickname"]) == (person.email, person.nickname)


@pytest.mark.standard("SO-02", "SO-15")
async def test_a_code_of_somebody_else_is_refused_by_it(traveller: Traveller, another: Traveller) -> None:
    stolen = told_in(await another.decide(await another.begin("basic")))["code"]
    mine = told_in(await traveller.decide(await traveller.begin("basic")))
    callback = f"{traveller.at.issuer}/auth/social/basic/callback"
    answer = await traveller.http.get(callback, params={**mine, "code": stolen})
    assert error_of(answer, traveller.at) == "invalid_or_expired_code"
    assert REFRESH_COOKIE not in {cookie.name for cookie in traveller.http.cookies.jar}


@pytest.mark.standard("SO-05", "SO-15")
async def test_an_app_gets_in_by_a_code_that_it_was_called_back_with(
    traveller: Traveller, abroad: Abroad, here: Running
) -> None:
    app = await new_front_end(here.services, redirect_uris=[APP])
    verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
    asked = {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": APP,
        "scope": "openid email profile",
        "state": "of the app",
        "nonce": nonce,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
    }
    back = await traveller.decide(str(httpx.URL(f"{abroad.issuers['apps']}/auth", params=asked)))
    assert str(back.url).startswith(f"{APP}?")
    presented = {"code": told_in(back)["code"], "code_verifier": verifier, "redirect_uri": APP, "nonce": nonce}
    answer = await traveller.http.post(
        f"{here.issuer}/auth/social/apps/exchange", json={**presented, "client_id": app.client_id}
    )
    assert answer.status_code == 200, answer.text
    told = await account(traveller, {"Authorization": f"Bearer {answer.json()['access_token']}"})
    assert told["email"] == f"{traveller.login}@example.net"
    assert answer.json()["refresh_token"]

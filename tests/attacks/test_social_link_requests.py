"""Who may begin a link: a person's own fresh session, from a page that is trusted with cookies."""

import secrets

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.attacks.social import (
    assert_turned_away,
    link_begun,
    linked_to,
)
from tests.conftest import ISSUER, Person, TestClock, browser
from tests.deeds import registered, sign_in
from tests.social.acting import (
    SOCIAL_COOKIE,
    Stranger,
    decided,
    error_of,
    query_of,
)

APP = "https://app.test"


@pytest.mark.standard("SO-21")
async def test_a_link_is_begun_by_a_fresh_session_alone(
    http: httpx.AsyncClient, clock: TestClock, person: Person
) -> None:
    before = await http.post("/me/identities/openid", headers=person.headers)
    assert before.status_code == 200
    nobody = await http.post("/me/identities/openid")
    assert (nobody.status_code, nobody.json()["code"]) == (401, "unauthenticated")
    await clock.advance(seconds=301)
    stale = await http.post("/me/identities/openid", headers=person.headers)
    assert (stale.status_code, stale.json()["code"]) == (401, "insufficient_user_authentication")
    assert 'error="insufficient_user_authentication"' in stale.headers["www-authenticate"]
    for answer in (nobody, stale):
        assert "set-cookie" not in answer.headers
        assert "authorize_url" not in answer.text
    gone = await http.delete("/me/identities/openid", headers=person.headers)
    assert (gone.status_code, gone.json()["code"]) == (401, "insufficient_user_authentication")


@pytest.mark.standard("SO-21", "CK-17")
async def test_no_foreign_page_begins_or_ends_a_link(
    services: Services, http: httpx.AsyncClient, abroad: httpx.AsyncClient, person: Person
) -> None:
    who = Stranger()
    await http.get(await decided(abroad, await link_begun(http, "discord", person.headers), who))
    for origin in ("https://evil.example", "null", "https://app.test.evil.example", "http://app.test"):
        headers = {**person.headers, "Origin": origin}
        for method in ("POST", "DELETE"):
            answer = await http.request(method, "/me/identities/discord", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_refused")
            assert not {"set-cookie", "access-control-allow-origin"} & set(answer.headers)
    assert await linked_to(http, person.headers) == ["discord"]


@pytest.mark.standard("SO-21")
async def test_no_other_token_than_a_persons_own_begins_a_link(
    app: Litestar, services: Services, http: httpx.AsyncClient, person: Person
) -> None:
    """Neither the cookies of a browser by themselves, nor a service."""
    service = f"svc-{secrets.token_hex(4)}"
    secret = await registered(services, service)
    granted = await http.post("/token", data={"grant_type": "client_credentials"}, auth=(service, secret))
    assert granted.status_code == 200, granted.text
    async with browser(app) as cookies:
        entered = await sign_in(cookies, person, transport="cookie")
        assert entered.status_code == 200
        for headers in ({}, {"Authorization": f"Bearer {granted.json()['access_token']}"}):
            answer = await cookies.post("/me/identities/openid", headers={**headers, "Origin": ISSUER})
            assert answer.status_code in {401, 403}
            assert "set-cookie" not in answer.headers


# Cookies across origins


@pytest.mark.standard("SO-21", "CK-17")
async def test_cookies_go_along_from_trusted_pages_and_to_identities_alone(
    services: Services, http: httpx.AsyncClient, person: Person
) -> None:
    registered_origin = f"https://{secrets.token_hex(6)}.example"
    await registered(services, f"app-{secrets.token_hex(4)}", confidential=False, origins=(registered_origin,))
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = "access-control-allow-credentials"
    for origin, is_trusted in ((APP, True), (ISSUER, True), (registered_origin, False)):
        for answer in (
            await http.options("/me/identities/openid", headers={"Origin": origin, **ask}),
            await http.get("/me/identities", headers={"Origin": origin, **person.headers}),
            await http.post("/me/identities/openid", headers={"Origin": origin, **person.headers}),
        ):
            assert answer.headers["access-control-allow-origin"] == origin
            assert (answer.headers.get(allowed) == "true") is is_trusted, (origin, answer.headers)
    for path in ("/me", "/me/sessions", "/me/identities-of", "/me/identitie", "/users/me", "/admin/accounts"):
        answer = await http.get(path, headers={"Origin": APP, **person.headers})
        assert allowed not in answer.headers, path
    for origin in ("https://evil.example", "null", "https://evil.app.test"):
        for answer in (
            await http.options("/me/identities/openid", headers={"Origin": origin, **ask}),
            await http.get("/me/identities", headers={"Origin": origin, **person.headers}),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-allow")]


@pytest.mark.standard("SO-01")
async def test_the_cookie_of_a_trusted_page_is_the_one_that_its_link_comes_back_with(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, person: Person
) -> None:
    headers = {**person.headers, "Origin": APP}
    asked = await link_begun(http, "openid", headers)
    location = await decided(abroad, asked, Stranger())
    assert SOCIAL_COOKIE in http.cookies
    assert query_of(asked)["redirect_uri"] == f"{ISSUER}/auth/social/openid/callback"
    async with browser(app) as other:
        assert_turned_away(await other.get(location, headers=person.headers))
    again = await decided(abroad, await link_begun(http, "openid", headers), Stranger())
    assert error_of(await http.get(again)) == ""
    assert await linked_to(http, person.headers) == ["openid"]

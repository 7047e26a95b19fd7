"""Providers that make the browser post their answer: a cross-site POST that counts as much as the redirect does."""

from collections.abc import AsyncIterator
from html.parser import HTMLParser

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.fake_provider.provider import FakeProvider
from service.settings import load
from service.wiring import Services
from tests.attacks.social import (
    accounts_with,
    assert_signs_nobody_in,
    assert_turned_away,
    attributes_of,
    cookies_of,
    identities_of,
    linked_to,
    returning,
    token_calls,
)
from tests.conftest import ABROAD, ISSUER, Outbox, Person, TestClock, browser, worker
from tests.deeds import is_in
from tests.social.acting import (
    PAGE,
    REFRESH_COOKIE,
    SOCIAL_COOKIE,
    Stranger,
    begun,
    error_of,
    me,
    query_of,
    signed_in,
)

CALLBACK = "/auth/social/openid/callback"
CROSS_SITE = {
    "Origin": ABROAD,
    "Referer": f"{ABROAD}/",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}
FORM = "application/x-www-form-urlencoded"


class Form(HTMLParser):
    """The form that a provider's page posts by itself."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action, self.method = "", ""
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action, self.method = found["action"], found["method"]
        if tag == "input":
            self.fields[found["name"]] = found["value"]


@pytest.fixture(scope="module")
async def posting(
    services: Services,
    environ: dict[str, str],
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
) -> AsyncIterator[Litestar]:
    """A worker whose OpenID provider posts its answers."""
    given = load({**environ, "VESTIBULE_PROVIDER_OPENID_RESPONSE_MODE": "form_post"})
    async with worker(given, wall_clock, outbox, way_abroad) as own:
        yield create_app(own)


@pytest.fixture
async def http(posting: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A browser at that worker."""
    async with browser(posting) as client:
        yield client


async def form_of(abroad: httpx.AsyncClient, authorize_url: str, who: Stranger, **choice: str) -> Form:
    """What the page of the provider would post after somebody chose."""
    answer = await abroad.post(authorize_url, data=who.choice(**choice))
    assert answer.status_code == 200, answer.text
    form = Form(answer.text)
    assert (form.action, form.method) == (f"{ISSUER}{CALLBACK}", "post")
    return form


async def posted(
    http: httpx.AsyncClient, fields: dict[str, str], headers: dict[str, str] | None = None, path: str = CALLBACK
) -> httpx.Response:
    """The browser posts it: from the provider's page, unless told otherwise."""
    return await http.post(path, data=fields, headers=CROSS_SITE if headers is None else headers)


@pytest.mark.standard("SO-24")
async def test_somebody_comes_in_by_a_form_that_the_provider_posts(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    begin = await http.get("/auth/social/openid", params={"next": PAGE})
    assert {"samesite=none", "secure", "httponly", "path=/", "max-age=600"} == attributes_of(begin, SOCIAL_COOKIE)
    asked = begin.headers["location"]
    assert query_of(asked)["response_mode"] == "form_post"
    form = await form_of(abroad, asked, who)
    assert set(form.fields) == {"code", "state", "iss"}

    answer = await posted(http, form.fields)
    assert (answer.status_code, answer.headers["location"]) == (303, PAGE)
    assert "samesite=strict" in attributes_of(answer, REFRESH_COOKIE)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert (await me(http, await signed_in(http, answer)))["email"] == who.email
    assert_turned_away(await posted(http, form.fields))


@pytest.mark.standard("SO-24")
async def test_only_a_provider_that_is_set_so_is_asked_to_post(
    http: httpx.AsyncClient, app: Litestar, abroad: httpx.AsyncClient
) -> None:
    for provider in ("discord", "github"):
        assert "response_mode" not in query_of(await begun(http, provider))
    async with browser(app) as usual:
        assert "response_mode" not in query_of(await begun(usual, "openid"))


@pytest.mark.standard("SO-24", "SO-01")
async def test_a_posted_answer_counts_in_the_browser_that_began_alone(
    posting: Litestar, fake_provider: FakeProvider, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    """Login CSRF: any page may post to the callback, so the cookie has to be the one."""
    form = await form_of(abroad, await begun(http, "openid"), Stranger())
    fake_provider.requests.clear()
    async with browser(posting) as victim:
        await begun(victim, "openid")
        for origin in ("https://evil.example", ABROAD, "null", ISSUER):
            form = await form_of(abroad, await begun(http, "openid"), Stranger())
            assert_turned_away(await posted(victim, form.fields, {**CROSS_SITE, "Origin": origin}))
            form = await form_of(abroad, await begun(http, "openid"), Stranger())
            async with browser(posting) as nobody:
                assert_turned_away(await posted(nobody, form.fields, {**CROSS_SITE, "Origin": origin}))
    assert token_calls(fake_provider) == []


@pytest.mark.standard("SO-24", "SO-01")
async def test_a_posted_answer_of_a_sandboxed_page_or_without_an_origin_counts_as_well(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    for headers in ({**CROSS_SITE, "Origin": "null"}, {}, {"Origin": "https://appleid.example"}):
        form = await form_of(abroad, await begun(http, "openid"), Stranger())
        assert error_of(await posted(http, form.fields, headers)) == ""


@pytest.mark.standard("SO-24", "CK-17")
async def test_nobody_else_may_post_from_another_site(
    *,
    posting: Litestar,
    app: Litestar,
    services: Services,
    fake_provider: FakeProvider,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
) -> None:
    """Neither to the callbacks of providers that redirect, nor to anything near the one that is open."""
    fake_provider.requests.clear()
    for there, provider in ((posting, "discord"), (posting, "github"), (app, "openid"), (app, "discord")):
        async with browser(there) as client:
            location = await returning(client, abroad, provider, Stranger())
            path = httpx.URL(location).path
            for origin in (ABROAD, "https://evil.example", "null"):
                answer = await posted(client, query_of(location), {"Origin": origin}, path)
                assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_refused")
                assert "set-cookie" not in answer.headers
            assert token_calls(fake_provider) == []
            assert error_of(await client.get(location)) == ""  # it was not even looked at
            fake_provider.requests.clear()
    for path in (
        "/auth/social/openid",
        "/auth/social/openid/exchange",
        "/auth/social/openid/callback/more",
        "/auth/social/openidcallback",
        "/auth/social/OPENID/callback",
        "/auth/social/openid/callback%2f..",
        "/auth/login",
        "/auth/refresh",
        "/me/identities/openid",
    ):
        answer = await posted(http, {"state": "x"}, CROSS_SITE, path)
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_refused"), path
    for method in ("PUT", "PATCH", "DELETE"):
        answer = await http.request(method, CALLBACK, headers=CROSS_SITE)
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_refused")


@pytest.mark.standard("SO-24", "SO-02")
async def test_a_body_that_says_nothing_or_two_things_is_refused(
    fake_provider: FakeProvider, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    good = (await form_of(abroad, await begun(http, "openid"), Stranger())).fields
    encoded = str(httpx.QueryParams(good)).encode()
    fake_provider.requests.clear()
    for body in (
        b"",
        b"&&&=&=",
        b"\xff\xfe\x00",
        bytes(range(256)),
        b"%zz%",
        b"{}",
        b'{"state": "x", "code": "y"}',
        b"<script>alert(1)</script>",
        b"state",
        b"state=&code=",
        b"code=" + good["code"].encode(),
        encoded.replace(b"&", b";"),
        encoded + b"&state=" + good["state"].encode(),
        encoded + b"&code=another",
        b"iss=x&" + encoded,
        encoded + b"&more=" + b"x" * 17_000,
        b"more=" + b"x" * 17_000 + b"&" + encoded,
        encoded + b"".join(b"&p%d=1" % number for number in range(50)),
        b"x" * 60_000,
    ):
        answer = await http.post(CALLBACK, content=body, headers={**CROSS_SITE, "Content-Type": FORM})
        assert_turned_away(answer)
        assert "<script>alert" not in answer.text
    assert token_calls(fake_provider) == []
    assert error_of(await posted(http, good)) == ""


@pytest.mark.standard("SO-24")
async def test_a_body_of_any_length_is_refused_without_a_word_of_it(http: httpx.AsyncClient) -> None:
    for size in (200_000, 2_000_000):
        answer = await http.post(CALLBACK, content=b"x" * size, headers={**CROSS_SITE, "Content-Type": FORM})
        assert answer.status_code in {400, 413}
        assert "xxxx" not in answer.text
        assert_signs_nobody_in(answer)


@pytest.mark.standard("SO-24", "SO-02")
async def test_a_posted_answer_stands_in_the_body_alone(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services
) -> None:
    who = Stranger()
    form = await form_of(abroad, await begun(http, "openid"), who)
    answer = await http.post(CALLBACK, params=form.fields, headers=CROSS_SITE)
    assert_turned_away(answer)
    assert await accounts_with(services, who.email) == []
    code_beside = {name: value for name, value in form.fields.items() if name != "code"}
    answer = await http.post(CALLBACK, params={"code": form.fields["code"]}, data=code_beside, headers=CROSS_SITE)
    assert error_of(answer) == "provider_unavailable"
    assert_signs_nobody_in(answer)


@pytest.mark.standard("SO-24", "SO-03", "SO-14")
async def test_the_issuer_of_a_posted_answer_is_looked_at_too(
    fake_provider: FakeProvider, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    fake_provider.requests.clear()
    for fault in ("wrong_iss", "no_iss", "wrong_state", "no_state"):
        form = await form_of(abroad, await begun(http, "openid"), Stranger(), fault=fault)
        assert_turned_away(await posted(http, form.fields))
    assert token_calls(fake_provider) == []


@pytest.mark.standard("SO-24", "SO-27")
async def test_a_posted_error_leads_back_without_its_description(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    for choice, error in (
        ({"fault": "cancelled"}, "access_denied"),
        ({"decision": "cancel"}, "access_denied"),
        ({"fault": "server_error"}, "provider_unavailable"),
        ({"fault": "wrong_nonce"}, "provider_answer_invalid"),
    ):
        form = await form_of(abroad, await begun(http, "openid"), Stranger(), **choice)
        answer = await posted(http, form.fields)
        assert error_of(answer) == error
        assert answer.headers["location"] == f"{PAGE}?error={error}"
        assert "script" not in answer.text
        assert_signs_nobody_in(answer)
        assert_turned_away(await posted(http, form.fields))


@pytest.mark.standard("SO-24", "SO-01")
async def test_a_link_comes_back_by_a_form_as_well_and_signs_nobody_in(
    posting: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, person: Person
) -> None:
    who = Stranger()
    asked = await http.post("/me/identities/openid", params={"next": PAGE}, headers=person.headers)
    form = await form_of(abroad, asked.json()["authorize_url"], who)
    async with browser(posting) as victim:
        again = await http.post("/me/identities/openid", params={"next": PAGE}, headers=person.headers)
        lure = await form_of(abroad, again.json()["authorize_url"], Stranger())
        assert_turned_away(await posted(victim, lure.fields))
    answer = await posted(http, form.fields)
    assert error_of(answer) == ""
    assert REFRESH_COOKIE not in cookies_of(answer)
    assert await linked_to(http, person.headers) == ["openid"]
    assert len(await identities_of(services, who)) == 1
    assert await is_in(http, person.headers)

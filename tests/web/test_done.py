"""The page where a sign-in through a provider ends, and the one of a callback that nobody waits for: fixed words."""

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlencode

import httpx
import pytest
from litestar import Litestar

from service import errors
from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.attacks.social import assert_turned_away, own_worker, returning
from tests.conftest import ISSUER, Outbox, Person, TestClock, browser
from tests.social.acting import SOCIAL_COOKIE, Stranger, begun, decided, with_query

WEB = Path(__file__).parents[2] / "service" / "web"
TEXTS = tomllib.loads((WEB / "texts.toml").read_text(encoding="utf-8"))
DONE = "/auth/done"
CALLBACK = "/auth/social/openid/callback"
SCRIPT = "<script>alert('x')</script>"
ATTACKS = [
    SCRIPT,
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}",
    "{% include 'confirm.html' %}",
    "${7*7}",
    "javascript:alert(1)",
    "<svg/onload=alert(1)>",
    "</p><h1>You won",
    "Call +1 555 0100 to unlock your account",
    "\r\nSet-Cookie: evil=1",
    "\0",
    "__class__",
    "errors",
    "en.done.errors",
    "x" * 5000,
]
"""Nothing of them may come back, harmless as some look: a page of ours says nobody else's words."""


class Reader(HTMLParser):
    """Every start tag with its attributes, and the words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def policy(answer: httpx.Response) -> dict[str, list[str]]:
    (line,) = answer.headers.get_list("content-security-policy")
    return {name: values for name, *values in (part.split() for part in line.split(";") if part.strip())}


def without_nonce(page: str) -> str:
    return re.sub(r'nonce="[^"]*"', "", page)


async def refused_pages(http: httpx.AsyncClient, abroad: httpx.AsyncClient) -> list[httpx.Response]:
    """Every kind of page that a callback answers with."""
    foreign = with_query(await returning(http, abroad, "openid", Stranger()), iss="https://another.example")
    twice = f"{await returning(http, abroad, 'openid', Stranger())}&state=x"
    return [
        await http.get(CALLBACK),
        await http.get(f"{CALLBACK}?state=x&code=y"),
        await http.get(foreign),
        await http.get(twice),
        await http.post(CALLBACK, data={"state": "x"}),
        await http.get("/auth/social/nobody/callback?state=x&code=y"),
    ]


def assert_is_a_page(answer: httpx.Response) -> None:
    headers = answer.headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    for name, value in {
        "cache-control": "no-store",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }.items():
        assert headers.get_list(name) == [value], name
    assert [part.strip().lower() for part in headers["vary"].split(",")] == ["accept-language", "origin"]
    assert not {"set-cookie", "location", "refresh", "link"} & set(headers)
    directives = policy(answer)
    assert "unsafe" not in headers["content-security-policy"]
    assert directives["default-src"] == ["'none'"]
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert directives[name] == ["'none'"], name
    reader = Reader(answer.text)
    (style,) = [tag for name, tag in reader.tags if name == "link"]
    assert style["rel"] == "stylesheet"
    assert directives["style-src"] == [f"'nonce-{style['nonce']}'"]
    assert not {"script", "a", "form", "iframe", "img", "base", "object", "style", "svg"} & {
        name for name, _ in reader.tags
    }
    assert not [name for _, tag in reader.tags for name in tag if name.startswith("on") or name in {"style", "srcdoc"}]


# The words


@pytest.mark.standard("SO-27")
@pytest.mark.parametrize("language", TEXTS)
async def test_each_end_has_its_own_words_in_each_language(http: httpx.AsyncClient, language: str) -> None:
    texts = TEXTS[language]["done"]
    wish = {"Accept-Language": f"xx, {language};q=0.9, de;q=0.1"}
    good = await http.get(DONE, headers=wish)
    assert good.status_code == 200
    assert texts["good"] in Reader(good.text).words
    assert texts["good_heading"] in Reader(good.text).words
    for code, sentence in texts["errors"].items():
        answer = await http.get(DONE, params={"error": code}, headers=wish)
        assert answer.status_code == 200
        assert answer.headers["content-language"] == language
        assert f'<html lang="{language}">' in answer.text
        words = Reader(answer.text).words
        assert sentence in words
        assert texts["bad_heading"] in words
        assert texts["good"] not in words
        assert_is_a_page(answer)


@pytest.mark.standard("SO-27")
def test_the_words_are_those_of_errors_that_there_are() -> None:
    found = [errors.ServiceError]
    for kind in found:
        found += kind.__subclasses__()
    codes = {kind.code for kind in found}
    for language, texts in TEXTS.items():
        assert set(texts["done"]["errors"]) - {"other"} <= codes, language
        assert set(texts["done"]["errors"]) == set(TEXTS["en"]["done"]["errors"]), language


@pytest.mark.standard("SO-27")
@pytest.mark.parametrize("given", ["", "de", "*", "xx-YY;q=x", SCRIPT, "en;q=0", "ko\r\nX: y".replace("\r\n", " ")])
async def test_any_other_wish_for_a_language_is_answered_too(http: httpx.AsyncClient, given: str) -> None:
    for path in (DONE, CALLBACK):
        answer = await http.get(path, headers={"Accept-Language": given})
        assert answer.headers["content-language"] in TEXTS
        assert "<script>" not in answer.text


# Nothing is reflected


@pytest.mark.standard("SO-27")
async def test_the_page_says_no_word_of_its_url(http: httpx.AsyncClient) -> None:
    other = without_nonce((await http.get(DONE, params={"error": "no such error"})).text)
    assert TEXTS["en"]["done"]["errors"]["other"] in Reader(other).words
    good = without_nonce((await http.get(DONE)).text)
    for attack in ATTACKS:
        answer = await http.get(DONE, params={"error": attack})
        assert answer.status_code == 200
        assert without_nonce(answer.text) == other
        assert_is_a_page(answer)
        for name in ("error_description", "state", "code", "next", "kind", "message", "text", "product", attack):
            query = urlencode({name: attack})
            assert without_nonce((await http.get(f"{DONE}?{query}")).text) == good
            mixed = (await http.get(f"{DONE}?error=access_denied&{query}")).text
            assert TEXTS["en"]["done"]["errors"]["access_denied"] in Reader(mixed).words


@pytest.mark.standard("SO-27")
@pytest.mark.parametrize(
    "query", ["error=access_denied&error=x", "error", "error=", "error[]=x", "%", "%ff=%ff&error=%ff"]
)
async def test_a_url_of_any_shape_is_answered_with_the_page(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.get(f"{DONE}?{query}")
    assert answer.status_code == 200
    assert_is_a_page(answer)


@pytest.mark.standard("SO-27", "SO-01")
async def test_a_callback_that_nobody_waits_for_says_no_word_of_what_came(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    sentence = TEXTS["en"]["done"]["errors"]["invalid_state"]
    plain = await http.get(CALLBACK)
    assert sentence in Reader(plain.text).words
    for attack in ATTACKS:
        state = await returning(http, abroad, "openid", Stranger()) if attack == SCRIPT else ""
        for name in ("state", "error", "error_description", "error_uri", "code", "iss", "scope", attack):
            answer = await http.get(f"{CALLBACK}?{urlencode({name: attack})}")
            assert_turned_away(answer)
            assert without_nonce(answer.text) == without_nonce(plain.text), (name, attack)
            if state:
                answer = await http.get(with_query(state, **{name: attack, "iss": "https://another.example"}))
                assert_turned_away(answer)
                assert without_nonce(answer.text) == without_nonce(plain.text), (name, attack)
    for attack in (SCRIPT, "x" * 5000, "%00", "..", "nobody", "openid%00", "openid "):
        answer = await http.get(f"/auth/social/{quote(attack, safe='%')}/callback?error=x")
        assert answer.status_code in {400, 404}
        assert "script>" not in answer.text
        assert "xxxx" not in answer.text


@pytest.mark.standard("SO-27")
@pytest.mark.parametrize("provider", ["openid", "discord", "github"])
async def test_a_cancelled_sign_in_ends_its_transaction_and_leads_to_fixed_words(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str
) -> None:
    location = await decided(abroad, await begun(http, provider, next=DONE), Stranger(), fault="cancelled")
    assert "script" in location
    answer = await http.get(location)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{ISSUER}{DONE}?error=access_denied")
    assert answer.text == ""
    page = await http.get(answer.headers["location"])
    assert TEXTS["en"]["done"]["errors"]["access_denied"] in Reader(page.text).words
    assert "script" not in Reader(page.text).words
    assert_turned_away(await http.get(location))


@pytest.mark.standard("SO-27")
async def test_an_error_of_the_providers_own_making_does_not_reach_the_page(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    for error in (*ATTACKS, "", "account_disabled", "Access_Denied", "access_denied "):
        location = await returning(http, abroad, "discord", Stranger())
        answer = await http.get(with_query(location, code=None, error=error, error_description=error))
        assert answer.headers["location"] == "https://app.test/welcome?error=provider_unavailable", error
        assert answer.text == ""


# Headers


@pytest.mark.standard("SO-27", "CK-11", "CK-13", "CK-14", "CK-16")
async def test_every_page_has_the_headers_of_a_page(http: httpx.AsyncClient, abroad: httpx.AsyncClient) -> None:
    for answer in (await http.get(DONE), await http.get(f"{DONE}?error=x")):
        assert answer.status_code == 200
        assert_is_a_page(answer)
    pages = await refused_pages(http, abroad)
    assert [answer.status_code for answer in pages] == [400] * 5 + [404]
    for answer in pages:
        assert_is_a_page(answer)


@pytest.mark.standard("CK-11")
async def test_every_answer_has_a_nonce_of_its_own(http: httpx.AsyncClient) -> None:
    pages = [await http.get(path) for path in (DONE, CALLBACK) * 4]
    nonces = {policy(answer)["style-src"][0] for answer in pages}
    assert len(nonces) == 8
    assert all(re.fullmatch(r"'nonce-[A-Za-z0-9_-]{22,}'", nonce) for nonce in nonces)


async def test_head_says_what_get_says(http: httpx.AsyncClient) -> None:
    changing = {"x-request-id", "content-security-policy"}
    for path in (DONE, f"{DONE}?error=access_denied"):
        got, head = await http.get(path), await http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert {k: v for k, v in got.headers.items() if k not in changing} == {
            k: v for k, v in head.headers.items() if k not in changing
        }


@pytest.mark.standard("SO-01")
async def test_asking_for_the_headers_of_a_callback_spends_nothing(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    location = await returning(http, abroad, "openid", Stranger())
    for method in ("HEAD", "OPTIONS"):
        answer = await http.request(method, location)
        assert "set-cookie" not in answer.headers
        assert answer.status_code in {204, 405}
    assert (await http.get(location)).headers["location"] == "https://app.test/welcome"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_the_page_is_only_read(http: httpx.AsyncClient, method: str) -> None:
    answer = await http.request(method, DONE)
    assert answer.status_code == 405
    assert {part.strip() for part in answer.headers["allow"].split(",")} == {"GET", "HEAD", "OPTIONS"}


async def test_the_style_is_our_own_and_there(http: httpx.AsyncClient) -> None:
    for path in (DONE, CALLBACK):
        page = await http.get(path)
        (style,) = [tag for name, tag in Reader(page.text).tags if name == "link"]
        url = httpx.URL(f"{ISSUER}{path}").join(str(style["href"]))
        assert str(url).startswith(f"{ISSUER}/")
        answer = await http.get(url)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/css; charset=utf-8")


async def test_somebody_who_is_signed_in_sees_the_same_page(http: httpx.AsyncClient, person: Person) -> None:
    cookies = {**person.headers, "Cookie": f"{SOCIAL_COOKIE}=x; __Host-vestibule-refresh=vrt_x"}
    answer = await http.get(DONE, headers=cookies)
    assert without_nonce(answer.text) == without_nonce((await http.get(DONE)).text)
    assert person.email not in answer.text


@pytest.mark.usefixtures("services")
async def test_a_name_of_the_product_is_text(
    environ: dict[str, str], wall_clock: TestClock, outbox: Outbox, way_abroad: httpx.AsyncBaseTransport
) -> None:
    given = load({**environ, "VESTIBULE_SERVICE_NAME": "Salt & <b>Pepper</b>"})
    async with own_worker(given, wall_clock, outbox, way_abroad) as (_, app), browser(app) as http:
        page = (await http.get(DONE)).text
        assert "<b>" not in page
        assert "Salt & <b>Pepper</b>" in Reader(page).words


# Windows


@pytest.mark.standard("CK-21")
def test_no_page_of_ours_talks_to_other_windows() -> None:
    sources = [path for path in WEB.rglob("*") if path.suffix in {".js", ".html", ".css", ".py", ".toml"}]
    assert {path.suffix for path in sources} == {".js", ".html", ".css", ".py", ".toml"}
    forbidden = (
        r"postMessage|MessageChannel|BroadcastChannel|onmessage|[\"']message[\"']\s*,|opener|window\.open|\.parent\b"
    )
    for path in sources:
        words = path.read_text(encoding="utf-8").replace("Cross-Origin-Opener-Policy", "")
        assert not re.search(forbidden, words), path.name


@pytest.mark.standard("CK-21")
async def test_no_page_of_ours_can_be_reached_by_whoever_opened_it(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    pages = [*await _pages_of(app), *await refused_pages(http, abroad)]
    assert {DONE, CALLBACK, "/auth/confirm", "/docs"} <= {answer.request.url.path for answer in pages}
    for answer in pages:
        assert answer.headers.get_list("cross-origin-opener-policy") == ["same-origin"], answer.request.url.path
        assert policy(answer)["frame-ancestors"] == ["'none'"], answer.request.url.path


@pytest.mark.standard("CK-21")
async def test_the_mailbox_of_developers_cannot_be_reached_either(services: Services) -> None:
    (page,) = [one for one in await _pages_of(create_app(services, dev=True)) if "/dev/" in one.request.url.path]
    assert page.headers.get_list("cross-origin-opener-policy") == ["same-origin"]


async def _pages_of(app: Litestar) -> list[httpx.Response]:
    """Everything with a path of its own that is answered with a page."""
    paths = sorted({route.path for route in app.routes if "{" not in route.path})
    async with browser(app) as http:
        answers = [await http.get(path) for path in paths]
    return [answer for answer in answers if answer.headers.get("content-type", "").startswith("text/html")]

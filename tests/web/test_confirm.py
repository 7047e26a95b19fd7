"""The page behind mailed links: asking for it changes nothing, and it loads, frames and leaks nothing."""

import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service.wiring import Services
from tests.conftest import Outbox, Person, Servers, begin_sign_up, mailed_code, somebody

WEB = Path(__file__).parents[2] / "service" / "web"
PAGE = "/auth/confirm"
SCRIPT = (WEB / "static" / "confirm.js").read_text(encoding="utf-8")
PURPOSES = ("verify", "reset", "email", "undo")
LANGUAGES = {"en": "Confirm your address", "ko": "이메일 주소 확인", "ja": "メールアドレスの確認"}


class Reader(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


async def page(http: httpx.AsyncClient, language: str = "en") -> httpx.Response:
    answer = await http.get(PAGE, headers={"Accept-Language": language})
    assert answer.status_code == 200
    return answer


def policy(answer: httpx.Response) -> dict[str, list[str]]:
    (line,) = answer.headers.get_list("content-security-policy")
    return {name: values for name, *values in (part.split() for part in line.split(";") if part.strip())}


# Links survive


@pytest.mark.standard("CL-12", "CL-13", "CK-19")
async def test_asking_for_the_page_changes_nothing(
    http: httpx.AsyncClient, redis: Redis, servers: Servers, services: Services, outbox: Outbox
) -> None:
    http.headers["User-Agent"] = seen = somebody().nickname
    await services.mailer.drain()  # of what came before
    before = await _everything(redis, servers), len(outbox.mails)
    for method in ("GET", "HEAD", "GET", "HEAD", "GET"):
        for query in ("", "?verify=vlk_x", "?token=vpr_x&reset=vpr_x"):
            answer = await http.request(method, PAGE + query)
            assert answer.status_code == 200
            assert "set-cookie" not in answer.headers
    await services.mailer.drain()

    assert (await _everything(redis, servers), len(outbox.mails)) == before
    await services.audit.flush()
    async with services.database.begin() as transaction:
        statement = text("SELECT count(*) FROM audit_events WHERE user_agent = :a")
        assert await transaction.scalar(statement, {"a": seen}) == 0


async def _everything(redis: Redis, servers: Servers) -> dict[str, Any]:
    """The keys and the rows, but for what passes by itself, and the trail, which other workers write to as well."""
    engine = create_async_engine(servers.database_url)
    async with engine.connect() as connection:
        tables = (await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))).all()
        rows = {
            name: (await connection.execute(text(f'SELECT count(*) FROM "{name}"'))).scalar()  # noqa: S608
            for (name,) in tables
            if name != "audit_events"
        }
    await engine.dispose()
    kinds = ("vestibule:sessions:*", "vestibule:signup*", "vestibule:social:*")
    keys = {key for kind in kinds for key in await redis.keys(kind)}
    return {"rows": rows, "keys": keys}


@pytest.mark.standard("CL-13")
async def test_a_sign_up_is_still_there_after_scanners_have_seen_the_page(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    handle = await begin_sign_up(http, person)
    code = await mailed_code(services, outbox, person.email)
    for method in ("HEAD", "GET", "GET", "GET", "GET", "GET"):
        await http.request(method, PAGE)

    answer = await http.post("/auth/verify", json={"registration": handle, "code": code})
    assert answer.status_code == 200


@pytest.mark.standard("CL-13")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_the_page_is_only_read(http: httpx.AsyncClient, method: str) -> None:
    answer = await http.request(method, PAGE)

    assert answer.status_code == 405
    assert {part.strip() for part in answer.headers["allow"].split(",")} == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.standard("CL-13")
def test_the_script_acts_when_a_person_does_and_at_no_other_time() -> None:
    """Every call of `fetch` goes through `post`, and that only through the handler of a form's `submit`."""
    assert SCRIPT.count("fetch(") == 1
    assert not re.search(r"submit\(|requestSubmit|setTimeout|setInterval|sendBeacon|XMLHttp|location\s*=", SCRIPT)
    listened = set(re.findall(r'addEventListener\("(\w+)"', SCRIPT))
    assert listened == {"submit", "click", "hashchange"}
    assert re.findall(r"(\w+)\.click\(\)", SCRIPT) == ["button"]
    begin = SCRIPT.partition("function begin()")[2].partition("\n}\n")[0]
    assert not re.search(r"post\(|deeds|await", begin)


@pytest.mark.standard("CL-12")
def test_the_secret_leaves_the_address_bar_first_and_is_kept_nowhere() -> None:
    begin = SCRIPT.partition("function begin()")[2].partition("\n}\n")[0]
    assert begin.index("history.replaceState") < begin.index("token =")
    assert not re.search(r"localStorage|sessionStorage|indexedDB|document\.cookie|console\.|postMessage", SCRIPT)


@pytest.mark.standard("CL-12")
def test_each_purpose_takes_its_own_secret_and_posts_it() -> None:
    table = re.search(r"PREFIXES = \{([^}]*)\}", SCRIPT)
    assert table is not None
    assert dict(re.findall(r'(\w+): "(\w+)"', table[1])) == {
        "verify": "vlk_",
        "reset": "vpr_",
        "email": "vec_",
        "undo": "veu_",
    }
    assert set(re.findall(r'post\("([^"]+)"', SCRIPT)) == {
        "verify",
        "login",
        "logout",
        "password/reset",
        "../me/email/confirm",
    }
    assert 'credentials: "omit"' in SCRIPT


# Headers


@pytest.mark.standard("CK-11", "CK-13", "CK-14", "CK-16", "CK-27", "CK-30")
async def test_the_page_has_the_headers_of_a_page(http: httpx.AsyncClient) -> None:
    answer = await page(http)
    headers = answer.headers

    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    assert headers.get_list("cross-origin-opener-policy") == ["same-origin"]
    assert headers.get_list("cache-control") == ["no-store"]
    assert headers["x-content-type-options"] == "nosniff"
    assert [part.strip().lower() for part in headers["vary"].split(",")] == ["accept-language", "origin"]
    assert "set-cookie" not in headers


@pytest.mark.standard("CK-11", "CK-14", "CK-25")
async def test_the_policy_allows_our_own_two_files_and_calls_to_ourselves(http: httpx.AsyncClient) -> None:
    answer = await page(http)
    directives = policy(answer)
    (script,), (style,) = directives["script-src"], directives["style-src"]

    assert directives["default-src"] == ["'none'"]
    assert directives["connect-src"] == ["'self'"]
    assert directives["base-uri"] == directives["form-action"] == directives["frame-ancestors"] == ["'none'"]
    assert directives["require-trusted-types-for"] == ["'script'"]
    assert script == style
    nonce = re.fullmatch(r"'nonce-([A-Za-z0-9_-]{22,})'", script)
    assert nonce is not None
    assert {tag.get("nonce") for tag in Reader(answer.text).all("script", "link", "style")} == {nonce[1]}


@pytest.mark.standard("CK-11")
async def test_every_answer_has_a_nonce_of_its_own(http: httpx.AsyncClient) -> None:
    assert len({policy(await page(http))["script-src"][0] for _ in range(5)}) == 5


async def test_head_says_what_get_says(http: httpx.AsyncClient) -> None:
    for path in (PAGE, f"{PAGE}/confirm.js", f"{PAGE}/confirm.css"):
        got, head = await http.get(path), await http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        changing = {"x-request-id", "content-security-policy"}
        assert {k: v for k, v in got.headers.items() if k not in changing} == {
            k: v for k, v in head.headers.items() if k not in changing
        }


# The files


@pytest.mark.standard("CK-26", "CK-25", "CK-27")
async def test_the_page_loads_its_own_files_and_nothing_else(http: httpx.AsyncClient) -> None:
    answer = await page(http)
    reader = Reader(answer.text)
    loaded = [tag.get("src") or tag.get("href") for tag in reader.all("script", "link", "img", "iframe", "a", "base")]

    assert sorted(map(str, loaded)) == ["confirm/confirm.css", "confirm/confirm.js"]
    kinds = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
    for source in map(str, loaded):
        asset = await http.get(httpx.URL(f"https://auth.test{PAGE}").join(source))
        assert (asset.status_code, asset.headers["content-type"]) == (200, kinds[source.rpartition(".")[2]])
        assert asset.headers["x-content-type-options"] == "nosniff"
        assert asset.headers["cross-origin-resource-policy"] == "same-origin"
        assert not re.search(r"https?:|//[a-z]|@import|url\(", asset.text)
    assert not re.search(r"https?:|//[a-z]", answer.text)
    assert "<style" not in answer.text
    assert not re.search(r"<script[^>]*>[^<]", answer.text)


@pytest.mark.parametrize(
    "name",
    ["confirm.html", "texts.toml", "controller.py", "..%2ftexts.toml", "..%2f..%2fapp.py", ".", "%2e%2e", "confirm.JS"],
)
async def test_no_other_file_is_served(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"{PAGE}/{name}")

    assert answer.status_code in {404, 405} or answer.url.path == PAGE
    assert "import" not in answer.text


@pytest.mark.standard("CK-25")
def test_text_is_inserted_as_text() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|DOMParser|createContextual|srcdoc"
    assert not re.search(forbidden, SCRIPT)
    template = (WEB / "templates" / "confirm.html").read_text(encoding="utf-8")
    assert "safe" not in template
    assert not re.search(r"autoescape", template)


# The forms


@pytest.mark.standard("PW-07", "PW-08")
async def test_passwords_are_masked_and_managers_may_fill_them(http: httpx.AsyncClient) -> None:
    answer = await page(http)
    passwords = [tag for tag in Reader(answer.text).all("input") if "password" in str(tag.get("id"))]

    assert {str(tag["id"]): (tag["type"], tag["autocomplete"]) for tag in passwords} == {
        "verify-password": ("password", "current-password"),
        "reset-password": ("password", "new-password"),
        "undo-password": ("password", "new-password"),
        "email-password": ("password", "current-password"),
    }
    assert all("maxlength" not in tag for tag in passwords)
    assert 'autocomplete="off"' not in answer.text
    assert not re.search(r"\son\w+=|paste", answer.text + SCRIPT)


@pytest.mark.standard("PW-07", "CL-12")
async def test_a_form_cannot_put_a_password_into_an_address(http: httpx.AsyncClient) -> None:
    """Not even when the script did not load."""
    answer = await page(http)
    assert [form["method"] for form in Reader(answer.text).all("form")] == ["post"] * 4
    assert policy(answer)["form-action"] == ["'none'"]


async def test_every_field_has_a_label_and_everything_waits_for_the_link(http: httpx.AsyncClient) -> None:
    reader = Reader((await page(http)).text)
    labels = {label["for"] for label in reader.all("label")}

    assert {field["id"] for field in reader.all("input")} == labels
    assert {section["id"] for section in reader.all("section")} == {*PURPOSES, "nothing"}
    assert all("hidden" in section for section in reader.all("section"))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert any(tag.get("role") == "status" and tag.get("aria-live") == "polite" for tag in reader.all("p"))
    assert reader.all("noscript")


# The words


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_page_speaks_the_language_of_the_browser(http: httpx.AsyncClient, language: str) -> None:
    answer = await page(http, f"xx, {language};q=0.9, de;q=0.1")

    assert answer.headers["content-language"] == language
    assert f'<html lang="{language}">' in answer.text
    assert LANGUAGES[language] in answer.text


@pytest.mark.parametrize("given", ["", "de", "*", "xx-YY;q=x", "<script>", "en;q=0"])
async def test_any_other_wish_is_answered_too(http: httpx.AsyncClient, given: str) -> None:
    assert (await page(http, given)).headers["content-language"] in LANGUAGES
    assert "<script>" not in (await page(http, given)).text


def test_all_languages_say_all_things() -> None:
    texts = tomllib.loads((WEB / "texts.toml").read_text(encoding="utf-8"))
    said = {language: {path: words for path, words in _leaves(texts[language])} for language in texts}

    assert set(said) == set(LANGUAGES)
    for language, words in said.items():
        assert set(words) == set(said["en"]), language
        assert all(words.values()), language
        for path, sentence in words.items():
            assert re.findall(r"\{\w*\}", sentence) == re.findall(r"\{\w*\}", said["en"][path]), (language, path)


def _leaves(node: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    return [
        leaf
        for name, value in node.items()
        for leaf in (_leaves(value, f"{path}{name}.") if isinstance(value, dict) else [(f"{path}{name}", value)])
    ]


def test_the_script_says_nothing_that_has_no_words() -> None:
    texts = tomllib.loads((WEB / "texts.toml").read_text(encoding="utf-8"))
    assert set(re.findall(r"\bmessages\.(\w+)", SCRIPT)) == set(texts["en"]["messages"])


async def test_the_page_names_the_product_and_the_least_length(http: httpx.AsyncClient, services: Services) -> None:
    answer = await page(http)

    assert f"· {services.settings.name}</title>" in answer.text
    assert f"At least {services.settings.password_min_length} characters" in answer.text


async def test_somebody_who_is_signed_in_sees_the_same_page(http: httpx.AsyncClient, person: Person) -> None:
    answer = await http.get(PAGE, headers={**person.headers, "Cookie": "__Host-vestibule-refresh=vrt_x"})

    assert answer.status_code == 200
    assert person.email not in answer.text

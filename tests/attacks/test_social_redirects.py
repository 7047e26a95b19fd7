"""Open redirects: after a sign-in a browser goes to a page of ours or of an allowed origin, however the page is put."""

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.fake_provider.provider import FakeProvider
from service.login.social import with_error
from service.origins import own_page
from service.settings import Settings
from tests.attacks.pages import ALLOWED, APP, FOREIGN, PAGES, PIECES, WITH_ERROR
from tests.attacks.social import assert_turned_away, own_worker, returning
from tests.conftest import ISSUER, Outbox, Person, TestClock, browser
from tests.deeds import field_codes
from tests.social.acting import REFRESH_COOKIE, Stranger, decided, with_query


def origin_in_a_browser(location: str) -> str:
    """Where a browser goes, after the URL Standard: it drops tabs and line ends, reads a backslash as a slash, minds
    neither the number of slashes nor the case, and takes what is before an @ for a name."""
    text = re.sub(r"[\t\n\r]", "", location.strip("".join(map(chr, range(0x21)))))
    scheme, colon, rest = text.partition(":")
    if not colon or scheme.lower() not in {"http", "https"}:
        return f"{scheme.lower()}:"
    authority = re.split(r"[/\\?#]", rest.lstrip("/\\"), maxsplit=1)[0]
    host = authority.rpartition("@")[2].lower().removesuffix(":443" if scheme.lower() == "https" else ":80")
    return f"{scheme.lower()}://{host}"


async def _begun(http: httpx.AsyncClient, query: str) -> httpx.Response:
    return await http.get(f"/auth/social/openid?{query}")


def assert_not_allowed(answer: httpx.Response, wanted: str) -> None:
    assert answer.status_code == 400, (wanted, answer.headers.get("location"))
    assert field_codes(answer) == [("next", "next_not_allowed")], wanted
    assert not {"location", "set-cookie", "refresh"} & set(answer.headers), wanted
    assert answer.headers["content-type"] == "application/problem+json"
    assert "evil" not in answer.text


@pytest.mark.standard("CL-14")
async def test_a_page_elsewhere_is_refused_before_anybody_goes_anywhere(
    http: httpx.AsyncClient, person: Person
) -> None:
    for wanted in FOREIGN:
        query = f"next={quote(wanted, safe='')}"
        assert_not_allowed(await _begun(http, query), wanted)
    for wanted in FOREIGN[::4]:
        query = f"next={quote(wanted, safe='')}"
        assert_not_allowed(await http.post(f"/me/identities/openid?{query}", headers=person.headers), wanted)


@pytest.mark.standard("CL-14")
@pytest.mark.parametrize(
    "query",
    [
        "next=https://app.test/x&next=https://evil.com",
        "next=https://evil.com&next=https://app.test/x",
        "next=/x&next=//evil.com",
        "next=//evil.com&next=/x",
        "next=/x&next=/x",
        "next[]=https://evil.com",
        "next=&next=https://evil.com",
        "next=https://app.test/x;next=https://evil.com",
        "next=https://app.test%ff.evil.com",
        "next=//evil.com%26next=/x",
        "next=%252f%252fevil.com",
        "next=/%09/evil.com",
        "next=/%5cevil.com",
        "next=%09//evil.com",
        "next=https:%5c%5cevil.com",
        "next=%ef%bc%8f%ef%bc%8fevil.com",
        "next=%c0%af%c0%afevil.com",
        "Next=https://evil.com",
        "wanted=https://evil.com",
    ],
)
async def test_no_way_to_write_the_parameter_leads_elsewhere(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, query: str
) -> None:
    """Refused, or a page of ours in the end: never the page of the attacker."""
    answer = await _begun(http, query)
    if answer.status_code != 303:
        assert answer.status_code == 400
        assert "location" not in answer.headers
        return
    done = await http.get(await decided(abroad, answer.headers["location"], Stranger()))
    assert done.status_code == 303
    assert origin_in_a_browser(done.headers["location"]) in ALLOWED
    assert "evil" not in httpx.URL(done.headers["location"]).host


@pytest.mark.standard("CL-14")
async def test_a_page_that_is_given_twice_is_refused(http: httpx.AsyncClient, person: Person) -> None:
    """Whoever checks the one must not follow the other."""
    for query in ("next=/x&next=/y", "next=/x&next=//evil.com", "next=//evil.com&next=/x"):
        for answer in (
            await _begun(http, query),
            await http.post(f"/me/identities/openid?{query}", headers=person.headers),
        ):
            assert answer.status_code == 400, (query, answer.headers.get("location"))


@pytest.mark.standard("CL-14")
async def test_a_page_of_ours_or_of_an_allowed_origin_is_reached_as_it_was_given(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    for wanted, reached in PAGES.items():
        begun = await _begun(http, f"next={quote(wanted, safe='')}")
        assert begun.status_code == 303, (wanted, begun.text)
        done = await http.get(await decided(abroad, begun.headers["location"], who))
        assert (done.status_code, done.headers.get_list("location")) == (303, [reached])
        assert origin_in_a_browser(reached) in ALLOWED
        assert done.headers["cache-control"] == "no-store"
        assert done.headers["referrer-policy"] == "no-referrer"


@pytest.mark.standard("CL-14", "SO-27")
async def test_an_error_stands_in_the_query_before_the_fragment(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    for wanted, reached in WITH_ERROR.items():
        begun = await _begun(http, f"next={quote(wanted, safe='')}")
        location = await decided(abroad, begun.headers["location"], Stranger(), decision="cancel")
        done = await http.get(location)
        assert (done.status_code, done.headers.get_list("location")) == (303, [reached])
        assert REFRESH_COOKIE not in done.headers.get("set-cookie", "")


@pytest.mark.standard("CL-14")
async def test_without_a_page_it_ends_at_ours(http: httpx.AsyncClient, abroad: httpx.AsyncClient) -> None:
    begun = await _begun(http, "")
    done = await http.get(await decided(abroad, begun.headers["location"], Stranger()))
    assert done.headers["location"] == f"{ISSUER}/auth/done"
    begun = await _begun(http, "")
    done = await http.get(await decided(abroad, begun.headers["location"], Stranger(), decision="cancel"))
    assert done.headers["location"] == f"{ISSUER}/auth/done?error=access_denied"


@pytest.mark.standard("CL-14", "SO-02")
async def test_a_page_cannot_be_put_into_what_comes_back(http: httpx.AsyncClient, abroad: httpx.AsyncClient) -> None:
    """Neither instead of the one that was kept, nor where none was."""
    who = Stranger()
    for name in ("next", "redirect_uri", "return_to", "RelayState", "error_uri"):
        location = await returning(http, abroad, "openid", who)
        done = await http.get(with_query(location, **{name: "https://evil.com"}))
        assert done.headers["location"] == "https://app.test/welcome"
        assert_turned_away(await http.get(f"/auth/social/openid/callback?{name}=https://evil.com&error=x"))


@pytest.fixture
def away(fake_provider: FakeProvider) -> Iterator[None]:
    """The OpenID provider is away."""
    fake_provider.discovery_fault = "down"
    yield
    fake_provider.discovery_fault = ""


@pytest.mark.standard("CL-14")
@pytest.mark.usefixtures("away", "services")
async def test_a_provider_that_is_away_leads_back_to_the_page_and_nowhere_else(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, way_abroad: httpx.AsyncBaseTransport
) -> None:
    async with own_worker(settings, wall_clock, outbox, way_abroad) as (_, app), browser(app) as http:
        answer = await _begun(http, f"next={quote(f'{APP}/x?y=1#z', safe='')}")
        assert answer.headers["location"] == f"{APP}/x?y=1&error=provider_unavailable#z"
        for wanted in FOREIGN[::6]:
            assert_not_allowed(await _begun(http, f"next={quote(wanted, safe='')}"), wanted)


@pytest.mark.standard("CL-14")
@pytest.mark.usefixtures("services")
async def test_origins_of_clients_are_no_pages_to_go_to_unless_they_are_allowed(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, way_abroad: httpx.AsyncBaseTransport
) -> None:
    fewer = msgspec.structs.replace(settings, allowed_origins=("http://localhost:3000",))
    async with own_worker(fewer, wall_clock, outbox, way_abroad) as (_, app), browser(app) as http:
        assert (await _begun(http, "next=http://localhost:3000/x")).status_code == 303
        for wanted in (f"{APP}/x", "http://localhost/x", "http://localhost:30000/x", "http://localhost:3000.evil.com"):
            assert_not_allowed(await _begun(http, f"next={quote(wanted, safe='')}"), wanted)


# Whatever somebody thinks of

WRITTEN = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=9).map("".join),
    st.tuples(
        st.sampled_from(["/", APP, ISSUER, f"{APP}/", f"{ISSUER}:"]), st.lists(st.sampled_from(PIECES), max_size=7)
    ).map(lambda parts: parts[0] + "".join(parts[1])),
    st.text(max_size=40),
    st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=40).map(lambda text: f"{APP}{text}"),
)


@pytest.mark.standard("CL-14")
@hypothesis_settings(derandomize=True, max_examples=800, deadline=None, database=None)
@given(wanted=WRITTEN)
@example(wanted="/x")
@example(wanted=f"{APP}/x?y#z")
@example(wanted=f"{APP}\\@evil.com")
def test_whatever_is_accepted_stays_with_us_as_browsers_read_it(settings: Settings, wanted: str) -> None:
    page = own_page(wanted, settings)
    if wanted in {"/x", f"{APP}/x?y#z"}:
        assert page is not None
    if page is None:
        return
    failed = with_error(page, "access_denied")
    for location in (page, failed):
        assert origin_in_a_browser(location) in ALLOWED
        assert location.isascii()
        assert location.isprintable()
        parts = urlsplit(location)
        assert f"{parts.scheme}://{parts.netloc}" in ALLOWED
    before, after = urlsplit(page), urlsplit(failed)
    assert (after.path, after.fragment) == (before.path, before.fragment)
    assert dict(parse_qsl(after.query))["error"] == "access_denied"
    assert after.query.startswith(before.query)


@pytest.mark.standard("CL-14")
def test_the_reading_of_browsers_tells_the_table_apart() -> None:
    """What the property above is worth."""
    assert {origin_in_a_browser(page) for page in PAGES.values()} == ALLOWED
    for wanted in (
        "https:evil.com",
        "https:\\\\evil.com",
        "https://app.test@evil.com",
        "ht\ntps:///evil.com/@app.test",
    ):
        assert origin_in_a_browser(wanted) == "https://evil.com"
    assert origin_in_a_browser("https://evil.com\\@app.test") == "https://evil.com"
    assert origin_in_a_browser("HTTPS:/APP.test:443") == APP

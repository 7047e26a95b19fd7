"""Discovery: whose document it is, what it may say, and what happens when it cannot be had."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from service.errors import ProviderUnavailable
from service.settings import Settings
from service.wiring import Services
from tests.conftest import ABROAD, Outbox, TestClock, browser
from tests.deeds import bearer, sign_in, with_account
from tests.social.acting import PAGE, Stranger, decided, error_of, signed_in, through
from tests.social.elsewhere import DOCUMENT, KEY_SET, TOKEN, Elsewhere, elsewhere, stage

HOUR = 3600
COOLDOWN = 60
IMPATIENT = timedelta(seconds=1)
AWAY = ("down", "slow", "rubbish", "http_redirect", "internal_endpoints")
IMPOSTORS = ("wrong_issuer", "other_issuer")
UNTRUSTED = "a provider is disabled: its discovery document names another issuer"


@pytest.fixture
def impatient(services: Services, settings: Settings) -> Settings:
    """The settings of a service that waits for nobody. The keys and clients of the first one are there by now."""
    return msgspec.structs.replace(settings, provider_timeout=IMPATIENT)


@pytest.fixture
async def there(impatient: Settings, clock: TestClock) -> AsyncIterator[Elsewhere]:
    async with elsewhere(impatient, clock) as found:
        yield found


async def offered(http: httpx.AsyncClient) -> set[str]:
    """The providers that people may choose."""
    return {one["provider"] for one in (await http.get("/auth/social")).json()}


async def begun(http: httpx.AsyncClient) -> str:
    """Where a sign-in leads to."""
    answer = await http.get("/auth/social/openid", params={"next": PAGE})
    assert answer.status_code == 303, answer.text
    location: str = answer.headers["location"]
    return location


def is_at_provider(location: str) -> bool:
    return location.startswith(f"{ABROAD}/openid/authorize?")


# Whose document it is


@pytest.mark.standard("SO-07")
@pytest.mark.parametrize("fault", IMPOSTORS)
async def test_a_provider_is_disabled_while_its_document_names_another_issuer(
    impatient: Settings, clock: TestClock, outbox: Outbox, fault: str
) -> None:
    with capture_logs() as lines:
        async with stage(impatient, clock, outbox, fault) as on, browser(on.app) as http:
            assert await offered(http) == {"discord", "github"}
            assert await begun(http) == f"{PAGE}?error=provider_unavailable"

            on.fake.discovery_fault = ""
            assert await begun(http) == f"{PAGE}?error=provider_unavailable"
            assert on.fetches(DOCUMENT) == 1
            await clock.advance(seconds=COOLDOWN + 1)
            assert is_at_provider(await begun(http))
            assert await offered(http) == {"openid", "discord", "github"}
            await signed_in(http, await through(http, on.browser, "openid", Stranger()))
    [line] = [line for line in lines if line["event"] == UNTRUSTED]
    assert (line["log_level"], line["provider"], line["configured"]) == ("error", "openid", f"{ABROAD}/openid")
    assert line["named"] != line["configured"]


@pytest.mark.standard("SO-07")
@pytest.mark.parametrize("fault", IMPOSTORS)
async def test_a_provider_that_becomes_another_one_finishes_no_sign_in(
    impatient: Settings, clock: TestClock, outbox: Outbox, fault: str
) -> None:
    async with stage(impatient, clock, outbox) as on, browser(on.app) as http:
        location = await decided(on.browser, await begun(http), Stranger())
        on.fake.discovery_fault = fault
        await clock.advance(seconds=HOUR + 1)
        asked = on.way.asked.count(TOKEN)
        assert error_of(await http.get(location)) == "provider_unavailable"
        assert on.way.asked.count(TOKEN) == asked
        assert await offered(http) == {"discord", "github"}
        await clock.advance(seconds=COOLDOWN + 1)
        on.fake.discovery_fault = "down"
        assert await begun(http) == f"{PAGE}?error=provider_unavailable"
        assert await offered(http) == {"discord", "github"}


@pytest.mark.standard("SO-07")
@pytest.mark.parametrize(
    "issuer", [f"{ABROAD}/OpenID", f"{ABROAD}/openid?", f"{ABROAD}/openid#", f" {ABROAD}/openid", ABROAD, "", "openid"]
)
async def test_an_issuer_is_compared_letter_by_letter(there: Elsewhere, issuer: str) -> None:
    there.document(issuer=issuer)
    with pytest.raises(ProviderUnavailable):
        await there.authorize_url()
    assert there.openid not in list(there.providers)


# What it may say


@pytest.mark.standard("SO-19")
@pytest.mark.parametrize("member", ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"])
async def test_an_endpoint_is_a_secure_url(there: Elsewhere, clock: TestClock, member: str) -> None:
    urls: tuple[object, ...] = (
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://provider.test/",
        "http://127.0.0.1.provider.test/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "javascript:alert(1)",
        "//provider.test/",
        "/token",
        "https://",
        "https://provider.test:0/",
        "x" * 3000,
        5,
        ["https://provider.test/"],
    )
    for url in urls:
        there.document(**{member: url})
        with pytest.raises(ProviderUnavailable):
            await there.authorize_url()
        await clock.advance(seconds=COOLDOWN + 1)
    assert set(there.way.asked) == {DOCUMENT}


@pytest.mark.parametrize(
    "document",
    [b"", b"null", b"[]", b'"text"', b"{}", b"\xff\xfe", b"<!doctype html>", b"[" * 9000],
    ids=range(8),
)
async def test_a_document_that_is_none_makes_the_provider_unavailable(there: Elsewhere, document: bytes) -> None:
    there.way.answer(DOCUMENT, document)
    with pytest.raises(ProviderUnavailable):
        await there.authorize_url()


@pytest.mark.parametrize("member", ["issuer", "authorization_endpoint", "token_endpoint", "jwks_uri"])
async def test_a_document_without_what_is_needed_makes_the_provider_unavailable(
    there: Elsewhere, clock: TestClock, member: str
) -> None:
    for value in (None, 5, ["x"], True):
        there.document(**{member: value})
        with pytest.raises(ProviderUnavailable):
            await there.authorize_url()
        await clock.advance(seconds=COOLDOWN + 1)
    there.document()
    assert is_at_provider(await there.authorize_url())


async def test_a_query_of_the_authorization_endpoint_is_kept(there: Elsewhere) -> None:
    there.document(authorization_endpoint=f"{ABROAD}/openid/authorize?tenant=a%26b&empty=")
    url = httpx.URL(await there.authorize_url())
    assert (url.params["tenant"], url.params["empty"], url.params["response_type"]) == ("a&b", "", "code")
    assert str(url).count("?") == 1


# When it cannot be had


@pytest.mark.standard("SO-19", "SO-20")
@pytest.mark.parametrize("fault", AWAY)
async def test_whoever_begins_while_a_provider_is_away_is_back_at_once(
    impatient: Settings, clock: TestClock, outbox: Outbox, fault: str
) -> None:
    async with stage(impatient, clock, outbox, fault) as on, browser(on.app) as http:
        assert await begun(http) == f"{PAGE}?error=provider_unavailable"
        person = await with_account(on.services)
        headers = bearer(await sign_in(http, person))
        linking = await http.post("/me/identities/openid", params={"next": PAGE}, headers=headers)
        assert (linking.status_code, linking.json()["code"]) == (502, "provider_unavailable")
        assert linking.headers["content-type"] == "application/problem+json"
        assert "openid" in await offered(http)  # it may be back by the time somebody chooses it
        assert on.way.asked == [DOCUMENT]

        on.fake.discovery_fault = ""
        await clock.advance(seconds=COOLDOWN + 1)
        await signed_in(http, await through(http, on.browser, "openid", Stranger()))


@pytest.mark.standard("SO-07")
async def test_a_disabled_provider_cannot_be_linked_either(
    impatient: Settings, clock: TestClock, outbox: Outbox
) -> None:
    async with stage(impatient, clock, outbox, "wrong_issuer") as on, browser(on.app) as http:
        headers = bearer(await sign_in(http, await with_account(on.services)))
        linking = await http.post("/me/identities/openid", params={"next": PAGE}, headers=headers)
        assert (linking.status_code, linking.json()["code"]) == (502, "provider_unavailable")


async def test_a_document_is_fetched_once_an_hour_for_all(there: Elsewhere, clock: TestClock) -> None:
    for expected in (1, 2):
        there.way.delay = 0.01
        await asyncio.gather(*(there.authorize_url() for _ in range(50)))
        assert there.fetches(DOCUMENT) == expected
        await clock.advance(seconds=HOUR - 10)
        await there.authorize_url()
        assert there.fetches(DOCUMENT) == expected
        await clock.advance(seconds=20)


@pytest.mark.parametrize("fault", AWAY)
async def test_a_provider_that_is_away_is_asked_once_a_minute_for_all(
    there: Elsewhere, clock: TestClock, fault: str
) -> None:
    there.fake.discovery_fault = fault
    for expected in (1, 2):
        found = await asyncio.gather(*(there.authorize_url() for _ in range(20)), return_exceptions=True)
        assert {type(one) for one in found} == {ProviderUnavailable}
        assert there.fetches(DOCUMENT) == expected
        await clock.advance(seconds=COOLDOWN + 1)
    there.fake.discovery_fault = ""
    assert is_at_provider(await there.authorize_url())


@pytest.mark.parametrize("fault", AWAY)
async def test_an_old_document_is_used_on_while_the_provider_is_away(
    there: Elsewhere, clock: TestClock, fault: str
) -> None:
    right = await there.authorize_url()
    there.fake.discovery_fault = fault
    await clock.advance(seconds=HOUR + 1)
    for expected in (2, 3):
        found = await asyncio.gather(*(there.authorize_url() for _ in range(20)))
        assert {url.partition("?")[0] for url in found} == {right.partition("?")[0]}
        assert there.fetches(DOCUMENT) == expected
        await clock.advance(seconds=COOLDOWN + 1)
    there.fake.discovery_fault = ""
    who = Stranger()
    assert (await there.identified(who)).subject == who.subject
    assert there.fetches(DOCUMENT) == 4


@pytest.mark.parametrize("fault", ["jwks_down", "jwks_rubbish"])
async def test_a_sign_in_without_keys_to_verify_it_ends_at_its_page(
    impatient: Settings, clock: TestClock, outbox: Outbox, fault: str
) -> None:
    async with stage(impatient, clock, outbox, fault) as on, browser(on.app) as http:
        who = Stranger()
        assert error_of(await through(http, on.browser, "openid", who)) == "provider_unavailable"
        on.fake.discovery_fault = ""
        await clock.advance(seconds=COOLDOWN + 1)
        await signed_in(http, await through(http, on.browser, "openid", who))
        assert on.fetches(KEY_SET) == 2


async def test_one_provider_that_is_away_does_not_hold_up_the_others(
    impatient: Settings, clock: TestClock, outbox: Outbox
) -> None:
    async with stage(impatient, clock, outbox, "down") as on, browser(on.app) as http:
        for name in ("discord", "github"):
            await signed_in(http, await through(http, on.browser, name, Stranger()))

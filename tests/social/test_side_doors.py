"""What a second look found: each was open once."""

import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import unquote_plus

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from litestar import Litestar
from sqlalchemy import select

from service.audit import AuditEvent
from service.crypto.id_tokens import read_jwks
from service.errors import InvalidOrExpiredCode, ProviderAnswerInvalid, ProviderEmailUnverified, ProviderUnavailable
from service.provider_settings import ProviderSettings
from service.providers import calls, openid
from service.providers.discord import DiscordProvider
from service.providers.openid import TRUTH_AS_TEXT
from service.settings import Settings
from service.tokens.session_facts import Ended
from service.wiring import Services
from tests.conftest import TestClock, browser, somebody
from tests.social.acting import PAGE, Stranger, error_of, me, signed_in, through
from tests.social.elsewhere import KEY_SET, Elsewhere, elsewhere

GITHUB_TOKEN = "/github/login/oauth/access_token"
ADDRESSES = "/github/api/v3/user/emails"


@pytest.fixture
async def there(settings: Settings, clock: TestClock) -> AsyncIterator[Elsewhere]:
    async with elsewhere(settings, clock) as found:
        yield found


@pytest.mark.standard("SO-25")
async def test_a_key_of_a_provider_never_keeps_us_busy(there: Elsewhere) -> None:
    """A private half is taken apart by the library, which takes minutes for a large modulus."""
    huge = "A" * 11_000
    published = [*there.fake.keys.jwks["keys"], {"kty": "RSA", "n": huge, "e": "AQAB", "d": huge}]
    there.way.answer(KEY_SET, {"keys": published})
    started = time.perf_counter()
    assert (await there.vouched()).subject == "ann-1"
    with pytest.raises(ProviderAnswerInvalid):
        await there.presented(_signed_with_rsa(there))
    assert time.perf_counter() - started < 20  # it took minutes
    assert all(set(key) <= {"kty", "kid", "use", "alg", "crv", "x", "y"} for key in read_jwks({"keys": published}))


def _signed_with_rsa(there: Elsewhere) -> str:
    import jwt

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    there.document(id_token_signing_alg_values_supported=["RS256", "ES256"])
    return jwt.encode({"sub": "x"}, key, algorithm="RS256")


async def test_states_that_never_were_leave_no_row_in_the_trail(app: Litestar, services: Services) -> None:
    seen = somebody().nickname
    async with browser(app) as http:
        http.headers["User-Agent"] = seen
        for state in ("", "x", "vss_AAAA"):
            assert (await http.get("/auth/social/discord/callback", params={"state": state})).status_code == 400
        answer = await http.post("/auth/login", json=somebody().credentials())
        assert answer.status_code == 401
    await services.audit.flush()
    statement = select(AuditEvent.event).where(AuditEvent.user_agent == seen)
    async with services.database.begin() as transaction:
        assert (await transaction.scalars(statement)).all() == ["login"]


async def test_a_picture_of_a_foreign_page_begins_nothing(http: httpx.AsyncClient) -> None:
    for mode, place in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("navigate", "object")):
        sent = {"Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": place, "Sec-Fetch-Site": "cross-site"}
        answer = await http.get("/auth/social/discord", headers=sent)
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_refused"), (mode, place)
    headers = {
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
        "Sec-Fetch-Site": "cross-site",
    }
    assert (await http.get("/auth/social/discord", params={"next": PAGE}, headers=headers)).status_code == 303


@pytest.mark.standard("LG-19")
@pytest.mark.parametrize("provider", ["openid", "discord", "github"])
async def test_nobody_is_signed_in_silently(http: httpx.AsyncClient, provider: str) -> None:
    answer = await http.get(f"/auth/social/{provider}")
    assert "prompt=none" not in answer.headers["location"]
    assert "__Host-vestibule-refresh" not in answer.cookies


async def test_a_name_server_that_does_not_answer_takes_no_thread_of_others() -> None:
    one, other = (calls.GuardedTransport(is_private=True) for _ in range(2))
    await one.aclose()
    for transport, outcome in ((one, RuntimeError), (other, httpx.ConnectError)):
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(outcome):  # it asks in threads of its own, or not at all
                await client.get("https://localhost:1/")


@pytest.mark.standard("SO-25")
async def test_a_key_set_without_a_key_for_us_is_none(there: Elsewhere, clock: TestClock) -> None:
    await there.vouched()
    there.way.answer(KEY_SET, {"keys": [{**key, "use": "enc"} for key in there.fake.keys.jwks["keys"]]})
    await clock.advance(hours=2)
    for _ in range(5):
        assert (await there.vouched()).subject == "ann-1"
    assert there.fetches(KEY_SET) == 2


async def test_a_limit_of_github_is_no_missing_permission(there: Elsewhere) -> None:
    for headers in ({"Retry-After": "30"}, {"X-RateLimit-Remaining": "0"}):
        there.way.answer(ADDRESSES, {"message": "API rate limit exceeded"}, 403, **headers)
        with pytest.raises(ProviderUnavailable):
            await there.identified(Stranger(), "github")


async def test_whatever_host_is_named_it_is_no_crash_and_no_way_elsewhere(http: httpx.AsyncClient) -> None:
    for host in ("127.0.0.1:99999", "auth.test:99999", "[::1", "localhost", "", "evil.test"):
        answer = await http.get("/auth/social/discord", headers={"Host": host})
        assert answer.status_code == 303, host
        assert answer.headers["location"].startswith("http://127.0.0.1:9/discord/"), host


@pytest.mark.standard("SO-23")
async def test_github_says_in_words_of_its_own_that_an_address_is_not_verified(there: Elsewhere) -> None:
    there.way.answer(GITHUB_TOKEN, {"error": "unverified_user_email"})
    with pytest.raises(ProviderEmailUnverified):
        await there.identified(Stranger(), "github")


@pytest.mark.standard("SO-23")
async def test_a_github_app_without_the_addresses_still_knows_who_somebody_is(there: Elsewhere) -> None:
    who = Stranger()
    for status in (403, 404):
        there.way.answer(ADDRESSES, {"message": "Resource not accessible by integration"}, status)
        found = await there.identified(who, "github")
        assert (found.subject, found.email, found.email_verified) == (who.subject, "", False)


async def test_a_clock_that_was_set_back_does_not_stop_the_search_for_keys(there: Elsewhere, clock: TestClock) -> None:
    await clock.advance(days=2)
    await there.vouched()
    await clock.advance(days=-2)
    there.fake.rotate_key()
    assert (await there.vouched()).subject == "ann-1"


async def test_a_public_name_is_never_an_address(http: httpx.AsyncClient, abroad: httpx.AsyncClient) -> None:
    who = Stranger()
    who.username = who.email
    answer = await through(http, abroad, "openid", who, name="")
    assert (await me(http, await signed_in(http, answer)))["nickname"].startswith("user-")


@pytest.mark.standard("SO-22")
async def test_the_text_true_is_true_at_apple_alone(there: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    told = ("true", "false", True, False, 1, None)
    found = [(await there.vouched(email_verified=value)).email_verified for value in told]
    assert found == [False, False, True, False, False, False]
    monkeypatch.setattr(openid, "TRUTH_AS_TEXT", {*openid.TRUTH_AS_TEXT, there.openid.issuer})
    found = [(await there.vouched(email_verified=value)).email_verified for value in told]
    assert found == [True, False, True, False, False, False]
    assert {"https://appleid.apple.com"} == TRUTH_AS_TEXT


@pytest.mark.standard("SO-27")
async def test_apple_has_its_own_word_for_cancelling(http: httpx.AsyncClient, abroad: httpx.AsyncClient) -> None:
    answer = await http.get("/auth/social/openid", params={"next": PAGE})
    state = httpx.URL(answer.headers["location"]).params["state"]
    issuer = httpx.URL(answer.headers["location"]).copy_with(path="/openid", query=None)
    back = {"error": "user_cancelled_authorize", "state": state, "iss": str(issuer)}
    assert error_of(await http.get("/auth/social/openid/callback", params=back)) == "access_denied"


def test_an_end_that_a_newer_release_wrote_is_an_end() -> None:
    assert Ended(77).reason == "ended"


async def test_discord_is_told_who_asks(there: Elsewhere, settings: Settings) -> None:
    agents = {one.id: one.calls.client.headers["user-agent"] for one in there.providers.all.values()}
    assert agents["discord"].startswith(f"DiscordBot ({settings.issuer}, ")
    assert agents["github"] == agents["openid"] == "vestibule"


@pytest.mark.standard("SO-26")
async def test_a_block_on_the_way_is_no_withdrawn_consent(there: Elsewhere) -> None:
    """A 403 is a word of whoever stands before Discord; that a token is over is a 401, and costs the tokens."""
    discord = there.providers.get("discord")
    assert isinstance(discord, DiscordProvider)
    for status, refusal in ((403, calls.NotGiven), (401, calls.TokenRefused)):
        there.way.answer("/discord/api/v10/users/@me/guilds", {"code": 40333}, status)
        with pytest.raises(refusal):
            await discord.guilds("a token")


async def test_a_person_has_two_hundred_servers_at_most_and_their_pictures_are_pictures(there: Elsewhere) -> None:
    discord = there.providers.get("discord")
    assert isinstance(discord, DiscordProvider)
    path, many = "/discord/api/v10/users/@me/guilds", [{"id": str(number), "name": "x"} for number in range(1, 500)]
    there.way.answer(path, many)
    assert len(await discord.guilds("a token")) == 200
    there.way.answer(path, [{"id": "1", "name": "x", "icon": "../../../evil.test/x"}])
    with pytest.raises(ProviderUnavailable):
        await discord.guilds("a token")


async def test_an_id_of_a_client_is_encoded_once_wherever_it_stands(settings: Settings, clock: TestClock) -> None:
    """As in a form within Basic credentials (RFC 6749 2.3.1), as in a query on the way there."""
    odd = "https://us.example:8443/a b"
    given = msgspec.structs.replace(settings.providers["openid"], client_id=odd)
    async with elsewhere(msgspec.structs.replace(settings, providers={"openid": given}), clock) as there:
        assert httpx.URL(await there.authorize_url()).params["client_id"] == odd
        sent: list[str] = []
        there.way.answer("/openid/token", {"error": "invalid_grant"}, 400)
        client = there.openid.calls.client
        client.event_hooks["request"] = [_noting(sent)]
        with pytest.raises(InvalidOrExpiredCode):
            await there.openid.identify("code", "https://auth.test/back", "v" * 43, None)
    name, _, _ = base64.b64decode(sent[-1].removeprefix("Basic ")).decode().partition(":")
    assert unquote_plus(name) == odd


def _noting(sent: list[str]) -> Callable[[httpx.Request], Awaitable[None]]:
    async def note(request: httpx.Request) -> None:
        sent.append(request.headers.get("authorization", ""))

    return note


@pytest.mark.standard("SO-26")
async def test_tokens_are_kept_where_something_is_asked_with_them(settings: Settings, clock: TestClock) -> None:
    without = msgspec.structs.replace(settings.providers["discord"], scopes=("identify", "email"))
    found = {}
    for name, given in (("with", settings), ("without", _with_discord(settings, without))):
        async with elsewhere(given, clock) as there:
            found[name] = {one.id for one in there.providers.all.values() if one.has_use_for_tokens}
    assert found == {"with": {"discord"}, "without": set()}


def _with_discord(settings: Settings, discord: ProviderSettings) -> Settings:
    return msgspec.structs.replace(settings, providers={**settings.providers, "discord": discord})

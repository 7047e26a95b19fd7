"""Answers of browsers and providers that nobody would think of: each ends like any other failure, none in a crash."""

from collections.abc import AsyncIterator, Mapping, Sequence

import httpx
import msgspec
import pytest
from httpx_oauth.oauth2 import OAuth2Token
from structlog.testing import capture_logs

from service.errors import ServiceError
from service.fake_provider.authorization import SCRIPT
from service.providers.calls import TokenRefused
from service.setting_values import Secret
from service.settings import Settings
from service.wiring import Services
from tests.conftest import ABROAD, Outbox, TestClock, browser
from tests.social.acting import PAGE, PROVIDERS, Stranger, begun, error_of, query_of, through
from tests.social.aftermath import Witness, ensure_no_session
from tests.social.elsewhere import NONCE, Elsewhere, Stage, elsewhere, stage

UNAVAILABLE = "provider_unavailable"
ME = "/discord/api/v10/users/@me"
TOKENS = {
    "openid": "/openid/token",
    "discord": "/discord/api/oauth2/token",
    "github": "/github/login/oauth/access_token",
}


@pytest.fixture
def witness(services: Services, settings: Settings, caplog: pytest.LogCaptureFixture) -> Witness:
    return Witness(services, settings, caplog)


@pytest.fixture
async def on(services: Services, settings: Settings, clock: TestClock, outbox: Outbox) -> AsyncIterator[Stage]:
    async with stage(settings, clock, outbox) as found:
        yield found


@pytest.fixture
async def there(settings: Settings, clock: TestClock) -> AsyncIterator[Elsewhere]:
    async with elsewhere(settings, clock) as found:
        yield found


async def outcome(on: Stage, provider: str) -> str:
    """How a sign-in ends: the word in the URL, or the status where there is no way on."""
    with capture_logs():
        async with browser(on.app) as http:
            answer = await through(http, on.browser, provider, Stranger())
    return error_of(answer) if answer.status_code == 303 else str(answer.status_code)


@pytest.mark.standard("SO-27")
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"error": "access_denied", "error_description": SCRIPT, "error_uri": "javascript:alert(1)"}, "access_denied"),
        ({"error": "consent_required"}, UNAVAILABLE),
        ({"error": "temporarily_unavailable"}, UNAVAILABLE),
        ({"error": ""}, UNAVAILABLE),
        ({"error": "access_denied "}, UNAVAILABLE),
        ({"error": "ACCESS_DENIED"}, UNAVAILABLE),
        ({"error": "<script>alert(1)</script>" * 50}, UNAVAILABLE),
        ({"error": "account_disabled"}, UNAVAILABLE),
        ({"error": "x\r\nSet-Cookie: a=b"}, UNAVAILABLE),
        ({"error": "access_denied", "code": "of somebody"}, "access_denied"),
        ({}, UNAVAILABLE),
        ({"code": ""}, UNAVAILABLE),
        ({"code": "x" * 5000}, UNAVAILABLE),
        ({"code": "of somebody"}, "invalid_or_expired_code"),
        ({"code": "<script>\x00\r\n"}, "invalid_or_expired_code"),
        ({"code": "é"}, "invalid_or_expired_code"),
        ({"access_token": "of somebody", "id_token": "of somebody", "token_type": "Bearer"}, UNAVAILABLE),
    ],
    ids=range(17),
)
async def test_the_word_for_a_failure_is_one_of_ours(
    http: httpx.AsyncClient,
    witness: Witness,
    *,
    provider: str,
    told: dict[str, str],
    code: str,
) -> None:
    state = query_of(await begun(http, provider))["state"]
    issuer = {"iss": witness.settings.providers["openid"].issuer} if provider == "openid" else {}
    callback = f"/auth/social/{provider}/callback"
    with witness.listening():
        answer = await http.get(callback, params={"state": state, **issuer, **told})
    assert answer.headers["location"] == f"{PAGE}?error={code}"
    assert (answer.status_code, answer.content) == (303, b"")
    ensure_no_session(answer)
    if "error_description" in told:
        assert "javascript" not in f"{answer.headers} {witness.log}"
        assert "<script" not in f"{answer.headers} {witness.log}"
    again = await http.get(callback, params={"state": state, **issuer, "code": "of somebody"})
    assert again.status_code == 400


# What a token endpoint says

TEXTS = ("tökén", "토큰", "a\nb", "a\r\nX: y", "\x00")
LIVES: tuple[object, ...] = ("soon", [5], None, "9" * 5000, -1, 10**30, True)
NO_TOKENS: tuple[object, ...] = (None, 5, "", [], {"a": 1}, True, "x" * 20_000)
TOKEN_ANSWERS: Mapping[str, Sequence[object]] = {
    "an error that is no text": [{"error": {"code": 1, "message": "x"}}, {"error": ["invalid_grant"]}, {"error": {}}],
    "an error of another kind": [{"error": 5}, {"error": None}, {"error": True}, {"error": "invalid_client"}],
    "no object": [b"null", b"5", b'"text"', b"[1]", b'[["access_token", 1]]', b"true", b"{", b"", b"\xff", b"[" * 9999],
    "no token": [{"access_token": token} for token in NO_TOKENS],
    "a token that no header holds": [{"access_token": token} for token in TEXTS],
    "half a character": [b'{"access_token": "\\ud800"}', b'{"access_token": "a", "refresh_token": "\\udfff"}'],
    "an odd life": [
        *({"access_token": "a", "expires_in": life} for life in LIVES),
        *(b'{"access_token": "a", "expires_in": %s}' % life for life in (b"1e999", b"NaN", b"-Infinity")),
    ],
}


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("kind", TOKEN_ANSWERS)
async def test_an_odd_answer_of_a_token_endpoint_is_a_provider_that_is_away(on: Stage, kind: str, status: int) -> None:
    found = {}
    for provider, path in TOKENS.items():
        for body in TOKEN_ANSWERS[kind]:
            on.way.answer(path, body, status)
            found[f"{provider} {body!r:.60}"] = await outcome(on, provider)
    without_id_token = {"provider_answer_invalid": UNAVAILABLE}  # which an OpenID provider is asked for first
    assert {how: word for how, word in found.items() if without_id_token.get(word, word) != UNAVAILABLE} == {}


async def test_a_status_of_a_token_endpoint_is_looked_at(on: Stage) -> None:
    for provider, path in TOKENS.items():
        for status in (204, 301, 307, 401, 403, 404, 418, 429, 500, 503):
            on.way.answer(path, b"", status, location=f"{ABROAD}/elsewhere/x")
            assert await outcome(on, provider) == UNAVAILABLE, status
    assert [path for path in on.way.asked if path.startswith("/elsewhere/")] == []


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refusal_of_our_own_secret_is_the_operators_business(
    on: Stage, witness: Witness, provider: str
) -> None:
    on.way.answer(TOKENS[provider], {"error": "invalid_client", "error_description": SCRIPT}, 401)
    with witness.listening():
        async with browser(on.app) as http:
            assert error_of(await through(http, on.browser, provider, Stranger())) == UNAVAILABLE
    [line] = [event for event in witness.events if event["log_level"] == "error"]
    assert line["provider"] == provider
    assert "script" not in witness.log


async def test_a_refresh_token_that_cannot_be_written_down_is_not_kept(on: Stage) -> None:
    who = Stranger()
    on.way.answer(TOKENS["discord"], b'{"access_token": "a", "refresh_token": "\\udfff", "expires_in": 600}')
    on.way.answer(ME, {"id": who.subject, "username": who.username, "email": who.email, "verified": True})
    assert await outcome(on, "discord") in {"", UNAVAILABLE}


async def test_an_access_token_that_is_no_text_of_a_header_is_refused_with_the_id_token_beside_it(
    there: Elsewhere,
) -> None:
    id_token = there.signed(there.fake.keys, email=None)
    for access_token in ("tökén", "\ud800", "a\r\nX: y"):
        for more in ({}, {"at_hash": "x"}):
            token = there.signed(there.fake.keys, **more) if more else id_token
            with pytest.raises((ServiceError, TokenRefused)):
                await there.openid.person(OAuth2Token({"access_token": access_token, "id_token": token}), NONCE)


@pytest.mark.parametrize("methods", [["client_secret_basic"], ["client_secret_post"]])
async def test_a_secret_is_told_as_the_provider_reads_it(
    settings: Settings, clock: TestClock, methods: list[str]
) -> None:
    """RFC 6749 section 2.3.1: in the Basic scheme, id and secret are encoded as in a form."""
    given = msgspec.structs.replace(settings.providers["openid"], client_secret=Secret("100%25 of a+b&c=d:e/f"))
    with_it = msgspec.structs.replace(settings, providers={**settings.providers, "openid": given})
    async with elsewhere(with_it, clock) as there:
        there.document(token_endpoint_auth_methods_supported=methods)
        who = Stranger()
        assert (await there.identified(who)).subject == who.subject

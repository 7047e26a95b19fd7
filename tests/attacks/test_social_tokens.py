"""Token substitution: a code, a token or an ID token of another sign-in, client or provider opens nothing."""

import httpx
import pytest
from litestar import Litestar

from service.fake_provider.provider import FakeProvider
from service.wiring import Services
from tests.attacks.social import (
    NativeAttempt,
    Wiretap,
    accounts_with,
    assert_signs_nobody_in,
    returning,
)
from tests.conftest import Introspector, Person, browser
from tests.social.acting import (
    PROVIDERS,
    Stranger,
    error_of,
    query_of,
    signed_in,
    with_query,
)


def assert_refused(answer: httpx.Response, code: str = "invalid_or_expired_code") -> None:
    assert answer.json()["code"] == code, answer.text
    assert answer.status_code >= 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert_signs_nobody_in(answer)


# Substitution


@pytest.mark.standard("SO-02", "SO-15")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_app_signs_in_with_a_code_of_its_own_once(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, native: str, provider: str
) -> None:
    app = NativeAttempt(http, abroad, native, provider)
    code = await app.code(Stranger())
    entered = await app.exchange(code)
    assert entered.status_code == 200, entered.text
    assert set(entered.json()) == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    assert_refused(await app.exchange(code))


@pytest.mark.standard("SO-02", "SO-15", "SO-05")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_code_of_somebody_elses_sign_in_is_worth_nothing_to_an_app(
    *,
    services: Services,
    fake_provider: FakeProvider,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    native: str,
    provider: str,
) -> None:
    victim, app = Stranger(), NativeAttempt(http, abroad, native, provider)
    theirs = NativeAttempt(http, abroad, native, provider)
    others = next(name for name in PROVIDERS if name != provider)
    callback = f"https://auth.test/auth/social/{provider}/callback"
    fake_provider.clients["another-app"] = "its secret"
    try:
        stolen = {
            "from another device": await theirs.code(victim),
            "of the web": query_of(await returning(http, abroad, provider, victim))["code"],
            "of the web, with our challenge": await app.code(victim, redirect_uri=callback),
            "of another client": await app.code(victim, client_id="another-app"),
            "for another redirect URI": await app.code(victim, redirect_uri="com.example.other:/back"),
            "without a challenge": await app.code(victim, code_challenge=None, code_challenge_method=None),
            "of another provider": await NativeAttempt(http, abroad, native, others, verifier=app.verifier).code(
                victim
            ),
        }
        for how, code in stolen.items():
            answer = await app.exchange(code)
            assert answer.json()["code"] == "invalid_or_expired_code", how
            assert_refused(answer)
    finally:
        del fake_provider.clients["another-app"]
    assert await accounts_with(services, victim.email) == []


@pytest.mark.standard("SO-05", "SO-15")
async def test_an_app_is_told_of_nobody_whose_nonce_is_another_one(
    services: Services, http: httpx.AsyncClient, abroad: httpx.AsyncClient, native: str
) -> None:
    victim = Stranger()
    for sent, shown in (("a" * 43, "b" * 43), ("a" * 43, None), (None, "a" * 43), ("a" * 43, "A" * 43), ("a", "")):
        app = NativeAttempt(http, abroad, native, "openid")
        app.nonce = shown
        assert_refused(await app.exchange(await app.code(victim, nonce=sent)), "provider_answer_invalid")
    assert await accounts_with(services, victim.email) == []


@pytest.mark.standard("SO-08", "SO-26")
async def test_no_token_is_a_code(
    *,
    tapped: Litestar,
    tap: Wiretap,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    native: str,
    person: Person,
) -> None:
    """Neither those that a provider made, nor ours."""
    async with browser(tapped) as victim:
        for provider in PROVIDERS:
            assert error_of(await victim.get(await returning(victim, abroad, provider, Stranger()))) == ""
    ours = {person.access_token, person.refresh_token}
    for token, provider in [(token, name) for token in tap.tokens() | ours for name in PROVIDERS]:
        app = NativeAttempt(http, abroad, native, provider)
        assert_refused(await app.exchange(token))
        answer = await http.get(with_query(await returning(http, abroad, provider, Stranger()), code=token))
        assert error_of(answer) == "invalid_or_expired_code"
        assert_signs_nobody_in(answer)


@pytest.mark.standard("SO-26", "SO-08")
async def test_a_providers_tokens_open_nothing_here(
    tapped: Litestar,
    tap: Wiretap,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    introspector: Introspector,
) -> None:
    async with browser(tapped) as victim:
        for provider in PROVIDERS:
            assert error_of(await victim.get(await returning(victim, abroad, provider, Stranger()))) == ""
    tokens = tap.tokens()
    assert len(tokens) >= 7
    for token in tokens:
        answer = await http.get("/me", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
        answer = await http.post("/auth/refresh", json={"refresh_token": token})
        assert (answer.status_code, answer.json()["code"]) in {(401, "session_expired"), (400, "invalid_input")}
        assert await introspector.ask(http, token) == {"active": False}


@pytest.mark.standard("SO-02", "SO-08")
async def test_what_stands_beside_the_code_is_not_looked_at(
    services: Services, http: httpx.AsyncClient, abroad: httpx.AsyncClient, tapped: Litestar, tap: Wiretap
) -> None:
    """Tokens in the front channel are those of the implicit flow, which is not ours."""
    victim = Stranger()
    async with browser(tapped) as theirs:
        assert error_of(await theirs.get(await returning(theirs, abroad, "openid", victim))) == ""
    told = tap.exchanges()[-1].answer.json()
    front = {name: told[name] for name in ("access_token", "id_token")}
    location = await returning(http, abroad, "openid", Stranger())
    answer = await http.get(with_query(location, **front, code=None, token_type="Bearer"))
    assert error_of(answer) == "provider_unavailable"
    assert_signs_nobody_in(answer)
    attacker = Stranger()
    location = await returning(http, abroad, "openid", attacker)
    headers = await signed_in(http, await http.get(with_query(location, **front)))
    assert (await http.get("/me", headers=headers)).json()["email"] == attacker.email

"""State, nonce and challenge: what comes back belongs to what was sent, and a code to who asked for it."""

import re
import secrets
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from litestar import Litestar

from service.crypto import opaque
from service.crypto.pkce import challenge_of
from service.fake_provider.provider import FakeProvider
from service.provider_settings import LEAST_SCOPES
from service.settings import Settings
from service.wiring import Services
from tests.attacks.social import (
    Wiretap,
    accounts_with,
    assert_signs_nobody_in,
    assert_turned_away,
    code_for,
    code_of_request,
    identities_of,
    own_worker,
    returning,
    social_cookie,
    token_calls,
)
from tests.conftest import ISSUER, Outbox, TestClock, browser
from tests.deeds import is_in, registered
from tests.social.acting import (
    PROVIDERS,
    REFRESH_COOKIE,
    SOCIAL_COOKIE,
    Stranger,
    begun,
    decided,
    error_of,
    query_of,
    signed_in,
    with_query,
)


@pytest.mark.standard("SO-01", "SO-02")
async def test_a_state_that_is_not_to_the_letter_the_one_that_was_sent_is_refused(
    services: Services, fake_provider: FakeProvider, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    location = await returning(http, abroad, "discord", who)
    right = query_of(location)["state"]
    fake_provider.requests.clear()
    for wrong in (
        None,
        "",
        right[:-1],
        right + "A",
        right.swapcase(),
        right.replace("vss_", "vsb_"),
        right.removeprefix("vss_"),
        f" {right}",
        f"{right}\0",
        f"{right}=",
        "*",
        "../" + right,
        "ѕ" + right[1:],  # noqa: RUF001  a Cyrillic letter
        opaque.mint("vss"),
        social_cookie(http),
        "A" * 5000,
    ):
        assert_turned_away(await http.get(with_query(location, state=wrong)))
    assert token_calls(fake_provider) == []
    assert await accounts_with(services, who.email) == []
    assert error_of(await http.get(location)) == ""


@pytest.mark.standard("SO-02")
async def test_nothing_may_stand_twice_in_an_answer(
    fake_provider: FakeProvider, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    fake_provider.requests.clear()
    for repeated in ("state", "code", "iss"):
        for other in (None, "another"):
            location = await returning(http, abroad, "openid", Stranger())
            value = other or query_of(location)[repeated]
            assert_turned_away(await http.get(f"{location}&{repeated}={value}"))
            head, _, query = location.partition("?")
            assert_turned_away(await http.get(f"{head}?{repeated}={value}&{query}"))
    location = await returning(http, abroad, "openid", Stranger())
    assert_turned_away(await http.get(f"{location}&error=x&error=y"))
    assert_turned_away(await http.get(f"{location}&{'&'.join(f'p{n}=1' for n in range(200))}"))
    assert_turned_away(await http.get(f"{location}&more={'x' * 20_000}"))
    assert token_calls(fake_provider) == []


@pytest.mark.standard("SO-27", "SO-02")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_error_beside_a_code_is_an_error(
    fake_provider: FakeProvider, http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str
) -> None:
    fake_provider.requests.clear()
    for said, told in (("access_denied", "access_denied"), ("server_error", "provider_unavailable")):
        location = await returning(http, abroad, provider, Stranger())
        answer = await http.get(with_query(location, error=said))
        assert error_of(answer) == told
        assert_signs_nobody_in(answer)
        assert_turned_away(await http.get(location))
    assert token_calls(fake_provider) == []


@pytest.mark.standard("SO-01", "SO-15")
async def test_nothing_that_is_sent_to_a_provider_was_sent_before(app: Litestar, abroad: httpx.AsyncClient) -> None:
    sent: list[dict[str, str]] = []
    for _ in range(4):
        async with browser(app) as http:
            sent += [query_of(await begun(http, "openid")) for _ in range(50)]
    for name in ("state", "nonce", "code_challenge"):
        assert len({query[name] for query in sent}) == 200, name
        assert min(len(query[name]) for query in sent) >= 43, name
    assert {query["code_challenge_method"] for query in sent} == {"S256"}
    assert {query["response_type"] for query in sent} == {"code"}
    assert not {query["state"] for query in sent} & {query["nonce"] for query in sent}


@pytest.mark.standard("SO-15")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_each_code_is_redeemed_with_the_verifier_of_its_challenge(
    tapped: Litestar, tap: Wiretap, abroad: httpx.AsyncClient, provider: str
) -> None:
    verifiers = set()
    async with browser(tapped) as http:
        for _ in range(5):
            asked = await begun(http, provider)
            assert query_of(asked)["code_challenge_method"] == "S256"
            tap.calls.clear()
            assert error_of(await http.get(await decided(abroad, asked, Stranger()))) == ""
            (exchange,) = tap.exchanges()
            verifier = exchange.form["code_verifier"]
            assert re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier)
            assert challenge_of(verifier) == query_of(asked)["code_challenge"]
            assert exchange.form["redirect_uri"] == f"{ISSUER}/auth/social/{provider}/callback"
            assert verifier not in asked
            verifiers.add(verifier)
    assert len(verifiers) == 5


@pytest.mark.standard("SO-04")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_no_more_is_asked_for_than_is_configured(
    *,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
    http: httpx.AsyncClient,
    provider: str,
) -> None:
    least = " ".join(LEAST_SCOPES[settings.providers[provider].kind])
    assert query_of(await begun(http, provider))["scope"] == least
    assert query_of(await begun(http, provider, prompt="login"))["scope"] == least
    fewer = msgspec.structs.replace(settings.providers[provider], scopes=("openid", "identify"))
    given = msgspec.structs.replace(settings, providers={**settings.providers, provider: fewer})
    async with own_worker(given, wall_clock, outbox, way_abroad) as (_, own), browser(own) as there:
        assert query_of(await begun(there, provider))["scope"] == "openid identify"


# Codes of somebody else


@pytest.mark.standard("SO-02", "SO-15")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_code_that_an_attacker_puts_into_a_victims_transaction_fails_at_the_exchange(
    app: Litestar, services: Services, http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str
) -> None:
    attacker, victim = Stranger(), Stranger()
    own = f"{ISSUER}/auth/social/{provider}/callback"
    for code in (
        await code_for(app, abroad, provider, attacker),
        await code_of_request(abroad, provider, attacker, redirect_uri=own),  # without a challenge: PKCE downgrade
        await code_of_request(
            abroad, provider, attacker, redirect_uri=own, code_challenge="A" * 43, code_challenge_method="S256"
        ),
    ):
        location = await returning(http, abroad, provider, victim)
        answer = await http.get(with_query(location, code=code))
        assert error_of(answer) == "invalid_or_expired_code"
        assert_signs_nobody_in(answer)
        assert_turned_away(await http.get(location))
    assert await accounts_with(services, attacker.email) == []
    assert await identities_of(services, attacker) == []


@pytest.mark.standard("SO-02", "SO-05")
async def test_even_a_provider_that_forgets_the_challenge_cannot_be_made_to_swap_sessions(
    tapped: Litestar, tap: Wiretap, services: Services, abroad: httpx.AsyncClient
) -> None:
    """The code is good and its verifier too: the nonce says that it belongs to another sign-in."""
    attacker = Stranger()
    own = f"{ISSUER}/auth/social/openid/callback"
    async with browser(tapped) as http:
        for nonce in (None, "", "another"):
            asked = await begun(http, "openid")
            same = {
                "code_challenge": query_of(asked)["code_challenge"],
                "code_challenge_method": "S256",
                "redirect_uri": own,
            }
            code = await code_of_request(abroad, "openid", attacker, nonce=nonce, **same)
            answer = await http.get(with_query(await decided(abroad, asked, Stranger()), code=code))
            assert error_of(answer) == "provider_answer_invalid"
            assert_signs_nobody_in(answer)
            assert tap.exchanges()[-1].answer.status_code == 200
    assert await accounts_with(services, attacker.email) == []


@pytest.mark.standard("SO-01", "SO-02")
async def test_a_refused_callback_leaves_the_session_of_its_browser_alone(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    headers = await signed_in(http, await http.get(await returning(http, abroad, "openid", Stranger())))
    before = http.cookies[REFRESH_COOKIE]
    async with browser(app) as attackers:
        foreign = await returning(attackers, abroad, "openid", Stranger())
    swapped = with_query(
        await returning(http, abroad, "openid", Stranger()), code=await code_for(app, abroad, "openid", Stranger())
    )
    assert_turned_away(await http.get(foreign))
    assert error_of(await http.get(swapped)) == "invalid_or_expired_code"
    assert http.cookies[REFRESH_COOKIE] == before
    assert await is_in(http, headers)


# The other end


@pytest.mark.standard("SO-16")
async def test_a_transaction_is_over_when_its_provider_is_another_one_by_now(
    *,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    tap: Wiretap,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
) -> None:
    """The name stays, the issuer behind it changes: the code goes to nobody."""
    for provider, setting in (("openid", "issuer"), ("discord", "url"), ("github", "url")):
        given = settings.providers[provider]
        moved = msgspec.structs.replace(given, **{setting: f"{getattr(given, setting)}2"})
        others = msgspec.structs.replace(settings, providers={provider: moved})
        location = await returning(http, abroad, provider, Stranger())
        async with own_worker(others, wall_clock, outbox, tap) as (_, own), browser(own) as there:
            there.cookies.set(SOCIAL_COOKIE, social_cookie(http), domain="auth.test", path="/")
            tap.calls.clear()
            assert_turned_away(await there.get(with_query(location, iss=None)))
            assert [call for call in tap.calls if call.method == "POST"] == []


@pytest.mark.standard("SO-16")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_code_goes_to_the_provider_it_was_asked_of_and_to_nobody_else(
    fake_provider: FakeProvider, http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str
) -> None:
    location = await returning(http, abroad, provider, Stranger())
    assert urlsplit(location).path == f"/auth/social/{provider}/callback"
    fake_provider.requests.clear()
    assert error_of(await http.get(location)) == ""
    assert len(token_calls(fake_provider)) == 1
    assert {call.split()[1].split("/")[1] for call in fake_provider.requests} == {provider}


async def test_a_client_that_is_disabled_meanwhile_gets_no_session(
    services: Services, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    client = f"app-{secrets.token_hex(4)}"
    await registered(services, client, confidential=False)
    location = await decided(abroad, await begun(http, "openid", client_id=client), Stranger())
    await services.client_administration.set_disabled(client, disabled=True)
    answer = await http.get(location)
    assert error_of(answer) != ""
    assert_signs_nobody_in(answer)

"""Mix-up: one provider's answer is never taken for another's, and one issuer's people never for another's."""

from itertools import permutations
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from litestar import Litestar

from service.app import create_app
from service.fake_provider.backstage import ANOTHER_ISSUER
from service.fake_provider.provider import FakeProvider
from service.settings import Settings
from service.wiring import Services, build
from tests.attacks.social import (
    Wiretap,
    accounts_with,
    assert_signs_nobody_in,
    assert_turned_away,
    identities_of,
    own_worker,
    returning,
    social_cookie,
    token_calls,
)
from tests.conftest import ABROAD, Outbox, TestClock, browser, shifted
from tests.social.acting import (
    PROVIDERS,
    SOCIAL_COOKIE,
    Stranger,
    begun,
    decided,
    error_of,
    me,
    query_of,
    signed_in,
    through,
    with_query,
)

ISSUERS = {"openid": f"{ABROAD}/openid", "discord": f"{ABROAD}/discord", "github": f"{ABROAD}/github/login/oauth"}


def at_callback_of(provider: str, location: str) -> str:
    """The same answer, delivered to the callback of another provider."""
    url = httpx.URL(location)
    return str(url.copy_with(path=f"/auth/social/{provider}/callback"))


@pytest.mark.standard("SO-03")
@pytest.mark.parametrize(("of", "at"), list(permutations(PROVIDERS, 2)))
async def test_an_answer_of_one_provider_is_none_at_the_callback_of_another(
    *,
    services: Services,
    fake_provider: FakeProvider,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    of: str,
    at: str,
) -> None:
    who = Stranger()
    location = await returning(http, abroad, of, who)
    fake_provider.requests.clear()
    for iss in (query_of(location).get("iss"), None, ISSUERS[at]):
        fresh = await returning(http, abroad, of, who)
        assert_turned_away(await http.get(with_query(at_callback_of(at, fresh), iss=iss)))
        assert_turned_away(await http.get(fresh))  # it was over with that
    assert token_calls(fake_provider) == []
    assert await accounts_with(services, who.email) == []


@pytest.mark.standard("SO-03", "SO-14")
@pytest.mark.parametrize(("of", "at"), [("openid", "discord"), ("openid", "github"), ("github", "discord")])
async def test_a_code_of_a_provider_that_names_itself_goes_to_no_other_whatever_state_it_comes_with(
    *,
    services: Services,
    fake_provider: FakeProvider,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    of: str,
    at: str,
) -> None:
    """Both were begun in this browser, and the attacker swaps what comes back."""
    who = Stranger()
    state = query_of(await begun(http, at))["state"]
    location = with_query(at_callback_of(at, await returning(http, abroad, of, who)), state=state)
    fake_provider.requests.clear()
    assert_turned_away(await http.get(location))
    assert token_calls(fake_provider) == []
    assert await accounts_with(services, who.email) == []


@pytest.mark.standard("SO-03", "SO-15")
@pytest.mark.parametrize(("of", "at"), list(permutations(PROVIDERS, 2)))
async def test_a_code_of_one_provider_signs_nobody_in_at_another(
    services: Services, http: httpx.AsyncClient, abroad: httpx.AsyncClient, of: str, at: str
) -> None:
    who = Stranger()
    other = query_of(await returning(http, abroad, of, who))["code"]
    answer = await http.get(with_query(await returning(http, abroad, at, Stranger()), code=other))
    assert error_of(answer) == "invalid_or_expired_code"
    assert_signs_nobody_in(answer)
    assert await accounts_with(services, who.email) == []


@pytest.mark.standard("SO-03", "SO-14")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_issuer_is_compared_to_the_letter_and_before_the_code_is_shown_to_anybody(
    services: Services,
    fake_provider: FakeProvider,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    provider: str,
) -> None:
    who, right = Stranger(), ISSUERS[provider]
    others = [issuer for issuer in ISSUERS.values() if issuer != right]
    fake_provider.requests.clear()
    for wrong in (
        *others,
        ANOTHER_ISSUER,
        "",
        f"{right}/",
        f" {right}",
        right.upper(),
        right.replace("127.0.0.1", "localhost"),
        right.replace("http:", "https:"),
        right.removeprefix("http:"),
        right[:-1],
        f"{right}\0",
        f"{right}%2F",
        "null",
        provider,
    ):
        location = await returning(http, abroad, provider, who)
        assert_turned_away(await http.get(with_query(location, iss=wrong)))
        assert_turned_away(await http.get(location))
    assert token_calls(fake_provider) == []
    assert await accounts_with(services, who.email) == []


@pytest.mark.standard("SO-03", "SO-14")
async def test_the_error_of_another_issuer_is_not_believed_either(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    for change in ({"iss": ANOTHER_ISSUER}, {"iss": None}):
        location = await decided(abroad, await begun(http, "openid"), Stranger(), decision="cancel")
        assert_turned_away(await http.get(with_query(location, **change)))


@pytest.mark.standard("SO-14")
async def test_an_issuer_is_missed_where_it_is_promised_and_nowhere_else(
    fake_provider: FakeProvider, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    fake_provider.requests.clear()
    location = await returning(http, abroad, "openid", Stranger())
    assert_turned_away(await http.get(with_query(location, iss=None)))
    assert token_calls(fake_provider) == []
    assert error_of(await http.get(await returning(http, abroad, "openid", Stranger()))) == ""
    for provider in ("discord", "github"):
        silent = with_query(await returning(http, abroad, provider, Stranger()), iss=None)
        assert error_of(await http.get(silent)) == ""


@pytest.mark.standard("SO-03", "SO-14")
async def test_a_worker_that_does_not_know_its_provider_yet_misses_the_issuer_as_well(
    *,
    settings: Settings,
    services: Services,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
) -> None:
    """The sign-in was begun at another worker; this one has just started, and read nothing of the provider so far."""
    who, tap = Stranger(), Wiretap(way_abroad)
    starting = build(settings, clock=wall_clock, mail=lambda _: outbox, abroad=tap, scripts=shifted)
    location = with_query(await returning(http, abroad, "openid", who), iss=None)
    async with browser(create_app(starting)) as there:
        there.cookies.set(SOCIAL_COOKIE, social_cookie(http), domain="auth.test", path="/")
        answer = await there.get(location)
    await starting.close()
    assert tap.exchanges() == []
    assert_turned_away(answer)
    assert await accounts_with(services, who.email) == []


@pytest.mark.standard("SO-03", "SO-04", "SO-15")
@pytest.mark.usefixtures("services")
async def test_an_endpoint_with_a_query_of_its_own_takes_nothing_of_ours_away(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, way_abroad: httpx.AsyncBaseTransport
) -> None:
    """A provider that plays another one's name would ask there in our name, with a state and a challenge of its own."""
    theirs = {
        "tenant": "a b",
        "client_id": "another",
        "redirect_uri": "https://evil.example/",
        "response_type": "token",
        "state": "chosen",
        "scope": "openid email profile everything",
        "code_challenge": "A" * 43,
        "code_challenge_method": "plain",
        "nonce": "chosen",
    }

    def with_own_query(request: httpx.Request, content: bytes) -> bytes:
        if not request.url.path.endswith("/openid-configuration"):
            return content
        told = msgspec.json.decode(content)
        told["authorization_endpoint"] = with_query(told["authorization_endpoint"], **theirs)
        return msgspec.json.encode(told)

    tap = Wiretap(way_abroad, change=with_own_query)
    async with own_worker(settings, wall_clock, outbox, tap) as (_, app), browser(app) as http:
        asked = parse_qs(urlsplit(await begun(http, "openid")).query)
    assert asked.pop("tenant") == ["a b"]
    assert set(asked) == set(theirs) - {"tenant"}
    changed = [name for name, values in asked.items() if len(values) != 1 or values[0] == theirs[name]]
    assert changed == []


# People


@pytest.mark.standard("SO-10", "SO-06")
async def test_one_subject_at_three_issuers_is_three_people(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    subject = Stranger().subject
    people = {provider: Stranger(subject=subject) for provider in PROVIDERS}
    found = {}
    for provider, who in people.items():
        async with browser(app) as http:
            account = await me(http, await signed_in(http, await through(http, abroad, provider, who)))
            assert account["email"] == who.email
            found[provider] = account["id"]
    assert len(set(found.values())) == 3
    linked = await identities_of(services, Stranger(subject=subject))
    assert {(one.issuer, str(one.account_id)) for one in linked} == {(ISSUERS[p], found[p]) for p in PROVIDERS}


@pytest.mark.standard("SO-10", "SO-21")
async def test_one_subject_with_one_address_at_another_issuer_is_somebody_else(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    who = Stranger()
    assert error_of(await through(http, abroad, "discord", who)) == ""
    async with browser(app) as attacker:
        for provider in ("openid", "github"):
            answer = await through(attacker, abroad, provider, who)
            assert error_of(answer) == "account_link_required"
            assert_signs_nobody_in(answer)


@pytest.mark.standard("SO-10", "SO-06")
async def test_subjects_are_compared_to_the_letter(app: Litestar, abroad: httpx.AsyncClient) -> None:
    name = f"Ab{Stranger().subject}ß"
    found = set()
    for subject in (name, name.upper(), name.lower(), f"{name} ", f" {name}", f"{name}%", "Ａ" + name[1:]):  # noqa: RUF001
        async with browser(app) as http:
            answer = await through(http, abroad, "openid", Stranger(subject=subject))
            found.add((await me(http, await signed_in(http, answer)))["id"])
    assert len(found) == 7


@pytest.mark.standard("SO-10")
def test_an_issuer_has_one_name_here(settings: Settings) -> None:
    """With two, an answer of one would be as good at the other's callback."""
    for provider in PROVIDERS:
        twice = {"one": settings.providers[provider], "two": settings.providers[provider]}
        with pytest.raises(ValueError, match="two providers are the same one"):
            msgspec.structs.replace(settings, providers=twice)

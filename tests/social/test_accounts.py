"""Somebody new comes through a provider and has an account: with which name, picture and language, and no password."""

import secrets

import httpx
import msgspec
import pytest
from litestar import Litestar

from service.accounts.names import nickname_key
from service.accounts.profile import URL_LIMIT
from service.app import create_app
from service.providers.discord import PICTURES
from service.setting_values import Rate
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Introspector, Outbox, TestClock, browser, new_address, worker
from tests.deeds import COOKIE_HEADERS, OTHER, WRONG, bearer, letters, sign_in, with_account
from tests.social.acting import PROVIDERS, Stranger, error_of, me, through
from tests.social.linked import (
    account_with,
    comes_in,
    comes_in_elsewhere,
    events_of,
    identities_of,
    is_refused,
    journal_of,
    linked,
    set_password,
    the_account,
    the_identity,
)

PICTURE = "https://pictures.example/{}.png"
HASH = "0123456789abcdef0123456789abcdef"


def unique(beginning: str = "") -> str:
    return beginning + secrets.token_hex(5)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_picture_of_the_profile_becomes_that_of_the_account(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str
) -> None:
    who = Stranger()
    url = PICTURE.format(who.username)
    given, shown = (HASH, f"{PICTURES}/avatars/{who.subject}/{HASH}.png") if provider == "discord" else (url, url)
    headers = await comes_in(http, abroad, provider, who, picture=given)
    assert (await me(http, headers))["avatar_url"] == shown
    assert (await http.get("/me/identities", headers=headers)).json()[0]["avatar_url"] == shown


@pytest.mark.parametrize(
    "picture",
    [
        "http://pictures.example/a.png",
        "javascript:alert(1)",
        "data:image/svg+xml,<svg onload=alert(1)>",
        "//pictures.example/a.png",
        "https://user:pass@pictures.example/a.png",
        "https://pictures.example/조은.png",
        "https:///a.png",
        "",
    ],
)
async def test_a_picture_that_no_browser_should_load_is_none(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, picture: str
) -> None:
    headers = await comes_in(http, abroad, "openid", Stranger(), picture=picture)
    assert (await me(http, headers))["avatar_url"] is None
    assert (await http.get("/me/identities", headers=headers)).json()[0]["avatar_url"] is None


@pytest.mark.parametrize("length", [200, 256, 600, 2048, 2049, 4000])
async def test_a_long_picture_url_is_whole_or_none(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, length: int
) -> None:
    """Signed ones are long; a part of one leads nowhere, or elsewhere."""
    url = PICTURE.format("")
    url = url + "a" * (length - len(url))
    headers = await comes_in(http, abroad, "openid", Stranger(), picture=url)
    assert (await me(http, headers))["avatar_url"] == (url if length <= URL_LIMIT else None)


async def test_odd_names_make_nicknames_that_are_ours(app: Litestar, abroad: httpx.AsyncClient) -> None:
    end = unique()
    kept = {
        f"조은{end}": f"조은{end}",
        f" Ann  {end}": f"Ann_{end}",
        f"..{end}🦊": end,
        f"\uff21{end}": f"A{end}",
        end + "x" * 90: f"{end}{'x' * 14}",
        "🦊🦊": "",
        "!?...": "",
        "\u3164\uffa0": "",
        "u": "",
    }
    for username, nickname in kept.items():
        who = Stranger(username=username, email=f"{unique('n')}@example.net")
        headers = await comes_in_elsewhere(app, abroad, "openid", who)
        async with browser(app) as http:
            made = (await me(http, headers))["nickname"]
        assert nickname_key(made)
        assert made == nickname or (not nickname and made.startswith("user-")), username


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_nickname_that_somebody_has_gets_a_number(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, provider: str
) -> None:
    """Also in other case, and in full width: nobody can be mistaken for somebody who was here before."""
    first = await with_account(services)
    for username in (first.nickname, first.nickname.upper(), "".join(chr(ord(c) + 0xFEE0) for c in first.nickname)):
        who = Stranger(username=username, email=f"{unique('n')}@example.net")
        headers = await comes_in_elsewhere(app, abroad, provider, who)
        async with browser(app) as http:
            made = (await me(http, headers))["nickname"]
        assert nickname_key(made) != nickname_key(first.nickname)
        assert made.lower().startswith(f"{first.nickname}-")


async def test_the_locale_is_that_of_the_profile_else_that_of_the_browser(
    app: Litestar, abroad: httpx.AsyncClient
) -> None:
    for provider, person, accepted, locale in (
        ("openid", "dai", "ko", "ja"),
        ("discord", "cho", "en", "ko"),
        ("openid", "other", "ko", "en-US"),
        ("github", "dai", "ko,en;q=0.5", "ko"),
        ("github", "dai", "tlh", "en"),
    ):
        async with browser(app) as http:
            http.headers["Accept-Language"] = accepted
            headers = await comes_in(http, abroad, provider, Stranger(), person=person)
            assert (await me(http, headers))["locale"] == locale, (provider, person)


@pytest.mark.standard("LG-12")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_audit_trail_and_the_journal_tell_how_somebody_came(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, provider: str
) -> None:
    who = Stranger()
    await comes_in(http, abroad, provider, who)
    account = await the_account(services, who.email)
    told = {
        event: (outcome, detail) for event, outcome, detail in await events_of(services, account.id, "login.social")
    }
    assert told["account.create"] == ("ok", {"provider": provider})
    assert told["login.social"] == ("ok", {"provider": provider})
    assert told["session.open"] == ("ok", {"amr": ["fed"]})
    assert [(row.amr, row.client_id, row.ended_at) for row in await journal_of(services, account.id)] == [
        (["fed"], "web", None)
    ]


@pytest.mark.standard("SO-10")
async def test_one_subject_at_two_providers_is_two_people(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    first = Stranger()
    second, third = Stranger(subject=first.subject), Stranger(subject=first.subject)
    for provider, who in zip(PROVIDERS, (first, second, third), strict=True):
        await comes_in_elsewhere(app, abroad, provider, who)
    found = await identities_of(services, first)
    assert len({identity.account_id for identity in found}) == len(found) == 3
    assert len({identity.issuer for identity in found}) == 3


@pytest.mark.standard("LG-14")
async def test_an_account_that_a_provider_made_has_no_password_to_guess(
    app: Litestar, abroad: httpx.AsyncClient, services: Services
) -> None:
    """A guess at it looks like any wrong password, down to the headers."""
    who, other = Stranger(), await with_account(services)
    await comes_in_elsewhere(app, abroad, "openid", who)
    account = await the_account(services, who.email)
    assert account.password_hash is None
    answers = []
    for email in (who.email, other.email, f"{unique('n')}@example.net"):
        for password in (WRONG, "x", " " * 40):
            async with browser(app) as http:
                answers.append(await http.post("/auth/login", json={"email": email, "password": password}))
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
    assert answers[0].json()["code"] == "invalid_credentials"
    same = {tuple(sorted(set(answer.headers) - {"content-length"})) for answer in answers}
    assert len(same) == 1
    async with browser(app) as http:
        by_nickname = await http.post("/auth/login", json={"nickname": account.nickname, "password": WRONG})
    assert (by_nickname.status_code, by_nickname.text) == (401, answers[0].text)


@pytest.mark.standard("LG-14")
async def test_asking_for_a_password_looks_the_same_for_who_has_none(
    app: Litestar, abroad: httpx.AsyncClient, services: Services
) -> None:
    who, other = Stranger(), await with_account(services)
    await comes_in_elsewhere(app, abroad, "openid", who)
    answers = []
    for email in (who.email, other.email, f"{unique('n')}@example.net"):
        async with browser(app) as http:
            answers.append(await http.post("/auth/password/forgot", json={"email": email}))
    assert len({(answer.status_code, answer.text, tuple(sorted(answer.headers))) for answer in answers}) == 1


async def test_nothing_that_asks_for_the_password_opens_without_one(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    headers = await comes_in(http, abroad, "openid", Stranger())
    for path, body in (
        ("/auth/reauthenticate", {"password": WRONG}),
        ("/auth/reauthenticate", {"password": "none"}),
        ("/me/password", {"current_password": "null", "new_password": OTHER}),
        ("/me/email", {"email": f"{unique('n')}@example.net", "password": "none"}),
    ):
        answer = await http.post(path, json=body, headers=headers | COOKIE_HEADERS)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_credentials"), path


async def test_a_password_by_mail_is_one_more_way_in_and_the_provider_stays(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    """It made the account, so it is no stranger's; however young it is."""
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who)
    account = await me(http, headers)
    person = await set_password(http, services, outbox, who.email)
    async with browser(app) as elsewhere:
        by_password = bearer(await sign_in(elsewhere, person))
        assert (await me(elsewhere, by_password))["id"] == account["id"]
        assert await linked(elsewhere, by_password) == ["discord"]
    again = await comes_in_elsewhere(app, abroad, "discord", who)
    assert (await me(http, again))["id"] == account["id"]


async def test_new_accounts_of_a_network_are_counted(
    *,
    settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
    abroad: httpx.AsyncClient,
    services: Services,
) -> None:
    people, network = [Stranger() for _ in range(3)], new_address()
    strict = msgspec.structs.replace(settings, limit_register_network=Rate(2, 3600))
    async with worker(strict, wall_clock, outbox, way_abroad) as own:
        app = create_app(own)

        async def tried(who: Stranger, address: str) -> str:
            async with browser(app, address) as http:
                return error_of(await through(http, abroad, "openid", who))

        assert [await tried(who, network) for who in people] == ["", "", "too_many_requests"]
        assert [await tried(who, network) for who in people] == ["", "", "too_many_requests"]
        assert await account_with(services, people[2].email) is None
        assert await tried(people[2], new_address()) == ""


async def test_an_address_is_taken_as_the_provider_names_it_or_not_at_all(
    app: Litestar, abroad: httpx.AsyncClient, services: Services
) -> None:
    """What looks like a victim's address, but is another one, must not become the victim's."""
    victim = f"{unique('victim')}@example.net"
    for hidden in ("\u200b", "\u00ad", "\u2060", "\t"):
        who = Stranger(email=victim[:3] + hidden + victim[3:])
        error = await is_refused(app, abroad, "openid", who)
        assert await account_with(services, victim) is None, repr(hidden)
        assert error == "provider_email_missing", repr(hidden)


async def test_an_address_is_the_same_however_the_provider_spells_it(
    app: Litestar, abroad: httpx.AsyncClient, services: Services
) -> None:
    who = Stranger()
    await comes_in_elsewhere(app, abroad, "openid", Stranger(subject=who.subject, email=who.email.upper()))
    assert (await the_account(services, who.email)).email == who.email
    assert (await the_identity(services, who)).email == who.email.upper()
    twin = Stranger(email=who.email.replace("example", "EXAMPLE"))
    assert await is_refused(app, abroad, "github", twin) == "account_link_required"


@pytest.mark.parametrize("subject", ["a\x00b", "x" * 256, " ", "ünï/%00", "x" * 255])
async def test_an_odd_subject_is_a_subject_or_a_refusal_but_no_crash(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, subject: str
) -> None:
    who = Stranger(subject=subject)
    answer = await through(http, abroad, "openid", who, username=unique("n"))
    assert error_of(answer) in {"", "provider_answer_invalid"}, answer.text


async def test_nobody_is_told_of_a_new_device_by_their_first_sign_in(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "openid", who)
    assert (await introspector.ask(http, headers["Authorization"].removeprefix("Bearer ")))["amr"] == ["fed"]
    assert await letters(services, outbox, who.email) == []

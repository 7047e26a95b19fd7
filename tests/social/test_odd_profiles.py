"""Profiles as no provider should write them: what is not sure to be about somebody is about nobody."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.errors import ProviderAnswerInvalid, ProviderUnavailable
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Outbox, TestClock, browser
from tests.social.acting import PROVIDERS, Stranger, begun, decided, error_of, signed_in, through
from tests.social.aftermath import Witness
from tests.social.elsewhere import USERINFO, Elsewhere, Stage, elsewhere, stage

MISSING = "provider_email_missing"
ME, USER, ADDRESSES = "/discord/api/v10/users/@me", "/github/api/v3/user", "/github/api/v3/user/emails"


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


async def outcome(on: Stage, provider: str, who: Stranger) -> str:
    """How a sign-in ends: the word in the URL, or the status where there is no way on."""
    with capture_logs():
        async with browser(on.app) as http:
            answer = await through(http, on.browser, provider, who)
    return error_of(answer) if answer.status_code == 303 else str(answer.status_code)


@pytest.mark.parametrize(
    "profile",
    [
        *([], None, "text", {}, {"id": "1"}, {"username": "x"}),
        *(
            {"id": subject, "username": "x"}
            for subject in (5, [5], None, "", "abc", "-1", "1.5", "1" * 21, "१२३", " 1")
        ),
        *({"id": "1", "username": name} for name in (None, 5, [5])),
        {"id": "1", "username": "x", "email": ["x@example.net"]},
        b'{"id": "1", "username": "\\ud800"}',
        b'{"id": "1", "username": "\\u0000"}',
        b'{"id": "1", "id": "2", "username": "x"}',
    ],
    ids=range(23),
)
async def test_what_is_no_profile_of_discord_is_refused(there: Elsewhere, profile: object) -> None:
    there.way.answer(ME, profile)
    with pytest.raises(ProviderUnavailable):
        await there.identified(Stranger(), "discord")


async def test_a_number_of_discord_has_nothing_behind_it(there: Elsewhere) -> None:
    there.way.answer(ME, {"id": "100\n", "username": "x"})
    with pytest.raises(ProviderUnavailable):
        await there.identified(Stranger(), "discord")


@pytest.mark.standard("SO-23")
@pytest.mark.parametrize("subject", [0, -1, "5", 1.5, True, None, []])
async def test_what_is_no_profile_of_github_is_refused(there: Elsewhere, subject: object) -> None:
    number = json.dumps(subject)
    there.way.answer(USER, f'{{"id": {number}, "login": "x"}}'.encode())
    with pytest.raises(ProviderUnavailable):
        await there.identified(Stranger(), "github")


@pytest.mark.standard("SO-23")
async def test_a_number_of_github_has_an_end(on: Stage) -> None:
    for digits in (4000, 100):
        on.way.answer(USER, b'{"id": %s, "login": "x"}' % str(7**5000).encode()[:digits])
        assert await outcome(on, "github", Stranger()) == "provider_unavailable", digits


@pytest.mark.standard("SO-23")
@pytest.mark.parametrize(
    "addresses",
    [
        *({}, None, "text", [None], [[]], ["x@example.net"], [{}]),
        *([{"email": email, "primary": True, "verified": True}] for email in (None, 5, ["x@example.net"])),
        *([{"email": "x@example.net", "primary": primary, "verified": True}] for primary in ("true", 1, None)),
        *([{"email": "x@example.net", "primary": True, "verified": verified}] for verified in ("true", 1, None)),
    ],
    ids=range(16),
)
async def test_what_is_no_list_of_addresses_is_refused(there: Elsewhere, addresses: object) -> None:
    there.way.answer(ADDRESSES, addresses)
    with pytest.raises(ProviderUnavailable):
        await there.identified(Stranger(), "github")


@pytest.mark.standard("SO-18")
@pytest.mark.parametrize("subject", [None, 5, "", "ann-1 ", "ANN-1", "ann-10", ["ann-1"], {"ann-1": 1}, True])
async def test_a_profile_of_openid_is_about_the_subject_of_the_id_token(there: Elsewhere, subject: object) -> None:
    for told in ({"sub": subject}, {}):
        there.way.answer(USERINFO, {**told, "email": "x@example.net", "email_verified": True})
        with pytest.raises(ProviderAnswerInvalid):
            await there.vouched(email=None)
    there.way.answer(USERINFO, {"sub": "ann-1", "email": "x@example.net", "email_verified": True})
    person = await there.vouched(email=None)
    assert (person.subject, person.email, person.email_verified) == ("ann-1", "x@example.net", True)


@pytest.mark.parametrize(
    "profile", [b"null", b"[]", b'"ann-1"', b"", b"eyJhbGciOiJub25lIn0.e30.", b'{"sub": "ann-1", "sub": "eve-5"}']
)
async def test_what_is_no_profile_of_openid_is_refused(there: Elsewhere, profile: bytes) -> None:
    there.way.answer(USERINFO, profile)
    with pytest.raises(ProviderUnavailable):
        await there.vouched(email=None)


@pytest.mark.standard("SO-22")
async def test_an_address_is_as_verified_as_the_document_says_that_names_it(there: Elsewhere) -> None:
    there.way.answer(USERINFO, {"sub": "ann-1", "email": "x@example.net"})
    person = await there.vouched(email=None, email_verified=True)
    assert (person.email, person.email_verified) == ("x@example.net", False)


@pytest.mark.parametrize("value", [5, [], ["x@example.net"], {"x@example.net": True}, True, "", " "])
async def test_what_is_no_address_leaves_somebody_new_without_one(on: Stage, value: object) -> None:
    profile = {"id": "1", "username": "x", "verified": True, "email": value}
    if isinstance(value, str):
        on.way.answer(ME, profile | {"id": Stranger().subject})
        assert await outcome(on, "discord", Stranger()) == MISSING
    person = await on.vouched(email=value)
    assert (person.email.strip(), person.subject) == ("", "ann-1")


@pytest.mark.standard("SO-21", "SO-22")
@pytest.mark.parametrize("invisible", ["\u200b", "\u00ad", "\u2060", "\ufeff", "\t", "\n", "\x7f"])
async def test_an_address_is_not_cleaned_until_it_is_somebody_elses(
    on: Stage, witness: Witness, invisible: str
) -> None:
    for provider in PROVIDERS:
        who = Stranger()
        name, _, host = who.email.partition("@")
        who.email = f"{name[:3]}{invisible}{name[3:]}@{host}"
        word = await outcome(on, provider, who)
        who.email = f"{name}@{host}"  # nobody vouched for this one
        await witness.ensure_nobody_came(who)
        assert word == MISSING


async def test_words_about_a_person_are_cut_and_cleaned_but_never_stop_them(on: Stage) -> None:
    odd: Mapping[str, Any] = {"username": "x" * 5000, "name": "\u202e\u200b\n", "picture": "javascript:alert(1)"}
    for provider in PROVIDERS:
        who = Stranger()
        async with browser(on.app) as http:
            location = await decided(on.browser, await begun(http, provider), who, **odd)
            headers = await signed_in(http, await http.get(location))
            account = (await http.get("/me", headers=headers)).json()
        assert len(account["nickname"]) <= 32
        assert not (account["avatar_url"] or "https:").startswith("javascript")

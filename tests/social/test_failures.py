"""Each way in which a provider can fail ends at the person's own page, with a word that says how.

What is left after a failure is what was there before: no account, no identity, no session, nobody's words in the log.
"""

from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import msgspec
import pytest

from service.fake_provider.faults import GROUPS
from service.fake_provider.provider import FakeProvider
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Outbox, TestClock, browser
from tests.deeds import bearer, sign_in, with_account
from tests.social.acting import (
    PAGE,
    REFRESH_COOKIE,
    Stranger,
    begun,
    decided,
    error_of,
    me,
    query_of,
    signed_in,
    through,
)
from tests.social.aftermath import Witness, ensure_no_session
from tests.social.elsewhere import Stage, stage

UNAVAILABLE, INVALID = "provider_unavailable", "provider_answer_invalid"
EVERYWHERE = ("openid", "discord", "github")
OAUTH = ("discord", "github")

# What a fault leads to, at each provider.
REFUSED: dict[tuple[str, str], str] = {
    **{("cancelled", name): "access_denied" for name in EVERYWHERE},
    **{("server_error", name): UNAVAILABLE for name in EVERYWHERE},
    **{("token_refused", name): "invalid_or_expired_code" for name in EVERYWHERE},
    **{
        (f"token_{kind}", name): UNAVAILABLE
        for kind in ("500", "rubbish", "list", "without_token", "huge", "redirect", "gzip_bomb")
        for name in EVERYWHERE
    },
    **{
        (fault, "openid"): INVALID
        for fault in (
            *("wrong_nonce", "no_nonce", "wrong_audience", "extra_audience", "wrong_issuer", "expired"),
            *("issued_in_future", "bad_signature", "unsigned", "hs256_with_public_key", "unknown_key"),
            *("wrong_at_hash", "no_id_token", "no_subject", "profile_other_subject"),
        )
    },
    **{("no_subject", name): UNAVAILABLE for name in OAUTH},
    **{
        (f"profile_{kind}", name): UNAVAILABLE
        for kind in ("500", "rubbish", "redirect", "unauthorized")
        for name in EVERYWHERE
    },
}
NOT_OURS = {
    *((fault, name) for fault in ("wrong_state", "no_state", "wrong_iss") for name in EVERYWHERE),
    ("no_iss", "openid"),
}
"""Answers that belong to no sign-in of this browser and provider: nobody knows where they should lead."""
SLOW = {(f"{step}_slow", name) for step in ("token", "profile") for name in EVERYWHERE}
HARMLESS = {
    ("no_iss", "github"),  # a server of one's own may be older than the rule
    ("profile_only", "openid"),
    *((fault, "discord") for fault in ("guilds_500", "guilds_unauthorized", "guilds_limited")),
    *((fault, name) for fault in ("refresh_refused", "refresh_500") for name in ("openid", "discord")),
}
OF_SOMEBODY_ELSE = {("profile_other_subject", name) for name in OAUTH}
"""Without an ID token there is nothing to compare a profile with: whoever it is about comes in."""


def test_no_fault_is_without_an_expectation() -> None:
    every = {(fault.name, site) for group in GROUPS for fault in group.faults for site in fault.sites}
    assert every == {*REFUSED, *NOT_OURS, *SLOW, *HARMLESS, *OF_SOMEBODY_ELSE}
    assert len(every) == len(REFUSED) + len(NOT_OURS) + len(SLOW) + len(HARMLESS) + len(OF_SOMEBODY_ELSE)


@pytest.fixture
def witness(services: Services, settings: Settings, caplog: pytest.LogCaptureFixture) -> Witness:
    return Witness(services, settings, caplog)


def told_wrongly(fault: str, provider: str) -> dict[str, str]:
    """What else is chosen for a fault to happen: an OpenID profile is read where the ID token has no address."""
    return {"fault": fault, "email": ""} if (fault[:8], provider) == ("profile_", "openid") else {"fault": fault}


# Each fault


@pytest.mark.standard("SO-05", "SO-08", "SO-11", "SO-17", "SO-18", "SO-20", "SO-27")
@pytest.mark.parametrize(("fault", "provider"), sorted(REFUSED))
async def test_a_failure_leads_back_to_the_page_with_a_word_for_it(
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    *,
    witness: Witness,
    fake_provider: FakeProvider,
    fault: str,
    provider: str,
) -> None:
    who, word = Stranger(), REFUSED[fault, provider]
    with witness.listening():
        location = await decided(abroad, await begun(http, provider), who, **told_wrongly(fault, provider))
        answer = await http.get(location)
    assert answer.headers["location"] == f"{PAGE}?error={word}"
    assert (answer.status_code, answer.content) == (303, b"")
    ensure_no_session(answer)
    witness.ensure_silent(answer, (word,), *query_of(location).get("code", "").split(), who.email)
    await witness.ensure_nobody_came(who)
    assert [call for call in fake_provider.requests if "/elsewhere/" in call] == []

    assert (await http.get(location)).status_code == 400  # this transaction is over
    account = await me(http, await signed_in(http, await through(http, abroad, provider, who)))
    assert account["email"] == who.email


@pytest.mark.standard("SO-01", "SO-02", "SO-03", "SO-14", "SO-27")
@pytest.mark.parametrize(("fault", "provider"), sorted(NOT_OURS))
async def test_an_answer_that_nobody_waits_for_ends_on_a_page_of_ours(
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    *,
    witness: Witness,
    fake_provider: FakeProvider,
    fault: str,
    provider: str,
) -> None:
    who = Stranger()
    with witness.listening():
        location = await decided(abroad, await begun(http, provider), who, fault=fault)
        asked = len(fake_provider.requests)
        answer = await http.get(location)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")
    assert "location" not in answer.headers
    assert "not begun in this browser" in answer.text
    ensure_no_session(answer)
    # Anybody can call a callback with a state that never was: that is a line in the log, not a row of the trail.
    outcome = ("wrong_issuer",) if fault.endswith("iss") else ()
    witness.ensure_silent(answer, outcome, query_of(location)["code"], who.email)
    await witness.ensure_nobody_came(who)
    assert len(fake_provider.requests) == asked  # the code went nowhere

    await signed_in(http, await through(http, abroad, provider, who))


@pytest.mark.parametrize(("fault", "provider"), sorted(HARMLESS))
async def test_what_goes_wrong_later_or_nowhere_does_not_stop_a_sign_in(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, fault: str, provider: str
) -> None:
    who = Stranger()
    account = await me(http, await signed_in(http, await through(http, abroad, provider, who, fault=fault)))
    assert (account["email"], account["nickname"]) == (who.email, who.username)


@pytest.mark.standard("SO-18")
async def test_a_profile_is_not_asked_for_what_the_id_token_says(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    for fault in ("profile_500", "profile_other_subject", "profile_unauthorized"):
        who = Stranger()
        headers = await signed_in(http, await through(http, abroad, "openid", who, fault=fault))
        [identity] = (await http.get("/me/identities", headers=headers)).json()
        assert identity["subject"] == who.subject


@pytest.mark.parametrize(("fault", "provider"), sorted(OF_SOMEBODY_ELSE))
async def test_whoever_a_profile_is_about_comes_in_where_nothing_contradicts_it(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, fault: str, provider: str
) -> None:
    who = Stranger()
    headers = await signed_in(http, await through(http, abroad, provider, who, fault=fault))
    [identity] = (await http.get("/me/identities", headers=headers)).json()
    assert identity["subject"] == str(int(who.subject) + 1)


# Slowness


@pytest.fixture
async def slow(services: Services, settings: Settings, clock: TestClock, outbox: Outbox) -> AsyncIterator[Stage]:
    """A service that waits for nobody, and a provider that is slower than that."""
    impatient = msgspec.structs.replace(settings, provider_timeout=timedelta(seconds=1))
    async with stage(impatient, clock, outbox) as found:
        found.fake.slow = 30
        yield found


@pytest.mark.parametrize(("fault", "provider"), sorted(SLOW))
async def test_a_provider_that_takes_too_long_is_not_waited_for(
    slow: Stage, witness: Witness, fault: str, provider: str
) -> None:
    who = Stranger()
    async with browser(slow.app) as http:
        answer = await through(http, slow.browser, provider, who, **told_wrongly(fault, provider))
        assert error_of(answer) == UNAVAILABLE
        ensure_no_session(answer)
        await witness.ensure_nobody_came(who)
        await signed_in(http, await through(http, slow.browser, provider, who))


# Whoever is here already


@pytest.mark.parametrize("fault", ["cancelled", "token_refused", "unsigned", "profile_other_subject", "server_error"])
async def test_a_failure_links_nothing_and_signs_nobody_out(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, witness: Witness, fault: str
) -> None:
    headers, who = bearer(await sign_in(http, await with_account(services))), Stranger()
    linking = await http.post("/me/identities/openid", params={"next": PAGE}, headers=headers)
    location = await decided(abroad, linking.json()["authorize_url"], who, **told_wrongly(fault, "openid"))
    answer = await http.get(location)
    assert error_of(answer) == REFUSED[fault, "openid"]
    ensure_no_session(answer)
    assert (await http.get("/me/identities", headers=headers)).json() == []
    await witness.ensure_nobody_came(who)


@pytest.mark.parametrize("provider", EVERYWHERE)
async def test_a_failure_leaves_a_session_in_this_browser_alone(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str
) -> None:
    first = await through(http, abroad, provider, Stranger())
    for fault in ("cancelled", "token_500", "wrong_state"):
        answer = await through(http, abroad, provider, Stranger(), fault=fault)
        assert answer.status_code in {303, 400}
        ensure_no_session(answer)
    assert http.cookies[REFRESH_COOKIE] == first.cookies[REFRESH_COOKIE]
    await signed_in(http, first)

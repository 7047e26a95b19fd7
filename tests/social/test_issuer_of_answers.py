"""Who an answer says it comes from (RFC 9207), for providers that always say so and for others."""

from collections.abc import AsyncIterator

import httpx
import pytest

from service.settings import Settings
from service.wiring import Services
from tests.conftest import ABROAD, Outbox, TestClock, browser
from tests.social.acting import (
    PROVIDERS,
    REFRESH_COOKIE,
    Stranger,
    begun,
    decided,
    error_of,
    signed_in,
    with_query,
)
from tests.social.elsewhere import TOKEN, Stage, stage

COOLDOWN = 60
OWN = {"openid": f"{ABROAD}/openid", "github": f"{ABROAD}/github/login/oauth", "discord": f"{ABROAD}/discord"}


@pytest.fixture(params=["", "no_iss_support"], ids=["names itself", "need not"])
async def on(
    request: pytest.FixtureRequest, services: Services, settings: Settings, clock: TestClock, outbox: Outbox
) -> AsyncIterator[Stage]:
    """A service whose OpenID provider announces `iss`, and one whose does not."""
    async with stage(settings, clock, outbox, request.param) as found:
        yield found


async def back_from(
    on: Stage, http: httpx.AsyncClient, provider: str, who: Stranger, issuer: str | None
) -> httpx.Response:
    """The answer to a way back that names this issuer."""
    location = await decided(on.browser, await begun(http, provider), who)
    return await http.get(with_query(location, iss=issuer))


def ensure_refused(on: Stage, answer: httpx.Response, asked: int) -> None:
    """A page of ours without a way on; the provider was not asked for tokens."""
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert REFRESH_COOKIE not in answer.cookies
    assert sum("token" in path for path in on.way.asked) == asked


@pytest.mark.standard("SO-03", "SO-14")
async def test_an_openid_provider_is_told_from_others_by_its_issuer(on: Stage) -> None:
    names_itself = not on.fake.discovery_fault
    async with browser(on.app) as http:
        await signed_in(http, await back_from(on, http, "openid", Stranger(), OWN["openid"]))
        asked = on.way.asked.count(TOKEN)
        own = OWN["openid"]
        for wrong in (
            f"{own}/",
            own.upper(),
            "https://another-issuer.example",
            OWN["github"],
            "",
            f"{own}%20",
            f" {own}",
        ):
            ensure_refused(on, await back_from(on, http, "openid", Stranger(), wrong), asked)
        nameless = await back_from(on, http, "openid", Stranger(), None)
        if names_itself:
            ensure_refused(on, nameless, asked)
        else:
            await signed_in(http, nameless)


@pytest.mark.standard("SO-03", "SO-14")
async def test_other_providers_may_name_themselves_and_nobody_else(on: Stage) -> None:
    async with browser(on.app) as http:
        for provider in ("discord", "github"):
            await signed_in(http, await back_from(on, http, provider, Stranger(), OWN[provider]))
            await signed_in(http, await back_from(on, http, provider, Stranger(), None))
            asked = sum("token" in path for path in on.way.asked)
            for wrong in (f"{OWN[provider]}/", "https://another-issuer.example", OWN["openid"], ""):
                ensure_refused(on, await back_from(on, http, provider, Stranger(), wrong), asked)


@pytest.mark.standard("SO-14")
async def test_a_wrong_issuer_uses_the_transaction_up(on: Stage) -> None:
    async with browser(on.app) as http:
        for provider in PROVIDERS:
            location = await decided(on.browser, await begun(http, provider), Stranger())
            assert (await http.get(with_query(location, iss="https://another-issuer.example"))).status_code == 400
            assert (await http.get(location)).status_code == 400


@pytest.mark.standard("SO-14")
async def test_an_error_is_taken_from_the_provider_alone_as_well(on: Stage) -> None:
    async with browser(on.app) as http:
        for issuer, status in ((OWN["openid"], 303), ("https://another-issuer.example", 400)):
            location = await decided(on.browser, await begun(http, "openid"), Stranger(), fault="cancelled")
            assert (await http.get(with_query(location, iss=issuer))).status_code == status


@pytest.mark.standard("SO-14")
async def test_a_worker_that_has_not_met_the_provider_yet_asks_for_its_name_too(
    services: Services, settings: Settings, clock: TestClock, outbox: Outbox
) -> None:
    async with stage(settings, clock, outbox) as first, stage(settings, clock, outbox, "down") as second:
        second.way.inner = first.way.inner  # from here on it is the same provider
        await clock.advance(seconds=COOLDOWN + 1)
        async with browser(first.app) as http, browser(second.app) as there:
            nameless = with_query(await decided(first.browser, await begun(http, "openid"), Stranger()), iss=None)
            named = await decided(first.browser, await begun(http, "openid"), Stranger())
            there.cookies.update(http.cookies)
            ensure_refused(second, await there.get(nameless), 0)
            assert error_of(await there.get(named)) == ""


async def test_an_answer_that_names_two_issuers_is_nobodys(on: Stage) -> None:
    async with browser(on.app) as http:
        location = await decided(on.browser, await begun(http, "github"), Stranger())
        assert (await http.get(f"{location}&iss=https%3A%2F%2Fanother-issuer.example")).status_code == 400
        assert error_of(await http.get(location)) == ""

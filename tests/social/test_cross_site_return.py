"""The way back from a real provider is cross-site: browsers keep `SameSite=Strict` cookies to themselves on it.

In-process tests send every cookie along; here a callback gets what a browser would send. At the beginning all are
sent: people come from a page of ours.
"""

from dataclasses import dataclass
from http.cookiejar import Cookie

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.conftest import Outbox, browser, new_address
from tests.deeds import is_in, letters
from tests.social.acting import REFRESH_COOKIE, SOCIAL_COOKIE, Stranger, begun, decided, signed_in


@dataclass(frozen=True)
class Wanderer:
    """Somebody with one browser, in one network after another."""

    app: Litestar
    abroad: httpx.AsyncClient
    who: Stranger
    cookies: httpx.Cookies

    async def sign_in(self, address: str) -> httpx.Response:
        """Through Discord and back; what is set is kept."""
        async with browser(self.app, address) as here:
            here.cookies = self.cookies
            location = await decided(self.abroad, await begun(here, "discord"), self.who)
            self.cookies.update(here.cookies)
        async with browser(self.app, address) as back:
            for cookie in self.cookies.jar:
                if is_sent_across(cookie):
                    back.cookies.jar.set_cookie(cookie)
            answer = await back.get(location)
            self.cookies.update(back.cookies)
        return answer


def is_sent_across(cookie: Cookie) -> bool:
    """Whether a browser sends it with a navigation that another site began."""
    return str(cookie.get_nonstandard_attr("SameSite", "lax")).lower() != "strict"


@pytest.fixture
def wanderer(app: Litestar, abroad: httpx.AsyncClient) -> Wanderer:
    return Wanderer(app, abroad, Stranger(), httpx.Cookies())


@pytest.mark.standard("SO-24", "CK-02")
async def test_the_cookie_of_the_transaction_comes_back_with_them_and_that_of_the_session_does_not(
    wanderer: Wanderer,
) -> None:
    await wanderer.sign_in(new_address())
    held = {cookie.name: is_sent_across(cookie) for cookie in wanderer.cookies.jar}
    assert (held[SOCIAL_COOKIE], held[REFRESH_COOKIE]) == (True, False)


@pytest.mark.standard("SE-07")
async def test_signing_in_again_ends_the_session_that_was_there(http: httpx.AsyncClient, wanderer: Wanderer) -> None:
    address = new_address()
    first = await signed_in(http, await wanderer.sign_in(address))
    second = await signed_in(http, await wanderer.sign_in(address))
    assert await is_in(http, second)
    assert not await is_in(http, first)


async def test_a_device_that_signed_in_before_is_no_news_in_another_network(
    services: Services, outbox: Outbox, wanderer: Wanderer
) -> None:
    await wanderer.sign_in(new_address())
    assert await letters(services, outbox, wanderer.who.email) == []
    await wanderer.sign_in(new_address())
    assert await letters(services, outbox, wanderer.who.email) == []
    wanderer.cookies.clear()
    await wanderer.sign_in(new_address())
    assert len(await letters(services, outbox, wanderer.who.email)) == 1

"""From a provider to an account and back: the whole way, at each kind of provider."""

import httpx
import pytest
from litestar import Litestar

from tests.conftest import Introspector, browser
from tests.social.acting import PAGE, PROVIDERS, Stranger, error_of, me, signed_in, through


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_somebody_new_comes_in_through_a_provider_and_again(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, introspector: Introspector, provider: str
) -> None:
    who = Stranger()
    first = await through(http, abroad, provider, who)
    assert first.headers["location"] == PAGE
    headers = await signed_in(http, first)
    account = await me(http, headers)
    assert (account["email"], account["nickname"]) == (who.email, who.username)
    told = await introspector.ask(http, headers["Authorization"].removeprefix("Bearer "))
    assert (told["active"], told["sub"], told["amr"]) == (True, account["id"], ["fed"])

    headers = await signed_in(http, await through(http, abroad, provider, who))
    assert (await me(http, headers))["id"] == account["id"]

    linked = (await http.get("/me/identities", headers=headers)).json()
    assert [(one["provider"], one["subject"], one["email"]) for one in linked] == [(provider, who.subject, who.email)]


async def test_a_linked_provider_opens_the_account_until_it_is_unlinked(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient
) -> None:
    who, other = Stranger(), Stranger()
    headers = await signed_in(http, await through(http, abroad, "openid", who))
    account = await me(http, headers)
    begun = await http.post("/me/identities/discord", params={"next": PAGE}, headers=headers)
    assert begun.status_code == 200, begun.text
    at_provider = await abroad.post(begun.json()["authorize_url"], data=other.choice())
    assert error_of(await http.get(at_provider.headers["location"])) == ""
    async with browser(app) as elsewhere:
        again = await signed_in(elsewhere, await through(elsewhere, abroad, "discord", other))
        assert (await me(elsewhere, again))["id"] == account["id"]
        guilds = await elsewhere.get("/me/identities/discord/guilds", headers=again)
        assert guilds.status_code == 200, guilds.text
        assert len(guilds.json()) == 1
    gone = await http.delete("/me/identities/discord", headers=headers)
    assert gone.status_code == 204, gone.text
    last = await http.delete("/me/identities/openid", headers=headers)
    assert (last.status_code, last.json()["code"]) == (409, "last_credential")

"""Where a provider's tokens go: into one sealed column of their own row, and nowhere else."""

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from litestar import Litestar
from redis.asyncio import Redis
from sqlalchemy import text
from structlog.testing import capture_logs

from service.settings import Settings
from service.wiring import Services
from tests.attacks.social import (
    NativeAttempt,
    Wiretap,
    identities_of,
    returning,
)
from tests.conftest import ISSUER, Outbox, browser, sign_up
from tests.social.acting import (
    PAGE,
    PROVIDERS,
    REFRESH_COOKIE,
    Stranger,
    decided,
    error_of,
    query_of,
    signed_in,
)
from tests.traces import keys_with, rows_with


class Witness:
    """Reads everything that a browser is answered."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def see(self, answer: httpx.Response) -> None:
        await answer.aread()
        self.seen.append(f"{answer.headers.multi_items()} {answer.text}")


@pytest.fixture
def every_line(caplog: pytest.LogCaptureFixture) -> Iterator[list[Any]]:
    """What the service and its libraries log meanwhile."""
    caplog.set_level(logging.INFO)
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        yield lines


@pytest.mark.standard("SO-26")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_no_token_of_a_provider_is_answered_logged_or_kept_where_it_can_be_read(
    *,
    tapped: Litestar,
    tapped_services: Services,
    tap: Wiretap,
    abroad: httpx.AsyncClient,
    outbox: Outbox,
    redis: Redis,
    every_line: list[Any],
    caplog: pytest.LogCaptureFixture,
    native: str,
    provider: str,
) -> None:
    who, witness = Stranger(), Witness()
    async with browser(tapped) as http:
        http.event_hooks = {"response": [witness.see]}
        location = await returning(http, abroad, provider, who)
        code = query_of(location)["code"]
        headers = await signed_in(http, await http.get(location))
        for path in ("/me", "/me/identities", f"/me/identities/{provider}/guilds", "/me/export", "/me/sessions"):
            assert (await http.get(path, headers=headers)).status_code in {200, 404}
        again = NativeAttempt(http, abroad, native, provider)
        assert (await again.exchange(await again.code(who))).status_code == 200
        person = await sign_up(http, tapped_services, outbox)
        linking = await http.post(
            f"/me/identities/{provider}",
            params={"next": PAGE},
            headers={**person.headers, "Origin": "https://app.test"},
        )
        url = linking.json()["authorize_url"]
        assert error_of(await http.get(await decided(abroad, url, Stranger()))) == ""
        broken = await http.get(await decided(abroad, (await _asked(http, provider)), who, fault="profile_rubbish"))
        assert error_of(broken) == ("" if provider == "openid" else "provider_unavailable")
    await tapped_services.mailer.drain()

    sent = {call.form["code_verifier"] for call in tap.exchanges()} - {again.verifier}
    secret = {*tap.tokens(), *sent, code, "made up for these tests"}
    assert len(secret) >= (8 if provider != "github" else 6)
    of_libraries = [line for line in caplog.messages if ISSUER not in line]  # the browser of this test logs as well
    said = "\n".join([*witness.seen, str(every_line), *of_libraries, *(mail.text for mail in outbox.mails)])
    assert REFRESH_COOKIE in said
    assert {word for word in secret if word in said} == set()
    readable = {*secret, *(word.encode().hex() for word in secret)}
    assert await rows_with(tapped_services, readable) == set()
    assert await keys_with(redis, secret) == set()


async def _asked(http: httpx.AsyncClient, provider: str) -> str:
    answer = await http.get(f"/auth/social/{provider}", params={"next": PAGE})
    location: str = answer.headers["location"]
    return location


@pytest.mark.standard("SO-26")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_only_tokens_that_are_of_use_are_kept(
    services: Services, http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str
) -> None:
    who = Stranger()
    assert error_of(await http.get(await returning(http, abroad, provider, who))) == ""
    (identity,) = await identities_of(services, who)
    assert (identity.sealed is not None) is (provider == "discord")


@pytest.mark.standard("SO-26")
async def test_sealed_tokens_open_in_their_own_row_alone(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    """Who can write to the database cannot lend one person's tokens to another."""
    attacker, victim = Stranger(), Stranger()
    async with browser(app) as theirs:
        victims = await signed_in(theirs, await theirs.get(await returning(theirs, abroad, "discord", victim)))
    async with browser(app) as http:
        mine = await signed_in(http, await http.get(await returning(http, abroad, "discord", attacker)))
        assert (await http.get("/me/identities/discord/guilds", headers=mine)).status_code == 200
        (own,) = await identities_of(services, attacker)
        account = own.account_id
        moves = (
            "UPDATE identities SET sealed = (SELECT sealed FROM identities WHERE subject = :v) WHERE subject = :a",
            "UPDATE identities SET sealed = sealed || '\\x00'::bytea WHERE subject = :a",
            "UPDATE identities SET sealed = '\\x'::bytea WHERE subject = :a",
        )
        for move in moves:
            async with services.database.begin() as transaction:
                await transaction.execute(text(move), {"v": victim.subject, "a": attacker.subject})
            answer = await http.get("/me/identities/discord/guilds", headers=mine)
            assert (answer.status_code, answer.json()["code"]) == (409, "not_linked"), move
        assert (await http.get("/me/identities/discord/guilds", headers=victims)).status_code == 200
        async with services.database.begin() as transaction:
            gone = text("UPDATE identities SET issuer = 'https://nowhere.example' WHERE subject = :a")
            await transaction.execute(gone, {"a": attacker.subject})
            lent = text("UPDATE identities SET account_id = :account WHERE subject = :v")
            await transaction.execute(lent, {"v": victim.subject, "account": account})
        answer = await http.get("/me/identities/discord/guilds", headers=mine)
        assert (answer.status_code, answer.json()["code"]) == (409, "not_linked")


@pytest.mark.standard("SO-26")
async def test_a_secret_of_ours_is_shown_to_its_provider_alone_and_never_to_a_browser(
    tapped: Litestar, tap: Wiretap, abroad: httpx.AsyncClient, settings: Settings
) -> None:
    async with browser(tapped) as http:
        for provider in PROVIDERS:
            asked = await _asked(http, provider)
            assert not {"client_secret", "code_verifier"} & set(query_of(asked))
            assert str(settings.providers[provider].client_secret) not in asked
            assert error_of(await http.get(await decided(abroad, asked, Stranger()))) == ""
    assert len(tap.exchanges()) == 3
    others = [call for call in tap.calls if call not in tap.exchanges()]
    assert others
    assert [call.form for call in others if call.form] == []

"""What is kept of an identity, how it is sealed, and that nothing is left of it when the account is closed."""

import secrets
from collections.abc import Iterator

import httpx
import msgspec
import pytest
from litestar import Litestar
from redis.asyncio import Redis
from sqlalchemy import select, text, update

from service.accounts import identities as identities_module
from service.accounts.identities import Identities, Identity
from service.app import create_app
from service.crypto.roots import RootKeys
from service.crypto.sealing import sealed_with
from service.providers.provider import ForeignPerson, ForeignTokens
from service.setting_values import Secret
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Outbox, Servers, TestClock, browser, root_key, worker
from tests.deeds import letters, session_of, with_account
from tests.social.acting import Stranger, me
from tests.social.linked import (
    comes_in,
    comes_in_elsewhere,
    events_of,
    identities_of,
    is_refused,
    link,
    the_account,
    the_identity,
    tokens_of,
)
from tests.tokens.two_workers import settings_of_ones_own
from tests.traces import keys_with, rows_with

GUILDS = "/me/identities/discord/guilds"
ROOTS = {number: root_key(number) for number in (1, 2, 3)}


@pytest.fixture(scope="module")
def own_settings(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    """With a database of its own, so that a change of root keys disturbs nobody."""
    with settings_of_ones_own(servers, environ, VESTIBULE_KEYS=ROOTS[1], VESTIBULE_KEY_REFRESH="3600") as own:
        yield own


def under(settings: Settings, *numbers: int) -> Settings:
    """The same with these root keys, the first of them in front."""
    return msgspec.structs.replace(settings, keys=Secret(",".join(ROOTS[number] for number in numbers)))


@pytest.mark.standard("LO-20")
async def test_nothing_of_an_identity_is_left_when_its_account_is_closed(
    *,
    app: Litestar,
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    redis: Redis,
) -> None:
    who, second = Stranger(), Stranger()
    headers = await comes_in(http, abroad, "discord", who)
    assert await link(http, abroad, headers, "openid", second) == ""
    await comes_in_elsewhere(app, abroad, "openid", second)
    account = await the_account(services, who.email)
    await letters(services, outbox, who.email)
    assert (await http.delete("/me", headers=headers)).status_code == 204
    await letters(services, outbox, who.email)
    words = [word for one in (who, second) for word in (one.subject, one.username, one.email)]
    kept = {event for event, _, _ in await events_of(services, account.id, "account.close")}
    assert kept >= {"account.create", "identity.link", "login.social"}
    assert await rows_with(services, words) == set()
    assert await keys_with(redis, words) == set()
    assert {table for table, _ in await rows_with(services, [str(account.id)])} == {"audit_events", "revocations"}


async def test_whoever_closed_their_account_comes_again_as_somebody_new(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who)
    first = await me(http, headers)
    assert (await http.delete("/me", headers=headers)).status_code == 204
    again = await comes_in_elsewhere(app, abroad, "discord", who)
    second = await me(http, again)
    assert second["id"] != first["id"]
    assert (second["email"], second["nickname"]) == (first["email"], first["nickname"])
    assert len(await identities_of(services, who)) == 1


@pytest.mark.standard("SO-06")
async def test_an_address_that_is_free_again_is_another_persons_and_no_way_into_what_was(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "openid", who)
    heir = Stranger(email=who.email)
    assert await is_refused(app, abroad, "openid", heir) == "account_link_required"
    assert (await http.delete("/me", headers=headers)).status_code == 204
    await comes_in_elsewhere(app, abroad, "openid", heir)
    assert (await the_identity(services, heir)).account_id == (await the_account(services, who.email)).id
    assert await is_refused(app, abroad, "openid", who) == "account_link_required"


@pytest.mark.standard("SO-26", "LO-20")
async def test_the_export_shows_who_one_is_elsewhere_and_no_secret(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services
) -> None:
    who, second = Stranger(), Stranger()
    headers = await comes_in(http, abroad, "discord", who)
    assert await link(http, abroad, headers, "openid", second) == ""
    answer = await http.get("/me/export", headers=headers)
    assert answer.status_code == 200
    told = answer.json()
    assert told["account"]["has_password"] is False
    assert [(one["provider"], one["subject"], one["email"]) for one in told["identities"]] == [
        ("discord", who.subject, who.email),
        ("openid", second.subject, second.email),
    ]
    assert set(told["identities"][0]) == {
        "provider",
        "issuer",
        "subject",
        "username",
        "email",
        "email_verified",
        "avatar_url",
        "linked_at",
        "last_seen_at",
    }
    kept = await tokens_of(services, who)
    assert kept is not None
    assert kept.access_token not in answer.text
    assert kept.refresh_token not in answer.text


@pytest.mark.standard("SO-26")
@pytest.mark.parametrize("provider", ["openid", "github"])
async def test_tokens_that_are_of_no_use_are_not_kept(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, provider: str
) -> None:
    who, second = Stranger(), Stranger()
    await comes_in(http, abroad, provider, who)
    assert await link(http, abroad, await session_of(_app(http), await with_account(services)), provider, second) == ""
    assert [(await the_identity(services, one)).sealed for one in (who, second)] == [None, None]


def _app(http: httpx.AsyncClient) -> Litestar:
    transport = http._transport
    assert isinstance(transport, httpx.ASGITransport)
    return transport.app  # type: ignore[return-value]


@pytest.mark.standard("SO-26", "KY-12")
async def test_tokens_are_sealed_and_open_only_in_their_row(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services
) -> None:
    who, thief = Stranger(), Stranger()
    await comes_in_elsewhere(app, abroad, "discord", who)
    headers = await comes_in(http, abroad, "discord", thief)
    kept, sealed = await tokens_of(services, who), (await the_identity(services, who)).sealed
    assert kept is not None
    assert sealed is not None
    assert sealed_with(sealed) == services.rewrapping.roots.current
    assert kept.access_token.encode() not in sealed
    assert await rows_with(services, [kept.access_token, kept.refresh_token, kept.access_token.encode().hex()]) == set()
    async with services.database.begin() as transaction:
        await transaction.execute(update(Identity).where(Identity.subject == thief.subject).values(sealed=sealed))
    answer = await http.get(GUILDS, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_linked")


@pytest.mark.standard("SO-26", "KY-12")
async def test_an_identity_that_was_moved_to_another_account_takes_no_tokens_along(
    app: Litestar, http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services
) -> None:
    """Not even by whoever may write to the database."""
    who, thief = Stranger(), Stranger()
    await comes_in_elsewhere(app, abroad, "discord", who)
    headers = await comes_in(http, abroad, "openid", thief)
    mine = (await the_account(services, thief.email)).id
    async with services.database.begin() as transaction:
        await transaction.execute(update(Identity).where(Identity.subject == who.subject).values(account_id=mine))
    answer = await http.get(GUILDS, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_linked")


@pytest.mark.parametrize("damage", [b"", b"\x01", b"\x01\x01", b"\x02" * 40, b"\x01\xff" + bytes(40)])
async def test_what_cannot_be_opened_is_as_good_as_nothing(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, services: Services, damage: bytes
) -> None:
    who = Stranger()
    headers = await comes_in(http, abroad, "discord", who)
    async with services.database.begin() as transaction:
        await transaction.execute(update(Identity).where(Identity.subject == who.subject).values(sealed=damage))
    answer = await http.get(GUILDS, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_linked")
    headers = await comes_in(http, abroad, "discord", who)
    assert (await http.get(GUILDS, headers=headers)).status_code == 200


@pytest.mark.standard("KY-06")
async def test_after_a_rewrap_the_old_root_key_can_leave(
    own_settings: Settings,
    wall_clock: TestClock,
    outbox: Outbox,
    way_abroad: httpx.AsyncBaseTransport,
    abroad: httpx.AsyncClient,
) -> None:
    people = [Stranger() for _ in range(3)]
    async with worker(own_settings, wall_clock, outbox, way_abroad) as old:
        await old.signing_keys.ensure()
        await old.client_administration.ensure_front_end()
        await old.signing_keys.reload()
        await old.clients.reload()
        for who in people:
            await comes_in_elsewhere(create_app(old), abroad, "discord", who)
        await comes_in_elsewhere(create_app(old), abroad, "openid", Stranger())
        kept = [await tokens_of(old, who) for who in people]
        assert None not in kept
    async with worker(under(own_settings, 2, 1), wall_clock, outbox, way_abroad) as both:
        assert await tokens_of(both, people[0]) == kept[0]
        report = await both.rewrapping.run()
        assert report.identities == 3
        assert (await both.rewrapping.run()).identities == 0
        assert await seals(both) == {2}
    async with worker(under(own_settings, 2), wall_clock, outbox, way_abroad) as new:
        assert [await tokens_of(new, who) for who in people] == kept
        async with browser(create_app(new)) as http:
            headers = await comes_in(http, abroad, "discord", people[0])
            assert (await http.get(GUILDS, headers=headers)).status_code == 200


async def seals(services: Services) -> set[int]:
    """The root keys that sealed tokens need."""
    async with services.database.begin() as transaction:
        found = await transaction.scalars(select(Identity.sealed).where(Identity.sealed.is_not(None)))
        return {sealed_with(sealed) for sealed in found if sealed}


@pytest.mark.standard("KY-06")
async def test_a_rewrap_takes_all_and_passes_over_what_it_cannot_open(
    services: Services, monkeypatch: pytest.MonkeyPatch, abroad: httpx.AsyncClient, app: Litestar
) -> None:
    """In more than one turn; rows that cannot be opened stay as they are, at the end and in between."""
    monkeypatch.setattr(identities_module, "REWRAPPED", 3)
    names = ("one", "two", "gone")
    keys = {name: RootKeys.parse(root_key(number)) for number, name in enumerate(names, 11)}
    owner = Stranger()
    await comes_in_elsewhere(app, abroad, "openid", owner)
    account = (await the_account(services, owner.email)).id
    mark = secrets.token_hex(4)
    by_key: dict[str, list[str]] = {name: [] for name in names}
    for number in range(14):
        name = ("one", "gone", "one", "two")[number % 4]
        issuer = f"https://{mark}-{number:02}.example"
        by_key[name].append(issuer)
        async with services.database.begin() as transaction:
            await Identities(services.database, keys[name], services.clock).add(
                transaction,
                account,
                "elsewhere",
                ForeignPerson(issuer, "1"),
                ForeignTokens(f"secret {issuer}"),
                at=services.clock(),
            )
    two_in_front = RootKeys({**_keys(keys["two"]), **_keys(keys["one"])})
    rewrapping = Identities(services.database, two_in_front, services.clock)
    assert await rewrapping.rewrap() == len(by_key["one"])
    assert await rewrapping.rewrap() == 0
    alone = Identities(services.database, keys["two"], services.clock)
    async with services.database.begin() as transaction:
        rows = [row for row in await alone.of(transaction, account) if mark in row.issuer]
    opened = {row.issuer for row in rows if alone.tokens(row) == ForeignTokens(f"secret {row.issuer}")}
    assert opened == {*by_key["one"], *by_key["two"]}
    async with services.database.begin() as transaction:
        await transaction.execute(text("DELETE FROM accounts WHERE id = :id"), {"id": account})


def _keys(roots: RootKeys) -> dict[int, bytes]:
    return dict(roots._keys)

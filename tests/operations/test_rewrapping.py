"""Another root key: everything goes on beside it, and afterwards the old one can leave the ring."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import cache

import httpx
import msgspec
import pytest
from sqlalchemy import delete, select, update

from service.accounts.models import Account
from service.app import create_app
from service.crypto.sealing import UnsealError, sealed_with
from service.mail.outbox import REWRAPPED, OutboxRow
from service.settings import Settings
from service.tokens.clients import ClientSecret
from service.tokens.keys import SigningKeyRow
from service.wiring import Services, build
from tests.conftest import (
    Introspector,
    Outbox,
    Servers,
    TestClock,
    browser,
    root_key,
    shifted,
    worker,
)
from tests.deeds import registered, sign_in, with_account
from tests.tokens.two_workers import JWKS, refreshed, settings_of_ones_own

ROOTS = {number: root_key(number) for number in (1, 2, 3)}
Idle = Callable[..., Services]


@pytest.fixture(scope="module")
def own_settings(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    """Under the first root key; no worker looks for changes or turns keys by itself."""
    other = {"VESTIBULE_KEYS": ROOTS[1], "VESTIBULE_KEY_REFRESH": "3600", "VESTIBULE_KEY_ROTATION": "0"}
    with settings_of_ones_own(servers, environ, **other) as own:
        yield own


def under(settings: Settings, *numbers: int) -> Settings:
    """The same with these root keys, the first of them in front."""
    keys = ",".join(ROOTS[number] for number in numbers)
    return msgspec.structs.replace(settings, keys=type(settings.keys)(keys))


@pytest.fixture(scope="module")
async def idle(own_settings: Settings, wall_clock: TestClock, outbox: Outbox) -> AsyncIterator[Idle]:
    """The service with some root keys, the first of them in front; nothing runs in its background."""

    @cache
    def with_roots(*numbers: int) -> Services:
        return build(under(own_settings, *numbers), clock=wall_clock, mail=lambda _: outbox, scripts=shifted)

    await with_roots(1).client_administration.ensure_front_end()
    yield with_roots
    for numbers in ((1,), (2, 1), (1, 2), (3, 1), (3, 2), (3,), (3, 2, 1)):
        await with_roots(*numbers).close()


@pytest.fixture
async def ring(idle: Idle, clock: TestClock) -> Idle:
    """The same, as newly installed under the first root key."""
    old = idle(1)
    async with old.database.begin() as transaction:
        for table in (SigningKeyRow, OutboxRow, Account, ClientSecret):
            await transaction.execute(delete(table))
    await old.signing_keys.ensure()
    return idle


async def ready(services: Services) -> Services:
    """The same, with its keys and clients read."""
    await services.signing_keys.reload()
    await services.clients.reload()
    return services


async def post(services: Services, number: int = 1) -> list[str]:
    """Mails that wait, each to somebody of their own."""
    addresses = [f"{secrets.token_hex(6)}@example.com" for _ in range(number)]
    async with services.database.begin() as transaction:
        for address in addresses:
            services.outbox.post(transaction, "account_closed", address, "en", at="2026-11-20 16:32 UTC")
    return addresses


async def sealed(services: Services) -> dict[str, set[int]]:
    """The root keys that what is sealed needs."""
    async with services.database.begin() as transaction:
        keys = (await transaction.scalars(select(SigningKeyRow.private_sealed))).all()
        mails = (await transaction.scalars(select(OutboxRow.sealed))).all()
    return {"keys": {sealed_with(blob) for blob in keys}, "mails": {sealed_with(blob) for blob in mails}}


@pytest.mark.standard("KY-06", "KY-21")
async def test_afterwards_the_old_root_key_can_leave_and_nothing_is_lost(
    ring: Idle, own_settings: Settings, clock: TestClock, outbox: Outbox
) -> None:
    """Tokens verify, people refresh, mails that waited leave."""
    old = await ready(ring(1))
    person, client_id = await with_account(old), f"svc-{secrets.token_hex(4)}"
    secret = await registered(old, client_id)
    async with browser(create_app(old)) as http:
        tokens = (await sign_in(http, person)).json()
    addresses = await post(old, 3)

    both = await ready(ring(2, 1))
    report = await both.rewrapping.run()
    assert (report.keys, report.mails) == (2, 4)  # one tells the person of a new device
    assert await sealed(both) == {"keys": {2}, "mails": {2}}
    async with browser(create_app(both)) as http:
        caller = Introspector(client_id, secret)
        assert (await caller.ask(http, tokens["access_token"]))["active"] is True
        tokens |= await refreshed(http, tokens["refresh_token"])

    async with worker(under(own_settings, 2), clock, outbox) as alone, browser(create_app(alone)) as http:
        await alone.mailer.drain()
        assert [len(outbox.to(address)) for address in addresses] == [1, 1, 1]
        assert (await caller.ask(http, tokens["access_token"]))["active"] is True  # the use before renewed its digest
        assert await refreshed(http, tokens["refresh_token"])
        assert len((await http.get(JWKS)).json()["keys"]) == 2
        turn, _ = await alone.signing_keys.rotate()
        assert turn.activates_at is not None


async def test_the_report_says_what_still_needs_an_old_key_until_nothing_does(ring: Idle) -> None:
    old = await ready(ring(1))
    people = [await with_account(old) for _ in range(2)]
    clients = {f"svc-{secrets.token_hex(4)}": "" for _ in range(3)}
    for client_id in clients:
        clients[client_id] = await registered(old, client_id)

    both = await ready(ring(2, 1))
    report = await both.rewrapping.run()
    assert report.needed == {1: {"passwords": 2, "client secrets": 3}}

    async with browser(create_app(both)) as http:
        assert (await sign_in(http, people[0])).status_code == 200
        first, second, third = clients
        await Introspector(first, clients[first]).ask(http, "nothing")
        report = await both.rewrapping.run()
        assert report.needed == {1: {"passwords": 1, "client secrets": 2}}

        await both.client_administration.replace_secrets(second)
        await Introspector(third, clients[third]).ask(http, "nothing")
        assert (await sign_in(http, people[1])).status_code == 200
    report = await both.rewrapping.run()
    assert (report.keys, report.needed) == (0, {})

    newest = await ready(ring(3, 2, 1))
    await with_account(newest)
    assert (await newest.rewrapping.run()).needed == {2: {"passwords": 2, "client secrets": 3}}


async def test_a_client_secret_that_has_ended_needs_no_key(ring: Idle, clock: TestClock) -> None:
    """Nobody will ever use it, so it would hold the old root key for ever."""
    old, client_id = await ready(ring(1)), f"svc-{secrets.token_hex(4)}"
    await registered(old, client_id)
    await old.client_administration.add_secret(client_id, timedelta(hours=1))
    assert (await ring(2, 1).rewrapping.run()).needed == {1: {"client secrets": 2}}

    await clock.advance(hours=2)
    assert (await ring(2, 1).rewrapping.run()).needed == {1: {"client secrets": 1}}


async def test_an_account_without_a_password_needs_no_key(ring: Idle) -> None:
    old = await ready(ring(1))
    await with_account(old)
    async with old.database.begin() as transaction:
        await transaction.execute(update(Account).values(password_hash=None))

    assert (await ring(2, 1).rewrapping.run()).needed == {}


async def test_again_and_at_once_from_everywhere_seals_each_thing_anew_once(ring: Idle) -> None:
    await post(ring(1), 5)
    reports = await asyncio.gather(*(ring(2, 1).rewrapping.run() for _ in range(4)))

    assert sum(report.keys for report in reports) == 2
    assert sum(report.mails for report in reports) == 5
    again = await ring(2, 1).rewrapping.run()
    assert (again.keys, again.mails, again.needed) == (0, 0, {})


async def test_more_mails_than_one_transaction_takes_are_all_sealed_anew(ring: Idle, outbox: Outbox) -> None:
    old, many = ring(1), 2 * REWRAPPED + 1
    addresses = await post(old, many)
    async with old.database.begin() as transaction:  # nobody took one of them
        row = (await transaction.scalars(select(OutboxRow).limit(1))).one()
        row.dead_at, row.reason = row.created_at, "refused"

    assert (await ring(2, 1).rewrapping.run()).mails == many
    alone = ring(2)
    assert await alone.outbox.revive() == 1
    for row in await alone.outbox.waiting():
        assert alone.outbox.open(row).to in addresses


async def test_what_an_instance_of_before_seals_meanwhile_is_found_the_next_time(ring: Idle) -> None:
    """During a rollout both run; the old one still has its key in front."""
    assert (await ring(2, 1).rewrapping.run()).keys == 2
    lagging = await ready(ring(1, 2))
    await post(lagging)
    await lagging.signing_keys.rotate()
    assert await sealed(lagging) == {"keys": {1, 2}, "mails": {1}}

    report = await ring(2, 1).rewrapping.run()
    assert (report.keys, report.mails) == (1, 1)
    assert await sealed(lagging) == {"keys": {2}, "mails": {2}}


@pytest.mark.standard("KY-09", "KY-06")
async def test_without_the_old_root_key_nothing_is_sealed_anew_and_nothing_is_damaged(ring: Idle) -> None:
    await post(ring(1))
    before = await sealed(ring(1))

    with pytest.raises(UnsealError):
        await ring(3).rewrapping.run()
    with pytest.raises(UnsealError):
        await ring(3, 2).rewrapping.run()

    assert await sealed(ring(1)) == before == {"keys": {1}, "mails": {1}}
    assert (await ring(3, 1).rewrapping.run()).keys == 2


async def test_a_key_that_is_gone_does_not_need_its_root_key(ring: Idle, clock: TestClock) -> None:
    """Its row stays until the next turn, but nothing reads it: an operator had rewrapped, and dropped the first one."""
    old = await ready(ring(1))
    turn, _ = await old.signing_keys.rotate()
    assert turn.activates_at is not None
    await clock.advance(seconds=(turn.activates_at - clock()).total_seconds() + 1300)
    async with old.database.begin() as transaction:  # as a release before this one left it
        rows = list(await transaction.scalars(select(SigningKeyRow)))
        gone = min(rows, key=lambda row: row.activates_at or clock()).kid
    both = await ready(ring(2, 1))
    await both.rewrapping.run()
    async with old.database.begin() as transaction:
        stale = next(row.private_sealed for row in rows if row.kid == gone)
        await transaction.execute(update(SigningKeyRow).where(SigningKeyRow.kid == gone).values(private_sealed=stale))

    later = await ready(ring(3, 2))
    assert gone not in {key.kid for key in later.signing_keys.keyring.keys}
    assert (await later.rewrapping.run()).keys == 2
    assert await ready(ring(3))


async def test_it_works_beside_workers_that_sign_turn_and_mail(
    ring: Idle, own_settings: Settings, clock: TestClock, outbox: Outbox
) -> None:
    """Every mail leaves once, no request fails, and every key is sealed with the new root key in the end."""
    addresses = await post(ring(1), 60)
    person = await with_account(ring(1))
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(under(own_settings, 2, 1), clock, outbox)) for _ in range(2)]
        doors = [await stack.enter_async_context(browser(create_app(services))) for services in workers]
        lagging = await ready(ring(1, 2))

        async def people(http: httpx.AsyncClient) -> None:
            tokens = (await sign_in(http, person)).json()
            for _ in range(10):
                tokens = await refreshed(http, tokens["refresh_token"])

        async def letters() -> None:
            for _ in range(10):
                addresses.extend(await post(lagging, 3))

        async def rewraps() -> None:
            for _ in range(5):
                await workers[0].rewrapping.run()

        turning = (workers[1].signing_keys.rotate(), lagging.signing_keys.rotate())
        mailing = (services.mailer.drain() for services in workers)
        await asyncio.gather(*(people(http) for http in doors), letters(), rewraps(), *turning, *mailing, rewraps())
        await asyncio.gather(*(services.mailer.drain() for services in workers))
        await workers[1].rewrapping.run()
        assert (await sealed(workers[0]))["keys"] == {2}

    assert [len(outbox.to(address)) for address in addresses] == [1] * len(addresses)

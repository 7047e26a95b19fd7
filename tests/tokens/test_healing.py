"""Redis came back empty: people stay signed in with what the journal knows, and who was out stays out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from redis import Redis

from service.settings import Settings
from service.tokens.journal import noted_every
from service.tokens.sessions import Aim
from service.wiring import Services
from tests.conftest import PASSWORD, Introspector, Outbox
from tests.deeds import registered
from tests.tokens.acting import record_key, refresh, row_of, session_of
from tests.tokens.forgetful import MOST, Guest, Ward, of_database, ward

DATABASE = 11
IDLE = timedelta(days=14)


@pytest.fixture(scope="module")
async def house(
    anyio_backend: str, services: Services, settings: Settings, outbox: Outbox, introspector: Introspector
) -> AsyncIterator[Ward]:
    async with ward(settings, DATABASE, outbox, introspector) as made:
        yield made


@pytest.fixture
async def here(house: Ward) -> AsyncIterator[Ward]:
    yield house
    await house.clock.reset()


@pytest.fixture
async def guest(here: Ward) -> Guest:
    return await here.guest()


# Who is in stays in


async def test_a_lost_session_lives_and_is_back_after_one_look(here: Ward, guest: Guest) -> None:
    await here.lose(guest)
    assert await here.is_live(guest)
    assert await here.redis.hexists(record_key(guest.account), guest.session)
    assert await here.redis.pttl(record_key(guest.account)) > IDLE.total_seconds() * 1000


async def test_after_the_whole_store_was_emptied_both_tokens_are_good(here: Ward, guest: Guest) -> None:
    await here.redis.flushdb()
    assert (await here.http.get("/me", headers=guest.headers)).status_code == 200
    await here.redis.flushdb()
    await here.renew(guest)
    assert await here.is_live(guest)


@pytest.mark.parametrize("rotations", [0, 1, 3])
async def test_the_newest_token_goes_on_where_the_store_lost_every_rotation(
    here: Ward, guest: Guest, rotations: int
) -> None:
    for _ in range(rotations):
        await here.renew(guest)
    await here.lose(guest)
    newest = guest.refresh
    await here.renew(guest)
    assert guest.refresh != newest
    await here.renew(guest)
    assert await here.is_live(guest)


async def test_sixteen_at_once_get_one_successor_from_a_store_that_lost_the_session(here: Ward, guest: Guest) -> None:
    for _ in range(2):
        await here.renew(guest)
    await here.lose(guest)
    answers = await asyncio.gather(*(refresh(here.http, guest.refresh) for _ in range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1
    guest.take(answers[0])
    await here.renew(guest)


async def test_a_loss_between_the_look_and_the_rotation_signs_nobody_out(
    here: Ward, guest: Guest, settings: Settings
) -> None:
    with Redis.from_url(of_database(settings.redis_url, DATABASE)) as line:

        def losing(allowed: tuple[str, ...]) -> Aim:
            assert line.delete(record_key(guest.account)) == 1
            return here.services.sessions.everything(allowed)

        grant = await here.services.sessions.rotate(guest.refresh, "web", losing)
    assert grant.refresh_token != guest.refresh
    assert await here.is_live(replace(guest, access=grant.access_token))


async def test_of_forty_people_who_refresh_while_the_store_is_emptied_nobody_is_out(here: Ward) -> None:
    guests = [await here.guest() for _ in range(40)]

    async def go_on(guest: Guest) -> None:
        for _ in range(3):
            await here.renew(guest)

    working = [asyncio.create_task(go_on(guest)) for guest in guests]
    for _ in range(3):
        await here.redis.flushdb()
        await here.renew(guests[0]) if working[0].done() else await asyncio.sleep(0)
    await asyncio.gather(*working)
    assert all(await asyncio.gather(*(here.is_live(guest) for guest in guests)))


async def test_the_list_of_sessions_is_whole_although_the_store_forgot_them(here: Ward, guest: Guest) -> None:
    others = [await here.signed_in(guest) for _ in range(2)]
    await here.lose(guest)
    answer = await here.http.get("/me/sessions", headers=guest.headers)
    assert {one["id"] for one in answer.json()} == {str(session_of(one.access)) for one in (guest, *others)}


async def test_signing_out_works_for_a_session_that_the_store_forgot(here: Ward, guest: Guest) -> None:
    await here.lose(guest)
    answer = await here.http.post("/auth/logout", json={"refresh_token": guest.refresh})
    assert answer.status_code == 204
    assert not await here.is_live(guest)
    await here.lose(guest)
    assert not await here.is_live(guest)
    assert (await row_of(here.services, session_of(guest.access))).ended_reason == "logout"


async def test_giving_the_password_again_works_for_a_forgotten_session_and_lasts(here: Ward, guest: Guest) -> None:
    await here.clock.advance(days=10)
    await here.renew(guest)
    await here.lose(guest)
    body = {"password": PASSWORD}
    guest.take(await here.http.post("/auth/reauthenticate", json=body, headers=guest.headers))
    told = await here.caller.ask(here.http, guest.access)
    await here.clock.advance(days=13)
    await here.lose(guest)
    await here.renew(guest)
    again = await here.caller.ask(here.http, guest.access)
    assert again["auth_time"] == told["auth_time"]
    assert again["amr"] == ["pwd"]


async def test_the_roles_of_a_session_that_came_back_are_those_of_now(here: Ward) -> None:
    guest = await here.guest(roles=("reader",))
    assert (await here.caller.ask(here.http, guest.access))["roles"] == ["reader"]
    await here.lose(guest)
    await here.services.administration.set_roles(guest.account, ["writer"])
    assert (await here.caller.ask(here.http, guest.access))["roles"] == ["writer"]


async def test_what_comes_back_beyond_the_cap_goes_at_the_next_sign_in(here: Ward, guest: Guest) -> None:
    others = [await here.signed_in(guest) for _ in range(MOST - 1)]
    await here.lose(guest)
    late = [await here.signed_in(guest) for _ in range(2)]
    assert all([await here.is_live(one) for one in (guest, *others, *late)])
    last = await here.signed_in(guest)
    live = [one for one in (guest, *others, *late, last) if await here.is_live(one)]
    assert len(live) == MOST
    assert last in live
    await here.lose(guest)
    assert [one for one in (guest, *others, *late, last) if await here.is_live(one)] == live


# Who is out stays out


async def _logout(here: Ward, guest: Guest) -> None:
    answer = await here.http.post("/auth/logout", json={"refresh_token": guest.refresh})
    assert answer.status_code == 204


async def _ended_by_an_operator(here: Ward, guest: Guest) -> None:
    await here.services.administration.end_session(guest.account, session_of(guest.access))


async def _all_ended_by_an_operator(here: Ward, guest: Guest) -> None:
    await here.services.administration.end_sessions(guest.account)


async def _disabled(here: Ward, guest: Guest) -> None:
    await here.services.administration.disable(guest.account)


async def _disabled_and_enabled(here: Ward, guest: Guest) -> None:
    await _disabled(here, guest)
    await here.services.administration.enable(guest.account)


async def _password_changed(here: Ward, guest: Guest) -> None:
    other = await here.signed_in(guest)
    body = {"current_password": PASSWORD, "new_password": "snow under the distant mountain"}
    answer = await here.http.post("/me/password", json=body, headers=other.headers)
    assert answer.status_code == 204, answer.text


async def _closed(here: Ward, guest: Guest) -> None:
    assert (await here.http.delete("/me", headers=guest.headers)).status_code == 204


async def _reused(here: Ward, guest: Guest) -> None:
    thief = replace(guest)
    for _ in range(2):
        await here.renew(guest)
    assert await here.status(thief.refresh) == 401


Ending = Callable[[Ward, Guest], Awaitable[None]]
ENDINGS: tuple[Ending, ...] = (
    _logout,
    _ended_by_an_operator,
    _all_ended_by_an_operator,
    _disabled,
    _disabled_and_enabled,
    _password_changed,
    _closed,
    _reused,
)


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
async def test_what_was_ended_does_not_come_back(here: Ward, guest: Guest, end: Ending) -> None:
    await end(here, guest)
    assert not await here.is_live(guest)
    await here.redis.flushdb()
    assert not await here.is_live(guest)
    assert await here.status(guest.refresh) == 401
    assert (await here.http.get("/me", headers=guest.headers)).status_code == 401
    assert not await here.redis.hexists(record_key(guest.account), guest.session)


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
async def test_an_old_copy_of_the_store_brings_nobody_back_for_longer_than_one_look(
    here: Ward, guest: Guest, end: Ending
) -> None:
    copy = await here.redis.dump(record_key(guest.account))
    assert copy is not None
    await end(here, guest)
    await here.redis.flushdb()
    await here.redis.restore(record_key(guest.account), 0, copy)
    assert await here.is_live(guest)  # nothing was told yet: this is what the look is for
    await here.services.replay.look()
    assert not await here.is_live(guest)
    assert await here.status(guest.refresh) == 401


async def test_a_session_that_is_ended_while_it_comes_back_is_dead_after_one_look(here: Ward, guest: Guest) -> None:
    """Read from the journal while it lived, written to Redis after both stores were told that it has ended."""
    healing = here.services.sessions.healing
    await here.lose(guest)
    kept = await healing.recall.of(guest.session)
    assert kept is not None
    await here.services.replay.journal.ended(guest.session, "administrator")
    await healing._write(kept)
    await here.replay().look()
    assert await here.status(guest.refresh) == 401
    assert not await here.is_live(guest)


async def test_an_operator_ends_a_session_that_the_store_forgot(here: Ward, guest: Guest) -> None:
    await here.lose(guest)
    await here.services.administration.end_session(guest.account, session_of(guest.access))
    assert not await here.is_live(guest)
    assert await here.status(guest.refresh) == 401


async def test_the_holder_ends_another_session_that_the_store_forgot(here: Ward, guest: Guest) -> None:
    other = await here.signed_in(guest)
    await here.lose(guest)
    path = f"/me/sessions/{session_of(other.access)}"
    assert (await here.http.delete(path, headers=guest.headers)).status_code == 204
    assert not await here.is_live(other)
    assert await here.status(other.refresh) == 401


async def test_the_holder_ends_all_other_sessions_although_the_store_forgot_them(here: Ward, guest: Guest) -> None:
    other = await here.signed_in(guest)
    await here.lose(guest)
    assert (await here.http.delete("/me/sessions", headers=guest.headers)).status_code == 204
    assert not await here.is_live(other)
    assert await here.status(other.refresh) == 401
    assert await here.is_live(guest)


async def test_a_revoked_access_token_is_dead_after_one_look_at_an_emptied_store(
    here: Ward, services: Services, guest: Guest
) -> None:
    form = {"token": guest.access, "client_id": "web"}
    assert (await here.http.post("/revoke", data=form)).status_code == 200
    assert not await here.is_live(guest)
    await here.redis.flushdb()
    await here.replay().look()  # another worker's: it is in Redis again, and not in our memory alone
    assert not await here.is_live(guest)
    await here.renew(guest)
    assert await here.is_live(guest)


# Ends


async def test_the_idle_end_holds_for_what_comes_back(here: Ward, guest: Guest) -> None:
    await here.clock.advance(seconds=IDLE.total_seconds() - 60)
    await here.lose(guest)
    assert await here.services.sessions.healing.restore(guest.session) is not None
    await here.clock.advance(seconds=61 + noted_every(IDLE).total_seconds())  # as exactly as the journal knows
    assert await here.status(guest.refresh) == 401
    await here.lose(guest)
    assert await here.status(guest.refresh) == 401


async def test_who_came_every_week_is_not_out_because_the_store_forgot_it(here: Ward, guest: Guest) -> None:
    """The journal is told of each use, at most once an hour; its idle end moves with it."""
    for _ in range(3):
        await here.clock.advance(days=7)
        await here.renew(guest)
        await here.services.replay.journal.settle()
    await here.lose(guest)
    await here.renew(guest)
    assert await here.is_live(guest)


async def test_the_absolute_end_holds_for_what_comes_back(here: Ward, guest: Guest) -> None:
    for _ in range(3):
        await here.clock.advance(days=9)
        await here.renew(guest)
        await here.services.replay.journal.settle()
    await here.lose(guest)
    await here.renew(guest)
    await here.clock.advance(days=3, seconds=1)
    await here.lose(guest)
    assert await here.status(guest.refresh) == 401


async def test_a_generation_older_than_the_journal_noted_is_a_replay(here: Ward, guest: Guest) -> None:
    stolen = guest.refresh
    await here.clock.advance(hours=2)
    for _ in range(3):
        await here.renew(guest)
    await here.services.replay.journal.settle()
    await here.lose(guest)
    assert await here.status(stolen) == 401
    assert await here.status(guest.refresh) == 401
    assert (await row_of(here.services, session_of(guest.access))).ended_reason == "reused"


async def test_a_client_with_a_shorter_idle_time_keeps_it(here: Ward, services: Services) -> None:
    client = "short-idle"
    await registered(services, client, confidential=False, session_idle=3600)
    await here.services.clients.reload()
    guest = await here.guest(client)
    await here.clock.advance(seconds=3500)
    await here.lose(guest)
    assert await here.services.sessions.healing.restore(guest.session) is not None
    await here.lose(guest)
    await here.clock.advance(seconds=101 + 3600 / 4)
    assert await here.services.sessions.healing.restore(guest.session) is None
    assert await here.status(guest.refresh, client) == 401


# A store whose clock is wrong


async def _a_month_ahead(here: Ward) -> None:
    """The store's clock alone; put back by `clock.reset`."""
    await here.redis.set("vestibule:test:shift", int(timedelta(days=31).total_seconds() * 1_000_000))


async def test_a_store_a_month_ahead_throws_nobody_out(here: Ward, guest: Guest) -> None:
    await _a_month_ahead(here)
    assert await here.is_live(guest)
    assert await here.status(guest.refresh) == 503
    await here.clock.reset()
    await here.renew(guest)
    assert await here.is_live(guest)


async def test_who_is_out_is_out_for_a_store_a_month_ahead(here: Ward, guest: Guest) -> None:
    other, revoked = await here.signed_in(guest), await here.signed_in(guest)
    await _logout(here, guest)
    await _a_month_ahead(here)
    await _logout(here, other)
    assert (await here.http.post("/revoke", data={"token": revoked.access, "client_id": "web"})).status_code == 200
    assert not any([await here.is_live(one) for one in (guest, other, revoked)])
    assert await here.status(guest.refresh) == 401
    await here.clock.reset()
    assert not await here.is_live(other)
    assert await here.status(other.refresh) == 401


async def test_who_is_over_by_both_clocks_is_over(here: Ward, guest: Guest) -> None:
    await here.clock.advance(seconds=IDLE.total_seconds() + 1)
    assert await here.status(guest.refresh) == 401


async def test_what_comes_back_to_a_store_years_ahead_does_not_stay_for_ever(here: Ward, guest: Guest) -> None:
    await here.lose(guest)
    await here.redis.set("vestibule:test:shift", int(timedelta(days=700).total_seconds() * 1_000_000))
    assert await here.is_live(guest)
    assert await here.redis.pttl(record_key(guest.account)) > 0

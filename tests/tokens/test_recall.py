"""Introspection while Redis is away: the journal answers, for many at once, within bounds, and truthfully."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from sqlalchemy import event

from service.app import create_app
from service.errors import Unavailable
from service.settings import Settings
from service.store.postgres import Database
from service.tokens import recall as recalling
from service.tokens.recall import Recall
from service.wiring import Services, build
from tests.conftest import Introspector, Outbox, browser, shifted
from tests.deeds import registered
from tests.tokens.acting import INACTIVE, refresh
from tests.tokens.forgetful import Guest, Ward, away, ward

DATABASE = 13
SOON = 8.0
"""Seconds, many times what is promised, and far less than waiting one after the other would take."""


@pytest.fixture(scope="module")
async def house(
    anyio_backend: str, services: Services, settings: Settings, outbox: Outbox, introspector: Introspector
) -> AsyncIterator[Ward]:
    """Where people come in while Redis is still there."""
    async with ward(settings, DATABASE, outbox, introspector) as made:
        yield made


@pytest.fixture
async def here(house: Ward) -> AsyncIterator[Ward]:
    yield house
    await house.clock.reset()


@pytest.fixture
async def guest(here: Ward) -> Guest:
    return await here.guest()


@pytest.fixture
async def cut_off(here: Ward, settings: Settings, outbox: Outbox) -> AsyncIterator[Services]:
    """A worker that finds no Redis."""
    changed = msgspec.structs.replace(settings, redis_url=type(settings.redis_url)("redis://127.0.0.1:1/0"))
    services = build(changed, clock=here.clock, mail=lambda _: outbox, scripts=shifted)
    await services.signing_keys.reload()
    await services.clients.reload()
    yield services
    await services.recall.close()
    await services.close()


@pytest.fixture
async def http(cut_off: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(create_app(cut_off)) as client:
        yield client


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """What PostgreSQL is asked meanwhile."""
    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    engine = database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)


# What is told


async def test_what_lives_is_told_whole_and_its_holder_is_let_in(
    here: Ward, http: httpx.AsyncClient, introspector: Introspector, guest: Guest
) -> None:
    with_redis = await here.caller.ask(here.http, guest.access)
    assert with_redis["active"] is True
    assert await introspector.ask(http, guest.access) == with_redis
    assert (await http.get("/me", headers=guest.headers)).status_code == 200


async def test_what_was_ended_is_inactive(
    here: Ward, http: httpx.AsyncClient, introspector: Introspector, guest: Guest
) -> None:
    assert (await introspector.ask(http, guest.access))["active"] is True
    await here.services.administration.end_sessions(guest.account)
    assert await introspector.ask(http, guest.access) == INACTIVE
    assert (await http.get("/me", headers=guest.headers)).status_code == 401


async def test_whoever_is_disabled_is_inactive(
    here: Ward, http: httpx.AsyncClient, introspector: Introspector, guest: Guest
) -> None:
    await here.services.administration.disable(guest.account)
    assert await introspector.ask(http, guest.access) == INACTIVE


async def test_a_closed_account_is_inactive(
    here: Ward, http: httpx.AsyncClient, introspector: Introspector, guest: Guest
) -> None:
    assert (await here.http.delete("/me", headers=guest.headers)).status_code == 204
    assert await introspector.ask(http, guest.access) == INACTIVE


async def test_a_token_that_was_revoked_by_itself_is_inactive_and_its_session_lives(
    here: Ward, http: httpx.AsyncClient, introspector: Introspector, guest: Guest
) -> None:
    other = (await refresh(here.http, guest.refresh)).json()["access_token"]
    form = {"token": guest.access, "client_id": "web"}
    assert (await here.http.post("/revoke", data=form)).status_code == 200
    assert await introspector.ask(http, guest.access) == INACTIVE
    assert (await introspector.ask(http, other))["active"] is True


async def test_roles_are_those_of_now(here: Ward, http: httpx.AsyncClient, introspector: Introspector) -> None:
    guest = await here.guest(roles=("reader",))
    assert (await introspector.ask(http, guest.access))["roles"] == ["reader"]
    await here.services.administration.set_roles(guest.account, ["writer"])
    assert (await introspector.ask(http, guest.access))["roles"] == ["writer"]


async def test_a_token_out_of_time_is_inactive(
    here: Ward, http: httpx.AsyncClient, introspector: Introspector, guest: Guest
) -> None:
    await here.clock.advance(seconds=here.services.settings.access_token_life.total_seconds() + 120)
    assert await introspector.ask(http, guest.access) == INACTIVE


async def test_a_session_past_its_idle_end_is_inactive(here: Ward, cut_off: Services, guest: Guest) -> None:
    healing = cut_off.sessions.healing
    assert await healing._living(guest.session) is not None
    await here.clock.advance(seconds=timedelta(days=14, hours=1).total_seconds() + 1)
    assert await healing._living(guest.session) is None
    await here.clock.reset()
    assert await healing._living(guest.session) is not None  # out of time is nothing for good


async def test_a_refresh_and_a_sign_in_cannot_be_decided(
    http: httpx.AsyncClient, introspector: Introspector, guest: Guest
) -> None:
    answer = await refresh(http, guest.refresh)
    assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable")
    form = {"token": guest.refresh}
    told = await http.post("/introspect", data=form, auth=(introspector.client_id, introspector.secret))
    assert told.status_code == 503


@pytest.mark.parametrize("is_revoked", [False, True])
async def test_the_token_of_a_service_lives_unless_it_was_revoked(
    here: Ward, services: Services, cut_off: Services, introspector: Introspector, is_revoked: bool
) -> None:
    client = f"robot-{secrets.token_hex(4)}"
    secret = await registered(services, client, grants=["client_credentials"])
    await here.services.clients.reload()
    await cut_off.clients.reload()
    form = {"grant_type": "client_credentials"}
    made = await here.http.post("/token", data=form, auth=(client, secret))
    assert made.status_code == 200, made.text
    token = made.json()["access_token"]
    if is_revoked:
        assert (await here.http.post("/revoke", data={"token": token}, auth=(client, secret))).status_code == 200
    async with browser(create_app(cut_off)) as http:
        told = await introspector.ask(http, token)
    assert told == INACTIVE if is_revoked else told["active"] is True


# Many at once


async def test_three_hundred_look_ups_at_once_are_few_queries(here: Ward, guest: Guest) -> None:
    recall = Recall(here.services.database, here.clock)
    with counted(here.services.database) as asked:
        found = await asyncio.gather(*(recall.of(guest.session) for _ in range(100)), *_unknown(recall, 200))
    assert [kept.account for kept in found if kept is not None] == [guest.account] * 100
    assert len([statement for statement in asked if "FROM sessions" in statement]) <= 2


async def test_three_hundred_introspections_at_once_are_few_queries(
    here: Ward, cut_off: Services, introspector: Introspector, http: httpx.AsyncClient, guest: Guest
) -> None:
    """Each asks for the session and for the token by itself: both wait for company."""
    assert (await introspector.ask(http, guest.access))["active"] is True
    with counted(cut_off.recall.database) as asked:
        told = await asyncio.gather(*(introspector.ask(http, guest.access) for _ in range(300)))
    assert {answer["active"] for answer in told} == {True}
    assert len([statement for statement in asked if statement.startswith("SELECT")]) < 50


def _unknown(recall: Recall, count: int) -> list[Any]:
    return [recall.of(secrets.token_bytes(16)) for _ in range(count)]


async def test_who_leaves_takes_nobody_with_them(here: Ward, guest: Guest) -> None:
    recall = Recall(here.services.database, here.clock)
    leaving = asyncio.create_task(recall.of(guest.session))
    staying = asyncio.create_task(recall.of(guest.session))
    await asyncio.sleep(0)
    leaving.cancel()
    kept = await staying
    assert kept is not None
    assert kept.account == guest.account


# Both away


async def test_while_neither_store_answers_nothing_is_told_and_nobody_waits(
    cut_off: Services, http: httpx.AsyncClient, introspector: Introspector, guest: Guest, settings: Settings
) -> None:
    cut_off.recall.database = no_journal = away(settings)
    form, auth = {"token": guest.access}, (introspector.client_id, introspector.secret)
    began = time.monotonic()
    answers = [await http.post("/introspect", data=form, auth=auth) for _ in range(20)]
    assert time.monotonic() - began < SOON
    assert {answer.status_code for answer in answers} == {503}
    assert (await http.get("/me", headers=guest.headers)).status_code == 503
    await no_journal.close()


async def test_a_thousand_wait_for_a_hung_journal_no_longer_than_one(
    here: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes connections and says nothing."""
    monkeypatch.setattr(recalling, "PATIENCE", 0.4)
    hung = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = hung.sockets[0].getsockname()[1]
    database = away(msgspec.structs.replace(settings, database_timeout=timedelta(seconds=0.6)), f"127.0.0.1:{port}")
    recall = Recall(database, here.clock)
    try:
        began = time.monotonic()
        answers = await asyncio.gather(*_unknown(recall, 1000), return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unavailable}
        assert time.monotonic() - began < recalling.PATIENCE + SOON
    finally:
        await recall.close()
        await database.close()
        hung.close()


async def test_after_a_failure_the_journal_is_left_alone_for_a_moment(
    here: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalling, "PAUSE", 60.0)
    database = away(settings)
    recall = Recall(database, here.clock)
    with pytest.raises(Unavailable):
        await recall.of(secrets.token_bytes(16))
    recall.database = here.services.database
    with counted(here.services.database) as asked:
        for ask in (recall.of(secrets.token_bytes(16)), recall.is_denied("x")):
            with pytest.raises(Unavailable):
                await ask
    assert asked == []
    recall._failed_at -= recalling.PAUSE
    assert await recall.of(secrets.token_bytes(16)) is None
    assert await recall.is_denied("x") is False
    await database.close()


async def test_there_is_an_end_to_how_many_wait(here: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalling, "MOST_WAITING", 10)
    recall = Recall(here.services.database, here.clock)
    answers = await asyncio.gather(*_unknown(recall, 15), return_exceptions=True)
    assert [type(answer) for answer in answers if answer is not None] == [Unavailable] * 5
    assert await recall.of(secrets.token_bytes(16)) is None


# What is remembered


async def test_what_is_dead_is_not_looked_for_again_and_memory_is_bounded(
    here: Ward, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalling, "MOST_DEAD", 3)
    recall = Recall(here.services.database, here.clock)
    await here.services.administration.end_sessions(guest.account)
    assert await recall.of(guest.session) is None
    with counted(here.services.database) as asked:
        assert await recall.of(guest.session) is None
    assert asked == []
    await asyncio.gather(*_unknown(recall, 5))
    assert len(recall._dead) == 3
    assert guest.session not in recall._dead


async def test_all_that_an_account_has_is_what_lives(here: Ward, guest: Guest) -> None:
    other = await here.signed_in(guest)
    gone = await here.signed_in(guest)
    await here.services.administration.end_session(gone.account, UUID(bytes=gone.session))
    recall = Recall(here.services.database, here.clock)
    assert {kept.session for kept in await recall.of_account(guest.account)} == {guest.session, other.session}
    await here.services.administration.disable(guest.account)
    assert await recall.of_account(guest.account) == []


# PostgreSQL alone away


async def test_without_the_journal_what_redis_knows_goes_on_and_what_it_does_not_cannot_be_told(
    here: Ward, guest: Guest, settings: Settings
) -> None:
    lost = await here.guest()
    await here.lose(lost)
    recall, kept = here.services.recall, here.services.recall.database
    recall.database = no_journal = away(settings)
    try:
        assert await here.is_live(guest)
        await here.renew(guest)
        form, auth = {"token": lost.access}, (here.caller.client_id, here.caller.secret)
        told = await here.http.post("/introspect", data=form, auth=auth)
        assert told.status_code == 503
        assert await here.status(lost.refresh) == 503
        assert (await here.http.post("/auth/logout", json={"refresh_token": lost.refresh})).status_code == 503
    finally:
        recall.database = kept
        await no_journal.close()
    recall._failed_at -= recalling.PAUSE
    assert await here.is_live(lost)
    await here.renew(lost)

"""Connections to PostgreSQL: lent alive, tried only when they rested, and what one look costs."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from service.errors import Unavailable
from service.settings import Settings
from service.store import postgres
from service.store.postgres import Database, Transaction

PID = text("SELECT pg_backend_pid()")
BEGUN = text("SELECT now()")


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """One with a single connection."""
    made = Database.connect(settings, pool=1)
    yield made
    await made.close()


async def backend(database: Database) -> int:
    async with database.begin() as transaction:
        return int(await transaction.scalar(PID) or 0)


async def ended(by: Database, pid: int) -> None:
    async with by.begin() as transaction:
        await transaction.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Database]:
    made = Database.connect(settings, pool=1)
    yield made
    await made.close()


async def test_a_connection_that_was_ended_while_it_rested_is_replaced_before_anybody_uses_it(
    database: Database, other: Database
) -> None:
    for _ in range(5):
        before = await backend(database)
        await ended(other, before)
        assert await backend(database) != before


async def test_a_connection_at_work_is_lent_again_without_a_try_and_one_that_rested_is_tried(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Any] = []
    ping = database._engine.dialect.do_ping

    def tried(connection: Any) -> bool:
        tries.append(connection)
        return ping(connection)

    monkeypatch.setattr(database._engine.dialect, "do_ping", tried)
    monkeypatch.setattr(postgres, "RESTED", 60.0)
    first = await backend(database)
    assert await backend(database) == first
    assert tries == []

    monkeypatch.setattr(postgres, "RESTED", -1.0)
    assert await backend(database) == first
    assert len(tries) == 1


async def test_a_connection_that_fails_its_try_is_replaced_with_all_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.connect(settings, pool=2)
    async with database.begin() as one, database.begin() as two:
        before = {await one.scalar(PID), await two.scalar(PID)}
    monkeypatch.setattr(postgres, "RESTED", -1.0)
    monkeypatch.setattr(database._engine.dialect, "do_ping", lambda _: False)
    async with database.begin() as one, database.begin() as two:
        assert not before & {await one.scalar(PID), await two.scalar(PID)}
    await database.close()


async def test_a_connection_that_dies_in_a_transaction_is_an_outage_and_the_next_one_is_good(
    database: Database, other: Database
) -> None:
    async def interrupted() -> None:
        async with database.begin() as transaction:
            await ended(other, int(await transaction.scalar(PID) or 0))
            await transaction.execute(PID)

    with pytest.raises(Unavailable):
        await interrupted()
    assert await backend(database)


async def test_a_look_is_no_transaction_and_the_next_transaction_is_one_again(database: Database) -> None:
    for _ in range(2):
        async with database.look() as looking:
            assert await looking.scalar(BEGUN) != await looking.scalar(BEGUN)
        async with database.begin() as transaction:
            assert await transaction.scalar(BEGUN) == await transaction.scalar(BEGUN)


async def test_a_look_sends_its_statement_and_nothing_around_it(database: Database) -> None:
    async with database.begin() as transaction:
        assert await sent(transaction) == ["BEGIN;"]
    async with database.look() as looking:
        assert await sent(looking) == []


async def sent(transaction: Transaction) -> list[str]:
    """The simple queries that go out with one statement."""
    driver = (await (await transaction.connection()).get_raw_connection()).driver_connection
    assert driver is not None
    queries: list[str] = []
    with driver.query_logger(lambda record: queries.append(record.query)):
        await transaction.scalar(PID)
    return [query for query in queries if query != str(PID)]

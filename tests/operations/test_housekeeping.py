"""What nobody needs any more is deleted, and nothing else, however much there is and whoever else is at it."""

import asyncio
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, insert, select, text

from service.audit import AuditEvent
from service.clock import utc_now
from service.operations.housekeeping import BATCH, LOCK, Housekeeping
from service.store.postgres import new_id
from service.tokens.journal import SessionRow
from service.tokens.one_time import OneTimeToken
from service.wiring import Services
from tests.conftest import Person
from tests.deeds import id_of, is_in

A_SECOND = timedelta(seconds=1)


@pytest.fixture
def now() -> datetime:
    return utc_now()


@pytest.fixture
def keeper(services: Services, now: datetime) -> Housekeeping:
    """Keeps house at one moment that does not pass."""
    return Housekeeping(services.database, services.housekeeping.reminders, services.settings, lambda: now)


def session(account: UUID, expires_at: datetime, ended_at: datetime | None = None) -> dict[str, object]:
    return {
        "id": new_id(),
        "account_id": account,
        "client_id": "web",
        "salt": b"0" * 16,
        "amr": ["pwd"],
        "scope": "account",
        "address": "192.0.2.7",
        "user_agent": "old",
        "place": "",
        "opened_at": expires_at - timedelta(days=30),
        "expires_at": expires_at,
        "ended_at": ended_at,
        "ended_reason": "logout" if ended_at else None,
    }


def token(account: UUID, expires_at: datetime, purpose: str = "undo") -> dict[str, object]:
    digest = secrets.token_hex(32)
    return {
        "account_id": account,
        "purpose": purpose,
        "slot": digest,
        "digest": digest,
        "email": "old@example.com",
        "password_changed_at": expires_at,
        "created_at": expires_at - timedelta(hours=1),
        "expires_at": expires_at,
    }


def event(account: UUID, at: datetime) -> dict[str, object]:
    return {
        "id": new_id(),
        "at": at,
        "event": "login",
        "outcome": "ok",
        "account_id": account,
        "client_id": "web",
        "session_id": None,
        "address": "192.0.2.7",
        "user_agent": "old",
        "request_id": None,
        "detail": {},
    }


async def write(services: Services, table: type, rows: Sequence[dict[str, object]]) -> None:
    for i in range(0, len(rows), BATCH):
        async with services.database.begin() as transaction:
            await transaction.execute(insert(table), list(rows[i : i + BATCH]))


async def left(services: Services, table: type[SessionRow | OneTimeToken | AuditEvent], account: UUID) -> int:
    async with services.database.begin() as transaction:
        statement = select(func.count()).select_from(table).where(table.account_id == account)
        return int(await transaction.scalar(statement) or 0)


@pytest.mark.standard("LO-20")
async def test_a_session_goes_ninety_days_after_its_end_and_not_before(
    services: Services, keeper: Housekeeping, person: Person, now: datetime
) -> None:
    account, life, later = await id_of(services, person), services.settings.session_history_life, now + 20 * A_SECOND
    assert life == timedelta(days=90)
    stay = [
        session(account, now + timedelta(days=30)),
        session(account, now - life),
        session(account, now - life + A_SECOND),
        session(account, later, ended_at=now - life),
        session(account, now - life - A_SECOND, ended_at=now - life + A_SECOND),
    ]
    go = [
        session(account, now - life - A_SECOND),
        session(account, later, ended_at=now - life - A_SECOND),
        session(account, now - 10 * life, ended_at=now - 11 * life),
    ]
    await write(services, SessionRow, [*stay, *go])

    assert await keeper.clean() >= len(go)

    async with services.database.begin() as transaction:
        ids = set((await transaction.scalars(select(SessionRow.id).where(SessionRow.account_id == account))).all())
    assert {row["id"] for row in stay} <= ids
    assert not {row["id"] for row in go} & ids
    assert len(ids) == len(stay) + 1  # the one that the person is in


@pytest.mark.standard("LO-20")
async def test_a_link_goes_once_it_has_expired_and_an_event_after_four_hundred_days(
    services: Services, keeper: Housekeeping, now: datetime
) -> None:
    account, life = new_id(), services.settings.audit_life
    assert life == timedelta(days=400)
    for purpose in ("reset", "email", "undo"):
        await write(services, OneTimeToken, [token(account, now + i * A_SECOND, purpose) for i in (-1, 0, 1)])
    await write(services, AuditEvent, [event(account, now - life + i * A_SECOND) for i in (-1, 0, 1)])

    await keeper.clean()

    assert await left(services, OneTimeToken, account) == 6
    assert await left(services, AuditEvent, account) == 2


@pytest.mark.standard("LO-20")
async def test_what_is_in_use_is_left_alone(
    http: httpx.AsyncClient, services: Services, keeper: Housekeeping, person: Person
) -> None:
    account = await id_of(services, person)
    await services.audit.flush()
    before = [await left(services, table, account) for table in (SessionRow, AuditEvent)]
    await keeper.clean()
    assert [await left(services, table, account) for table in (SessionRow, AuditEvent)] == before
    assert await is_in(http, person.headers)
    assert (await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})).status_code == 200


@pytest.mark.standard("LO-20")
async def test_many_old_rows_go_in_one_round(
    services: Services, keeper: Housekeeping, person: Person, now: datetime
) -> None:
    account, many, long_ago = await id_of(services, person), 2 * BATCH + 7, now - timedelta(days=500)
    await write(services, SessionRow, [session(account, long_ago) for _ in range(many)])
    await write(services, OneTimeToken, [token(account, long_ago) for _ in range(many)])
    await write(services, AuditEvent, [event(account, long_ago) for _ in range(many)])
    await services.audit.flush()

    assert await keeper.clean() >= 3 * many

    assert await left(services, SessionRow, account) == 1
    assert await left(services, OneTimeToken, account) == 0
    async with services.database.begin() as transaction:
        statement = text("SELECT count(*) FROM audit_events WHERE account_id = :a AND at = :at")
        assert await transaction.scalar(statement, {"a": account, "at": long_ago}) == 0
    assert await keeper.clean() == 0


@pytest.mark.standard("LO-20")
@pytest.mark.parametrize("rows", [BATCH - 1, BATCH, BATCH + 1])
async def test_the_edge_of_a_batch_is_no_edge(
    services: Services, keeper: Housekeeping, now: datetime, rows: int
) -> None:
    account = new_id()
    await write(services, OneTimeToken, [token(account, now - A_SECOND) for _ in range(rows)])
    await keeper.clean()
    assert await left(services, OneTimeToken, account) == 0


@pytest.mark.standard("LO-20")
async def test_two_workers_at_once_do_the_work_of_one(
    services: Services, second_worker: Services, keeper: Housekeeping, now: datetime
) -> None:
    account, many = new_id(), 3 * BATCH
    await keeper.clean()
    await write(services, OneTimeToken, [token(account, now - A_SECOND) for _ in range(many)])
    others = [
        Housekeeping(each.database, services.housekeeping.reminders, each.settings, lambda: now)
        for each in (services, second_worker, second_worker)
    ]

    swept = await asyncio.gather(*(each.clean() for each in others))

    assert sum(swept) + await left(services, OneTimeToken, account) == many
    await keeper.clean()
    assert await left(services, OneTimeToken, account) == 0


@pytest.mark.standard("LO-20")
async def test_a_worker_leaves_the_work_to_the_one_that_is_at_it(
    services: Services, second_worker: Services, keeper: Housekeeping, now: datetime
) -> None:
    account = new_id()
    await write(services, OneTimeToken, [token(account, now - A_SECOND)])
    async with second_worker.database.begin() as transaction:
        await transaction.execute(select(func.pg_advisory_xact_lock(LOCK)))
        async with asyncio.timeout(10):
            assert await keeper.clean() == 0
    assert await left(services, OneTimeToken, account) == 1
    assert await keeper.clean() >= 1
    assert await left(services, OneTimeToken, account) == 0


@pytest.mark.standard("LO-20")
async def test_a_worker_cleans_when_it_starts_and_ends_when_it_is_told(services: Services, now: datetime) -> None:
    account = new_id()
    await write(services, OneTimeToken, [token(account, now - A_SECOND)])
    keeper = Housekeeping(services.database, services.housekeeping.reminders, services.settings, lambda: now)
    keeper.start()
    try:
        async with asyncio.timeout(20):
            while await left(services, OneTimeToken, account):  # noqa: ASYNC110  a row has no event
                await asyncio.sleep(0.02)
    finally:
        await keeper.stop()
    await keeper.stop()

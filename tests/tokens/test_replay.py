"""What the log of revocations tells Redis again: when, how much of it, and which of several workers does."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert, select

from service.clock import utc_now
from service.settings import Settings
from service.store.postgres import Database
from service.tokens import journal as journals
from service.tokens import replay as replaying
from service.tokens.journal import Revocation, SessionRow
from service.tokens.replay import BATCH, LEASE, MARK, UNSETTLED, Overlay, Replay
from service.wiring import Services
from tests.conftest import Introspector, Outbox
from tests.tokens.acting import INACTIVE, record_key, row_of, session_of
from tests.tokens.forgetful import Guest, Ward, away, ward

DATABASE = 12
PREFIX = "vestibule:"

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
    await house.redis.flushdb()


@pytest.fixture
async def guest(here: Ward) -> Guest:
    return await here.guest()


@pytest.fixture
async def no_journal(settings: Settings) -> AsyncIterator[Database]:
    made = away(settings)
    yield made
    await made.close()


async def log(here: Ward, *sessions: UUID, account: UUID | None = None, at: datetime | None = None) -> None:
    """Rows of the log as a transaction leaves them that took its `at` before it committed."""
    now = here.clock()
    subject = str(account or uuid4())
    ends_at = now + timedelta(days=1)
    rows = [
        {
            "subject": subject,
            "session_id": session,
            "reason": "ended",
            "ends_at": ends_at,
            "at": at or now,
        }
        for session in sessions
    ]
    async with here.services.database.begin() as transaction:
        await transaction.execute(insert(Revocation), rows)


async def ready(here: Ward) -> Replay:
    """A worker's that has told everything, and whose lease is over."""
    replay = here.replay()
    await replay.look()
    await here.redis.delete(PREFIX + LEASE)
    return replay


async def mark(here: Ward) -> datetime:
    raw = await here.redis.get(PREFIX + MARK)
    assert raw is not None
    return datetime.fromtimestamp(int(raw) / 1000, utc_now().tzinfo)


# The mark


async def test_the_mark_is_behind_now_by_as_much_as_a_transaction_may_be_late(here: Ward) -> None:
    before = utc_now()
    await here.replay().look()
    assert before - UNSETTLED - timedelta(seconds=1) <= await mark(here) <= utc_now() - UNSETTLED
    assert await here.redis.ttl(PREFIX + MARK) > 30 * 86_400


async def test_what_was_told_is_told_again_until_it_cannot_be_late_any_more(here: Ward, guest: Guest) -> None:
    await log(here, UUID(bytes=guest.session), account=guest.account, at=utc_now() - UNSETTLED * 2)
    replay = await ready(here)
    assert not await here.is_live(guest)
    newer = [uuid4() for _ in range(3)]
    await log(here, *newer)
    assert await replay.look() >= 3
    await here.redis.delete(PREFIX + LEASE)
    assert await replay.look() >= 3
    assert UUID(bytes=guest.session) in {UUID(bytes=one) for one in replay.overlay.sessions}


async def test_a_transaction_that_commits_ten_seconds_late_is_not_missed(here: Ward, guest: Guest) -> None:
    replay = await ready(here)
    await log(here, UUID(bytes=guest.session), account=guest.account, at=utc_now() - timedelta(seconds=10))
    await replay.look()
    assert guest.session in replay.overlay.sessions
    assert not await here.is_live(guest)


async def test_an_old_copy_is_told_everything_since_its_own_mark(here: Ward, guest: Guest) -> None:
    """Longer ago than an access token lives: without the mark of the copy it would not be told."""
    long_ago = utc_now() - timedelta(hours=5)
    await log(here, UUID(bytes=guest.session), account=guest.account, at=long_ago)
    assert await here.status(guest.refresh) == 200
    await here.redis.set(PREFIX + MARK, int((long_ago - timedelta(seconds=1)).timestamp() * 1000))
    await here.redis.delete(PREFIX + LEASE)
    await here.replay().look()
    assert await here.status(guest.refresh) == 401


async def test_more_than_a_page_is_told_to_the_end(here: Ward, guest: Guest) -> None:
    """At one and the same moment, so that the page ends within it."""
    at = utc_now()
    await log(here, *(uuid4() for _ in range(BATCH + 200)), at=at)
    await log(here, UUID(bytes=guest.session), account=guest.account, at=at)
    replay = here.replay()
    assert await replay.look() >= BATCH + 201
    assert guest.session in replay.overlay.sessions
    assert not await here.is_live(guest)
    async with here.services.database.begin() as transaction:
        await transaction.execute(delete(Revocation).where(Revocation.at == at))


# Who tells


async def test_of_two_workers_one_tells_and_both_know(here: Ward) -> None:
    one, two = await ready(here), await ready(here)
    session = uuid4()
    await log(here, session)
    told = await asyncio.gather(one.look(), two.look())
    assert sorted(count > 0 for count in told) == [False, True]
    assert session.bytes in one.overlay.sessions
    assert session.bytes in two.overlay.sessions


async def test_the_lease_ends_by_itself(here: Ward) -> None:
    replay = await ready(here)
    await log(here, uuid4())
    await replay.look()
    left = await here.redis.pttl(PREFIX + LEASE)
    assert 0 < left <= replaying.LEASE_MS
    assert replaying.LEASE_MS < replaying.PAUSE * 1000


async def test_another_server_is_told_although_the_lease_is_held(here: Ward, guest: Guest) -> None:
    replay = await ready(here)
    await log(here, UUID(bytes=guest.session), account=guest.account)
    await here.redis.set(PREFIX + LEASE, 1, px=60_000)
    assert await replay.look() == 0
    replay._server = "run_id:of-the-one-before"
    assert await replay.look() > 0
    assert await here.status(guest.refresh) == 401


async def test_a_look_that_failed_is_made_up_for_by_the_next_one(here: Ward, guest: Guest) -> None:
    replay = await ready(here)
    await log(here, UUID(bytes=guest.session), account=guest.account)
    wrong_kind = PREFIX + MARK
    await here.redis.delete(wrong_kind)
    await here.redis.rpush(wrong_kind, "in the way")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await replay.look()
    await here.redis.delete(wrong_kind)
    await here.redis.set(PREFIX + LEASE, 1, px=60_000)
    assert await replay.look() > 0
    assert await here.status(guest.refresh) == 401


# What is told


async def test_roles_are_told_as_they_are_now(here: Ward) -> None:
    guest = await here.guest(roles=("reader",))
    await here.services.administration.set_roles(guest.account, ["writer"])
    await here.redis.hset(record_key(guest.account), "r", "reader")
    await here.replay().look()
    assert (await here.caller.ask(here.http, guest.access))["roles"] == ["writer"]


async def test_however_a_change_of_roles_meets_a_look_the_newest_ones_stay(here: Ward, guest: Guest) -> None:
    wanted: list[str] = []
    for turn in range(8):
        wanted = [f"role{turn}"]
        await here.redis.delete(PREFIX + LEASE)
        await asyncio.gather(
            here.services.administration.set_roles(guest.account, wanted), here.replay().look(), here.replay().look()
        )
        told = await here.caller.ask(here.http, guest.access)
        assert told["roles"] == wanted


async def test_the_roles_of_an_account_that_is_gone_are_nobodys(here: Ward, guest: Guest) -> None:
    await here.services.administration.set_roles(guest.account, ["writer"])
    assert (await here.http.delete("/me", headers=guest.headers)).status_code == 204
    await here.redis.delete(record_key(guest.account))
    await here.replay().look()
    assert not await here.redis.exists(record_key(guest.account))


async def test_a_denial_whose_token_is_over_is_not_told(here: Ward, guest: Guest) -> None:
    await here.services.replay.journal.denied(str(guest.account), "over", here.clock() - timedelta(seconds=1))
    await here.services.replay.journal.denied(str(guest.account), "not-over", here.clock() + timedelta(seconds=90))
    await here.replay().look()
    keys = await here.redis.keys(f"{PREFIX}denied:{{{guest.account}}}:*")
    assert keys == [f"{PREFIX}denied:{{{guest.account}}}:not-over".encode()]
    assert 0 < await here.redis.pttl(keys[0]) <= 90_000


@pytest.mark.parametrize("reason", ["logout", "reused", "administrator", "account_closed", "of a newer release"])
async def test_any_reason_of_the_log_ends_the_session(here: Ward, guest: Guest, reason: str) -> None:
    async with here.services.database.begin() as transaction:
        ends_at = here.clock() + timedelta(days=1)
        session = UUID(bytes=guest.session)
        transaction.add(Revocation(subject=str(guest.account), session_id=session, reason=reason, ends_at=ends_at))
    await here.replay().look()
    assert await here.status(guest.refresh) == 401


# The overlay


async def test_what_is_known_to_be_revoked_is_dead_whatever_redis_says(here: Ward, guest: Guest) -> None:
    copy = await here.redis.dump(record_key(guest.account))
    assert copy is not None
    await here.services.administration.end_sessions(guest.account)
    await here.services.replay.look()
    await here.redis.flushdb()
    await here.redis.restore(record_key(guest.account), 0, copy)
    assert await here.caller.ask(here.http, guest.access) == INACTIVE
    assert (await here.http.get("/me", headers=guest.headers)).status_code == 401


async def test_the_overlay_forgets_what_every_access_token_has_outlived(here: Ward) -> None:
    life = here.services.settings.access_token_life + here.services.settings.leeway
    now = utc_now()
    young, old = uuid4(), uuid4()
    await log(here, old, at=now - life - timedelta(seconds=2))
    await log(here, young, at=now - life + timedelta(seconds=30))
    replay = here.replay()
    await replay.look()
    assert young.bytes in replay.overlay.sessions
    assert old.bytes not in replay.overlay.sessions
    replay.overlay.forget(now + timedelta(seconds=1))
    assert young.bytes not in replay.overlay.sessions


async def test_the_overlay_is_bounded_and_lets_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "MOST_REMEMBERED", 3)
    overlay, now = Overlay(), utc_now()
    for number in range(5):
        overlay.sessions[bytes([number])] = now
        overlay.tokens[str(number)] = now
    overlay.forget(now - timedelta(seconds=1))
    assert list(overlay.sessions) == [b"\2", b"\3", b"\4"]
    assert list(overlay.tokens) == ["2", "3", "4"]


# What the journal is told


async def noted(here: Ward, guest: Guest) -> tuple[datetime | None, int]:
    row = await row_of(here.services, session_of(guest.access))
    return row.used_at, row.generation


async def test_a_use_is_written_at_most_once_an_hour(here: Ward, guest: Guest) -> None:
    journal = here.services.replay.journal
    await here.clock.advance(minutes=61)
    await here.renew(guest)
    await here.renew(guest)
    await journal.settle()
    first = await noted(here, guest)
    assert first[1] == 2
    await here.clock.advance(minutes=59)
    await here.renew(guest)
    await journal.settle()
    assert await noted(here, guest) == first
    await here.clock.advance(minutes=2)
    await here.renew(guest)
    await journal.settle()
    assert (await noted(here, guest))[1] == 4


async def test_a_use_that_was_noted_elsewhere_takes_no_generation_back(here: Ward, guest: Guest) -> None:
    journal = here.services.replay.journal
    await here.clock.advance(hours=2)
    journal.note_use(guest.session, 7, IDLE)
    await journal.settle()
    await here.clock.advance(hours=2)
    journal.note_use(guest.session, 5, IDLE)
    await journal.settle()
    assert (await noted(here, guest))[1] == 7


async def test_notes_of_use_are_bounded(here: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MOST_NOTES", 2)
    journal = journals.Journal(here.services.database, here.clock)
    for number in range(4):
        journal.note_use(bytes([number]) * 16, 1, IDLE)
        journal.owe(bytes([number]) * 16, "reused")
    journal.note_use(bytes(16), 9, IDLE)
    assert [generation for _, generation, _ in journal._uses.values()] == [9, 1]
    assert len(journal._owed) == 2


async def test_notes_of_sessions_that_are_gone_are_settled_all_the_same(here: Ward) -> None:
    journal = here.services.replay.journal
    journal.note_use(uuid4().bytes, 3, IDLE)
    journal.owe(uuid4().bytes, "reused")
    await journal.settle()
    assert (journal._uses, journal._owed) == ({}, {})


async def test_a_replay_found_while_the_journal_is_away_is_written_when_it_is_back(
    here: Ward, guest: Guest, no_journal: Database
) -> None:
    stolen = guest.refresh
    for _ in range(2):
        await here.renew(guest)
    journal = here.services.replay.journal
    kept = journal.database
    object.__setattr__(journal, "database", no_journal)
    try:
        assert await here.status(stolen) == 401
        assert not await here.is_live(guest)
    finally:
        object.__setattr__(journal, "database", kept)
    assert (await row_of(here.services, session_of(guest.access))).ended_reason is None
    await journal.settle()
    assert (await row_of(here.services, session_of(guest.access))).ended_reason == "reused"
    async with here.services.database.begin() as transaction:
        logged = select(Revocation.reason).where(Revocation.session_id == UUID(bytes=guest.session))
        assert (await transaction.scalars(logged)).all() == ["reused"]


# Housekeeping


async def test_a_revocation_is_kept_as_long_as_what_it_ended_could_live(here: Ward, guest: Guest) -> None:
    expires_at = (await row_of(here.services, session_of(guest.access))).expires_at
    await here.services.administration.end_sessions(guest.account)
    mine = select(Revocation.ends_at).where(Revocation.session_id == UUID(bytes=guest.session))
    async with here.services.database.begin() as transaction:
        assert (await transaction.scalars(mine)).all() == [expires_at]
    over = uuid4()
    async with here.services.database.begin() as transaction:
        ends_at = here.clock() - timedelta(seconds=1)
        transaction.add(Revocation(subject="nobody", session_id=over, reason="ended", ends_at=ends_at))
    await here.services.housekeeping.clean()
    async with here.services.database.begin() as transaction:
        assert (await transaction.scalars(mine)).all() == [expires_at]
        gone = select(Revocation.id).where(Revocation.session_id == over)
        assert (await transaction.scalars(gone)).all() == []


async def test_a_closed_account_leaves_its_revocations_and_nothing_else(here: Ward, guest: Guest) -> None:
    assert (await here.http.delete("/me", headers=guest.headers)).status_code == 204
    async with here.services.database.begin() as transaction:
        logged = select(Revocation.reason).where(Revocation.subject == str(guest.account))
        assert (await transaction.scalars(logged)).all() == ["account_closed"]
        rows = select(SessionRow.id).where(SessionRow.account_id == guest.account)
        assert (await transaction.scalars(rows)).all() == []

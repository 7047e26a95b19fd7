"""Signing keys turn over by themselves: once in each period, whoever asks and however many ask at once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import func, select

from service.audit import AuditEvent
from service.settings import Settings
from service.tokens.keys import SigningKeys
from tests.conftest import Outbox, Servers, TestClock
from tests.tokens.hearing import eventually
from tests.tokens.two_workers import Pair, kid_of, paired, refreshed, renewed, settings_of_ones_own, signed_in

PERIOD = timedelta(hours=1)
MAX_AGE = timedelta(minutes=10)
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def own_settings(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    """Nobody looks by itself within the length of a test: what happens, the test asked for."""
    with settings_of_ones_own(
        servers, environ, VESTIBULE_KEY_ROTATION=f"{PERIOD.seconds}", VESTIBULE_KEY_REFRESH="60"
    ) as own:
        yield own


@pytest.fixture(scope="module")
async def both(own_settings: Settings, wall_clock: TestClock, outbox: Outbox) -> AsyncIterator[Pair]:
    async with paired(own_settings, wall_clock, outbox) as running:
        yield running


@pytest.fixture
async def pair(both: Pair, clock: TestClock) -> Pair:
    return await renewed(both)


def scheduled(pair: Pair) -> list[str]:
    """The keys whose moment is set and has not come."""
    keys, now = pair.keys.keyring.keys, pair.clock()
    return [key.kid for key in keys if key.activates_at is not None and key.activates_at > now]


def without_schedule(pair: Pair) -> SigningKeys:
    settings = msgspec.structs.replace(pair.settings, key_rotation=timedelta(0))
    return replace(pair.keys, settings=settings)


# By itself


@pytest.mark.standard("KY-21", "KY-26")
async def test_a_key_signs_for_one_period_and_then_the_next_takes_over_by_itself(pair: Pair) -> None:
    signers = [*pair.in_state("active")]
    for _ in range(3):
        current = pair.keys.keyring.current(pair.clock())
        assert current is not None
        assert current.activates_at is not None
        due = current.activates_at + PERIOD
        await pair.until(due, seconds=-5)
        assert [await each.signing_keys.rotate_if_due() for each in pair.workers] == [False, False]
        assert scheduled(pair) == []

        await pair.until(due, seconds=1)
        assert await pair.keys.rotate_if_due() is True
        (coming,) = scheduled(pair)
        moment = next(key.activates_at for key in pair.keys.keyring.keys if key.kid == coming)
        assert [await each.signing_keys.rotate_if_due() for each in pair.workers * 2] == [False] * 4
        await pair.until(moment, seconds=1)
        assert pair.in_state("active") == [coming]
        assert await pair.keys.rotate_if_due() is False
        signers.append(coming)

    assert len(set(signers)) == 4


@pytest.mark.standard("KY-21")
async def test_many_workers_that_ask_at_once_schedule_one_turn(pair: Pair) -> None:
    before = len(await pair.rows())
    await pair.clock.advance(seconds=PERIOD.seconds + 1)

    turned = await asyncio.gather(*(each.signing_keys.rotate_if_due() for each in pair.workers * 10))

    assert turned.count(True) == 1
    assert len(await pair.rows()) == before + 1
    await pair.reload()
    assert len(scheduled(pair)) == 1
    assert pair.states(0) == pair.states(1)


@pytest.mark.standard("KY-26")
async def test_a_key_that_turns_by_itself_was_published_for_max_age_before(pair: Pair) -> None:
    """Even when the turn is overdue from the first moment, as after a long stop."""
    await pair.clock.advance(seconds=10 * PERIOD.seconds)
    (coming,) = pair.in_state("next")
    asked_at, shown = pair.clock(), await pair.jwks(1)
    assert coming in shown
    assert await pair.keys.rotate_if_due()
    successor = next(kid for kid in pair.in_state("next") if kid != coming)
    assert pair.keys.keyring.keys[1].kid == coming
    moment = pair.keys.keyring.keys[1].activates_at
    assert moment is not None
    assert moment - asked_at >= pair.settings.key_refresh

    await pair.until(moment, seconds=PERIOD.seconds + 1)
    asked_at = pair.clock()
    published = (await pair.rows())[successor].created_at
    assert await pair.keys.rotate_if_due()
    (turn,) = scheduled(pair)
    assert turn == successor
    moment = (await pair.rows())[successor].activates_at
    assert moment is not None
    assert moment - published >= MAX_AGE


async def test_nothing_turns_by_itself_when_the_period_is_nothing(pair: Pair) -> None:
    keys = without_schedule(pair)
    kept = await pair.rows()
    for _ in range(3):
        await pair.clock.advance(seconds=20 * PERIOD.seconds)
        assert await keys.rotate_if_due() is False
    assert set(await pair.rows()) == set(kept)

    turn, _ = await keys.rotate()  # on demand it still does
    assert turn.activates_at is not None


async def test_nothing_turns_by_itself_while_a_turn_is_scheduled(pair: Pair) -> None:
    """An operator was there a moment before: what they were told stays true, and the period begins with their key."""
    await pair.clock.advance(seconds=PERIOD.seconds - 1)
    turn, successor = await pair.keys.rotate()
    rows = set(await pair.rows())
    await pair.clock.advance(seconds=2)

    assert [await each.signing_keys.rotate_if_due() for each in pair.workers] == [False, False]
    assert set(await pair.rows()) == rows
    assert (await pair.rows())[turn.kid].activates_at == turn.activates_at
    await pair.until(turn.activates_at, seconds=PERIOD.seconds - 5)
    assert await pair.keys.rotate_if_due() is False
    await pair.clock.advance(seconds=10)
    assert await pair.keys.rotate_if_due() is True
    assert scheduled(pair) == [successor.kid]


async def test_the_period_begins_anew_with_a_key_that_a_revocation_put_in_front(pair: Pair) -> None:
    await pair.clock.advance(seconds=PERIOD.seconds // 2)
    signing = await pair.keys.revoke(*pair.in_state("active"))
    assert signing.activates_at is not None

    await pair.until(signing.activates_at, seconds=PERIOD.seconds - 5)
    assert await pair.keys.rotate_if_due() is False
    await pair.clock.advance(seconds=10)
    assert await pair.keys.rotate_if_due() is True


async def test_a_worker_that_has_not_heard_of_a_turn_does_not_schedule_another(pair: Pair) -> None:
    late = replace(pair.workers[1].signing_keys)  # its memory is as old as the test
    await pair.clock.advance(seconds=PERIOD.seconds + 1)
    assert await pair.keys.rotate_if_due() is True
    rows = set(await pair.rows())

    assert late.keyring.current(pair.clock()) is not None
    assert await late.rotate_if_due() is False
    assert set(await pair.rows()) == rows


# In the background


@pytest.mark.standard("KY-21", "KY-26")
async def test_running_workers_turn_their_keys_without_being_asked_and_people_stay_in(
    own_settings: Settings, clock: TestClock, outbox: Outbox
) -> None:
    settings = msgspec.structs.replace(own_settings, key_refresh=timedelta(milliseconds=100))
    async with paired(settings, clock, outbox) as pair:
        await renewed(pair)
        tokens = await signed_in(pair)
        rows, before = set(await pair.rows()), await events(pair)
        assert kid_of(tokens["access_token"]) == pair.in_state("active")[0]
        await clock.advance(seconds=PERIOD.seconds + 1)
        overdue = clock()

        async def is_known_to_both() -> bool:
            shown = [len(await pair.jwks(number)) for number in (0, 1)]
            return shown == [3, 3] and await events(pair) > before

        await eventually(is_known_to_both, True)
        assert len(set(await pair.rows()) - rows) == 1
        await pair.reload()
        (turned,) = [key for key in pair.keys.keyring.keys if key.activates_at and key.activates_at > overdue]
        await pair.until(max(turned.activates_at or overdue, clock()), seconds=1)
        assert pair.states(0) == pair.states(1)
        for number in (0, 1):
            tokens = await refreshed(pair.clients[number], tokens["refresh_token"])
            assert kid_of(tokens["access_token"]) == turned.kid
            assert (await pair.caller.ask(pair.clients[1 - number], tokens["access_token"]))["active"] is True
        assert await events(pair) == before + 1


async def events(pair: Pair) -> int:
    """How many turns the audit trail says that the service began by itself."""
    counted = select(func.count()).where(AuditEvent.event == "keys.rotate", AuditEvent.outcome == "scheduled")
    async with pair.workers[0].database.begin() as transaction:
        return await transaction.scalar(counted) or 0


# On demand


async def test_a_rotation_that_is_asked_for_at_the_very_moment_of_a_turn_is_answered(pair: Pair) -> None:
    """Each look at the clock is a little later, as it is in life: the moment passes between any two of them."""
    for looks in range(0, 40, 2):
        turn, _ = await pair.keys.rotate()
        assert turn.activates_at is not None
        start = turn.activates_at - timedelta(microseconds=looks)
        moments = iter([start + timedelta(microseconds=number) for number in range(1000)])
        keys = replace(pair.keys, clock=moments.__next__)
        answered, successor = await keys.rotate()

        assert answered.activates_at is not None
        assert successor.activates_at is None
        await pair.reload()
        await pair.until(answered.activates_at, seconds=1)

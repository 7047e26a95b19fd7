"""Turns and revocations of signing keys at the same moment, and beside readings and stores that are slow or away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from service.crypto.keyring import SigningKey
from service.errors import UnknownKey
from service.settings import Settings
from service.store.redis import RedisStore
from tests.conftest import Outbox, Servers, TestClock
from tests.tokens.two_workers import (
    Pair,
    listening,
    paired,
    renewed,
    settings_of_ones_own,
)


@pytest.fixture(scope="module")
def own_settings(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    """Workers look for changes once in an hour: what they know before, they were told."""
    with settings_of_ones_own(servers, environ, VESTIBULE_KEY_REFRESH="3600", VESTIBULE_KEY_ROTATION="0") as own:
        yield own


@pytest.fixture(scope="module")
async def both(own_settings: Settings, wall_clock: TestClock, outbox: Outbox) -> AsyncIterator[Pair]:
    async with paired(own_settings, wall_clock, outbox) as running:
        yield running


@pytest.fixture
async def pair(both: Pair, clock: TestClock) -> Pair:
    await renewed(both)
    for number in (0, 1):
        await listening(both, number)
    return both


async def test_two_operators_that_revoke_one_key_at_once_end_it_once(pair: Pair) -> None:
    (kid,) = pair.in_state("active")
    before = len(await pair.rows())
    results = await asyncio.gather(
        *(each.signing_keys.revoke(kid) for each in pair.workers * 4), return_exceptions=True
    )

    assert sum(isinstance(result, SigningKey) for result in results) == 1
    assert sum(isinstance(result, UnknownKey) for result in results) == 7
    assert len(await pair.rows()) == before + 1
    await pair.reload()
    assert len(pair.in_state("active")) == 1


async def test_turns_and_revocations_at_once_are_each_answered(pair: Pair) -> None:
    """Nothing of it may look like a crash, and one key signs in the end."""
    one, two = (each.signing_keys for each in pair.workers)
    for _ in range(6):
        kids: list[Any] = [*pair.states()]
        calls = [two.rotate(), *(one.revoke(kid) for kid in kids[-2:]), one.rotate(), two.revoke(kids[-1])]
        results = await asyncio.gather(*calls, return_exceptions=True)
        odd = [result for result in results if isinstance(result, Exception) and not isinstance(result, UnknownKey)]
        assert odd == []
        await pair.reload()
        assert len(pair.in_state("active")) == 1
        assert pair.in_state("next")
        await pair.clock.advance(seconds=700)


async def test_a_turn_that_is_revoked_before_it_was_told_is_told_all_the_same(pair: Pair) -> None:
    """While a worker announces the turn it began, it hears that another one revoked that very key."""

    async def announce() -> None:
        for kid in [key.kid for key in keys.keyring.keys if key.activates_at and key.activates_at > pair.clock()]:
            await pair.workers[1].signing_keys.revoke(kid)
            await keys.reload()

    (coming,) = pair.in_state("next")
    keys = replace(pair.keys, announce=announce)
    turn, successor = await keys.rotate()

    assert turn.kid == coming
    assert successor.kid != coming
    assert coming not in await pair.rows()


@pytest.mark.standard("KY-31")
async def test_a_reading_that_was_slow_does_not_bring_a_revoked_key_back(pair: Pair) -> None:
    """A worker reads its keys, the connection hangs for a moment, and meanwhile it hears of a revocation."""
    keys, (kid,) = pair.keys, pair.in_state("active")
    hangs, goes_on, is_slow = asyncio.Event(), asyncio.Event(), ContextVar("is_slow", default=False)

    def hang(_: Session) -> None:
        if is_slow.get():
            hangs.set()
            await_only(goes_on.wait())

    async def read_slowly() -> None:
        is_slow.set(True)
        await keys.reload()

    event.listen(Session, "before_commit", hang)
    try:
        slow = asyncio.create_task(read_slowly())
        await asyncio.wait_for(hangs.wait(), 20)
        await pair.workers[1].signing_keys.revoke(kid)
        quick = asyncio.create_task(keys.reload())
        await asyncio.wait({quick}, timeout=0.5)  # unless it waits for the slow one
        goes_on.set()
        await asyncio.gather(slow, quick)
    finally:
        event.remove(Session, "before_commit", hang)

    assert pair.states(0)[kid] == "revoked"
    assert kid not in await pair.jwks(0)


@pytest.mark.standard("KY-31")
async def test_a_key_can_be_revoked_while_redis_is_away(pair: Pair) -> None:
    """The others find out by themselves, within `key_refresh`."""
    nowhere = type(pair.settings.redis_url)("redis://127.0.0.1:1/0")
    store = RedisStore.connect(msgspec.structs.replace(pair.settings, redis_url=nowhere))

    async def announce() -> None:
        await store.announce("changed")

    (kid,) = pair.in_state("active")
    signing = await replace(pair.keys, announce=announce).revoke(kid)
    await pair.reload()
    assert pair.in_state("active") == [signing.kid]
    assert [pair.states(number)[kid] for number in (0, 1)] == ["revoked", "revoked"]
    await store.close()

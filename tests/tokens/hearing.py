"""A worker that learns of changes by hearsay alone, and the patience that hearsay takes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec

from service.settings import Settings
from service.wiring import Services
from tests.conftest import Outbox, TestClock, worker


@asynccontextmanager
async def listening_worker(
    services: Services, settings: Settings, clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """Looks for changes by itself once an hour, and listens already."""
    slow = msgspec.structs.replace(settings, key_refresh=timedelta(hours=1))
    async with worker(slow, clock, outbox) as running:
        read_at_the_start = running.clients._known

        async def has_heard() -> bool:
            await services.clients.announce()
            return running.clients._known is not read_at_the_start

        await eventually(has_heard, True)
        yield running


async def eventually(ask: Callable[[], Awaitable[Any]], expected: object) -> None:
    """Asks until the answer is the expected one, for half a minute at least before it gives up."""
    answer: object = None
    for _ in range(600):
        answer = await ask()
        if answer == expected:
            return
        await asyncio.sleep(0.05)
    assert answer == expected


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    """What came of calls made at once: their answers, and the refusals among them by their kinds."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return [type(answer) if isinstance(answer, BaseException) else answer for answer in answers]

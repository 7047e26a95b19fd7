"""A fake provider of its own for each test, with a clock that stands still."""

from collections.abc import AsyncIterator

import pytest

from service.fake_provider.provider import FakeProvider
from tests.fake_provider.visiting import CLIENTS, URL, StandingClock, Visitor, visiting


@pytest.fixture
def standing_clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def fake(standing_clock: StandingClock) -> FakeProvider:
    return FakeProvider(URL, CLIENTS, clock=standing_clock)


@pytest.fixture
async def visitor(fake: FakeProvider) -> AsyncIterator[Visitor]:
    async with visiting(fake) as found:
        yield found

"""The token store on every topology and program: what it promises on one server it promises on all of them.

`VESTIBULE_ALL_TOPOLOGIES=1` adds Sentinel and a cluster of Redis 7 to those of Valkey.
"""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test
from redis import Redis
from redis.exceptions import MovedError

from service.store import redis as store
from service.wiring import Services, build
from tests.conftest import Outbox
from tests.tokens.session_machine import texts
from tests.tokens.test_scripts_model import TokenStore, profile
from tests.topologies import HOST
from tests.topology.standing import Standing, standing, worker_before
from tests.topology.stories import STORIES

ALWAYS = ("single on valkey", "single on redis-7", "sentinel on valkey", "cluster on valkey")
AT_REQUEST = ("sentinel on redis-7", "cluster on redis-7")
SHAPES = ALWAYS + (AT_REQUEST if os.environ.get("VESTIBULE_ALL_TOPOLOGIES") == "1" else ())
SHARED = "record"
"""Not a script but a part of some."""

Story = Callable[[Services], Awaitable[None]]


@pytest.fixture(scope="module", params=SHAPES)
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing(request.param, tmp_path_factory.mktemp("topology")) as found:
        yield found


@pytest.fixture(scope="module")
async def before_it(
    services: Services, there: Standing, environ: dict[str, str], outbox: Outbox
) -> AsyncIterator[Services]:
    async with worker_before(there.topology, environ, outbox) as running:
        yield running


@pytest.mark.parametrize("story", [pytest.param(story, id=story.__name__) for story in STORIES])
async def test_it_keeps_every_promise(story: Story, before_it: Services) -> None:
    await story(before_it)


def test_its_scripts_keep_every_promise_of_the_model(there: Standing) -> None:
    node = there.topology.primary()
    reached: set[str] = set()
    with Redis(host=HOST, port=node.port) as redis:
        machine: Any = partial(AtOneNode, redis, texts(), reached)
        run_state_machine_as_test(machine, settings=profile(30, 20))
    assert {"rotated", "repeated", "reused", "revoked"} <= reached


async def test_no_script_is_left_out(services: Services, outbox: Outbox) -> None:
    """Of what the stories do on each topology."""
    read: set[str] = set()

    def noting(name: str) -> str:
        read.add(name)
        return store.source(name)

    noted = build(services.settings, mail=lambda _: outbox, scripts=noting)
    await noted.signing_keys.reload()
    await noted.clients.reload()
    try:
        for story in STORIES:
            await story(noted)
    finally:
        await noted.close()
    folder = files("service.store") / "lua"
    assert read == {each.name.removesuffix(".lua") for each in folder.iterdir()} - {SHARED}


class AtOneNode(TokenStore):
    """Whose account lives on the node that is asked, also in a cluster."""

    def __init__(self, redis: Redis, scripts: dict[str, str], reached: set[str]) -> None:
        super().__init__(redis, scripts, reached)
        while not self._is_at_home():
            self.key = f"vestibule:test:{{{secrets.token_hex(8)}}}"
        self.denial = f"{self.key}:denied"

    def _is_at_home(self) -> bool:
        with suppress(MovedError):
            self.redis.exists(self.key)
            return True
        return False

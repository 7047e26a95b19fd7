"""What the metrics say about dependencies: looked at in the background, so that no scrape waits for one."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from service import background, metrics
from service.audit import Audit
from service.clock import Clock
from service.crypto.passwords import Passwords
from service.errors import Unavailable
from service.mail.outbox import Outbox
from service.operations.health import Health
from service.store.postgres import Database
from service.store.redis import RedisStore
from service.tokens.keys import SigningKeys

log = structlog.get_logger("vestibule.vitals")

PAUSE = 3.0
FLUSH = 1.0
TIME_LIMIT = 2.5
KEEPS_EVERYTHING = "noeviction"


@dataclass(slots=True)
class Vitals:
    """Sets the gauges of this instance every three seconds, and flushes the busiest counters every second."""

    database: Database
    store: RedisStore
    passwords: Passwords
    outbox: Outbox
    audit: Audit
    signing_keys: SigningKeys
    health: Health
    clock: Clock
    _tasks: tuple[asyncio.Task[None], ...] = ()

    async def look(self) -> None:
        """Sets every gauge once, within 2.5 seconds; what does not answer by then is down."""
        self._within()
        await asyncio.gather(self._bounded(self._redis), self._bounded(self._postgres))

    def start(self) -> None:
        """Begins to look and to flush."""
        self._tasks = (
            asyncio.create_task(self._look_on(), name="vitals"),
            asyncio.create_task(self._flush_on(), name="metrics"),
        )

    async def stop(self) -> None:
        """Ends both."""
        for task in self._tasks:
            await background.end(task)
        metrics.flush()

    async def _look_on(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(PAUSE)

    async def _flush_on(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            metrics.flush()

    async def _bounded(self, look: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(TIME_LIMIT):
                await look()
        except (Unavailable, TimeoutError):
            pass  # `up` says so, and `health` logs it
        except Exception:
            log.exception("a look broke", look=look.__name__)

    def _within(self) -> None:
        """What this process knows by itself."""
        metrics.hashes.labels("running").set(self.passwords.running)
        metrics.hashes.labels("waiting").set(self.passwords.waiting)
        metrics.audit_waiting.set(self.audit.waiting)
        metrics.draining.set(self.health.draining)
        metrics.schema_current.set(self.health.schema_is_current)
        connections = self.database.pool
        metrics.pool.labels("size").set(connections.size)
        metrics.pool.labels("in_use").set(connections.in_use)
        metrics.pool.labels("waiting").set(connections.waiting)
        self._keys()

    def _keys(self) -> None:
        now, keyring = self.clock(), self.signing_keys.keyring
        active = keyring.current(now)
        since = active.activates_at if active else None
        turn = self.signing_keys.next_turn(now)
        metrics.key_active.set(active is not None)
        metrics.key_age.set((now - since).total_seconds() if since else 0)
        metrics.key_turn.set((turn - now).total_seconds() if turn else math.inf)
        metrics.keys_unreadable.set(len(keyring.unreadable))

    async def _redis(self) -> None:
        started = time.perf_counter()
        metrics.redis_up.set(is_up := await _answers(self._time_of_redis()))
        if is_up:
            metrics.redis_seconds.set(time.perf_counter() - started)
            info = await self.store.info()
            metrics.redis_evicted.set(int(info.get("evicted_keys", 0)))
            metrics.redis_policy_wrong.set(info.get("maxmemory_policy", KEEPS_EVERYTHING) != KEEPS_EVERYTHING)

    async def _time_of_redis(self) -> None:
        self._skew("redis", await self.store.time())

    async def _postgres(self) -> None:
        """One connection at a time: the pool is for requests."""
        started = time.perf_counter()
        metrics.postgres_up.set(is_up := await _answers(self._time_of_postgres()))
        if is_up:
            metrics.postgres_seconds.set(time.perf_counter() - started)
            await self._mails()

    async def _time_of_postgres(self) -> None:
        self._skew("postgres", await self.database.time())

    def _skew(self, store: str, theirs: float) -> None:
        metrics.clock_skew.labels(store).set(abs(self.clock().timestamp() - theirs))

    async def _mails(self) -> None:
        backlog = await self.outbox.backlog()
        waited = self.clock() - backlog.oldest if backlog.oldest else timedelta(0)
        metrics.mails_waiting.set(backlog.waiting)
        metrics.mails_dead.set(backlog.dead)
        metrics.oldest_mail.set(max(waited.total_seconds(), 0))


async def _answers(question: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(TIME_LIMIT / 2):
            await question
    except (Unavailable, TimeoutError):
        return False
    return True

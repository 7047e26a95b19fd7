"""What is well and what is not: looked at in the background, so that no probe waits for a dependency."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

import structlog

from service import background
from service.clock import Clock, utc_now
from service.errors import Unavailable
from service.mail.message import MailNotSent, Transport
from service.store.postgres import Database
from service.store.redis import RedisStore
from service.store.schema import is_current
from service.tokens.keys import SigningKeys

log = structlog.get_logger("vestibule.health")

PAUSE = 3.0
TIME_LIMIT = 2.5
MOST_SKEW = 5.0
PROBE_LIFE = 60
LOOKS_PER_MAIL = 20
LOOKS_PER_FAILED_MAIL = 5

State = Literal["ok", "failing", "unknown"]


class Unwell(Exception):
    """A check failed; the text is for operators and names no secret."""


@dataclass(slots=True)
class Health:
    """The last known state of everything this instance depends on."""

    database: Database
    store: RedisStore
    mail: Transport
    signing_keys: SigningKeys
    clock: Clock
    draining: bool = False
    schema_is_current: bool = False
    has_wrong_clock: bool = False
    """Whether both stores agree on a time that is not ours."""
    states: dict[str, State] = field(default_factory=dict)
    _mail_checked: float = float("-inf")
    _task: asyncio.Task[None] | None = None

    @property
    def has_signing_key(self) -> bool:
        """Whether tokens can be signed at this moment."""
        return self.signing_keys.keyring.current(self.clock()) is not None

    @property
    def is_started(self) -> bool:
        """Whether this instance could begin: migrations are current and a key is loaded."""
        return self.schema_is_current and self.has_signing_key

    @property
    def is_ready(self) -> bool:
        """Whether to send work here. Shared dependencies do not count: they would take every instance away.

        An own clock that is wrong does: nobody else has it, and it would sign tokens for another time.
        """
        return self.is_started and not self.draining and not self.has_wrong_clock

    @property
    def is_well(self) -> bool:
        """Whether every dependency answered its last check."""
        return all(state == "ok" for state in self.states.values())

    async def look(self) -> None:
        """Runs every check once, each within 2.5 seconds."""
        checks: dict[str, Callable[[], Awaitable[None]]] = {
            "postgres": self._postgres,
            "redis": self._redis,
            "mail": self._mail,
            "migrations": self._migrations,
            "signing_keys": self._signing_keys,
            "clock_skew": self._clock_skew,
        }
        results = await asyncio.gather(*(self._state(name, check) for name, check in checks.items()))
        self.states = dict(zip(checks, results, strict=True))

    def start(self) -> None:
        """Begins to look every three seconds."""
        self._task = asyncio.create_task(self._look_on(), name="health")

    async def stop(self) -> None:
        """Ends the looking."""
        await background.end(self._task)

    async def _look_on(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(PAUSE)

    async def _state(self, name: str, check: Callable[[], Awaitable[None]]) -> State:
        try:
            async with asyncio.timeout(TIME_LIMIT):
                await check()
        except (Unavailable, Unwell, MailNotSent, TimeoutError) as error:
            if self.states.get(name) != "failing":
                log.warning("a check failed", check=name, reason=str(error) or "too slow")
            return "failing"
        except Exception:
            log.exception("a check broke", check=name)
            return "failing"
        return "ok"

    async def _postgres(self) -> None:
        await self.database.ping()

    async def _redis(self) -> None:
        # A write: a server that is full, read-only or cut off from its primary still tells the time.
        await self.store.put("health", 1, PROBE_LIFE)

    async def _mail(self) -> None:
        """Asks seldom, since a check signs in to the mail server; a little more often while that fails."""
        now, is_well = asyncio.get_running_loop().time(), self.states.get("mail") == "ok"
        if now < self._mail_checked + PAUSE * (LOOKS_PER_MAIL if is_well else LOOKS_PER_FAILED_MAIL):
            if not is_well:
                raise MailNotSent("as before")
            return
        self._mail_checked = now
        await self.mail.check()

    async def _migrations(self) -> None:
        self.schema_is_current = await is_current(self.database)
        if not self.schema_is_current:
            raise Unwell("the schema is not the one of this version: run `vestibule migrate`")

    async def _signing_keys(self) -> None:
        if not self.has_signing_key:
            raise Unwell("no signing key is active: run `vestibule migrate`")
        if self.signing_keys.keyring.unreadable:
            raise Unwell("a signing key cannot be unsealed: its root key is not in VESTIBULE_KEYS")

    async def _clock_skew(self) -> None:
        of_redis = await self.store.time() - utc_now().timestamp()
        try:
            of_postgres = await self.database.time() - utc_now().timestamp()
        except Unavailable:  # its own line says so
            of_postgres = 0.0
        self.has_wrong_clock = min(abs(of_redis), abs(of_postgres)) > MOST_SKEW > abs(of_redis - of_postgres)
        worst = max(of_redis, of_postgres, key=abs)
        if abs(worst) > MOST_SKEW:
            raise Unwell(f"this clock and a store's differ by {abs(worst):.1f} s")

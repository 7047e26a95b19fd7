"""Limits: how often somebody may try something, counted before the attempt (GCRA in one atomic script).

A limit refills evenly, so it slows an attacker down and never locks an owner out for good. Redis away means 503:
an unlimited login is not an answer (ASVS 6.3.1).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from service.crypto.roots import RootKeys
from service.errors import TooManyRequests
from service.setting_values import Rate
from service.store.redis import RedisStore


@dataclass(frozen=True, slots=True)
class Limits:
    """Takes attempts from named budgets."""

    store: RedisStore
    roots: RootKeys

    async def take(self, rule: str, rate: Rate, *subjects: str) -> None:
        """Counts one attempt. Raises `TooManyRequests` with the seconds to wait."""
        wait = await self.store.run("take", self._key(rule, subjects), rate.attempts, rate.seconds * 1000)
        if wait > 0:
            raise TooManyRequests(f"limit {rule}", retry_after=math.ceil(wait / 1000))

    async def allows(self, rule: str, rate: Rate, *subjects: str) -> bool:
        """Counts one attempt and says whether it may go on, for refusals that must not show."""
        try:
            await self.take(rule, rate, *subjects)
        except TooManyRequests:
            return False
        return True

    async def forgive(self, *budgets: tuple[str, ...]) -> None:
        """Forgets the attempts in these budgets, each a rule with its subjects, after a success that proves them
        honest."""
        await self.store.delete(*(self._key(rule, subjects) for rule, *subjects in budgets))

    async def count(self, rule: str, life: timedelta, *subjects: str) -> int:
        """Counts what happens in a row, and says how often it has; `forgive` ends the row, so does `life` of rest."""
        counted: int = await self.store.run("count", self._key(rule, subjects), int(life.total_seconds() * 1000))
        return counted

    async def counted(self, rule: str, *subjects: str) -> int:
        """How often it has happened in a row."""
        return int(await self.store.get(self._key(rule, subjects)) or 0)

    async def vouch(self, rule: str, life: timedelta, *subjects: str) -> None:
        """Remembers that these subjects proved themselves."""
        await self.store.put(f"vouched:{self._key(rule, subjects)}", 1, int(life.total_seconds()))

    async def is_vouched(self, rule: str, *subjects: str) -> bool:
        """Whether these subjects proved themselves before."""
        return await self.store.get(f"vouched:{self._key(rule, subjects)}") is not None

    def _key(self, rule: str, subjects: Iterable[str]) -> str:
        subject = "\n".join(subjects).encode()
        return f"limit:{rule}:{self.roots.mac('limits', subject, self.roots.oldest).hex()[:32]}"

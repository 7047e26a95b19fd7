"""Looks for words in everything that both stores hold."""

from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import text

from service.wiring import Services

BATCH = 500


async def rows_with(services: Services, words: Iterable[str]) -> set[tuple[str, str]]:
    """The rows of every table that hold one of the words anywhere, in any case: table, and the row as text."""
    found: set[tuple[str, str]] = set()
    async with services.database.begin() as transaction:
        tables = (
            await transaction.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"))
        ).all()
        assert {"accounts", "sessions", "audit_events", "outbox", "one_time_tokens"} <= set(tables)
        for table in tables:
            for word in words:
                row = f'SELECT t::text FROM "{table}" t WHERE strpos(lower(t::text), :w) > 0'  # noqa: S608  as listed
                statement = text(row)
                found |= {(table, row) for row in (await transaction.scalars(statement, {"w": word.lower()})).all()}
    return found


async def keys_with(redis: Redis, words: Iterable[str]) -> set[str]:
    """The keys of Redis whose name or value holds one of the words, in any case."""
    wanted = [word.lower().encode() for word in words]
    found = set()
    async for key in redis.scan_iter(match="*", count=BATCH):
        held = (key + b"\n" + await _value(redis, key)).lower()
        if any(word in held for word in wanted):
            found.add(key.decode())
    return found


async def _value(redis: Redis, key: bytes) -> bytes:
    store: Any = redis
    kind = await store.type(key)
    if kind == b"hash":
        fields = await store.hgetall(key)
        return b"\n".join(part for pair in fields.items() for part in pair)
    if kind == b"string":
        return bytes(await store.get(key) or b"")
    if kind == b"list":
        return b"\n".join(await store.lrange(key, 0, -1))
    if kind == b"set":
        return b"\n".join(await store.smembers(key))
    assert kind == b"none", f"{key!r} is a {kind!r}: teach this test to read it"
    return b""

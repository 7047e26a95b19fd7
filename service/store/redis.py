"""Redis or Valkey: one bounded pool without retries, atomic scripts, and one refusal for every kind of outage.

Nothing is retried here: a retry multiplies the time that a request hangs. What a client may repeat, it repeats.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, RedisError

from service.errors import Unavailable
from service.settings import Settings

PREFIX = "vestibule:"
LISTEN = 60.0
"""Seconds until a quiet channel is asked again."""

Value = str | bytes | int


class RedisStore:
    """Commands on the service's keys. Each raises `Unavailable` when the server is away, hung, full or read-only."""

    def __init__(self, client: Redis, read: Callable[[str], str]) -> None:
        self._client = client
        self._read = read
        self._scripts: dict[str, AsyncScript] = {}

    @classmethod
    def connect(cls, settings: Settings, read: Callable[[str], str] | None = None) -> "RedisStore":
        """A pool within the settings' bounds; no connection is made yet.

        `read` gives a script's text by its name: tests put another clock into it.
        """
        seconds = settings.redis_timeout.total_seconds()
        pool = BlockingConnectionPool.from_url(
            str(settings.redis_url),
            max_connections=settings.redis_pool,
            timeout=settings.redis_pool_wait.total_seconds(),
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),
            client_name="vestibule",
        )
        return cls(Redis(connection_pool=pool), read or source)

    async def run(self, script: str, key: str | tuple[str, ...], *arguments: Value) -> Any:
        """Runs `lua/<script>.lua` on a key, or several of one slot: by its digest, by its text where the server does
        not know it (yet)."""
        keys = [PREFIX + name for name in ((key,) if isinstance(key, str) else key)]
        prepared = self._scripts.get(script)
        if prepared is None:
            prepared = self._scripts[script] = self._client.register_script(self._read(script))
        with outage_is_unavailable():
            try:
                return await _awaited(self._client.evalsha(prepared.sha, len(keys), *keys, *arguments))
            except NoScriptError:
                return await _awaited(self._client.eval(_text(prepared), len(keys), *keys, *arguments))

    async def get(self, key: str) -> bytes | None:
        """The value of a plain key."""
        with outage_is_unavailable():
            return cast("bytes | None", await self._client.get(PREFIX + key))

    async def put(self, key: str, value: Value, seconds: int) -> None:
        """Sets a plain key that ends after so many seconds."""
        with outage_is_unavailable():
            await self._client.set(PREFIX + key, value, ex=seconds)

    async def pick(self, key: str) -> bytes | None:
        """The value of a plain key, which is gone afterwards: of many at once one gets it."""
        with outage_is_unavailable():
            return cast("bytes | None", await self._client.getdel(PREFIX + key))

    async def delete(self, *keys: str) -> None:
        """Removes keys of any kind, in one round trip."""
        with outage_is_unavailable():
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.delete(PREFIX + key)
            await pipeline.execute()

    async def add(self, key: str, member: Value, seconds: int) -> None:
        """Puts a member into a set, which ends so many seconds after the last one came."""
        with outage_is_unavailable():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.sadd(PREFIX + key, member)
            pipeline.expire(PREFIX + key, seconds)
            await pipeline.execute()

    async def members(self, key: str) -> set[bytes]:
        """A whole set, empty when there is none."""
        with outage_is_unavailable():
            return cast("set[bytes]", await _awaited(self._client.smembers(PREFIX + key)))

    async def field(self, key: str, field: Value) -> bytes | None:
        """One field of a hash."""
        with outage_is_unavailable():
            return cast("bytes | None", await _awaited(self._client.hget(PREFIX + key, cast("str", field))))

    async def fields_of(self, key: str, *fields: Value) -> list[bytes | None]:
        """Some fields of a hash, None for each that is not there."""
        with outage_is_unavailable():
            return cast("list[bytes | None]", await _awaited(self._client.hmget(PREFIX + key, cast("Any", fields))))

    async def drop_field(self, key: str, field: str) -> None:
        """Removes one field of a hash."""
        with outage_is_unavailable():
            await _awaited(self._client.hdel(PREFIX + key, field))

    async def fields(self, key: str) -> dict[str, bytes]:
        """All fields of a hash, empty when there is none."""
        with outage_is_unavailable():
            raw = await _awaited(self._client.hgetall(PREFIX + key))
        return {name.decode(): value for name, value in raw.items()}

    async def push(self, key: str, value: Value, keep: int) -> None:
        """Puts a value in front of a list and keeps the newest `keep`."""
        with outage_is_unavailable():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.lpush(PREFIX + key, value)
            pipeline.ltrim(PREFIX + key, 0, keep - 1)
            await pipeline.execute()

    async def items(self, key: str) -> list[bytes]:
        """A whole list, newest first."""
        with outage_is_unavailable():
            return cast("list[bytes]", await _awaited(self._client.lrange(PREFIX + key, 0, -1)))

    async def exists(self, key: str) -> bool:
        """Whether a key is there."""
        with outage_is_unavailable():
            return bool(await self._client.exists(PREFIX + key))

    async def announce(self, channel: str) -> None:
        """Tells every worker that listens to a channel. Whoever does not listen just then misses it."""
        with outage_is_unavailable():
            await self._client.publish(PREFIX + channel, b"")

    async def announcements(self, channel: str) -> AsyncIterator[None]:
        """One item for each announcement on a channel. Ends with `Unavailable` when the connection does."""
        pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        with outage_is_unavailable():
            try:
                await pubsub.subscribe(PREFIX + channel)
                while True:
                    if await pubsub.get_message(timeout=LISTEN):
                        yield
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def info(self) -> dict[str, Any]:
        """The server's INFO, for `vestibule doctor` and the health page."""
        with outage_is_unavailable():
            return await self._client.info()

    async def time(self) -> float:
        """The server's clock, in seconds since 1970."""
        with outage_is_unavailable():
            seconds, microseconds = await self._client.time()
            return float(seconds) + float(microseconds) / 1_000_000

    async def close(self) -> None:
        """Closes every connection of the pool."""
        await self._client.aclose()
        await self._client.connection_pool.aclose()


@cache
def source(script: str) -> str:
    """The text of `lua/<script>.lua`, with the shared part in the place of its `--% record` line."""
    folder = files("service.store") / "lua"
    text = (folder / f"{script}.lua").read_text(encoding="utf-8")
    return text.replace("--% record\n", (folder / "record.lua").read_text(encoding="utf-8"))


@contextmanager
def outage_is_unavailable() -> Iterator[None]:
    """Turns every failure of the server or the way to it into `Unavailable`."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable(f"redis: {type(error).__name__}") from error


async def _awaited(answer: Awaitable[Any] | Any) -> Any:
    return await answer


def _text(script: AsyncScript) -> str:
    return script.script if isinstance(script.script, str) else bytes(script.script).decode()

"""Redis or Valkey: atomic scripts, a few plain commands, and one refusal for every kind of outage.

Nothing is retried here: a retry multiplies the time that a request hangs. What a client may repeat, it repeats.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, cast

import hiredis
from redis.exceptions import RedisError

from service import tracing
from service.clock import utc_now
from service.errors import Unavailable
from service.settings import Settings
from service.store import nodes
from service.store.lane import LaneDown, packed
from service.store.nodes import Command, Nodes

PREFIX = "vestibule:"
LISTEN = 60.0
"""Seconds until a quiet channel is asked again."""

OUTAGES = (LaneDown, RedisError, OSError, TimeoutError)
Value = str | bytes | int


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A call of a script: `packed` by its digest, `command` by its text."""

    named: str
    key: str
    command: Command
    packed: bytes


class RedisStore:
    """Commands on the service's keys. Each raises `Unavailable` when the server is away, hung, full or read-only."""

    def __init__(self, servers: Nodes, read: Callable[[str], str]) -> None:
        self._nodes = servers
        self._read = read
        self._scripts: dict[str, tuple[str, str, str]] = {}

    @classmethod
    def connect(cls, settings: Settings, read: Callable[[str], str] | None = None) -> "RedisStore":
        """A store within the settings' bounds; no connection is made yet.

        `read` gives a script's text by its name: tests put another clock into it.
        """
        return cls(nodes.connect(settings), read or source)

    async def run(self, script: str, key: str | tuple[str, ...], *arguments: Value) -> Any:
        """Runs `lua/<script>.lua` on a key, or several of one slot: by its digest, by its text where the server does
        not know it (yet)."""
        return await self.again(self.prepare(script, key, *arguments))

    def prepare(self, script: str, key: str | tuple[str, ...], *arguments: Value) -> "Prepared":
        """The same for `again`: what never changes about it is done once."""
        keys = [PREFIX + name for name in ((key,) if isinstance(key, str) else key)]
        text, digest, named = self._scripts.get(script) or self._read_in(script)
        rest = (len(keys), *keys, *arguments)
        return Prepared(named, keys[0], ("EVAL", text, *rest), packed(("EVALSHA", digest, *rest)))

    async def again(self, prepared: "Prepared") -> Any:
        """Runs what was prepared."""
        try:
            with tracing.span(prepared.named):
                answer = await self._nodes.call(prepared.key, prepared.command, prepared.packed)
                if isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT"):
                    answer = await self._nodes.call(prepared.key, prepared.command)
        except OUTAGES as error:
            raise _unavailable(error) from error
        return _good(answer)

    def _read_in(self, script: str) -> tuple[str, str, str]:
        text = self._read(script)
        digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
        prepared = self._scripts[script] = (text, digest, f"redis {script}")
        return prepared

    async def get(self, key: str) -> bytes | None:
        """The value of a plain key."""
        return cast("bytes | None", await self._call("GET", key))

    async def put(self, key: str, value: Value, seconds: int) -> None:
        """Sets a plain key that ends after so many seconds."""
        await self._call("SET", key, value, "EX", seconds)

    async def pick(self, key: str) -> bytes | None:
        """The value of a plain key, which is gone afterwards: of many at once one gets it."""
        return cast("bytes | None", await self._call("GETDEL", key))

    async def delete(self, *keys: str) -> None:
        """Removes keys of any kind, which may live on several nodes."""
        await asyncio.gather(*(self._call("DEL", key) for key in keys))

    async def add(self, key: str, member: Value, seconds: int) -> None:
        """Puts a member into a set, which ends so many seconds after the last one came."""
        await self.run("add", key, member, seconds)

    async def members(self, key: str) -> set[bytes]:
        """A whole set, empty when there is none."""
        return set(await self._call("SMEMBERS", key))

    async def field(self, key: str, field: Value) -> bytes | None:
        """One field of a hash."""
        return cast("bytes | None", await self._call("HGET", key, field))

    async def fields_of(self, key: str, *fields: Value) -> list[bytes | None]:
        """Some fields of a hash, None for each that is not there."""
        return cast("list[bytes | None]", await self._call("HMGET", key, *fields))

    async def drop_field(self, key: str, field: str) -> None:
        """Removes one field of a hash."""
        await self._call("HDEL", key, field)

    async def fields(self, key: str) -> dict[str, bytes]:
        """All fields of a hash, empty when there is none."""
        raw = await self._call("HGETALL", key)
        return {name.decode(): value for name, value in zip(raw[::2], raw[1::2], strict=True)}

    async def push(self, key: str, value: Value, keep: int) -> None:
        """Puts a value in front of a list and keeps the newest `keep`."""
        await self.run("push", key, value, keep)

    async def items(self, key: str) -> list[bytes]:
        """A whole list, newest first."""
        return cast("list[bytes]", await self._call("LRANGE", key, 0, -1))

    async def exists(self, key: str) -> bool:
        """Whether a key is there."""
        return bool(await self._call("EXISTS", key))

    async def announce(self, channel: str) -> None:
        """Tells every worker that listens to a channel. Whoever does not listen just then misses it."""
        await self._call("PUBLISH", channel, b"")

    async def announcements(self, channel: str) -> AsyncIterator[None]:
        """One item for each announcement on a channel. Ends with `Unavailable` when the connection does."""
        with outage_is_unavailable():
            pubsub = (await self._nodes.client()).pubsub(ignore_subscribe_messages=True)
            try:
                await pubsub.subscribe(PREFIX + channel)
                while True:
                    if await pubsub.get_message(timeout=LISTEN):
                        yield
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    @property
    def is_sharded(self) -> bool:
        """Whether keys live on several primaries, each of which may be older than another."""
        return self._nodes.is_sharded

    async def reconnected(self) -> None:
        """Waits until a connection was made: what is behind it may be another server, or an older state."""
        await self._nodes.reconnected.wait()
        self._nodes.reconnected.clear()

    async def identity(self) -> str:
        """Which servers these are: it changes with every restart, failover and copy from another primary, and when
        one that was away is back."""
        texts = [await self._everywhere("INFO", section, may_miss=True) for section in ("server", "replication")]
        lines = [line for told in texts for text in told if text for line in text.decode().splitlines()]
        found = " ".join(sorted(line for line in lines if line.startswith(("run_id:", "master_replid:"))))
        if not found:
            raise Unavailable("redis: no node answers")
        return found

    async def info(self) -> dict[str, Any]:
        """A primary's INFO, for `vestibule doctor` and the metrics."""
        with outage_is_unavailable():
            return await (await self._nodes.client()).info()

    async def time(self) -> float:
        """The server's clock, in seconds since 1970; of several the one that is farthest off ours."""
        ours = utc_now().timestamp()
        told = [float(seconds) + float(micro) / 1_000_000 for seconds, micro in await self._everywhere("TIME")]
        return max(told, key=lambda theirs: abs(theirs - ours))

    async def close(self) -> None:
        """Closes every connection."""
        await self._nodes.close()

    async def _call(self, command: str, key: str, *arguments: Value) -> Any:
        with outage_is_unavailable():
            return _good(await self._nodes.call(PREFIX + key, (command, PREFIX + key, *arguments)))

    async def _everywhere(self, *command: Value, may_miss: bool = False) -> list[Any]:
        with outage_is_unavailable():
            return [_good(answer) for answer in await self._nodes.everywhere(command, may_miss=may_miss)]


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
    except OUTAGES as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(f"redis: {error if isinstance(error, LaneDown) else type(error).__name__}")


def _good(answer: Any) -> Any:
    """An answer that is no error: a server that is full, read-only, loading or cut off is away to us."""
    if isinstance(answer, hiredis.ReplyError):
        raise Unavailable(f"redis: {str(answer).partition(' ')[0]}")
    return answer

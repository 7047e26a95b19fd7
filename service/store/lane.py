"""One connection to one Redis node that all callers of a worker share.

Commands of one turn of the event loop leave in one write, and answers are matched in their order. Beside a pool this
saves most of what a command costs (`deploy/decisions/0012-one-connection-for-everybody.md`), and it makes an outage
cheap: who calls while the node is known to be away is refused at once, and one attempt at a time looks whether it is
back. redis-py makes the connection: it knows TLS, passwords and Sentinel.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from service import background, metrics

RETRY_PAUSE = 0.5
"""Seconds between two attempts to reach a node that is away."""
SECOND_LOOK = 0.02
"""Seconds after which an overdue answer is looked for once more: a busy worker may not have read it yet."""
ROUND_TRIPS = 2
"""How many times longer than a command a connection may take: Sentinel is asked, a password is given."""
NOT_PRIMARY = ("READONLY", "MASTERDOWN")
LONGEST_BACKLOG = 20_000
"""Commands that may wait for their answers; beyond it a flood would only fill the memory."""
ASKING = hiredis.pack_command(("ASKING",))


class LaneDown(Exception):
    """The node is away or does not answer; the text says what is known."""


def packed(command: tuple[str | bytes | int, ...]) -> bytes:
    """A command as it travels."""
    return cast("bytes", hiredis.pack_command(cast("Any", command)))


class Lane(asyncio.Protocol):
    """Sends commands and gives each caller the answer to its own. Raises `LaneDown` for every outage."""

    def __init__(
        self,
        make: Callable[[], AbstractConnection],
        timeout: float,
        on_connect: Callable[[], None],
        *,
        leaves_replicas: bool = False,
    ) -> None:
        """`leaves_replicas`: a node that says it is no primary is left, since the next connection leads to another."""
        self._make = make
        self._leaves_replicas = leaves_replicas
        self._timeout = timeout
        self._on_connect = on_connect
        self._connection: AbstractConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._attempt: asyncio.Future[None] | None = None
        self._trouble = ""

    @property
    def is_up(self) -> bool:
        """Whether commands can be sent at this moment."""
        return self._transport is not None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer or a connection."""
        return not self._waiting and self._attempt is None

    def call(self, command: bytes) -> Awaitable[Any]:
        """The answer to one `packed` command, an error of the server as a `hiredis.ReplyError`. Raises `LaneDown`."""
        return self._call_later(command) if self._transport is None else self._send(command)

    async def ask(self, command: bytes) -> Any:
        """The same for a key that is on its way to this node: the word for that goes right before the command."""
        if self._transport is None:
            await self._connected()
        _, answer = await asyncio.gather(self._send(ASKING), self._send(command))
        return answer

    async def _call_later(self, command: bytes) -> Any:
        await self._connected()
        return await self._send(command)

    def _send(self, command: bytes) -> asyncio.Future[Any]:
        if len(self._waiting) >= LONGEST_BACKLOG:
            raise LaneDown("too many commands wait")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((answer, loop.time() + self._timeout))
        if not self._unsent:
            loop.call_soon(self._flush)
        self._unsent.append(command)
        if self._watch is None:
            self._watch = loop.call_later(self._timeout, self._look)
        return answer

    async def close(self) -> None:
        """Lets go of the connection; who still waits is refused."""
        await background.end(self._keeping)
        self._break_off("closed")
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)

    def give_up(self, trouble: str) -> None:
        """Breaks the connection off: whoever waits is refused, and the next call makes another one."""
        metrics.redis_lost()
        self._break_off(trouble)

    def _break_off(self, trouble: str) -> None:
        self._trouble = trouble
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        waiting, self._waiting = self._waiting, deque()
        self._unsent = []
        for answer, _ in waiting:
            if not answer.done():
                answer.set_exception(LaneDown(trouble))

    def data_received(self, data: bytes) -> None:
        """Answers, in the order of their commands."""
        self._reader.feed(data)
        while self._waiting and (reply := self._reader.gets()) is not False:
            answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_result(reply)
            if self._leaves_replicas and type(reply) is hiredis.ReplyError and str(reply).startswith(NOT_PRIMARY):
                self.give_up("not the primary any more")
        if self._transport is not None and not self._waiting and self._reader.has_data():
            # It would be taken for the answer to whatever is asked next.
            self.give_up("an answer that nobody asked for")

    def connection_lost(self, exc: Exception | None) -> None:
        """The node closed the connection, or the way to it is gone."""
        if self._transport is not None:
            self.give_up(f"connection lost: {type(exc).__name__}" if exc else "connection closed")
            self._keep_trying()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and unsent:
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    def _look(self) -> None:
        """Whether the oldest command waits for too long."""
        self._watch = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        oldest, until = self._waiting[0]
        left = until - loop.time()
        if left > 0:
            self._watch = loop.call_later(left, self._look)
        else:
            self._watch = loop.call_later(SECOND_LOOK, self._look_again, oldest)

    def _look_again(self, overdue: asyncio.Future[Any]) -> None:
        self._watch = None
        if self._waiting and self._waiting[0][0] is overdue:
            self.give_up("no answer in time")
            self._keep_trying(is_hung=True)
        elif self._waiting:
            self._look()

    async def _connected(self) -> None:
        """Waits for an attempt that is under way, unless the one before it failed."""
        self._keep_trying()
        if self._attempt is None:
            raise LaneDown(self._trouble)
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(self._attempt)
        except TimeoutError:
            raise LaneDown("no connection in time") from None

    def _keep_trying(self, *, is_hung: bool = False) -> None:
        """Begins to connect. Nobody waits for a node that just did not answer."""
        if self._keeping is None or self._keeping.done():
            self._attempt = first = asyncio.get_running_loop().create_future()
            self._keeping = asyncio.create_task(self._try_on(first), name="redis-lane")
            if is_hung:
                self._settle(first, LaneDown(self._trouble))

    async def _try_on(self, first: asyncio.Future[None]) -> None:
        while self._transport is None:
            try:
                await self._open()
                metrics.redis_reconnects.inc()
            except (RedisError, OSError, TimeoutError) as error:
                self._trouble = f"no connection: {type(error).__name__}"
                self._settle(first, LaneDown(self._trouble))
                await asyncio.sleep(RETRY_PAUSE)
        self._settle(first, None)
        metrics.redis_found()
        self._on_connect()

    def _settle(self, first: asyncio.Future[None], failure: LaneDown | None) -> None:
        self._attempt = None
        if first.done():
            return
        if failure is None:
            first.set_result(None)
        else:
            first.set_exception(failure)
            first.exception()  # nobody may have waited

    async def _open(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
        connection = self._connection = self._make()
        async with asyncio.timeout(self._timeout * ROUND_TRIPS):
            await connection.connect()  # type: ignore[no-untyped-call]
        # From here on the answers are ours to read: redis-py reads one at a time.
        writer = connection._writer
        if writer is None:
            raise ConnectionError("no transport")
        self._reader = hiredis.Reader()
        transport = cast("asyncio.Transport", writer.transport)
        transport.set_protocol(self)
        self._transport = transport

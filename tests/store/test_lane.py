"""The one connection that all callers share: each gets its own answer, and an outage is short for everybody."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from service.settings import Settings
from service.store import lane as lanes
from service.store.lane import Lane, LaneDown, packed
from service.store.nodes import OneNode
from service.store.redis import RedisStore
from tests.conftest import Servers, shifted
from tests.tokens.forgetful import of_database
from tests.topologies import free_ports

DATABASE = 10
TIMEOUT = 0.25
SOON = 4.0
"""Seconds; far more than anything takes that is waited for here, far less than waiting for each other would."""


async def ask(lane: Lane, *words: str | bytes | int) -> Any:
    return await lane.call(packed(words))


@asynccontextmanager
async def connected(url: str, patience: float = 5.0) -> AsyncIterator[Lane]:
    """A lane to a server, by whatever way the URL names."""
    pool = BlockingConnectionPool.from_url(url, protocol=2, socket_connect_timeout=5)
    lane = Lane(pool.make_connection, patience, lambda: None)
    try:
        yield lane
    finally:
        await lane.close()
        await pool.aclose()


@pytest.fixture
def url(servers: Servers) -> str:
    return of_database(servers.redis_url, DATABASE)


@pytest.fixture
async def lane(url: str) -> AsyncIterator[Lane]:
    async with connected(url) as made:
        yield made


class Server:
    """Speaks just enough of the protocol: answers each command with its own last word, or keeps silent."""

    def __init__(self) -> None:
        self.is_silent = False
        self.accepted = 0
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Server"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.hang_up()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        while count := await reader.readline():
            words = []
            for _ in range(int(count[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            if not self.is_silent:
                writer.write(b"$%d\r\n%s\r\n" % (len(words[-1]), words[-1]))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().listening() as made:
        yield made


async def comes_true(condition: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it does within a while."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if await condition():
            return True
        await asyncio.sleep(0.01)
    return False


async def answers(lane: Lane) -> bool:
    try:
        return bool(await ask(lane, "ECHO", "there") == b"there")
    except LaneDown:
        return False


async def is_refused(call: Awaitable[Any]) -> str:
    with pytest.raises(LaneDown) as refusal:
        await call
    return str(refusal.value)


# Whose answer is whose


async def test_each_of_a_thousand_callers_gets_its_own_answer(lane: Lane) -> None:
    words = [f"word {number}".encode() for number in range(1000)]
    assert await asyncio.gather(*(ask(lane, "ECHO", word) for word in words)) == words


async def test_all_of_one_turn_leave_on_one_connection(server: Server) -> None:
    async with connected(server.url) as lane:
        await asyncio.gather(*(ask(lane, "ECHO", str(number)) for number in range(100)))
    assert server.accepted == 1


async def test_whoever_leaves_shifts_nobody_elses_answer(lane: Lane) -> None:
    await ask(lane, "PING")
    for _ in range(20):
        calls = [asyncio.ensure_future(ask(lane, "ECHO", str(number))) for number in range(60)]
        await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()
        told = await asyncio.gather(*calls, return_exceptions=True)
        for number, answer in enumerate(told):
            expected = asyncio.CancelledError if number % 3 == 0 else bytes
            assert isinstance(answer, expected)
            assert number % 3 == 0 or answer == str(number).encode()


async def test_an_error_of_the_server_is_the_answer_of_who_made_it(lane: Lane) -> None:
    good, bad, also_good = await asyncio.gather(
        ask(lane, "ECHO", "a"),
        ask(lane, "NOSUCHCOMMAND"),
        ask(lane, "ECHO", "b"),
    )
    assert (good, also_good) == (b"a", b"b")
    assert str(bad).startswith("ERR unknown command")


async def test_a_long_answer_in_many_pieces_is_one_answer(lane: Lane) -> None:
    long = b"x" * 3_000_000
    first, second = await asyncio.gather(
        ask(lane, "ECHO", long),
        ask(lane, "ECHO", "after"),
    )
    assert (first == long, second) == (True, b"after")


# Hung


async def test_a_hung_server_fails_everybody_after_the_timeout_and_then_at_once(server: Server) -> None:
    async with connected(server.url, TIMEOUT) as lane:
        assert await comes_true(lambda: answers(lane))
        server.is_silent = True
        began = time.monotonic()
        waiting = [is_refused(ask(lane, "ECHO", "x")) for _ in range(200)]
        assert set(await asyncio.gather(*waiting)) == {"no answer in time"}
        assert TIMEOUT <= time.monotonic() - began < SOON
        began = time.monotonic()
        for _ in range(200):
            await is_refused(ask(lane, "ECHO", "x"))
        assert time.monotonic() - began < SOON
        server.is_silent = False
        assert await comes_true(lambda: answers(lane))


async def test_answers_of_before_a_hang_are_nobodys_after_it(server: Server) -> None:
    async with connected(server.url, TIMEOUT) as lane:
        assert await comes_true(lambda: answers(lane))
        server.is_silent = True
        await is_refused(ask(lane, "ECHO", "old"))
        server.is_silent = False
        assert await comes_true(lambda: answers(lane))
        assert await asyncio.gather(*(ask(lane, "ECHO", str(n)) for n in range(50))) == [b"%d" % n for n in range(50)]


async def test_a_worker_that_was_busy_for_longer_than_the_timeout_has_no_hung_server(url: str) -> None:
    """Blocked with the command under way: the answer lies in the socket when the clock is looked at."""
    async with connected(url, TIMEOUT) as lane:
        await ask(lane, "PING")
        for _ in range(3):
            call = asyncio.ensure_future(ask(lane, "ECHO", "patient"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(2 * TIMEOUT)  # noqa: ASYNC251  the point of it
            assert await call == b"patient"


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(server: Server) -> None:
    async with connected(server.url, TIMEOUT) as lane:
        assert await comes_true(lambda: answers(lane))
        lane.data_received(b"+stray\r\n")
        assert not lane.is_up
        assert await ask(lane, "ECHO", "mine") == b"mine"


async def test_commands_are_not_gathered_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LONGEST_BACKLOG", 10)
    async with connected(server.url, TIMEOUT) as lane:
        assert await comes_true(lambda: answers(lane))
        server.is_silent = True
        calls = [asyncio.create_task(is_refused(ask(lane, "ECHO", "x"))) for _ in range(15)]
        told = await asyncio.gather(*calls)
        assert told.count("too many commands wait") == 5


# Gone and back


async def test_after_the_server_hung_up_the_next_call_is_served(url: str) -> None:
    """CLIENT KILL, as after a restart or an idle timeout: no call that comes later fails."""
    async with connected(url) as lane, Redis.from_url(url) as other:
        for _ in range(5):
            number = await ask(lane, "CLIENT", "ID")
            assert await other.client_kill_filter(_id=str(number)) == 1
            assert await comes_true(lambda number=number: _another(lane, number))  # type: ignore[misc]
            assert await asyncio.gather(*(ask(lane, "ECHO", "x") for _ in range(10))) == [b"x"] * 10


async def _another(lane: Lane, number: int) -> bool:
    try:
        return bool(await ask(lane, "CLIENT", "ID") != number)
    except LaneDown:  # it was under way
        return False


async def test_who_waits_when_the_connection_is_lost_is_told_at_once(server: Server) -> None:
    async with connected(server.url) as lane:
        assert await comes_true(lambda: answers(lane))
        server.is_silent = True
        waiting = asyncio.create_task(is_refused(ask(lane, "ECHO", "x")))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        server.hang_up()
        assert await waiting == "connection closed"
        assert time.monotonic() - began < SOON


async def test_a_server_that_is_not_there_is_found_when_it_comes(server: Server) -> None:
    nowhere = Server()
    [nowhere.port] = free_ports(1)
    async with connected(nowhere.url, TIMEOUT) as lane:
        began = time.monotonic()
        told = await asyncio.gather(*(is_refused(ask(lane, "PING")) for _ in range(100)))
        assert {text.partition(":")[0] for text in told} == {"no connection"}
        assert time.monotonic() - began < SOON
        async with nowhere.listening():
            assert await comes_true(lambda: answers(lane))


async def test_one_attempt_at_a_time_looks_for_a_server_that_is_away(server: Server) -> None:
    async with connected(server.url) as lane:
        assert await asyncio.gather(*(answers(lane) for _ in range(100))) == [True] * 100
        server.hang_up()
        assert await comes_true(lambda: answers(lane))
        await asyncio.gather(*(answers(lane) for _ in range(100)))
    assert server.accepted == 2


async def test_a_closed_lane_refuses_who_waits(server: Server) -> None:
    async with connected(server.url) as lane:
        assert await comes_true(lambda: answers(lane))
        server.is_silent = True
        waiting = asyncio.create_task(is_refused(ask(lane, "ECHO", "x")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await lane.close()
        assert await waiting == "closed"
        assert not lane.is_up


# The store above it


async def test_scripts_that_the_server_forgot_are_sent_again(settings: Settings, redis: Redis) -> None:
    store = RedisStore.connect(settings, shifted)
    for _ in range(3):
        await redis.script_flush()
        told = await asyncio.gather(*(store.run("spend", f"test:lane:{time.monotonic_ns()}", 1000) for _ in range(20)))
        assert set(told) <= {0, 1}
    await store.close()


async def test_a_primary_that_became_a_replica_is_given_up() -> None:
    """READONLY: the next call connects anew, to whoever is the primary then."""
    server = Refusing()
    async with server.listening():
        client = Redis.from_url(server.url, protocol=2)
        node = OneNode(client, 5.0, sentinels=[client])
        for number in range(1, 4):
            answer = await node.call("k", ("SET", "k", "v"))
            assert str(answer).startswith("READONLY")
            assert server.accepted == number
        await node.close()


class Refusing(Server):
    """A server to which nothing may be written."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        while data := await reader.read(65536):
            reply = b"-READONLY You can't write against a read only replica.\r\n"
            writer.write(reply if b"SET" in data and b"SETINFO" not in data else b"+OK\r\n" * data.count(b"*"))

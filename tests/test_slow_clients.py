"""Clients that say nothing, half of something, or something very slowly: they are sent away, and nobody else waits."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.app import create_app
from service.settings import Settings, load
from service.wiring import build
from tests.cli.test_production import comes_true
from tests.conftest import Outbox, TestClock, shifted
from tests.deploy.proxies import listening

HEAD_TIMEOUT, BODY_TIMEOUT = 1.0, 1.5
LONG_AFTER = 2 * BODY_TIMEOUT
PATIENCE = 60
GET = b"GET /livez HTTP/1.1\r\nHost: auth.test\r\n\r\n"
POST = b"POST /auth/refresh HTTP/1.1\r\nHost: auth.test\r\nContent-Type: application/json\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
MANY = 100


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it got, at once or (`/early`) before the body, or (`/late`) after more than any limit."""
    if scope["type"] != "http":
        return
    start = {"type": "http.response.start", "status": 200, "headers": []}
    if scope["path"] == "/early":
        await send(start)
        await send({"type": "http.response.body", "body": b"early", "more_body": True})
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/late":
        await asyncio.sleep(LONG_AFTER)
    if scope["path"] != "/early":
        await send(start)
    headers = [name.decode() for name, _ in scope["headers"]]
    told = json.dumps({"path": scope["path"], "body": body.decode(), "headers": headers})
    await send({"type": "http.response.body", "body": told.encode()})


@pytest.fixture(scope="module")
def impatient(environ: dict[str, str]) -> Settings:
    limits = {"VESTIBULE_HEAD_TIMEOUT": str(HEAD_TIMEOUT), "VESTIBULE_BODY_TIMEOUT": str(BODY_TIMEOUT)}
    return load({**environ, **limits})


@pytest.fixture(scope="module")
def port(impatient: Settings) -> Iterator[int]:
    """The port of an echo, served as Vestibule is."""
    with listening(echo, impatient) as address:
        yield int(address.rpartition(":")[2])


@pytest.fixture(scope="module")
def vestibule(impatient: Settings, wall_clock: TestClock, outbox: Outbox) -> Iterator[int]:
    """The port of the service itself."""
    app = create_app(build(impatient, clock=wall_clock, mail=lambda _: outbox, scripts=shifted))
    with listening(app, impatient) as address:
        yield int(address.rpartition(":")[2])


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, began: float) -> None:
        self._reader, self._writer = reader, writer
        self._began = began

    @property
    def age(self) -> float:
        return time.monotonic() - self._began

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()

    async def hear(self) -> bytes:
        """One answer with a body in one chunk, or with a length."""
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            rest = self._reader.readexactly(int(length[1])) if length else self._reader.readuntil(b"\r\n0\r\n\r\n")
            return head + await rest

    async def hear_out(self) -> bytes:
        """Everything until the other side hangs up."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read()

    async def dribble(self, piece: bytes) -> bytes:
        """Says the piece again and again until the other side hangs up; what that said."""
        while not self._reader.at_eof() and self.age < PATIENCE:
            try:
                await self.say(piece)
            except ConnectionError:
                break
            await asyncio.sleep(HEAD_TIMEOUT / 8)
            if heard := await self._heard_meanwhile():
                return heard
        return b""

    async def _heard_meanwhile(self) -> bytes:
        try:
            async with asyncio.timeout(0.01):
                return await self._reader.read(65_536)
        except (TimeoutError, ConnectionError):
            return b""


@asynccontextmanager
async def line(port: int) -> AsyncIterator[Line]:
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Line(reader, writer, began)
    finally:
        writer.close()


def statuses(heard: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", heard)]


async def test_who_says_nothing_is_left_without_a_word(port: int) -> None:
    async with line(port) as silent:
        assert await silent.hear_out() == b""
        assert silent.age >= HEAD_TIMEOUT


@pytest.mark.parametrize("half", [b"G", GET[:-2]], ids=["a letter", "all but the last line"])
async def test_half_a_head_is_told_that_it_was_too_slow(port: int, half: bytes) -> None:
    async with line(port) as slow:
        await slow.say(half)
        heard = await slow.hear_out()
        assert slow.age >= HEAD_TIMEOUT
    head, body = heard.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"Connection: close" in head
    assert json.loads(body)["code"] == "request_timeout"


async def test_a_head_that_comes_letter_by_letter_gets_no_more_time(port: int) -> None:
    async with line(port) as slow:
        await slow.say(GET[:-2] + b"X-Slow: ")
        assert statuses(await slow.dribble(b"a")) == [408]
        assert slow.age >= HEAD_TIMEOUT


async def test_half_a_head_behind_an_answer_is_told_so_too(port: int) -> None:
    async with line(port) as slow:
        await slow.say(GET)
        assert statuses(await slow.hear()) == [200]
        await slow.say(GET[:-2])
        assert statuses(await slow.hear_out()) == [408]


async def test_empty_lines_do_not_keep_a_connection(port: int) -> None:
    """They are no head, and they stop the clock that uvicorn has for idle connections."""
    async with line(port) as slow:
        await slow.say(GET)
        assert statuses(await slow.hear()) == [200]
        assert await slow.dribble(b"\r\n") == b""
        assert slow.age < PATIENCE


@pytest.mark.parametrize(
    ("framing", "piece"),
    [(b"Content-Length: 1000\r\n\r\n", b"a"), (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n")],
    ids=["with a length", "in chunks"],
)
async def test_a_body_that_comes_letter_by_letter_is_told_so(port: int, framing: bytes, piece: bytes) -> None:
    async with line(port) as slow:
        await slow.say(POST + framing)
        assert statuses(await slow.dribble(piece)) == [408]
        assert slow.age >= BODY_TIMEOUT


async def test_a_body_that_stops_is_told_so(port: int) -> None:
    async with line(port) as slow:
        await slow.say(POST + b"Content-Length: 100\r\n\r\n{")
        heard = await slow.hear_out()
        assert slow.age >= BODY_TIMEOUT
    assert statuses(heard) == [408]
    assert b"Connection: close" in heard


async def test_an_answer_that_has_begun_is_cut_off_and_not_followed_by_another(port: int) -> None:
    async with line(port) as slow:
        await slow.say(b"POST /early HTTP/1.1\r\nHost: auth.test\r\nContent-Length: 100\r\n\r\n{")
        heard = await slow.hear_out()
    assert statuses(heard) == [200]
    assert not heard.endswith(b"0\r\n\r\n")


async def test_the_rest_of_a_body_that_was_refused_is_not_awaited(vestibule: int) -> None:
    async with line(vestibule) as slow:
        await slow.say(POST + b"Content-Length: 99000000000\r\n\r\n{")
        assert statuses(await slow.hear_out()) == [413]


async def test_an_idle_connection_stays_open(port: int) -> None:
    async with line(port) as quiet:
        await quiet.say(GET)
        assert statuses(await quiet.hear()) == [200]
        await asyncio.sleep(LONG_AFTER)
        await quiet.say(GET)
        assert statuses(await quiet.hear()) == [200]


async def test_the_time_that_an_answer_takes_is_ours(port: int) -> None:
    async with line(port) as patient:
        await patient.say(b"POST /late HTTP/1.1\r\nHost: auth.test\r\nContent-Length: 2\r\n\r\n{}" + GET[:-2])
        assert statuses(await patient.hear()) == [200]
        await patient.say(b"\r\n")
        assert statuses(await patient.hear()) == [200]


async def test_many_slow_ones_are_all_sent_away_while_others_are_served(vestibule: int) -> None:
    sayings = [b"", POST, POST + b"Content-Length: 100\r\n\r\n{"]
    slow = []
    for number in range(MANY):
        slow.append(await asyncio.open_connection("127.0.0.1", vestibule))
        slow[-1][1].write(sayings[number % len(sayings)])
    async with line(vestibule) as probe:
        asked = 0
        async with asyncio.timeout(PATIENCE):
            heard = asyncio.gather(*(reader.read() for reader, _ in slow))
            while not heard.done():
                await probe.say(GET)
                assert statuses(await probe.hear()) == [200]
                asked += 1
        for _, writer in slow:
            writer.close()
    assert asked > 0
    assert [statuses(one) for one in heard.result()] == [[] if n % 3 == 0 else [408] for n in range(MANY)]


@pytest.mark.parametrize(
    "head",
    [POST, b"POST /token HTTP/1.1\r\nHost: auth.test\r\nContent-Type: application/x-www-form-urlencoded\r\n"],
    ids=["json", "form"],
)
async def test_who_leaves_within_a_body_is_no_error_of_ours(vestibule: int, head: bytes) -> None:
    with capture_logs() as lines:
        async with line(vestibule) as leaving:
            await leaving.say(head + b"Content-Length: 100\r\n\r\n{")
        assert await asyncio.to_thread(comes_true, lambda: any(one["event"] == "request" for one in lines))
    [told] = [one for one in lines if one["event"] == "request"]
    assert (told["status"], told["code"], told["log_level"]) == (499, "client_left", "info")
    assert [one for one in lines if one["log_level"] not in {"info", "debug"}] == []


# Offers of another protocol


@pytest.fixture(scope="module")
def patient(settings: Settings) -> Iterator[int]:
    """The port of an echo without hurry."""
    with listening(echo, settings) as address:
        yield int(address.rpartition(":")[2])


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
    ids=["with a length", "in chunks"],
)
@pytest.mark.parametrize("pieces", [1, 2, 7])
async def test_an_offer_of_http_2_is_not_taken_and_costs_no_body(patient: int, framing: bytes, pieces: int) -> None:
    message = POST + OFFER + framing
    size = -(-len(message) // pieces)
    async with line(patient) as java:
        for start in range(0, len(message), size):
            await java.say(message[start : start + size])
            await asyncio.sleep(0.01)
        heard = await java.hear()
        await java.say(GET)
        assert statuses(await java.hear()) == [200]
    assert statuses(heard) == [200]
    told = json.loads(re.search(rb"\{.*\}", heard)[0])  # type: ignore[index]
    assert told["body"] == "hello"
    assert {"upgrade", "http2-settings", "connection"} & set(told["headers"]) == set()


async def test_the_body_behind_an_offer_is_never_another_request(patient: int) -> None:
    hidden = b"GET /hidden HTTP/1.1\r\nHost: auth.test\r\n\r\n"
    async with line(patient) as smuggler:
        await smuggler.say(POST + OFFER + b"Content-Length: %d\r\n\r\n" % len(hidden), hidden)
        first = await smuggler.hear()
        await smuggler.say(GET)
        second = await smuggler.hear()
    assert [json.loads(re.search(rb"\{.*\}", heard)[0])["path"] for heard in (first, second)] == [  # type: ignore[index]
        "/auth/refresh",
        "/livez",
    ]


async def test_many_offers_in_one_piece_are_all_answered(patient: int) -> None:
    async with line(patient) as java:
        await java.say((GET[:-2] + OFFER + b"\r\n") * MANY)
        assert [statuses(await java.hear()) for _ in range(MANY)] == [[200]] * MANY

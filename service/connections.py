"""How a connection is read: heads, bodies and the silence between them have an end."""

import asyncio
import sys
from collections.abc import Iterable
from typing import Literal, cast

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import ServiceError
from service.problems import HeadersTooLarge, TooSlow, document

LONGEST_HEAD = 128 * 1024
"""Bytes of a head that is not complete yet; `edge.py` refuses complete ones that are much smaller."""
CHUNK_FRAMING = 1024 * 1024
"""Bytes that the sizes of chunks, and trailers, may take in one message."""
OF_UPGRADES = {b"upgrade", b"http2-settings"}
"""Headers that offer another protocol, and options of `Connection` that name them."""
SWEEP = 1.0
"""Seconds between two looks at the open connections."""


def last_words(refusal: ServiceError, reason: str) -> bytes:
    """A whole answer, for connections that end without having asked the application."""
    body = msgspec.json.encode(document(refusal))
    return (
        b"HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (refusal.status, reason.encode(), len(body), body)
    )


HEAD_TOO_LARGE = last_words(HeadersTooLarge(), "Request Header Fields Too Large")
TOO_SLOW = last_words(TooSlow(), "Request Timeout")


class Sweeper:
    """Ends connections whose clients take too long; one for each worker, which runs while there are any.

    A request pays nothing: each connection says what it waits for (`BoundedHttp.awaits`), and only the sweeper looks
    at the clock. A limit is therefore kept to within two sweeps.
    """

    def __init__(self, head: float, body: float, grace: float) -> None:
        """Seconds from connecting, or from a head's first byte, to its end, from there to the end of the body, and from
        when the worker stops to when uvicorn cancels what still runs, with a 500."""
        self._limits = {"head": head, "body": body}
        self._limit_at_the_end = min(body, grace / 2)
        self._pause = min(SWEEP, head / 4, body / 4)
        self._is_waiting = False

    def watch(self, connections: Iterable["BoundedHttp"], loop: asyncio.AbstractEventLoop) -> None:
        """Looks at them from now on, until none is left."""
        if not self._is_waiting:
            self._is_waiting = True
            loop.call_later(self._pause, self._sweep, connections, loop)

    def _sweep(self, connections: Iterable["BoundedHttp"], loop: asyncio.AbstractEventLoop) -> None:
        self._is_waiting = False
        now, found = loop.time(), list(connections)
        for connection in found:
            awaited = connection.awaits()
            if awaited is None:
                connection.since = None
            elif connection.since is None:
                connection.since = now
            elif now - connection.since >= (self._limit_at_the_end if connection.is_ending else self._limits[awaited]):
                connection.give_up()
        if found:
            self.watch(connections, loop)


class OnePacket:
    """A transport on which head and body of an answer leave together: uvicorn writes them one after the other, and a
    second packet costs both ends more than the whole answer."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._unsent: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Sends with everything else that is written in this turn of the loop."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)

    def close(self) -> None:
        """Closes, once everything is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Asked about at every answer."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent:
            self._transport.write(b"".join(unsent))

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


class BoundedHttp(HttpToolsProtocol):
    """The HTTP parser of uvicorn, with an end to what is not a body: httptools collects headers without one.

    Fields behind a chunked body (trailers) are dropped: they must not pass for headers that a proxy has set. Offers of
    another protocol (`Upgrade: h2c`, which Java's client makes) are not heard: httptools would take the body behind one
    for the next request.
    """

    since: float | None = None
    """When the sweeper first saw the state that lasts; every change of state forgets it."""
    is_ending = False
    """Whether the worker stops."""
    _unread = 0
    _stage: Literal["silence", "head", "body", "whole"] = "silence"
    _offer_ends: int | None = None

    def __init__(self, sweeper: Sweeper, **given: object) -> None:
        """Shared by all connections of a worker, and what uvicorn gives each."""
        super().__init__(**given)  # type: ignore[arg-type]
        self._sweeper = sweeper

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there."""
        super().connection_made(cast("asyncio.Transport", OnePacket(transport, self.loop)))
        self._sweeper.watch(self.connections, self.loop)  # type: ignore[arg-type]

    def shutdown(self) -> None:
        """The worker stops: idle connections close, others after their answer, and slow clients have less time."""
        self.is_ending = True
        super().shutdown()

    def awaits(self) -> Literal["head", "body"] | None:
        """What the client owes; nothing while we are the ones to act, or uvicorn counts the idle time."""
        if self._stage == "body":
            return None if self.flow.read_paused else "body"
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        return "head" if self.timeout_keep_alive_task is None else None

    def give_up(self) -> None:
        """The client had its time; it is told so if it said something and nothing was said to it."""
        if not self.transport.is_closing() and self._may_be_told():
            self.transport.write(TOO_SLOW)
        self.transport.close()

    def _may_be_told(self) -> bool:
        return self._stage == "head" or (self._stage == "body" and not self.cycle.response_started)

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer; too many of them without the end of a head, or between bodies, end the connection."""
        self._unread += len(data)
        super().data_received(data)
        while self._offer_ends is not None:
            data, self._offer_ends = self._without_offer() + data[self._offer_ends :], None
            super().data_received(data)
        if self._unread <= LONGEST_HEAD or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(HEAD_TOO_LARGE)
        self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._unread, self._stage, self.since = 0, "head", None
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A body may follow, which the application bounds, and the framing of its chunks."""
        if self.parser.should_upgrade() and self._is_offer():
            return
        self._unread, self._stage, self.since = -CHUNK_FRAMING, "body", None
        super().on_headers_complete()
        self.headers = []  # trailers come here, where nobody looks

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self._unread -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next bytes begin a head again."""
        if self._stage == "head":
            return  # an offer, whose head comes once more
        self._unread, self._stage, self.since = 0, "whole", None
        super().on_message_complete()

    def _is_offer(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        """Where uvicorn hears of an offer, right behind its head."""
        error = sys.exception()
        if self._is_offer() and error is not None:
            self._offer_ends = error.args[0]

    def _without_offer(self) -> bytes:
        """The head that was just read as it would be without the offer; a new parser is ready for it."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            told = _without(OF_UPGRADES, value) if name == b"connection" else value
            if name not in OF_UPGRADES and (told or name != b"connection"):
                lines.append(name + b": " + told)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join([*lines, b"", b""])


def _without(unwanted: set[bytes], value: bytes) -> bytes:
    options = [one.strip() for one in value.split(b",")]
    return b", ".join(one for one in options if one.lower() not in unwanted)

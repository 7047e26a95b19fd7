"""Servers on loopback that answer as they like and see what was sent to them byte for byte, and calls to them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx

from service.providers.calls import Calls, GuardedTransport, Resolve, resolved

LOOPBACK = "127.0.0.1"
LIMIT = 5.0
"""Seconds that no call of these tests needs, so that none of them fails by it."""
SHORT = 0.3

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Wire:
    """One server. `heads` are the requests that came in, up to their bodies; `hosts` the names that TLS asked for."""

    port: int = 0
    heads: list[str] = field(default_factory=list)
    hosts: list[str | None] = field(default_factory=list)
    connections: int = 0

    def header(self, name: str, number: int = -1) -> list[str]:
        """The values of a header of a request, of the newest one unless told."""
        lines = [line.partition(":") for line in self.heads[number].split("\r\n")[1:]]
        return [value.strip() for found, _, value in lines if found.lower() == name]


def answer(body: bytes = b"{}", status: str = "200 OK", **headers: str) -> bytes:
    """A whole response; a header's underscores stand for dashes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def saying(*parts: bytes, pause: float = 0) -> Answering:
    """Writes the parts one after the other."""

    async def write(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


def endlessly(head: bytes, part: bytes, pause: float = 0) -> Answering:
    """Writes a head, and then the same again and again for as long as somebody listens."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


@asynccontextmanager
async def listening(
    answering: Answering,
    *,
    port: int = 0,
    context: ssl.SSLContext | None = None,
    stays: bool = False,
    host: str = LOOPBACK,
) -> AsyncIterator[Wire]:
    """A server that gives every request the same answer; then it closes, or `stays` for more on the connection."""
    wire, tasks = Wire(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                wire.heads.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
                await answering(writer)
                if not stays:
                    break
        writer.close()

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    if context is not None:
        context.sni_callback = lambda _, name, __: wire.hosts.append(name)
    server = await asyncio.start_server(take, host, port, ssl=context)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def leading_to(*addresses: str) -> Resolve:
    """A name server that knows one answer."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


@asynccontextmanager
async def calling(
    resolve: Resolve = resolved, *, is_private: bool = True, seconds: float = LIMIT
) -> AsyncIterator[Calls]:
    """What a provider is called through, by a name server of the test."""
    calls = Calls.to(seconds, is_private=is_private, transport=GuardedTransport(is_private=is_private, resolve=resolve))
    yield calls
    await calls.close()


async def get(calls: Calls, url: str) -> httpx.Response:
    """A call as the OAuth client makes it: without a look at the URL."""
    async with calls.bounded():
        return await calls.client.get(url)

"""What stands between a worker and its stores, so that a test can cut the way to one of them at the worst moment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from sqlalchemy import make_url

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Passes on what a worker and a server say. Once it is cut, nobody comes through until it is mended.

    `tripwire` is what a worker says at the moment at which `when_tripped` shall happen; it is passed on after that.
    """

    def __init__(self, server: Path | tuple[str, int]) -> None:
        self._server = server
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.tripwire = b""
        self.when_tripped: Callable[[], Awaitable[None]] = self.cut_now

    async def cut_now(self) -> None:
        """For somebody else's tripwire."""
        self.cut()

    def cut(self) -> None:
        """As when the server dies."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """As when it is there again."""
        self._is_cut, self.tripwire = False, b""

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator["Relay"]:
        """Takes connections at a Unix socket."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._connected(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        listening = await asyncio.start_unix_server(accept, path)
        try:
            yield self
        finally:
            self.cut()
            listening.close()
            await asyncio.gather(*self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        answers, requests = await self._reach()
        self._writers |= {writer, requests}
        await asyncio.gather(self._pass_on(reader, requests, is_request=True), self._pass_on(answers, writer))
        self._writers -= {writer, requests}

    async def _reach(self) -> Streams:
        if isinstance(self._server, Path):
            return await asyncio.open_unix_connection(self._server)
        return await asyncio.open_connection(*self._server)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool = False
    ) -> None:
        try:
            while data := await reader.read(65536):
                if is_request and self.tripwire and self.tripwire in data:
                    await self.when_tripped()
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def before_postgres(url: str, folder: Path) -> AsyncIterator[tuple[Relay, str]]:
    """A relay, and the database's URL through it."""
    told = make_url(url)
    host, port = told.query.get("host", told.host), int(str(told.query.get("port", told.port or 5432)))
    assert isinstance(host, str)
    server = Path(host) / f".s.PGSQL.{port}" if host.startswith("/") else (host, port)
    through = told.set(host=None, port=None, query={**told.query, "host": str(folder), "port": "5432"})
    async with Relay(server).listening(folder / ".s.PGSQL.5432") as relay:
        yield relay, through.render_as_string(hide_password=False)


@asynccontextmanager
async def before_redis(url: str, folder: Path) -> AsyncIterator[tuple[Relay, str]]:
    """A relay, and the store's URL through it."""
    parts = urlsplit(url)
    server = Path(parts.path) if parts.scheme == "unix" else (parts.hostname or "", parts.port or 6379)
    number = parts.query.removeprefix("db=") if parts.scheme == "unix" else parts.path.strip("/")
    async with Relay(server).listening(folder / "redis") as relay:
        yield relay, f"unix://{folder / 'redis'}?db={number or 0}"


class Tripping(httpx.AsyncBaseTransport):
    """The way to a provider. The way through `relay`, if there is one, is cut once the provider has said who it is."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.relay: Relay | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        if self.relay and request.url.path in {"/openid/token", "/discord/api/v10/users/@me"}:
            self.relay.cut()
        return answer

"""The load generator where wrk is missing: the same arguments as `replay.lua`, the same line at the end.

It is slower than wrk, and takes more of the machine: ratios come out lower, never higher.
"""

import asyncio
import re
import sys
import time
from collections import deque
from pathlib import Path

import msgspec
import uvloop

from deploy.bench.load import Answers

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
REFRESH_TOKEN = re.compile(rb"vrt_[\w-]+", re.ASCII)


class Source:
    """The requests of a file, in one of the orders of `load.py`."""

    def __init__(self, requests: list[bytes], order: str) -> None:
        self._waiting = deque(requests)
        self._first = requests[0]
        self._order = order
        self._left = len(requests)
        self.repeated = 0

    def next(self) -> bytes:
        """The next one to send."""
        if self._order == "chain":
            if not self._waiting:
                self.repeated += 1
                return self._first
            return self._waiting.popleft()
        self._left -= 1
        self.repeated += self._order == "once" and self._left < 0
        request = self._waiting[0]
        self._waiting.rotate(-1)
        return request

    def heard(self, answer: bytes) -> bool:
        """Takes the successor out of an answer, in a chain; whether there was one."""
        found = REFRESH_TOKEN.search(answer) if self._order == "chain" else None
        if found:
            self._waiting.append(REFRESH_TOKEN.sub(found[0], self._first, count=1))
        return bool(found) or self._order != "chain"


class Connection(asyncio.Protocol):
    """One connection: a request, its whole answer, the next request."""

    def __init__(self, source: Source, expect: bytes, pause: float) -> None:
        self._source, self._expect, self._pause = source, expect, pause
        self._seen = b""
        self._sent_at = 0.0
        self.times: list[float] = []
        self.bytes = self.failed = self.wrong = 0
        self.ends = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        self._seen += data
        self.bytes += len(data)
        head, end, body = self._seen.partition(b"\r\n\r\n")
        length = LENGTH.search(head + b"\r\n")
        if not end or (length and len(body) < int(length[1])):
            return
        self.times.append(time.perf_counter() - self._sent_at)
        is_good = head.startswith(b"HTTP/1.1 2")
        self.failed += not is_good
        self.wrong += is_good and (self._expect not in body or not self._source.heard(body))
        self._seen = b""
        if self._pause:
            asyncio.get_running_loop().call_later(self._pause, self._send)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Before the end of the load this is a failure."""
        self.failed += not self.ends

    def close(self) -> None:
        """Lets go, whatever is under way."""
        self.ends = True
        self._transport.close()

    def _send(self) -> None:
        if not self.ends and not self._transport.is_closing():
            self._sent_at = time.perf_counter()
            self._transport.write(self._source.next())  # type: ignore[attr-defined]


async def put_on(
    port: int, connections: int, seconds: float, *, source: Source, expect: bytes, pause: float
) -> Answers:
    """Puts the load on and counts."""
    loop, lines = asyncio.get_running_loop(), [Connection(source, expect, pause) for _ in range(connections)]
    began = time.perf_counter()
    for line in lines:
        await loop.create_connection(lambda line=line: line, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    for line in lines:
        line.close()
    times = sorted(one * 1000 for line in lines for one in line.times) or [0.0]
    return Answers(
        requests=sum(len(line.times) for line in lines),
        seconds=took,
        bytes=sum(line.bytes for line in lines),
        p50=times[len(times) // 2],
        p99=times[len(times) * 99 // 100],
        failed=sum(line.failed for line in lines),
        wrong=sum(line.wrong for line in lines),
        repeated=source.repeated,
    )


def read(file: Path) -> list[bytes]:
    """The requests of a file."""
    requests = []
    with file.open("rb") as opened:
        while size := opened.readline():
            requests.append(opened.read(int(size)))
    return requests


def main(arguments: list[str]) -> None:
    """Prints what came back, as JSON."""
    port, connections, seconds, file, order, expect, pause = arguments
    source, wanted, waits = Source(read(Path(file)), order), expect.encode(), int(pause) / 1000
    load = put_on(int(port), int(connections), float(seconds), source=source, expect=wanted, pause=waits)
    sys.stdout.write(msgspec.json.encode(uvloop.run(load)).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

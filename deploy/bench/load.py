"""Load from one machine: raw requests from a file, sent by wrk where it is, else by `loader.py`; one shape of answer.

The file holds each request as its length in bytes, a line feed, and the request itself.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

PROJECT = Path(__file__).parents[2]
CONNECTIONS = 64
SCRIPT = Path(__file__).with_name("replay.lua")
SLACK = 30.0
"""Seconds that a generator may need beside its load."""
SAME_SIZE = 0.05
"""How far the mean size of an answer may be from that of the checked ones."""

Order = Literal["cycle", "once", "chain"]


class BenchError(Exception):
    """Something that makes the figures worthless; the text is for whoever runs it."""


@dataclass(frozen=True)
class Load:
    """Requests to a port of loopback.

    `cycle` sends them again and again; `once` counts what had to be repeated; in a `chain` each request holds a refresh
    token, and its answer the next one. `pause` is milliseconds between an answer and the connection's next request,
    `expect` what every right answer contains.
    """

    port: int
    requests: Path
    expect: str
    order: Order = "cycle"
    connections: int = CONNECTIONS
    pause: int = 0


class Answers(msgspec.Struct, frozen=True):
    """What came back: `failed` were no 2xx or none at all, `wrong` were 2xx that said something else, which only a
    checking run looks at; `repeated` were sent before. Times are milliseconds, `seconds` is how long it took."""

    requests: int
    seconds: float
    bytes: int
    p50: float
    p99: float
    failed: int
    wrong: int
    repeated: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def size(self) -> float:
        """Bytes of an answer, in the mean."""
        return self.bytes / max(self.requests, 1)


def post(path: str, body: bytes, media_type: str, *headers: str) -> bytes:
    """A whole request with a body."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {media_type}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def get(path: str) -> bytes:
    """A whole request without one."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def write(file: Path, requests: Iterable[bytes]) -> Path:
    """Writes the file of a load."""
    with file.open("wb") as out:
        for request in requests:
            out.write(b"%d\n%s" % (len(request), request))
    return file


def run(load: Load, seconds: float, *, check: bool = False) -> Answers:
    """Puts the load on for so long, and raises `BenchError` when an answer was not right or a request went out twice.

    `check` reads every body, which costs the generator time: what it measures is not to be used.
    """
    return finished(start(load, seconds, check=check), seconds)


def finished(generator: "subprocess.Popen[str]", seconds: float) -> Answers:
    """What a load that was begun for so long has brought. Raises `BenchError` as `run` does."""
    with generator:
        try:
            out, err = generator.communicate(timeout=seconds + SLACK)
        except subprocess.TimeoutExpired:
            generator.kill()
            raise BenchError("the load generator hangs") from None
    if generator.returncode != 0:
        raise BenchError(f"the load generator failed: {err.strip() or out.strip()}")
    answers = msgspec.json.decode(out.splitlines()[-1], type=Answers)
    if answers.failed or answers.wrong or answers.repeated or not answers.requests:
        raise BenchError(f"not what was asked for: {answers}")
    return answers


def start(load: Load, seconds: float, *, check: bool = False) -> "subprocess.Popen[str]":
    """Begins to put the load on, in a process of its own that prints its answers as JSON at the end."""
    wrk = shutil.which("wrk")
    shared = [str(load.requests), load.order, load.expect if check else "", str(load.pause)]
    if wrk is not None and seconds >= 1:  # it knows whole seconds alone
        whole = round(seconds)
        command = [wrk, "-t1", f"-c{load.connections}", f"-d{whole}s", "--timeout", "10s", "-s", str(SCRIPT)]
        command += [f"http://127.0.0.1:{load.port}", "--", *shared]
    else:
        command = [sys.executable, "-m", "deploy.bench.loader", str(load.port), str(load.connections), str(seconds)]
        command += shared
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def same_kind(answers: Answers, checked: Answers) -> bool:
    """Whether the answers are of the size of those that were read: a refusal is much shorter."""
    return abs(answers.size - checked.size) <= SAME_SIZE * checked.size

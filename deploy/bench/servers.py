"""The processes of a run: both stores, the service as operators start it, and the yardstick beside it."""

import base64
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from deploy.bench.load import PROJECT, BenchError
from service.embedded.servers import EmbeddedServers

LONGEST_START = 60.0
LONGEST_STOP = 30.0
UNLIMITED = (
    *("REGISTER_NETWORK", "GUESS_NETWORK", "GUESS_ACCOUNT", "GUESS_ACCOUNT_NETWORK", "MAIL_NETWORK"),
    *("CHANGE_ACCOUNT", "MAIL_ADDRESS", "MAIL_ADDRESS_NETWORK", "CLIENT_SECRET", "CLIENT_NETWORK", "TOKEN_CLIENT"),
)
"""Limits that one network with a load generator would meet."""
PATIENT = ("REDIS_TIMEOUT", "DATABASE_TIMEOUT", "DATABASE_POOL_WAIT")
"""A busy machine must not look like an outage."""


@dataclass(frozen=True)
class Program:
    """A server under load: where it listens, and the process with its children."""

    port: int
    started: "subprocess.Popen[bytes]"
    log: Path
    probe: tuple[str, str]
    """The request that it answers once it is ready."""

    def wait(self) -> None:
        """Returns when it is ready. Raises `BenchError` when it ended before."""
        until = time.monotonic() + LONGEST_START
        while time.monotonic() < until and self.started.poll() is None:
            if self._answers():
                return
            time.sleep(0.05)
        raise BenchError(f"a server did not start:\n{self.log.read_text()}")

    def cpu_seconds(self) -> float:
        """What all its processes have used since they began."""
        times = [one.cpu_times() for one in self._all()]
        return sum(one.user + one.system for one in times)

    def worker_mib(self) -> float:
        """The resident memory of its largest process."""
        return max(float(one.memory_info().rss) for one in self._all()) / 2**20

    def _all(self) -> list[psutil.Process]:
        first = psutil.Process(self.started.pid)
        return [first, *first.children(recursive=True)]

    def _answers(self) -> bool:
        method, path = self.probe
        form = {"token": "x"} if method == "POST" else None
        try:
            return httpx.request(method, f"http://127.0.0.1:{self.port}{path}", data=form).is_success
        except httpx.TransportError:
            return False


@contextmanager
def stores(folder: Path) -> Iterator[dict[str, str]]:
    """The bundled servers, writing to disk as in production; answers the settings of a service on them."""
    with EmbeddedServers(folder / "data") as running:
        yield {
            "DATABASE_URL": running.database_url,
            "REDIS_URL": running.redis_url,
            "VESTIBULE_KEYS": f"1:{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}",
            "VESTIBULE_ISSUER": f"http://127.0.0.1:{free_port()}",
            "VESTIBULE_SMTP_URL": "smtp://127.0.0.1:9",
            "VESTIBULE_MAIL_FROM": "vestibule@example.com",
            "VESTIBULE_DRAIN": "0",
            **{f"VESTIBULE_LIMIT_{name}": "1000000/s" for name in UNLIMITED},
            **{f"VESTIBULE_{name}": "10" for name in PATIENT},
        }


@contextmanager
def service(settings: Mapping[str, str], folder: Path, workers: int = 1) -> Iterator[Program]:
    """`vestibule serve`, on its way."""
    port = free_port()
    arguments = ["service", "serve", "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    with _run(arguments, port, settings, folder / f"service-{workers}.log", ("GET", "/readyz")) as program:
        yield program


@contextmanager
def yardstick(folder: Path) -> Iterator[Program]:
    """R0, on its way."""
    port = free_port()
    with _run(["deploy.bench.yardstick", str(port)], port, {}, folder / "yardstick.log", ("POST", "/")) as program:
        yield program


def free_port() -> int:
    """A port of loopback that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _run(
    module: list[str], port: int, settings: Mapping[str, str], log: Path, probe: tuple[str, str]
) -> Iterator[Program]:
    """Nothing of the caller's own service reaches it."""
    own = ("VESTIBULE_", "DATABASE_URL", "REDIS_URL")
    environ = {**{name: value for name, value in os.environ.items() if not name.startswith(own)}, **settings}
    environ["VESTIBULE_METRICS_PORT"] = str(free_port())
    with log.open("w") as out:
        command = [sys.executable, "-m", *module]
        running = subprocess.Popen(command, cwd=PROJECT, env=environ, stdout=out, stderr=out)
        try:
            yield Program(port, running, log, probe)
        finally:
            running.terminate()
            try:
                running.wait(timeout=LONGEST_STOP)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()

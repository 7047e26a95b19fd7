"""Processes of the service: `vestibule serve`, and its commands."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from deploy.faults.servers import free_port
from service.embedded.processes import bound_to_us

PROJECT = Path(__file__).parents[2]
LONGEST_START = 20.0
LONGEST_END = 15.0
TICK = 0.05


class DidNotStart(Exception):
    """The service ended, or did not answer; the text is the end of what it said."""


@dataclass(slots=True)
class Instance:
    """One `vestibule serve`. `kill` and `start` may follow one another."""

    environ: dict[str, str]
    log: Path
    port: int
    prefix: Sequence[str]
    become: Callable[[], None]
    output: int | None
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> int:
        """Bytes that it holds."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def start(self) -> None:
        """Starts it (again) on the same port, without waiting."""
        self.process = _started(self)

    def await_answer(self, path: str = "/startupz", status: int = 200) -> None:
        """Returns once it answers so. Raises `DidNotStart`."""
        until = time.monotonic() + LONGEST_START
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(self.url + path, timeout=1).status_code == status:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(TICK)
        raise DidNotStart(self.log.read_text(errors="replace").strip()[-300:] or f"no {status} at {path}")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """SIGTERM, and what must follow when it is not heard."""
        self.process.terminate()
        try:
            self.process.wait(LONGEST_END)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def instance(
    environ: Mapping[str, str],
    log: Path,
    *,
    prefix: Sequence[str] = (),
    become: Callable[[], None] = lambda: None,
    output: int | None = None,
    wait: bool = True,
) -> Iterator[Instance]:
    """A service that ends with the block. `prefix` stands before its command, `become` runs before it, `output` is a
    descriptor for its lines in the place of the log."""
    given = {**environ, "VESTIBULE_METRICS_PORT": str(free_port())}
    one = Instance(given, log, free_port(), prefix, become, output, None)  # type: ignore[arg-type]
    one.start()
    try:
        if wait:
            one.await_answer()
        yield one
    finally:
        one.end()


def command(environ: Mapping[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    """One `vestibule` command, to its end."""
    whole = [sys.executable, "-m", "service", *words]
    return subprocess.run(
        whole, cwd=PROJECT, env=dict(environ), capture_output=True, text=True, timeout=60, check=False
    )


def _started(one: Instance) -> "subprocess.Popen[bytes]":
    serve = (sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--port", str(one.port))
    with one.log.open("ab") as log:
        output: Any = log if one.output is None else one.output
        return subprocess.Popen(
            [*one.prefix, *serve],
            cwd=PROJECT,
            env=one.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            preexec_fn=bound_to_us(signal.SIGKILL, one.become),
            close_fds=True,
        )

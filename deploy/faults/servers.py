"""The stores: one Valkey, and what may be done to a server."""

import os
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from service.embedded import packages, processes
from service.embedded.folders import ours
from service.embedded.processes import Child

PERSISTENT = {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
FORGETFUL = {"appendonly": "no", "save": ""}
ALWAYS = {"bind": "127.0.0.1", "maxmemory-policy": "noeviction", "loglevel": "notice", "enable-debug-command": "yes"}
PORTS, PORT_TRIES = range(20_000, 30_000), 100
"""Below those that Linux gives to clients."""
LONGEST_KILL = 10.0
"""Seconds until the kernel has taken everything away."""


def free_port() -> int:
    """A port nobody listens on, and none that a client is given while its server is away. Raises `OSError`."""
    for _ in range(PORT_TRIES):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", secrets.choice(PORTS)))
            return int(free.getsockname()[1])
    raise OSError("no port is free")


class Valkey:
    """A Valkey on a port of loopback, with its data in a folder of its own."""

    def __init__(
        self, folder: Path, options: Mapping[str, str] = PERSISTENT, preload: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.port = folder, free_port()
        self._options, self._preload = {**ALWAYS, **options}, preload or {}
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """What the service connects to."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self.child is not None
        return self.child.process.pid

    def start(self, **options: str) -> "Valkey":
        """Starts it on its data, with options for this run, and waits until these are loaded."""
        ours(self.folder)
        given = {"port": str(self.port), "dir": str(self.folder), **self._options, **options}
        words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
        environ = [f"{name}={value}" for name, value in self._preload.items()]
        self._run([*(["/usr/bin/env", *environ] if environ else []), str(packages.valkey_program()), *words])
        return self

    def start_sentinel(self, file: Path) -> None:
        """Starts it as a sentinel, which writes what it learns into its file."""
        where = ("--port", str(self.port), "--bind", "127.0.0.1", "--sentinel")
        self._run([str(packages.valkey_program()), str(file), *where])

    def stop(self) -> None:
        """Ends it in order; its data stay."""
        if self.child is not None and self.child.is_running():
            self.child.stop()

    def kill(self) -> None:
        """kill -9."""
        assert self.child is not None
        kill(self.child)

    def forget(self) -> None:
        """Throws the data of a stopped server away."""
        shutil.rmtree(self.folder)

    def line(self) -> Redis:
        """A plain connection; close it."""
        return Redis(port=self.port, socket_timeout=5)

    def say(self, *words: object) -> Any:
        """One command and its answer."""
        with closing(self.line()) as line:
            return line.execute_command(*words)  # type: ignore[no-untyped-call]

    def answers(self) -> bool:
        """Whether it takes commands now."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
            line.sendall(b"PING\r\n")
            return line.recv(5) == b"+PONG"
        return False

    def _run(self, command: list[str]) -> None:
        log = self.folder.with_suffix(".log")
        self.child = processes.start("Valkey", command, log, signal.SIGTERM, become=lambda: None)
        self.child.await_answer(self.answers)


def family(child: Child) -> list[psutil.Process]:
    """A server and its workers, the parent first, so that it makes no more while they are stopped."""
    parent = psutil.Process(child.process.pid)
    return [parent, *parent.children(recursive=True)]


@contextmanager
def stopped(child: Child | None) -> Iterator[None]:
    """SIGSTOP: connections stay open, connecting works, nothing is answered."""
    assert child is not None
    everybody = family(child)
    _send(everybody, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(everybody, signal.SIGCONT)


def kill(child: Child) -> None:
    """kill -9, and everything below it is gone."""
    everybody = family(child)
    child.process.kill()
    child.process.wait()
    psutil.wait_procs(everybody, timeout=LONGEST_KILL)


def is_root() -> bool:
    """Whether mounting may work."""
    return os.geteuid() == 0


def _send(everybody: list[psutil.Process], sent: signal.Signals) -> None:
    for one in everybody:
        with suppress(psutil.NoSuchProcess):  # workers of PostgreSQL come and go
            one.send_signal(sent)

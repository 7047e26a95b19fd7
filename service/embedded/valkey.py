"""Valkey 9 on a socket, writing every change to its append-only file."""

import signal
import socket
from contextlib import suppress
from pathlib import Path

from service.embedded import packages, processes
from service.embedded.folders import ours


def start(home: Path, sockets: Path, *, durable: bool) -> processes.Child:
    """Starts the server on `home/valkey` and waits until its data are loaded.

    `durable=False` keeps everything in memory only: for tests. Raises EmbeddedError.
    """
    program = packages.valkey_program()
    data = ours(home / "valkey")
    pid_file = data / "valkey.pid"
    # A second Valkey on the same folder would start happily and both would write the same file.
    processes.stop_leftover(pid_file, data, signal.SIGTERM)
    options: dict[str, str | Path] = {
        "port": "0",
        "unixsocket": sockets / "valkey",
        "unixsocketperm": "700",
        "dir": data,
        "pidfile": pid_file,
        "set-proc-title": "no",  # `stop_leftover` looks for the folder
        "appendonly": "yes" if durable else "no",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    command = (program, *(word for name, value in options.items() for word in (f"--{name}", value)))
    child = processes.start("Valkey", command, home / "valkey.log", signal.SIGTERM, become=lambda: None)
    child.await_answer(lambda: answers(sockets))
    return child


def url(sockets: Path) -> str:
    """What redis-py connects to."""
    return f"unix://{sockets / 'valkey'}?db=0"


def answers(sockets: Path) -> bool:
    """Whether commands are taken now: while the file is read, PING is refused with LOADING."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(1)
        line.connect(str(sockets / "valkey"))
        line.sendall(b"PING\r\n")
        return line.recv(5) == b"+PONG"
    return False

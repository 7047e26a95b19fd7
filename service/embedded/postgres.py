"""PostgreSQL 18 on a socket, with its data in a folder that a crash at any moment leaves usable."""

import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from service.embedded import packages, processes
from service.embedded.errors import EmbeddedError
from service.embedded.placement import Placement, place

_FAST = signal.SIGINT  # PostgreSQL's "fast" shutdown: ends sessions, writes everything, leaves
_SETTINGS = (
    "--listen_addresses=",
    "--unix_socket_permissions=0700",
    "--max_connections=200",
    "--timezone=UTC",
    "--log_timezone=UTC",
)
_HURRIED = ("--fsync=off", "--synchronous_commit=off", "--full_page_writes=off")
_INITDB = (
    "--username=postgres",
    "--auth=trust",  # the folder of the socket is the door
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)
_STARTUP = b"user\0postgres\0database\0postgres\0\0"
_PROTOCOL_3 = 196608
_AUTHENTICATION = b"R"  # the first byte of the answer once the server takes sessions; "E" while it starts
_GOODBYE = b"X\0\0\0\x04"


def start(home: Path, sockets: Path, *, durable: bool) -> processes.Child:
    """Starts the server on `home`, as whoever it must be, and waits until it takes sessions.

    `durable=False` trades crash safety for speed: for tests. Raises EmbeddedError.
    """
    placement = place(home, packages.postgres_programs())
    data = placement.home / "postgres"
    placement.identity.open_to(placement.home)
    if not data.exists():
        _create(data, placement, durable)
    processes.stop_leftover(data / "postmaster.pid", data, _FAST)
    placement.identity.take_over(data)
    where = ("-D", data, "-k", _socket_folder(sockets, placement), "-p", "5432")
    command = (placement.programs / "postgres", *where, *_SETTINGS, *(() if durable else _HURRIED))
    child = processes.start("PostgreSQL", command, home / "postgres.log", _FAST, placement.identity.become)
    child.await_answer(lambda: answers(sockets))
    return child


def url(sockets: Path) -> str:
    """What SQLAlchemy connects to; no password, the folder of the socket is the door."""
    return f"postgresql+asyncpg://postgres@/postgres?host={sockets / 'pg'}&port=5432"


def answers(sockets: Path) -> bool:
    """Whether a session can begin now: opens one as far as the server's first byte."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(1)
        line.connect(str(sockets / "pg" / ".s.PGSQL.5432"))
        line.sendall(struct.pack("!ii", 8 + len(_STARTUP), _PROTOCOL_3) + _STARTUP)
        answer = line.recv(4096)  # all of it: closing on unread bytes resets the line, which the server logs
        line.sendall(_GOODBYE)
        return answer.startswith(_AUTHENTICATION)
    return False


def _create(data: Path, placement: Placement, durable: bool) -> None:
    """Fills a draft and renames it: a half-made database never gets the real name."""
    for abandoned in data.parent.glob("postgres.draft-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix="postgres.draft-", dir=data.parent))
    placement.identity.take_over(draft)
    command = [placement.programs / "initdb", "-D", draft, *_INITDB, *(() if durable else ("--no-sync",))]
    made = subprocess.run(  # noqa: S603 - our own binary, no outside words
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env=processes.ENVIRONMENT,
        timeout=120,
        check=False,
        process_group=0,
        preexec_fn=processes.bound_to_us(signal.SIGKILL, placement.identity.become),
    )
    if made.returncode:
        raise EmbeddedError(f"initdb could not make a database in {data.parent}:\n{made.stdout[-1000:]}")
    draft.rename(data)


def _socket_folder(sockets: Path, placement: Placement) -> Path:
    """An empty one: PostgreSQL would believe a recycled process id in the lock file of a dead socket."""
    placement.identity.open_to(sockets)
    folder = sockets / "pg"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    placement.identity.take_over(folder)
    return folder

"""Children that end with us, whatever ends us, and the leftovers of runs where even that failed."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.embedded.errors import EmbeddedError

# Children get none of our environment: PGPORT, PGOPTIONS or LC_ALL of the shell would bend the servers.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
_PR_SET_PDEATHSIG = 1
_TICK = 0.01  # seconds
_START_LIMIT = 60.0  # seconds; PostgreSQL replays its log after a crash before it answers
_STOP_LIMIT = 10.0  # seconds given to each signal of an escalation


@dataclass(frozen=True, slots=True)
class Child:
    """One server in the foreground of its own process group: Ctrl-C in the terminal reaches only us."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    farewell: signal.Signals

    def is_running(self) -> bool:
        return self.process.poll() is None

    def await_answer(self, answers: Callable[[], bool]) -> None:
        """Returns once `answers` does. Raises EmbeddedError, with the end of the log, if it never will."""
        try:
            self._await(answers)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Asks, then insists. An interrupt (a second Ctrl-C) skips the waiting, never the ending."""
        try:
            self.process.send_signal(self.farewell)
            self.process.wait(_STOP_LIMIT)
        except BaseException as interrupt:
            self._insist()
            if not isinstance(interrupt, subprocess.TimeoutExpired):
                raise

    def _await(self, answers: Callable[[], bool]) -> None:
        for _ in ticks(_START_LIMIT):
            if answers():
                return
            if not self.is_running():
                break
        raise EmbeddedError(f"{self.name} did not start; {self.log} says:\n{_tail(self.log)}")

    def _insist(self) -> None:
        self.process.send_signal(signal.SIGQUIT)  # PostgreSQL: at once, and repair at the next start
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_LIMIT)
        self.process.kill()
        self.process.wait()


def start(
    name: str, command: Sequence[str | Path], log: Path, farewell: signal.Signals, become: Callable[[], None]
) -> Child:
    """Starts a server with its output in `log`; the log of the run before stays as `*.old`.

    Call from the main thread: the kernel's parent-death signal follows the thread that forked.
    """
    if log.exists():
        log.replace(log.with_suffix(".old"))
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own binaries, no shell, no outside words
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=ENVIRONMENT,
            process_group=0,
            preexec_fn=bound_to_us(farewell, become),  # noqa: PLW1509  nothing else runs yet
        )
    return Child(name, process, log, farewell)


def bound_to_us(farewell: signal.Signals, become: Callable[[], None]) -> Callable[[], None]:
    """What a child does between fork and exec: take its identity, then ask to get `farewell` when we die.

    In this order, because the kernel forgets the request when a process changes its credentials. macOS has no
    such request: there a kill -9 leaves servers behind, and `stop_leftover` ends them at the next start.
    """
    linux = sys.platform == "linux"
    prctl = ctypes.CDLL(None).prctl if linux else None
    parent = os.getpid()

    def prepare() -> None:
        become()
        for inherited in (signal.SIGINT, signal.SIGTERM):  # a shell's `&` and `nohup` have some ignored
            signal.signal(inherited, signal.SIG_DFL)
        if prctl is None:
            return
        prctl(_PR_SET_PDEATHSIG, farewell, 0, 0, 0)
        if os.getppid() != parent:  # we were killed before the request was made
            os._exit(1)

    return prepare


def stop_leftover(pid_file: Path, folder: Path, farewell: signal.Signals) -> None:
    """Ends the server that a killed run left on `folder`, if the process in `pid_file` is really that one.

    A recycled process id is recognised by its command line and left alone; its pid file goes, because
    PostgreSQL would believe it. The file of a dead process stays: it leads PostgreSQL to old shared memory.
    Raises EmbeddedError if the leftover survives everything.
    """
    pid = _first_number(pid_file)
    if pid is None or (command := _command_line(pid)) is None:
        return
    if not _mentions(command, folder):
        pid_file.unlink(missing_ok=True)
        return
    if any(_ends(pid, folder, sent) for sent in (farewell, signal.SIGQUIT, signal.SIGKILL)):
        return
    raise EmbeddedError(f"process {pid} of an earlier run still uses {folder} and cannot be stopped")


def ticks(limit: float) -> Iterator[None]:
    """Beats every 10 ms for `limit` seconds, the first at once."""
    deadline = time.monotonic() + limit
    while True:
        yield
        if time.monotonic() > deadline:
            return
        time.sleep(_TICK)


def _tail(log: Path) -> str:
    """The last ten lines of a log, or of what there is."""
    with suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    return "(no log)"


def _first_number(pid_file: Path) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        return int(pid_file.read_text().split()[0])
    return None


def _ends(pid: int, folder: Path, sent: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, sent)
    return any(not _mentions(_command_line(pid), folder) for _ in ticks(_STOP_LIMIT))


def _mentions(command: str | None, folder: Path) -> bool:
    return f" {folder} " in f"{command} "


def _command_line(pid: int) -> str | None:
    """How a process was called, "" for a zombie, None if there is no such process."""
    if sys.platform == "linux":
        with suppress(OSError):
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).replace("\0", " ")
        return None
    found = subprocess.run(  # noqa: S603 - a number is all that varies
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else None

"""PostgreSQL and Valkey of one data folder: owned by the first run on it, shared by the others."""

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError
from types import FrameType, TracebackType

from service.embedded import postgres, valkey
from service.embedded.errors import EmbeddedError
from service.embedded.folders import ours, sockets_of
from service.embedded.processes import ticks

_TURN_LIMIT = 90.0  # seconds to wait for a run that is just starting or stopping the servers
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Running:
    """Where the servers are. `alive()` is False once they, or the run that owns them, are gone."""

    database_url: str
    redis_url: str
    owner: bool
    alive: Callable[[], bool]


class EmbeddedServers(AbstractContextManager[Running]):
    """Runs both servers for the length of a `with` block; use it from the main thread.

    `durable=False` is for tests: quick, keeps Valkey in memory only, and PostgreSQL's data survive a crash of
    ours but not one of the machine. SIGTERM and SIGHUP, where the program left them alone, leave the block as
    Ctrl-C does. Raises EmbeddedError.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._folder = folder.absolute()
        self._durable = durable
        self._undo = ExitStack()

    def __enter__(self) -> Running:
        with ExitStack() as undo:
            try:
                running = self._enter(undo)
            except (OSError, SubprocessError) as error:
                raise EmbeddedError(f"cannot run the embedded servers in {self._folder}: {error}") from error
            self._undo = undo.pop_all()
        return running

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _enter(self, undo: ExitStack) -> Running:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._folder = self._folder.resolve()
        ours(self._folder)
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, lock)
        for _ in ticks(_TURN_LIMIT):
            if _locks(lock, fcntl.LOCK_EX):  # the kernel frees it with its holder, kill -9 included
                return self._own(undo)
            if (shared := self._share(lock)) is not None:
                return shared
        raise EmbeddedError(f"another run holds {self._folder} but its servers do not answer")

    def _own(self, undo: ExitStack) -> Running:
        undo.enter_context(_endings_unwind())
        self._notice.unlink(missing_ok=True)
        sockets = ours(sockets_of(self._folder))
        undo.callback(shutil.rmtree, sockets, ignore_errors=True)
        database = postgres.start(self._folder, sockets, durable=self._durable)
        undo.callback(database.stop)
        redis = valkey.start(self._folder, sockets, durable=self._durable)
        undo.callback(redis.stop)
        running = Running(
            database_url=postgres.url(sockets),
            redis_url=valkey.url(sockets),
            owner=True,
            alive=lambda: database.is_running() and redis.is_running(),
        )
        undo.callback(self._notice.unlink, missing_ok=True)
        self._announce(running.database_url, running.redis_url)
        return running

    def _share(self, lock: int) -> Running | None:
        """The servers of the run that holds the lock, once they answer; None while they do not."""
        notice = self._announced()
        sockets = sockets_of(self._folder)
        if notice is None or not (postgres.answers(sockets) and valkey.answers(sockets)):
            return None
        running = Running(
            database_url=str(notice["database_url"]),
            redis_url=str(notice["redis_url"]),
            owner=False,
            alive=lambda: self._announced() == notice and _is_held(lock),
        )
        return running if running.alive() else None

    @property
    def _notice(self) -> Path:
        return self._folder / "servers.json"

    def _announced(self) -> dict[str, object] | None:
        with suppress(OSError, ValueError):
            notice: dict[str, object] = json.loads(self._notice.read_text())
            return notice
        return None

    def _announce(self, database_url: str, redis_url: str) -> None:
        draft = self._notice.with_suffix(".draft")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"pid": os.getpid(), "database_url": database_url, "redis_url": redis_url}, file)
        draft.replace(self._notice)


def _locks(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(lock: int) -> bool:
    """Whether an owner holds the lock. Asks for a shared one, so that two who look do not see each other."""
    if not _locks(lock, fcntl.LOCK_SH):
        return True
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False


@contextmanager
def _endings_unwind() -> Iterator[None]:
    """Turns the signals that would end Python on the spot into SystemExit, where nobody else handles them."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    left_alone = [one for one in _ENDINGS if signal.getsignal(one) is signal.SIG_DFL]
    for one in left_alone:
        signal.signal(one, leave)
    try:
        yield
    finally:
        for one in left_alone:
            signal.signal(one, signal.SIG_DFL)

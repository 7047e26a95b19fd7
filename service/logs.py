"""Logs: one JSON object per line in production, readable lines in development, and never a secret in either."""

import atexit
import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import MutableMapping
from typing import IO, Any

import msgspec
import structlog
from structlog.typing import Processor

from service import metrics

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
MOST_WAITING = 20_000
PAUSE = 0.05
PAUSE_AFTER_FAILURE = 1.0
CLOSING_TIME = 2.0


class Sink:
    """A stream behind a thread: whoever collects the log may stop reading, and requests go on.

    Lines that find the queue full are dropped and counted.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._waiting: deque[str] = deque()
        threading.Thread(target=self._write_on, name="log", daemon=True).start()
        atexit.register(self.settle)

    def write(self, text: str) -> None:
        """Takes a line, whose end it has."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(text)
        else:
            metrics.log_lines_dropped.inc()

    def flush(self) -> None:
        """For handlers of the standard library, which ask for it after every line."""

    def settle(self) -> None:
        """Waits until everything is written, for two seconds at most."""
        end = time.monotonic() + CLOSING_TIME
        while self._waiting and time.monotonic() < end:
            time.sleep(PAUSE / 5)

    def _write_on(self) -> None:
        while True:
            if self._waiting:
                lines = list(self._waiting)
                try:
                    self._stream.write("".join(lines))
                    self._stream.flush()
                except (OSError, ValueError):  # a full disk, a reader that went away: perhaps for a while
                    time.sleep(PAUSE_AFTER_FAILURE)
                    continue
                for _ in lines:
                    self._waiting.popleft()
            time.sleep(PAUSE)


class Line:
    """Where structlog's lines of one name go."""

    def __init__(self, name: str, stream: IO[str] | Sink) -> None:
        self.name = name
        self._stream = stream

    def msg(self, text: str) -> None:
        """Writes one."""
        self._stream.write(text + "\n")
        self._stream.flush()

    debug = info = warning = error = critical = exception = msg


def configure(*, readable: bool, level: str = "info") -> None:
    """Sends every log line of ours and of the libraries to standard output; call once, before anything logs."""
    stream = sys.stdout if readable else Sink(sys.stdout)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _without_nothing,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering = _for_people() if readable else _for_machines()
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda name="vestibule": Line(name, stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    tail: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=tail, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def _for_people() -> list[Processor]:
    return [
        structlog.dev.ConsoleRenderer(
            # The richer kind of exception shows local variables, and with them passwords.
            pad_event_to=0,
            colors=sys.stdout.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]


def _for_machines() -> list[Processor]:
    return [structlog.processors.format_exc_info, _as_json]


def _as_json(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except (UnicodeEncodeError, TypeError, OverflowError):
        return json.dumps(event, default=repr)


def _without_nothing(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What is not there needs no words."""
    for name in [name for name, value in event.items() if value is None or value == ""]:
        del event[name]
    return event

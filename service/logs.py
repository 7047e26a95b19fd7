"""Logs: one JSON object per line in production, readable lines in development, and never a secret in either."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(*, readable: bool, level: str = "info") -> None:
    """Sends every log line of ours and of the libraries to standard output; call once, before anything logs."""
    colors = sys.stdout.isatty()
    console = structlog.dev.ConsoleRenderer(
        # The richer kind shows local variables, and with them passwords.
        pad_event_to=0,
        colors=colors,
        exception_formatter=structlog.dev.plain_traceback,
    )
    renderer = console if readable else structlog.processors.JSONRenderer()
    shared: list[Processor] = [
        _without_nothing,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    tail: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not readable:
        tail.append(structlog.processors.format_exc_info)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[*tail, renderer], foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vestibule").setLevel(LEVELS[level])


def _without_nothing(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What is not there needs no words."""
    for name in [name for name, value in event.items() if value is None or value == ""]:
        del event[name]
    return event

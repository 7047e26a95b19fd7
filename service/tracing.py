"""Traces of requests, sent by OTLP to where `OTEL_EXPORTER_OTLP_ENDPOINT` says.

Without that variable nothing of OpenTelemetry is imported and a span costs a look at one variable. With it `spans.py`
does the work. Process-wide, like the log. No span has more to tell than its name, how long it took and how it ended:
never a query, a path with ids, a header, a body or the text of an error.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from service.setting_values import SettingsError

if TYPE_CHECKING:
    from service.spans import RequestSpan, Spans

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CLOSING_TIME = 2.0
"""Seconds that the last spans have to leave when the service stops."""


class _Process:
    """What this process records with, if it does."""

    spans: "Spans | None" = None


class _Nothing:
    """A span that nobody wants."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_NOTHING = _Nothing()


def ensure_installed(environ: Mapping[str, str]) -> None:
    """Raises `SettingsError` if traces are wanted and the extra `otel` is missing."""
    if environ.get(ENDPOINT):
        _recorder()


def start(environ: Mapping[str, str]) -> None:
    """Begins to record if the environment says where to; once per process. Raises `SettingsError`.

    `environ` is the process's own: the SDK reads its other `OTEL_…` variables there by itself.
    """
    if environ.get(ENDPOINT):
        _Process.spans = _recorder()()


def stop() -> None:
    """Sends what is left, for two seconds at most, and records no more. Blocks: call it in a thread."""
    spans, _Process.spans = _Process.spans, None
    if spans is not None:
        spans.close(CLOSING_TIME)


def begin_request(method: str, headers: Iterable[tuple[bytes, bytes]], request_id: bytes) -> "RequestSpan | None":
    """Begins the span of a request, beneath the caller's, and gives the log its `trace_id`."""
    return None if _Process.spans is None else _Process.spans.begin_request(method, headers, request_id)


def end_request(span: "RequestSpan | None", route: str | None, status: int) -> None:
    """Ends it. `route` is the template that was matched, `status` what was answered."""
    if span is not None:
        span.end(route, status)


def span(name: str) -> AbstractContextManager[None]:
    """A part of a request, named after what is called: a new trace is not begun. Names have no ids in them."""
    return _NOTHING if _Process.spans is None else _Process.spans.part(name)


def work(name: str) -> AbstractContextManager[None]:
    """Work in the background that is worth a trace of its own."""
    return _NOTHING if _Process.spans is None else _Process.spans.work(name)


def _recorder() -> "type[Spans]":
    try:
        from service.spans import Spans  # noqa: PLC0415  of the `otel` extra
    except ModuleNotFoundError:
        missing = f"{ENDPOINT} is set, but OpenTelemetry is not installed: pip install 'vestibule[otel]'"
        raise SettingsError(missing) from None
    return Spans

"""Spans by OpenTelemetry. Only `tracing.py` imports this, and only when traces are wanted."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import Token
from dataclasses import dataclass

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bind_contextvars, bound_contextvars

from service import __version__
from service.errors import ServiceError

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
OTHER, UNNAMED = "_OTHER", "HTTP"
"""What the semantic conventions call a method that a client made up, and a span of it."""
UNKNOWN = "unknown_service"
FIRST_SERVER_ERROR = 500

_CALLERS = TraceContextTextMapPropagator()


@dataclass(slots=True)
class RequestSpan:
    """The span of a request that is being answered."""

    span: Span
    name: str
    attached: Token[Context]

    def end(self, route: str | None, status: int) -> None:
        """Says what came of it. A refusal is an answer, not an error."""
        self.span.set_attribute("http.response.status_code", status)
        if route:
            self.span.update_name(f"{self.name} {route}")
            self.span.set_attribute("http.route", route)
        if status >= FIRST_SERVER_ERROR:
            _fail(self.span, str(status))
        context.detach(self.attached)
        self.span.end()


class Spans:
    """Records spans and sends them in batches from a thread of its own; what nobody takes in time is dropped.

    Endpoint, headers, sampler and batches are what the `OTEL_…` variables say.
    """

    def __init__(self) -> None:
        # Nothing is registered for the whole process: other libraries would begin to record by themselves.
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("vestibule", __version__)

    def begin_request(self, method: str, headers: Iterable[tuple[bytes, bytes]], request_id: bytes) -> RequestSpan:
        """See `tracing.begin_request`."""
        known = method if method in METHODS else OTHER
        caller = _caller(headers)
        attributes = {"http.request.method": known, "vestibule.request_id": request_id.decode()}
        name = UNNAMED if known is OTHER else known
        span = self._tracer.start_span(name, caller, SpanKind.SERVER, attributes)
        bind_contextvars(trace_id=_trace_id(span))
        return RequestSpan(span, name, context.attach(set_span_in_context(span, caller)))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """See `tracing.span`."""
        if not trace.get_current_span().get_span_context().is_valid:
            yield  # housekeeping and probes of our own would fill the store with traces of one span
            return
        with self._recorded(self._tracer.start_span(name, kind=SpanKind.CLIENT)):
            yield

    @contextmanager
    def work(self, name: str) -> Iterator[None]:
        """See `tracing.work`."""
        span = self._tracer.start_span(name, Context(), SpanKind.CLIENT)
        with bound_contextvars(trace_id=_trace_id(span)), self._recorded(span):
            yield

    def close(self, seconds: float) -> None:
        """Sends what is left within `seconds`. The thread of a collector that hangs is left behind: it is a daemon."""
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(seconds)

    @contextmanager
    def _recorded(self, span: Span) -> Iterator[None]:
        """OpenTelemetry's own would keep the text of an error, which may hold anything."""
        attached = context.attach(set_span_in_context(span))
        try:
            yield
        except BaseException as error:
            if not isinstance(error, ServiceError) or error.status >= FIRST_SERVER_ERROR:
                _fail(span, type(error).__name__)
            raise
        finally:
            context.detach(attached)
            span.end()


def _caller(headers: Iterable[tuple[bytes, bytes]]) -> Context:
    """The caller's span (W3C Trace Context). Its `tracestate` stays out: anybody could write into our spans."""
    given = [value for name, value in headers if name == b"traceparent"]
    carrier = {"traceparent": given[0].decode("latin-1")} if len(given) == 1 else {}
    return _CALLERS.extract(carrier, Context())


def _fail(span: Span, kind: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)


def _trace_id(span: Span) -> str:
    return format_trace_id(span.get_span_context().trace_id)


def _resource() -> Resource:
    """Who records: the variables' word, or our name."""
    found = Resource.create({SERVICE_VERSION: __version__})
    if str(found.attributes[SERVICE_NAME]).startswith(UNKNOWN):
        return found.merge(Resource({SERVICE_NAME: "vestibule"}))
    return found

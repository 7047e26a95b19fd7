"""Traces: what a collector gets, what it never gets, and that a bad one is nobody's business."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import structlog
from litestar import Litestar
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from structlog.testing import capture_logs

from service import tracing
from service.errors import InvalidInput, Unavailable
from service.providers.calls import Calls
from service.server import traced
from service.wiring import Services
from tests.conftest import Outbox, Person, browser, sign_up
from tests.deeds import sign_in

PROJECT = Path(__file__).parents[1]
CANARY = "canary"
SENDER = "OtelBatchSpanRecordProcessor"
PATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "60", "OTEL_BSP_SCHEDULE_DELAY": "10"}
MAIL = {"VESTIBULE_SMTP_URL": "smtp://127.0.0.1:1", "VESTIBULE_MAIL_FROM": "no-reply@example.com"}
REQUESTS_WITH_CANARIES = [
    "POST /auth/login",
    "POST /auth/login",
    "POST /introspect",
    "GET /me",
    "GET /users/{account_id}",
    "GET",
    "GET /auth/social/{provider}/callback",
    "HTTP",
]
CALLER_TRACE, CALLER_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

BUSY_UNDER_A_BAD_COLLECTOR = """
import os, time
from service import tracing
tracing.start(os.environ)
longest = 0
for number in range(6000):
    before = time.monotonic()
    request = tracing.begin_request("GET", [], b"12345678")
    with tracing.span("redis inspect"):
        pass
    tracing.end_request(request, "/me", 200)
    longest = max(longest, time.monotonic() - before)
before = time.monotonic()
tracing.stop()
print(longest, time.monotonic() - before)
"""
WITHOUT_THE_VARIABLE = """
import sys
from service import tracing
tracing.ensure_installed({})
tracing.start({"OTEL_SERVICE_NAME": "vestibule"})
with tracing.span("redis inspect"), tracing.work("mail"):
    tracing.end_request(tracing.begin_request("GET", [], b"12345678"), "/me", 200)
tracing.stop()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
WITHOUT_THE_EXTRA = """
import sys
sys.modules["opentelemetry"] = None
from service.cli.main import main
main(["serve", "--port", "1"])
"""


@dataclass
class Collector:
    """Takes spans, as it gets them over HTTP."""

    bodies: list[bytes] = field(default_factory=list)
    port: int = 0

    def spans(self) -> list[Span]:
        """Ends the recording and reads it."""
        tracing.stop()
        for thread in threading.enumerate():
            if thread.name == SENDER:
                thread.join(30)
        return [span for group in self._groups() for scope in group.scope_spans for span in scope.spans]

    def told(self) -> bytes:
        """All that it got, but for random ids and times, in which any few letters may stand."""
        groups = self._groups()
        for span in (span for group in groups for scope in group.scope_spans for span in scope.spans):
            span.trace_id = span.span_id = span.parent_span_id = b""
            span.start_time_unix_nano = span.end_time_unix_nano = 0
        return b"".join(group.SerializeToString() for group in groups)

    def services(self) -> set[str]:
        found = [one for group in self._groups() for one in group.resource.attributes if one.key == "service.name"]
        return {one.value.string_value for one in found}

    def _groups(self) -> list[ExportTraceServiceRequest]:
        return [group for body in self.bodies for group in ExportTraceServiceRequest.FromString(body).resource_spans]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with _collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{found.port}")
        tracing.start(os.environ)
        yield found
        tracing.stop()


@contextmanager
def _collector() -> Iterator[Collector]:
    found = Collector()

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            found.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Taking) as server:
        found.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


async def test_a_request_is_a_span_named_after_its_route_and_holds_its_parts(
    app: Litestar, person: Person, collector: Collector
) -> None:
    async with browser(app) as http:
        answer = await http.get("/me", headers=person.headers)
    spans = collector.spans()
    [request] = [span for span in spans if span.name == "GET /me"]
    assert request.kind == Span.SPAN_KIND_SERVER
    assert _attributes(request) == {
        "http.request.method": "GET",
        "http.route": "/me",
        "http.response.status_code": 200,
        "vestibule.request_id": answer.headers["x-request-id"],
    }
    parts = [span for span in spans if span.parent_span_id == request.span_id]
    assert "postgres transaction" in {span.name for span in parts}
    assert {span.trace_id for span in parts} == {request.trace_id}
    assert collector.services() == {"vestibule"}


async def test_work_in_the_background_makes_no_traces_but_mails_do(
    services: Services, outbox: Outbox, app: Litestar, collector: Collector
) -> None:
    await services.database.ping()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with browser(app) as http:
            await sign_up(http, services, outbox)
    spans = collector.spans()
    roots = {span.name for span in spans if not span.parent_span_id}
    assert roots == {"POST /auth/register", "POST /auth/verify", "mail verify"}
    [mail] = [span for span in spans if span.name == "mail verify"]
    assert {line["trace_id"] for line in lines if line["event"] == "a mail left"} == {mail.trace_id.hex()}


async def test_a_call_to_a_provider_is_named_after_it(
    way_abroad: httpx.AsyncBaseTransport, collector: Collector
) -> None:
    calls = Calls.to(10, is_private=True, transport=way_abroad, name="openid")
    with tracing.work("a look"):
        await calls.json("http://127.0.0.1:9/openid/.well-known/openid-configuration")
    await calls.close()
    assert {span.name for span in collector.spans()} == {"a look", "provider openid"}


async def test_the_trace_of_the_caller_goes_on_and_is_in_the_log(app: Litestar, collector: Collector) -> None:
    headers = {"traceparent": f"00-{CALLER_TRACE}-{CALLER_SPAN}-01", "tracestate": f"vendor={CANARY}"}
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with browser(app) as http:
            await http.get("/me", headers=headers)
    [request] = [span for span in collector.spans() if span.name == "GET /me"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (CALLER_TRACE, CALLER_SPAN)
    assert request.trace_state == ""
    assert [line["trace_id"] for line in lines if line["event"] == "request"] == [CALLER_TRACE]


@pytest.mark.parametrize(
    "given",
    [
        [f"00-{CALLER_TRACE}-{CALLER_SPAN}"],
        [f"00-{'0' * 32}-{CALLER_SPAN}-01"],
        [f"00-{CALLER_TRACE}-{CALLER_SPAN}-01", f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"],
        ["\xff" * 55],
    ],
    ids=["cut", "zero", "twice", "rubbish"],
)
async def test_a_caller_that_is_none_begins_nothing(given: list[str], app: Litestar, collector: Collector) -> None:
    async with browser(app) as http:
        await http.get("/livez", headers=[(b"traceparent", value.encode("latin-1")) for value in given])
    [request] = [span for span in collector.spans() if span.name == "GET /livez"]
    assert request.parent_span_id == b""
    assert request.trace_id.hex() != CALLER_TRACE


async def test_what_the_caller_does_not_record_is_not_recorded(app: Litestar, collector: Collector) -> None:
    async with browser(app) as http:
        await http.get("/me", headers={"traceparent": f"00-{CALLER_TRACE}-{CALLER_SPAN}-00"})
    assert collector.spans() == []


@pytest.mark.standard("LO-06", "LO-05")
async def test_no_span_holds_what_a_request_brought(app: Litestar, person: Person, collector: Collector) -> None:
    someone = str(uuid4())
    everywhere = {
        "User-Agent": CANARY,
        "Referer": f"https://app.test/{CANARY}",
        "traceparent": CANARY,
        "tracestate": f"v={CANARY}",
        "baggage": f"k={CANARY}",
        "Cookie": f"__Host-vestibule-refresh={CANARY}",
    }
    async with browser(app) as http:
        http.headers.update(everywhere)
        await sign_in(http, person)
        await sign_in(http, Person(f"{CANARY}@example.com", CANARY, CANARY))
        await http.post("/introspect", data={"token": CANARY}, auth=(CANARY, CANARY))
        await http.get("/me", params={"token": CANARY}, headers={"Authorization": f"Bearer {CANARY}"})
        await http.get(f"/users/{someone}", headers=person.headers)
        await http.get(f"/{CANARY}")
        await http.get(f"/auth/social/{CANARY}/callback", params={"code": CANARY, "state": CANARY})
        await http.request(CANARY.upper(), "/me")
    requests = [span.name for span in collector.spans() if span.kind == Span.SPAN_KIND_SERVER]
    assert requests == REQUESTS_WITH_CANARIES
    told = collector.told().lower()
    for secret in (
        CANARY,
        person.email,
        person.nickname,
        person.password,
        person.access_token,
        someone,
        "vrt_",
        "eyj",
        "2001:",
    ):
        assert secret.lower().encode() not in told


async def test_an_error_leaves_its_kind_and_not_its_text(services: Services, collector: Collector) -> None:
    with tracing.work("a crash"), pytest.raises(ValueError, match=CANARY):
        async with services.database.begin():
            raise ValueError(CANARY)
    [part] = [span for span in collector.spans() if span.name == "postgres transaction"]
    assert part.status.code == Status.STATUS_CODE_ERROR
    assert _attributes(part) == {"error.type": "ValueError"}
    assert CANARY.encode() not in b"".join(collector.bodies)


def test_a_refusal_is_no_error_and_an_outage_is(collector: Collector) -> None:
    for name, error in (("refused", InvalidInput()), ("away", Unavailable("gone"))):
        with pytest.raises(type(error)), tracing.work(name):
            raise error
    tracing.end_request(tracing.begin_request("GET", [], b"12345678"), "/crash", 500)
    tracing.end_request(tracing.begin_request("GET", [], b"12345678"), None, 404)
    told = {span.name: (span.status.code, _attributes(span).get("error.type")) for span in collector.spans()}
    assert told == {
        "refused": (Status.STATUS_CODE_UNSET, None),
        "away": (Status.STATUS_CODE_ERROR, "Unavailable"),
        "GET /crash": (Status.STATUS_CODE_ERROR, "500"),
        "GET": (Status.STATUS_CODE_UNSET, None),
    }


async def test_the_last_spans_leave_when_the_service_stops(app: Litestar, collector: Collector) -> None:
    async with traced(app):
        with tracing.work("the last"):
            pass
        assert collector.bodies == []
    assert tracing.begin_request("GET", [], b"12345678") is None
    assert [span.name for span in collector.spans()] == ["the last"]


def test_a_collector_that_hangs_or_is_away_slows_neither_requests_nor_the_stop() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as deaf, socket.create_server(("127.0.0.1", 0)) as closing:
        ports = [server.getsockname()[1] for server in (deaf, closing)]
        closing.close()
        began = time.monotonic()
        runs = [_started(BUSY_UNDER_A_BAD_COLLECTOR, {**PATIENT, **_at(port)}) for port in ports]
        answers = [run.communicate(timeout=60)[0] for run in runs]
        took = time.monotonic() - began
    for run, answer in zip(runs, answers, strict=True):
        longest, stop = map(float, answer.split())
        assert run.returncode == 0
        assert longest < 5
        assert stop < tracing.CLOSING_TIME + 5
    assert took < 40  # whoever waits for the collector needs a minute


def test_without_the_variable_nothing_of_opentelemetry_is_loaded() -> None:
    assert _started(WITHOUT_THE_VARIABLE, {}).communicate(timeout=60)[0] == "[]\n"


def test_a_start_without_the_extra_says_what_is_missing(environ: dict[str, str]) -> None:
    run = _started(WITHOUT_THE_EXTRA, {**environ, **MAIL, **_at(4318)})
    [line] = run.communicate(timeout=60)[1].splitlines()
    assert "pip install 'vestibule[otel]'" in line
    assert run.returncode == 2


def _at(port: int) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}


def _attributes(span: Span) -> dict[str, object]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


def _started(script: str, environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

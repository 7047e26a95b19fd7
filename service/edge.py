"""The outermost layer: request ids, the access log, security headers, CORS and strict bodies, for every answer.

Litestar's own middleware does not run for unknown paths and methods, and misses what other middleware raises; this
wraps the whole application instead.
"""

import itertools
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request
from litestar.enums import ScopeType
from litestar.exceptions import InternalServerException
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from litestar.typing import FieldDefinition
from litestar.utils import normalize_path

from service import metrics, strict_json, tracing
from service.device import Device
from service.errors import CrossSiteRefused, FieldError, InvalidInput, MalformedRequest, ServiceError
from service.languages import preferred
from service.origins import Origins, is_preflight, origin_of
from service.problems import MEDIA_TYPE, ClientLeft, HeadersTooLarge, UnsupportedMediaType, document
from service.settings import Settings
from service.tokens.transport import mark_of

log = structlog.get_logger("vestibule.request")

PROCESS = secrets.token_hex(4).encode()
REQUESTS = itertools.count(1)
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
MEMBER = re.compile(r"\$\.(\w+)")
PREFLIGHT = "<preflight>"
QUIET = {"/livez", "/readyz", "/startupz", "/healthz", "/introspect", "/auth/refresh", PREFLIGHT}
"""Routes that are called all the time: their good answers are not worth a line."""

SECURITY_HEADERS = (
    (b"strict-transport-security", b"max-age=63072000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
FIRST_SERVER_ERROR = 500

MOST_HEADERS = 100
LONGEST_HEADERS = 32 * 1024
"""Fields and bytes of all headers of a request: httptools itself knows no limit."""
LONGEST_ORIGIN = 100
"""How much of a foreign origin the log gets, so that an operator sees which front end is not registered."""


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, settings: Settings, registered: Callable[[], frozenset[bytes]]) -> None:
        self._app = app
        self._origins = Origins.of(settings, registered)
        self._place_header = settings.place_header.lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its id to its line in the log."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        named = request_id(scope)
        device = _device(scope, self._place_header)
        scope.setdefault("state", {})["device"] = device
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            request_id=named.decode(), address=device.address, user_agent=device.user_agent
        )
        span = tracing.begin_request(scope["method"], scope["headers"], named)
        # As the router reads it: `//auth/login` must not be another path to us than to the application.
        path, origin = normalize_path(scope["path"]), origin_of(scope["headers"])
        status = FIRST_SERVER_ERROR

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                extra = [header for header in SECURITY_HEADERS if header[0] not in present]
                headers = [*message["headers"], *extra, (b"x-request-id", named)]
                message["headers"] = self._origins.share(headers, path, origin)
            await send(message)

        refusal = _unreadable(scope) or self._cross_site(scope, path, origin)
        try:
            if refusal is not None:
                await _refuse(scope, send_with_headers, refusal)
            elif is_preflight(scope["method"], scope["headers"]):
                await _answer_preflight(scope, send_with_headers, self._origins.preflight(path, origin))
            else:
                await self._app(scope, receive, send_with_headers)
        finally:
            _log(scope, status, time.perf_counter() - started)
            tracing.end_request(span, scope.get("path_template"), status)

    def _cross_site(self, scope: HTTPScope, path: str, origin: bytes | None) -> ServiceError | None:
        """Why a write does not run: a page of somebody else made it (ASVS 3.5.1)."""
        if self._origins.refuses(scope["method"], path, origin):
            return CrossSiteRefused(f"a write from the origin {(origin or b'')[:LONGEST_ORIGIN]!r}")
        return None


class StrictRequest(Request[Any, Any, Any]):
    """Reads JSON bodies without a second meaning, and only when they say that they are JSON (ASVS 3.5.2)."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces. Raises `ClientLeft` when the rest will never come, which Litestar takes for our fault."""
        try:
            async for piece in super().stream():
                yield piece
        except InternalServerException as error:
            raise (ClientLeft(error.detail) if self.is_connected else error) from None

    async def json(self) -> Any:
        """The document. Raises `UnsupportedMediaType`, `MalformedRequest`, and `InvalidInput` for a text or number that
        Litestar would take for something else: `"1"` is not true."""
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaType("not application/json")
        body = await self.body()
        try:
            document = strict_json.loads(body)
        except ValueError as error:
            raise MalformedRequest(f"unreadable JSON: {type(error).__name__}") from None
        _ensure_exact(document, self.scope["route_handler"].parsed_data_field)
        return document


def _ensure_exact(document: object, field: FieldDefinition | None) -> None:
    """What is wrong altogether Litestar tells better, with every field of it."""
    if field is None:
        return
    try:
        msgspec.convert(document, field.annotation, strict=True)
    except ValueError as error:
        if not _is_refused_anyway(document, field):
            named = MEMBER.search(str(error))
            wrong = FieldError(named[1] if named else "body", "invalid", str(error).partition(" - ")[0])
            raise InvalidInput(fields=[wrong]) from None


def _is_refused_anyway(document: object, field: FieldDefinition) -> bool:
    try:
        msgspec.convert(document, field.annotation, strict=False)
    except ValueError as error:
        return isinstance(error, msgspec.ValidationError)  # at a time beyond the calendar Litestar would crash
    return False


async def provide_device(request: Request[Any, Any, Any]) -> Device:
    """The dependency `device` of handlers: with the mark of its cookie, and the language its person reads."""
    device: Device = request.scope["state"]["device"]
    language = preferred(request.headers.get("accept-language", ""))
    return replace(device, mark=mark_of(request.cookies), language=language)


def _unreadable(scope: HTTPScope) -> ServiceError | None:
    """Why a request is not even looked at: endless headers, or not exactly one host (RFC 9112 section 3.2)."""
    headers = list(scope["headers"])
    if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > LONGEST_HEADERS:
        return HeadersTooLarge("more headers than anybody needs")
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and scope["http_version"] == "1.1"):
        return MalformedRequest("not exactly one host")
    return None


async def _refuse(scope: HTTPScope, send: Send, refusal: ServiceError) -> None:
    scope["state"]["refusal"] = refusal
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store"), (b"connection", b"close")]
    body = msgspec.json.encode(document(refusal))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _answer_preflight(scope: HTTPScope, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    scope["path_template"] = PREFLIGHT
    await send({"type": "http.response.start", "status": HTTPStatus.NO_CONTENT, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def request_id(scope: Scope) -> bytes:
    """The caller's id for the request where it is fit for a log, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value if REQUEST_ID.fullmatch(value) else _new_id()
    return _new_id()


def _new_id() -> bytes:
    """Unlike any other, and no secret: which process it was, and the number of the request there."""
    return b"%s%08x" % (PROCESS, next(REQUESTS))


def _device(scope: HTTPScope, place_header: bytes) -> Device:
    client = scope.get("client")
    address, port = client or ("unknown", -1)
    # uvicorn puts the port 0 there when it took the address from a trusted proxy: of nobody else is a place believed.
    place = _header(scope, place_header) if place_header and port == 0 else ""
    return Device.seen(address, _header(scope, b"user-agent"), place)


def _header(scope: HTTPScope, wanted: bytes) -> str:
    """The last one of a name: what a proxy adds stands behind what the client sent."""
    return next((value for name, value in reversed(list(scope["headers"])) if name == wanted), b"").decode("latin-1")


def _log(scope: HTTPScope, status: int, seconds: float) -> None:
    route = scope.get("path_template") or "<unmatched>"
    metrics.requested(scope["method"], route, status, seconds)
    refusal: ServiceError | None = scope["state"].get("refusal")
    if route in QUIET and status < FIRST_SERVER_ERROR and refusal is None:
        return
    told = {"reason": refusal.reason, "code": refusal.code} if refusal else {}
    write = log.warning if status >= FIRST_SERVER_ERROR else log.info
    write("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1), **told)

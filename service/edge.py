"""The outermost layer: request ids, the access log, security headers and strict bodies, for every answer there is.

Litestar's own middleware does not run for unknown paths and methods, and misses what other middleware raises; this
wraps the whole application instead.
"""

import re
import secrets
import time
from typing import Any

import msgspec
import structlog
from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from service import strict_json
from service.device import Device
from service.errors import MalformedRequest, ServiceError
from service.problems import MEDIA_TYPE, HeadersTooLarge, UnsupportedMediaType, document

log = structlog.get_logger("vestibule.request")

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
QUIET = {"/livez", "/readyz", "/startupz", "/healthz", "/introspect"}
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


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its id to its line in the log."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        device = _device(scope)
        scope.setdefault("state", {})["device"] = device
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            request_id=request_id.decode(), address=device.address, user_agent=device.user_agent
        )
        status = FIRST_SERVER_ERROR

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                extra = [header for header in SECURITY_HEADERS if header[0] not in present]
                message["headers"] = [*message["headers"], *extra, (b"x-request-id", request_id)]
            await send(message)

        refusal = _unreadable(scope)
        try:
            if refusal is not None:
                await _refuse(scope, send_with_headers, refusal)
            else:
                await self._app(scope, receive, send_with_headers)
        finally:
            _log(scope, status, time.perf_counter() - started)


class StrictRequest(Request[Any, Any, Any]):
    """Reads JSON bodies without a second meaning, and only when they say that they are JSON (ASVS 3.5.2)."""

    async def json(self) -> Any:
        """The document. Raises `UnsupportedMediaType` or `MalformedRequest`."""
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaType("not application/json")
        body = await self.body()
        try:
            return strict_json.loads(body)
        except ValueError as error:
            raise MalformedRequest(f"unreadable JSON: {type(error).__name__}") from None


async def provide_device(request: Request[Any, Any, Any]) -> Device:
    """The dependency `device` of handlers."""
    device: Device = request.scope["state"]["device"]
    return device


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


def _request_id(scope: Scope) -> bytes:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8).encode()


def _device(scope: Scope) -> Device:
    client = scope.get("client")
    user_agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    return Device.seen(client[0] if client else "unknown", user_agent.decode("latin-1"))


def _log(scope: HTTPScope, status: int, seconds: float) -> None:
    route = scope.get("path_template") or "<unmatched>"
    refusal: ServiceError | None = scope["state"].get("refusal")
    if route in QUIET and status < FIRST_SERVER_ERROR and refusal is None:
        return
    told = {"reason": refusal.reason, "code": refusal.code} if refusal else {}
    write = log.warning if status >= FIRST_SERVER_ERROR else log.info
    write("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1), **told)

"""The short ways of the two requests that come all the time: `POST /introspect` and `POST /auth/refresh`.

What a request of a plain shape needs of the framework is nothing: no routing, no injection, no parsing. What is decided
is decided in one place for both ways (`Introspections.answer`, `Login.refresh`), so a short way only reads and writes
HTTP. Whatever is out of the ordinary about a request goes the long way, through the framework, from the beginning.
"""

import re
import time
from typing import cast

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, ReceiveMessage, Scope, Send

from service import metrics, tracing
from service.device import Device
from service.edge import SECURITY_HEADERS, request_id
from service.errors import ServiceError
from service.login.password import Login
from service.oauth.callers import ProvedCallers
from service.oauth.introspect import MET, Introspections
from service.origins import VARY
from service.problems import Crashed, refused
from service.tokens.clients import DEFAULT_FRONT_END, Client
from service.tokens.transport import in_body

INTROSPECT = "/introspect"
REFRESH = "/auth/refresh"
FORM = b"application/x-www-form-urlencoded"
LONGEST_BODY = 4200
HINTS = frozenset((b"", b"token_type_hint=access_token", b"token_type_hint=refresh_token"))
PLAIN_RENEWAL = re.compile(
    rb'_*\{_*"refresh_token"_*:_*"(vrt_[A-Za-z0-9_-]{1,250})"_*(?:,_*"client_id"_*:_*"([a-z0-9_-]{1,64})"_*)?\}_*'.replace(
        b"_*", rb"[ \t\r\n]*"
    )
)
"""A refresh token and perhaps its client, in characters that JSON does not escape."""
IRRELEVANT = frozenset(
    (
        b"content-length",
        b"user-agent",
        b"accept-encoding",
        b"connection",
        b"accept-language",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-real-ip",
        b"forwarded",
        b"traceparent",
        b"tracestate",
        b"via",
        b"x-request-id",
    )
)
"""Headers that change nothing about the answer. One that is not known here may: it goes the long way."""
PLAIN_ACCEPT = frozenset((b"*/*", b"application/json"))
LONGEST_VALUE = 1024
MOST_HEADERS = 30
ANSWER = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"pragma", b"no-cache"),
)
START = (*ANSWER, *SECURITY_HEADERS, VARY)

ANSWERED = metrics.Alike("POST", INTROSPECT, 200)

log = structlog.get_logger("vestibule.app")

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class IntrospectionShortcut:
    """Stands before the application with its edge: a caller that proved itself a moment ago asks about a token.

    What goes wrong is raised again on the long way, which words and logs it. The live session is looked up every time.
    """

    def __init__(self, app: ASGIApp, introspections: Introspections, callers: ProvedCallers) -> None:
        self._app = app
        self._introspections = introspections
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, on the one way or the other."""
        if scope["type"] != ScopeType.HTTP or scope["path"] != INTROSPECT or (caller := self._caller(scope)) is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        message = await receive()
        token = _form_token(_whole(message))
        named = request_id(scope)
        answer = await self._answer(scope, token, caller, named) if token else None
        if answer is None:
            await self._app(scope, _again(message, receive), send)
            return
        length = (b"content-length", str(len(answer)).encode())
        headers = [*START, length, (b"x-request-id", named)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": False})
        ANSWERED.ended(time.perf_counter() - started)

    def _caller(self, scope: HTTPScope) -> Client | None:
        authorization = _authorization(scope) if scope["method"] == "POST" and not scope["query_string"] else None
        return self._callers.find(authorization) if authorization else None

    async def _answer(self, scope: HTTPScope, token: str, caller: Client, named: bytes) -> bytes | None:
        """The answer; refusals are left to the long way, which words and logs them."""
        span, answer = tracing.begin_request("POST", scope["headers"], named), None
        try:
            answer = await self._introspections.answer(token, caller)
        except Exception as error:  # noqa: BLE001  raised again on the long way, with all that belongs to a failure
            scope.setdefault("state", {})[MET] = error
        finally:
            tracing.end_request(span, INTROSPECT, 200 if answer is not None else 503)
        return answer


class RefreshShortcut:
    """Stands between the edge and the framework: a refresh token in a JSON body, without cookies."""

    def __init__(self, app: ASGIApp, login: Login) -> None:
        self._app = app
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, on the one way or the other."""
        if scope["type"] != ScopeType.HTTP or scope["path"] != REFRESH or not _is_plain_json(scope):
            await self._app(scope, receive, send)
            return
        message = await receive()
        plain = PLAIN_RENEWAL.fullmatch(_whole(message))
        if plain is None:
            await self._app(scope, _again(message, receive), send)
            return
        scope["path_template"] = REFRESH
        status, headers, body = await self._answer(scope, plain[1].decode(), plain[2])
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, scope: HTTPScope, token: str, client_id: bytes | None) -> Answer:
        client = client_id.decode() if client_id else DEFAULT_FRONT_END
        device: Device = scope["state"]["device"]
        try:
            body = msgspec.json.encode(in_body(await self._login.refresh(token, client, device)))
        except ServiceError as refusal:
            scope["state"]["refusal"] = refusal
            return refused(refusal)
        except Exception as error:
            log.error("a request crashed", exc_info=error)
            return refused(Crashed(type(error).__name__))
        length = (b"content-length", str(len(body)).encode())
        return 200, [*ANSWER, length], body


def _is_plain_json(scope: HTTPScope) -> bool:
    """Whether a JSON body is posted, and nothing else says who sends it."""
    if scope["method"] != "POST" or scope["query_string"]:
        return False
    kinds = []
    for name, value in scope["headers"]:
        if name in {b"cookie", b"content-encoding", b"accept-language"}:
            return False
        if name == b"content-type":
            kinds.append(value)
    return kinds == [b"application/json"]


def _whole(message: ReceiveMessage) -> bytes:
    """A short body that came in one piece; nothing, which is no plain body, for any other."""
    if message["type"] != "http.request" or message.get("more_body") or len(message["body"]) > LONGEST_BODY:
        return b""
    return message["body"]


def _form_token(body: bytes) -> str:
    """The token of a form that says no more than that and its kind, in characters that are themselves; else nothing."""
    token, _, rest = body.partition(b"&")
    is_plain = token.startswith(b"token=") and rest in HINTS and body.isascii()
    is_encoded = b"%" in token or b"+" in token or b"\x00" in token  # these stand for something else, or nothing good
    return token[6:].decode() if is_plain and not is_encoded else ""


def _authorization(scope: HTTPScope) -> bytes | None:
    """What the caller proves itself with, None when anything about the head is out of the ordinary."""
    headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
    if len(headers) > MOST_HEADERS:
        return None
    found, hosts, is_form = None, 0, False
    for name, value in headers:
        if len(value) > LONGEST_VALUE:
            return None
        if name == b"authorization" and found is None:
            found = value
        elif name == b"content-type" and value == FORM:
            is_form = True
        elif name == b"host":
            hosts += 1
        elif name not in IRRELEVANT and not (name == b"accept" and value in PLAIN_ACCEPT):
            return None
    return found if hosts == 1 and is_form else None


def _again(message: ReceiveMessage, receive: Receive) -> Receive:
    """The way to the body for who has not seen that its first part was read already."""
    unread = [message]

    async def read() -> ReceiveMessage:
        return unread.pop() if unread else await receive()

    return read

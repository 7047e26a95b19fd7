"""The short way of `POST /introspect`, which other services take on each of their requests.

A caller that proved itself a moment ago and sends a plain form with one access token needs none of what the framework
does for a request: routing, injection, parsing. Everything else about the request, every doubt, every refusal and every
outage goes the long way, through the application, from the beginning; so the two cannot disagree about a refusal, and
what is true of a token is decided in one place for both (`Introspections.answer`). The live session is looked up on
every call.
"""

import re
import time
from typing import cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, ReceiveMessage, Scope, Send

from service import metrics
from service.edge import SECURITY_HEADERS, request_id
from service.errors import ServiceError
from service.oauth.callers import ProvedCallers
from service.oauth.introspect import Introspections
from service.origins import VARY
from service.tokens.clients import Client

PATH = "/introspect"
FORM = b"application/x-www-form-urlencoded"
PLAIN_FORM = re.compile(
    rb"token=([A-Za-z0-9_-]{1,1024}\.[A-Za-z0-9_-]{1,4096}\.[A-Za-z0-9_-]{86})"
    rb"(?:&token_type_hint=access_token)?"
)
"""One access token by its shape, in characters that a form does not encode."""
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
START = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"pragma", b"no-cache"),
    *SECURITY_HEADERS,
    VARY,
)


class Shortcut:
    """Stands before the application."""

    def __init__(self, app: ASGIApp, introspections: Introspections, callers: ProvedCallers) -> None:
        self._app = app
        self._introspections = introspections
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, on the one way or the other."""
        caller = self._caller(scope) if scope["type"] == ScopeType.HTTP and scope["path"] == PATH else None
        if caller is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        message = await receive()
        answer = await self._answer(message, caller)
        if answer is None:
            await self._app(scope, _again(message, receive), send)
            return
        length = (b"content-length", str(len(answer)).encode())
        headers = [*START, length, (b"x-request-id", request_id(scope))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": False})
        metrics.requested("POST", PATH, 200, time.perf_counter() - started)

    def _caller(self, scope: HTTPScope) -> Client | None:
        authorization = _authorization(scope) if scope["method"] == "POST" and not scope["query_string"] else None
        return self._callers.find(authorization) if authorization else None

    async def _answer(self, message: ReceiveMessage, caller: Client) -> bytes | None:
        """The answer to a plain body; refusals are left to the long way, which words and logs them."""
        if message["type"] != "http.request" or message.get("more_body"):
            return None
        plain = PLAIN_FORM.fullmatch(message["body"])
        if plain is None:
            return None
        try:
            return await self._introspections.answer(plain[1].decode(), caller)
        except ServiceError:
            return None


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

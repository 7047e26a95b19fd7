"""How tokens travel to a front end: in the JSON body, or the refresh token in a cookie that no script can read."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response
from litestar.datastructures import Cookie

from service.crypto import opaque
from service.device import Device
from service.errors import CrossSiteRefused, Unavailable
from service.problems import NO_STORE
from service.settings import Settings
from service.tokens.session_facts import Grant
from service.tokens.sessions import Sessions

COOKIE = "__Host-vestibule-refresh"
DEVICE_COOKIE = "__Host-vestibule-device"
DEVICE_PREFIX = "vdv"
DEVICE_COOKIE_LIFE = 400 * 86_400
"""Seconds; browsers keep no cookie for longer."""
CSRF_HEADER = "x-vestibule-csrf"

Transport = Annotated[
    Literal["body", "cookie"],
    msgspec.Meta(description="`cookie` keeps the refresh token out of the JSON, in an HttpOnly cookie."),
]
ClientId = Annotated[str, msgspec.Meta(max_length=64, description="The public client of the front end.")]


class TokenAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 6749 section 5.1; `refresh_token` is absent with cookie transport and for services, `scope` when empty."""

    access_token: Annotated[str, msgspec.Meta(description="RFC 9068 JWT for the `Authorization: Bearer` header.")]
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, msgspec.Meta(description="Seconds until the access token ends.")]
    scope: str | None = None
    refresh_token: Annotated[str | None, msgspec.Meta(description="Single use: each refresh answers the next.")] = None


def marked(device: Device) -> Device:
    """The device with a mark to give it: by that its owner is known again, whoever else is guessing."""
    return replace(device, new_mark=opaque.mint(DEVICE_PREFIX))


def mark_of(cookies: Mapping[str, str]) -> str:
    """The mark in the cookies of a request, empty when there is none of ours."""
    mark = cookies.get(DEVICE_COOKIE, "")
    return mark if opaque.decode(DEVICE_PREFIX, mark) else ""


def token_answer(grant: Grant, transport: Transport) -> Response[Any]:
    """The answer that carries a grant, never to be cached (RFC 6749 section 5.1); a new device gets its mark."""
    if transport == "body":
        return Response(in_body(grant), status_code=200, headers=NO_STORE)
    body = msgspec.structs.replace(in_body(grant), refresh_token=None)
    return Response(body, status_code=200, headers=NO_STORE, cookies=session_cookies(grant))


def in_body(grant: Grant) -> TokenAnswer:
    """A grant whose refresh token travels in the body."""
    return TokenAnswer(
        access_token=grant.access_token,
        token_type="Bearer",  # noqa: S106  the kind of token, not one
        expires_in=grant.expires_in,
        scope=grant.scope or None,
        refresh_token=grant.refresh_token,
    )


def session_cookies(grant: Grant) -> list[Cookie]:
    """The refresh token as a cookie, and the mark of a new device."""
    cookies = [_cookie(COOKIE, grant.refresh_token, grant.refresh_expires_in)]
    if grant.device_mark:
        cookies.append(_cookie(DEVICE_COOKIE, grant.device_mark, DEVICE_COOKIE_LIFE))
    return cookies


def cleared_cookie() -> Cookie:
    """Deletes the refresh cookie: browsers want the same name, path and `Secure` for a `__Host-` cookie."""
    return _cookie(COOKIE, "", 0)


def cookie_token(request: Request[Any, Any, Any], settings: Settings) -> str | None:
    """The refresh token of the cookie, once the request is known to come from a front end of ours."""
    token = request.cookies.get(COOKIE)
    if token is not None:
        ensure_same_site(request, settings)
    return token


async def leave_old_session(request: Request[Any, Any, Any], sessions: Sessions) -> None:
    """Ends the session whose cookie is being replaced: nobody could reach it any more (ASVS 7.2.4)."""
    old = request.cookies.get(COOKIE)
    if old is not None:
        with suppress(Unavailable):
            await sessions.close(old)


def ensure_same_site(request: Request[Any, Any, Any], settings: Settings) -> None:
    """Raises `CrossSiteRefused` unless the request carries our header and comes from an allowed origin.

    The header forces a CORS preflight (ASVS 3.5.1); `Origin`, which browsers send with every POST, must be ours or
    registered.
    """
    if request.headers.get(CSRF_HEADER) != "1":
        raise CrossSiteRefused("no csrf header")
    if request.headers.get("origin") not in {settings.own_origin, *settings.allowed_origins}:
        raise CrossSiteRefused("foreign origin, or none")
    # A registered origin on another site loses nothing: browsers neither send nor keep a Strict cookie there. So a
    # cookie that did come along was let through by a browser that breaks that rule (ASVS 3.5.8).
    if request.headers.get("sec-fetch-site") == "cross-site":
        raise CrossSiteRefused("cross-site")


def _cookie(name: str, value: str, max_age: int) -> Cookie:
    return Cookie(key=name, value=value, max_age=max_age, path="/", secure=True, httponly=True, samesite="strict")

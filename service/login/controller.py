"""Sign-in, refresh and sign-out over HTTP."""

from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from service.device import Device
from service.errors import (
    AccountDisabled,
    EmailNotVerified,
    FieldError,
    InvalidCredentials,
    InvalidInput,
    InvalidToken,
    PasswordChangeRequired,
    SessionExpired,
    Unauthenticated,
    UnknownClient,
)
from service.login.password import Login
from service.problems import NO_STORE, as_problem, refusals
from service.settings import Settings
from service.tokens.clients import DEFAULT_FRONT_END
from service.tokens.principal import PUBLIC, Principal
from service.tokens.sessions import Sessions
from service.tokens.transport import (
    COOKIE,
    ClientId,
    TokenAnswer,
    Transport,
    cleared_cookie,
    cookie_token,
    ensure_same_site,
    leave_old_session,
    marked,
    token_answer,
)

RefreshTokenText = Annotated[str, msgspec.Meta(max_length=256, description="`vrt_…`; absent when the cookie is used.")]


CLEAR_SITE_DATA = '"cache", "storage"'
"""What a browser forgets at sign-out (ASVS 14.3.1); the cookie goes by itself, others on this host are not ours."""


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`email` or `nickname`, one of them, and the password."""

    password: Annotated[str, msgspec.Meta(max_length=4096)]
    email: Annotated[str | None, msgspec.Meta(description="Or `nickname`.")] = None
    nickname: Annotated[str | None, msgspec.Meta(description="Or `email`.")] = None
    client_id: ClientId = DEFAULT_FRONT_END
    transport: Transport = "body"


class OwnPasswordAgain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The password of whoever is signed in."""

    password: Annotated[str, msgspec.Meta(max_length=4096)]
    transport: Transport | None = None


class Renewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The refresh token, unless it comes in the cookie."""

    refresh_token: RefreshTokenText | None = None
    client_id: ClientId = DEFAULT_FRONT_END
    transport: Transport | None = None


class Departure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The refresh token, unless it comes in the cookie."""

    refresh_token: RefreshTokenText | None = None
    transport: Transport | None = None


class LoginController(Controller):
    """In, still in, out."""

    path = "/auth"
    tags = ("Sign-in",)
    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    security = [{}]  # noqa: RUF012

    @post(
        "/login",
        status_code=200,
        operation_id="login",
        summary="Sign in",
        responses=refusals(
            InvalidCredentials, EmailNotVerified, AccountDisabled, PasswordChangeRequired, UnknownClient
        ),
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        *,
        data: JSONBody[Credentials],
        login: NamedDependency[Login],
        device: NamedDependency[Device],
        sessions: NamedDependency[Sessions],
        settings: NamedDependency[Settings],
    ) -> Response[TokenAnswer]:
        """Signs in. Unknown name, wrong password and disabled account with a wrong password look the same."""
        if (data.email is None) == (data.nickname is None):
            raise InvalidInput(fields=[FieldError("email", "one_name", "Give `email` or `nickname`, one of them.")])
        if data.transport == "cookie":
            ensure_same_site(request, settings)
            device = marked(device)
        grant = await login.with_password(data.email, data.nickname, data.password, data.client_id, device)
        if data.transport == "cookie":
            await leave_old_session(request, sessions)
        return token_answer(grant, data.transport)

    @post(
        "/refresh",
        status_code=200,
        operation_id="refresh",
        security=[{"refresh_cookie": []}],
        responses=refusals(SessionExpired, UnknownClient),
    )
    async def refresh(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[Renewal],
        login: NamedDependency[Login],
        device: NamedDependency[Device],
        settings: NamedDependency[Settings],
    ) -> Response[TokenAnswer]:
        """The next pair of tokens. A retry with the same token gets the same refresh token again."""
        transport, token = _presented(request, data, settings)
        if token is None:
            raise _refresh_token_missing()
        try:
            grant = await login.refresh(token, data.client_id, device)
        except SessionExpired as refusal:
            response = as_problem(request, refusal)
            if transport == "cookie":
                response.cookies.append(cleared_cookie())
            return response
        return token_answer(grant, transport)

    @post("/logout", status_code=204, operation_id="logout", security=[{"refresh_cookie": []}], responses=refusals())
    async def logout(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[Departure],
        login: NamedDependency[Login],
        settings: NamedDependency[Settings],
    ) -> Response[None]:
        """Ends the session at once, everywhere. Says the same for a token that is unknown or ended."""
        transport, token = _presented(request, data, settings)
        if token is not None:
            await login.logout(token)
        if transport == "body" or token is None:
            return Response(None, status_code=204, headers=NO_STORE)
        headers = {**NO_STORE, "Clear-Site-Data": CLEAR_SITE_DATA}
        return Response(None, status_code=204, headers=headers, cookies=[cleared_cookie()])


class ReauthenticationController(Controller):
    """Still the same person."""

    path = "/auth"
    tags = ("Sign-in",)

    @post(
        "/reauthenticate",
        status_code=200,
        operation_id="reauthenticate",
        summary="Give your password again",
        responses=refusals(Unauthenticated, InvalidToken, InvalidCredentials),
    )
    async def reauthenticate(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[OwnPasswordAgain],
        principal: NamedDependency[Principal],
        login: NamedDependency[Login],
        settings: NamedDependency[Settings],
    ) -> Response[TokenAnswer]:
        """The same session with a new `auth_time`: what is dangerous is open for some minutes.

        Without `transport` the refresh token goes where the session keeps it: a cookie must not grow stale.
        """
        transport = data.transport or ("cookie" if COOKIE in request.cookies else "body")
        if transport == "cookie":
            ensure_same_site(request, settings)
        return token_answer(await login.reauthenticate(principal, data.password), transport)


def _presented(
    request: Request[Any, Any, Any], data: Renewal | Departure, settings: Settings
) -> tuple[Transport, str | None]:
    """The refresh token and the way it came: the body's, unless the cookie is asked for or all there is."""
    if data.refresh_token is not None and data.transport != "cookie":
        return "body", data.refresh_token
    return ("cookie", cookie_token(request, settings)) if data.transport != "body" else ("body", None)


def _refresh_token_missing() -> InvalidInput:
    detail = "Give the refresh token in the body or in the cookie."
    return InvalidInput(fields=[FieldError("refresh_token", "missing", detail)])

"""Who makes a request: bearer authentication (RFC 6750), for every route that does not say it is public."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from litestar import HttpMethod, Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from service.clock import Clock
from service.crypto.opaque import from_base64url
from service.crypto.signer import PersonClaims, ServiceClaims
from service.errors import (
    AmbiguousCredentials,
    InsufficientScope,
    InvalidToken,
    StaleAuthentication,
    Unauthenticated,
)
from service.settings import Settings
from service.tokens.inspection import Active, Inspection
from service.tokens.scopes import ACCOUNT, ADMIN

BEARER = (AmbiguousCredentials, Unauthenticated, InvalidToken, InsufficientScope)
"""How a route may refuse whoever calls it without a good access token."""

PUBLIC = "public"
"""The `opt` of a route that anybody may call: `opt={PUBLIC: True}`."""
SCOPE = "scope"
"""The `opt` of a route that needs another scope than `account`."""
READING = {HttpMethod.GET, HttpMethod.HEAD}


@dataclass(frozen=True, slots=True)
class Principal:
    """The person behind an access token whose session was found alive for this very request."""

    account: UUID
    claims: PersonClaims
    roles: tuple[str, ...]
    is_admin: bool

    @property
    def session(self) -> bytes:
        """The public id of the session."""
        return from_base64url(self.claims.sid) or b""

    def ensure_fresh(self, settings: Settings, clock: Clock) -> None:
        """Raises `StaleAuthentication` unless the person signed in just now (ASVS 7.5.1, 7.5.2)."""
        _ensure_fresh(self.claims.auth_time, settings, clock)


class Operator:
    """Who administers: a person with the role, or a service that is registered for the scope."""

    def __init__(self, claims: PersonClaims | ServiceClaims) -> None:
        self.claims = claims

    @property
    def name(self) -> str:
        """How the audit calls them: the id of an account or of a client."""
        return self.claims.sub

    @property
    def account(self) -> UUID | None:
        """The person's account; a service has none."""
        return UUID(self.claims.sub) if isinstance(self.claims, PersonClaims) else None

    def ensure_fresh(self, settings: Settings, clock: Clock) -> None:
        """Raises `StaleAuthentication` unless the person signed in, or the service got its token, just now."""
        proved_at = self.claims.auth_time if isinstance(self.claims, PersonClaims) else self.claims.iat
        _ensure_fresh(proved_at, settings, clock)


@dataclass(frozen=True, slots=True)
class BearerAuthentication:
    """Guards the whole application: a route is closed unless it is marked public."""

    inspection: Inspection
    settings: Settings
    clock: Clock

    async def guard(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Puts the principal, or the operator, into the connection.

        Raises `Unauthenticated`, `InvalidToken`, `AmbiguousCredentials`, `InsufficientScope`; and where something is
        administered rather than read `StaleAuthentication`.
        """
        methods = getattr(handler, "http_methods", ())
        if handler.opt.get(PUBLIC) or HttpMethod.OPTIONS in methods:
            return
        active = await self.inspection.of(_bearer_token(connection.headers.getall("authorization", [])))
        if active is None:
            raise InvalidToken("not genuine, out of time, or what it stands for has ended")
        needed = handler.opt.get(SCOPE, ACCOUNT)
        if needed not in active.scope:
            raise InsufficientScope(needed)
        connection.scope["user"] = caller = _operator(active) if needed == ADMIN else _principal(active)
        if needed == ADMIN and not set(methods) <= READING:
            caller.ensure_fresh(self.settings, self.clock)


async def provide_principal(request: Request[Principal, Any, Any]) -> Principal:
    """The dependency `principal` of handlers that a person's own token opens."""
    return request.user


async def provide_operator(request: Request[Operator, Any, Any]) -> Operator:
    """The dependency `operator` of handlers below `/admin`."""
    return request.user


def _principal(active: Active) -> Principal:
    if not isinstance(active.claims, PersonClaims):
        raise InsufficientScope(ACCOUNT)
    return Principal(UUID(active.claims.sub), active.claims, active.roles, ADMIN in active.scope)


def _operator(active: Active) -> Operator:
    return Operator(active.claims)


def _ensure_fresh(proved_at: int, settings: Settings, clock: Clock) -> None:
    most = settings.fresh_life.total_seconds()
    if clock().timestamp() - proved_at > most:
        raise StaleAuthentication(int(most))


def _bearer_token(headers: list[str]) -> str:
    if not headers:
        raise Unauthenticated
    scheme, _, token = headers[0].partition(" ")
    if len(headers) > 1 or (scheme.lower() == "bearer" and not token.strip()):
        raise AmbiguousCredentials
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return token.strip()

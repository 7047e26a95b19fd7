"""Who makes a request: bearer authentication (RFC 6750), for every route that does not say it is public."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from litestar import HttpMethod, Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from service.clock import Clock
from service.crypto.opaque import from_base64url
from service.crypto.signer import Claims
from service.errors import AmbiguousCredentials, InvalidToken, StaleAuthentication, Unauthenticated
from service.settings import Settings
from service.tokens.sessions import Sessions

BEARER = (AmbiguousCredentials, Unauthenticated, InvalidToken)
"""How a route may refuse whoever calls it without a good access token."""

PUBLIC = "public"
"""The `opt` of a route that anybody may call: `@get("/livez", public=True)`."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The person behind an access token whose session was found alive for this very request."""

    account: UUID
    claims: Claims
    roles: tuple[str, ...]

    @property
    def session(self) -> bytes:
        """The public id of the session."""
        return from_base64url(self.claims.sid) or b""

    def ensure_fresh(self, settings: Settings, clock: Clock) -> None:
        """Raises `StaleAuthentication` unless the person signed in just now (ASVS 7.5.1, 7.5.2)."""
        age = clock().timestamp() - self.claims.auth_time
        if age > settings.fresh_life.total_seconds():
            raise StaleAuthentication(int(settings.fresh_life.total_seconds()))


@dataclass(frozen=True, slots=True)
class BearerAuthentication:
    """Guards the whole application: a route is closed unless it is marked public."""

    sessions: Sessions

    async def guard(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Puts the principal into the connection. Raises `Unauthenticated`, `InvalidToken`, `AmbiguousCredentials`."""
        if handler.opt.get(PUBLIC) or HttpMethod.OPTIONS in getattr(handler, "http_methods", ()):
            return
        token = _bearer_token(connection.headers.getall("authorization", []))
        claims = self.sessions.access_tokens.inspect(token)
        roles = await self.sessions.is_live(claims) if claims else None
        if claims is None or roles is None:
            raise InvalidToken("not genuine or out of time" if claims is None else "the session has ended")
        connection.scope["user"] = Principal(UUID(claims.sub), claims, roles)


async def provide_principal(request: Request[Principal, Any, Any]) -> Principal:
    """The dependency `principal` of handlers that are not public."""
    return request.user


def _bearer_token(headers: list[str]) -> str:
    if not headers:
        raise Unauthenticated
    scheme, _, token = headers[0].partition(" ")
    if len(headers) > 1 or (scheme.lower() == "bearer" and not token.strip()):
        raise AmbiguousCredentials
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return token.strip()

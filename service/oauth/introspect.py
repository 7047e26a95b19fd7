"""`POST /introspect` (RFC 7662): says of a token what is true at this moment. Client first, token second."""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import structlog
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema

from service.device import Device
from service.errors import TooManyRequests, Unavailable
from service.oauth.client_authentication import ClientAuthentication
from service.oauth.errors import InvalidClient, InvalidRequest, UnauthorizedClient, oauth_refusals
from service.oauth.form import MEDIA_TYPE, read_form
from service.problems import NO_STORE, BodyTooLarge
from service.tokens.principal import PUBLIC
from service.tokens.sessions import Sessions

log = structlog.get_logger("vestibule.introspect")

INACTIVE = b'{"active":false}'


class Introspection(msgspec.Struct, frozen=True):
    """An active token (RFC 7662 section 2.2): times in seconds, `scope` separated by spaces."""

    active: Literal[True]
    iss: str
    sub: str
    aud: str | tuple[str, ...]
    client_id: str
    scope: str
    token_type: Literal["Bearer"]
    exp: int
    iat: int
    jti: str
    sid: str
    auth_time: int
    amr: tuple[str, ...]
    roles: tuple[str, ...]


class Inactive(msgspec.Struct, frozen=True):
    """Everything else."""

    active: Literal[False]


@dataclass
class IntrospectOperation(Operation):
    """Describes the form, which the handler reads by itself (Litestar would coerce and cache it)."""

    def __post_init__(self) -> None:
        text = Schema(type=OpenAPIType.STRING)
        form = Schema(
            type=OpenAPIType.OBJECT,
            required=["token"],
            properties={"token": text, "token_type_hint": text, "client_id": text, "client_secret": text},
        )
        self.request_body = RequestBody(content={MEDIA_TYPE: OpenAPIMediaType(schema=form)}, required=True)


class IntrospectionController(Controller):
    """Answers resource servers, on each of their requests."""

    tags = ("For services",)

    @post(
        "/introspect",
        status_code=200,
        operation_id="introspect",
        operation_class=IntrospectOperation,
        opt={PUBLIC: True},
        security=[{"client": []}],
        responses={
            200: ResponseSpec(
                Introspection | Inactive, description="What is true of the token.", generate_examples=False
            ),
            **oauth_refusals(
                InvalidRequest, InvalidClient, UnauthorizedClient, BodyTooLarge, TooManyRequests, Unavailable
            ),
        },
    )
    async def introspect(
        self,
        request: Request[Any, Any, Any],
        device: NamedDependency[Device],
        client_authentication: NamedDependency[ClientAuthentication],
        sessions: NamedDependency[Sessions],
    ) -> Response[bytes]:
        """Says whether a token is active.

        The caller authenticates as a confidential client with the right to introspect. Anything that is not a live
        access token is answered with exactly `{"active":false}`; the live session is looked up on every call.
        """
        form = await read_form(request)
        await client_authentication.verify_introspecting(request, form, device)
        token = form.get("token")
        if token is None:
            raise InvalidRequest("no token")
        body = await _answer(sessions, token)
        return Response(body, media_type="application/json", headers=NO_STORE)


async def _answer(sessions: NamedDependency[Sessions], token: str) -> bytes:
    claims = sessions.access_tokens.inspect(token)
    if claims is None:
        log.debug("inactive: not genuine or out of time")
        return INACTIVE
    roles = await sessions.is_live(claims)
    if roles is None:
        log.debug("inactive: the session has ended", session=claims.sid)
        return INACTIVE
    return msgspec.json.encode(
        Introspection(
            active=True,
            iss=claims.iss,
            sub=claims.sub,
            aud=claims.aud,
            client_id=claims.client_id,
            scope=claims.scope,
            token_type="Bearer",  # noqa: S106  the kind of token, not one
            exp=claims.exp,
            iat=claims.iat,
            jti=claims.jti,
            sid=claims.sid,
            auth_time=claims.auth_time,
            amr=claims.amr,
            roles=roles,
        )
    )

"""`POST /introspect` (RFC 7662): says of a token what is true at this moment. Client first, token second."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from msgspec import UNSET, UnsetType

from service import metrics
from service.clock import Clock
from service.crypto.signer import PersonClaims
from service.device import Device
from service.errors import Unavailable
from service.oauth.client_authentication import ClientAuthentication
from service.oauth.errors import InvalidRequest, MayNotIntrospect, oauth_refusals
from service.oauth.form import form_operation, read_form
from service.problems import NO_STORE
from service.tokens.access import AccessTokens
from service.tokens.clients import Client, Clients
from service.tokens.inspection import Active, Inspection
from service.tokens.principal import PUBLIC
from service.tokens.session_facts import HeldLive
from service.tokens.sessions import Sessions

INACTIVE = b'{"active":false}'
JWT_MEDIA_TYPE = "application/token-introspection+jwt"
MET = "met"
"""What went wrong on the short way (`shortcut.py`), in the state of a request: it is not tried again."""
JWT_TYPE = "token-introspection+jwt"
REFUSED = re.compile(r"(^|;)\s*q\s*=\s*0(\.0*)?\s*(;|$)")
"""The weight that means never (RFC 9110 section 12.4.2)."""


class Introspection(msgspec.Struct, frozen=True, kw_only=True):
    """An active token (RFC 7662 section 2.2): times in seconds, `scope` separated by spaces.

    What speaks for a person has `sid`, `auth_time`, `amr` and `roles`; what speaks for a service has none of them.
    A refresh token, active to its own client alone, has no `token_type` and no `jti`.
    """

    active: Literal[True] = True
    iss: str
    sub: str
    aud: str | tuple[str, ...]
    client_id: str
    scope: str | UnsetType = UNSET
    token_type: Literal["Bearer"] | UnsetType = UNSET
    exp: int
    iat: int
    jti: str | UnsetType = UNSET
    sid: str | UnsetType = UNSET
    auth_time: int | UnsetType = UNSET
    amr: tuple[str, ...] | UnsetType = UNSET
    roles: tuple[str, ...] | UnsetType = UNSET


class Inactive(msgspec.Struct, frozen=True):
    """Everything else."""

    active: Literal[False]


class SignedIntrospection(msgspec.Struct, frozen=True):
    """The claims of a signed answer (RFC 9701 section 5); `aud` is the caller, and nothing mimics an access token."""

    iss: str
    aud: str
    iat: int
    token_introspection: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Introspections:
    """Answers for tokens of both kinds, to each caller what it may know."""

    inspection: Inspection
    sessions: Sessions
    access_tokens: AccessTokens
    clients: Clients
    clock: Clock

    async def answer(self, token: str, caller: Client) -> bytes:
        """The JSON of RFC 7662. A token for an API that the caller does not serve is inactive to it."""
        try:
            answer = await self._answer(token, caller)
        except Unavailable:
            metrics.introspected("unavailable")
            raise
        metrics.introspected("inactive" if answer is INACTIVE else "active")
        return answer

    async def _answer(self, token: str, caller: Client) -> bytes:
        active = await self.inspection.of(token, caller.serves)
        if active is not None:
            active.answer = active.answer or msgspec.json.encode(_of_access_token(active))
            return active.answer
        held = await self.sessions.held_live(token, caller.id)
        return msgspec.json.encode(self._of_refresh_token(held)) if held else INACTIVE

    def signed(self, answer: bytes, caller: Client) -> str:
        """The answer as a JWT that its caller can show around. Raises `Unavailable` without a signing key."""
        issuer, now = self.access_tokens.signer.issuer, int(self.clock().timestamp())
        document = SignedIntrospection(issuer, caller.id, now, msgspec.Raw(answer))
        return self.access_tokens.sign_document(msgspec.json.encode(document), JWT_TYPE)

    def _of_refresh_token(self, held: HeldLive) -> Introspection:
        return Introspection(
            iss=self.access_tokens.signer.issuer,
            sub=str(held.account),
            aud=self.access_tokens.signer.issuer,
            client_id=held.client,
            scope=" ".join(held.scope) or UNSET,
            exp=int(held.ends_at.timestamp()),
            iat=int(held.issued_at.timestamp()),
        )


class IntrospectionController(Controller):
    """Answers resource servers, on each of their requests."""

    tags = ("For services",)

    @post(
        "/introspect",
        status_code=200,
        operation_id="introspect",
        summary="Ask whether a token lives",
        operation_class=form_operation(("token",), "token_type_hint", also_answers=JWT_MEDIA_TYPE),
        opt={PUBLIC: True},
        security=[{"client": []}],
        responses={
            200: ResponseSpec(
                Introspection | Inactive,
                description=f"What is true of the token; a JWT for who accepts `{JWT_MEDIA_TYPE}` (RFC 9701).",
                generate_examples=False,
            ),
            **oauth_refusals(MayNotIntrospect),
        },
    )
    async def introspect(
        self,
        request: Request[Any, Any, Any],
        device: NamedDependency[Device],
        client_authentication: NamedDependency[ClientAuthentication],
        introspections: NamedDependency[Introspections],
    ) -> Response[Any]:
        """Says whether a token is active.

        The caller authenticates as a confidential client with the right to introspect. Anything that is not a live
        token for an API that it serves is answered with exactly `{"active":false}`; the live session is looked up on
        every call.
        """
        form = await read_form(request)
        caller = await client_authentication.verify_introspecting(request, form, device)
        if (met := request.scope["state"].get(MET)) is not None:
            raise met
        token = form.get("token")
        if token is None:
            raise InvalidRequest("no token")
        answer = await introspections.answer(token, caller)
        if not _wants_jwt(request.headers.get("accept", "")):
            return Response(answer, media_type="application/json", headers=NO_STORE)
        signed = introspections.signed(answer, caller).encode()
        return Response(signed, media_type=JWT_MEDIA_TYPE, headers=NO_STORE)


def _of_access_token(active: Active) -> Introspection:
    claims = active.claims
    person = claims if isinstance(claims, PersonClaims) else None
    return Introspection(
        iss=claims.iss,
        sub=claims.sub,
        aud=claims.aud,
        client_id=claims.client_id,
        scope=" ".join(active.scope) or UNSET,
        token_type="Bearer",  # noqa: S106  the kind of token, not one
        exp=claims.exp,
        iat=claims.iat,
        jti=claims.jti,
        sid=person.sid if person else UNSET,
        auth_time=person.auth_time if person else UNSET,
        amr=person.amr if person else UNSET,
        roles=active.roles if person else UNSET,
    )


def _wants_jwt(accept: str) -> bool:
    """Whether the signed form is named; a wildcard means plain JSON (RFC 9701 section 4)."""
    named = [part.partition(";") for part in accept.lower().split(",")]
    return any(kind.strip() == JWT_MEDIA_TYPE and not REFUSED.search(rest) for kind, _, rest in named)

"""`POST /token` (RFC 6749 section 3.2): authenticates the client, then hands over to the grant it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency

from service.device import Device
from service.errors import InvalidScope
from service.limits import Limits
from service.oauth.client_authentication import ClientAuthentication
from service.oauth.errors import (
    GrantNotAllowed,
    InvalidGrant,
    InvalidRequest,
    InvalidTarget,
    UnsupportedGrantType,
    oauth_refusals,
)
from service.oauth.form import form_operation, read_form
from service.oauth.grants.grant import GrantType, TokenRequest
from service.problems import NO_STORE
from service.settings import Settings
from service.tokens.principal import PUBLIC
from service.tokens.transport import TokenAnswer


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """The grants that are served, by their names."""

    grants: Mapping[str, GrantType]
    limits: Limits
    settings: Settings

    async def answer(self, request: TokenRequest) -> TokenAnswer:
        """Raises `UnsupportedGrantType`, `GrantNotAllowed`, and what the grant refuses."""
        name = request.form.get("grant_type")
        if name is None:
            raise InvalidRequest("no grant_type")
        grant = self.grants.get(name)
        if grant is None:
            raise UnsupportedGrantType(name[:64])
        if name not in request.client.grants:
            raise GrantNotAllowed(f"{request.client.id} is not registered for {name}")
        await self.limits.take(
            "token-client", self.settings.limit_token_client, request.client.id, request.device.network
        )
        return await grant(request)


class TokenController(Controller):
    """Tokens for registered software."""

    tags = ("For services",)

    @post(
        "/token",
        status_code=200,
        operation_id="token",
        summary="Get tokens",
        operation_class=form_operation(("grant_type",), "scope", "resource", "refresh_token"),
        opt={PUBLIC: True},
        security=[{"client": []}, {}],
        responses=oauth_refusals(UnsupportedGrantType, GrantNotAllowed, InvalidGrant, InvalidScope, InvalidTarget),
    )
    async def token(
        self,
        request: Request[Any, Any, Any],
        device: NamedDependency[Device],
        client_authentication: NamedDependency[ClientAuthentication],
        token_endpoint: NamedDependency[TokenEndpoint],
    ) -> Response[TokenAnswer]:
        """Tokens by `client_credentials` (a service, for itself) or `refresh_token` (a session, once more).

        `resource` names the API that the token is for (RFC 8707), `scope` less than all that the client may have.
        """
        form = await read_form(request)
        client = await client_authentication.verify(request, form, device)
        return Response(await token_endpoint.answer(TokenRequest(client, form, device)), headers=NO_STORE)

"""`POST /revoke` (RFC 7009): a client gives up a token before its time."""

from typing import Any

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from service.device import Device
from service.limits import Limits
from service.oauth.client_authentication import ClientAuthentication
from service.oauth.errors import InvalidRequest, oauth_refusals
from service.oauth.form import form_operation, read_form
from service.problems import NO_STORE
from service.settings import Settings
from service.tokens.principal import PUBLIC
from service.tokens.revocation import ForeignToken, Revocation


class RevocationController(Controller):
    """What a client holds and does not want any more."""

    tags = ("For services",)

    @post(
        "/revoke",
        status_code=200,
        operation_id="revoke",
        summary="Give a token up",
        operation_class=form_operation(("token",), "token_type_hint"),
        opt={PUBLIC: True},
        security=[{"client": []}, {}],
        responses={
            200: ResponseSpec(
                None, description="The token is dead, or never was one of ours.", generate_examples=False
            ),
            **oauth_refusals(ForeignToken),
        },
    )
    async def revoke(
        self,
        request: Request[Any, Any, Any],
        *,
        device: NamedDependency[Device],
        client_authentication: NamedDependency[ClientAuthentication],
        revocation: NamedDependency[Revocation],
        limits: NamedDependency[Limits],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Ends an access token alone, or a refresh token with its session and every access token of it.

        Whatever `token_type_hint` says, both kinds are looked for. A token of another client stays alive.
        """
        form = await read_form(request)
        client = await client_authentication.verify(request, form, device)
        token = form.get("token")
        if token is None:
            raise InvalidRequest("no token")
        await limits.take("token-client", settings.limit_token_client, client.id, device.network)
        await revocation.revoke(token, client)
        return Response(b"", status_code=200, headers=NO_STORE, media_type="application/json")

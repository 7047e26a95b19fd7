"""`grant_type=refresh_token` (RFC 6749 section 6): the next pair of tokens, wider than the session never."""

from dataclasses import dataclass

from service.errors import SessionExpired, UnknownClient
from service.login.password import Login
from service.oauth.errors import InvalidGrant, InvalidRequest
from service.oauth.grants.grant import TokenRequest
from service.oauth.targets import aiming
from service.tokens.clients import Clients
from service.tokens.transport import TokenAnswer


@dataclass(frozen=True, slots=True)
class RefreshTokenGrant:
    """The same rotation as `POST /auth/refresh`: single use, a retry gets the same successor, a replay ends it all.

    `scope` and `resource` narrow the access token alone: the next refresh has the whole session again.
    """

    clients: Clients
    login: Login

    async def __call__(self, request: TokenRequest) -> TokenAnswer:
        """Raises `InvalidGrant` for a token that is unknown, ended, replayed, or another client's."""
        presented = request.form.get("refresh_token")
        if presented is None:
            raise InvalidRequest("no refresh_token")
        aim = aiming(request.form, request.client, self.clients, otherwise=self.clients.audience)
        try:
            grant = await self.login.renew(presented, request.client.id, request.device, aim)
        except (SessionExpired, UnknownClient) as refusal:
            raise InvalidGrant(refusal.reason) from None
        return TokenAnswer(grant.access_token, "Bearer", grant.expires_in, grant.scope or None, grant.refresh_token)

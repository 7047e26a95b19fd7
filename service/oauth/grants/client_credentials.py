"""`grant_type=client_credentials` (RFC 6749 section 4.4): a service gets a token to speak for itself."""

from dataclasses import dataclass

from service.audit import Audit
from service.oauth.errors import GrantNotAllowed
from service.oauth.grants.grant import TokenRequest
from service.oauth.targets import choose
from service.tokens.access import AccessTokens
from service.tokens.clients import Client, Clients
from service.tokens.scopes import ACCOUNT
from service.tokens.transport import TokenAnswer


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """An access token and no refresh token: the client can always ask again."""

    clients: Clients
    access_tokens: AccessTokens
    audit: Audit

    async def __call__(self, request: TokenRequest) -> TokenAnswer:
        """`sub` is the client's own id; what belongs to people is never in its scope."""
        client = request.client
        if not client.is_confidential:
            raise GrantNotAllowed("a public client has nothing to speak for")
        allowed = [scope for scope in client.scopes if scope != ACCOUNT]
        aim = choose(request.form, client, self.clients, allowed, otherwise=self._only_audience(client))
        life = min(self.access_tokens.life, client.access_token_life or self.access_tokens.life)
        scope = " ".join(aim.scope)
        token = self.access_tokens.issue_for_client(client.id, aim.audience, scope, life)
        self.audit.record("token.issue", client=client.id, audience=aim.audience, scope=list(aim.scope))
        return TokenAnswer(token, "Bearer", life, scope or None)

    def _only_audience(self, client: Client) -> str | None:
        """The API of a client that asks for none: the one it is registered for, ours when there is none."""
        audiences = client.audiences or [self.clients.audience]
        return audiences[0] if len(audiences) == 1 else None

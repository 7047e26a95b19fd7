"""What is true of an access token at this moment: genuine, in its time, and what it stands for alive."""

from collections.abc import Collection
from dataclasses import dataclass

import structlog

from service.crypto.signer import PersonClaims, ServiceClaims
from service.store.redis import RedisStore
from service.tokens.access import AccessTokens
from service.tokens.clients import Client, Clients
from service.tokens.scopes import in_force
from service.tokens.sessions import Sessions, denial

log = structlog.get_logger("vestibule.inspection")


@dataclass(frozen=True, slots=True)
class Active:
    """A token that lives, with the scope and the roles of this moment: what was taken away since is gone from them."""

    claims: PersonClaims | ServiceClaims
    scope: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Looks at access tokens of people and of services alike."""

    access_tokens: AccessTokens
    sessions: Sessions
    clients: Clients
    store: RedisStore

    async def of(self, token: str, audiences: Collection[str] = ()) -> Active | None:
        """The token, when it is active for one of these audiences (our own by default), else None. One round trip.

        Raises `Unavailable` when that cannot be known.
        """
        claims = self.access_tokens.inspect(token, audiences)
        if claims is None:
            log.debug("inactive: not genuine, not for this audience, or out of time")
            return None
        client = await self.clients.acting(claims.client_id)
        roles = await self._roles(claims, client) if client and self._is_open_to(client, claims.aud) else None
        if client is None or roles is None:
            log.debug("inactive: what it stands for has ended", client=claims.client_id)
            return None
        deciding = roles if isinstance(claims, PersonClaims) else None
        return Active(claims, in_force(claims.scope.split(), client.scopes, deciding), roles)

    def _is_open_to(self, client: Client, audience: str | tuple[str, ...]) -> bool:
        """Whether a client may (still) have tokens for an API."""
        meant = {audience} if isinstance(audience, str) else set(audience)
        return bool(meant & {self.clients.audience, *client.audiences})

    async def _roles(self, claims: PersonClaims | ServiceClaims, client: Client) -> tuple[str, ...] | None:
        """The roles of whom the token speaks for; None when that has ended. A service has no roles but its scopes."""
        if isinstance(claims, PersonClaims):
            return await self.sessions.is_live(claims)
        speaks_for_itself = claims.sub == client.id and "client_credentials" in client.grants
        if not speaks_for_itself or await self.store.exists(denial(claims.sub, claims.jti)):
            return None
        return ()

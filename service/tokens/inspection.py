"""What is true of an access token at this moment: genuine, in its time, and what it stands for alive."""

from collections.abc import Awaitable, Collection
from dataclasses import dataclass

import structlog

from service.crypto.signer import PersonClaims, ServiceClaims
from service.tokens.access import AccessTokens
from service.tokens.clients import Client, Clients
from service.tokens.healing import Healing
from service.tokens.scopes import in_force
from service.tokens.verified import Verified

log = structlog.get_logger("vestibule.inspection")


@dataclass(slots=True, eq=False)
class Active:
    """A token that lives, with the scope and the roles of this moment: what was taken away since is gone from them.

    The same as long as roles and client are the same; `answer` is for how that was last told.
    """

    claims: PersonClaims | ServiceClaims
    scope: tuple[str, ...]
    roles: tuple[str, ...]
    client: Client
    told_roles: bytes
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Looks at access tokens of people and of services alike."""

    access_tokens: AccessTokens
    healing: Healing
    clients: Clients

    async def of(self, token: str, audiences: Collection[str] = ()) -> Active | None:
        """The token, when it is active for one of these audiences (our own by default), else None. One round trip.

        Raises `Unavailable` when that cannot be known.
        """
        verified = self.access_tokens.verified(token, audiences)
        if verified is None:
            log.debug("inactive: not genuine, not for this audience, or out of time")
            return None
        claims = verified.claims
        client = await self.clients.acting(claims.client_id)
        last: Active | None = verified.told
        is_open = client is not None and ((last and last.client is client) or self._is_open_to(client, claims.aud))
        roles = await self._roles(verified, client) if client and is_open else None
        if client is None or roles is None:
            log.debug("inactive: what it stands for has ended", client=claims.client_id)
            return None
        if last is None or last.client is not client or last.told_roles != roles:
            verified.told = last = _active(claims, client, roles)
        return last

    def _is_open_to(self, client: Client, audience: str | tuple[str, ...]) -> bool:
        """Whether a client may (still) have tokens for an API."""
        meant = (audience,) if isinstance(audience, str) else audience
        return any(one == self.clients.audience or one in client.audiences for one in meant)

    def _roles(self, token: Verified, client: Client) -> Awaitable[bytes | None]:
        """The roles of whom the token speaks for; None when that has ended. A service has no roles but its scopes."""
        claims = token.claims
        if isinstance(claims, PersonClaims):
            return self.healing.roles_while_live(token)
        return self._roles_of_service(claims, client)

    async def _roles_of_service(self, claims: ServiceClaims, client: Client) -> bytes | None:
        speaks_for_itself = claims.sub == client.id and "client_credentials" in client.grants
        if not speaks_for_itself or await self.healing.is_denied(claims):
            return None
        return b""


def _active(claims: PersonClaims | ServiceClaims, client: Client, told_roles: bytes) -> Active:
    roles = tuple(told_roles.decode().split())
    deciding = roles if isinstance(claims, PersonClaims) else None
    return Active(claims, in_force(claims.scope.split(), client.scopes, deciding), roles, client, told_roles)

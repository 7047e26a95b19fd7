"""Tokens that end before their time, at the word of the client that holds them (RFC 7009)."""

from dataclasses import dataclass
from datetime import timedelta

from service.audit import Audit
from service.clock import Clock
from service.crypto.signer import PersonClaims, ServiceClaims
from service.errors import ServiceError
from service.store.redis import RedisStore
from service.tokens.access import AccessTokens
from service.tokens.clients import Client
from service.tokens.places import denial
from service.tokens.session_facts import Ended, Held
from service.tokens.sessions import Sessions

CLOCKS_DIFFER = 60_000
"""Milliseconds for which a denial outlives its token: another worker's clock may be behind (ASVS 9.2.1)."""


class ForeignToken(ServiceError):
    """Refused and said so: whoever holds somebody else's token learns nothing by hearing that it is not theirs."""

    code = "invalid_grant"
    detail = "The token was issued to another client."


@dataclass(frozen=True, slots=True)
class Revocation:
    """Revokes access tokens, one at a time, and refresh tokens, with their session and all it issued."""

    access_tokens: AccessTokens
    sessions: Sessions
    store: RedisStore
    audit: Audit
    clock: Clock

    async def revoke(self, token: str, client: Client) -> None:
        """Ends a token of this client; nothing happens for one that is unknown, ended or not ours.

        Raises `ForeignToken` for one of another client, which stays alive; `Unavailable` until it is done.
        """
        claims = self.access_tokens.ours(token, CLOCKS_DIFFER // 1000)
        if claims is not None:
            await self._deny(claims, client)
            return
        held = await self.sessions.held(token)
        if held is not None:
            await self._end(held, client)

    async def _deny(self, claims: PersonClaims | ServiceClaims, client: Client) -> None:
        self._ensure_own(claims.client_id, client)
        left = claims.exp * 1000 - int(self.clock().timestamp() * 1000)
        remember = max(left, 0) + CLOCKS_DIFFER
        ends_at = self.clock() + timedelta(milliseconds=remember)
        try:
            await self.store.run("deny", denial(claims.sub, claims.jti), remember)
        finally:  # either store may be away: the other one knows it all the same, and the client asks again
            await self.sessions.journal.denied(claims.sub, claims.jti, ends_at)
            self.sessions.healing.overlay.tokens[claims.jti] = self.clock()
        self.audit.record("token.revoke", client=client.id, subject=claims.sub, jti=claims.jti)

    async def _end(self, held: Held, client: Client) -> None:
        self._ensure_own(held.client, client)
        await self.sessions.close_held(held, Ended.REVOKED)

    def _ensure_own(self, holder: str, client: Client) -> None:
        if holder != client.id:
            self.audit.record("token.revoke", "foreign", client=client.id, holder=holder)
            raise ForeignToken(f"the token belongs to {holder[:64]!r}")

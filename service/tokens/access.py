"""Access tokens: issued for a session's generation, inspected without any store."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.clock import Clock
from service.crypto.opaque import base64url
from service.crypto.signer import Claims, Signer
from service.errors import Unavailable
from service.settings import Settings
from service.tokens.keys import SigningKeys

JTI_BYTES = 16


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom an access token speaks for. `session` is the public id; `signed_in_at` becomes `auth_time`."""

    account: UUID
    session: bytes
    generation: int
    client: str
    scope: str
    amr: tuple[str, ...]
    roles: tuple[str, ...]
    signed_in_at: datetime


@dataclass(frozen=True, slots=True)
class AccessTokens:
    """Issues and inspects RFC 9068 access tokens."""

    signer: Signer
    keys: SigningKeys
    settings: Settings
    clock: Clock

    @property
    def life(self) -> int:
        """`expires_in` of every token, in seconds."""
        return int(self.settings.access_token_life.total_seconds())

    def issue(self, holder: Holder) -> str:
        """A signed token. Raises `Unavailable` while there is no signing key."""
        now = self.clock()
        issued_at = int(now.timestamp())
        claims = Claims(
            iss=self.signer.issuer,
            sub=str(holder.account),
            aud=self.signer.audience,
            exp=issued_at + self.life,
            iat=issued_at,
            jti=f"{holder.generation}.{base64url(secrets.token_bytes(JTI_BYTES))}",
            client_id=holder.client,
            scope=holder.scope,
            sid=base64url(holder.session),
            auth_time=int(holder.signed_in_at.timestamp()),
            amr=holder.amr,
            roles=holder.roles,
        )
        token = self.signer.sign(claims, self.keys.keyring, now)
        if token is None:
            raise Unavailable("no signing key is active")
        return token

    def inspect(self, token: str) -> Claims | None:
        """The claims of a token that is genuine and in force; whether its session lives is another question.

        Raises `Unavailable` while no key is loaded: without keys nothing can be known about a token.
        """
        if not self.keys.keyring.keys:
            raise Unavailable("no signing key is loaded")
        return self.signer.verify(token, self.keys.keyring, self.clock())


def generation_of(claims: Claims) -> int:
    """The session's generation for which the token was issued; it leads the `jti`."""
    leading = claims.jti.partition(".")[0]
    return int(leading) if leading.isdecimal() else -1

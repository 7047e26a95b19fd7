"""Access tokens: issued for a session's generation or for a client itself, inspected without any store."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.clock import Clock
from service.crypto.opaque import base64url
from service.crypto.signer import Claims, PersonClaims, ServiceClaims, Signer
from service.errors import Unavailable
from service.settings import Settings
from service.tokens.keys import SigningKeys
from service.tokens.verified import Verified, VerifiedTokens

JTI_BYTES = 16


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom an access token speaks for. `session` is the public id; `signed_in_at` becomes `auth_time`.

    `audience` is whom it is for, `life` how long it lives at most, in seconds.
    """

    account: UUID
    session: bytes
    generation: int
    client: str
    scope: str
    amr: tuple[str, ...]
    roles: tuple[str, ...]
    signed_in_at: datetime
    audience: str
    life: int


@dataclass(frozen=True, slots=True)
class AccessTokens:
    """Issues and inspects RFC 9068 access tokens."""

    signer: Signer
    keys: SigningKeys
    settings: Settings
    clock: Clock
    seen: VerifiedTokens

    @property
    def life(self) -> int:
        """How long a token lives, in seconds; less where its client is registered with less."""
        return int(self.settings.access_token_life.total_seconds())

    def issue(self, holder: Holder) -> str:
        """A signed token. Raises `Unavailable` while there is no signing key."""
        now = self.clock()
        issued_at = int(now.timestamp())
        claims = PersonClaims(
            iss=self.signer.issuer,
            sub=str(holder.account),
            aud=holder.audience,
            exp=issued_at + holder.life,
            iat=issued_at,
            jti=f"{holder.generation}.{base64url(secrets.token_bytes(JTI_BYTES))}",
            client_id=holder.client,
            scope=holder.scope,
            sid=base64url(holder.session),
            auth_time=int(holder.signed_in_at.timestamp()),
            amr=holder.amr,
            roles=holder.roles,
        )
        return self._signed(claims, now)

    def issue_for_client(self, client: str, audience: str, scope: str, life: int) -> str:
        """A signed token by which a client speaks for itself, for so many seconds. Raises `Unavailable`."""
        now = self.clock()
        issued_at = int(now.timestamp())
        claims = ServiceClaims(
            iss=self.signer.issuer,
            sub=client,
            aud=audience,
            exp=issued_at + life,
            iat=issued_at,
            jti=base64url(secrets.token_bytes(JTI_BYTES)),
            client_id=client,
            scope=scope,
        )
        return self._signed(claims, now)

    def inspect(self, token: str, audiences: Collection[str] = ()) -> PersonClaims | ServiceClaims | None:
        """The claims of a token that is genuine, for one of these audiences (our own by default) and in force;
        whether what it stands for lives is another question.

        Raises `Unavailable` while no key is loaded: without keys nothing can be known about a token.
        """
        verified = self.verified(token, audiences)
        return verified.claims if verified else None

    def verified(self, token: str, audiences: Collection[str] = ()) -> Verified | None:
        """The same with what is remembered of the token."""
        keyring, now = self.keys.keyring, self.clock()
        if not keyring.keys:
            raise Unavailable("no signing key is loaded")
        found = self.seen.find(token, keyring, now)
        return found if found is not None and self.signer.is_for(found.claims, audiences) else None

    def ours(self, token: str, late: int) -> PersonClaims | ServiceClaims | None:
        """The claims of any access token of ours, until so many seconds after its end. Raises `Unavailable`."""
        if not self.keys.keyring.keys:
            raise Unavailable("no signing key is loaded")
        return self.signer.verify_ours(token, self.keys.keyring, self.clock(), late)

    def sign_document(self, document: bytes, kind: str) -> str:
        """Another document of ours as a JWT of this `typ`. Raises `Unavailable`."""
        token = self.signer.sign_document(document, kind, self.keys.keyring, self.clock())
        if token is None:
            raise Unavailable("no signing key is active")
        return token

    def _signed(self, claims: Claims, now: datetime) -> str:
        token = self.signer.sign(claims, self.keys.keyring, now)
        if token is None:
            raise Unavailable("no signing key is active")
        return token

"""Signs access tokens (RFC 9068) and answers of introspection (RFC 9701); verifies access tokens and nothing else.

The order of the checks is the security (RFC 8725): shape, header, key by its id, signature, and only then a look at
any claim. The algorithm is the key's, never the token's; header members that could name another key are refused.
"""

import re
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Annotated

import jwt
import msgspec

from service import strict_json
from service.crypto.keyring import ALGORITHM, Keyring
from service.crypto.opaque import from_base64url
from service.errors import Unavailable

TYPE = "at+jwt"
ACCEPTED_TYPES = {"at+jwt", "application/at+jwt"}
MAX_TOKEN_LENGTH = 4096
COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}", re.ASCII)

Text = Annotated[str, msgspec.Meta(min_length=1)]
NumericDate = Annotated[int, msgspec.Meta(ge=0, le=2**43)]


class Claims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The claims of every access token (RFC 9068 section 2.2), times in seconds; no personal data.

    `scope` is left out when it is empty; `nbf` is read where a token has it, and never written.
    """

    iss: Text
    sub: Text
    aud: Text | tuple[Text, ...]
    exp: NumericDate
    iat: NumericDate
    jti: Text
    client_id: Text
    scope: str = ""
    nbf: NumericDate = 0


class PersonClaims(Claims, frozen=True, kw_only=True):
    """A person speaks, through a session: `sub` is their account."""

    sid: Text
    auth_time: NumericDate
    amr: tuple[str, ...]
    roles: tuple[str, ...]


class ServiceClaims(Claims, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client speaks for itself: `sub` is its id (RFC 9068 section 2.2), and nothing of a person is in it."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: Text
    typ: str


class Signer:
    """Speaks for one issuer to one audience, with `leeway` for clocks that differ."""

    def __init__(self, issuer: str, audience: str, leeway: timedelta) -> None:
        self.issuer = issuer
        self.audience = audience
        self._leeway = int(leeway.total_seconds())
        self._jws = jwt.PyJWS(algorithms=[ALGORITHM])

    def sign(self, claims: Claims, keyring: Keyring, now: datetime) -> str | None:
        """The compact token, or None when no key may sign at this moment."""
        key = keyring.current(now)
        if key is None:
            return None
        payload = msgspec.json.encode(claims)
        return self._jws.encode(payload, key.private, algorithm=ALGORITHM, headers={"kid": key.kid, "typ": TYPE})

    def sign_document(self, document: bytes, kind: str, keyring: Keyring, now: datetime) -> str | None:
        """The compact form of another JSON document; `kind` is its `typ`, never that of an access token."""
        key = keyring.current(now)
        if key is None:
            return None
        return self._jws.encode(document, key.private, algorithm=ALGORITHM, headers={"kid": key.kid, "typ": kind})

    def verify(
        self, token: str, keyring: Keyring, now: datetime, audiences: Collection[str] = ()
    ) -> PersonClaims | ServiceClaims | None:
        """The claims of a token that is ours, whole, for one of these audiences (our own by default) and in its time;
        None for every doubt. Raises `Unavailable` for a key that is there and cannot be read."""
        payload = self._authentic_payload(token, keyring, now)
        claims = _read_claims(payload) if payload else None
        if claims is None or not self._in_force(claims, int(now.timestamp()), audiences or (self.audience,)):
            return None
        return claims

    def verify_ours(
        self, token: str, keyring: Keyring, now: datetime, late: int
    ) -> PersonClaims | ServiceClaims | None:
        """The claims of a token that we issued, for whichever audience, until so many seconds after its end: another
        worker, whose clock is behind, may still believe it."""
        payload = self._authentic_payload(token, keyring, now)
        claims = _read_claims(payload) if payload else None
        is_ours = claims is not None and claims.iss == self.issuer and claims.exp + late > now.timestamp()
        return claims if is_ours else None

    def _authentic_payload(self, token: str, keyring: Keyring, now: datetime) -> bytes | None:
        if len(token) > MAX_TOKEN_LENGTH or not COMPACT.fullmatch(token):
            return None
        parts = [from_base64url(part) for part in token.split(".")]
        header = _read_header(parts[0])
        if None in parts or header is None or header.alg != ALGORITHM or header.typ.lower() not in ACCEPTED_TYPES:
            return None
        key = keyring.find(header.kid, now)
        if key is None and header.kid in keyring.unreadable:
            raise Unavailable(f"the signing key {header.kid} cannot be unsealed here")
        if key is None:
            return None
        try:
            payload: bytes = self._jws.decode(token, key.private.public_key(), algorithms=[ALGORITHM])
        except jwt.PyJWTError:
            return None
        return payload

    def _in_force(self, claims: Claims, now: int, audiences: Collection[str]) -> bool:
        meant = (claims.aud,) if isinstance(claims.aud, str) else claims.aud
        return (
            claims.iss == self.issuer
            and any(audience in audiences for audience in meant)
            and claims.exp > now
            and claims.iat <= now + self._leeway
            and claims.nbf <= now + self._leeway
        )


def _read_claims(payload: bytes) -> PersonClaims | ServiceClaims | None:
    try:
        document = strict_json.loads(payload)
        if isinstance(document, dict) and "sid" in document:
            return msgspec.json.decode(payload, type=PersonClaims)
        return msgspec.json.decode(payload, type=ServiceClaims)
    except (ValueError, msgspec.ValidationError):
        return None


def _read_header(raw: bytes | None) -> Header | None:
    try:
        return msgspec.convert(strict_json.loads(raw or b""), Header)
    except (ValueError, msgspec.ValidationError):
        return None

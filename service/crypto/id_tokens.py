"""ID tokens of foreign OpenID providers (OpenID Connect Core 3.1.3.7): believed only when nothing at all is wrong.

They come over TLS from the provider itself and are verified all the same (ASVS 6.8.2). The algorithm is one of the
provider's that we allow, and the key one of that algorithm's type: the token chooses neither (RFC 8725 3.1).
"""

import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256, sha384, sha512
from typing import Annotated, Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from service import strict_json
from service.crypto.opaque import base64url, from_base64url

ALGORITHMS = ("RS256", "PS256", "ES256", "RS384", "PS384", "ES384", "RS512", "PS512", "ES512", "EdDSA")
"""Asymmetric ones alone: with a symmetric one every reader of the secret could sign."""
HASHES = {"256": sha256, "384": sha384, "512": sha512}
LONGEST = 16_384
COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", re.ASCII)
LEAST_RSA_BITS = 2048
MOST_KEYS = 50
PUBLIC = ("kty", "kid", "use", "alg", "n", "e", "crv", "x", "y")
"""What a key is read by: a private half would be taken apart, which takes minutes for a large one."""
LONGEST_N = 1400
"""Characters of an RSA modulus of 8192 bits."""

NumericDate = Annotated[float, msgspec.Meta(ge=0, le=2**43)]


class IdTokenRefused(Exception):
    """Something is wrong with an ID token; the text is for the log."""


class UnknownKey(IdTokenRefused):
    """It was signed with a key that is not among those we know: the provider may have a new one."""


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str | None = None
    typ: str = "JWT"
    crit: Any = None


class IdClaims(msgspec.Struct, frozen=True):
    """What an ID token says. The profile is as the provider writes it: of no certain type."""

    iss: str
    sub: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    aud: str | tuple[str, ...]
    exp: NumericDate
    iat: NumericDate
    nonce: str | None = None
    azp: str | None = None
    at_hash: str | None = None
    auth_time: NumericDate | None = None
    nbf: NumericDate = 0
    email: Any = None
    email_verified: Any = None
    name: Any = None
    preferred_username: Any = None
    picture: Any = None
    locale: Any = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What an ID token must say. Without a `nonce` none was sent, and the token must not have one either."""

    issuer: str
    client_id: str
    nonce: str | None
    access_token: str
    algorithms: Collection[str]


def read_jwks(document: object) -> tuple[dict[str, Any], ...]:
    """The signature keys of a JWK Set (RFC 7517). Raises `ValueError` for what is none."""
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not 1 <= len(keys) <= MOST_KEYS:
        raise ValueError("not a JWK Set")
    public = [{name: key[name] for name in PUBLIC if name in key} for key in keys if isinstance(key, dict)]
    usable = [key for key in public if key.get("use", "sig") == "sig" and len(str(key.get("n", ""))) <= LONGEST_N]
    if not usable:
        raise ValueError("no key for signatures")
    return tuple(usable)


def verify(
    token: str, keys: Sequence[dict[str, Any]], expected: Expected, now: datetime, leeway: timedelta
) -> IdClaims:
    """The claims of a genuine ID token for us, about this sign-in, in its time.

    Raises `UnknownKey` when other keys might verify it, `IdTokenRefused` for every other doubt.
    """
    header = _header(token)
    if header.alg not in expected.algorithms or header.alg not in ALGORITHMS:
        raise IdTokenRefused(f"algorithm {header.alg[:16]!r}")
    fitting = [key for key in keys if _fits(key, header)]
    if not fitting:
        raise UnknownKey("no key of that id")
    payload = next(filter(None, (_payload(token, key, header.alg) for key in fitting)), None)
    if payload is None:
        is_named = header.kid is not None and all(key.get("kid") == header.kid for key in fitting)
        raise IdTokenRefused("signature") if is_named else UnknownKey("signature")
    try:
        claims = msgspec.convert(strict_json.loads(payload), IdClaims)
    except (ValueError, msgspec.ValidationError):
        raise IdTokenRefused("claims") from None
    _ensure_holds(claims, expected, header.alg, now.timestamp(), leeway.total_seconds())
    return claims


def _header(token: str) -> _Header:
    if len(token) > LONGEST or not COMPACT.fullmatch(token):
        raise IdTokenRefused("shape")
    raw = from_base64url(token.partition(".")[0])
    try:
        strict_json.loads(raw or b"")
        header = msgspec.json.decode(raw or b"", type=_Header)
    except (ValueError, msgspec.ValidationError):
        raise IdTokenRefused("header") from None
    if header.crit is not None or header.typ.lower() not in {"jwt", ""}:
        raise IdTokenRefused("header")
    return header


def _fits(key: dict[str, Any], header: _Header) -> bool:
    is_named = header.kid is None or key.get("kid") is None or key.get("kid") == header.kid
    return is_named and key.get("alg", header.alg) == header.alg


def _payload(token: str, key: dict[str, Any], algorithm: str) -> bytes | None:
    """The payload when this key signed it; PyJWT refuses a key whose type is not the algorithm's."""
    try:
        public = jwt.PyJWK(key, algorithm=algorithm).key
        if isinstance(public, rsa.RSAPublicKey) and public.key_size < LEAST_RSA_BITS:
            return None
        payload: bytes = jwt.PyJWS(algorithms=[algorithm]).decode(token, public, algorithms=[algorithm])
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError):
        return None
    return payload


def _ensure_holds(said: IdClaims, expected: Expected, algorithm: str, now: float, leeway: float) -> None:
    meant = (said.aud,) if isinstance(said.aud, str) else said.aud
    rules = (
        (said.iss == expected.issuer, "iss"),
        (set(meant) == {expected.client_id}, "aud"),
        (said.azp in {None, expected.client_id}, "azp"),
        (said.exp > now - leeway, "exp"),
        (said.iat <= now + leeway and said.nbf <= now + leeway, "iat"),
        (_is_same(said.nonce, expected.nonce), "nonce"),
        (said.at_hash is None or said.at_hash == _half_hash(expected.access_token, algorithm), "at_hash"),
        (said.auth_time is None or said.auth_time <= now + leeway, "auth_time"),
    )
    for holds, claim in rules:
        if not holds:
            raise IdTokenRefused(claim)


def _is_same(said: str | None, expected: str | None) -> bool:
    if said is None or expected is None:
        return said is expected
    return hmac.compare_digest(said.encode(), expected.encode())


def _half_hash(access_token: str, algorithm: str) -> str:
    """The left half of its hash (OpenID Connect Core 3.1.3.6)."""
    digest = HASHES.get(algorithm[2:], sha512)(access_token.encode("utf-8", "replace")).digest()
    return base64url(digest[: len(digest) // 2])

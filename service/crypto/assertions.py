"""Client assertions (RFC 7523 section 3): JWTs by which a client proves that it holds a registered private key."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service import strict_json
from service.crypto.opaque import from_base64url

ALGORITHMS = {"EC": "ES256", "RSA": "PS256"}
"""The one algorithm of each type of key: it is never the token's to choose (RFC 8725 section 3.1)."""
TYPES = {"", "jwt", "client-authentication+jwt"}
LEAST_RSA_BITS, MOST_RSA_BITS = 3072, 8192
MOST_KEYS = 10
LONGEST = 4096
SEPARATORS = 2
LONGEST_LIFE = timedelta(minutes=5)
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
NumericDate = Annotated[float, msgspec.Meta(ge=0, le=2**43)]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: str | None = None
    typ: str = ""


class _Issued(msgspec.Struct, frozen=True):
    iss: str


class Assertion(msgspec.Struct, frozen=True):
    """What an assertion says; `aud` is one string, as the update of RFC 7523 asks."""

    iss: Text
    sub: Text
    aud: Text
    jti: Text
    exp: NumericDate
    iat: NumericDate = 0
    nbf: NumericDate = 0


@dataclass(frozen=True, slots=True)
class ClientKey:
    """One public key of a client, with the only algorithm it is used with."""

    kid: str | None
    algorithm: str
    public: Any


def read_keys(jwks: object) -> tuple[ClientKey, ...]:
    """The keys of a client's JWK Set (RFC 7517). Raises `ValueError` that says what is wrong with it."""
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list) or not 1 <= len(keys) <= MOST_KEYS:
        raise ValueError(f"a JWK Set with 1 to {MOST_KEYS} keys is wanted")
    read = tuple(_read_key(key) for key in keys)
    kids = [key.kid for key in read if key.kid is not None]
    if len(kids) != len(set(kids)):
        raise ValueError("two keys have one kid")
    return read


def claimed_client(token: str) -> str | None:
    """The client that an assertion says it comes from: to look up its keys by, proved by nothing yet."""
    body = from_base64url(token.split(".")[1]) if len(token) <= LONGEST and token.count(".") == SEPARATORS else None
    try:
        return msgspec.convert(strict_json.loads(body or b""), _Issued).iss
    except (ValueError, msgspec.ValidationError):
        return None


def verify(token: str, keys: tuple[ClientKey, ...], issuer: str, now: datetime, leeway: timedelta) -> Assertion | None:
    """What a genuine assertion to us says, in its time; None for every doubt. Whether its `jti` is new is asked
    elsewhere."""
    header = _read_header(token)
    if header is None or header.typ.lower() not in TYPES:
        return None
    for key in keys:
        if key.algorithm == header.alg and (header.kid is None or key.kid is None or key.kid == header.kid):
            assertion = _read(token, key)
            if assertion is not None:
                return assertion if _holds(assertion, issuer, now.timestamp(), leeway) else None
    return None


def _read_key(jwk: object) -> ClientKey:
    if not isinstance(jwk, dict) or PRIVATE_MEMBERS & jwk.keys():
        raise ValueError("a key is no public JWK")
    algorithm = ALGORITHMS.get(str(jwk.get("kty")))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or jwk.get("use", "sig") != "sig":
        raise ValueError("a key must be EC P-256 (ES256) or RSA (PS256), for signatures")
    try:
        public = jwt.PyJWK(jwk, algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise ValueError("a key cannot be read") from None
    if isinstance(public, ec.EllipticCurvePublicKey) and not isinstance(public.curve, ec.SECP256R1):
        raise ValueError("an EC key must be on P-256")
    if isinstance(public, rsa.RSAPublicKey) and not LEAST_RSA_BITS <= public.key_size <= MOST_RSA_BITS:
        raise ValueError(f"an RSA key must have {LEAST_RSA_BITS} to {MOST_RSA_BITS} bits")
    kid = jwk.get("kid")
    if not isinstance(kid, str | None):
        raise ValueError("a kid is a text")
    return ClientKey(kid, algorithm, public)


def _read_header(token: str) -> _Header | None:
    if len(token) > LONGEST:
        return None
    try:
        return msgspec.convert(strict_json.loads(from_base64url(token.partition(".")[0]) or b""), _Header)
    except (ValueError, msgspec.ValidationError):
        return None


def _read(token: str, key: ClientKey) -> Assertion | None:
    try:
        payload: bytes = jwt.PyJWS(algorithms=[key.algorithm]).decode(token, key.public, algorithms=[key.algorithm])
        return msgspec.convert(strict_json.loads(payload), Assertion)
    except (jwt.PyJWTError, ValueError, msgspec.ValidationError):
        return None


def _holds(said: Assertion, issuer: str, now: float, leeway: timedelta) -> bool:
    slack = leeway.total_seconds()
    return (
        said.iss == said.sub
        and said.aud == issuer
        and now < said.exp <= now + LONGEST_LIFE.total_seconds() + slack
        and said.iat <= now + slack
        and said.nbf <= now + slack
    )

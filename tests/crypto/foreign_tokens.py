"""ID tokens as a provider would make them, and as somebody would who wants to be taken for it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384, sha512
from typing import Any, cast

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.crypto.id_tokens import ALGORITHMS, Expected, IdClaims, IdTokenRefused, verify
from service.crypto.opaque import base64url

ISSUER = "https://provider.test"
CLIENT = "vestibule"
NONCE = "the nonce of this sign-in"
ACCESS_TOKEN = "the access token beside it"
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
LEEWAY = timedelta(seconds=30)
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "ann-1",
    "aud": CLIENT,
    "exp": SECONDS + 600,
    "iat": SECONDS,
    "nonce": NONCE,
    "email": "ann@example.net",
    "email_verified": True,
}
EXPECTED = Expected(ISSUER, CLIENT, NONCE, ACCESS_TOKEN, ALGORITHMS)
DIGESTS = {"256": sha256, "384": sha384, "512": sha512, "DSA": sha512}


@dataclass(frozen=True)
class Signatory:
    """One key of a provider with the algorithm it is for."""

    alg: str
    private: Any
    kid: str

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half, as a JWK Set has it."""
        public = cast("Any", jwt.get_algorithm_by_name(self.alg)).to_jwk(self.private.public_key(), as_dict=True)
        return {"kty": public["kty"], **public, "kid": self.kid, "alg": self.alg, "use": "sig"}

    def sign(self, header: object, payload: object) -> str:
        """Header and payload with the signature of the algorithm, whatever they hold."""
        message = f"{part(header)}.{part(payload)}"
        algorithm = jwt.get_algorithm_by_name(self.alg)
        return f"{message}.{base64url(algorithm.sign(message.encode(), cast('Any', self.private)))}"


def part(value: object) -> str:
    """A segment: of bytes as they are, of anything else as JSON."""
    return base64url(value if isinstance(value, bytes) else json.dumps(value).encode())


RSA = rsa.generate_private_key(65537, 2048)
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
SIGNATORIES = {
    alg: Signatory(
        alg,
        ec.generate_private_key(CURVES[alg])
        if alg in CURVES
        else ed25519.Ed25519PrivateKey.generate()
        if alg == "EdDSA"
        else RSA,
        f"key of {alg}",
    )
    for alg in ALGORITHMS
}
"""One key for each algorithm that is allowed; those of RSA share theirs."""
USUAL = SIGNATORIES["ES256"]
KEYS = tuple(one.jwk for one in SIGNATORIES.values())


def header_of(signatory: Signatory = USUAL, **other: object) -> dict[str, object]:
    """A header with other members; None leaves one out."""
    members = {"alg": signatory.alg, "kid": signatory.kid, "typ": "JWT", **other}
    return {name: value for name, value in members.items() if value is not None}


def claims_with(**other: object) -> dict[str, Any]:
    """The claims with others; None leaves one out."""
    return {name: value for name, value in {**CLAIMS, **other}.items() if value is not None}


def token_with(**other: object) -> str:
    """A well-signed token with other claims."""
    return USUAL.sign(header_of(), claims_with(**other))


def at_hash(alg: str, access_token: str = ACCESS_TOKEN) -> str:
    """OpenID Connect Core 3.1.3.6; Ed25519 hashes with SHA-512."""
    digest = DIGESTS[alg[2:]](access_token.encode()).digest()
    return base64url(digest[: len(digest) // 2])


def believed(
    token: str, keys: Sequence[Mapping[str, Any]] = KEYS, expected: Expected = EXPECTED, at: datetime = NOW
) -> IdClaims:
    """The claims, for whoever believes them. Raises `IdTokenRefused`."""
    return verify(token, [dict(key) for key in keys], expected, at, LEEWAY)


def objection(
    token: str, keys: Sequence[Mapping[str, Any]] = KEYS, expected: Expected = EXPECTED, at: datetime = NOW
) -> str:
    """Why a token is refused; empty when it is believed. Any other exception than the refusal is a bug."""
    try:
        believed(token, keys, expected, at)
    except IdTokenRefused as refusal:
        return str(refusal) or "refused"
    return ""


def expecting(**other: Any) -> Expected:
    """What is expected otherwise than usually."""
    return replace(EXPECTED, **other)


GOOD = token_with()
STRANGER = Signatory("ES256", ec.generate_private_key(ec.SECP256R1()), USUAL.kid)
"""Somebody with a key of their own, under the id of another."""

"""The signing keys of the OpenID provider that is played, and signatures that nobody should believe."""

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from service.crypto.opaque import base64url

ALGORITHM = "ES256"
KID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Key:
    """One ES256 key pair with a random id."""

    kid: str = field(default_factory=lambda: secrets.token_hex(KID_BYTES))
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half."""
        public = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig", "alg": ALGORITHM}


class Keys:
    """The published keys; the newest one signs."""

    def __init__(self) -> None:
        self._published = [Key()]

    def add(self) -> None:
        """A new key signs from now on; those before it stay published."""
        self._published.append(Key())

    def rotate(self) -> None:
        """A new key signs from now on, and is the only one that is published."""
        self._published = [Key()]

    @property
    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The JWK Set."""
        return {"keys": [key.jwk for key in self._published]}

    def sign(self, claims: Mapping[str, Any], fault: str = "") -> str:
        """The compact JWS, well or as the fault has it."""
        key = self._published[-1]
        if fault == "hs256_with_public_key":
            return _with_public_key(claims, key)
        if fault == "unsigned":
            return jwt.encode(dict(claims), "", algorithm="none", headers={"kid": key.kid})
        if fault == "bad_signature":
            key = Key(kid=key.kid)
        if fault == "unknown_key":
            key = Key()
        return jwt.encode(dict(claims), key.private, algorithm=ALGORITHM, headers={"kid": key.kid})


def _with_public_key(claims: Mapping[str, Any], key: Key) -> str:
    """PyJWT would refuse to take a public key for a shared secret, which is what careless verifiers do."""
    header = {"alg": "HS256", "typ": "JWT", "kid": key.kid}
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    public = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"{signed}.{base64url(hmac.new(public, signed.encode(), sha256).digest())}"

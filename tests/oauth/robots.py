"""Services that prove themselves by a key, and whatever they could sign."""

import base64
import json
import secrets
from dataclasses import dataclass
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.wiring import Services
from tests.conftest import ISSUER, TestClock
from tests.deeds import registered
from tests.oauth.proving import ASSERTION_TYPE, Auth, new_id_of_client

Claims = dict[str, Any]


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def text_of(part: object) -> bytes:
    """A header or claims as they travel; bytes stay as they are."""
    return part if isinstance(part, bytes) else json.dumps(part).encode()


@dataclass(frozen=True)
class Key:
    """A private key of a client."""

    kid: str
    algorithm: str
    private: Any

    @property
    def jwk(self) -> dict[str, Any]:
        """What is registered of it."""
        kind = jwt.get_algorithm_by_name(self.algorithm)
        return {**json.loads(kind.to_jwk(self.private.public_key())), "kid": self.kid, "key_ops": ["verify"]}

    @property
    def pem(self) -> bytes:
        public: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return public


def signed(header: object, claims: object, algorithm: str, key: Any) -> str:
    """Whatever is told, with a signature of this algorithm over it."""
    message = f"{encoded(text_of(header))}.{encoded(text_of(claims))}"
    return f"{message}.{encoded(jwt.get_algorithm_by_name(algorithm).sign(message.encode(), key))}"


@dataclass(frozen=True)
class Robot:
    """A service that proves itself by its key alone."""

    client_id: str
    key: Key
    clock: TestClock

    def claims(self, **changed: Any) -> Claims:
        """Those of a good assertion; None leaves one out."""
        now = int(self.clock().timestamp())
        good = {"iss": self.client_id, "sub": self.client_id, "aud": ISSUER, "iat": now, "exp": now + 60}
        all_claims = {**good, "jti": secrets.token_urlsafe(12), **changed}
        return {name: value for name, value in all_claims.items() if value is not None}

    def assertion(self, *, key: Key | None = None, header: dict[str, Any] | None = None, **changed: Any) -> str:
        key = key or self.key
        head = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT", **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        return signed(head, self.claims(**changed), key.algorithm, key.private)


def by(assertion: str, **form: str) -> Auth:
    return {"form": {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion, **form}}


def new_key(kid: str) -> Key:
    return Key(kid, "ES256", ec.generate_private_key(ec.SECP256R1()))


EC_KEY, SECOND_KEY, STRANGE_KEY = new_key("first"), new_key("second"), new_key("first")


@cache
def rsa_key() -> Key:
    """Slow to make: not before a test wants it."""
    return Key("rsa", "PS256", rsa.generate_private_key(65537, 3072))


async def new_robot(services: Services, clock: TestClock, *keys: Key) -> Robot:
    client_id = new_id_of_client()
    jwks = {"keys": [key.jwk for key in keys]}
    secret = await registered(services, client_id, auth_methods=["private_key_jwt"], jwks=jwks)
    assert secret == ""
    return Robot(client_id, keys[0], clock)

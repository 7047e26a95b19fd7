"""The signing keys as a value: which one signs now, which ones are believed, what the JWKS shows.

A key's state follows from two moments, so that every worker changes over at the same time without talking to the
others: `next` until `activates_at` (or while it is unset), `active` until its successor activates, then `retired`
until the last token that it signed has ended, then gone. Publish first, sign later (RFC 8725, OIDC Core 10.1.1).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from service.crypto.opaque import base64url

ALGORITHM = "ES256"
COORDINATE_BYTES = 32

State = Literal["next", "active", "retired", "gone", "revoked"]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One ES256 key pair; `kid` is the RFC 7638 thumbprint of its public half."""

    kid: str
    private: ec.EllipticCurvePrivateKey = field(compare=False)
    created_at: datetime
    activates_at: datetime | None
    is_revoked: bool = False
    public: ec.EllipticCurvePublicKey = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "public", self.private.public_key())

    @property
    def jwk(self) -> dict[str, str]:
        """The public half (RFC 7517, RFC 7518 section 6.2); coordinates keep their leading zeros."""
        return {**_coordinates(self.public), "kid": self.kid, "use": "sig", "alg": ALGORITHM}


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys that are not gone, oldest first; `linger` is how long a retired key is still believed.

    `unreadable` are the ids of keys that are there, but sealed under a root key that is not: nothing can be known about
    their tokens.
    """

    keys: tuple[SigningKey, ...]
    linger: timedelta
    unreadable: frozenset[str] = frozenset()

    @classmethod
    def of(cls, keys: Sequence[SigningKey], linger: timedelta, unreadable: frozenset[str] = frozenset()) -> "Keyring":
        """Orders the keys by the moment they begin to sign; the unscheduled ones come last."""
        return cls(
            tuple(sorted(keys, key=lambda k: (k.activates_at is None, k.activates_at or k.created_at))),
            linger,
            unreadable,
        )

    def current(self, now: datetime) -> SigningKey | None:
        """The key that signs at this moment; None when there is none (yet)."""
        begun = [key for key in self.keys if self.state(key, now) in {"active", "retired"}]
        return begun[-1] if begun else None

    def find(self, kid: str, now: datetime) -> SigningKey | None:
        """The key with this id, if its tokens are believed at this moment."""
        return next((key for key in self.keys if key.kid == kid and self._is_believed(key, now)), None)

    def state(self, key: SigningKey, now: datetime) -> State:
        """Where in its life a key is. A key that was revoked is nothing else any more; it still counts as a successor,
        so that no older one comes back to life."""
        if key.is_revoked:
            return "revoked"
        if key.activates_at is None or key.activates_at > now:
            return "next"
        successors = [k.activates_at for k in self.keys if k.activates_at and key.activates_at < k.activates_at <= now]
        if not successors:
            return "active"
        return "retired" if now < min(successors) + self.linger else "gone"

    def jwks(self, now: datetime) -> dict[str, list[dict[str, str]]]:
        """The JWK Set (RFC 7517 section 5) of every key that signs, will sign, or is still believed."""
        return {"keys": [key.jwk for key in self.keys if self._is_believed(key, now)]}

    def _is_believed(self, key: SigningKey, now: datetime) -> bool:
        return self.state(key, now) not in {"gone", "revoked"}


def thumbprint(public: ec.EllipticCurvePublicKey) -> str:
    """The RFC 7638 thumbprint: SHA-256 over the required members in lexical order."""
    canonical = json.dumps(_coordinates(public), sort_keys=True, separators=(",", ":"))
    sha = Hash(SHA256())
    sha.update(canonical.encode())
    return base64url(sha.finalize())


def _coordinates(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": base64url(numbers.x.to_bytes(COORDINATE_BYTES)),
        "y": base64url(numbers.y.to_bytes(COORDINATE_BYTES)),
    }

"""Proof Key for Code Exchange (RFC 7636): whoever redeems a code is who asked for it."""

import secrets
from hashlib import sha256

from service.crypto.opaque import base64url

VERIFIER_BYTES = 48


def new_verifier() -> str:
    """64 unreserved characters, of the 43 to 128 that section 4.1 wants."""
    return secrets.token_urlsafe(VERIFIER_BYTES)


def challenge_of(verifier: str) -> str:
    """The S256 challenge (section 4.2)."""
    return base64url(sha256(verifier.encode()).digest())

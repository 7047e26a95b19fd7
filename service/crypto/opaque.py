"""Opaque tokens: a prefix that says what it is, 256 bits that say nothing, a checksum that spares a look-up.

The prefix lets secret scanners find a leaked token; the checksum (CRC-32) refuses typing errors and noise before
any store is asked. It is no protection against forgery: that is the random part or the MAC inside.
"""

import base64
import re
import secrets
import string
import struct
import zlib

RANDOM_BYTES = 32
CHECKSUM = struct.Struct(">I")
BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
LAST = (string.ascii_letters + string.digits + "-_", "", "AQgw", "AEIMQUYcgkosw048")
"""What a text may end with, by the signs behind the last whole four: bits that say nothing are zero."""


def mint(prefix: str) -> str:
    """A new random token such as `vcs_…` (ASVS 11.5.1: 256 bits of a CSPRNG)."""
    return encode(prefix, secrets.token_bytes(RANDOM_BYTES))


def encode(prefix: str, body: bytes) -> str:
    """`prefix_` and the base64url of the body with its checksum behind it."""
    checksum = CHECKSUM.pack(zlib.crc32(prefix.encode() + body))
    return f"{prefix}_{base64url(body + checksum)}"


def decode(prefix: str, token: str) -> bytes | None:
    """The body, or None when the prefix, the alphabet or the checksum is off."""
    head, _, encoded = token.partition("_")
    if head != prefix:
        return None
    raw = from_base64url(encoded)
    if raw is None or len(raw) <= CHECKSUM.size:
        return None
    body, checksum = raw[: -CHECKSUM.size], raw[-CHECKSUM.size :]
    return body if CHECKSUM.pack(zlib.crc32(prefix.encode() + body)) == checksum else None


def base64url(raw: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes | None:
    """The bytes, or None; accepts the one canonical spelling only, so that a token has no aliases."""
    if not BASE64URL.fullmatch(text) or text[-1] not in LAST[len(text) % 4]:
        return None
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

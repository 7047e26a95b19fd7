"""Secrets at rest: AES-256-GCM, bound to the row they belong to (ASVS 11.3.2, 11.3.3)."""

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.crypto.roots import RootKeys

VERSION = 1
NONCE_BYTES = 12
HEADER = struct.Struct(">BB")


class UnsealError(Exception):
    """The blob is damaged, belongs to another row, or its root key is gone: one answer for all (ASVS 11.2.5)."""


def seal(roots: RootKeys, plaintext: bytes, bound_to: str) -> bytes:
    """Encrypts; `bound_to` names the row and column, and must be given again to read it."""
    header = HEADER.pack(VERSION, roots.current)
    nonce = os.urandom(NONCE_BYTES)
    key = roots.derive("sealing", roots.current)
    return header + nonce + AESGCM(key).encrypt(nonce, plaintext, header + bound_to.encode())


def sealed_with(blob: bytes) -> int:
    """The id of the root key that a blob needs."""
    return blob[1]


def unseal(roots: RootKeys, blob: bytes, bound_to: str) -> bytes:
    """Decrypts. Raises `UnsealError`."""
    header, nonce, sealed = blob[:2], blob[2 : 2 + NONCE_BYTES], blob[2 + NONCE_BYTES :]
    try:
        version, key_id = HEADER.unpack(header)
        if version != VERSION:
            raise UnsealError
        return AESGCM(roots.derive("sealing", key_id)).decrypt(nonce, sealed, header + bound_to.encode())
    except (struct.error, KeyError, ValueError, InvalidTag):
        raise UnsealError from None

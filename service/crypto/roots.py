"""The root keys of the environment, and what derives from them.

One root key serves every purpose through HKDF (RFC 5869) with the purpose as its label, so that operators keep one
secret and no derived key says anything about another. The id of the root key travels with everything it made, which
lets a new root key be added in front while the old one still reads.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from hashlib import sha256

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.setting_values import SettingsError

KEY_BYTES = 32
MAX_KEY_ID = 255
ASCII_END = 128


class RootKeys:
    """A ring of 256-bit keys; `current`, the first, is used for new material, all of them for what exists.

    `oldest`, the one of the lowest number, serves what lives so shortly that it needs no key id: it changes only when
    an operator drops a key.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._keys = dict(keys)
        self._derived: dict[tuple[str, int], bytes] = {}
        self.current = next(iter(self._keys))
        self.oldest = min(self._keys)

    @classmethod
    def parse(cls, text: str) -> "RootKeys":
        """Reads `2:<base64url>,1:<base64url>`. Raises `SettingsError` for a weak or unreadable key (RFC 8725 3.5)."""
        keys: dict[int, bytes] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            name, _, encoded = entry.partition(":")
            if not name.isdecimal() or int(name) > MAX_KEY_ID or int(name) in keys:
                raise SettingsError("VESTIBULE_KEYS: each key needs a number of its own from 0 to 255, as in 1:<key>")
            keys[int(name)] = _read_key(encoded)
        if not keys:
            raise SettingsError("VESTIBULE_KEYS is empty: run `vestibule keys generate` for a value")
        return cls(keys)

    def derive(self, purpose: str, key_id: int) -> bytes:
        """The 32-byte key for one purpose. Raises `KeyError` when no root key has this id (any more)."""
        found = self._derived.get((purpose, key_id))
        if found is None:
            kdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"vestibule {purpose}".encode())
            found = self._derived[purpose, key_id] = kdf.derive(self._keys[key_id])
        return found

    def mac(self, purpose: str, message: bytes, key_id: int) -> bytes:
        """HMAC-SHA-256 of `message` under the key of this purpose."""
        return hmac.new(self.derive(purpose, key_id), message, sha256).digest()

    def digest(self, purpose: str, text: str) -> str:
        """A keyed digest to store instead of a secret: `<key id>:<hex>`. Useless without the environment's key."""
        return f"{self.current}:{self.mac(purpose, text.encode(), self.current).hex()}"

    def is_stale(self, digest: str) -> bool:
        """Whether a digest was made with an older key than today's."""
        return digest.partition(":")[0] != str(self.current)

    def matches(self, purpose: str, text: str, digest: str) -> bool:
        """Whether `digest` was made of `text`, in constant time; false when its root key is gone."""
        key_id, _, expected = digest.partition(":")
        try:
            actual = self.mac(purpose, text.encode(), int(key_id)).hex()
        except (KeyError, ValueError):
            return False
        return hmac.compare_digest(actual, expected)


def _read_key(encoded: str) -> bytes:
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise SettingsError("VESTIBULE_KEYS: a key is not base64url") from None
    looks_typed = all(chr(byte).isprintable() and byte < ASCII_END for byte in key)
    if len(key) != KEY_BYTES or len(set(key)) < KEY_BYTES // 4 or looks_typed:
        raise SettingsError("VESTIBULE_KEYS: a key must be 32 random bytes, run `vestibule keys generate`")
    return key

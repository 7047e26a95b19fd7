"""Refresh tokens: deterministic for their generation, and holding no state.

`vrt_` + base64url(version · root key id · account · session · generation · MAC) + checksum. The MAC is HMAC-SHA-256
under a key of the environment over all of that and the session's salt, which lives in the stores: neither a stolen
database nor a stolen key alone makes a token. The same generation always gives the same bytes, so a retry can be
answered again without anything having been kept.
"""

import hmac
import struct
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from service.crypto import opaque
from service.crypto.roots import RootKeys

PREFIX = "vrt"
PURPOSE = "refresh token"
VERSION = 1
BODY = struct.Struct(">BB16s16sI")
MAC_BYTES = 32
MAX_LENGTH = 128
MOST_SALTS = 20_000
"""Some 3 MB in each worker."""


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A token taken apart; nothing in it is proved until `RefreshTokens.proves`. `session` is the public id."""

    key_id: int
    account: UUID
    secret_id: bytes
    generation: int
    mac: bytes
    session: bytes


class Salts:
    """The salts of the sessions that were used last, so that a refresh need not ask for one.

    They are true for good: the id of a session is a digest of its salt. Whether it lives is asked every time.
    """

    def __init__(self, most: int = MOST_SALTS) -> None:
        self._most = most
        self._known: OrderedDict[bytes, bytes] = OrderedDict()

    def find(self, session: bytes) -> bytes | None:
        """The salt of a session by its public id."""
        salt = self._known.get(session)
        if salt is not None:
            self._known.move_to_end(session)
        return salt

    def remember(self, session: bytes, salt: bytes) -> None:
        """Notes one; the one that was not used for longest makes room."""
        self._known[session] = salt
        if len(self._known) > self._most:
            self._known.popitem(last=False)


class RefreshTokens:
    """Makes and proves refresh tokens."""

    def __init__(self, roots: RootKeys) -> None:
        self._roots = roots

    def make(self, account: UUID, secret_id: bytes, generation: int, salt: bytes) -> str:
        """The token of one generation of one session, under the newest root key."""
        body = BODY.pack(VERSION, self._roots.current, account.bytes, secret_id, generation)
        return opaque.encode(PREFIX, body + self._roots.mac(PURPOSE, body + salt, self._roots.current))

    def read(self, token: str) -> RefreshToken | None:
        """The parts of something that has the shape of a refresh token under a key we (still) know."""
        raw = opaque.decode(PREFIX, token) if len(token) <= MAX_LENGTH else None
        if raw is None or len(raw) != BODY.size + MAC_BYTES:
            return None
        version, key_id, account, secret_id, generation = BODY.unpack(raw[: BODY.size])
        if version != VERSION or not self._knows(key_id):
            return None
        mac, session = raw[BODY.size :], public_id(secret_id)
        return RefreshToken(key_id, UUID(bytes=account), secret_id, generation, mac, session)

    def proves(self, token: RefreshToken, salt: bytes) -> bool:
        """Whether we made this token for the session with this salt; in constant time."""
        body = BODY.pack(VERSION, token.key_id, token.account.bytes, token.secret_id, token.generation)
        return hmac.compare_digest(self._roots.mac(PURPOSE, body + salt, token.key_id), token.mac)

    def _knows(self, key_id: int) -> bool:
        try:
            self._roots.derive(PURPOSE, key_id)
        except KeyError:
            return False
        return True


def secret_id_of(salt: bytes) -> bytes:
    """The id within the refresh tokens of a session: only who knows the salt, and that is the stores, can tell it."""
    return sha256(b"vestibule secret " + salt).digest()[:16]


def public_id(secret_id: bytes) -> bytes:
    """The id that access tokens, lists and logs carry: it gives no part of the refresh token away."""
    return sha256(b"vestibule session " + secret_id).digest()[:16]
